import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tetherd.wire.assignments import Assignment, Event, Site, decode_assignment, decode_event, encode

texts = st.text(max_size=20)
counts = st.integers(0, 2**62)
sites = st.lists(st.builds(Site, texts, texts), max_size=3).map(tuple)
assignments = st.builds(
    Assignment, texts, texts, texts, counts, texts, sites, texts, texts, counts, counts, counts, max_rows=counts
)
events = st.builds(Event, st.sampled_from(["loaded", "failed", "alive"]), texts, counts, counts)


@given(assignments)
def test_an_assignment_is_one_line_and_comes_back(assignment: Assignment) -> None:
    line = encode(assignment)
    assert line.count(b"\n") == 1
    assert decode_assignment(line) == assignment


@given(events)
def test_an_event_is_one_line_and_comes_back(event: Event) -> None:
    line = encode(event)
    assert line.count(b"\n") == 1
    assert decode_event(line) == event


@pytest.mark.parametrize("line", [b"", b"\n", b"{}", b"[1]", b'{"kind":"dancing"}', b"loaded\n", b'{"kind":"loaded"'])
def test_other_lines_are_no_events(line: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode_event(line)
