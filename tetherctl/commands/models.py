"""``tetherctl models``: list them, look at them, and steer what an alias means and what is loaded."""

import time
from collections.abc import Iterator
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Annotated, Any, Final

from typer import Argument, Context, Option

from tetherctl.errors import Usage
from tetherctl.human import ago, clean, size, stamped
from tetherctl.output import Column
from tetherctl.session import Session
from tetherd.types import LATEST, parse_alias, parse_model, parse_reference

LOADING: Final = 120.0
ROOT: Final = "/api/v1/models"

Model = Annotated[str, Argument(metavar="MODEL", help="Name of the model.")]
Ref = Annotated[str, Argument(metavar="MODEL", help="Model, MODEL@VERSION or MODEL@ALIAS.")]
Numbered = Annotated[str, Argument(metavar="MODEL@VERSION", help="A version, such as digits@3.")]


def ls(
    ctx: Context,
    pattern: Annotated[str, Argument(metavar="[PATTERN]", help="Only names that match, such as 'dig*'.")] = "*",
) -> None:
    """List models."""
    session: Session = ctx.obj
    items = stamped(session.client.json("GET", ROOT)["models"])
    shown = [item for item in items if fnmatchcase(item["name"], pattern)]
    now = time.time()
    columns = [
        Column("MODEL", lambda item: item["name"]),
        Column("VERSION", lambda item: item["version"], number=True),
        Column("ALIASES", lambda item: _aliases(item["aliases"])),
        Column("FORMAT", lambda item: item["format"]),
        Column("SIZE", lambda item: size(item["size"]), number=True),
        Column("STATE", _state),
        Column("CREATED", lambda item: ago(_moment(item["created"]), now)),
    ]
    summary = f"{len(shown)} of {len(items)} models" if pattern != "*" else _count(len(items), "model")
    if not items:
        summary = "no models yet; tetherctl models push DIRECTORY adds one"
    session.out.listing("tether.models.list/v1", shown, columns, lambda item: str(item["name"]), summary)


def show(
    ctx: Context,
    model: Ref,
    where: Annotated[bool, Option("--where", help="Say which managers hold each version.")] = False,
) -> None:
    """Show one model: versions, aliases, signature, runners."""
    session: Session = ctx.obj
    document = _fetch(session, model)
    if where:
        _locate(session, document)
    session.out.record("tether.models.show/v1", document, _screen(document), document["name"])


def versions(ctx: Context, model: Model) -> None:
    """List the versions of a model, newest first."""
    session: Session = ctx.obj
    document = _fetch(session, parse_model(model))
    pointing: dict[int, list[str]] = {}
    for alias, value in document["aliases"].items():
        pointing.setdefault(_target(value), []).append(alias)
    items = [
        {**item, "name": document["name"], "aliases": sorted(pointing.get(item["number"], []))}
        for item in sorted(document["versions"], key=lambda item: -int(item["number"]))
    ]
    now = time.time()
    columns = [
        Column("VERSION", lambda item: item["number"], number=True),
        Column("ALIASES", lambda item: ", ".join(item["aliases"])),
        Column("DIGEST", lambda item: short(item["digest"])),
        Column("SIZE", lambda item: size(item["size"]), number=True),
        Column("STATE", _state),
        Column("CREATED", lambda item: ago(_moment(item["created"]), now)),
    ]
    summary = f"{_count(len(items), 'version')} of {clean(document['name'])}"
    session.out.listing("tether.models.versions/v1", items, columns, _numbered, summary)


def promote(
    ctx: Context,
    model: Numbered,
    alias: Annotated[str, Option("--alias", "--to", metavar="ALIAS", help="Alias to move.")] = LATEST,
) -> None:
    """Point an alias at a version.

    The version is loaded first; the alias moves once it is ready to serve.
    """
    session: Session = ctx.obj
    reference = parse_reference(model)
    if reference.version is None:
        raise Usage(
            f"promote needs a version number, and {model!r} has none",
            fix=f"tetherctl models versions {reference.model}",
        )
    path = f"{ROOT}/{reference.model}/aliases/{parse_alias(alias)}"
    document = session.client.json("PUT", path, {"version": reference.version}, timeout=LOADING)
    _say_alias(session, reference.model, alias, document)


def rollback(
    ctx: Context,
    model: Model,
    alias: Annotated[str, Option("--alias", metavar="ALIAS", help="Alias to move.")] = LATEST,
) -> None:
    """Point an alias back at where it was before."""
    session: Session = ctx.obj
    path = f"{ROOT}/{parse_model(model)}/aliases/{parse_alias(alias)}/rollback"
    _say_alias(session, model, alias, session.client.json("POST", path, timeout=LOADING))


def load(ctx: Context, model: Ref) -> None:
    """Load a version now and keep it loaded."""
    document = _steer(ctx.obj, model, "load")
    _say_state(ctx.obj, "tether.models.load/v1", document, _numbered(document))


def unload(ctx: Context, model: Model) -> None:
    """Stop a model with all its versions and refuse work for it until it is loaded again."""
    reference = parse_reference(model)
    if "@" in model:
        raise Usage(
            f"unload stops a model with all its versions, and {model!r} names one of them",
            fix=f"tetherctl models unload {reference.model}",
        )
    document = _steer(ctx.obj, model, "unload")
    _say_state(ctx.obj, "tether.models.unload/v1", document, document["name"])


