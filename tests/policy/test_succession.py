"""Two catalogs become one: nothing is lost, nothing renumbered, and what both know is as the right one says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tetherd.errors import InvalidInput
from tetherd.policy.succession import KEPT, beginning, check, unite
from tetherd.types import Digest, Signature
from tetherd.wire.catalog import Alias, Catalog, FileEntry, Version
from tetherd.wire.manifest import digest_of

EMPTY = Catalog(0, [], [])


def version(model: str, number: int, content: str = "") -> Version:
    digest = digest_of((content or f"{model}{number}").encode())
    return Version(model, number, digest, digest, "onnx", Signature((), ()), 1, 1.0, [FileEntry("m", digest, 1)])


def numbers(catalog: Catalog) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for one in catalog.versions:
        found.setdefault(one.model, []).append(one.number)
    return found


def test_an_empty_ledger_takes_everything_as_it_was() -> None:
    copy = Catalog(
        epoch=105,
        versions=[version("digits", 1), version("digits", 3), version("words", 2)],
        aliases=[Alias("digits", "latest", 3, 90, 1), Alias("digits", "stable", 1, 40), Alias("words", "latest", 2, 5)],
        unloaded=["words"],
        spent={"digits": 7, "gone": 4},
        origin="second",
        heritage={"first": 12},
    )
    union, renamed = unite(copy, EMPTY, term=3)
    assert union == replace(copy, epoch=beginning(3) + 1, heritage={"first": 12, "second": 105})
    assert renamed == {}


def test_epochs_go_on_above_all_that_anybody_may_have_seen() -> None:
    assert unite(Catalog(105, [], []), EMPTY, 0).catalog.epoch == 106
    assert unite(Catalog(105, [], []), Catalog(200, [], []), 0).catalog.epoch == 201
    assert unite(Catalog(105, [], []), EMPTY, 2).catalog.epoch > beginning(1) + 1_000_000
    assert unite(Catalog(beginning(9), [], []), EMPTY, 2).catalog.epoch == beginning(9) + 1


def test_what_only_the_other_has_is_added_under_its_own_name_and_number() -> None:
    ours = Catalog(5, [version("digits", 1)], [Alias("digits", "latest", 1, 5)])
    theirs = Catalog(
        3, [version("digits", 1), version("digits", 2), version("mine", 4)], [Alias("mine", "latest", 4, 3)], ["mine"]
    )
    union, renamed = unite(ours, theirs, 0)
    assert numbers(union) == {"digits": [1, 2], "mine": [4]}
    assert union.aliases == [*ours.aliases, Alias("mine", "latest", 4, 3)]
    assert union.unloaded == ["mine"]
    assert renamed == {}


def test_a_number_that_two_versions_have_keeps_its_meaning_and_the_other_version_its_number() -> None:
    ours = Catalog(5, [version("digits", 1), version("digits", 2)], [Alias("digits", "latest", 2, 5, 1)])
    theirs = Catalog(
        9,
        [version("digits", 1, "another"), version("digits", 3)],
        [Alias("digits", "latest", 1, 9, 3), Alias("digits", "canary", 3, 8)],
        ["digits"],
    )
    union, renamed = unite(ours, theirs, 0)
    assert renamed == {"digits": "digits" + KEPT}
    assert numbers(union) == {"digits": [1, 2, 3], "digits" + KEPT: [1]}
    assert [one.version for one in union.versions if one.model != "digits"] == [theirs.versions[0].version]
    assert union.aliases == [
        Alias("digits", "canary", 3, 8),
        ours.aliases[0],
        Alias("digits" + KEPT, "latest", 1, 9),
    ]
    assert union.unloaded == ["digits" + KEPT]


def test_a_number_that_was_given_and_is_gone_is_not_given_again() -> None:
    ours = Catalog(5, [version("digits", 1)], [], spent={"digits": 4, "removed": 1})
    theirs = Catalog(3, [version("digits", 4), version("digits", 5), version("removed", 1)], [], spent={"digits": 6})
    union, renamed = unite(ours, theirs, 0)
    assert numbers(union) == {"digits": [1, 5], "digits" + KEPT: [4], "removed" + KEPT: [1]}
    assert union.spent == {"digits": 6, "removed": 1}
    assert renamed == {"digits": "digits" + KEPT, "removed": "removed" + KEPT}


def test_a_name_that_is_taken_is_not_taken_twice() -> None:
    ours = Catalog(5, [version("m" * 64, 1), version("m" * 56 + KEPT, 1)], [])
    union, renamed = unite(ours, Catalog(3, [version("m" * 64, 1, "another")], []), 0)
    assert renamed == {"m" * 64: "m" * 56 + KEPT + "2"}
    check(replace(union, origin="o"))


def test_the_same_version_under_another_number_is_the_same_version() -> None:
    ours = Catalog(5, [version("digits", 1, "same"), version("digits", 2)], [])
    theirs = Catalog(3, [version("digits", 2, "same")], [Alias("digits", "canary", 2, 3, 2)])
    union, renamed = unite(ours, theirs, 0)
    assert (union.versions, renamed) == (ours.versions, {})
    assert union.aliases == [Alias("digits", "canary", 1, 3)]


def test_a_later_copy_adds_what_happened_since_the_one_before_it() -> None:
    base = Catalog(
        100,
        [version("digits", number) for number in (1, 2, 3)],
        [Alias("digits", "latest", 1, 50), Alias("digits", "stable", 1, 51)],
    )
    # Since then the new primary has removed 2 and moved stable; latest it left alone.
    ours = Catalog(
        900, [base.versions[0], base.versions[2]], [Alias("digits", "latest", 1, 50), Alias("digits", "stable", 3, 900)]
    )
    theirs = Catalog(
        105,
        [*base.versions, version("digits", 4)],
        [Alias("digits", "latest", 4, 104, 1), Alias("digits", "stable", 2, 105, 1)],
        ["digits"],
    )
    union, renamed = unite(ours, theirs, 0, base)
    assert numbers(union) == {"digits": [1, 3, 4]}
    assert union.aliases == [Alias("digits", "latest", 4, 104, 1), Alias("digits", "stable", 3, 900)]
    assert union.unloaded == ["digits"]
    assert renamed == {}


@pytest.mark.parametrize(
    "catalog",
    [
        Catalog(9, [version("../m", 1)], []),
        Catalog(9, [version("m", 0)], []),
        Catalog(9, [version("m", 1 << 40)], []),
        Catalog(9, [replace(version("m", 1), version=Digest("sha256:../x"))], []),
        Catalog(9, [replace(version("m", 1), files=[])], []),
        Catalog(9, [version("m", 1), version("m", 1, "other")], []),
        Catalog(9, [version("m", 1)], [Alias("m", "latest", 2, 1)]),
        Catalog(9, [version("m", 1)], [Alias("m", "latest", 1, 10)]),
        Catalog(9, [version("m", 1)], [Alias("m", "Latest!", 1, 1)]),
        Catalog(9, [], [], spent={"../m": 1}),
        Catalog(9, [], [], spent={"m": 1 << 40}),
        Catalog(9, [], [], heritage={"a": 10}),
        Catalog(beginning(1), [], []),
    ],
)
def test_what_no_primary_before_writes_is_refused(catalog: Catalog) -> None:
    with pytest.raises(InvalidInput):
        check(replace(catalog, origin="o"), beginning(1))
    good = Catalog(9, [version("m", 1)], [Alias("m", "latest", 1, 9)], [], {"m": 3}, "o", {"a": 9})
    check(good, beginning(1))
    with pytest.raises(InvalidInput):
        check(replace(good, origin=""), beginning(1))


MODELS = ("a", "b")


@st.composite
def catalogs(draw: st.DrawFn) -> Catalog:
    """Any that a manager can have: numbers and contents each once in a model, aliases that point at something."""
    versions, aliases, spent = [], [], {}
    for model in MODELS:
        found = draw(st.dictionaries(st.integers(1, 5), st.sampled_from("uvwxyz"), max_size=4))
        kept = {content: number for number, content in sorted(found.items())}
        versions += [version(model, number, model + content) for content, number in kept.items()]
        for alias in draw(st.sets(st.sampled_from(["latest", "stable"]))) if kept else ():
            number, epoch = draw(st.sampled_from(sorted(kept.values()))), draw(st.integers(1, 100))
            others = [None, *(other for other in kept.values() if other != number)]
            aliases.append(Alias(model, alias, number, epoch, draw(st.sampled_from(others))))
        if last := draw(st.integers(0, 7)):
            spent |= {model: last} if last > max(kept.values(), default=0) else {}
    there = sorted({one.model for one in versions})
    unloaded = sorted(draw(st.sets(st.sampled_from(there)))) if there else []
    versions.sort(key=lambda one: (one.model, one.number))
    aliases.sort(key=lambda one: (one.model, one.alias))
    return Catalog(draw(st.integers(100, 200)), versions, aliases, unloaded, spent)


@given(catalogs(), catalogs(), st.integers(0, 3))
def test_whatever_two_managers_had_both_is_there_afterwards(ours: Catalog, theirs: Catalog, term: int) -> None:
    union, renamed = unite(ours, theirs, term)
    check(replace(union, origin="o"))
    assert union.epoch > max(ours.epoch, theirs.epoch, beginning(term))
    assert all(one in union.versions for one in ours.versions)
    assert all(one in union.aliases for one in ours.aliases)
    here = {(one.model, one.version) for one in ours.versions}
    new = [one for one in theirs.versions if (one.model, one.version) not in here]
    assert len(union.versions) == len(ours.versions) + len(new)
    for one in new:
        assert any(replace(one, model=name) in union.versions for name in (one.model, renamed.get(one.model, "")))
    for model in MODELS:
        assert last(union, model) == max(last(ours, model), last(theirs, model))
    assert set(union.unloaded) <= {one.model for one in union.versions}


def last(catalog: Catalog, model: str) -> int:
    """Return the highest number that a model gave."""
    return max([catalog.spent.get(model, 0), *(one.number for one in catalog.versions if one.model == model)])


@given(catalogs(), catalogs())
def test_what_was_taken_once_changes_nothing_when_it_is_taken_again(ours: Catalog, theirs: Catalog) -> None:
    once = unite(ours, theirs, 1).catalog
    assert replace(unite(once, theirs, 1, theirs).catalog, epoch=once.epoch) == once
