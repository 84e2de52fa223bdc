import socket
from collections.abc import Iterator

import pytest

from tetherd.drivers.host import memory
from tetherd.drivers.rpc.handshakes import Handshakes


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def connect(listener: socket.socket) -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a connection: theirs, and ours."""
    theirs = socket.create_connection(listener.getsockname())
    return theirs, listener.accept()[0]


def is_ended(connection: socket.socket) -> bool:
    connection.settimeout(0.05)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False


def test_a_handshake_has_its_time_and_no_more(listener: socket.socket) -> None:
    handshakes = Handshakes({listener.getsockname()[1]}, patience=5.0)
    theirs, ours = connect(listener)
    with theirs, ours:
        assert handshakes.sweep(100.0, set()) == 0
        assert handshakes.sweep(104.9, set()) == 0
        assert not is_ended(theirs)
        assert handshakes.sweep(105.0, set()) == 1
        assert is_ended(theirs)
        assert ours.fileno() > 0  # it is its owner who closes it


def test_connections_that_are_made_stay(listener: socket.socket) -> None:
    handshakes = Handshakes({listener.getsockname()[1]}, patience=5.0)
    theirs, ours = connect(listener)
    with theirs, ours:
        made = {ours.getpeername()}
        assert [handshakes.sweep(now, made) for now in (0.0, 10.0, 20.0)] == [0, 0, 0]
        assert not is_ended(theirs)


def test_other_sockets_are_nobodys_business(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    with socket.create_server(("127.0.0.1", 0)) as other, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", port))
        theirs, ours = connect(other)
        with theirs, ours:
            handshakes = Handshakes({port}, patience=1.0)
            assert [handshakes.sweep(now, set()) for now in (0.0, 10.0)] == [0, 0]


def test_when_there_are_too_many_the_oldest_go(listener: socket.socket) -> None:
    handshakes = Handshakes({listener.getsockname()[1]}, patience=60.0, most=2)
    pairs = []
    for now in range(4):
        pairs.append(connect(listener))
        handshakes.sweep(float(now), set())
    ended = [is_ended(theirs) for theirs, _ in pairs]
    for pair in pairs:
        for end in pair:
            end.close()
    assert ended == [True, True, False, False]


def test_many_are_ended_a_few_at_a_time_and_in_rounds(listener: socket.socket) -> None:
    breaths: list[float] = []
    handshakes = Handshakes({listener.getsockname()[1]}, patience=5.0, most=0, pause=breaths.append)
    pairs = [connect(listener) for _ in range(300)]
    handshakes.sweep(0.0, set())
    assert [handshakes.sweep(10.0, set()) for _ in range(2)] == [256, 256]
    assert len(breaths) == 64
    for pair in pairs:
        for end in pair:
            end.close()


def test_what_was_closed_is_forgotten(listener: socket.socket) -> None:
    handshakes = Handshakes({listener.getsockname()[1]}, patience=5.0)
    for now in range(20):
        theirs, ours = connect(listener)
        handshakes.sweep(float(now), set())
        theirs.close()
        ours.close()
    assert handshakes.sweep(100.0, set()) == 0
    assert not handshakes._since


@pytest.mark.parametrize("who", ["they hang up", "they are ended"])
def test_what_a_crowd_took_is_given_back_once_all_of_it_has_gone(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    given: list[None] = []
    monkeypatch.setattr(memory, "give_back", lambda: given.append(None))
    handshakes = Handshakes({listener.getsockname()[1]}, patience=5.0, most=0, pause=lambda _: None)
    pairs = [connect(listener) for _ in range(memory.MANY)]
    handshakes.sweep(0.0, set())
    if who == "they are ended":
        assert handshakes.sweep(10.0, set()) == memory.MANY
        assert not given
    for pair in pairs:
        for end in pair:
            end.close()
    assert handshakes.sweep(11.0, set()) == 0  # they are seen to have gone, and may still be cleared away
    assert not given
    for now in (12.0, 13.0):
        handshakes.sweep(now, set())
    assert len(given) == 1
