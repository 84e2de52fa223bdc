"""The composition root: from settings to running roles. The only package that names concrete classes of every layer."""

from tetherd.daemon.life import serve

__all__ = ["serve"]
