from tetherd.policy.balance import RoundRobin
from tetherd.policy.queue import Job
from tetherd.ports import Context
from tetherd.roles.orchestrator.lane import Lane, Lease, Seat
from tetherd.testing import request
from tetherd.types import Digest
from tetherd.wire.messages import Take

V = Digest("sha256:m-1")


async def test_a_lane_knows_what_its_runners_hold() -> None:
    lane = Lane("m", 1, V, 8, RoundRobin())
    assert not lane.in_demand
    for identity, (runner, rows, solo) in enumerate([("a", 2, False), ("a", 3, True), ("b", 1, False)]):
        seat = Seat(lane, Take(runner, "w", "m", 1, V, 64), None, Context(9.0))
        job = Job(request(*range(rows)), 9.0, 0.0, None)
        job.solo = solo
        lane.lend(Lease(identity, seat, [job], 0.0, 9.0))
    assert lane.held == {"a": 5, "b": 1}
    assert lane.shunned() == {"a"}
    seat = Seat(lane, Take("a", "w", "m", 1, V, 64), None, Context(9.0))
    assert (seat.runner, seat.runner_busy, seat.worker_busy) == ("a", 5, 0)
    lane.parked.append(seat)
    lane.queue.offer(Job(request(1), 9.0, 0.0, None))
    state = lane.state()
    assert (state.waiting, state.leased, state.parked, state.limit) == (1, 6, 1, 8)
    assert lane.in_demand
    for lease in list(lane.leases.values()):
        lane.end(lease)
    assert (lane.held, lane.leases, lane.shunned()) == ({}, {}, set())
