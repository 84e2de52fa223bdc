"""Parsing and rendering: no process, no socket."""

import io
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tetherctl import human
from tetherctl.endpoint import Endpoint, candidates, parse_endpoint
from tetherctl.errors import Usage
from tetherctl.output import Output, layout
from tetherctl.patience import IN_ALL, Patience, waits
from tetherctl.progress import Progress, choose
from tetherctl.registry import route
from tetherctl.settings import Settings, hoist, resolve
from tetherctl.source import _spelled
from tetherd.errors import InvalidInput, QueueFull, Unreachable


class TestHoist:
    @pytest.mark.parametrize(
        ("argv", "flags", "rest"),
        [
            ("models ls -o json", {"output": "json"}, "models ls"),
            ("-ojson models ls", {"output": "json"}, "models ls"),
            ("models --output=name ls", {"output": "name"}, "models ls"),
            ("status -qv", {"quiet": "yes", "verbose": "yes"}, "status"),
            ("status -vv", {"verbose": "yes"}, "status"),
            ("status --json -o json", {"output": "json"}, "status"),
            ("infer m -- -q", {}, "infer m -- -q"),
            ("infer m -i -", {}, "infer m -i -"),
            ("--endpoint unix:///x infer m", {"endpoint": "unix:///x"}, "infer m"),
            ("", {}, ""),
        ],
    )
    def test_takes_globals_out(self, argv: str, flags: dict[str, str], rest: str) -> None:
        assert hoist(argv.split()) == (flags, rest.split())

    @pytest.mark.parametrize("argv", ["-o json -o table", "--endpoint", "status -o", "--json -o name"])
    def test_refuses(self, argv: str) -> None:
        with pytest.raises(Usage):
            hoist(argv.split())

    @given(st.lists(st.text(max_size=8), max_size=8))
    def test_loses_nothing_after_two_dashes(self, words: list[str]) -> None:
        assert hoist(["x", "--", *words]) == ({}, ["x", "--", *words])


class TestResolve:
    def test_precedence(self) -> None:
        env = {"HOME": "/nonexistent", "TETHER_OUTPUT": "name", "TETHER_TIMEOUT": "2m"}
        settings = resolve({"output": "json"}, env)
        assert (settings.output, settings.timeout) == ("json", 120)
        assert settings.origins == {"output": "--output", "timeout": "environment TETHER_TIMEOUT"}

    @pytest.mark.parametrize(
        ("env", "flags", "color"),
        [
            ({}, {}, "auto"),
            ({"NO_COLOR": "1"}, {}, "never"),
            ({"FORCE_COLOR": "1"}, {}, "always"),
            ({"FORCE_COLOR": "0"}, {}, "auto"),
            ({"TERM": "dumb"}, {}, "never"),
            ({"NO_COLOR": "1"}, {"color": "always"}, "always"),
        ],
    )
    def test_color(self, env: dict[str, str], flags: dict[str, str], color: str) -> None:
        assert resolve(flags, {"HOME": "/nonexistent", **env}).color == color


class TestEndpoints:
    @pytest.mark.parametrize("text", ["unix:///run/a.sock", "http://localhost:3000", "http://[::1]:3000"])
    def test_round_trip(self, text: str) -> None:
        assert str(parse_endpoint(text)) == text

    def test_default_port(self) -> None:
        assert parse_endpoint("http://gw") == Endpoint(host="gw", port=80)

    @pytest.mark.parametrize(
        "text",
        ["", "x", "unix://rel", "https://x", "http://", "http://h:0", "http://h:99999", "http://u@h:1", "http://h/p:1"],
    )
    def test_refuses(self, text: str) -> None:
        with pytest.raises(Usage):
            parse_endpoint(text)

    def test_the_users_socket_comes_before_the_systems(self) -> None:
        found = candidates({"HOME": "/home/a", "XDG_RUNTIME_DIR": "/run/user/1"})
        assert found[0] == "/run/user/1/tether/control.sock"
        assert found[-1] == "/run/tether/control.sock"


