import itertools
import sqlite3
import stat
import threading

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from tetherd.drivers.models.ledger import SqliteLedger
from tetherd.errors import Conflict, ModelNotFound, StorageFailed, VersionNotFound
from tetherd.types import Signature, TensorSpec
from tetherd.wire.catalog import Alias, Catalog, FileEntry, Version
from tetherd.wire.manifest import digest_of

SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("y", "FP32", (-1,)),), True, ("no", "yes"))
SHARED = digest_of(b"labels")


def draft(model: str, content: str) -> Version:
    data = content.encode()
    version, config = digest_of(b"manifest" + data), digest_of(b"config" + data)
    files = [FileEntry("labels.txt", SHARED, 6), FileEntry("model.onnx", digest_of(data), len(data))]
    return Version(model, 0, version, config, "onnx", SIGNATURE, 6 + len(data), 1.5, files)


def push(ledger: SqliteLedger, content: str, alias: str = "latest", model: str = "digits") -> int:
    return ledger.commit(draft(model, content), alias).number


def aliases(ledger: SqliteLedger) -> dict[str, int]:
    return {item.alias: item.number for item in ledger.catalog().aliases}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "ledger.sqlite"


@pytest.fixture
def ledger(path):
    ledger = SqliteLedger(path)
    yield ledger
    ledger.close()


def test_a_version_comes_back_as_it_was_committed(ledger):
    version = draft("digits", "one")
    version.number = 1
    assert ledger.commit(draft("digits", "one"), "latest") == version
    catalog = ledger.catalog()
    assert catalog.versions == [version]
    assert catalog.aliases == [Alias("digits", "latest", 1, catalog.epoch, None)]
    assert ledger.references() == version.blobs() == {version.version, version.config, SHARED, digest_of(b"one")}


def test_numbers_count_within_a_model(ledger):
    assert [push(ledger, text) for text in ("one", "two")] == [1, 2]
    assert push(ledger, "one", model="other") == 1


def test_the_same_files_are_the_same_version_and_still_move_the_alias(ledger):
    push(ledger, "one")
    push(ledger, "two")
    assert push(ledger, "one") == 1
    assert aliases(ledger) == {"latest": 1}
    assert len(ledger.catalog().versions) == 2
    epoch = ledger.catalog().epoch
    assert push(ledger, "one") == 1
    assert ledger.catalog().epoch == epoch


def test_latest_moves_for_the_first_version_and_when_it_is_named(ledger):
    push(ledger, "one", "canary")
    assert aliases(ledger) == {"canary": 1, "latest": 1}
    push(ledger, "two", "canary")
    assert aliases(ledger) == {"canary": 2, "latest": 1}
    push(ledger, "three")
    assert aliases(ledger) == {"canary": 2, "latest": 3}


def test_rollback_goes_back_move_by_move_and_never_forth(ledger):
    for text in ("one", "two", "three"):
        push(ledger, text)
    steps = [ledger.rollback("digits", "latest"), ledger.rollback("digits", "latest")]
    assert [(step.number, step.previous) for step in steps] == [(2, 1), (1, None)]
    assert steps[0].epoch < steps[1].epoch == ledger.catalog().epoch
    with pytest.raises(Conflict) as caught:
        ledger.rollback("digits", "latest")
    assert caught.value.details["number"] == 1
    assert caught.value.message == "alias 'latest' of model 'digits' has no earlier version to go back to"
    assert caught.value.fix == "tetherctl models promote digits@3"


def test_a_move_after_a_rollback_is_rolled_back_to_where_it_came_from(ledger):
    for text in ("one", "two", "three"):
        push(ledger, text)
    ledger.rollback("digits", "latest")
    assert ledger.move("digits", "latest", 3).previous == 2
    assert [ledger.rollback("digits", "latest").number for _ in range(2)] == [2, 1]


def test_rollback_passes_over_versions_that_are_gone(ledger):
    for text in ("one", "two"):
        push(ledger, text)
    ledger.move("digits", "latest", 1)
    ledger.remove("digits", 2)
    assert ledger.catalog().aliases[0].previous is None
    push(ledger, "three")
    assert ledger.rollback("digits", "latest").number == 1
    with pytest.raises(Conflict):
        ledger.rollback("digits", "latest")


def test_a_move_is_guarded_by_the_epoch_it_expects(ledger):
    push(ledger, "one")
    push(ledger, "two")
    seen = ledger.move("digits", "stable", 1, expected_epoch=0)
    assert ledger.move("digits", "stable", 2, expected_epoch=seen.epoch).number == 2
    with pytest.raises(Conflict) as caught:
        ledger.move("digits", "stable", 1, expected_epoch=seen.epoch)
    assert caught.value.details == {
        "model": "digits",
        "alias": "stable",
        "number": 2,
        "epoch": ledger.catalog().epoch,
        "previous": 1,
    }
    with pytest.raises(Conflict):
        ledger.move("digits", "new", 1, expected_epoch=7)


