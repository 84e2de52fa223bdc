"""A role that several nodes have: who of them is asked, and who is asked next."""

from typing import Any

import pytest

from tetherd.drivers.rpc.reaching import CONNECT
from tetherd.drivers.rpc.several import SeveralCaller, Way
from tetherd.errors import Conflict, TetherError, Unreachable
from tetherd.wire.catalog import Catalog, SetServing, WatchCatalog


class Node:
    """One node: answers with its catalog, or raises."""

    def __init__(self, *, connected: bool = True, error: TetherError | None = None) -> None:
        self.connected = connected
        self.error = error
        self.asked: list[Any] = []
        self.waited: list[float] = []
        self.catalog = Catalog(0, [], [])

    async def call(self, request: Any, *, deadline: float, request_id: str = "", patience: float = -1.0) -> Any:
        self.waited.append(patience)
        self.asked.append((request, deadline, request_id))
        if self.error:
            raise self.error
        return self.catalog


def managers(*nodes: Node) -> SeveralCaller:
    return SeveralCaller("manager", {WatchCatalog}, [Way(f"n{at}", node) for at, node in enumerate(nodes)])


async def read(caller: SeveralCaller) -> Catalog:
    return await caller.call(WatchCatalog(), deadline=7.0, request_id="r")


async def test_the_first_is_asked_as_long_as_it_is_there() -> None:
    first, second = Node(), Node()
    assert await read(managers(first, second)) is first.catalog
    assert first.asked == [(WatchCatalog(), 7.0, "r")]
    assert second.asked == []


async def test_the_next_is_asked_where_one_cannot_be_reached() -> None:
    first, second, third = Node(error=Unreachable("gone")), Node(error=Unreachable("gone")), Node()
    assert await read(managers(first, second, third)) is third.catalog


async def test_one_that_is_known_to_be_away_keeps_nobody_waiting() -> None:
    first, second = Node(connected=False), Node()
    caller = managers(first, second)
    assert await read(caller) is second.catalog
    assert first.asked == []
    first.connected = True
    assert await read(caller) is first.catalog


async def test_who_loses_its_connection_is_not_waited_for_while_another_one_is_there() -> None:
    first, second, third = Node(error=Unreachable("gone")), Node(error=Unreachable("gone")), Node()
    await read(managers(first, second, third))
    assert (first.waited, second.waited, third.waited) == ([0.0], [0.0], [CONNECT])
    third.connected = False
    await read(managers(second, third))
    assert second.waited[1:] == [CONNECT]


async def test_where_none_is_connected_each_is_tried_in_order() -> None:
    first, second = Node(connected=False, error=Unreachable("gone")), Node(connected=False)
    assert await read(managers(first, second)) is second.catalog
    assert len(first.asked) == 1


async def test_an_error_that_a_node_answers_with_is_the_answer() -> None:
    second = Node()
    with pytest.raises(Conflict):
        await read(managers(Node(error=Conflict("no")), second))
    assert second.asked == []


async def test_where_all_are_away_the_last_says_why() -> None:
    with pytest.raises(Unreachable, match="two"):
        await read(managers(Node(error=Unreachable("one")), Node(error=Unreachable("two"))))


async def test_a_change_is_for_the_first_alone_and_says_so() -> None:
    first, second = Node(connected=False, error=Unreachable("no connection")), Node()
    with pytest.raises(Unreachable, match="only the manager on n0 can do this: no connection") as caught:
        await managers(first, second).call(SetServing("m", serving=False), deadline=1.0)
    assert "n0" in (caught.value.fix or "")
    assert second.asked == []


async def test_nobody_to_ask_is_said() -> None:
    with pytest.raises(Unreachable, match="manager"):
        await read(managers())
    with pytest.raises(Unreachable, match="manager"):
        await managers().call(SetServing("m", serving=False), deadline=1.0)


async def test_who_is_asked_can_change() -> None:
    first, second = Node(), Node()
    caller = managers(first)
    caller.ways = [Way("other", second)]
    assert await read(caller) is second.catalog
    assert first.asked == []
