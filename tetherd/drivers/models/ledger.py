"""Versions and aliases in one SQLite file.

The epoch counts changes and lives in the file, so it never goes backwards over a restart; numbers and versions are
never used again or changed. An alias is the newest of its moves, and a move knows which one came before it.
What was taken over of another manager's catalog is kept as it was, to tell later what has changed since.
"""

import secrets
from pathlib import Path
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from tetherd.drivers.host.sqlite import Database
from tetherd.errors import Conflict, ModelNotFound, VersionNotFound
from tetherd.types import LATEST, Digest, Signature
from tetherd.wire.catalog import Alias, Catalog, FileEntry, Version

SCHEMA: Final = 1

_tables = sa.MetaData()

_state = sa.Table(
    "state",
    _tables,
    sa.Column("schema", sa.Integer, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
)
_models = sa.Table(
    "models",
    _tables,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("last_number", sa.Integer, nullable=False),
)
_versions = sa.Table(
    "versions",
    _tables,
    sa.Column("model", sa.Text, sa.ForeignKey("models.name"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("config", sa.Text, nullable=False),
    sa.Column("format", sa.Text, nullable=False),
    sa.Column("signature", sa.LargeBinary, nullable=False),
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.UniqueConstraint("model", "version"),
)
_files = sa.Table(
    "files",
    _tables,
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("path", sa.Text, primary_key=True),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("size", sa.Integer, nullable=False),
    sa.ForeignKeyConstraint(["model", "number"], ["versions.model", "versions.number"], ondelete="CASCADE"),
)
_unloaded = sa.Table(  # models for which no work is taken
    "unloaded",
    _tables,
    sa.Column("model", sa.Text, sa.ForeignKey("models.name"), primary_key=True),
)
_moves = sa.Table(  # no foreign key to versions: a move stays in the history when its version goes
    "moves",
    _tables,
    sa.Column("model", sa.Text, sa.ForeignKey("models.name"), primary_key=True),
    sa.Column("alias", sa.Text, primary_key=True),
    sa.Column("epoch", sa.Integer, primary_key=True),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("parent", sa.Integer),  # epoch of the move that a rollback returns to
)
_origin = sa.Table("origin", _tables, sa.Column("name", sa.Text, nullable=False))
_heritage = sa.Table(
    "heritage",
    _tables,
    sa.Column("origin", sa.Text, primary_key=True),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("taken", sa.LargeBinary),  # the catalog of that epoch, where it was taken over here
)


class _Move(msgspec.Struct, frozen=True):
    epoch: int
    number: int
    parent: int | None


class SqliteLedger:
    """Implements ports.Ledger in the file ``path``, which is created if it does not exist.

    Raises StorageFailed for a damaged file and for one that a newer release wrote.
    """

    def __init__(self, path: Path) -> None:
        self._database = Database(path, _tables, what="ledger", disk="the manager's disk")
        self._transaction = self._database.transaction
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        with self._transaction() as connection:
            schema = connection.scalar(sa.select(_state.c.schema))
            if schema is None:
                connection.execute(sa.insert(_state).values(schema=SCHEMA, epoch=0))
            else:
                self._database.check_schema(schema, SCHEMA)
            if connection.scalar(sa.select(_origin.c.name)) is None:
                connection.execute(sa.insert(_origin).values(name=secrets.token_hex(16)))

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def catalog(self) -> Catalog:
        """Return every version and alias."""
        with self._transaction() as connection:
            return _catalog(connection)

    def references(self) -> set[Digest]:
        """Return every blob that a version needs."""
        with self._transaction() as connection:
            return _references(connection)

    def taken(self, origin: str) -> Catalog | None:
        """Return what was taken over of another ledger; see ports.Ledger."""
        with self._transaction() as connection:
            found = connection.scalar(sa.select(_heritage.c.taken).where(_heritage.c.origin == origin))
            return None if found is None else msgspec.json.decode(found, type=Catalog)

    def adopt(self, catalog: Catalog, taken: Catalog) -> None:
        """Say what ``catalog`` says from now on; see ports.Ledger."""
        with self._transaction() as connection:
            before, after = _by_model(_catalog(connection)), _by_model(catalog)
            for model, wanted in after.items():
                if before.get(model) != wanted:  # others keep the whole history of their aliases
                    _replace(connection, model, wanted)
            connection.execute(sa.update(_state).values(epoch=catalog.epoch))
            for origin, epoch in catalog.heritage.items():
                row = insert(_heritage).values(origin=origin, epoch=epoch)
                connection.execute(row.on_conflict_do_update(set_={"epoch": epoch}))
            kept = sa.update(_heritage).where(_heritage.c.origin == taken.origin)
            connection.execute(kept.values(taken=msgspec.json.encode(taken)))

    def commit(self, draft: Version, alias: str) -> Version:
        """Record a version, or find it, and move its aliases; see ports.Ledger."""
        with self._transaction() as connection:
            number = connection.scalar(
                sa.select(_versions.c.number).where(
                    _versions.c.model == draft.model, _versions.c.version == draft.version
                )
            )
            if number is None:
                number = _insert(connection, draft)
                _bump(connection)
            first = not _moves_of(connection, draft.model, LATEST)
            for name in sorted({alias, LATEST} if first else {alias}):
                _move(connection, draft.model, name, number)
            return _version(connection, draft.model, number)

    def move(self, model: str, alias: str, number: int, expected_epoch: int = -1) -> Alias:
        """Point an alias at a version; ``expected_epoch`` 0 means that it must be new."""
        with self._transaction() as connection:
            _version(connection, model, number)
            now = _alias(connection, model, alias)
            if expected_epoch not in {-1, now.epoch if now else 0}:
                raise _moved(model, alias, now)
            _move(connection, model, alias, number)
            return _require(_alias(connection, model, alias))

    def rollback(self, model: str, alias: str) -> Alias:
        """Undo the last move that was not undone yet: a second rollback goes one further back."""
        with self._transaction() as connection:
            _check_model(connection, model)
            moves = _moves_of(connection, model, alias)
            if not moves:
                raise VersionNotFound(f"model {model!r} has no alias {alias!r}", fix="see tetherctl models show")
            target = _target(moves, _numbers(connection, model))
            if target is None:
                highest = max(_numbers(connection, model))
                raise Conflict(
                    f"alias {alias!r} of model {model!r} has no earlier version to go back to",
                    fix=f"tetherctl models promote {model}@{highest}"
                    + (f" --alias {alias}" if alias != LATEST else ""),
                    details=msgspec.structs.asdict(_require(_alias(connection, model, alias))),
                )
            _record(connection, (model, alias), target.number, target.parent)
            return _require(_alias(connection, model, alias))

    def set_serving(self, model: str, serving: bool) -> None:
        """Record whether work is taken for a model; see ports.Ledger."""
        with self._transaction() as connection:
            _check_model(connection, model)
            served = connection.execute(sa.delete(_unloaded).where(_unloaded.c.model == model)).rowcount == 0
            if not serving:
                connection.execute(sa.insert(_unloaded).values(model=model))
            if served != serving:
                _bump(connection)

    def remove(self, model: str, number: int) -> set[Digest]:
        """Remove a version, or the model (0); return the blobs that no version needs any more."""
        with self._transaction() as connection:
            numbers = [number] if number else sorted(_check_model(connection, model))
            _version(connection, model, numbers[0])
            needed = _references(connection)
            if number:
                _check_free(connection, model, number)
            for gone in numbers:
                connection.execute(sa.delete(_versions).where(_versions.c.model == model, _versions.c.number == gone))
            if not _numbers(connection, model):
                for table in (_moves, _unloaded):
                    connection.execute(sa.delete(table).where(table.c.model == model))
            _bump(connection)
            return needed - _references(connection)


def _epoch(connection: sa.Connection) -> int:
    return int(connection.execute(sa.select(_state.c.epoch)).scalar_one())


def _bump(connection: sa.Connection) -> int:
    connection.execute(sa.update(_state).values(epoch=_state.c.epoch + 1))
    return _epoch(connection)


def _catalog(connection: sa.Connection) -> Catalog:
    versions = _all_versions(connection)
    numbers: dict[str, int] = {}
    for version in versions:
        numbers[version.model] = version.number  # they come in order
    unloaded = connection.scalars(sa.select(_unloaded.c.model).order_by(_unloaded.c.model))
    given = connection.execute(sa.select(_models).order_by(_models.c.name))
    return Catalog(
        epoch=_epoch(connection),
        versions=versions,
        aliases=_all_aliases(connection),
        unloaded=list(unloaded),
        spent={row.name: row.last_number for row in given if row.last_number > numbers.get(row.name, 0)},
        origin=connection.execute(sa.select(_origin.c.name)).scalar_one(),
        heritage={row.origin: row.epoch for row in connection.execute(sa.select(_heritage))},
    )


def _by_model(catalog: Catalog) -> dict[str, Catalog]:
    """Return what a catalog says of each model."""
    found = {model: Catalog(0, [], [], [], {model: last}) for model, last in catalog.spent.items()}
    for version in catalog.versions:
        found.setdefault(version.model, Catalog(0, [], [])).versions.append(version)
    for alias in catalog.aliases:
        found[alias.model].aliases.append(alias)
    for model in catalog.unloaded:
        found[model].unloaded.append(model)
    return found


def _replace(connection: sa.Connection, model: str, wanted: Catalog) -> None:
    """Let a model be what ``wanted`` says: of the history of an alias that is where a rollback goes, and no more."""
    for table in (_moves, _unloaded, _versions):
        connection.execute(sa.delete(table).where(table.c.model == model))
    _give(connection, model, max([*wanted.spent.values(), *(version.number for version in wanted.versions)]))
    for version in wanted.versions:
        _write(connection, version)
    for alias in wanted.aliases:
        moves = [_Move(alias.epoch, alias.number, None)]
        if alias.previous is not None:
            before = _Move(alias.epoch - 1, alias.previous, None)
            moves = [before, _Move(alias.epoch, alias.number, before.epoch)]
        for move in moves:
            values = msgspec.structs.asdict(move)
            connection.execute(sa.insert(_moves).values(model=model, alias=alias.alias, **values))
    for name in wanted.unloaded:
        connection.execute(sa.insert(_unloaded).values(model=name))


def _give(connection: sa.Connection, model: str, number: int) -> None:
    """Record the last number that a model gave."""
    row = insert(_models).values(name=model, last_number=number)
    connection.execute(row.on_conflict_do_update(set_={"last_number": number}))


def _insert(connection: sa.Connection, draft: Version) -> int:
    last = connection.scalar(sa.select(_models.c.last_number).where(_models.c.name == draft.model))
    number = (last or 0) + 1
    _give(connection, draft.model, number)
    _write(connection, msgspec.structs.replace(draft, number=number))
    return number


def _write(connection: sa.Connection, version: Version) -> None:
    key = {"model": version.model, "number": version.number}
    connection.execute(
        sa.insert(_versions).values(
            **key,
            version=version.version,
            config=version.config,
            format=version.format,
            signature=msgspec.json.encode(version.signature),
            size=version.size,
            created=version.created,
        )
    )
    if version.files:
        connection.execute(
            sa.insert(_files),
            [{**key, "path": file.path, "digest": file.digest, "size": file.size} for file in version.files],
        )


def _all_versions(connection: sa.Connection, *where: sa.ColumnElement[bool]) -> list[Version]:
    """Return versions by model and number, each with its files by path."""
    found = sa.select(_versions).where(*where).order_by(_versions.c.model, _versions.c.number)
    versions = {(row.model, row.number): _decode(row) for row in connection.execute(found)}
    files = (
        sa.select(_files)
        .join(_versions, (_files.c.model == _versions.c.model) & (_files.c.number == _versions.c.number))
        .where(*where)
        .order_by(_files.c.path)
    )
    for row in connection.execute(files):
        versions[row.model, row.number].files.append(FileEntry(row.path, Digest(row.digest), row.size))
    return list(versions.values())


def _decode(row: Any) -> Version:
    return Version(
        model=row.model,
        number=row.number,
        version=Digest(row.version),
        config=Digest(row.config),
        format=row.format,
        signature=msgspec.json.decode(row.signature, type=Signature),
        size=row.size,
        created=row.created,
        files=[],
    )


def _check_model(connection: sa.Connection, model: str) -> set[int]:
    """Return the numbers of a model's versions."""
    numbers = _numbers(connection, model)
    if not numbers:
        raise ModelNotFound(f"there is no model {model!r}", fix="see tetherctl models ls for the models that exist")
    return numbers


def _numbers(connection: sa.Connection, model: str) -> set[int]:
    return set(connection.scalars(sa.select(_versions.c.number).where(_versions.c.model == model)))


def _version(connection: sa.Connection, model: str, number: int) -> Version:
    numbers = _check_model(connection, model)
    if number not in numbers:
        listed = ", ".join(str(known) for known in sorted(numbers)[-10:])
        raise VersionNotFound(f"model {model!r} has no version {number}", fix=f"its versions are {listed}")
    return _all_versions(connection, _versions.c.model == model, _versions.c.number == number)[0]


def _references(connection: sa.Connection) -> set[Digest]:
    columns = (_versions.c.version, _versions.c.config, _files.c.digest)
    return {Digest(digest) for column in columns for digest in connection.scalars(sa.select(column).distinct())}


def _moves_of(connection: sa.Connection, model: str, alias: str) -> dict[int, _Move]:
    """Return the history of an alias by epoch, oldest first."""
    found = sa.select(_moves).where(_moves.c.model == model, _moves.c.alias == alias).order_by(_moves.c.epoch)
    return {row.epoch: _Move(row.epoch, row.number, row.parent) for row in connection.execute(found)}


def _target(moves: dict[int, _Move], numbers: set[int]) -> _Move | None:
    """Decide where a rollback goes: back along the parents, past versions that are gone or where it stands already."""
    here = moves[max(moves)]
    step = here
    while step.parent is not None:
        step = moves[step.parent]
        if step.number in numbers and step.number != here.number:
            return step
    return None


def _alias(connection: sa.Connection, model: str, alias: str) -> Alias | None:
    moves = _moves_of(connection, model, alias)
    return _as_alias(model, alias, moves, _numbers(connection, model)) if moves else None


def _as_alias(model: str, alias: str, moves: dict[int, _Move], numbers: set[int]) -> Alias:
    now, before = moves[max(moves)], _target(moves, numbers)
    return Alias(model, alias, now.number, now.epoch, before.number if before else None)


def _all_aliases(connection: sa.Connection, *where: sa.ColumnElement[bool]) -> list[Alias]:
    numbers: dict[str, set[int]] = {}
    for row in connection.execute(sa.select(_versions.c.model, _versions.c.number)):
        numbers.setdefault(row.model, set()).add(row.number)
    history: dict[tuple[str, str], dict[int, _Move]] = {}
    for row in connection.execute(sa.select(_moves).where(*where).order_by(_moves.c.model, _moves.c.alias)):
        history.setdefault((row.model, row.alias), {})[row.epoch] = _Move(row.epoch, row.number, row.parent)
    return [_as_alias(model, alias, moves, numbers[model]) for (model, alias), moves in history.items()]


def _move(connection: sa.Connection, model: str, alias: str, number: int) -> None:
    """Push a move on the alias's history; where it points there already, nothing happened."""
    now = _alias(connection, model, alias)
    if now is None or now.number != number:
        _record(connection, (model, alias), number, now.epoch if now else None)


def _record(connection: sa.Connection, name: tuple[str, str], number: int, parent: int | None) -> None:
    model, alias = name
    epoch = _bump(connection)
    connection.execute(sa.insert(_moves).values(model=model, alias=alias, epoch=epoch, number=number, parent=parent))


def _require(alias: Alias | None) -> Alias:
    assert alias is not None, "the alias was recorded in this transaction"
    return alias


def _moved(model: str, alias: str, now: Alias | None) -> Conflict:
    if now is None:
        return Conflict(f"model {model!r} has no alias {alias!r} yet", fix="create it without an expected epoch")
    return Conflict(
        f"alias {alias!r} of model {model!r} was moved to version {now.number} by somebody else (epoch {now.epoch})",
        fix="look at its state and decide again",
        details=msgspec.structs.asdict(now),
    )


def _check_free(connection: sa.Connection, model: str, number: int) -> None:
    """Raise Conflict while an alias needs the version; the last one of a model may go with its alias ``latest``."""
    pointing = [item.alias for item in _all_aliases(connection, _moves.c.model == model) if item.number == number]
    if not pointing or (pointing == [LATEST] and _numbers(connection, model) == {number}):
        return
    names = ", ".join(pointing)
    raise Conflict(
        f"version {number} of model {model!r} is what {names} points at",
        fix="promote another version first, or remove the whole model",
        details={"model": model, "number": number, "aliases": pointing},
    )
