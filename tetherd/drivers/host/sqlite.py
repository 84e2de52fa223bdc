"""One SQLite file, opened so that an acknowledged change survives a power failure. Knows nothing of what is in it."""

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from tetherd.errors import StorageFailed, StorageFull


class Database:
    """The file ``path``, made if need be, with ``tables`` in it. ``what`` and ``disk`` name both in errors.

    Raises StorageFailed for a damaged file.
    """

    def __init__(self, path: Path, tables: sa.MetaData, *, what: str, disk: str) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        self._path = path
        self._what = what
        self._disk = disk
        self._lock = threading.RLock()  # SQLite does not survive that its connection is closed under a statement
        self._closed = False
        self._engine = sa.create_engine(f"sqlite:///{path}", poolclass=sa.pool.StaticPool)
        sa.event.listen(self._engine, "connect", _configure)
        sa.event.listen(self._engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        try:
            self._check()
            with self.transaction() as connection:
                tables.create_all(connection)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file, once no other thread uses it. Every later transaction raises StorageFailed."""
        with self._lock:
            self._closed = True
            self._engine.dispose()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """Give a connection whose changes are on disk when the block ends, or not made at all.

        Raises StorageFull and StorageFailed.
        """
        with self._lock, self._translated():
            if self._closed:
                raise StorageFailed(f"the {self._what} is closed: this daemon is stopping", fix="try again")
            with self._engine.begin() as connection:
                yield connection

    def check_schema(self, found: int, known: int) -> None:
        """Raise StorageFailed if a newer release wrote the file."""
        if found > known:
            raise StorageFailed(
                f"the {self._what} {self._path} has schema {found}, and this release knows schemas up to {known}",
                fix="run the newer release of Tether that wrote it",
            )

    def _check(self) -> None:
        with self._translated(), self._engine.connect() as connection:
            verdict = connection.exec_driver_sql("PRAGMA integrity_check").scalar()
            if verdict != "ok":
                raise StorageFailed(
                    f"the {self._what} {self._path} is damaged: {verdict}",
                    fix="restore the file from a backup of the state folder",
                )
            connection.commit()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.DBAPIError as error:
            if getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                raise StorageFull(
                    f"could not record the change: {error.orig}", fix=f"free space on {self._disk}"
                ) from error
            raise StorageFailed(
                f"the {self._what} refused: {error.orig}", fix=f"check {self._disk}, or restore the state folder"
            ) from error


def _configure(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # transactions begin where we say, not where sqlite3 guesses
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "busy_timeout = 5000"):
        connection.execute(f"PRAGMA {pragma}")
