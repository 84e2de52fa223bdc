"""The desk: with real workers and fake runners in simulated time, and with takes made by hand."""

import asyncio
import struct
from typing import Any

import pytest

from tetherd.config.schema import Worker as Settings
from tetherd.errors import (
    DeadlineExceeded,
    ExecutionFailed,
    InvalidInput,
    QueueFull,
    RunnerLost,
    TooLarge,
    Unreachable,
)
from tetherd.policy.balance import LeastBusy, RoundRobin
from tetherd.ports import Context
from tetherd.roles.orchestrator import Limits, Orchestrator
from tetherd.testing import Bench, Cluster, FakeEngine, ManualClock, request, simulated
from tetherd.testing.bench import finished, numbers, settle
from tetherd.types import Digest, Tensor
from tetherd.wire.messages import Finished, Infer, Take

V = Digest("sha256:m-1")


def settings(**changes: Any) -> Settings:
    return Settings(**{"memory_limit": 1 << 30, "max_concurrency": 64, "spare": False} | changes)


# --- batches ---------------------------------------------------------------------------------------------------------


@simulated
async def test_what_waits_when_a_runner_offers_is_one_batch_and_each_gets_its_rows() -> None:
    bench = Bench()
    replies = [bench.infer(1), bench.infer(2, 3), bench.infer(4)]
    await settle()
    line = bench.connect()
    batch = await bench.take(line)
    assert numbers(batch.inputs) == (1, 2, 3, 4)
    bench.take(line, finished=finished(batch, infer_ns=5))
    answers = await asyncio.gather(*replies)
    assert [numbers(answer.outputs) for answer in answers] == [(1,), (2, 3), (4,)]
    assert {answer.batch_rows for answer in answers} == {4}


@simulated
async def test_a_lone_request_leaves_at_once() -> None:
    bench = Bench()
    offer = bench.take(bench.connect())
    await settle()
    before = bench.clock.monotonic()
    bench.infer(7)
    assert numbers((await offer).inputs) == (7,)
    assert bench.clock.monotonic() - before < 0.001


@simulated
async def test_a_batch_is_bounded_by_the_runner_by_the_limit_and_by_bytes() -> None:
    bench = Bench(Limits(max_batch=4, max_bytes=64 * 1024 + 24))
    for number in range(12):
        bench.infer(number)
    await settle()
    assert numbers((await bench.take(bench.connect(), "a", max_rows=2)).inputs) == (0, 1)
    assert numbers((await bench.take(bench.connect(), "b")).inputs) == (2, 3, 4)  # 24 bytes are three rows
    big = Bench(Limits(max_batch=4))
    for number in range(12):
        big.infer(number)
    await settle()
    assert numbers((await big.take(big.connect())).inputs) == (0, 1, 2, 3)


@simulated
async def test_a_delay_is_the_patience_of_an_idle_runner_and_no_more() -> None:
    bench = Bench(Limits(batch_delay=0.05))
    offer = bench.take(bench.connect())
    await settle()
    began = bench.clock.monotonic()
    bench.infer(1)
    await asyncio.sleep(0.02)
    bench.infer(2)
    assert numbers((await offer).inputs) == (1, 2)
    assert bench.clock.monotonic() - began == pytest.approx(0.05, abs=0.002)


@simulated
async def test_priorities_go_first_and_equals_in_order() -> None:
    bench = Bench(Limits(max_batch=1))
    for number, priority in enumerate([0, 3, 1, 2, 1]):
        bench.infer(number, priority=priority)
    await settle()
    order = [numbers((await bench.take(bench.connect(), f"r{index}")).inputs)[0] for index in range(5)]
    assert order == [2, 4, 0, 3, 1]


@simulated
async def test_unlike_requests_do_not_share_a_batch() -> None:
    bench = Bench()
    bench.infer(1)
    wide = Infer("r", "m", 1, V, [Tensor("x", "INT64", (1, 2), bytes(16))], 1)
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
    assert numbers(offer.result().inputs) == (4,)
    again = bench.take(other, "idle", finished=finished(offer.result()))
    await settle()
    bench.infer(5)  # the busy one's turn by now
    await settle()
    assert numbers(again.result().inputs) == (5,)


