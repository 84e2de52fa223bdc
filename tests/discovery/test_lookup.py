"""One walk: whom it asks, whom it waits for, and when it ends."""

from hypothesis import given
from hypothesis import strategies as st

from tetherd.discovery.contacts import Contact
from tetherd.discovery.lookup import MAX_CANDIDATES, PARALLEL, Lookup
from tetherd.discovery.table import CLOSEST


def contact(index: int) -> Contact:
    return Contact(index.to_bytes(32), index, ("10.0.0.1", index % 60000 + 1024))


def walk(*indices: int) -> Lookup:
    found = Lookup(0)
    for index in indices:
        found.learn(contact(index))
    return found


def numbers(contacts: list[Contact]) -> list[int]:
    return [each.number for each in contacts]


def test_it_asks_the_closest_first_and_few_at_once() -> None:
    lookup = walk(9, 3, 7, 1, 5, 2)
    assert numbers(lookup.next()) == [1, 2, 3, 5]
    assert lookup.next() == []
    lookup.answered(contact(2).id)
    assert numbers(lookup.next()) == [7]


def test_it_ends_when_the_closest_have_all_answered() -> None:
    lookup = walk(*range(1, 21))
    asked: list[Contact] = []
    while batch := lookup.next():
        asked += batch
        for each in batch:
            lookup.answered(each.id)
    assert lookup.done
    assert numbers(asked) == list(range(1, CLOSEST + 1)) == numbers(lookup.closest())


def test_whoever_is_silent_is_replaced_and_not_waited_for() -> None:
    lookup = walk(*range(1, 7))
    for each in lookup.next():
        lookup.silent(each.id)
    for each in lookup.next():
        lookup.answered(each.id)
    assert lookup.done
    assert numbers(lookup.closest()) == [5, 6]
    lookup.answered(contact(1).id)
    assert numbers(lookup.closest()) == [1, 5, 6], "a late answer counts"


def test_whoever_kept_others_waiting_is_asked_beside_the_rest() -> None:
    lookup = walk(2, 3, 4, 5)
    lookup.learn(contact(1), doubted=True)
    assert numbers(lookup.next()) == [1, 2, 3, 4, 5]
    for index in range(2, 6):
        lookup.answered(contact(index).id)
    assert lookup.done


def test_an_end_without_anyone() -> None:
    lookup = walk()
    assert lookup.done
    assert lookup.closest() == []


def test_a_flood_of_contacts_is_cut_to_the_closest() -> None:
    lookup = walk(*range(1000, 1, -1))
    assert numbers(lookup.next()) == [2, 3, 4, 5]
    assert len(lookup._state) <= MAX_CANDIDATES


@given(st.sets(st.integers(1, 500), max_size=60), st.randoms())
def test_it_always_ends_and_never_asks_twice(indices: set[int], random: object) -> None:
    lookup = walk(*indices)
    asked: list[bytes] = []
    waiting: list[Contact] = []
    for _ in range(2000):
        batch = lookup.next()
        asked += [each.id for each in batch]
        waiting += batch
        assert len(waiting) <= PARALLEL
        if not waiting:
            break
        each = waiting.pop(random.randrange(len(waiting)))  # type: ignore[attr-defined]
        random.choice([lookup.answered, lookup.silent, lookup.failed])(each.id)  # type: ignore[attr-defined]
    assert lookup.done
    assert len(asked) == len(set(asked)) == lookup.asked
