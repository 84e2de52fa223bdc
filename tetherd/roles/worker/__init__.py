"""The worker: supervises one runner per loaded copy of a model version."""

from tetherd.roles.worker.role import Worker

__all__ = ["Worker"]
