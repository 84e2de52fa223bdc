"""Layers: what a file, the environment and flags set, and where; what cannot be read becomes a problem with a place."""

from hypothesis import given
from hypothesis import strategies as st

from tetherd.config import layers
from tetherd.config.layers import Given, Layer, Origin, show_key


def only(layer: Layer) -> tuple[Origin, str]:
    assert not layer.given
    assert len(layer.problems) == 1
    return layer.problems[0].origin, layer.problems[0].message


def test_a_file_keeps_the_place_of_each_value() -> None:
    layer = layers.file('[gateway]\nlisten = "x"\n\n[worker.models."a.b"]\n  threads = 2\n', "t.toml")
    assert layer.given == {
        ("gateway", "listen"): Given("x", Origin("file", "t.toml", 2, 1)),
        ("worker", "models", "a.b", "threads"): Given(2, Origin("file", "t.toml", 5, 3)),
    }


def test_empty_tables_set_nothing_but_unknown_ones_are_kept_for_the_parser() -> None:
    assert layers.file("[gateway]\n[worker.models.x]\n", "t").given == {}
    assert list(layers.file("[gatway]\n", "t").given) == [("gatway",)]


def test_bad_syntax_has_line_and_column() -> None:
    origin, message = only(layers.file("[node]\nname = what\n", "t.toml"))
    assert (origin.line, origin.column) == (2, 8)
    assert message == "not TOML: Invalid value"


def test_a_duplicate_table_is_bad_syntax() -> None:
    origin, message = only(layers.file("[node]\n[node]\n", "t.toml"))
    assert origin.line == 2
    assert "node" in message


def test_bad_syntax_at_the_end_is_placed_there() -> None:
    origin, _ = only(layers.file('a = 1\nb = "', "t.toml"))
    assert origin.line == 2


def test_what_the_reader_chokes_on_is_a_problem_too() -> None:
    assert "TOML" in only(layers.file("a = " + "[" * 100_000, "t"))[1]
    assert "TOML" in only(layers.file("a = " + "1" * 10_000, "t"))[1]
    assert "more than 1 MiB" in only(layers.file("#" * (2**20 + 1), "t"))[1]


def test_variables_are_words_of_the_shell() -> None:
    layer = layers.environment({"TETHER__GATEWAY__MAX_BODY": "1MiB", "TETHER_CONFIG": "x", "PATH": "y"})
    assert layer.given == {
        ("gateway", "max_body"): Given("1MiB", Origin("env", "TETHER__GATEWAY__MAX_BODY"), text=True)
    }


def test_flags_take_any_value_and_quoted_names() -> None:
    layer = layers.flags(["rpc.listen = ipc:///a=b", 'worker.models."a.b".threads=2'], {("log", "level"): ("-l", "x")})
    assert {key: given.value for key, given in layer.given.items()} == {
        ("log", "level"): "x",
        ("rpc", "listen"): "ipc:///a=b",
        ("worker", "models", "a.b", "threads"): "2",
    }
    assert str(layer.given["log", "level"].origin) == "flag -l"
    assert str(layer.given["worker", "models", "a.b", "threads"].origin) == 'flag --set worker.models."a.b".threads'


def test_bad_assignments_are_problems() -> None:
    layer = layers.flags(["x", "=1", "a b=1", "a\nb=1", "node.name=a", "node.name=b"], {})
    assert [problem.message for problem in layer.problems] == [
        "'x' is not KEY=VALUE",
        "'=1' is not KEY=VALUE",
        "'a b=1' is not KEY=VALUE",
        "'a\\nb=1' is not KEY=VALUE",
        "set twice on the command line",
    ]


def test_a_flag_of_its_own_and_an_assignment_of_the_same_key_are_two() -> None:
    assert len(layers.flags(["log.level=debug"], {("log", "level"): ("--log-level", "info")}).problems) == 1


def test_names_are_shown_without_what_a_terminal_obeys() -> None:
    assert str(Origin("file", "a\x1b[31m\u202e.toml", 3)) == "a\\x1b[31m\\u202e.toml:3"
    assert show_key(("worker", "models", "a.b\n")) == 'worker.models."a.b\\n"'


@given(st.text(max_size=60))
def test_no_text_breaks_a_layer(text: str) -> None:
    layers.file(text, "t")
    layers.flags([text], {})
    layers.environment({"TETHER__" + text: text})
