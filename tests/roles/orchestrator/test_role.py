"""The orchestrator with real workers and fake runners, in simulated time; and alone, with takes made by hand."""

import asyncio
import functools
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tetherd.config.schema import ModelSettings
from tetherd.config.schema import Worker as Settings
from tetherd.errors import (
    DeadlineExceeded,
    ExecutionFailed,
    InvalidInput,
    ModelLoadFailed,
    ModelUnloaded,
    QueueFull,
    RunnerLost,
    TooLarge,
    Unavailable,
    Unreachable,
)
from tetherd.policy.balance import LeastBusy, RoundRobin
from tetherd.ports import Context
from tetherd.roles.orchestrator import Limits, Orchestrator
from tetherd.testing import Cluster, Connection, FakeEngine, LoopClock, ManualClock, request, simulate
from tetherd.types import Tensor
from tetherd.wire.messages import (
    Batch,
    Ensure,
    Finished,
    GetFleet,
    Infer,
    Inferred,
    Loaded,
    NextCommands,
    Release,
    Report,
    Take,
)

V = "sha256:m-1"


def simulated(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        simulate(lambda: test(*args, **kwargs))  # type: ignore[arg-type, return-value]

    return run


def values(reply: Inferred) -> tuple[int, ...]:
    data = bytes(reply.outputs[0].data)
    return struct.unpack(f"<{len(data) // 8}q", data)


def rows(batch: Batch) -> tuple[int, ...]:
    data = bytes(batch.inputs[0].data)
    return struct.unpack(f"<{len(data) // 8}q", data)


def settings(**changes: Any) -> Settings:
    return Settings(**{"memory_limit": 1 << 30, "max_concurrency": 64, "spare": False} | changes)


class Bench:
    """An orchestrator whose runners are played by the test itself, take by take."""

    def __init__(self, limits: Limits | None = None, strategy: Any = RoundRobin) -> None:
        self.clock = LoopClock()
        self.orchestrator = Orchestrator(clock=self.clock, limits=limits or Limits(), strategy=strategy)
        self.sweep = asyncio.create_task(self.orchestrator.run(lambda: None))
        self.peers = 0

    def connect(self) -> Connection:
        self.peers += 1
        return Connection(self.orchestrator.routes(), self.peers, self.clock, self.orchestrator.lost)

    async def report(self, line: Connection, worker: str = "w", concurrency: int = 64, **changes: Any) -> None:
        runners = changes.pop("runners", [])
        await line.call(
            Report(worker, "node", 1000, changes.pop("used", 0), concurrency, runners, **changes),
            deadline=self.clock.monotonic() + 5,
        )

    def take(
        self,
        line: Connection,
        runner: str = "r",
        *,
        model: str = "m",
        worker: str = "w",
        max_rows: int = 64,
        **rest: Any,
    ) -> asyncio.Task[Batch]:
        offer = Take(runner, worker, model, 1, f"sha256:{model}-1", max_rows, **rest)  # type: ignore[arg-type]
        return asyncio.create_task(line.call(offer, deadline=self.clock.monotonic() + 60))

    def infer(self, *numbers: int, patience: float = 30.0, **rest: Any) -> asyncio.Task[Inferred]:
        handler = self.orchestrator.routes()[Infer]
        context = Context(self.clock.monotonic() + patience)
        return asyncio.create_task(handler(request(*numbers, **rest), context))  # type: ignore[arg-type]

    async def queue(self, model: str = "m") -> Any:
        state = await self.orchestrator.routes()[GetFleet](GetFleet(), Context(0.0))
        return next(one for one in state.queues if one.model == model)


def finished(batch: Batch, **rest: Any) -> Finished:
    return Finished(batch.id, [Tensor("y", one.datatype, one.shape, one.data) for one in batch.inputs], **rest)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


# --- batches ---------------------------------------------------------------------------------------------------------


@simulated
async def test_what_waits_when_a_runner_offers_is_one_batch_and_each_gets_its_rows() -> None:
    bench = Bench()
    replies = [bench.infer(1), bench.infer(2, 3), bench.infer(4)]
    await settle()
    line = bench.connect()
    batch = await bench.take(line)
    assert rows(batch) == (1, 2, 3, 4)
    bench.take(line, finished=finished(batch, infer_ns=5))
    answers = await asyncio.gather(*replies)
    assert [values(answer) for answer in answers] == [(1,), (2, 3), (4,)]
    assert {answer.batch_rows for answer in answers} == {4}


@simulated
async def test_a_lone_request_leaves_at_once() -> None:
    bench = Bench()
    offer = bench.take(bench.connect())
    await settle()
    before = bench.clock.monotonic()
    bench.infer(7)
    assert rows(await offer) == (7,)
    assert bench.clock.monotonic() - before < 0.001


@simulated
async def test_a_batch_is_bounded_by_the_runner_by_the_limit_and_by_bytes() -> None:
    bench = Bench(Limits(max_batch=4, max_bytes=64 * 1024 + 24))
    for number in range(12):
        bench.infer(number)
    await settle()
    assert rows(await bench.take(bench.connect(), "a", max_rows=2)) == (0, 1)
    assert rows(await bench.take(bench.connect(), "b")) == (2, 3, 4)  # 24 bytes are three rows
    big = Bench(Limits(max_batch=4))
    for number in range(12):
        big.infer(number)
    await settle()
    assert rows(await big.take(big.connect())) == (0, 1, 2, 3)


@simulated
async def test_a_delay_is_the_patience_of_an_idle_runner_and_no_more() -> None:
    bench = Bench(Limits(batch_delay=0.05))
    offer = bench.take(bench.connect())
    await settle()
    began = bench.clock.monotonic()
    bench.infer(1)
    await asyncio.sleep(0.02)
    bench.infer(2)
    assert rows(await offer) == (1, 2)
    assert bench.clock.monotonic() - began == pytest.approx(0.05, abs=0.002)


@simulated
async def test_priorities_go_first_and_equals_in_order() -> None:
    bench = Bench(Limits(max_batch=1))
    for number, priority in enumerate([0, 3, 1, 2, 1]):
        bench.infer(number, priority=priority)
    await settle()
    order = [rows(await bench.take(bench.connect(), f"r{index}"))[0] for index in range(5)]
    assert order == [2, 4, 0, 3, 1]


@simulated
async def test_unlike_requests_do_not_share_a_batch() -> None:
    bench = Bench()
    bench.infer(1)
    wide = Infer("r", "m", 1, V, [Tensor("x", "INT64", (1, 2), bytes(16))], 1)  # type: ignore[arg-type]
    wider = bench.orchestrator.routes()[Infer](wide, Context(bench.clock.monotonic() + 9))
    task = asyncio.ensure_future(wider)
    await settle()
    assert (await bench.take(bench.connect(), "a")).inputs[0].shape == (1,)
    assert (await bench.take(bench.connect(), "b")).inputs[0].shape == (1, 2)
    task.cancel()


@simulated
async def test_an_idle_runner_is_served_though_it_is_the_turn_of_a_busy_one() -> None:
    bench = Bench(strategy=RoundRobin)
    one, other = bench.connect(), bench.connect()
    bench.take(one, "busy")
    bench.infer(1, 2, 3)
    await settle()  # it executes three rows, and offers its other slot
    bench.take(one, "busy")
    offer = bench.take(other, "idle")
    await settle()
    bench.infer(4)
    await settle()
    assert offer.done()
    bench.take(other, "idle", finished=finished(offer.result()))
    idle_again = bench.take(other, "idle")
    await settle()
    bench.infer(5)  # the busy one's turn by now
    await settle()
    assert (await bench.queue()).waiting == 0
    assert rows(idle_again.result() if idle_again.done() else Batch(0, [request(5).inputs[0]])) == (5,)


@simulated
async def test_a_busy_runner_holds_a_second_batch_only_when_it_is_as_large() -> None:
    bench = Bench()
    line = bench.connect()
    first, second = bench.take(line), bench.take(line)
    await settle()
    bench.infer(1, 2)
    await settle()
    assert first.done()
    bench.infer(3)
    await settle()
    assert not second.done()
    bench.infer(4)
    await settle()
    assert rows(second.result()) == (3, 4)


@pytest.mark.parametrize("strategy", [RoundRobin, LeastBusy])
def test_runners_share_the_work(strategy: Any) -> None:
    @simulated
    async def scenario() -> None:
        async with Cluster(workers=2, strategy=strategy, settings=settings(runners=2)) as cluster:
            await cluster.infer(0)
            for number in range(40):
                await cluster.infer(number)
            counts = [len(runner.seen) for runner in cluster.runners()]
            assert len(counts) == 2
            if strategy is RoundRobin:
                assert max(counts) - min(counts) <= 2

    scenario()


# --- admission -------------------------------------------------------------------------------------------------------


@simulated
async def test_a_full_queue_refuses_with_a_time_to_come_back() -> None:
    bench = Bench(Limits(queue_depth=2))
    line = bench.connect()
    await bench.report(line)
    held = [bench.infer(1), bench.infer(2)]
    await settle()
    with pytest.raises(QueueFull) as refused:
        await bench.infer(3)
    assert refused.value.retry_after == 1.0
    assert refused.value.status == 429
    for task in held:
        task.cancel()
    await settle()
    assert (await bench.queue()).waiting == 0


@simulated
async def test_time_runs_out_in_the_queue() -> None:
    bench = Bench()
    await bench.report(bench.connect())
    with pytest.raises(DeadlineExceeded, match="while it waited"):
        await bench.infer(1, patience=1.5)
    assert (await bench.queue()).waiting == 0


@simulated
async def test_time_runs_out_while_it_is_executed_and_the_others_in_the_batch_are_served() -> None:
    bench = Bench()
    hasty, patient = bench.infer(1, patience=1.0), bench.infer(2)
    await settle()
    line = bench.connect()
    batch = await bench.take(line)
    began = bench.clock.monotonic()
    with pytest.raises(DeadlineExceeded, match="while it was executed"):
        await hasty
    assert bench.clock.monotonic() - began < 1.2
    bench.take(line, finished=finished(batch))
    assert values(await patient) == (2,)
    state = await bench.orchestrator.routes()[GetFleet](GetFleet(), Context(0.0))
    assert (state.stats[0].success.count, state.stats[0].fail.count) == (1, 1)


@simulated
async def test_a_request_nobody_waits_for_leaves_the_queue() -> None:
    bench = Bench()
    gone, stays = bench.infer(1), bench.infer(2)
    await settle()
    gone.cancel()
    await settle()
    assert (await bench.queue()).waiting == 1
    assert rows(await bench.take(bench.connect())) == (2,)
    stays.cancel()


@simulated
async def test_inputs_that_fit_no_message_are_refused() -> None:
    bench = Bench(Limits(max_bytes=64 * 1024 + 16))
    with pytest.raises(TooLarge, match=r"24 bytes"):
        await bench.infer(1, 2, 3)


@simulated
async def test_rows_that_the_inputs_do_not_have_are_refused() -> None:
    bench = Bench()
    message = request(1, 2)
    message.rows = 3
    with pytest.raises(InvalidInput, match="3 rows"):
        await bench.orchestrator.routes()[Infer](message, Context(bench.clock.monotonic() + 1))


# --- runners that are lost -------------------------------------------------------------------------------------------


@simulated
async def test_a_lost_runner_costs_its_callers_nothing_but_time() -> None:
    bench = Bench()
    replies = [bench.infer(1), bench.infer(2)]
    await settle()
    one, other = bench.connect(), bench.connect()
    assert rows(await bench.take(one, "a")) == (1, 2)
    one.cut()
    first = await bench.take(other, "b")
    assert rows(first) == (1,)  # alone: either might be what killed the runner
    second = bench.take(other, "b")
    bench.take(other, "b", finished=finished(first))
    bench.take(other, "b", finished=finished(await second))
    answers = await asyncio.gather(*replies)
    assert [(values(answer), answer.attempts) for answer in answers] == [((1,), 2), ((2,), 2)]


@simulated
async def test_the_other_slot_of_a_lost_runner_is_not_handed_its_work() -> None:
    bench = Bench()
    dying, living = bench.connect(), bench.connect()
    bench.take(dying, "a")
    parked = bench.take(dying, "a")
    reply = bench.infer(1)
    await settle()
    dying.cut()
    with pytest.raises(Unreachable):
        await parked
    assert (await bench.queue()).parked == 0
    batch = await bench.take(living, "b")
    assert rows(batch) == (1,)
    bench.take(living, "b", finished=finished(batch))
    assert values(await reply) == (1,)


@simulated
async def test_after_three_lost_runners_the_request_is_refused() -> None:
    bench = Bench()
    reply = bench.infer(1)
    await settle()
    for attempt in range(3):
        line = bench.connect()
        await bench.take(line, f"r{attempt}")
        line.cut()
    with pytest.raises(RunnerLost, match="3 runners"):
        await reply
    assert (await bench.queue()).leased == 0


@simulated
async def test_a_request_that_kills_its_runners_takes_no_other_with_it() -> None:
    def answer(inputs: list[Tensor]) -> list[Tensor]:
        for runner in cluster.runners():
            if any(batch.inputs is inputs for batch in runner.seen) and b"poison" in bytes(inputs[0].data):
                runner.crash()
        return [Tensor("y", "INT64", inputs[0].shape, inputs[0].data)]

    engine = FakeEngine(answer=answer)
    async with Cluster(engine=engine, settings=settings(runners=2)) as cluster:
        await cluster.infer(0)
        numbers = [1, 2, int.from_bytes(b"poison", "little"), 3, 4, 5]
        replies = await asyncio.gather(*(cluster.infer(number) for number in numbers), return_exceptions=True)
        assert isinstance(replies.pop(2), RunnerLost)
        assert [values(reply) for reply in replies] == [(1,), (2,), (3,), (4,), (5,)]  # type: ignore[arg-type]
        await asyncio.sleep(10)
        assert len(cluster.runners()) == 5  # two at first, and one for each that died


@simulated
async def test_an_answer_after_the_lease_ran_out_is_ignored() -> None:
    bench = Bench(Limits(execution=2.0))
    reply = bench.infer(1)
    await settle()
    slow, quick = bench.connect(), bench.connect()
    late = await bench.take(slow, "slow")
    again = await bench.take(quick, "quick")
    assert rows(again) == (1,)
    assert again.id != late.id
    wrong = Finished(late.id, [Tensor("y", "INT64", (1,), struct.pack("<q", 99))])
    bench.take(slow, "slow", finished=wrong)
    await settle()
    assert not reply.done()
    bench.take(quick, "quick", finished=finished(again))
    assert (values(await reply), (await reply).runner) == ((1,), "quick")


@simulated
async def test_a_batch_of_another_runner_cannot_be_answered() -> None:
    bench = Bench()
    reply = bench.infer(1)
    await settle()
    line = bench.connect()
    batch = await bench.take(line, "owner")
    bench.take(bench.connect(), "thief", finished=finished(batch))
    await settle()
    assert not reply.done()
    reply.cancel()


def test_a_restarted_orchestrator_does_not_take_old_batches_for_its_own() -> None:
    @simulated
    async def scenario() -> None:
        ids = []
        for moment in (1000.0, 1000.5):
            orchestrator = Orchestrator(clock=ManualClock(moment), limits=Limits(), strategy=RoundRobin)
            routes = orchestrator.routes()
            taken = asyncio.ensure_future(
                routes[Take](Take("r", "w", "m", 1, V, 64), Context(moment + 60))  # type: ignore[arg-type]
            )
            asked = asyncio.ensure_future(routes[Infer](request(1), Context(moment + 60)))
            ids.append((await taken).id)
            asked.cancel()
        assert ids[1] - ids[0] > 1_000_000

    scenario()


@simulated
async def test_a_runner_that_hangs_is_recycled() -> None:
    limits = Limits(execution=2.0)
    async with Cluster(limits=limits) as cluster:
        await cluster.infer(0)
        hung = cluster.runners()[0]
        hung.gate.clear()
        assert values(await cluster.infer(5)) == (5,)
        assert hung.stopped
        assert len(cluster.runners()) == 2


@simulated
async def test_a_taker_that_leaves_as_it_is_handed_a_batch_gives_it_back() -> None:
    bench = Bench()
    local = bench.orchestrator.routes()[Take]
    offer = asyncio.ensure_future(local(Take("r", "w", "m", 1, V, 64), Context(bench.clock.monotonic() + 60)))  # type: ignore[arg-type]
    await settle()
    reply = bench.infer(1)
    await asyncio.sleep(0)
    offer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await offer
    line = bench.connect()
    before = bench.clock.monotonic()
    batch = await bench.take(line, "other")
    assert bench.clock.monotonic() - before < 0.1
    bench.take(line, "other", finished=finished(batch))
    assert values(await reply) == (1,)


# --- failures of the engine ------------------------------------------------------------------------------------------


@simulated
async def test_a_batch_that_fails_is_tried_request_by_request() -> None:
    def answer(inputs: list[Tensor]) -> list[Tensor]:
        if 13 in struct.unpack(f"<{len(inputs[0].data) // 8}q", inputs[0].data):
            raise ExecutionFailed("the model failed on this input: 13")
        return [Tensor("y", "INT64", inputs[0].shape, inputs[0].data)]

    async with Cluster(engine=FakeEngine(answer=answer)) as cluster:
        await cluster.infer(0)
        runner = cluster.runners()[0]
        runner.gate.clear()
        tasks = [asyncio.create_task(cluster.infer(number)) for number in (1, 13, 2)]
        await asyncio.sleep(0.01)
        runner.gate.set()
        good, bad, fine = await asyncio.gather(*tasks, return_exceptions=True)
        assert values(good) == (1,)  # type: ignore[arg-type]
        assert values(fine) == (2,)  # type: ignore[arg-type]
        assert isinstance(bad, ExecutionFailed)
        assert len(cluster.runners()) == 1


@simulated
async def test_outputs_that_are_not_rows_are_asked_for_one_by_one() -> None:
    def total(inputs: list[Tensor]) -> list[Tensor]:
        numbers = struct.unpack(f"<{len(inputs[0].data) // 8}q", inputs[0].data)
        return [Tensor("y", "INT64", (1,), struct.pack("<q", sum(numbers)))]

    async with Cluster(engine=FakeEngine(answer=total)) as cluster:
        await cluster.infer(0)
        runner = cluster.runners()[0]
        runner.gate.clear()
        tasks = [asyncio.create_task(cluster.infer(number)) for number in (1, 2, 3)]
        await asyncio.sleep(0.01)
        runner.gate.set()
        assert [values(reply) for reply in await asyncio.gather(*tasks)] == [(1,), (2,), (3,)]


# --- concurrency -----------------------------------------------------------------------------------------------------


@simulated
async def test_a_worker_executes_no_more_than_it_may_and_then_what_waits_longest() -> None:
    bench = Bench()
    line = bench.connect()
    await bench.report(line, concurrency=1)
    offers = {model: bench.take(line, model, model=model) for model in "abc"}
    await settle()
    for model in "abc":
        bench.infer(1, model=model)
        await asyncio.sleep(0.01)
    assert [model for model in "abc" if offers[model].done()] == ["a"]
    bench.infer(2, model="a")
    await asyncio.sleep(0.01)
    order = []
    current = "a"
    for _ in range(3):
        batch = offers[current].result()
        offers[current] = bench.take(line, current, model=current, finished=finished(batch))
        await settle()
        current = next(model for model in "abc" if offers[model].done())
        order.append(current)
    assert order == ["b", "c", "a"]


@simulated
async def test_the_place_of_a_lost_runner_goes_to_other_models() -> None:
    bench = Bench()
    line, doomed = bench.connect(), bench.connect()
    await bench.report(line, concurrency=1)
    bench.take(doomed, "a", model="a")
    bench.infer(1, model="a")
    await settle()
    offer = bench.take(line, "b", model="b")
    bench.infer(2, model="b")
    await settle()
    assert not offer.done()
    doomed.cut()
    await settle()
    assert offer.done()


# --- workers ---------------------------------------------------------------------------------------------------------


@simulated
async def test_without_a_worker_a_request_waits_three_seconds_and_the_next_ones_do_not() -> None:
    bench = Bench()
    began = bench.clock.monotonic()
    with pytest.raises(Unavailable, match="no worker"):
        await bench.infer(1)
    assert 3.0 <= bench.clock.monotonic() - began < 3.5
    began = bench.clock.monotonic()
    with pytest.raises(Unavailable, match="no worker"):
        await bench.infer(2)
    assert bench.clock.monotonic() - began < 0.2


@simulated
async def test_a_worker_that_comes_in_time_serves_what_waits() -> None:
    async with Cluster(workers=0) as cluster:
        reply = asyncio.create_task(cluster.infer(1))
        await asyncio.sleep(2.0)
        cluster.add_worker()
        assert values(await reply) == (1,)


@simulated
async def test_a_worker_that_comes_too_late_loads_nothing_for_it() -> None:
    async with Cluster(workers=0) as cluster:
        with pytest.raises(Unavailable):
            await cluster.infer(1)
        cluster.add_worker()
        await asyncio.sleep(5)
        assert not cluster.runners()


@simulated
async def test_a_silent_worker_is_buried_and_its_runners_offer_again() -> None:
    bench = Bench()
    line = bench.connect()
    await bench.report(line)
    offer = bench.take(line)
    await asyncio.sleep(6.5)
    assert (await offer).id == 0
    state = await bench.orchestrator.routes()[GetFleet](GetFleet(), Context(0.0))
    assert state.workers == []


@simulated
async def test_the_work_of_a_silent_worker_is_done_by_another() -> None:
    bench = Bench()
    silent, other = bench.connect(), bench.connect()
    await bench.report(silent, "silent")
    reply = bench.infer(1)
    await bench.take(silent, worker="silent")
    began = bench.clock.monotonic()
    batch = await bench.take(other, "b", worker="other")
    assert bench.clock.monotonic() - began < 7
    bench.take(other, "b", worker="other", finished=finished(batch))
    assert values(await reply) == (1,)


@simulated
async def test_a_parked_take_is_answered_with_nothing_before_its_time_is_up() -> None:
    bench = Bench()
    began = bench.clock.monotonic()
    assert (await bench.take(bench.connect())).id == 0
    assert bench.clock.monotonic() - began < 60


@simulated
async def test_commands_are_for_workers_that_reported() -> None:
    bench = Bench()
    with pytest.raises(Unavailable, match="report first"):
        await bench.connect().call(NextCommands("w"), deadline=bench.clock.monotonic() + 5)


# --- loading ---------------------------------------------------------------------------------------------------------


@simulated
async def test_a_failed_load_is_told_to_who_waits_and_tried_again_after_ten_seconds() -> None:
    async with Cluster() as cluster:
        cluster.launchers[0].fates.append("fail")
        with pytest.raises(ModelLoadFailed, match="the graph makes no sense"):
            await cluster.infer(1)
        with pytest.raises(ModelLoadFailed) as refused:
            await cluster.infer(1)
        assert refused.value.retry_after
        assert len(cluster.launchers[0].runners) == 1
        await asyncio.sleep(10.5)
        assert values(await cluster.infer(2)) == (2,)


@simulated
async def test_ensure_loads_pins_and_answers_when_it_is_ready() -> None:
    async with Cluster() as cluster:
        await cluster.call(Ensure("m", 1, V))  # type: ignore[arg-type]
        assert (await cluster.fleet()).workers[0].runners[0].state == "READY"
        assert [group.pinned for group in cluster.workers[0]._groups.values()] == [True]


@simulated
async def test_ensure_pins_what_was_loaded_by_a_request() -> None:
    async with Cluster() as cluster:
        await cluster.infer(1)
        await cluster.call(Ensure("m", 1, V))  # type: ignore[arg-type]
        await asyncio.sleep(0.1)
        assert [group.pinned for group in cluster.workers[0]._groups.values()] == [True]
        assert len(cluster.runners()) == 1


@simulated
async def test_ensure_tries_what_failed_again_and_hears_of_this_try_alone() -> None:
    async with Cluster() as cluster:
        cluster.launchers[0].fates.append("fail")
        with pytest.raises(ModelLoadFailed):
            await cluster.call(Ensure("m", 1, V))  # type: ignore[arg-type]
        await cluster.call(Ensure("m", 1, V))  # type: ignore[arg-type]
        assert len(cluster.runners()) == 2


@simulated
async def test_an_old_report_of_failure_does_not_end_a_new_try() -> None:
    bench = Bench()
    line = bench.connect()
    old = Loaded("w.1", "m", 1, V, "FAILED", "old")  # type: ignore[arg-type]
    await bench.report(line, runners=[old])
    ensuring = asyncio.ensure_future(
        bench.orchestrator.routes()[Ensure](Ensure("m", 1, V), Context(bench.clock.monotonic() + 20))  # type: ignore[arg-type]
    )
    await settle()
    await bench.report(line, runners=[old])
    assert not ensuring.done()
    commands = await line.call(NextCommands("w"), deadline=bench.clock.monotonic() + 5)
    assert [load.fresh for load in commands.load] == [True]
    await bench.report(line, runners=[old])
    assert not ensuring.done()
    asked = asyncio.ensure_future(line.call(NextCommands("w"), deadline=bench.clock.monotonic() + 5))
    await settle()
    await bench.report(line, runners=[Loaded("w.2", "m", 1, V, "FAILED", "new")])  # type: ignore[arg-type]
    with pytest.raises(ModelLoadFailed, match="new"):
        await ensuring
    asked.cancel()


@simulated
async def test_ensure_without_a_worker_says_so_at_once() -> None:
    async with Cluster(workers=0) as cluster:
        with pytest.raises(Unavailable, match="no worker"):
            await cluster.call(Ensure("m", 1, V))  # type: ignore[arg-type]


@simulated
async def test_ensure_goes_to_another_worker_when_the_first_is_lost() -> None:
    async with Cluster(workers=2) as cluster:
        for launcher in cluster.launchers:
            launcher.fates.append("hang")
        ensuring = asyncio.create_task(cluster.call(Ensure("m", 1, V)))  # type: ignore[arg-type]
        await asyncio.sleep(0.1)
        number = next(index for index, one in enumerate(cluster.launchers) if one.runners)
        other = cluster.launchers[1 - number]
        other.fates.clear()
        cluster.tasks[number].cancel()
        cluster.connections[number].cut()
        await ensuring
        assert len(other.runners) == 1


@simulated
async def test_ensure_that_takes_too_long_says_so() -> None:
    async with Cluster() as cluster:
        cluster.launchers[0].fates.append("hang")
        with pytest.raises(DeadlineExceeded, match="still loading"):
            await cluster.call(Ensure("m", 1, V), patience=2.0)  # type: ignore[arg-type]


@simulated
async def test_release_unloads_and_refuses_until_ensure() -> None:
    async with Cluster() as cluster:
        await cluster.infer(1)
        await cluster.call(Release("m"))
        state = await cluster.fleet()
        assert (state.unloaded, state.workers[0].runners) == (["m"], [])
        with pytest.raises(ModelUnloaded, match="was unloaded"):
            await cluster.infer(2)
        await cluster.call(Ensure("m", 1, V))  # type: ignore[arg-type]
        assert values(await cluster.infer(3)) == (3,)


@simulated
async def test_release_without_refusal_lets_the_next_request_load_again() -> None:
    async with Cluster() as cluster:
        await cluster.infer(1)
        await cluster.call(Release("m", 1, refuse=False))
        assert values(await cluster.infer(2)) == (2,)
        assert len(cluster.runners()) == 2


@simulated
async def test_release_of_one_version_leaves_the_others() -> None:
    async with Cluster() as cluster:
        await cluster.call(request(1))
        await cluster.call(request(1, number=2))
        await cluster.call(Release("m", 2, refuse=False))
        assert [one.number for one in (await cluster.fleet()).workers[0].runners] == [1]


@simulated
async def test_release_does_not_load_again_for_work_that_it_took_away() -> None:
    async with Cluster() as cluster:
        await cluster.infer(0)
        cluster.runners()[0].gate.clear()
        held = asyncio.create_task(cluster.infer(1))
        await asyncio.sleep(0.01)
        await cluster.call(Release("m"))
        with pytest.raises(ModelUnloaded):
            await held
        await asyncio.sleep(5)
        assert len(cluster.runners()) == 1


@simulated
async def test_isolated_models_are_hosted_as_configured() -> None:
    own = settings(models={"m": ModelSettings(isolation="thread", runners=2)})
    async with Cluster(settings=own) as cluster:
        await cluster.infer(1)
        await asyncio.sleep(0.1)
        runners = (await cluster.fleet()).workers[0].runners
        assert [(one.isolation, one.state) for one in runners] == [("thread", "READY")] * 2


# --- statistics ------------------------------------------------------------------------------------------------------


@simulated
async def test_statistics_add_up() -> None:
    bench = Bench()
    line = bench.connect()
    for numbers in ([1], [2, 3], [4]):
        bench.infer(*numbers)
    await settle()
    batch = await bench.take(line)
    bench.take(line, finished=finished(batch, input_ns=1, infer_ns=10, output_ns=2))
    await settle()
    bench.infer(5)
    await settle()
    state = await bench.orchestrator.routes()[GetFleet](GetFleet(), Context(0.0))
    stats = state.stats[0]
    assert (stats.inference_count, stats.execution_count) == (4, 1)
    assert (stats.success.count, stats.fail.count, stats.queue.count) == (3, 0, 3)
    assert (stats.infer.count, stats.infer.ns) == (3, 30)
    assert [(one.rows, one.infer.count, one.infer.ns) for one in stats.batches] == [(4, 1, 10)]
    assert stats.last_inference_ms > 0


@simulated
async def test_a_thousand_callers_come_and_go_and_nothing_is_left_behind() -> None:
    async with Cluster(workers=2, settings=settings(runners=2)) as cluster:
        await cluster.infer(0)
        tasks = [asyncio.create_task(cluster.infer(number)) for number in range(1000)]
        await asyncio.sleep(0)
        for task in tasks[::7]:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert not [one for one in done if isinstance(one, Exception)]
        state = await cluster.fleet()
        assert [(one.waiting, one.leased) for one in state.queues] == [(0, 0)]
        assert [worker.busy for worker in state.workers] == [0, 0]
