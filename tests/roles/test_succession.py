"""A primary comes to the models of those before it, once, whole, whatever it had and whenever it is killed."""

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

import tetherd
from tetherd.drivers.models.ledger import SqliteLedger
from tetherd.drivers.models.replicas import FileCatalog
from tetherd.drivers.models.spared import LEDGER, Followed, followed
from tetherd.errors import Conflict, InvalidInput, StorageFailed
from tetherd.policy.succession import KEPT, beginning
from tetherd.ports import Context
from tetherd.roles.succession import MAX_HERITAGE, Succession
from tetherd.testing import MemoryBlobs
from tetherd.types import Signature
from tetherd.wire.catalog import Alias, Catalog, FileEntry, Version
from tetherd.wire.manifest import digest_of
from tetherd.wire.replication import HandOver

PACKAGES = Path(tetherd.__file__).parents[1]
FIRST, SECOND = "a" * 64, "b" * 64


class Clock:
    def monotonic(self) -> float:
        return 0.0

    def wall(self) -> float:
        return 1000.0


def version(number: int, content: str = "", model: str = "digits") -> Version:
    digest = digest_of((content or f"{model} {number}").encode())
    return Version(model, number, digest, digest, "onnx", Signature((), ()), 1, 1.0, [FileEntry("m", digest, 1)])


def catalog(epoch: int, *numbers: int) -> Catalog:
    aliases = [Alias("digits", "latest", numbers[-1], epoch, numbers[0] if len(numbers) > 1 else None)]
    return Catalog(epoch, [version(number) for number in numbers], aliases)


class Place:
    """A state folder and the manager that becomes primary on it."""

    def __init__(self, folder: Path, term: int = 2) -> None:
        self.folder = folder
        self.term = term
        self.blobs = MemoryBlobs()
        self.start()

    def start(self) -> None:
        self.ledger = SqliteLedger(self.folder / LEDGER)
        self.succession = Succession(self.ledger, self.blobs, Clock(), term=self.term)

    def copied(self, node: str, found: Catalog) -> Path:
        """Have a copy of the catalog of a manager, which calls its ledger as its node is called."""
        path = followed(self.folder, node)
        FileCatalog(path).save(replace(found, origin=node))
        return path

    def begin(self, kind: type[Followed] = Followed) -> Catalog:
        self.succession.begin(kind(self.folder, self.folder / LEDGER))
        return self.ledger.catalog()

    async def hand_over(self, found: Catalog) -> Catalog:
        async def record(act, *arguments):
            return act(*arguments)

        handler = self.succession.routes(record, lambda: None)[HandOver]
        await handler(HandOver(replace(found, origin=FIRST)), Context(0.0))
        return self.ledger.catalog()


@pytest.fixture
def place(tmp_path):
    found = Place(tmp_path)
    yield found
    found.ledger.close()


def numbers(found: Catalog, model: str = "digits") -> list[int]:
    return [one.number for one in found.versions if one.model == model]


def test_it_goes_on_with_what_was_copied_and_says_so(place, caplog):
    caplog.set_level(logging.INFO)
    copy = catalog(105, 1, 2)
    path = place.copied(FIRST, copy)
    after = place.begin()
    origin, zero = after.origin, {after.origin: 0}
    assert after == replace(copy, epoch=beginning(2) + 1, origin=origin, heritage={FIRST: 105, **zero})
    assert not path.exists()
    (line,) = [one for one in caplog.records if "took over" in one.message]
    assert (line.of, line.epoch, line.models, line.versions) == (FIRST, 105, 1, 2)
    assert line.as_of.startswith("20")
    assert (line.levelname, line.not_here_in_full) == ("WARNING", ["digits@1", "digits@2"])
    assert place.begin() == after


def test_what_is_here_in_full_is_no_warning(place, caplog):
    caplog.set_level(logging.INFO)
    place.blobs.append(version(1).version, 0, 8, b"digits 1")
    place.copied(FIRST, catalog(105, 1))
    place.begin()
    assert [one.levelname for one in caplog.records] == ["INFO"]


def test_a_primary_with_nothing_to_take_over_still_begins_above_those_before(place):
    before = place.ledger.catalog()
    after = place.begin()
    assert (before.epoch, after.epoch, after.versions) == (0, beginning(2) + 1, [])
    assert place.begin() == after


def test_alone_nothing_changes(tmp_path):
    place = Place(tmp_path, term=0)
    place.ledger.commit(version(0, "one"), "latest")
    before = place.ledger.catalog()
    assert place.begin() == before
    place.ledger.close()


def test_what_the_host_had_of_its_own_stays_beside_what_it_takes_over(place):
    for content in ("own", "digits 2"):
        place.ledger.commit(version(0, content), "latest")
    place.ledger.commit(version(0, "own", "mine"), "latest")
    after = (place.copied(FIRST, catalog(1, 1, 2)), place.begin())[1]
    assert numbers(after) == [1, 2]
    assert numbers(after, "digits" + KEPT) == [1]
    assert numbers(after, "mine") == [1]
    assert {one.number for one in after.aliases if one.model == "digits"} == {2}


def test_a_primary_from_before_brings_nothing_back_that_its_successor_removed(place):
    for number in (1, 2):
        place.ledger.commit(version(0, f"digits {number}"), "latest")
    own = place.ledger.catalog()
    place.copied(SECOND, replace(catalog(900, 2, 3), heritage={own.origin: own.epoch}))
    after = place.begin()
    assert [(one.model, one.number) for one in after.versions] == [("digits", 2), ("digits", 3)]


