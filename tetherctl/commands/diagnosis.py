"""``doctor``, ``netcheck`` and ``ping``: what is wrong with this host and its network, and whether a node answers."""

import time
from collections.abc import Iterator
from itertools import islice
from typing import Annotated, Any, Final
from urllib.parse import quote

from typer import Argument, Context, Option

from tetherctl.errors import Usage
from tetherctl.human import align, clean, parse_duration, span
from tetherctl.session import Session
from tetherd import __version__
from tetherd.config.load import load
from tetherd.errors import TetherError

PATIENCE: Final = 20.0
PAUSE: Final = 1.0
NO_ANSWER: Final = 6
MOST: Final = 1000
SKEW_MS: Final = 1000
CHECKS: Final = (
    "config",
    "socket",
    "seeds",
    "multicast",
    "udp",
    "mapping",
    "tcp",
    "mtu",
    "tls",
    "clock",
    "disk",
    "files",
)


def doctor(
    ctx: Context,
    only: Annotated[str, Option("--only", metavar="A,B", help=f"Only these checks: {', '.join(CHECKS)}.")] = "",
    strict: Annotated[bool, Option("--strict", help="Fail on warnings too.")] = False,
) -> int:
    """Examine this host and its network, and say what to do.

    Exit code 1 when a check fails; a warning alone is 0 unless --strict.
    """
    session: Session = ctx.obj
    wanted = _chosen(only)
    checks = list(_examine(session, wanted))
    counts = {state: sum(check["state"] == state for check in checks) for state in ("fail", "warn", "ok", "skip")}
    healthy = not counts["fail"] and not (strict and counts["warn"])
    summary = f"{counts['fail']} failed, {counts['warn']} warnings, {counts['ok']} ok, {counts['skip']} skipped"
    document = {"healthy": healthy, "checks": checks}
    session.out.record("tether.doctor/v1", document, _findings(checks), "healthy" if healthy else "unhealthy")
    session.out.note(summary)
    return 0 if healthy else 1


def netcheck(ctx: Context) -> None:
    """Show how this host finds others, and what was dropped: counts of each source, every node, every reason."""
    session: Session = ctx.obj
    document = session.client.json("GET", "/api/v1/netcheck", timeout=PATIENCE)
    session.out.record("tether.netcheck/v1", document, _survey(document), str(len(document["peers"])))


def ping(
    ctx: Context,
    node: Annotated[str, Argument(metavar="NODE", help="Name of the node, its id, or the beginning of its id.")],
    count: Annotated[int, Option("--count", metavar="N", min=1, max=MOST, help="How often, once a second.")] = 1,
    until_direct: Annotated[bool, Option("--until-direct", help="Go on until a path is not relayed.")] = False,
    patience: Annotated[str, Option("--for", metavar="TIME", help="How long to go on for a direct path.")] = "60s",
) -> int:
    """Ask a node for a sign of life, and show the path to it.

    Exit code 6 when it never answers, or with --until-direct when no direct path was found in time.
    """
    session: Session = ctx.obj
    until = time.monotonic() + parse_duration(patience, "--for")
    pings: list[dict[str, Any]] = []
    for one in islice(_ping_on(session, node), MOST if until_direct else count):
        pings.append(one)
        if session.out.form == "table":
            session.out.say(_pinged(one))
            if one["large"]:
                session.out.say(f"  {clean(one['large'])}")
        if until_direct and (_is_direct(one) or time.monotonic() >= until):
            break
    answered = sum(one["answers"] for one in pings)
    last = pings[-1]
    if session.out.form != "table":
        document = {**last, "sent": len(pings), "answered": answered, "pings": [_brief(one) for one in pings]}
        session.out.record("tether.ping/v1", document, (), last["node"])
    elif session.out.verbose or not answered:
        for line in _missed(last):
            session.out.say(line)
    return 0 if answered and (_is_direct(last) or not until_direct) else NO_ANSWER


def _ping_on(session: Session, node: str) -> Iterator[dict[str, Any]]:
    while True:
        yield session.client.json("GET", f"/api/v1/ping/{quote(node, safe='')}", timeout=PATIENCE)
        time.sleep(PAUSE)


def _chosen(only: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in only.split(",")) if only else CHECKS
    if unknown := [name for name in names if name not in CHECKS]:
        raise Usage(f"there is no check {unknown[0][:80]!r}", fix=f"the checks are {', '.join(CHECKS)}")
    return names