@simulated
async def test_a_strategy_chooses_among_idle_runners_while_there_are_any() -> None:
    class First:
        def decide(self, offers: Any) -> int:
            return 0

    bench = Bench(strategy=First)
    one, other = bench.connect(), bench.connect()
    bench.take(one, "busy")
    bench.infer(1)
    await settle()
    held = bench.take(one, "busy")
    offer = bench.take(other, "idle")
    await settle()
    bench.infer(2)
    await settle()
    assert not held.done()
    assert numbers(offer.result().inputs) == (2,)


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
    assert numbers(second.result().inputs) == (3, 4)


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
    assert numbers((await patient).outputs) == (2,)
    state = await bench.state()
    assert (state.stats[0].success.count, state.stats[0].fail.count) == (1, 1)


@simulated
async def test_a_request_nobody_waits_for_leaves_the_queue() -> None:
    bench = Bench()
    gone, stays = bench.infer(1), bench.infer(2)
    await settle()
    gone.cancel()
    await settle()
    assert (await bench.queue()).waiting == 1
    assert numbers((await bench.take(bench.connect())).inputs) == (2,)
    stays.cancel()


@simulated
async def test_an_execution_that_nobody_waits_for_is_ended_but_not_one_that_somebody_does() -> None:
    async with Cluster() as cluster:
        await cluster.infer(0)
        runner = cluster.runners()[0]
        runner.gate.clear()
        lone = asyncio.create_task(cluster.infer(1, 1))  # two rows: fewer that wait are not handed out beside it
        await settle()
        shared = [asyncio.create_task(cluster.infer(2)), asyncio.create_task(cluster.infer(3))]
        await settle()
        first, second = runner.seen[-2:]
        shared[0].cancel()
        lone.cancel()
        await asyncio.sleep(1)
        assert runner.cancelled == [first.id]
        runner.gate.set()
        assert numbers((await shared[1]).outputs) == (3,)
        assert second.id not in runner.cancelled


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
    assert numbers((await bench.take(one, "a")).inputs) == (1, 2)
    one.cut()
    first = await bench.take(other, "b")
    assert numbers(first.inputs) == (1,)  # alone: either might be what killed the runner
    second = bench.take(other, "b")
    bench.take(other, "b", finished=finished(first))
    bench.take(other, "b", finished=finished(await second))
    answers = await asyncio.gather(*replies)
    assert [(numbers(answer.outputs), answer.attempts) for answer in answers] == [((1,), 2), ((2,), 2)]


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
    assert numbers(batch.inputs) == (1,)
    bench.take(living, "b", finished=finished(batch))
    assert numbers((await reply).outputs) == (1,)


@simulated
async def test_the_end_of_one_slots_connection_is_the_end_of_its_runner() -> None:
    bench = Bench()
    slots = bench.connect(), bench.connect(), bench.connect()
    reply, later = bench.infer(1), bench.infer(2)
    await settle()
    first = await bench.take(slots[0], "a")
    assert numbers(first.inputs) == (1, 2)
    others = [bench.take(slot, "a") for slot in slots[1:]]
    await settle()
    slots[0].cut()
    assert [(await other).id for other in others] == [0, 0]  # nothing of what was taken back
    living = bench.connect()
    batch = await bench.take(living, "b")
    batch = await bench.take(living, "b", finished=finished(batch))
    bench.take(living, "b", finished=finished(batch))
    assert [(await answer).attempts for answer in (reply, later)] == [2, 2]


