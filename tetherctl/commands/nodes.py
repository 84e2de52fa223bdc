"""``tetherctl nodes``: look at the nodes of the network, label them, send them away."""

from collections.abc import Iterator
from typing import Annotated, Any, Final
from urllib.parse import quote

from typer import Argument, Context, Option

from tetherctl.errors import Usage
from tetherctl.human import clean, span, stamped
from tetherctl.output import Column
from tetherctl.session import Session

ROOT: Final = "/api/v1/nodes"

Node = Annotated[str, Argument(metavar="NODE", help="Name of the node, its id, or the beginning of its id.")]
Yes = Annotated[bool, Option("--yes", "-y", help="Do not ask.")]


def ls(ctx: Context) -> None:
    """List the nodes of the network."""
    session: Session = ctx.obj
    document = stamped(session.client.json("GET", ROOT))
    columns = [
        Column("NAME", lambda item: item["name"]),
        Column("NODE", lambda item: item["node"][:16]),
        Column("ROLES", lambda item: ", ".join(item["roles"])),
        Column("STATE", lambda item: item["state"]),
        Column("SEEN", _seen),
        Column("LABELS", lambda item: " ".join(f"{key}={value}" for key, value in sorted(item["labels"].items()))),
    ]
    items = document["nodes"]
    summary = "1 node" if len(items) == 1 else f"{len(items)} nodes"
    session.out.listing("tether.nodes.list/v1", items, columns, lambda item: str(item["name"]), summary)


def show(ctx: Context, node: Node) -> None:
    """Show one node."""
    session: Session = ctx.obj
    document = stamped(session.client.json("GET", _path(node)))
    session.out.record("tether.nodes.show/v1", document, _screen(document), document["node"])


def label(
    ctx: Context,
    node: Node,
    labels: Annotated[list[str], Argument(metavar="KEY=VALUE|KEY-", help="A label to set, or one to remove.")],
) -> None:
    """Set labels of a node, or remove them."""
    session: Session = ctx.obj
    document = stamped(session.client.json("PATCH", f"{_path(node)}/labels", {"labels": dict(map(_label, labels))}))
    session.out.record("tether.nodes.label/v1", document, _screen(document), document["node"])


def revoke(ctx: Context, node: Node, yes: Yes = False) -> None:
    """Send a node away: its connections end within seconds, and it cannot come back by itself."""
    session: Session = ctx.obj
    if not yes:
        session.require_yes(f"Revoke {node}? To come back takes a new token.", f"tetherctl nodes revoke {node} --yes")
    document = stamped(session.client.json("POST", f"{_path(node)}/revoke"))
    session.out.record("tether.nodes.revoke/v1", document, [f"revoked {clean(document['name'])}"], document["node"])
    _succession(session, document)


def forget(ctx: Context, node: Node, yes: Yes = False) -> None:
    """Strike a node off the list; only one that is not connected."""
    session: Session = ctx.obj
    if not yes:
        session.require_yes(f"Forget {node}? To come back takes a new token.", f"tetherctl nodes forget {node} --yes")
    document = session.client.json("DELETE", _path(node))
    session.out.record("tether.nodes.forget/v1", document, [f"forgot {clean(document['name'])}"], document["forgotten"])
    _succession(session, document)


def _succession(session: Session, document: dict[str, Any]) -> None:
    """Say what became of the models, where the node that is gone was the one that changed them."""
    if document.get("successor"):
        name = clean(document["successor"])
        session.out.note(f"models are changed on {name} from now on, which takes them over as it last copied them")
        session.out.note(f"on {name}: tetherctl models ls, and models show MODEL --where")
    elif "successor" in document:
        session.out.note(
            "no manager is left: to change models again, let one join (tetherctl cluster token --role manager)"
        )


def _path(node: str) -> str:
    return f"{ROOT}/{quote(node, safe='')}"


def _label(text: str) -> tuple[str, str | None]:
    key, equals, value = text.partition("=")
    if equals and key:
        return key, value
    if text.endswith("-") and len(text) > 1:
        return text[:-1], None
    raise Usage(f"{text[:80]!r} is no label", fix="write KEY=VALUE to set one, KEY- to remove one")


def _seen(item: dict[str, Any]) -> str:
    return "" if item["seen_ms_ago"] is None else f"{span(item['seen_ms_ago'] / 1000)} ago"


def _screen(doc: dict[str, Any]) -> Iterator[str]:
    yield f"{clean(doc['name'])}  {clean(doc['state'])}"
    yield f"  node       {clean(doc['node'])}"
    yield f"  roles      {clean(', '.join(doc['roles']))}"
    if doc.get("path"):  # who is only labelled or listed has none
        yield f"  path       {clean(doc['path'])}"
    if doc["addresses"]:
        yield f"  addresses  {clean(', '.join(doc['addresses']))}"
    for key, value in sorted(doc["labels"].items()):
        yield f"  label      {clean(key)}={clean(value)}"
    yield f"  joined     {clean(doc['joined'])}"
    if doc["revoked"]:
        yield f"  revoked    {clean(doc['revoked'])}"
    if seen := _seen(doc):
        yield f"  seen       {seen}"
