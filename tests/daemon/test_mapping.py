"""What a host asks its router for, and whom it tells what comes of it."""

from typing import Any, cast

import pytest

from tetherd.config.load import load_text
from tetherd.config.schema import Config
from tetherd.daemon.mapping import Outside, endpoint, wants
from tetherd.discovery.addresses import Address
from tetherd.discovery.mapping import Want
from tetherd.roles.membership import Membership
from tetherd.testing.time import ManualClock
from tetherd.wire.endpoint import Endpoint

PORTS = {"rpc": 7443, "bulk": 7445, "dht": 7443}
ALL = (Want("rpc", "tcp", 7443), Want("bulk", "tcp", 7445), Want("dht", "udp", 7443))


def configured(on: str = "true") -> Config:
    return load_text(f"[cluster]\nport_mapping = {on}\n".encode(), "test.toml").config


def test_it_is_off_unless_it_is_asked_for() -> None:
    assert load_text(b"", "test.toml").config.cluster.port_mapping is False
    assert wants(configured("false"), PORTS, ("manager",), founder=True) == ()


def test_every_listener_for_others_is_wanted() -> None:
    assert wants(configured(), PORTS, ("orchestrator", "manager"), founder=False) == ALL
    relay, enrol = Want("relay", "tcp", 7446), Want("enrol", "tcp", 7444)
    assert wants(configured(), PORTS, ("relay", "manager"), founder=True) == (*ALL, relay, enrol)


def test_a_host_that_only_dials_wants_nothing() -> None:
    assert wants(configured(), {}, ("worker", "gateway"), founder=False) == ()


@pytest.mark.parametrize(("on", "words"), [("false", "switched off by cluster.port_mapping"), ("true", "only dials")])
def test_why_nothing_is_asked_is_told(on: str, words: str) -> None:
    class Club:
        roles = ("worker",)
        standing: Any = None

    outside = Outside(configured(on), ManualClock(), cast("Membership", Club()), {})
    assert words in outside.report().off
    assert outside.duties == []
    assert outside.places() == {}


def test_a_node_s_record_says_where_its_router_leads_here_from() -> None:
    here = ("10.0.0.7:7443", "[2600::7]:7443")
    assert endpoint(here, PORTS, {}) == Endpoint(here, {"bulk": 7445, "dht": 7443})
    led = {"rpc": Address("11.0.0.1", 17443), "bulk": Address("11.0.0.1", 17445), "dht": Address("11.0.0.1", 17446)}
    assert endpoint(here, PORTS, led) == Endpoint(("11.0.0.1:17443", *here), {"bulk": 17445, "dht": 7443})
    same = {"rpc": Address("10.0.0.7", 7443)}
    assert endpoint(here, PORTS, same).addresses == here