@simulated
async def test_what_the_other_slots_of_a_lost_runner_execute_is_taken_back_too() -> None:
    bench = Bench()
    one, other, living = bench.connect(), bench.connect(), bench.connect()
    replies = [bench.infer(1)]
    await settle()
    await bench.take(one, "a")
    replies.append(bench.infer(2))
    await settle()
    await bench.take(other, "a")
    other.cut()
    batch = await bench.take(living, "b")
    batch = await bench.take(living, "b", finished=finished(batch))
    bench.take(living, "b", finished=finished(batch))
    assert [numbers((await reply).outputs) for reply in replies] == [(1,), (2,)]


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
        sent = [1, 2, int.from_bytes(b"poison", "little"), 3, 4, 5]
        replies = await asyncio.gather(*(cluster.infer(number) for number in sent), return_exceptions=True)
        assert isinstance(replies.pop(2), RunnerLost)
        assert [numbers(reply.outputs) for reply in replies] == [(1,), (2,), (3,), (4,), (5,)]
        await asyncio.sleep(10)
        assert len(cluster.runners()) == 5  # two at first, and one for each that died


@simulated
async def test_suspected_work_is_executed_where_nothing_else_is_held() -> None:
    bench = Bench()
    line, other = bench.connect(), bench.connect()
    bench.infer(1)
    await settle()
    await bench.take(line, "lost")
    line.cut()
    first, second = bench.take(other, "r"), bench.take(other, "r")
    bench.infer(2)
    await settle()
    assert numbers(first.result().inputs) == (1,)
    assert not second.done()  # it would be held beside the suspect
    third = bench.take(other, "r", finished=finished(first.result()))
    await settle()
    assert numbers((second if second.done() else third).result().inputs) == (2,)


@simulated
async def test_suspected_work_waits_until_its_runner_holds_nothing() -> None:
    bench = Bench()
    line, other = bench.connect(), bench.connect()
    bench.infer(1)
    await settle()
    await bench.take(line, "lost")
    busy = bench.take(other, "r")
    bench.infer(2)
    await settle()
    line.cut()
    await settle()
    assert numbers(busy.result().inputs) == (2,)
    second = bench.take(other, "r")
    await settle()
    assert not second.done()
    bench.take(other, "r", finished=finished(busy.result()))
    await settle()
    assert numbers(second.result().inputs) == (1,)


@simulated
async def test_an_answer_after_the_lease_ran_out_is_ignored() -> None:
    bench = Bench(Limits(execution=2.0))
    reply = bench.infer(1)
    await settle()
    slow, quick = bench.connect(), bench.connect()
    late = await bench.take(slow, "slow")
    again = await bench.take(quick, "quick")
    assert numbers(again.inputs) == (1,)
    assert again.id != late.id
    wrong = Finished(late.id, [Tensor("y", "INT64", (1,), struct.pack("<q", 99))])
    bench.take(slow, "slow", finished=wrong)
    await settle()
    assert not reply.done()
    bench.take(quick, "quick", finished=finished(again))
    assert (numbers((await reply).outputs), (await reply).runner) == ((1,), "quick")


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
            taken = asyncio.ensure_future(routes[Take](Take("r", "w", "m", 1, V, 64), Context(moment + 60)))
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
        assert numbers((await cluster.infer(5)).outputs) == (5,)
        assert hung.stopped
        assert len(cluster.runners()) == 2


@simulated
async def test_a_taker_that_leaves_as_it_is_handed_a_batch_gives_it_back() -> None:
    bench = Bench()
    local = bench.orchestrator.routes()[Take]
    offer = asyncio.ensure_future(local(Take("r", "w", "m", 1, V, 64), Context(bench.clock.monotonic() + 60)))
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
    assert numbers((await reply).outputs) == (1,)


@simulated
async def test_an_offer_that_is_being_withdrawn_is_passed_over() -> None:
    bench = Bench()
    local = bench.orchestrator.routes()[Take](Take("r", "w", "m", 1, V, 64), Context(bench.clock.monotonic() + 60))
    offer = asyncio.ensure_future(local)
    await settle()
    reply = bench.infer(1)  # it runs before the offer hears of its end
    offer.cancel()
    await settle()
    assert not reply.done()
    batch = await bench.take(bench.connect())
    bench.take(bench.connect(), finished=finished(batch))
    assert numbers((await reply).outputs) == (1,)


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
        assert numbers(good.outputs) == (1,)
        assert numbers(fine.outputs) == (2,)
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
        assert [numbers(reply.outputs) for reply in await asyncio.gather(*tasks)] == [(1,), (2,), (3,)]


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
