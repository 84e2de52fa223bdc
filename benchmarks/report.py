"""From records to ratios, tables and the figures Tether promises. Arithmetic and text only: measures nothing."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

MOSEC = ("mosec", "mosec-nobatch")
"""Its batching helps many clients and hurts one, so every comparison takes whichever did better in that round.

As it comes, that is with the JSON of its own that a Worker inherits. The rows of ``mosec-orjson`` show what replacing
it by hand brings; no figure is promised against that.
"""

PEERS = (*MOSEC, "fastapi")


@dataclass(frozen=True)
class Record:
    """One cell of one round. Times in milliseconds, ``cpu_us`` in microseconds per request."""

    round: int
    model: str
    payload: str
    connections: int
    contender: str
    rate: float
    p50: float
    p99: float
    cpu_us: float


@dataclass(frozen=True)
class Start:
    """One start: seconds until ready and until the first answer, MB at rest and after load, idle CPU in percent."""

    round: int
    model: str
    contender: str
    ready: float
    first: float
    pss: float
    rss: float
    pss_after: float
    processes: int
    idle: float


@dataclass(frozen=True)
class Limit:
    """Rows per second of bare ONNX Runtime in one round."""

    round: int
    model: str
    batch: int
    rate: float


@dataclass(frozen=True)
class Size:
    """Bytes of one request's body, in the Open Inference Protocol and in a hand-written server's own shape."""

    model: str
    payload: str
    protocol: int
    natural: int


@dataclass(frozen=True)
class Figure:
    """One promise: what it is, the bound, whether the bound is a floor, and what was measured (nan: was not)."""

    name: str
    target: float
    floor: bool
    measured: float

    def verdict(self) -> str:
        """Return PASS, MISS, or n/a where nothing was measured."""
        if math.isnan(self.measured):
            return "n/a"
        return "PASS" if (self.measured >= self.target if self.floor else self.measured <= self.target) else "MISS"


@dataclass(frozen=True)
class Place:
    """Where in the plan a cell is."""

    model: str
    payload: str
    connections: int


def at(records: Iterable[Record], place: Place) -> list[Record]:
    """Return the records of one cell, all contenders and rounds."""
    return [item for item in records if Place(item.model, item.payload, item.connections) == place]


def ratio(cell: Sequence[Record], ours: str, theirs: Sequence[str], of: str = "rate") -> float:
    """Return the median over rounds of ``ours`` over the best of ``theirs`` in that round; nan if there is none.

    The best has the highest ``rate``, or the lowest of any other field.
    """
    best: Callable[[Iterable[float]], float] = max if of == "rate" else min
    ratios = []
    for turn in {item.round for item in cell}:
        mine = [getattr(item, of) for item in cell if item.round == turn and item.contender == ours]
        rivals = [getattr(item, of) for item in cell if item.round == turn and item.contender in theirs]
        if mine and rivals:
            ratios.append(mine[0] / best(rivals))
    return median(ratios) if ratios else math.nan


def middle(items: Iterable[object], field: str) -> float:
    """Return the median of ``field``, leaving out what was not measured; nan if nothing was."""
    values = [value for item in items if not math.isnan(value := getattr(item, field))]
    return median(values) if values else math.nan


def figures(records: Sequence[Record], starts: Sequence[Start]) -> list[Figure]:
    """Return every figure that the serving run can show."""

    def rate(place: Place, ours: str, theirs: Sequence[str]) -> float:
        return ratio(at(records, place), ours, theirs)

    busy, alone = Place("tiny", "json", 32), Place("tiny", "json", 1)
    large = Place("mid", "json", 32)
    found = [
        Figure("tiny JSON, 32 at once: x mosec (process)", 0.75, True, rate(busy, "tether", MOSEC)),
        Figure("tiny JSON, 32 at once: x FastAPI (process)", 2.0, True, rate(busy, "tether", ["fastapi"])),
        Figure("tiny JSON, 32 at once: x mosec (thread)", 1.0, True, rate(busy, "tether-thread", MOSEC)),
        Figure("tiny JSON, 1 at once: p50 x mosec (process)", 2.0, False, _p50(records, alone, "tether")),
        Figure("tiny JSON, 1 at once: p50 x mosec (thread)", 1.2, False, _p50(records, alone, "tether-thread")),
        Figure("mid JSON, 32 at once: x the better peer", 1.1, True, rate(large, "tether", PEERS)),
    ]
    for payload, target in (("binary", 0.8), ("json", 1.5)):
        pictures = [item for item in records if (item.model, item.payload) == ("image", payload)]
        for count in sorted({item.connections for item in pictures}):
            name = f"image {payload}, {count} at once: x FastAPI (process)"
            found.append(Figure(name, target, True, rate(Place("image", payload, count), "tether", ["fastapi"])))
    small = [item for item in starts if (item.model, item.contender) == ("tiny", "tether")]
    return [
        *found,
        Figure("cold start to the first answer, seconds", 1.5, False, middle(small, "first")),
        Figure("memory at rest with the spare, MB PSS", 220, False, middle(small, "pss")),
        Figure("idle CPU, % of one core", 1.0, False, middle(small, "idle")),
    ]


def cells(records: Sequence[Record], limits: Sequence[Limit]) -> str:
    """Return the table of rates: medians over rounds, ratios within each round."""
    rows = [["model", "payload", "conns", "server", "req/s", "x mosec", "x fastapi", "x bare 1", "x bare 32"]]
    rows[0] += ["p50 ms", "p99 ms", "CPU us/req"]
    for place in dict.fromkeys(_place(item) for item in records):
        cell = at(records, place)
        bare = [_bare(cell, limits, place.model, batch) for batch in (1, 32)]
        for name in sorted({item.contender for item in cell}, key=lambda name: (name in PEERS, name)):
            mine = [item for item in cell if item.contender == name]
            versus = [ratio(cell, name, MOSEC), ratio(cell, name, ["fastapi"])]
            rows.append(
                [place.model, place.payload, str(place.connections), name, f"{middle(mine, 'rate'):.0f}"]
                + [_number(value, 2) for value in versus]
                + [_number(bare[0](name), 3), _number(bare[1](name), 4)]
                + [f"{middle(mine, 'p50'):.2f}", f"{middle(mine, 'p99'):.2f}", _number(middle(mine, "cpu_us"), 0)]
            )
    return table(rows)


def beginnings(starts: Sequence[Start]) -> str:
    """Return the table of starts: medians over rounds."""
    rows = [["model", "server", "ready s", "first answer s", "PSS MB", "RSS MB", "PSS MB after load"]]
    rows[0] += ["processes", "idle CPU %"]
    for model, name in dict.fromkeys((item.model, item.contender) for item in starts):
        mine = [item for item in starts if (item.model, item.contender) == (model, name)]
        digits = {"ready": 2, "first": 2, "pss": 0, "rss": 0, "pss_after": 0, "processes": 0, "idle": 1}
        rows.append([model, name, *(_number(middle(mine, field), places) for field, places in digits.items())])
    return table(rows)


def promises(found: Sequence[Figure]) -> str:
    """Return the figures with their verdicts."""
    rows = [["figure", "target", "measured", ""]]
    rows += [
        [item.name, f"{'>=' if item.floor else '<='} {item.target:g}", _number(item.measured, 2), item.verdict()]
        for item in found
    ]
    return table(rows)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Lay ``rows`` out in columns, the first row over a rule; numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]

    def line(row: Sequence[str]) -> str:
        fitted = [v.rjust(w) if v[:1].isdigit() else v.ljust(w) for v, w in zip(row, widths, strict=True)]
        return "  ".join(fitted).rstrip()

    return "\n".join([line(rows[0]), "  ".join("-" * width for width in widths), *map(line, rows[1:])])


def _place(item: Record) -> Place:
    return Place(item.model, item.payload, item.connections)


def _p50(records: Sequence[Record], place: Place, ours: str) -> float:
    return ratio(at(records, place), ours, MOSEC, "p50")


def _bare(cell: Sequence[Record], limits: Sequence[Limit], model: str, batch: int) -> Callable[[str], float]:
    limit = {item.round: item.rate for item in limits if (item.model, item.batch) == (model, batch)}

    def of(name: str) -> float:
        ratios = [item.rate / limit[item.round] for item in cell if item.contender == name and item.round in limit]
        return median(ratios) if ratios else math.nan

    return of


def _number(value: float, places: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{places}f}"
