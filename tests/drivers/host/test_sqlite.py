"""One SQLite file: closed under nobody's feet, refused when damaged or from the future."""

import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from tetherd.drivers.host.sqlite import Database
from tetherd.errors import StorageFailed

TABLES = sa.MetaData()
THINGS = sa.Table("things", TABLES, sa.Column("name", sa.Text, primary_key=True))


def opened(path: Path) -> Database:
    return Database(path, TABLES, what="list of things", disk="the disk")


def names(database: Database) -> list[str]:
    with database.transaction() as connection:
        return list(connection.scalars(sa.select(THINGS.c.name)))


def add(database: Database, *names: str) -> None:
    with database.transaction() as connection:
        for name in names:
            connection.execute(sa.insert(THINGS).values(name=name))


def test_a_transaction_is_done_whole_or_not_at_all(tmp_path: Path) -> None:
    database = opened(tmp_path / "things.db")
    add(database, "one")
    with pytest.raises(StorageFailed, match="list of things"):
        add(database, "two", "one")
    database.close()
    again = opened(tmp_path / "things.db")
    assert names(again) == ["one"]
    again.close()


def test_closing_waits_for_who_is_in_the_middle(tmp_path: Path) -> None:
    database = opened(tmp_path / "things.db")
    inside, closed = threading.Event(), threading.Event()

    def close() -> None:
        inside.wait()
        database.close()
        closed.set()

    thread = threading.Thread(target=close)
    thread.start()
    with database.transaction() as connection:
        inside.set()
        assert not closed.wait(0.05)
        connection.execute(sa.insert(THINGS).values(name="one"))
    thread.join()
    with pytest.raises(StorageFailed, match="closed"):
        names(database)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "things.db"
    path.write_bytes(b"SQLite format 3\0" + b"\xff" * 4096)
    with pytest.raises(StorageFailed) as caught:
        opened(path)
    assert caught.value.fix


def test_a_schema_of_the_future_is_refused(tmp_path: Path) -> None:
    database = opened(tmp_path / "things.db")
    database.check_schema(1, 1)
    with pytest.raises(StorageFailed, match="schema 2") as caught:
        database.check_schema(2, 1)
    assert "newer release" in caught.value.fix
    database.close()
