"""``tetherctl doctor peer``: why another node cannot be reached, found out step by step by the daemon of this host."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Final
from urllib.parse import quote

from typer import Argument, Context

from tetherctl.human import clean
from tetherctl.session import Session

SCHEMA: Final = "tether.doctor.peer/v1"
PATIENCE: Final = 60.0
PORT: Final = 7443
"""Where nodes take connections of other hosts unless told otherwise."""


def peer(
    ctx: Context,
    address: Annotated[str, Argument(metavar="HOST[:PORT]", help="Where the node takes connections of other hosts.")],
) -> int:
    """Say why another node cannot be reached at an address.

    Repeats the connection step by step, from the name of the host to whether the node hears this one. Exit code 1 when
    it cannot be reached.
    """
    session: Session = ctx.obj
    path = f"/api/v1/doctor/peer/{quote(_with_port(address), safe='')}"
    document = session.client.json("GET", path, timeout=PATIENCE)
    session.out.record(SCHEMA, document, _lines(document), document["cause"])
    return 0 if document["reachable"] else 1


def _with_port(address: str) -> str:
    if address.count(":") > 1 and not address.startswith("["):
        address = f"[{address}]"
    return address if re.search(r":\d+$", address) else f"{address}:{PORT}"


def _lines(document: dict[str, Any]) -> Iterator[str]:
    mark = "ok" if document["reachable"] else "FAIL"
    yield f"{mark}  {clean(document['address'])}  {clean(document['message'])}"
    if document["fix"]:
        yield f"      {clean(document['fix'])}"