def rm(
    ctx: Context,
    model: Annotated[str, Argument(metavar="MODEL[@VERSION]", help="A model with all its versions, or one version.")],
    yes: Annotated[bool, Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a model or one version of it."""
    session: Session = ctx.obj
    reference = parse_reference(model)
    if reference.version is None and "@" in model:
        raise Usage(
            f"rm takes a version number, not the alias in {model!r}", fix=f"tetherctl models versions {reference.model}"
        )
    what = (
        f"version {reference.version} of {reference.model}" if reference.version else f"{reference.model}, all versions"
    )
    if not yes:
        session.require_yes(f"Remove {what}? This cannot be undone.", f"tetherctl models rm {model} --yes")
    session.client.json("DELETE", f"{ROOT}/{reference}")
    session.out.record("tether.models.rm/v1", {"removed": str(reference)}, [f"removed {what}"], str(reference))


def _fetch(session: Session, model: str) -> dict[str, Any]:
    document: dict[str, Any] = stamped(session.client.json("GET", f"{ROOT}/{parse_reference(model)}"))
    return document


def _locate(session: Session, document: dict[str, Any]) -> None:
    """Add to each version of a model's document which managers hold it, and how many are to."""
    found = session.client.json("GET", f"{ROOT}/{document['name']}/holders")
    holders = {item["digest"]: item["holders"] for item in found["versions"]}
    for item in document["versions"]:
        held = holders.get(item["digest"], [])
        item |= {"holders": held, "copies": {"held": len(held), "wanted": found["wanted"]}}


def _steer(session: Session, model: str, verb: str) -> dict[str, Any]:
    path = f"{ROOT}/{parse_reference(model)}/{verb}"
    document: dict[str, Any] = session.client.json("POST", path, timeout=LOADING)
    return document


def _say_state(session: Session, schema: str, document: dict[str, Any], name: str) -> None:
    session.out.record(schema, document, [f"{clean(name)} is {_state(document)}"], name)


def _say_alias(session: Session, model: str, alias: str, document: dict[str, Any]) -> None:
    number = _target(document)
    before = document.get("previous")
    line = f"{clean(model)}: {clean(alias)} -> {number}" + (f"   (was {before})" if before else "")
    name = f"{model}@{alias}"
    session.out.record("tether.models.alias/v1", document, [line], name)
    if before:
        session.out.note(f"undo: tetherctl models rollback {model}" + ("" if alias == LATEST else f" --alias {alias}"))


def _target(value: Any) -> int:
    """Return the version number that an alias document, or the number itself, stands for."""
    return int(value["number"] if isinstance(value, dict) else value)


def _numbered(item: dict[str, Any]) -> str:
    return f"{item['name']}@{item['number'] if 'number' in item else item['version']}"


def _screen(doc: dict[str, Any]) -> Iterator[str]:
    yield f"{clean(doc['name'])}  {_state(doc)}  {_aliases(doc['aliases'])}"
    if why := _why(doc):
        yield f"  why      {why}"
    now = time.time()
    for item in sorted(doc["versions"], key=lambda item: -int(item["number"])):
        created = ago(_moment(item["created"]), now)
        words = [_state(item), short(item["digest"]), clean(item["format"]), size(item["size"]), created]
        yield f"  version {item['number']}  {'  '.join(words)}"
        if (reason := _why(item)) and reason != why:
            yield f"    why      {reason}"
        for kind in ("inputs", "outputs"):
            for spec in item.get(kind, []):
                yield f"    {kind[:-1].ljust(7)}  {tensor(spec)}"
        yield from _files_and_runners(item)
        yield from _where(item)


def _files_and_runners(item: dict[str, Any]) -> Iterator[str]:
    for file in item.get("files", []):
        yield f"    file     {clean(file['path'])}  {size(file['size'])}  {short(file['digest'])}"
    for runner in item.get("runners", []):
        if isinstance(runner, dict):
            state = clean(runner.get("state", "")).lower()
            yield f"    runner   {clean(runner.get('runner', ''))}  {state}  pid {runner.get('pid', 0)}"
        else:
            yield f"    runner   {clean(runner)}"


def _where(item: dict[str, Any]) -> Iterator[str]:
    if "holders" not in item:
        return
    for holder in item["holders"]:
        marks = [mark for mark, is_so in (("primary", holder["primary"]), ("silent", not holder["alive"])) if is_so]
        words = [clean(holder["name"]), short_node(holder["node"]), *marks]
        yield f"    held by  {'  '.join(word for word in words if word)}"
    yield f"    copies   {spread(item['copies'])}"


def spread(copies: dict[str, int]) -> str:
    """Return how far a version has spread: ``REPLICATED 2/3 (pending)``."""
    held, wanted = copies["held"], copies["wanted"]
    lack = " (no manager that is there holds it)" if not held else " (pending)" if held < wanted else ""
    return f"REPLICATED {held}/{wanted}{lack}"


def short_node(node: str) -> str:
    """Return the part of a node's id that people compare; empty for a host in no network."""
    return clean(node)[:12]


def tensor(spec: dict[str, Any]) -> str:
    """Return an input or output as one line: name, datatype, shape."""
    shape = ", ".join("any" if size == -1 else str(size) for size in spec["shape"])
    return f"{clean(spec['name'])}  {clean(spec['datatype'])} [{shape}]" + (
        "  optional" if spec.get("optional") else ""
    )


def _aliases(aliases: dict[str, Any]) -> str:
    return ", ".join(f"{clean(alias)} -> {_target(value)}" for alias, value in sorted(aliases.items()))


def _state(item: dict[str, Any]) -> str:
    return clean(item.get("state", "")).lower()


def _why(item: dict[str, Any]) -> str:
    """Return the reason for a state, unless it is idle: that nobody asked needs no explanation."""
    return "" if _state(item) == "idle" else clean(item.get("reason", ""))


def _moment(created: str) -> float:
    return datetime.fromisoformat(created).timestamp()


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def short(digest: str) -> str:
    """Return the part of a digest that people compare."""
    return clean(digest)[:19]
