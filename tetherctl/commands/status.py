"""``tetherctl status``: can inference be served, by whom, and what waits."""

from collections.abc import Iterator
from typing import Any, Final

from typer import Context

from tetherctl.human import clean, size, span, stamped
from tetherctl.session import Session

SCHEMA: Final = "tether.status/v1"
MOST: Final = 10


def status(ctx: Context) -> None:
    """Show whether inference can be served, and by whom."""
    session: Session = ctx.obj
    document = stamped(session.client.json("GET", "/api/v1/status"))
    document["uptime_ms"] = int(document.pop("uptime_s", 0) * 1000)
    session.out.record(SCHEMA, document, lines(document), document.get("node", ""))


def lines(doc: dict[str, Any]) -> Iterator[str]:
    """Yield one screen about one daemon."""
    state = "ready" if doc.get("ready") else "not ready"
    up, pid = span(doc.get("uptime_ms", 0) / 1000), doc.get("pid", "")
    yield f"{clean(doc.get('node', ''))}  {state}  up {up}  tether {clean(doc.get('version', ''))}  pid {pid}"
    if doc.get("reason"):
        yield _fact("why", doc["reason"])
    yield _fact("roles", ", ".join(doc.get("roles", [])) or "none that both this host and its network want")
    if doc.get("network"):
        yield _fact("network", doc["network"])
    if doc.get("address"):
        yield _fact("address", doc["address"])
    for part in ("orchestrator", "manager"):
        if part in doc:
            yield _fact(part, "reachable" if doc[part].get("reachable") else "not reachable")
    if "models" in doc:
        yield _fact("models", doc["models"])
        yield from _troubled(doc.get("troubled", []))
    if "workers" not in doc:  # a daemon that neither is nor calls an orchestrator knows nothing more
        return
    workers = doc["workers"]
    yield _fact("workers", len(workers))
    for worker in workers:
        yield from _worker(worker)
    queues = doc.get("queues", [])
    busy = [queue for queue in queues if queue["waiting"] or queue["leased"]]
    yield _fact("queues", f"{sum(queue['waiting'] for queue in queues)} waiting")
    for queue in busy:
        waiting = f"{queue['waiting']} of {queue['limit']} waiting"
        name = clean(f"{queue['model']}@{queue['number']}")
        yield f"    {name}  {waiting}, {queue['leased']} running, {queue['parked']} free"


def _troubled(items: list[dict[str, Any]]) -> Iterator[str]:
    for item in items[:MOST]:
        name = item["name"] if item["state"] == "UNLOADED" else f"{item['name']}@{item['version']}"
        reason = f"  {clean(item['reason'])}" if item["state"] != "UNLOADED" else ""
        yield f"    {clean(name)}  {clean(item['state']).lower()}{reason}"
    if len(items) > MOST:
        yield f"    and {len(items) - MOST} more; tetherctl models ls lists all"


def _fact(name: str, value: object) -> str:
    return f"  {name:<14}{clean(value)}"


def _worker(worker: dict[str, Any]) -> Iterator[str]:
    used, limit = size(worker.get("memory_used", 0)), size(worker.get("memory_limit", 0))
    words = [clean(worker["worker"]), f"{used} of {limit}", f"{worker.get('busy', 0)} busy"]
    if worker.get("stopping"):
        words.append("stopping")
    if worker.get("seen_ms_ago", 0) > 3000:
        words.append(f"silent for {span(worker['seen_ms_ago'] / 1000)}")
    yield f"    {'  '.join(words)}"
    for runner in worker.get("runners", []):
        reason = f"  {clean(runner['reason'])}" if runner.get("reason") else ""
        name, state = clean(f"{runner['model']}@{runner['number']}"), clean(runner["state"]).lower()
        yield f"      {name}  {state}  {size(runner.get('bytes', 0))}  pid {runner.get('pid', 0)}{reason}"
