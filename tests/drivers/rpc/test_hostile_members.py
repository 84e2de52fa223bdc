"""What a node of the network that is hostile can do to another: nothing that lasts.

66  an SP header, or a part, and then nothing: ended within 10 s
        test_who_says_nothing_is_ended
67  a message of no length: that connection ends
        test_a_message_without_room_for_its_number_ends_that_connection_alone
68  one of the largest size: taken
        test_a_message_of_the_largest_size_is_taken
69  one byte more: that connection ends
        test_an_impossible_length_ends_that_connection_alone
70  2^40: that connection ends
        test_an_impossible_length_ends_that_connection_alone
71  2^64 - 1: that connection ends
        test_an_impossible_length_ends_that_connection_alone
72  MessagePack of another shape: BAD_FRAME
        test_what_cannot_be_understood_is_refused
73  nested a thousand times: BAD_FRAME
        test_what_cannot_be_understood_is_refused
74  a map of a million keys: BAD_FRAME
        test_what_cannot_be_understood_is_refused
75  extension types: BAD_FRAME
        test_what_cannot_be_understood_is_refused
76  trailing bytes: BAD_FRAME
        test_what_cannot_be_understood_is_refused
77  numbers that are none: BAD_FRAME
        test_what_cannot_be_understood_is_refused
78  frames cut anywhere: 64, then the end
        test_malformed_frames_are_counted_and_then_the_connection_ends
79  another method or version: UNIMPLEMENTED, kept
        test_what_nobody_answers_is_said_so_and_the_connection_kept
80  answers nobody asked for, a second time or late: dropped
        test_answers_that_nobody_asked_for_are_dropped
81  speaking for another's request: nothing
        test_nobody_ends_what_another_asked_for
82  a request said twice: done once
        test_what_is_said_twice_is_done_once
83  a method of another role: refused, and audited
        tests/drivers/rpc/test_door.py::test_a_method_is_for_the_roles_it_names
84  another node's id: refused; 64, the end
        test_who_claims_what_is_anothers_is_sent_away
85  100,000 messages, a hundred at once: each is answered or refused, others are answered within 2 s
        test_a_hundred_thousand_messages_hold_up_nobody
86  reading nothing: dropped in the end
        test_who_reads_nothing_is_dropped_in_the_end
87  wrong bytes of a blob: another source
        tests/drivers/models/test_fetch.py::test_a_source_that_breaks_its_word_costs_nothing_but_itself
88  a byte a second: another source
        tests/drivers/models/test_fetch.py::test_a_source_that_breaks_its_word_costs_nothing_but_itself
89  pickles in every field: stay bytes
        test_pickles_stay_bytes
"""

import asyncio
import contextlib
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from certificates import home
from doorway import MAX, Doorway, Hands, attack, code, frame, is_well, join, open_files, soon, wait_closed

from tetherd.drivers.host.clock import SystemClock
from tetherd.drivers.rpc import door, reaching, sp
from tetherd.drivers.rpc.door import MAX_EXCESS, MAX_SILENT
from tetherd.drivers.rpc.remote import RemoteCaller
from tetherd.drivers.rpc.server import MAX_BAD
from tetherd.drivers.tcp import mutual
from tetherd.policy.admission import REJECTS
from tetherd.types import Credentials, Tensor
from tetherd.wire.catalog import Chunk, GetBlob, PutBlob, Remove, WatchCatalog
from tetherd.wire.frames import CANCEL, REPLY, Codec, Header
from tetherd.wire.messages import Done, GetFleet, Report, Request
from tetherd.wire.peering import Ping


@pytest.fixture
async def doorway(tmp_path: Path) -> AsyncIterator[Doorway]:
    async with Doorway(tmp_path).open() as made:
        yield made
        assert await is_well(made)


def nodes(doorway: Doorway) -> list[str]:
    """Return the node of each connection that there is."""
    return [guest.node for guest in doorway.door._guests.values()]


