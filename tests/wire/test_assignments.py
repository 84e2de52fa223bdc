import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tetherd.wire.assignments import (
    Assignment,
    Bearings,
    Event,
    GiveUp,
    Site,
    Told,
    decode_assignment,
    decode_event,
    decode_told,
    encode,
)
from tetherd.wire.chunks import Ways

texts = st.text(max_size=20)
counts = st.integers(0, 2**62)
sites = st.lists(st.builds(Site, texts, texts), max_size=3).map(tuple)
assignments = st.builds(
    Assignment, texts, texts, texts, counts, texts, sites, texts, texts, counts, counts, counts, max_rows=counts
)
ways = st.dictionaries(texts, st.builds(Ways, st.tuples(texts), st.tuples(texts)), max_size=2)
told = st.one_of(st.builds(GiveUp, counts), st.builds(Bearings, sites, ways))
events = st.builds(Event, st.sampled_from(["loaded", "failed", "alive"]), texts, counts, counts)


@given(assignments)
def test_an_assignment_is_one_line_and_comes_back(assignment: Assignment) -> None:
    line = encode(assignment)
    assert line.count(b"\n") == 1
    assert decode_assignment(line) == assignment


@given(told)
def test_what_it_is_told_later_is_one_line_and_comes_back(message: Told) -> None:
    line = encode(message)
    assert line.count(b"\n") == 1
    assert decode_told(line) == message


@given(events)
def test_an_event_is_one_line_and_comes_back(event: Event) -> None:
    line = encode(event)
    assert line.count(b"\n") == 1
    assert decode_event(line) == event


@pytest.mark.parametrize("line", [b"", b"\n", b"{}", b"[1]", b'{"kind":"dancing"}', b"loaded\n", b'{"kind":"loaded"'])
def test_other_lines_are_no_events(line: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode_event(line)
