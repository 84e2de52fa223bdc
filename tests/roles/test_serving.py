import asyncio
import threading
from collections.abc import Callable

import pytest

from tetherd.errors import InvalidInput, QueueFull, TooLarge, Unreachable
from tetherd.ports import Context
from tetherd.roles.serving import SLOTS, Inline, Slots, Turns, execute, take
from tetherd.testing import FakeEngine, LoopClock, simulate
from tetherd.types import Digest, Tensor
from tetherd.wire.assignments import Assignment, Site
from tetherd.wire.messages import Batch, Finished, Request, Take

ASSIGNMENT = Assignment("r", "w", "m", 1, Digest("sha256:0"), (Site("o"),), "c", "d", 1, 0, 0)
X = Tensor("x", "INT64", (1,), bytes(8))


def failing(error: Exception) -> FakeEngine:
    def answer(_: list[Tensor]) -> list[Tensor]:
        raise error

    return FakeEngine(answer=answer)


def test_an_execution_has_an_outcome_whatever_happens(caplog: pytest.LogCaptureFixture) -> None:
    assert execute(FakeEngine(ns=5), Batch(1, [X])) == Finished(
        1, [Tensor("y", "INT64", (1,), bytes(8))], None, 0, 5, 0
    )
    refused = execute(failing(InvalidInput("no", fix="other")), Batch(2, [X])).failure
    assert refused is not None
    assert (refused.code, refused.message, refused.fix) == ("INVALID_INPUT", "no", "other")
    bug = execute(failing(KeyError("/secret/path")), Batch(3, [X], ["req-1"])).failure
    assert bug is not None
    assert (bug.code, "secret" in bug.message) == ("EXECUTION_FAILED", False)
    assert "/secret/path" in caplog.text


class Orchestrator:
    """Answers the takes of one slot from a script; a TetherError in it is raised."""

    def __init__(self, slots: Callable[[], Slots], *script: Batch | Exception) -> None:
        self.script = list(script)
        self.takes: list[Take] = []
        self.holding: list[int] = []
        self.slots = slots

    def exchange(self, offer: Take, sent: Callable[[], None]) -> Batch:
        self.takes.append(offer)
        if offer.last and not self.script:
            return Batch(0)
        if not self.script:
            self.slots().stop()
            sent()
            self.holding.append(self.slots().holding)
            return Batch(0)
        answer = self.script.pop(0)
        if isinstance(answer, Exception):
            raise answer
        sent()
        self.holding.append(self.slots().holding)
        return answer


def serve(*script: Batch | Exception, engine: FakeEngine | None = None) -> tuple[Orchestrator, Slots, list[float]]:
    pauses: list[float] = []
    slots = Slots(ASSIGNMENT, engine or FakeEngine(), pauses.append)
    orchestrator = Orchestrator(lambda: slots, *script)
    slots.serve(orchestrator.exchange)
    return orchestrator, slots, pauses


def test_a_slot_takes_executes_and_brings_the_result_with_its_next_take() -> None:
    orchestrator, slots, _ = serve(Batch(1, [X]), Batch(0), Batch(2, [X]))
    assert [offer.finished and offer.finished.batch for offer in orchestrator.takes] == [None, 1, None, 2]
    assert orchestrator.holding == [0, 0, 0, 0]  # what is sent is delivered, though the call goes on
    assert (slots.executed, slots.holding) == (2, 0)


def test_a_slot_that_cannot_reach_the_orchestrator_tries_again() -> None:
    orchestrator, slots, pauses = serve(Unreachable("gone"), Unreachable("gone"), Batch(1, [X]))
    assert len(pauses) == 2
    assert orchestrator.takes[-1].finished is not None
    assert slots.holding == 0


def test_outputs_that_cannot_be_delivered_become_their_reason() -> None:
    orchestrator, slots, _ = serve(Batch(1, [X]), TooLarge("9 GB"), Batch(0))
    reason = orchestrator.takes[2].finished
    assert reason is not None
    assert reason.failure is not None
    assert (reason.batch, reason.failure.code) == (1, "TOO_LARGE")
    assert slots.holding == 0


def test_a_result_lost_with_its_connection_is_brought_again() -> None:
    orchestrator, slots, _ = serve(Batch(1, [X]), Unreachable("gone"), Unreachable("gone"), Batch(0))
    told = [offer.finished for offer in orchestrator.takes]
    assert [bool(one and one.outputs) for one in told] == [False, True, True, True, False]
    assert orchestrator.takes[2].held == [1]
    assert slots.holding == 0


def test_a_result_lost_with_its_connection_is_not_offered_for_ever() -> None:
    orchestrator, slots, _ = serve(Batch(1, [X]), *[Unreachable("gone")] * 20, Batch(0))
    assert [bool(offer.finished) for offer in orchestrator.takes] == [False] + [True] * 10 + [False] * 12
    assert slots.holding == 0


def test_last_words_are_tried_twice() -> None:
    slots: Slots

    def answer(inputs: list[Tensor]) -> list[Tensor]:
        slots.stop()
        return inputs

    slots = Slots(ASSIGNMENT, FakeEngine(answer=answer), lambda _: None)
    orchestrator = Orchestrator(lambda: slots, Batch(1, [X]), Unreachable("gone"), Unreachable("gone"))
    slots.serve(orchestrator.exchange)
    assert [(offer.last, bool(offer.finished)) for offer in orchestrator.takes] == [(False, False)] + [(True, True)] * 2
    assert slots.holding == 0