class TestHuman:
    @given(st.text())
    def test_clean_text_is_inert(self, text: str) -> None:
        shown = human.clean(text)
        assert not set(shown) & set("\x00\x07\x08\x1b\r\n\x7f\x9b\u202e\u2066\u200b\ufeff")
        shown.encode()

    @given(st.recursive(st.text() | st.integers(-(2**53), 2**53), st.lists), st.booleans())
    def test_clean_json_is_the_same_document(self, value: object, ascii_only: bool) -> None:
        text = human.clean_json(msgspec.json.encode(value).decode(), ascii_only=ascii_only)
        assert msgspec.json.decode(text) == value
        assert text.isascii() or not ascii_only
        assert msgspec.json.decode(layout(value)) == value

    @pytest.mark.parametrize(
        ("text", "seconds"), [("500ms", 0.5), ("2s", 2), ("1.5m", 90), ("1h", 3600), ("7", 7), (" 3s ", 3)]
    )
    def test_durations(self, text: str, seconds: float) -> None:
        assert human.parse_duration(text, "--x") == pytest.approx(seconds)

    @pytest.mark.parametrize("text", ["", "0", "-1s", "1y", "s", "1e3", "99999999999d", "٣s"])
    def test_no_durations(self, text: str) -> None:
        with pytest.raises(Usage):
            human.parse_duration(text, "--x")

    def test_sizes_and_spans(self) -> None:
        assert [human.size(n) for n in (0, 1023, 1024, 2**20 * 412, 2**52)] == [
            "0 B",
            "1023 B",
            "1.0 KiB",
            "412 MiB",
            "4096 TiB",
        ]
        assert [human.span(s) for s in (0.004, 1, 59, 60, 7200, 90000)] == ["4 ms", "1 s", "59 s", "1 m", "2 h", "1 d"]
        assert human.ago(10, 10) == "now"
        assert human.rfc3339(0.25) == "1970-01-01T00:00:00.250Z"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", ("", [])),
        ("models", ("models", [])),
        ("models -h", ("models", ["-h"])),
        ("models ls a", ("models ls", ["a"])),
        ("infer m -i f", ("infer", ["m", "-i", "f"])),
    ],
)
def test_route(words: str, expected: tuple[str, list[str]]) -> None:
    assert route(words.split()) == expected


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class TestProgress:
    def progress(self, form: str, now: list[float]) -> tuple[Progress, io.StringIO]:
        said = Terminal()
        return Progress(Output(Settings(), io.StringIO(), said), form, "m", clock=lambda: now[0]), said

    def test_never_goes_back(self) -> None:
        now = [0.0]
        progress, said = self.progress("bar", now)
        progress.phase("upload", 100)
        for done in (10, 60, 40, 20):
            now[0] += 1
            progress.reach(done)
        assert progress.percent == 60
        assert said.getvalue().count(" 60%") == 3

    def test_plain_speaks_at_the_end_and_every_few_seconds(self) -> None:
        now = [0.0]
        progress, said = self.progress("plain", now)
        progress.phase("upload", 1000)
        for done in range(0, 1000, 100):
            now[0] += 1
            progress.reach(done)
        progress.finish()
        assert said.getvalue().splitlines() == [
            "  upload   40%  400 B of 1000 B",
            "  upload   90%  900 B of 1000 B",
            "  upload   done  1000 B in 10 s",
        ]

    def test_auto(self) -> None:
        assert choose("auto", Output(Settings(), None, Terminal())) == "bar"
        assert choose("auto", Output(Settings(dumb=True), None, Terminal())) == "plain"
        assert choose("auto", Output(Settings(output="json"), None, Terminal())) == "none"
        assert choose("auto", Output(Settings(quiet=True), None, Terminal())) == "none"
        assert choose("auto", Output(Settings(), None, io.StringIO())) == "plain"


class TestPatience:
    def patience(self, moved: list[int]) -> tuple[Patience, list[float]]:
        slept: list[float] = []
        progress = Progress(Output(Settings(), None, None), "none", "m")
        return Patience(progress, lambda: moved[0], slept.append), slept

    def test_gives_up_after_about_half_a_minute(self) -> None:
        patience, slept = self.patience([0])

        def fail() -> None:
            raise Unreachable("away")

        with pytest.raises(Unreachable):
            patience.run(fail)
        assert slept == list(waits())
        assert IN_ALL <= sum(slept) < IN_ALL + 3

    def test_progress_renews_it(self) -> None:
        moved = [0]
        patience, slept = self.patience(moved)

        def fail() -> None:
            moved[0] += 1
            if moved[0] < 100:
                raise QueueFull("busy", retry_after=3)

        patience.run(fail)
        assert set(slept) == {3}

    def test_what_cannot_pass_is_told_at_once(self) -> None:
        patience, slept = self.patience([0])

        def fail() -> None:
            raise InvalidInput("never")

        with pytest.raises(InvalidInput):
            patience.run(fail)
        assert slept == []


def test_external_data_names_are_spelled_as_protobuf_does() -> None:
    assert _spelled("w.bin") == b"\x0a\x08location\x12\x05w.bin"
    assert _spelled("x" * 300)[:13] == b"\x0a\x08location\x12\xac\x02"


def test_external_data_of_a_real_model_is_found(tmp_path: Path) -> None:
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    from tetherctl.source import find_files

    weight = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None, 64])
    out = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None, 64])
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [value], [out], [weight])
    (tmp_path / "data").mkdir()
    onnx.save(
        helper.make_model(graph),
        str(tmp_path / "m.onnx"),
        save_as_external_data=True,
        location="data/weights",
        size_threshold=0,
    )
    (tmp_path / "data" / "other").write_bytes(b"weights")
    source = find_files(tmp_path)
    assert sorted(source.files) == ["data/weights", "m.onnx"]
    assert source.skipped == ["data/other"]