@pytest.mark.parametrize("hello", [b"\0SP\0\0\x20\0\0", b"\0SP\1\0\x30\0\0", b"HTTP/1.1", b"\xff" * 8])
async def test_another_protocol_is_not_spoken(doorway: Doorway, hello: bytes) -> None:
    def speak() -> Any:
        hands = Hands(doorway.port, doorway.member(), hello)
        answer = hands.ask(frame(GetFleet()))
        hands.close()
        return answer

    assert await attack(speak) is None
    assert not doorway.contexts


@pytest.mark.parametrize("said", [b"", sp.ASKS[:1], sp.ASKS[:7]])
async def test_who_says_nothing_is_ended(doorway: Doorway, said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    assert door._GREETING < 10 - 2
    monkeypatch.setattr(door, "_GREETING", 0.5)

    def wait() -> bytes:
        plain = socket.create_connection(("127.0.0.1", doorway.port), 10)
        with mutual.dialling(doorway.member()).wrap_socket(plain) as secure:
            secure.sendall(said)
            secure.recv(8)
            with contextlib.suppress(OSError):
                return secure.recv(8)
            return b""

    assert await attack(wait) == b""


async def test_who_asks_nothing_keeps_a_few_connections(doorway: Doorway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tetherd.drivers.rpc.door._SILENCE", 0.5)
    node, other = doorway.member(), doorway.member()
    more = await attack(lambda: [Hands(doorway.port, node) for _ in range(2 * MAX_SILENT)])
    few = await attack(lambda: [Hands(doorway.port, other) for _ in range(MAX_SILENT)])
    more += await attack(lambda: [Hands(doorway.port, node)])
    asked = await attack(more[0].ask, frame(GetFleet()))
    assert asked is not None
    async with asyncio.timeout(10):
        while nodes(doorway).count(node.node) > MAX_SILENT + 1:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await asyncio.sleep(1.5)  # another look
    assert nodes(doorway).count(node.node) == MAX_SILENT + 1
    assert nodes(doorway).count(other.node) == MAX_SILENT
    assert await attack(more[0].ask, frame(GetFleet(), 2)) is not None, "the one that was used stays"
    assert await attack(few[0].ask, frame(GetFleet())) is not None
    for hands in (*more, *few):
        hands.close()


@pytest.mark.parametrize("length", [MAX + 65, 2**31, 2**40, 2**63, 2**64 - 32, 2**64 - 1])
async def test_an_impossible_length_ends_that_connection_alone(doorway: Doorway, length: int) -> None:
    def speak() -> bytes:
        hands = Hands(doorway.port, doorway.member())
        with contextlib.suppress(OSError):
            hands.socket.sendall(struct.pack(">Q", length) + b"x" * 1000)
        rest = hands.read(1)
        hands.close()
        return rest

    assert await attack(speak) == b""


@pytest.mark.parametrize("length", [0, 1, 3])
async def test_a_message_without_room_for_its_number_ends_that_connection_alone(doorway: Doorway, length: int) -> None:
    def speak() -> bytes:
        hands = Hands(doorway.port, doorway.member())
        hands.socket.sendall(struct.pack(">Q", length) + b"x" * length)
        rest = hands.read(1)
        hands.close()
        return rest

    assert await attack(speak) == b""


async def test_a_message_of_the_largest_size_is_taken(doorway: Doorway) -> None:
    def speak() -> str:
        hands = Hands(doorway.port, doorway.member())
        answer = hands.ask(bytes(MAX))
        hands.close()
        return code(answer)

    assert await attack(speak) == "BAD_FRAME"


def framed(message: bytes, method: str = "blob.get") -> bytes:
    """Return a frame whose message is these bytes."""
    head = b"\x95\x01" + msgspec.msgpack.encode(method) + b"\x00\xa0" + message
    return struct.pack("<4sBBHI", b"TTHR", 1, 1, 0, len(head)) + head


ODD = {
    "another shape": framed(msgspec.msgpack.encode({"digest": "x"})),
    "another class": framed(msgspec.msgpack.encode(["x", "y", "z"])),
    "nested": framed(b"\x91" * 1000 + b"\xc0"),
    "nested header": struct.pack("<4sBBHI", b"TTHR", 1, 1, 0, 100_000) + b"\x91" * 100_000,
    "a map that claims a million keys": framed(b"\xdf\x00\x0f\x42\x40\x01\xc0"),
    "a map of a million keys": framed(b"\xdf\x00\x0f\x42\x40" + b"\x01\xc0" * 10**6),
    "an extension": framed(b"\x93\xc7\x02\x05ab\x00\x01"),
    "trailing bytes": frame(GetFleet()) + b"\0",
    "no number": framed(msgspec.msgpack.encode(["x", float("nan"), 1])),
    "an infinite number": framed(msgspec.msgpack.encode(["x", float("inf"), 1])),
    "no text": framed(b"\x93\xa2\xff\xfe\x00\x01"),
}  # fmt: skip


@pytest.mark.parametrize("what", ODD)
async def test_what_cannot_be_understood_is_refused(doorway: Doorway, what: str) -> None:
    node = doorway.member("gateway")

    def speak() -> tuple[str, bool]:
        hands = Hands(doorway.port, node)
        first = code(hands.ask(ODD[what]))
        kept = hands.ask(frame(GetFleet(), 2)) is not None
        hands.close()
        return first, kept

    assert await attack(speak) == ("BAD_FRAME", True)


async def test_malformed_frames_are_counted_and_then_the_connection_ends(doorway: Doorway) -> None:
    node = doorway.member()

    def speak() -> int:
        hands, whole = Hands(doorway.port, node), frame(GetFleet())
        refused = 0
        for number in range(MAX_BAD + 5):
            answer = hands.ask(whole[: number % len(whole)])
            if answer is None:
                break
            refused += code(answer) == "BAD_FRAME"
        hands.close()
        return refused

    assert MAX_BAD - 1 <= await attack(speak) <= MAX_BAD
    assert not doorway.heard


async def test_who_sends_malformed_frames_again_and_again_is_not_heard_for_a_while(doorway: Doorway) -> None:
    node = doorway.member()

    def speak() -> str:
        hands = Hands(doorway.port, node)
        for _ in range(MAX_BAD + 1):
            if hands.ask(b"nonsense") is None:
                break
        hands.close()
        return ""

    for _ in range(REJECTS):
        await attack(speak)

    def ask() -> str:
        hands = Hands(doorway.port, node)
        answer = code(hands.ask(frame(GetFleet())))
        hands.close()
        return answer

    assert await attack(ask) == "PERMISSION_DENIED"


@pytest.mark.parametrize("spoil", [{"method": "no.such"}, {"method": ""}, {"kind": REPLY}])
async def test_what_nobody_answers_is_said_so_and_the_connection_kept(doorway: Doorway, spoil: dict[str, Any]) -> None:
    node = doorway.member()

    def speak() -> tuple[str, bool]:
        hands = Hands(doorway.port, node)
        first = code(hands.ask(frame(GetFleet(), **spoil)))
        kept = hands.ask(frame(GetFleet(), 2)) is not None
        hands.close()
        return first, kept

    expected = "BAD_FRAME" if "kind" in spoil else "UNIMPLEMENTED"
    assert await attack(speak) == (expected, True)


async def test_another_version_of_the_protocol_is_told_apart_and_the_connection_kept(doorway: Doorway) -> None:
    node, whole = doorway.member(), frame(GetFleet())

    def speak() -> tuple[str, bool]:
        hands = Hands(doorway.port, node)
        first = code(hands.ask(whole[:4] + b"\x09" + whole[5:]))
        kept = hands.ask(whole) is not None
        hands.close()
        return first, kept

    assert await attack(speak) == ("UNIMPLEMENTED", True)


async def test_a_node_is_what_its_certificate_says_whatever_it_sends(doorway: Doorway) -> None:
    node, victim = doorway.member("worker"), doorway.member("gateway")

    def speak() -> str:
        hands = Hands(doorway.port, node)
        answer = code(hands.ask(frame(Remove(victim.node))))
        hands.ask(frame(GetFleet(), 2))
        hands.close()
        return answer

    assert await attack(speak) == "PERMISSION_DENIED"
    assert doorway.heard == {node.node}


async def test_who_claims_what_is_anothers_is_sent_away(doorway: Doorway) -> None:
    node = doorway.member("worker")

    def speak(method: Request[Any]) -> int:
        hands = Hands(doorway.port, node)
        refused = 0
        while (answer := hands.ask(frame(method, refused + 1))) and refused < 2 * MAX_BAD:
            refused += code(answer) == "PERMISSION_DENIED"
        hands.close()
        return refused

    assert MAX_BAD - 1 <= await attack(speak, Remove("model")) <= MAX_BAD  # for another role
    assert MAX_BAD - 1 <= await attack(speak, Report("theirs", "n", 1, 1, 1)) <= MAX_BAD  # about another's worker


async def test_nobody_ends_what_another_asked_for(doorway: Doorway) -> None:
    victim, node = doorway.member("gateway"), doorway.member("gateway")
    theirs = await attack(Hands, doorway.port, victim)
    await attack(theirs.say, frame(WatchCatalog(0), 7))
    await doorway.parked.acquire()

    def cancel() -> None:
        for number in (7, 8):
            hands = Hands(doorway.port, node)
            hands.ask(frame(Done(), 7, method="", kind=CANCEL))  # type: ignore[arg-type]
            hands.say(frame(WatchCatalog(0), 7), 0x80000000 + number)
            hands.close()

    await attack(cancel)
    theirs.socket.settimeout(0.5)
    with pytest.raises(TimeoutError):
        await attack(theirs.answer)
    theirs.close()


async def test_what_is_said_twice_is_done_once(doorway: Doorway) -> None:
    node, other = doorway.member("gateway"), doorway.member("gateway")

    def speak(who: Credentials, numbers: list[int]) -> list[bool]:
        hands = Hands(doorway.port, who)
        done = [hands.ask(frame(Remove("model"), number)).kind == REPLY for number in numbers]
        hands.close()
        return done

    assert await attack(speak, node, [7, 7, 7]) == [True] * 3
    assert await attack(speak, node, [7]) == [True], "nor over another connection"
    assert len(doorway.contexts) == 1
    assert await attack(speak, node, [8]) == [True]
    assert await attack(speak, other, [7]) == [True]
    assert len(doorway.contexts) == 3


async def test_a_change_whose_connection_is_lost_is_made_to_its_end(doorway: Doorway) -> None:
    node = doorway.member("gateway")
    doorway.may_remove.clear()
    hands = await attack(Hands, doorway.port, node)
    await attack(hands.say, frame(Remove("model"), 7))
    async with asyncio.timeout(10):
        while not doorway.contexts:  # noqa: ASYNC110 - what happened is looked at, not told
            await asyncio.sleep(0.01)
        hands.close()
        while doorway.contexts[0].peer not in doorway.lost:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    again = await attack(Hands, doorway.port, node)
    answer = asyncio.create_task(attack(again.ask, frame(Remove("model"), 7)))
    doorway.may_remove.set()
    assert (await answer).kind == REPLY
    again.close()
    assert (doorway.removed, len(doorway.contexts)) == (1, 1)


async def test_a_caller_that_lost_the_answer_has_it_done_once(doorway: Doorway) -> None:
    node = doorway.member("gateway")
    with doorway.calling(node) as one, doorway.calling(node) as another:
        for caller in (one, another):
            await caller.call(Remove("model"), deadline=soon())
            await caller.call(Remove("model"), deadline=soon())
    assert len(doorway.contexts) == 4, "two callers of a node do not use the same numbers"


async def test_who_greets_late_has_no_more_connections_than_others(doorway: Doorway) -> None:
    doorway.door._most = 3
    node = doorway.member()
    more = await attack(lambda: [Hands(doorway.port, node, b"") for _ in range(10)])
    for hands in more:
        with contextlib.suppress(OSError, ssl.SSLError):
            hands.socket.sendall(sp.ASKS)
    async with asyncio.timeout(10):
        while doorway.door._coming[node.node]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert nodes(doorway).count(node.node) == 3
    for hands in more:
        hands.close()


async def test_a_question_that_comes_with_the_greeting_is_answered(doorway: Doorway) -> None:
    def speak() -> Any:
        body = frame(GetFleet())
        hands = Hands(doorway.port, node, sp.ASKS + struct.pack(">QI", len(body) + 4, 0x80000001) + body)
        answer = hands.answer()
        hands.close()
        return answer

    node = doorway.member()
    assert (await attack(speak)).kind == REPLY


async def test_a_node_has_so_many_calls_under_way_and_no_more(
    doorway: Doorway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tetherd.drivers.rpc.server.MAX_CALLS", 3)
    node, other = doorway.member("gateway"), doorway.member("gateway")
    both = await attack(lambda: [Hands(doorway.port, node) for _ in range(2)])
    for number in range(3):
        await attack(both[number % 2].say, frame(WatchCatalog(0), number), 0x80000000 + number)
        await doorway.parked.acquire()
    assert code(await attack(both[0].ask, frame(GetFleet(), 9))) == "QUEUE_FULL"
    theirs = await attack(Hands, doorway.port, other)
    assert (await attack(theirs.ask, frame(GetFleet()))).kind == REPLY
    both[0].close()
    async with asyncio.timeout(10):
        while (await attack(both[1].ask, frame(GetFleet(), 9))).kind != REPLY:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    both[1].close()
    theirs.close()


async def test_pickles_stay_bytes(doorway: Doorway, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    pickle = f"cos\nsystem\n(S'touch {canary}'\ntR.".encode()
    node = doorway.member("gateway", "worker", "manager", "orchestrator")

    def speak() -> None:
        hands = Hands(doorway.port, node)
        hands.ask(pickle)
        hands.ask(frame(GetFleet(), method=pickle.decode()))
        for kind in (GetFleet, GetBlob, PutBlob, Remove, Report, WatchCatalog):
            for filled in (pickle, pickle.decode()):
                count = len(msgspec.structs.fields(kind))
                for place in range(count):  # beside values that are taken for some of the others
                    fields: list[Any] = [filled if each <= place else 1 for each in range(count)]
                    hands.ask(framed(msgspec.msgpack.encode(fields), kind.METHOD))
        hands.ask(frame(PutBlob(pickle.decode(), 0, 9, Tensor("data", "UINT8", (len(pickle),), pickle)), 3))  # type: ignore[arg-type]
        hands.close()

    await attack(speak)
    assert node.node in doorway.heard
    assert not canary.exists()


async def test_a_flood_is_held_to_its_share(tmp_path: Path) -> None:
    async with Doorway(tmp_path, rate=200.0, burst=300.0).open() as doorway:
        node = doorway.member()

        def flood() -> tuple[int, int]:
            hands, whole = Hands(doorway.port, node), frame(GetFleet())
            refused = asked = 0
            for _ in range(MAX_EXCESS * 3):
                answer = hands.ask(whole)
                if answer is None:
                    break
                asked += 1
                refused += answer.kind != REPLY
            hands.close()
            return asked, refused

        with doorway.calling(doorway.member()) as caller:
            await caller.call(GetFleet(), deadline=soon())
            flooding = asyncio.create_task(attack(flood))
            while not flooding.done():
                began = time.monotonic()
                await caller.call(GetFleet(), deadline=soon())
                assert time.monotonic() - began < 2
                await asyncio.sleep(0.02)
        asked, refused = await flooding
        assert MAX_EXCESS - 1 <= refused < 2 * MAX_EXCESS  # it ends a little after it is told to
        assert asked < MAX_EXCESS * 3
        assert sum(context.node == node.node for context in doorway.contexts) <= asked - refused


@pytest.mark.slow
async def test_a_hundred_thousand_messages_hold_up_nobody(doorway: Doorway) -> None:
    node = doorway.member()

    def flood() -> int:
        hands, answered = Hands(doorway.port, node), 0
        for start in range(0, 100_000, 100):
            for number in range(start, start + 100):
                hands.say(frame(GetFleet(), number), 0x80000000 + number)
            for _ in range(100):
                answer = hands.answer()
                assert answer is not None
                answered += answer.kind == REPLY
        hands.close()
        return answered

    with doorway.calling(doorway.member()) as caller:
        await caller.call(GetFleet(), deadline=soon())
        flooding = asyncio.create_task(attack(flood))
        while not flooding.done():
            began = time.monotonic()
            await caller.call(GetFleet(), deadline=soon())
            assert time.monotonic() - began < 2
            await asyncio.sleep(0.01)
    assert await flooding > 40_000


async def test_who_reads_nothing_is_dropped_in_the_end(doorway: Doorway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tetherd.drivers.rpc.connections.MAX_UNREAD", 16 << 20)
    node = doorway.member()

    def gorge() -> None:
        hands = Hands(doorway.port, node)
        with contextlib.suppress(OSError, ssl.SSLError):
            for number in range(200):
                hands.say(frame(GetBlob("x", 0, 1 << 20), number), 0x80000000 + number)  # type: ignore[arg-type]
        until = time.monotonic() + 10
        while time.monotonic() < until and node.node in nodes(doorway):
            time.sleep(0.02)
        hands.close()

    with doorway.calling(doorway.member()) as caller:
        await caller.call(GetFleet(), deadline=soon())
        gorging = asyncio.create_task(attack(gorge))
        while not gorging.done():
            await caller.call(GetFleet(), deadline=soon())
            await asyncio.sleep(0.05)
        await gorging
    assert node.node not in nodes(doorway)


async def test_a_connection_that_ends_as_it_begins_leaves_nothing(doorway: Doorway) -> None:
    node, files = doorway.member(), open_files()

    def touch() -> None:
        for _ in range(30):
            Hands(doorway.port, node).close()

    await attack(touch)
    await asyncio.sleep(1.5)  # nng does not tell of all their ends: a second later they are looked for
    assert not nodes(doorway)
    await wait_closed(files + 2)


# --- a hostile server ------------------------------------------------------------------------------------------------


def chunk(size: int) -> bytes:
    """Return the frame that answers ``GetBlob``, told apart by its size."""
    return join(Codec().encode(REPLY, Header(1, GetBlob.METHOD, 0), Chunk(size, Tensor("data", "UINT8", (0,), b""))))


async def test_answers_that_nobody_asked_for_are_dropped() -> None:
    server, client = home().node(), home().node()
    context = mutual.listening(server)

    def serve(listener: socket.socket) -> None:
        plain, _ = listener.accept()
        plain.settimeout(5)
        with context.wrap_socket(plain, server_side=True) as secure, secure.makefile("rb") as stream:

            def asked() -> int:
                while True:
                    size, number = struct.unpack(">QI", stream.read(12))
                    body = stream.read(size - 4)
                    assert len(body) == size - 4
                    if Ping.METHOD.encode() not in body:  # which every caller asks on a new connection
                        return int(number)

            def answer(number: int, body: bytes) -> None:
                secure.sendall(struct.pack(">QI", len(body) + 4, number) + body)

            stream.read(8)
            secure.sendall(sp.ANSWERS)
            first = asked()
            for unknown in (first ^ 1, 0x80000000, 0xFFFFFFFF, first ^ 1):
                answer(unknown, chunk(666))
            answer(first, chunk(1))
            answer(first, chunk(666))  # a second time
            second = asked()
            answer(first, chunk(666))  # late
            answer(second, chunk(2))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(asyncio.to_thread(serve, listener))
        address = f"{reaching.TLS}127.0.0.1:{listener.getsockname()[1]}"
        secret = reaching.Secret(client, server.node)
        caller = RemoteCaller(address, clock=SystemClock(), max_message=MAX, secret=secret)
        try:
            for size in (1, 2):
                assert (await caller.call(GetBlob("x", 0, 8), deadline=soon())).size == size  # type: ignore[arg-type]
        finally:
            caller.close()
        await serving
