"""What managers say to each other keeps its form, and no other role may report."""

import msgspec
import pytest

from tetherd.types import Digest
from tetherd.wire.catalog import Catalog
from tetherd.wire.chunks import BlobSource
from tetherd.wire.messages import Message
from tetherd.wire.replication import Fetch, GetHoldings, HandOver, HolderState, Holdings, Orders, ReportHoldings

VERSION = Digest("sha256:" + "0" * 64)
STATE = HolderState("n", "name", "host:1", True, False, [VERSION])

MESSAGES = [
    ReportHoldings("name", "host:1", [VERSION], (VERSION,), (VERSION,)),
    Orders([Fetch(VERSION, [BlobSource("n", "host:1")])]),
    GetHoldings((VERSION,)),
    Holdings(3, [STATE]),
    HandOver(Catalog(7, [], [], ["m"], {"m": 3}, "origin", {"another": 5})),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_messages_survive_the_wire(message: Message) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=type(message)) == message


def test_fields_that_came_later_may_be_missing() -> None:
    old = msgspec.msgpack.encode(["name", "host:1", [VERSION]])
    assert msgspec.msgpack.decode(old, type=ReportHoldings) == ReportHoldings("name", "host:1", [VERSION])


def test_managers_report_and_whoever_serves_models_may_ask() -> None:
    assert {"manager"} == ReportHoldings.ROLES
    assert {"manager"} == HandOver.ROLES
    assert {"gateway", "worker", "manager"} == GetHoldings.ROLES
    assert ReportHoldings.REPLY is Orders
    assert GetHoldings.REPLY is Holdings
