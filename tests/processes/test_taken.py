"""A host that cannot listen where it would have to says so and stays what it was, and does the same again later."""

import contextlib
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from harness import Daemon, Host, free_port, until
from members import answers, ask


@contextlib.contextmanager
def taken(datagrams: bool) -> Iterator[str]:
    """Have this process listen somewhere; yield where."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM if datagrams else socket.SOCK_STREAM) as found:
        found.bind(("127.0.0.1", 0))
        if not datagrams:
            found.listen()
        yield f"127.0.0.1:{found.getsockname()[1]}"


def daemon(host: Host, name: str, *roles: str, **cluster: str) -> Daemon:
    ports: dict[str, Any] = {key: f"127.0.0.1:{free_port()}" for key in ("listen", "enrol", "bulk", "udp")}
    return host.daemon(*roles, name=name, cluster={**ports, "mdns": False, **cluster}, worker={"spare": False})


@pytest.mark.parametrize("key", ["listen", "enrol", "bulk", "udp"])
def test_a_founder_that_cannot_listen_stays_alone(host: Host, key: str) -> None:
    with taken(key == "udp") as place:
        a = daemon(host, "a", "manager", **{key: place}).start()
        refused = a.ctl("cluster", "init", "--name", "home", code=7).stderr.decode()
        assert f"cannot listen on {'UDP' if key == 'udp' else 'TCP'} {place}" in refused
        assert f"(process {os.getpid()}) has that port" in refused
        assert f"cluster.{key}" in refused
        assert ask(a, "cluster")["member"] is False
    a.ctl("cluster", "init", "--name", "home")
    assert ask(a, "cluster")["member"] is True


@pytest.mark.parametrize("key", ["listen", "bulk", "udp"])
def test_a_host_that_cannot_listen_does_not_join_and_its_token_stays_good(host: Host, key: str) -> None:
    a = daemon(host, "a", "orchestrator", "manager").start()
    a.ctl("cluster", "init", "--name", "home")
    token = a.ctl("cluster", "token", "--role", "manager").stdout
    with taken(key == "udp") as place:
        b = daemon(host, "b", **{key: place}).start()
        refused = b.ctl("cluster", "join", stdin=token, code=7).stderr.decode()
        assert f"cannot listen on {'UDP' if key == 'udp' else 'TCP'} {place}" in refused
        assert f"cluster.{key}" in refused
        assert ask(b, "cluster")["member"] is False
        b.kill()
        b.start(wait=False)
        until(lambda: answers(b), "b answers again")
        assert ask(b, "cluster")["member"] is False, "nothing was kept"
    b.ctl("cluster", "join", stdin=token)
    assert ask(b, "cluster")["member"] is True


def test_who_only_dials_needs_no_port(host: Host) -> None:
    a = daemon(host, "a", "orchestrator", "manager").start()
    a.ctl("cluster", "init", "--name", "home")
    with taken(datagrams=False) as place:
        b = daemon(host, "b", listen=place, bulk=place).start()
        b.ctl("cluster", "join", stdin=a.ctl("cluster", "token", "--role", "worker").stdout)
        assert ask(b, "cluster")["member"] is True
