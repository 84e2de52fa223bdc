"""Addresses that can be listened on, and those that somebody has."""

import os
import socket
from pathlib import Path

import pytest

from tetherd.drivers.host import occupied
from tetherd.drivers.host.occupied import Listener, check, holder
from tetherd.errors import BadConfig, InUse

OWN = f"{Path('/proc/self/comm').read_text().strip()} (process {os.getpid()})"


@pytest.mark.parametrize("datagrams", [False, True])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_whoever_has_an_address_is_named(host: str, datagrams: bool) -> None:
    kind, family = (
        socket.SOCK_DGRAM if datagrams else socket.SOCK_STREAM,
        socket.AF_INET6 if ":" in host else socket.AF_INET,
    )
    with socket.socket(family, kind) as taken:
        taken.bind((host, 0))
        if not datagrams:
            taken.listen()
        port = taken.getsockname()[1]
        listener = Listener("cluster.x", f"[{host}]:{port}" if ":" in host else f"{host}:{port}", datagrams)
        with pytest.raises(InUse, match=r"cannot listen on (TCP|UDP) ") as caught:
            check([listener])
        assert OWN in caught.value.message
        assert "cluster.x" in caught.value.fix
        assert holder(port, datagrams=not datagrams) == ""
    check([listener, listener])


@pytest.mark.parametrize("datagrams", [False, True])
def test_every_address_is_not_free_where_one_is_taken(datagrams: bool) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM if datagrams else socket.SOCK_STREAM) as taken:
        taken.bind(("127.0.0.1", 0))
        if not datagrams:
            taken.listen()
        with pytest.raises(InUse, match=r"\[::\]"):
            check([Listener("cluster.x", f"[::]:{taken.getsockname()[1]}", datagrams)])


def test_an_address_of_another_host_is_a_bad_setting() -> None:
    with pytest.raises(BadConfig, match=r"203\.0\.113\.1:7443: Cannot assign") as caught:
        check([Listener("cluster.listen", "203.0.113.1:7443")])
    assert "cluster.listen" in caught.value.fix


def test_where_it_cannot_be_known_nobody_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(occupied, "_PROC", tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listener = Listener("cluster.listen", f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(InUse, match="another process has that port"):
            check([listener])
