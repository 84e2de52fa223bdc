"""Which catalog a primary goes on with: its own, and what it or others copied of the primaries before it, made one.

Nothing is dropped and nothing renumbered. A version whose number was given to another one keeps it under another name,
so that whoever looks at the models sees it, can use it and can remove it.
"""

from collections.abc import Iterable, Mapping
from itertools import count
from typing import Final, NamedTuple, TypeAlias

from msgspec.structs import replace

from tetherd.errors import InvalidInput
from tetherd.types import Digest, parse_alias, parse_digest, parse_model
from tetherd.wire.catalog import Alias, Catalog, Version

KEPT: Final = ".kept"
"""What the name of a model ends in that holds versions whose numbers others have."""

MAX_NUMBER: Final = 1 << 31
MAX_EPOCH: Final = 1 << 62

_STEM: Final = 56  # characters of the name before it: with a counter it stays within what a name may have

Place: TypeAlias = tuple[str, int]
"""Model and number."""


class Union(NamedTuple):
    """The catalog to go on with, and the names under which some versions are kept, by the names that they had."""

    catalog: Catalog
    renamed: dict[str, str]


def beginning(term: int) -> int:
    """Return the epoch above which the catalogs of a primary begin that became it at ``term``, an epoch of the roster.

    No watcher saw a larger one of a primary before it, however little of its work was copied: that one had an earlier
    term, and made fewer than four billion changes.
    """
    return term << 32


def covers(catalog: Catalog, other: Catalog) -> bool:
    """Tell whether what ``other`` says went into ``catalog``, though some of it may be gone again."""
    return other.epoch <= {**catalog.heritage, catalog.origin: catalog.epoch}.get(other.origin, -1)


def check(catalog: Catalog, below: int = MAX_EPOCH) -> None:
    """Raise InvalidInput for a catalog that no primary can have written whose epochs are ``below`` that."""
    for one in catalog.versions:
        parse_model(one.model)
        for digest in one.blobs():
            parse_digest(digest)
    for name in catalog.spent:
        parse_model(name)
    for alias in catalog.aliases:
        parse_alias(alias.alias)
    places = {(one.model, one.number) for one in catalog.versions}
    right = (
        bool(catalog.origin) and catalog.epoch < below,
        all(1 <= number <= MAX_NUMBER for number in [*catalog.spent.values(), *(number for _, number in places)]),
        all(0 <= epoch <= catalog.epoch for epoch in [*catalog.heritage.values(), *(a.epoch for a in catalog.aliases)]),
        all((one.model, one.number) in places for one in catalog.aliases),
        len(places) == len(catalog.versions) and all(one.files for one in catalog.versions),
    )
    if not all(right):
        raise InvalidInput("the catalog contradicts itself", fix="restart the manager that sent it")


def unite(ours: Catalog, theirs: Catalog, term: int, base: Catalog | None = None) -> Union:
    """Return ``ours`` with what ``theirs`` has besides.

    ``base`` is what was taken of theirs before: of that, what is gone from ours was removed on purpose, and what ours
    left as it was follows theirs. Everywhere else ours is right.
    """
    base = base or Catalog(0, [], [])
    versions, places, renamed = _versions(ours, theirs, base)
    given, there = _last([*versions, *theirs.versions], ours.spent, theirs.spent), _last(versions)
    catalog = Catalog(
        epoch=max(ours.epoch, theirs.epoch, beginning(term)) + 1,
        versions=versions,
        aliases=_aliases(ours, theirs, base, places),
        unloaded=sorted(_unloaded(ours, theirs, base, renamed).intersection(there)),
        spent={model: last for model, last in sorted(given.items()) if last > there.get(model, 0)},
        origin=ours.origin,
        heritage=_largest(
            ours.heritage, theirs.heritage, {one.origin: one.epoch for one in (ours, theirs) if one.origin}
        ),
    )
    return Union(catalog, renamed)


def _versions(
    ours: Catalog, theirs: Catalog, base: Catalog
) -> tuple[list[Version], dict[Place, Place], dict[str, str]]:
    """Return all versions, where each of theirs that is among them has its place, and the names given to models."""
    here: dict[tuple[str, Digest], Place] = {(one.model, one.version): (one.model, one.number) for one in ours.versions}
    known = {(one.model, one.version) for one in base.versions}
    given = _last(ours.versions, ours.spent)
    taken = {*given, *_last(theirs.versions, theirs.spent)}
    found, places, renamed = list(ours.versions), dict[Place, Place](), dict[str, str]()
    for one in theirs.versions:
        place = here.get((one.model, one.version))
        if place is None and (one.model, one.version) not in known:
            if one.number <= given.get(one.model, 0) and one.model not in renamed:
                renamed[one.model] = _name(one.model, taken)
            place = (one.model if one.number > given.get(one.model, 0) else renamed[one.model], one.number)
            found.append(replace(one, model=place[0]))
        if place is not None:
            places[one.model, one.number] = place
    return sorted(found, key=lambda one: (one.model, one.number)), places, renamed


def _aliases(ours: Catalog, theirs: Catalog, base: Catalog, places: dict[Place, Place]) -> list[Alias]:
    found = {(one.model, one.alias): one for one in ours.aliases}
    before = {(one.model, one.alias): one.epoch for one in base.aliases}
    for one in theirs.aliases:
        if (one.model, one.number) not in places:
            continue  # its version was removed here since
        model, number = places[one.model, one.number]
        back = places.get((one.model, one.previous or 0), ("", 0))
        previous = back[1] if back[0] == model and back[1] != number else None
        mine = found.get((model, one.alias))
        if mine is None or (before.get((model, one.alias)) == mine.epoch < one.epoch):
            found[model, one.alias] = Alias(model, one.alias, number, one.epoch, previous)
    return [found[key] for key in sorted(found)]


def _unloaded(ours: Catalog, theirs: Catalog, base: Catalog, renamed: dict[str, str]) -> set[str]:
    here, before = _last(ours.versions), _last(base.versions)
    found = set(ours.unloaded)
    for model in _last(theirs.versions):
        mine, then, now = (model in each.unloaded for each in (ours, base, theirs))
        if model not in here or (model in before and mine == then):
            found = found | {model} if now else found - {model}
        if now and model in renamed:
            found.add(renamed[model])
    return found


def _last(versions: Iterable[Version], *spent: Mapping[str, int]) -> dict[str, int]:
    """Return the highest number of each model."""
    found = _largest(*spent)
    for one in versions:
        found[one.model] = max(one.number, found.get(one.model, 0))
    return found


def _largest(*counts: Mapping[str, int]) -> dict[str, int]:
    found: dict[str, int] = {}
    for each in counts:
        found |= {key: max(value, found.get(key, value)) for key, value in each.items()}
    return found


def _name(model: str, taken: Iterable[str]) -> str:
    """Return the name under which versions of a model are kept that cannot have its own."""
    stem = model[:_STEM] + KEPT
    names = (f"{stem}{number}" if number > 1 else stem for number in count(1))
    return next(name for name in names if name not in taken)