def _examine(session: Session, wanted: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Yield the wanted checks, those of this side first, and why the daemon's are missing where it cannot be asked."""
    if "config" in wanted:
        yield _configuration()
    if not set(wanted) - {"config"}:
        return
    found: list[dict[str, Any]] = []
    try:
        socket = _answering(session)
        if set(wanted) - {"config", "socket"}:
            found = session.client.json("GET", "/api/v1/doctor", timeout=PATIENCE)["checks"]
    except TetherError as error:
        socket = _failed("socket", error)
    if "socket" in wanted or socket["state"] == "fail":
        yield socket
    yield from (check for check in found if check["name"] in wanted)


def _configuration() -> dict[str, Any]:
    try:
        load(None)
    except TetherError as error:
        return _failed("config", error)
    return _check("config", "ok", "the daemon's configuration is valid")


def _answering(session: Session) -> dict[str, Any]:
    """Check that the daemon answers, in the version of this side. Raises TetherError when it does not."""
    began = time.monotonic()
    version = session.client.json("GET", "/api/v1/status")["version"]
    took = time.monotonic() - began
    state, fix = ("ok", "") if version == __version__ else ("warn", "restart the daemon after an upgrade")
    return _check("socket", state, f"tetherd {version} answers in {span(took)}, this is tetherctl {__version__}", fix)


def _check(name: str, state: str, detail: str, fix: str = "") -> dict[str, Any]:
    return {"name": name, "state": state, "detail": detail, "fix": fix, "sent": None, "heard": None, "dropped": {}}


def _failed(name: str, error: TetherError) -> dict[str, Any]:
    return _check(name, "fail", error.message, error.fix)


def _findings(checks: list[dict[str, Any]]) -> Iterator[str]:
    for check in checks:
        state = check["state"].upper() if check["state"] == "fail" else check["state"]
        yield f" {clean(state):<5} {clean(check['name']):<10} {_told(check)}"
        if check["fix"] and check["state"] in ("fail", "warn"):
            yield f"                  fix: {clean(check['fix'])}"


def _survey(document: dict[str, Any]) -> Iterator[str]:
    if not document["in_network"]:
        yield "this host is in no network"
    for check in document["mechanisms"]:
        yield f"{clean(check['name']):<10} {check['state']:<5} {_told(check)}"
        if check["fix"]:
            yield f"                 fix: {clean(check['fix'])}"
    if document["in_network"]:
        yield from _sight(document["nat"], document["dial_in"])
    if document["peers"]:
        yield ""
        rows = [_peer(peer) for peer in document["peers"]]
        yield from align(["NODE", "ROLES", "PATH", "RTT", "SOURCES", "HEARD", "ADDRESSES"], rows, {3})
    drops = [(peer, drop) for peer in document["peers"] for drop in peer["dropped"]]
    drops += [({"name": "", "node": ""}, drop) for drop in document["dropped"]]
    if drops:
        yield ""
        yield "dropped:"
    for peer, drop in drops:
        who = clean(peer["name"] or peer["node"][:16] or drop["address"])
        where = f" {clean(drop['address'])}" if drop["address"] and peer["node"] else ""
        times = f", {drop['count']} times" if drop["count"] > 1 else ""
        yield f"  {who}{where}: {clean(drop['detail'])} ({clean(drop['reason'])}{times}, {_ago(drop['last_ms_ago'])})"
    for seed in document["seeds"]:
        yield f"  seed {clean(seed['address'])}: {clean(seed['failure'] or 'not asked yet')}"


def _told(check: dict[str, Any]) -> str:
    """Return what a check found, and its counts."""
    counts = [f"{name} {check[name]}" for name in ("sent", "heard") if check[name] is not None]
    counts += [f"dropped {count} ({reason})" for reason, count in sorted(check["dropped"].items())]
    return clean("; ".join([check["detail"], *counts]))


def _sight(views: list[dict[str, Any]], check: dict[str, Any]) -> Iterator[str]:
    """Yield how this host appears to others, and whether they can dial it."""
    yield from (f"{'nat':<10} {view['family']:<5} {clean(view['detail'])}" for view in views)
    yield f"{'dial-in':<10} {check['state']:<5} {clean(check['detail'])}"
    if check["fix"]:
        yield f"                 fix: {clean(check['fix'])}"


def _peer(peer: dict[str, Any]) -> list[str]:
    name = peer["name"] or f"{peer['node'][:16]} (no member)"
    path = peer["path"] or ("revoked" if peer["revoked"] else "-")
    rtt = "" if peer["rtt_ms"] is None else _ms(peer["rtt_ms"])
    shown = [f"from {peer['arrived']}"] if peer["arrived"] and not peer["dialled"] else []
    shown += [one["address"] for one in peer["addresses"][:2]]
    more = [f"+{len(peer['addresses']) - 2}"] if len(peer["addresses"]) > 2 else []
    cells = [name, ",".join(peer["roles"]), path, rtt, ",".join(peer["sources"]), _ago(peer["heard_ms_ago"])]
    return [clean(cell) for cell in [*cells, " ".join([*shown, *more])]]


def _pinged(one: dict[str, Any]) -> str:
    name, brief = one["name"] or one["node"][:16], _brief(one)
    if not one["answers"]:
        return clean(f"{name}  no answer  {one['failure']}".rstrip())
    if brief["rtt_ms"] is None:
        # Who only dials answers no question, and shows by its connection that it is there.
        return clean(f"{name}  {brief['path']}  it is connected from {one['arrived']}, and only it can ask")
    words = [name, brief["path"], _ms(brief["rtt_ms"])]
    words += [one["best"]["address"]] if one["best"] else []
    ahead = one["clock_ahead_ms"] or 0
    words += [f"clock {span(abs(ahead) / 1000)} {'ahead' if ahead > 0 else 'behind'}"] if abs(ahead) > SKEW_MS else []
    return clean("  ".join(words))


def _brief(one: dict[str, Any]) -> dict[str, Any]:
    """Return the path and round trip of the connection in use, or of the best address that answers."""
    best = one["best"] or {}
    rtt = one["round_trip_ms"] if one["round_trip_ms"] is not None else best.get("rtt_ms")
    return {"answers": one["answers"], "path": one["path"] or best.get("path", ""), "rtt_ms": rtt}


def _is_direct(one: dict[str, Any]) -> bool:
    path = _brief(one)["path"]
    return bool(path) and not path.startswith("relay")


def _missed(one: dict[str, Any]) -> Iterator[str]:
    if not one["missed"] and not one["best"]:
        yield "  no address of it is known: tetherctl netcheck shows what is heard"
    for missed in one["missed"]:
        yield f"  {clean(missed['address'])}  {clean(missed['path'])}  {clean(missed['detail'])}"


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:.2f} ms" if milliseconds < 10 else span(milliseconds / 1000)


def _ago(milliseconds: float | None) -> str:
    return "never" if milliseconds is None else f"{span(milliseconds / 1000)} ago"
