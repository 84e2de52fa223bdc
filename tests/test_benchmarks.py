"""The arithmetic behind the benchmark's report."""

import math

import pytest

from benchmarks import bulk, dht, report
from benchmarks.failover import longest_gap
from benchmarks.serving import FULL, QUICK, rotated


def record(turn: int, contender: str, rate: float, p50: float = 1.0, **place: object) -> report.Record:
    where = {"model": "tiny", "payload": "json", "connections": 32, **place}
    return report.Record(round=turn, contender=contender, rate=rate, p50=p50, p99=9.0, cpu_us=50.0, **where)


def test_a_ratio_compares_within_each_round_before_it_takes_the_median() -> None:
    # The machine halves its speed in the second round: the ratio of medians would be 1.0, the rounds say 2.
    cell = [record(0, "a", 200), record(0, "b", 100), record(1, "a", 100), record(1, "b", 50), record(2, "b", 100)]
    assert report.ratio(cell, "a", ["b"]) == 2.0


def test_the_rival_is_the_better_one_of_that_round() -> None:
    cell = [record(0, "a", 90), record(0, "b", 100, 2.0), record(0, "c", 30, 0.5)]
    assert report.ratio(cell, "a", ["b", "c"]) == 0.9
    assert report.ratio(cell, "a", ["b", "c"], "p50") == 2.0


def test_a_ratio_without_a_rival_is_not_a_number() -> None:
    assert math.isnan(report.ratio([record(0, "a", 1)], "a", ["b"]))


@pytest.mark.parametrize(
    ("floor", "measured", "verdict"),
    [(True, 2.0, "PASS"), (True, 1.99, "MISS"), (False, 2.0, "PASS"), (False, 2.01, "MISS"), (True, math.nan, "n/a")],
)
def test_a_figure_passes_on_its_bound(floor: bool, measured: float, verdict: str) -> None:
    assert report.Figure("x", 2.0, floor, measured).verdict() == verdict


def test_every_promise_is_judged_and_the_peers_stand_in_every_cell() -> None:
    records = [
        record(turn, who, rate, model=model, payload=payload, connections=connections)
        for turn in range(3)
        for model, cells in FULL.items()
        for payload, connections in cells
        for who, rate in (
            ("tether", 300),
            ("tether-thread", 400),
            ("mosec", 200),
            ("mosec-nobatch", 100),
            ("fastapi", 100),
        )
    ]
    starts = [report.Start(0, "tiny", "tether", 0.5, 0.9, 150, 300, 160, 4, 0.2)]
    found = report.figures(records, starts)
    assert {figure.verdict() for figure in found} == {"PASS"}
    assert len(found) == 15
    text = report.cells(records, [report.Limit(turn, "tiny", 1, 600) for turn in range(3)])
    assert "1.50" in text
    assert "0.500" in text


def test_a_table_lines_up() -> None:
    lines = report.table([["name", "n"], ["a", "10"], ["long name", "9"]]).splitlines()
    assert lines == ["name       n", "---------  --", "a          10", "long name   9"]


def test_the_longest_gap_counts_the_ends() -> None:
    assert longest_gap([1.0, 2.0, 2.5], 0.5, 6.0) == 3.5
    assert longest_gap([], 1.0, 3.0) == 2.0


def test_every_contender_leads_a_round() -> None:
    assert [rotated(["a", "b", "c"], turn)[0] for turn in range(4)] == ["a", "b", "c", "a"]  # type: ignore[list-item]


def test_the_quick_cells_are_a_part_of_the_full_ones() -> None:
    assert all(set(cells) <= set(FULL[name]) for name, cells in QUICK.items())


def test_tables_are_compared_within_each_round_by_their_medians() -> None:
    ours, theirs = [[1.0, 2.0, 90.0], [10.0, 20.0, 30.0]], [[4.0, 4.0, 4.0], [40.0, 40.0, 40.0]]
    assert dht.ratio(ours, theirs) == 0.5
    times = {"tether": dht.Times(lookup=ours, announce=ours), dht.RIVAL: dht.Times(lookup=theirs, announce=theirs)}
    assert [figure.verdict() for figure in dht.compared(20, times)] == ["PASS"] * 3
    times["tether"].misses = 1
    assert [figure.verdict() for figure in dht.compared(20, times)] == ["PASS", "PASS", "MISS"]


def test_spreading_is_judged_on_links_of_their_own() -> None:
    def visit(where: str, receivers: int, seconds: float) -> bulk.Visit:
        return bulk.Visit(0, where, 1, receivers, seconds, 1.0)

    crowded = [visit("loopback", 1, 1.0), visit("loopback", 3, 3.0)]
    assert bulk.figures(crowded)[0].verdict() == "n/a"
    apart = [visit(bulk.LINKS, 1, 10.0), visit(bulk.LINKS, 3, 12.0)]
    assert bulk.figures(crowded + apart)[0].verdict() == "PASS"
    assert bulk.figures([*apart, visit(bulk.LINKS, 3, 20.0), visit(bulk.LINKS, 3, 20.0)])[0].verdict() == "MISS"
