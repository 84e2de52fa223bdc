"""The Tether daemon: a host's share of a peer-to-peer inference network."""

__version__ = "0.1.0"