def test_what_executes_when_it_is_told_to_stop_is_delivered() -> None:
    slots: Slots

    def answer(inputs: list[Tensor]) -> list[Tensor]:
        slots.stop()
        return inputs

    slots = Slots(ASSIGNMENT, FakeEngine(answer=answer), lambda _: None)
    orchestrator = Orchestrator(lambda: slots, Batch(1, [X]))
    slots.serve(orchestrator.exchange)
    final = orchestrator.takes[-1]
    assert final.last
    assert final.finished is not None
    assert final.finished.batch == 1


def test_two_slots_execute_one_after_the_other() -> None:
    inside = threading.Semaphore(1)

    def answer(inputs: list[Tensor]) -> list[Tensor]:
        assert inside.acquire(blocking=False)
        inside.release()
        return inputs

    slots = Slots(ASSIGNMENT, FakeEngine(answer=answer), lambda _: None)
    desks = [
        Orchestrator(lambda: slots, *(Batch(1 + index * 100 + one, [X]) for index in range(20))) for one in range(2)
    ]
    threads = [threading.Thread(target=slots.serve, args=(desk.exchange,)) for desk in desks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    finished = [offer.finished for desk in desks for offer in desk.takes if offer.finished]
    assert not [one for one in finished if one.failure]


class Desk:
    """Hands out batches to inline slots, and notes what comes back."""

    def __init__(self) -> None:
        self.work: asyncio.Queue[Batch | Exception] = asyncio.Queue()
        self.finished: list[Finished] = []
        self.takes = 0

    async def call(self, request: Request[object], *, deadline: float, request_id: str = "") -> Batch:
        assert isinstance(request, Take)
        self.takes += 1
        if request.finished:
            self.finished.append(request.finished)
        if request.last:
            return Batch(0)
        answer = await self.work.get()
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_inline_slots_serve_and_tell_why_they_could_not_deliver() -> None:
    async def main() -> None:
        desk = Desk()
        inline = Inline(ASSIGNMENT, FakeEngine(), LoopClock())
        task = asyncio.create_task(inline.serve(desk))  # type: ignore[arg-type]
        for answer in (Batch(1, [X]), TooLarge("9 GB"), QueueFull("x"), Batch(0), Batch(2, [X])):
            desk.work.put_nowait(answer)
        await asyncio.sleep(5)
        assert [(one.batch, one.failure.code if one.failure else "") for one in desk.finished] == [
            (1, ""),
            (1, "TOO_LARGE"),
            (2, ""),
        ]
        assert inline.executed == 2
        task.cancel()

    simulate(main)


def test_inline_slots_leave_with_nothing_undelivered() -> None:
    async def main() -> None:
        desk = Desk()
        gate = asyncio.Event()
        inline = Inline(ASSIGNMENT, FakeEngine(), LoopClock())
        execute_now = inline._execute

        async def slowly(batch: Batch) -> Finished:
            await gate.wait()
            return await execute_now(batch)

        inline._execute = slowly  # type: ignore[method-assign]
        tasks = [asyncio.create_task(inline.serve(desk)) for _ in range(SLOTS)]  # type: ignore[arg-type]
        desk.work.put_nowait(Batch(1, [X]))
        await asyncio.sleep(0.1)
        inline.leave()
        await asyncio.sleep(0.1)
        assert [task.done() for task in tasks].count(True) == 1
        gate.set()
        await asyncio.wait(tasks)
        assert [one.batch for one in desk.finished] == [1]

    simulate(main)


def test_a_take_says_who_offers() -> None:
    offer = take(ASSIGNMENT, None, 5, last=True, held={7})
    assert (offer.runner, offer.worker, offer.model, offer.max_rows, offer.last) == ("r", "w", "m", 4096, True)
    assert (offer.held, offer.slot) == ([7], 5)
    assert Context(1.0).peer is None


def test_what_nobody_waits_for_is_not_begun() -> None:
    engine = FakeEngine()
    turns = Turns(engine)
    turns.held |= {1, 2}
    turns.give_up(2, 0.0)
    assert turns.take(Batch(1, [X])).failure is None
    refused = turns.take(Batch(2, [X])).failure
    assert refused is not None
    assert refused.code == "CANCELLED"
    assert len(engine.executed) == 1
    turns.release(Finished(2))
    turns.give_up(3, 0.0)  # not held: it was delivered already
    turns.held.add(3)
    assert turns.take(Batch(3, [X])).failure is None
    assert not engine.ended.is_set()


def test_what_nobody_waits_for_any_more_is_ended() -> None:
    begun = threading.Event()

    def answer(inputs: list[Tensor]) -> list[Tensor]:
        begun.set()
        assert engine.ended.wait(5)
        return inputs

    engine = FakeEngine(answer=answer)
    turns = Turns(engine)
    turns.held.add(7)
    executing = threading.Thread(target=turns.take, args=(Batch(7, [X]),))
    executing.start()
    assert begun.wait(5)
    turns.give_up(7, 0.0)
    executing.join(5)
    assert not executing.is_alive()


def test_inline_slots_serve_several_orchestrators_in_turns() -> None:
    async def main() -> None:
        desks = [Desk(), Desk()]
        inline = Inline(ASSIGNMENT, FakeEngine(), LoopClock())
        tasks = [asyncio.create_task(inline.serve(desk)) for desk in desks]  # type: ignore[arg-type]
        for at, desk in enumerate(desks):
            desk.work.put_nowait(Batch(1 + at, [X]))
        await asyncio.sleep(1)
        assert [[one.batch for one in desk.finished] for desk in desks] == [[1], [2]]
        desks[0].work.put_nowait(Unreachable("killed"))
        desks[1].work.put_nowait(Batch(3, [X]))
        await asyncio.sleep(1)
        assert [one.batch for one in desks[1].finished] == [2, 3]
        for task in tasks:
            task.cancel()

    simulate(main)
