"""The orchestrator's answers to work that it cannot have done, in words for whoever asked."""

from tetherd.errors import DeadlineExceeded, ModelLoadFailed, ModelUnloaded, PermissionDenied, Unavailable
from tetherd.policy.queue import Job
from tetherd.roles.orchestrator.lane import Lane
from tetherd.types import Seconds


def late(job: Job) -> DeadlineExceeded:
    """Return the error for a request whose time ran out."""
    waited = "while it waited" if not job.attempts else "while it was executed"
    return DeadlineExceeded(f"the request's time ran out {waited}", fix="allow more time, or add workers")


def unloaded(model: str) -> ModelUnloaded:
    """Return the error for a model that takes no work."""
    return ModelUnloaded(f"model '{model}' was unloaded", fix=f"tetherctl models load {model}")


def load_failed(lane: Lane, wait: Seconds) -> ModelLoadFailed:
    """Return the error for a version that could not be loaded; it is tried again after ``wait`` seconds."""
    return ModelLoadFailed(
        f"failed to load '{lane.model}', version {lane.number}: {lane.failure}",
        fix=f"see tetherctl models show {lane.model}",
        retry_after=round(max(wait, 0.0), 1),
    )


def no_worker(model: str) -> Unavailable:
    """Return the error for work that no worker is there for."""
    return Unavailable(
        f"no worker is available to serve '{model}'", fix="start one: tetherd run --role worker", retry_after=1.0
    )


def not_yours(worker: str) -> PermissionDenied:
    """Return the error for a node that speaks for a worker of another one."""
    return PermissionDenied(f"worker '{worker[:64]}' is on another node", fix="restart the worker: it takes a new name")