def test_a_primary_from_before_keeps_what_its_successor_never_had(place):
    for number in (1, 2, 3):
        place.ledger.commit(version(0, f"digits {number}"), "latest")
    own = place.ledger.catalog()
    place.copied(SECOND, replace(catalog(900, 1, 2), heritage={own.origin: own.epoch - 1}))
    after = place.begin()
    assert numbers(after) == [1, 2, 3]
    assert [one.number for one in after.aliases] == [2]


def test_of_several_copies_the_newest_is_right_and_the_others_add_to_it(place):
    paths = [
        place.copied(FIRST, catalog(105, 1, 2, 3)),
        place.copied(SECOND, replace(catalog(900, 1, 2), heritage={FIRST: 100})),
    ]
    after = place.begin()
    assert numbers(after) == [1, 2, 3]
    assert [one.number for one in after.aliases] == [2]
    assert {node: after.heritage[node] for node in (FIRST, SECOND)} == {FIRST: 105, SECOND: 900}
    assert not any(path.exists() for path in paths)


def test_a_copy_that_cannot_be_read_stays_and_stops_nothing(place, caplog):
    damaged = followed(place.folder, SECOND)
    damaged.write_bytes(b"damaged")
    place.copied(FIRST, catalog(105, 1))
    assert numbers(place.begin()) == [1]
    assert damaged.exists()
    assert "are not taken over" in caplog.text


class Stuck(Followed):
    """Copies on a disk that takes no changes."""

    def remove(self, node: str) -> None:
        raise StorageFailed("the disk is read-only")


def test_a_copy_that_contradicts_itself_stays_and_stops_nothing(place, caplog):
    path = place.copied(SECOND, Catalog(900, [], [Alias("digits", "latest", 1, 5)]))
    place.copied(FIRST, catalog(105, 1))
    place.ledger.commit(version(0, "own"), "latest")
    after = place.begin()
    assert {one.version for one in after.versions if one.model == "digits"} == {version(1).version}
    assert path.exists()
    assert "is not taken over" in caplog.text


def test_a_copy_that_cannot_be_removed_is_not_taken_twice(place):
    copy = catalog(105, 1, 2)
    path = place.copied(FIRST, copy)
    place.begin(Stuck)
    place.ledger.move("digits", "latest", 1)
    moved = place.ledger.catalog()
    assert place.begin(Stuck) == moved
    assert path.exists()


async def test_a_follower_that_knows_more_hands_it_over(place):
    place.copied(FIRST, catalog(100, 1, 2))
    place.begin()
    place.ledger.remove("digits", 1)
    later = catalog(105, 1, 2, 3)
    after = await place.hand_over(later)
    assert numbers(after) == [2, 3]
    assert [(one.number, one.epoch) for one in after.aliases] == [(3, 105)]
    assert after.heritage[FIRST] == 105
    assert await place.hand_over(later) == after
    assert await place.hand_over(catalog(103, 1, 2)) == after


async def test_what_no_primary_wrote_is_not_taken(place):
    before = place.begin()
    with pytest.raises(InvalidInput):
        await place.hand_over(Catalog(1, [version(0)], []))
    assert place.ledger.catalog() == before


async def test_followers_cannot_have_it_keep_catalogs_without_end(place):
    place.copied(SECOND, replace(catalog(900, 1), heritage={str(number): 1 for number in range(MAX_HERITAGE)}))
    before = place.begin()
    with pytest.raises(Conflict, match="too many"):
        await place.hand_over(catalog(103, 1, 2, 3))
    assert place.ledger.catalog() == before


# --- killed in the middle ------------------------------------------------------------------------------------------


def main(folder: str) -> None:
    """Be the process that is killed."""
    Place(Path(folder)).begin()
    print("done", flush=True)


def prepared(folder: Path) -> tuple[Catalog, Catalog]:
    """Return what the ledger says before and after."""
    folder.mkdir(parents=True)
    place = Place(folder)
    place.ledger.commit(version(0, "own"), "latest")
    place.copied(FIRST, catalog(105, 1, 2, 3))
    before = place.ledger.catalog()
    place.ledger.close()
    twin = folder.with_name(f"{folder.name}-twin")
    shutil.copytree(folder, twin)
    place = Place(twin)
    after = place.begin()
    place.ledger.close()
    return before, after


FINER = [pytest.param(*each, marks=pytest.mark.slow) for each in [("pwrite64", 4), ("fdatasync", 1), ("unlink", 1)]]
"""The same with fewer calls left out in between."""


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace injects the faults")
@pytest.mark.timeout(120)
@pytest.mark.parametrize(("call", "step"), [("pwrite64", 12), ("fdatasync", 3), ("unlink", 2), ("fsync", 1), *FINER])
def test_killed_at_any_call_it_is_done_again_or_was_done_whole(tmp_path, call, step):
    kills = 0
    for count in range(1, 100, step):
        folder = tmp_path / str(count)
        before, after = prepared(folder)
        program = f"import importlib.util as u; s = u.spec_from_file_location('own', {__file__!r})\n"
        program += "m = u.module_from_spec(s); s.loader.exec_module(m); m.main(__import__('sys').argv[1])"
        trace = ["-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={count}"]
        done = subprocess.run(
            ["strace", "-f", "-qq", "-o", "/dev/null", *trace, sys.executable, "-B", "-c", program, folder],
            capture_output=True,
            timeout=30,
            check=False,
            env={"PYTHONPATH": str(PACKAGES)},
            text=True,
        )
        place = Place(folder)
        found = place.ledger.catalog()
        assert found in (before, after)
        assert found == after or followed(folder, FIRST).exists(), "the copy goes after the ledger has it, not before"
        assert place.begin() == after
        assert not followed(folder, FIRST).exists()
        place.ledger.close()
        if done.returncode == 0:
            assert done.stdout == "done\n", json.dumps(done.stderr)
            break
        assert done.returncode in {-9, 137}, done.stderr
        kills += 1
    assert kills >= 1
