"""Another root takes over, and leaves nobody behind: neither who is about to join, nor who is away meanwhile."""

import json

import pytest
from harness import DIGITS, EXAMPLE, Daemon, Host, until
from members import ask, member, restart, workers


def rotate(daemon: Daemon, *words: str) -> None:
    """Take the next step, as soon as it can be taken."""
    until(lambda: daemon.ctl("cluster", "ca", "rotate", "-y", *words, code=None).returncode == 0, "the step is taken")


def roots(daemon: Daemon) -> list[str]:
    return [root["key"] for root in ask(daemon, "cluster/ca")["roots"]]


@pytest.mark.slow
def test_tokens_go_on_letting_hosts_in(host: Host) -> None:
    a = member(host, "a", "gateway", "orchestrator", "manager").start()
    joining = [member(host, name).start() for name in ("b", "c", "d")]
    a.ctl("cluster", "init", "--name", "home")
    tokens = [a.ctl("cluster", "token", "--role", "worker").stdout for _ in joining]
    first = roots(a)
    for daemon, token in zip(joining, tokens, strict=True):
        rotate(a)
        restart(a)  # between any two steps
        daemon.ctl("cluster", "join", stdin=token)
        until(lambda name=daemon.name: name in workers(a), f"the worker of {daemon.name} is known")
    until(lambda: all(roots(each) == roots(a) for each in joining), "all trust the same")
    assert not set(roots(a)) & set(first)


def test_who_is_away_for_a_while_comes_back_before_the_former_root_goes(host: Host) -> None:
    a = member(host, "a", "gateway", "orchestrator", "manager").start()
    b = member(host, "b").start()
    a.ctl("cluster", "init", "--name", "home")
    b.ctl("cluster", "join", stdin=a.ctl("cluster", "token", "--role", "worker").stdout)
    a.ctl("models", "push", str(DIGITS))
    until(lambda: a.infer("digits", EXAMPLE["inputs"]).status == 200, "b serves")
    rotate(a)
    until(lambda: len(roots(b)) == 2, "b has heard of the next root")
    b.kill()
    rotate(a)
    until(lambda: not ask(a, "cluster/ca")["outdated"], "a has a certificate under the next root")
    refused = a.ctl("cluster", "ca", "rotate", "-y", code=7).stderr.decode()
    assert "have no certificate under the new root yet: b" in refused
    assert "--force" in refused
    shown = json.loads(a.ctl("cluster", "ca", "show", "-o", "json").stdout)
    assert (shown["rotation"], shown["lagging"]) == ("switched", ["b"])
    table = a.ctl("cluster", "ca", "show", "-o", "table").stdout
    assert b"the new root is switched; the next step waits for b" in table
    b.start(wait=False)
    until(lambda: a.infer("digits", EXAMPLE["inputs"]).status == 200, "b serves again")
    rotate(a)
    until(lambda: roots(b) == roots(a), "b trusts the new root alone")
    assert len(roots(a)) == 1
    until(lambda: a.infer("digits", EXAMPLE["inputs"]).status == 200, "b goes on serving")