def test_what_does_not_exist_is_named(ledger):
    for act in (
        lambda: ledger.move("digits", "stable", 1),
        lambda: ledger.rollback("digits", "latest"),
        lambda: ledger.remove("digits", 0),
    ):
        with pytest.raises(ModelNotFound):
            act()
    push(ledger, "one")
    for act in (
        lambda: ledger.move("digits", "stable", 2),
        lambda: ledger.rollback("digits", "stable"),
        lambda: ledger.remove("digits", 2),
    ):
        with pytest.raises(VersionNotFound):
            act()
    assert aliases(ledger) == {"latest": 1}


def test_a_version_that_an_alias_needs_stays(ledger):
    push(ledger, "one")
    push(ledger, "two")
    before = ledger.catalog()
    with pytest.raises(Conflict, match="latest"):
        ledger.remove("digits", 2)
    assert ledger.catalog() == before


def test_removal_returns_the_blobs_nobody_needs_and_never_a_number_twice(ledger):
    push(ledger, "one")
    push(ledger, "two")
    version = draft("digits", "one")
    assert ledger.remove("digits", 1) == {version.version, version.config, digest_of(b"one")}
    assert SHARED in ledger.references()
    assert push(ledger, "one") == 3


def test_the_last_version_goes_with_latest_but_not_with_another_alias(ledger):
    push(ledger, "one", "stable")
    with pytest.raises(Conflict, match="stable"):
        ledger.remove("digits", 1)
    ledger.remove("digits", 0)
    push(ledger, "two")
    ledger.remove("digits", 2)
    assert (ledger.catalog().versions, ledger.catalog().aliases, ledger.references()) == ([], [], set())


def test_a_model_that_comes_back_starts_with_a_new_number_and_no_history(ledger):
    for text in ("one", "two"):
        push(ledger, text)
    epoch = ledger.catalog().epoch
    ledger.remove("digits", 0)
    push(ledger, "one")
    assert ledger.catalog().aliases[0].number == 3
    assert ledger.catalog().aliases[0].previous is None
    assert ledger.catalog().aliases[0].epoch > epoch


def test_everything_survives_a_restart(ledger, path):
    push(ledger, "one")
    push(ledger, "two", "stable")
    before = ledger.catalog()
    ledger.close()
    again = SqliteLedger(path)
    assert again.catalog() == before
    assert push(again, "three") == 3
    again.close()


def test_what_was_unloaded_stays_so_until_it_is_loaded_or_gone(ledger, path):
    push(ledger, "one")
    push(ledger, "one", model="other")
    epochs = [ledger.catalog().epoch]
    for model, serving in (("digits", True), ("digits", False), ("digits", False), ("other", False), ("other", True)):
        ledger.set_serving(model, serving)
        epochs.append(ledger.catalog().epoch)
    assert [later - before for before, later in itertools.pairwise(epochs)] == [0, 1, 0, 1, 1]
    ledger.close()
    again = SqliteLedger(path)
    assert again.catalog().unloaded == ["digits"]
    again.remove("digits", 0)
    assert push(again, "one") == 2
    assert again.catalog().unloaded == []
    with pytest.raises(ModelNotFound):
        again.set_serving("nothing", False)
    again.close()


def test_the_file_is_private_and_changes_are_synced(ledger, path):
    push(ledger, "one")
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with ledger._database.transaction() as connection:
        pragmas = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert pragmas == ["wal", 2, 1]


def test_it_can_be_used_from_another_thread(ledger):
    worker = threading.Thread(target=push, args=(ledger, "one"))
    worker.start()
    worker.join()
    assert aliases(ledger) == {"latest": 1}


def test_a_newer_schema_is_refused(ledger, path):
    ledger.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE state SET schema = 99")
    connection.close()
    with pytest.raises(StorageFailed, match="schema 99"):
        SqliteLedger(path)


@pytest.mark.parametrize("damage", ["noise", "truncated", "flipped"])
def test_a_damaged_file_is_refused(ledger, path, damage):
    for index in range(20):
        push(ledger, f"model {index}")
    ledger.close()
    data = bytearray(path.read_bytes())
    changed = {
        "noise": b"\x01" * len(data),
        "truncated": data[:5000],
        "flipped": data[:8192] + bytes(8192) + data[16384:],
    }
    path.write_bytes(changed[damage])
    with pytest.raises(StorageFailed):
        SqliteLedger(path)


def another(path) -> Catalog:
    """Return what a manager with a history says."""
    other = SqliteLedger(path.with_name("other.sqlite"))
    for text in ("one", "two", "three", "four"):
        push(other, text)
    push(other, "words", model="words")
    push(other, "gone", model="gone")
    other.move("digits", "stable", 1)
    other.remove("digits", 2)
    other.move("digits", "latest", 3)
    other.remove("digits", 4)
    other.remove("gone", 1)
    other.set_serving("words", False)
    found = other.catalog()
    other.close()
    return found


