import asyncio
import contextlib
from collections.abc import Iterator

import pynng
import pytest

from tetherd.drivers.rpc import contexts, nng
from tetherd.drivers.rpc.turns import Turn
from tetherd.errors import TooLarge
from tetherd.types import Buffer

LIMIT = 1 << 20


class Echo:
    """A desk that answers with what it was asked, but holds what begins with ``hold``."""

    def __init__(self) -> None:
        self.held: list[Turn] = []
        self.lost = asyncio.Event()

    def greet(self, peer: int) -> None:
        pass

    def forget(self, peer: int) -> None:
        self.lost.set()

    def begin(self, turn: Turn, data: Buffer, peer: int) -> None:
        if bytes(data).startswith(b"hold"):
            self.held.append(turn)
        elif data == b"close":
            turn.hang_up()
            turn.answer(None)
        else:
            with pytest.raises(TooLarge):
                turn.answer([bytes(LIMIT), b"!"])
            turn.answer([data])


@contextlib.contextmanager
def answering(address: str, echo: Echo) -> Iterator[None]:
    socket = nng.open_rep(LIMIT)
    with contexts.answering(socket, echo, LIMIT):
        nng.listen(socket, address)
        yield


@pytest.fixture
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"ipc://{tmp_path_factory.mktemp('c')}/s"


def echoes(client: pynng.Req0, *requests: bytes) -> list[bytes]:
    answers = []
    for request in requests:
        client.send(request)
        answers.append(bytes(client.recv()))
    return answers


async def test_requests_are_answered_whatever_else_is_held(address: str) -> None:
    echo = Echo()
    with answering(address, echo), pynng.Req0(recv_timeout=5000, resend_time=-1) as client:
        client.dial(address, block=True)
        parked = [client.new_context() for _ in range(200)]
        sending = [context.asend(b"hold %d" % number) for number, context in enumerate(parked)]
        await asyncio.gather(*sending)
        assert await asyncio.to_thread(echoes, client, b"a", b"b") == [b"a", b"b"]
        assert len(echo.held) == 200
        for turn in echo.held:
            turn.answer([b"late"])
        assert set(await asyncio.gather(*(context.arecv() for context in parked))) == {b"late"}
        assert await asyncio.to_thread(echoes, client, b"c") == [b"c"]
        for context in parked:
            context.close()


async def test_a_turn_can_end_its_connection(address: str) -> None:
    echo = Echo()
    with answering(address, echo), pynng.Req0(resend_time=-1, reconnect_time_min=10) as client:
        client.dial(address, block=True)
        await client.asend(b"close")
        async with asyncio.timeout(5):
            await echo.lost.wait()
