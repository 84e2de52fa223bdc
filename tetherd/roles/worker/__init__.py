"""The worker: supervises one runner per loaded copy of a model version."""

from tetherd.roles.worker.role import Place, Worker

__all__ = ["Place", "Worker"]