def test_it_says_what_it_adopted_also_after_a_restart_and_goes_on_from_there(ledger, path):
    found = another(path)
    assert found.spent == {"digits": 4, "gone": 1}
    wanted = msgspec.structs.replace(
        found, epoch=900, origin=ledger.catalog().origin, heritage={found.origin: 12, "b": 3}
    )
    ledger.adopt(wanted, found)
    assert ledger.catalog() == wanted
    ledger.close()
    ledger = SqliteLedger(path)
    assert ledger.catalog() == wanted
    assert (ledger.taken(found.origin), ledger.taken("b"), ledger.taken("c")) == (found, None, None)
    assert [push(ledger, text) for text in ("one", "five")] == [1, 5]
    assert push(ledger, "another", model="gone") == 2
    assert [ledger.rollback("digits", "latest").number for _ in range(2)] == [1, 3]
    with pytest.raises(Conflict):
        ledger.rollback("digits", "stable")
    assert ledger.catalog().epoch > 900


def test_what_it_adopts_a_second_time_replaces_what_differs_and_nothing_else(ledger, path):
    for text in ("one", "two", "three"):
        push(ledger, text, model="own")
    own = ledger.catalog()
    found = another(path)
    both = Catalog(
        900,
        sorted([*found.versions, *own.versions], key=lambda one: (one.model, one.number)),
        sorted([*found.aliases, *own.aliases], key=lambda one: (one.model, one.alias)),
        found.unloaded,
        origin=own.origin,
        heritage={found.origin: found.epoch},
    )
    ledger.adopt(both, found)
    changed = msgspec.structs.replace(both, epoch=950, unloaded=[], heritage={found.origin: 99})
    ledger.adopt(changed, own)
    assert ledger.catalog() == changed
    assert ledger.taken(found.origin) == found
    assert [ledger.rollback("own", "latest").number for _ in range(2)] == [2, 1]


class History(RuleBasedStateMachine):
    """Any sequence of changes: the epoch only grows, numbers are never reused, aliases point at what exists."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = SqliteLedger(self.path)
        self.epoch = self.ledger.catalog().epoch
        self.stack: dict[str, list[int]] = {}
        self.given: dict[int, str] = {}

    def teardown(self) -> None:
        if self.ledger.catalog().versions:
            self.ledger.remove("digits", 0)
        self.ledger.close()

    @rule(content=st.sampled_from("abcd"), alias=st.sampled_from(["latest", "stable"]))
    def push(self, content, alias):
        number = push(self.ledger, content, alias)
        assert self.given.setdefault(number, content) == content
        for name in {alias} if "latest" in self.stack else {alias, "latest"}:
            self.moved(name, number)

    @rule(alias=st.sampled_from(["latest", "stable"]), data=st.data())
    @precondition(lambda self: self.ledger.catalog().versions)
    def move(self, alias, data):
        number = data.draw(st.sampled_from([version.number for version in self.ledger.catalog().versions]))
        self.ledger.move("digits", alias, number)
        self.moved(alias, number)

    def moved(self, alias, number):
        stack = self.stack.setdefault(alias, [])
        if stack[-1:] != [number]:
            stack.append(number)

    @rule(alias=st.sampled_from(["latest", "stable"]))
    def rollback(self, alias):
        kept = {version.number for version in self.ledger.catalog().versions}
        try:
            found = self.ledger.rollback("digits", alias)
        except (ModelNotFound, VersionNotFound):
            assert alias not in self.stack
            return
        except Conflict:
            here = self.stack[alias][-1]
            assert not [number for number in self.stack[alias] if number in kept and number != here]
            return
        here = self.stack[alias].pop()
        while self.stack[alias][-1] not in kept or self.stack[alias][-1] == here:
            self.stack[alias].pop()
        assert found.number == self.stack[alias][-1]

    @rule(data=st.data())
    @precondition(lambda self: self.ledger.catalog().versions)
    def remove(self, data):
        number = data.draw(st.sampled_from([0, *(version.number for version in self.ledger.catalog().versions)]))
        try:
            self.ledger.remove("digits", number)
        except Conflict:
            assert number in {stack[-1] for stack in self.stack.values()}
        if not self.ledger.catalog().versions:
            self.stack = {}

    @rule()
    def restart(self):
        self.ledger.close()
        self.ledger = SqliteLedger(self.path)

    @invariant()
    def holds(self):
        catalog = self.ledger.catalog()
        assert catalog.epoch >= self.epoch
        self.epoch = catalog.epoch
        assert {item.alias: item.number for item in catalog.aliases} == {
            alias: stack[-1] for alias, stack in self.stack.items()
        }
        assert {item.number for item in catalog.aliases} <= {version.number for version in catalog.versions}


def test_any_history_keeps_its_promises(tmp_path):
    class Here(History):
        path = tmp_path / "ledger.sqlite"

    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=12, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
