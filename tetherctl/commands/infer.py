"""``tetherctl infer``: one request from stdin or a file, or a stream of them, one JSON value a line."""

import os
import sys
from typing import Annotated, Any, BinaryIO, Final

import msgspec
from typer import Argument, Context, Option

from tetherctl.client import Client
from tetherctl.errors import NotAnswering, Usage
from tetherctl.human import parse_duration
from tetherctl.output import is_terminal
from tetherctl.session import Session
from tetherd.errors import MALFORMED, DeadlineExceeded, TooLarge
from tetherd.types import parse_reference

SCHEMA: Final = "tether.infer/v1"
MAX_INPUT: Final = 64 * 1024 * 1024
PATIENCE: Final = 120.0  # a first request also loads the model


def infer(  # noqa: PLR0913  (each is one option of the command)
    ctx: Context,
    model: Annotated[str, Argument(metavar="MODEL", help="Model, MODEL@VERSION or MODEL@ALIAS.")],
    source: Annotated[str, Option("--input", "-i", metavar="FILE", help="Read FILE instead of stdin.")] = "-",
    batch: Annotated[
        bool, Option("--batch", help="One JSON request a line in, one answer a line out, in order.")
    ] = False,
    concurrency: Annotated[
        int, Option("--concurrency", metavar="N", min=1, max=256, help="With --batch: at once.")
    ] = 8,
    keep_going: Annotated[bool, Option("--keep-going", help="With --batch: go on after a failed line.")] = False,
    deadline: Annotated[str, Option("--deadline", metavar="DURATION", help="Give up after: 500ms, 2s, 1m.")] = "",
    raw: Annotated[bool, Option("--raw", help="Print the answer's bytes as they came.")] = False,
) -> int:
    """Run a model on JSON from stdin or a file.

    The input is {"inputs": {"name": [[...]]}}, a bare list where the model has one input, or an Open Inference v2
    request; the answer has the matching form.
    """
    session: Session = ctx.obj
    ask = Asker(model, deadline)
    if batch and raw:
        raise Usage("--batch and --raw exclude each other", fix="leave out --raw")
    if not batch and keep_going:
        raise Usage("--keep-going goes with --batch", fix="add --batch, or leave out --keep-going")
    with _open(source, model) as stream:
        if batch:
            from tetherctl.batch import run_batch

            return run_batch(session, ask, stream, concurrency, keep_going=keep_going)
        body = read_input(stream)
    _show(session, ask(session.client, body), raw=raw)
    return 0


class Asker:
    """Sends requests to one model. Raises InvalidInput for a bad reference or duration."""

    def __init__(self, model: str, deadline: str) -> None:
        self.path = f"/api/v1/inference/{parse_reference(model)}"
        self.seconds = parse_duration(deadline, "--deadline") if deadline else None

    def __call__(self, client: Client, body: bytes) -> bytes:
        """Return the answer's bytes. Raises InvalidInput, DeadlineExceeded and whatever the daemon says."""
        headers = {"Content-Type": "application/json"}
        if self.seconds is None:
            return client.request("POST", self.path, body, headers, PATIENCE).read()
        client.timeout = self.seconds  # hanging up is what tells the daemon to drop the work
        try:
            return client.request("POST", self.path, body, headers).read()
        except NotAnswering:
            raise DeadlineExceeded(
                f"no answer within {self.seconds:g} s", fix="give it longer with --deadline, or see tetherctl status"
            ) from None


def _open(source: str, model: str) -> BinaryIO:
    if source != "-":
        return open(source, "rb")  # noqa: PTH123  (used as a context manager by the caller)
    if is_terminal(sys.stdin):
        raise Usage(
            "tetherctl infer reads JSON from stdin or a file, and nothing is piped in",
            fix=f"tetherctl infer {model} < input.json     or     tetherctl infer {model} -i input.json",
        )
    return os.fdopen(os.dup(0), "rb") if sys.stdin else open(os.devnull, "rb")  # noqa: PTH123


def read_input(stream: BinaryIO) -> bytes:
    """Read one JSON document, at most MAX_INPUT bytes. Raises Usage and TooLarge."""
    body = stream.read(MAX_INPUT + 1)
    if len(body) > MAX_INPUT:
        raise TooLarge(f"the input is larger than {MAX_INPUT >> 20} MiB", fix="send fewer rows, or use --batch")
    check_json(body, "the input")
    return body


def check_json(body: bytes, what: str) -> None:
    """Raise Usage, in one line, unless ``body`` is a JSON document."""
    if not body.strip():
        raise Usage(f"{what} is empty", fix="pipe in a JSON document, or name a file with -i")
    try:
        msgspec.json.decode(body)
    except MALFORMED as error:
        raise Usage(f"{what} is not JSON: {error}", fix="correct it; jq . shows where it breaks") from None


def _show(session: Session, answer: bytes, *, raw: bool) -> None:
    out = session.out
    if raw:
        out.write_bytes(answer)
        return
    try:
        document: dict[str, Any] = msgspec.json.decode(answer, type=dict[str, Any])
    except MALFORMED:
        out.write_bytes(answer)
        return
    if out.machine:
        document = {"schema": SCHEMA, **document}
    out.json(document, pretty=out.form != "ndjson" and is_terminal(out.stdout))
