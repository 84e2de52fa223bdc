"""The ONNX project's own cases of single operators, pushed and inferred: a sample by default, all with ``-m slow``."""

import collections
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness import Daemon, Host, until
from nodecases import Case, bare, collect, decode, encode

SAMPLE = 60
IN_A_PROCESS = 5
"""Each of so many cases runs in a process of its own; the others inside the worker, which is 20 times as fast."""


HELD = 12
"""Models that the worker may hold at a time."""


def loaded(daemon: Daemon) -> int:
    return sum(len(worker["runners"]) for worker in daemon.get("/api/v1/status")["workers"])


def chosen(count: int | None) -> tuple[list[Case], collections.Counter[str]]:
    """Return the first so many cases that can pass, and why others were left out on the way."""
    cases, left_out = collect()
    passing: list[Case] = []
    for case in cases:
        if count is not None and len(passing) == count:
            break
        if why := bare(case):
            left_out[why] += 1
        else:
            passing.append(case)
    return passing, left_out


def outcome(daemon: Daemon, case: Case) -> str:
    """Push one case and infer; return what went wrong."""
    octets = {"Content-Type": "application/octet-stream"}
    pushed = daemon.call("PUT", f"/api/v1/models/{case.name}", case.model, headers=octets)
    if pushed.status not in (200, 201):
        return f"refused: {pushed.status} {pushed.body.decode()[:300]}"
    body, headers = encode(case)
    reply = daemon.call("POST", f"/v2/models/{case.name}/infer", body, headers=headers)
    if reply.status != 200:
        return f"failed: {reply.status} {reply.body.decode()[:300]}"
    return case.differs(decode(reply.body, int(reply.headers.get("inference-header-content-length", 0))))


def run(host: Host, cases: Sequence[Case], left_out: collections.Counter[str]) -> dict[str, str]:
    """Run cases on a daemon that holds a few models at a time; return what went wrong, by name."""
    apart = {f"worker.models.{case.name!r}": {"isolation": "process"} for case in cases[::IN_A_PROCESS]}
    daemon = host.daemon(worker={"isolation": "thread", "max_runners": HELD}, **apart).start().wait_ready()
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda case: outcome(daemon, case), cases))
    wrong = {case.name: what for case, what in zip(cases, results, strict=True) if what}
    operators = len({case.operator for case in cases})
    sys.stdout.write(f"\n{len(cases)} cases of {operators} operators pushed, {len(cases) - len(wrong)} passed\n")
    for why, count in left_out.most_common():
        sys.stdout.write(f"{count} left out: {why}\n")
    until(lambda: loaded(daemon) <= HELD, "models in excess are evicted")
    return wrong


@pytest.mark.timeout(120)
def test_a_sample_of_operators(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        wrong = run(host, *chosen(SAMPLE))
    assert wrong == {}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_operators(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        wrong = run(host, *chosen(None))
    assert wrong == {}
