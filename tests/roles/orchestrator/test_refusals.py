from tetherd.policy.balance import RoundRobin
from tetherd.policy.queue import Job
from tetherd.roles.orchestrator import refusals
from tetherd.roles.orchestrator.lane import Lane
from tetherd.testing import request
from tetherd.types import Digest


def test_every_refusal_says_what_why_and_what_to_do() -> None:
    job = Job(request(1), 1.0, 0.0, None)
    assert refusals.late(job).message == "the request's time ran out while it waited"
    job.attempts = 1
    assert refusals.late(job).message == "the request's time ran out while it was executed"
    lane = Lane("m", 7, Digest("sha256:0"), 1, RoundRobin())
    lane.failure = "no such operator"
    failed = refusals.load_failed(lane, 3.21)
    assert (failed.message, failed.retry_after) == ("failed to load 'm', version 7: no such operator", 3.2)
    assert refusals.load_failed(lane, -1).retry_after == 0
    for error in (refusals.late(job), failed, refusals.unloaded("m"), refusals.no_worker("m")):
        assert error.message
        assert error.fix
