"""Three managers on three hosts of one network: every version on each, whoever of them dies."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from harness import DIGITS, EXAMPLE, Daemon, is_right, new_host, until
from members import answers, ask, member, restart


class Three:
    """A founder that serves and two more managers, and a worker and a gateway without one."""

    def __init__(self, host: Any) -> None:
        self.a = member(host, "a", "gateway", "orchestrator", "manager").start()
        self.b, self.c = (member(host, name, "manager", "gateway") for name in "bc")
        self.w, self.g = member(host, "w", "worker"), member(host, "g", "gateway")
        for daemon in (self.b, self.c, self.w, self.g):
            daemon.start(wait=False)
            until(lambda daemon=daemon: answers(daemon), f"{daemon.name} answers")
        self.a.ctl("cluster", "init", "--name", "home")
        managers = ((daemon, ["manager", "gateway"]) for daemon in (self.b, self.c))
        for daemon, roles in (*managers, (self.w, ["worker"]), (self.g, ["gateway"])):
            words = [word for role in roles for word in ("--role", role)]
            daemon.ctl("cluster", "join", stdin=self.a.ctl("cluster", "token", *words).stdout)

    def holders(self, model: str = "digits") -> set[str]:
        found = ask(self.a, f"models/{model}/holders")
        return {holder["name"] for holder in found["versions"][-1]["holders"]}

    def spread(self, model: str = "digits") -> None:
        until(lambda: self.holders(model) == {"a", "b", "c"}, f"{model} is on all three")


@pytest.fixture(scope="module")
def three() -> Iterator[Three]:
    with new_host() as host:
        found = Three(host)
        found.a.ctl("models", "push", str(DIGITS))
        found.spread()
        yield found


def infer(daemon: Daemon) -> None:
    assert is_right(daemon.infer("digits", EXAMPLE["inputs"]).ok()["outputs"])


def test_a_push_spreads_and_says_so(three: Three) -> None:
    shown = three.a.ctl("models", "show", "digits", "--where").stdout.decode()
    assert "REPLICATED 3/3\n" in shown
    assert shown.count("held by") == 3
    (version,) = json.loads(three.a.ctl("models", "show", "digits", "--where", "-o", "json").stdout)["versions"]
    assert version["copies"] == {"held": 3, "wanted": 3}
    assert [holder["name"] for holder in version["holders"] if holder["primary"]] == ["a"]
    again = three.a.ctl("models", "push", str(DIGITS)).stdout.decode()
    assert "REPLICATED 3/3 " in again


def test_a_follower_answers_reads_and_refuses_changes(three: Three) -> None:
    for daemon in (three.b, three.c):
        assert [model["name"] for model in ask(daemon, "models")["models"]] == ["digits"]
        refused = daemon.ctl("models", "rm", "digits", "--yes", code=7)
        assert b"follows the one of a, where models are changed" in refused.stderr
        infer(daemon)


def test_a_worker_loads_from_a_follower_while_the_primary_serves(three: Three) -> None:
    infer(three.a)
    (runner,) = three.a.runners("digits")
    assert runner["runner"].startswith("w-")


def test_a_killed_follower_catches_up(three: Three) -> None:
    three.b.kill()
    three.a.ctl("models", "push", str(DIGITS), "--name", "more")
    until(lambda: three.holders("more") >= {"a", "c"}, "c has a copy")
    three.b.start(wait=False)
    until(lambda: answers(three.b), "b answers again")
    three.spread("more")
    three.a.ctl("models", "rm", "more", "--yes")


def test_while_the_primary_is_away_the_others_answer(three: Three) -> None:
    three.a.kill()
    assert [model["name"] for model in ask(three.b, "models")["models"]] == ["digits"]
    restart(three.b)
    assert [model["name"] for model in ask(three.b, "models")["models"]] == ["digits"]
    restart(three.g)
    until(lambda: [model["name"] for model in ask(three.g, "models")["models"]] == ["digits"], "g asks another manager")
    refused = three.g.ctl("models", "rm", "digits", "--yes", code=None)
    assert refused.returncode
    assert b"only the manager on a can do this" in refused.stderr
    three.a.start()
    three.spread()
