"""Positions: every key of a TOML text is found where an editor shows it."""

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tetherd.config.locate import Key, Place, locate, nearest

TEXT = '''# a comment with [brackets] = "and quotes
top = 1
[gateway]   # said [here]
listen = "a # b = [c]"
  max_body='x"y'
hosts = [
  "a]", # ] not the end
  'b',
]
long = """
not = "a key" \\"""
[nor.a.table]
"""""
raw = \'\'\'
neither = 1
\'\'\'
inline = { key = 1, other = [1, 2] }
[ worker . models . "a.b" ]
threads.x = 2
[[list]]
last = 1979-05-27T07:32:00Z'''


def test_keys_and_headers_are_found() -> None:
    tomllib.loads(TEXT)
    places = locate(TEXT)
    assert places[("top",)] == Place(2, 1)
    assert places[("gateway",)] == Place(3, 1)
    assert places[("gateway", "max_body")] == Place(5, 3)
    assert places[("gateway", "hosts")].line == 6
    assert places[("gateway", "long")].line == 10
    assert places[("gateway", "raw")].line == 14
    assert places[("gateway", "inline")].line == 17
    assert places[("worker", "models", "a.b")] == Place(18, 1)
    assert places[("worker", "models", "a.b", "threads", "x")] == Place(19, 1)
    assert places[("list", "last")].line == 21
    assert not any(key[-1] in ("not", "nor", "neither", "key") for key in places)


def test_windows_line_ends_count_once() -> None:
    assert locate('a = """\r\nx\r\n"""\r\nb = 2\r\n')[("b",)] == Place(4, 1)


def test_what_is_inside_an_inline_table_is_near_its_key() -> None:
    places = locate("\ngateway = { listn = 1 }")
    assert nearest(places, ("gateway", "listn")) == Place(2, 1)
    assert nearest(places, ("other",)) is None


_scalars = st.one_of(st.integers(-9, 9), st.booleans(), st.sampled_from(["", "a", "[", '"', "# =", "\n", "'''", "\\"]))
_names = st.sampled_from(["a", "b-1", "c d", "e.f", '"', "é", "#", "="])


@given(st.dictionaries(_names, st.dictionaries(_names, st.one_of(_scalars, st.lists(_scalars, max_size=3)))))
def test_every_key_of_a_written_document_is_found_on_its_line(tables: dict[str, dict[str, Any]]) -> None:
    import json

    lines: list[str] = []
    expected: dict[Key, int] = {}
    for table, keys in tables.items():
        lines.append(f"[{json.dumps(table)}]")
        expected[(table,)] = len(lines)
        for key, value in keys.items():
            lines.append(f"{json.dumps(key)} = {json.dumps(value)} # '\"[")
            expected[(table, key)] = len(lines)
    text = "\n".join(lines)
    assert tomllib.loads(text) == tables
    assert {key: place.line for key, place in locate(text).items()} == expected


@given(st.text(alphabet="ab.=[]{}\"'#\n\\ 1", max_size=40))
def test_no_text_breaks_or_hangs_it(text: str) -> None:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    locate(text)


@pytest.mark.timeout(5)
def test_a_large_file_is_located_in_linear_time() -> None:
    assert len(locate("\n".join(f"key{index} = [[[[1]]]]" for index in range(20_000)))) == 20_000
