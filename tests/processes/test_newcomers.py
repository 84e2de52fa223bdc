"""Hosts come and go while others serve: no model is loaded again for it, and no request fails."""

import threading
from typing import Self

import pytest
from harness import DIGITS, EXAMPLE, Daemon, Host, until
from members import ask, member


class Clients:
    """A few clients that ask for as long as the block lasts; no answer may be another than the right status."""

    def __init__(self, daemon: Daemon, count: int = 4) -> None:
        self._daemon = daemon
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(count)]
        self.answered = 0
        self.failed: list[bytes] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        while not self._ended.is_set():
            reply = self._daemon.infer("digits", EXAMPLE["inputs"])
            self.answered += 1
            if reply.status != 200:
                self.failed.append(reply.body)

    def go_on(self, count: int = 200) -> None:
        """Wait for so many more answers."""
        before = self.answered
        until(lambda: self.answered >= before + count, f"{count} more answers")


@pytest.mark.parametrize("roles", [("orchestrator",), ("manager",), ("orchestrator", "manager", "gateway")])
def test_another_one_joins_and_leaves_while_requests_are_served(host: Host, roles: tuple[str, ...]) -> None:
    a = member(host, "a", "gateway", "orchestrator", "manager").start()
    b = member(host, "b", "worker").start()
    c = member(host, "c", *roles).start()
    a.ctl("cluster", "init", "--name", "home")
    b.ctl("cluster", "join", stdin=a.ctl("cluster", "token", "--role", "worker").stdout)
    a.ctl("models", "push", str(DIGITS))
    until(lambda: a.infer("digits", EXAMPLE["inputs"]).status == 200, "b serves")
    (runner,) = a.runners("digits")
    processes = b.remember()
    token = a.ctl("cluster", "token", *(word for role in roles for word in ("--role", role))).stdout
    with Clients(a) as clients:
        clients.go_on()
        c.ctl("cluster", "join", stdin=token)
        until(lambda: {node["name"] for node in ask(b, "nodes")["nodes"]} == {"a", "b", "c"}, "b knows of c")
        if "orchestrator" in roles:
            until(lambda: {one["node"] for one in ask(c, "status").get("workers", [])} == {"b"}, "b serves c too")
        clients.go_on()
        c.ctl("cluster", "leave", "-y")
        until(lambda: {node["name"] for node in ask(b, "nodes")["nodes"]} == {"a", "b"}, "b knows that c left")
        clients.go_on()
    assert clients.failed == []
    assert a.runners("digits")[0]["runner"] == runner["runner"]
    assert b.remember() == processes, "the model is still in the process that it was in"
