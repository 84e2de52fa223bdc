"""The contract of the command line, held by running it: exit codes, what goes where, in which form."""

import os
import pty
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest


def loads(text: str) -> Any:
    return msgspec.json.decode(text)


def test_version_needs_no_daemon(ctl: Any) -> None:
    done = ctl("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, "tetherctl 0.1.0\n", "")


@pytest.mark.parametrize("words", [["models", "ls", "-V"], ["--version", "status"], ["version"]])
def test_version_flag_works_anywhere(ctl: Any, words: list[str]) -> None:
    done = ctl(*words)
    assert done.returncode == 0
    assert "tetherctl 0.1.0" in done.stdout


def test_help_without_arguments(ctl: Any) -> None:
    done = ctl()
    assert done.returncode == 0
    assert "tetherctl models push models/digits/" in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "hint"),
    [
        (["stauts"], 2, "did you mean: tetherctl status"),
        (["logs"], 2, "did you mean: tetherctl status"),
        (["health"], 2, "did you mean: tetherctl status"),
        (["psuh"], 2, "did you mean: tetherctl models push"),
        (["models", "pusj"], 2, "did you mean: tetherctl models push"),
        (["models"], 2, "tetherctl models --help"),
        (["models", "ls", "--jsn"], 2, "did you mean --json?"),
        (["models", "rollback", "digits", "--to", "stable"], 2, "fix:  tetherctl models rollback --help"),
        (["models", "rollback", "digits", "--alia", "stable"], 2, "did you mean --alias?"),
        (["models", "show"], 2, "tetherctl models show --help"),
        (["models", "ls", "-o", "yaml"], 2, "table, json"),
        (["models", "ls", "-o", "jsno"], 2, "did you mean json?"),
        (["models", "ls", "-o", "json", "--output", "name"], 2, "keep one"),
        (["models", "pull", "m", "-d", "a", "-d", "b"], 2, "keep one"),
        (["status", "--timeout", "soon"], 2, "500ms"),
        (["status", "--endpoint", "ftp://x"], 2, "unix:///"),
        (["models", "show", "../etc"], 2, "a-z 0-9"),
        (["models", "promote", "digits@stable"], 2, "models versions"),
        (["models", "rm", "digits@stable"], 2, "models versions"),
        (["infer", "m", "--concurrency", "0"], 2, "infer --help"),
        (["completion", "tcsh"], 2, "bash, zsh, fish"),
        (["help", "nothing"], 2, "exit-codes"),
    ],
)
def test_usage_errors(ctl: Any, daemon: Any, words: list[str], code: int, hint: str) -> None:
    done = ctl(*words)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("error: ")
    assert hint in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_globals_stand_anywhere_and_stop_at_two_dashes(ctl: Any, daemon: Any) -> None:
    first, last = ctl("-o", "json", "models", "ls"), ctl("models", "ls", "--json")
    assert first.stdout == last.stdout
    assert loads(first.stdout) == {"schema": "tether.models.list/v1", "items": []}
    assert ctl("models", "ls", "--", "-o").returncode == 0


def test_errors_in_json_are_one_object_on_stderr(ctl: Any, daemon: Any) -> None:
    done = ctl("models", "show", "ghost", "--json")
    error = loads(done.stderr)
    assert (done.returncode, done.stdout) == (3, "")
    assert error["schema"] == "tether.error/v1"
    assert (error["code"], error["exit"], error["retryable"]) == ("MODEL_NOT_FOUND", 3, False)
    assert loads(ctl("models", "nope", "--json").stderr)["code"] == "USAGE"


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, "INVALID_INPUT", 2),
        (404, "VERSION_NOT_FOUND", 3),
        (403, "FORBIDDEN", 4),
        (503, "UNREACHABLE", 5),
        (504, "DEADLINE_EXCEEDED", 6),
        (409, "CONFLICT", 7),
        (429, "QUEUE_FULL", 8),
        (503, "UNAVAILABLE", 8),
        (422, "DIGEST_MISMATCH", 11),
        (422, "MODEL_INVALID", 1),
        (500, "INTERNAL", 70),
        (500, "NEVER_HEARD_OF", 70),
    ],
)
def test_every_code_of_the_daemon_has_its_exit_code(
    ctl: Any, daemon: Any, status: int, code: str, expected: int
) -> None:
    def refuse(http: Any) -> bool:
        http.fail(status, code, "it went wrong", "do that", {"Retry-After": "3"} if status == 429 else None)
        return True

    daemon.rules.append(refuse)
    done = ctl("models", "load", "digits")
    assert done.returncode == expected
    assert "it went wrong" in done.stderr
    assert ("try again in 3 s" in done.stderr) == (status == 429)


class TestReaching:
    def test_no_socket(self, ctl: Any) -> None:
        done = ctl("status", TETHER_ENDPOINT="")
        assert done.returncode == 5
        assert "is not running on this machine" in done.stderr
        assert "tetherd run" in done.stderr.splitlines()[-1]

    def test_left_over_socket(self, ctl: Any, daemon: Any) -> None:
        daemon.stop()
        done = ctl("status")
        assert done.returncode == 5
        assert "left over" in done.stderr

    @pytest.mark.skipif(os.getuid() == 0, reason="root may open everything")
    def test_denied(self, ctl: Any, daemon: Any) -> None:
        daemon.path.chmod(0)
        done = ctl("status")
        assert (done.returncode, "permission denied" in done.stderr) == (4, True)

    def test_not_answering(self, ctl: Any, place: Path) -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(place / "control.sock"))
            listener.listen()
            done = ctl("status", "--timeout", "200ms")
        assert done.returncode == 5
        assert "running but did not answer within 0.2 s" in done.stderr
        assert f"pid {os.getpid()}" in done.stderr

    def test_something_else_answers(self, ctl: Any, place: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            done = subprocess.Popen(
                [sys.executable, "-m", "tetherctl", "status", "--endpoint", f"http://127.0.0.1:{port}"],
                env={"PYTHONPATH": os.pathsep.join(sys.path), "HOME": str(place)},
                stderr=subprocess.PIPE,
                text=True,
            )
            peer, _ = listener.accept()
            peer.sendall(b"220 mail.example ESMTP\r\n")
            assert done.wait(5) == 5
            assert done.stderr is not None
            assert "does not speak HTTP" in done.stderr.read()
            done.stderr.close()
            peer.close()

    def test_the_users_own_socket_is_found(self, ctl: Any, daemon: Any, place: Path) -> None:
        (place / "run" / "tether").mkdir(parents=True)
        daemon.stop()
        daemon.path = place / "run" / "tether" / "control.sock"
        daemon.start()
        done = ctl("status", TETHER_ENDPOINT="", XDG_RUNTIME_DIR=str(place / "run"))
        assert done.returncode == 0

    def test_a_dropped_get_is_asked_once_more(self, ctl: Any, daemon: Any) -> None:
        dropped: list[str] = []

        def drop(http: Any) -> bool:
            if dropped:
                return False
            dropped.append(http.path)
            http.close_connection = True
            return True

        daemon.rules.append(drop)
        assert ctl("status").returncode == 0
        assert dropped


class TestForms:
    def test_status_names_the_models_that_are_not_served(self) -> None:
        from tetherctl.commands.status import lines

        failed = [{"name": f"m{i}", "version": 2, "state": "FAILED", "reason": "bad graph"} for i in range(12)]
        unloaded = {"name": "digits", "version": 1, "state": "UNLOADED", "reason": "unloaded"}
        screen = list(lines({"models": 20, "troubled": [unloaded, *failed]}))
        assert {"    digits  unloaded", "    m0@2  failed  bad graph"} <= set(screen)
        assert "    and 3 more; tetherctl models ls lists all" in screen

    def test_status(self, ctl: Any, daemon: Any) -> None:
        screen = ctl("status").stdout
        assert screen.splitlines()[0] == "n-1  ready  up 1 m  tether 0.1.0  pid 4242"
        assert "digits@1  ready  1.0 MiB  pid 7" in screen
        assert loads(ctl("status", "--json").stdout)["schema"] == "tether.status/v1"

    def test_lists(self, ctl: Any, daemon: Any, digits: Path) -> None:
        assert ctl("models", "push", str(digits)).returncode == 0
        table = ctl("models", "ls")
        assert table.stdout.splitlines()[0].split() == [
            "MODEL",
            "VERSION",
            "ALIASES",
            "FORMAT",
            "SIZE",
            "STATE",
            "CREATED",
        ]
        assert table.stderr == "1 model\n"
        assert ctl("models", "ls", "-q").stderr == ""
        item, end = map(loads, ctl("models", "ls", "-o", "ndjson").stdout.splitlines())
        assert item["created"] == "2023-11-14T22:13:20.500Z"
        assert end == {"schema": "tether.models.list/v1/end", "count": 1}
        assert ctl("models", "ls", "-o", "name").stdout == "digits\n"
        assert ctl("models", "ls", "x*", "-o", "name").stdout == ""
        assert ctl("models", "versions", "digits", "-o", "name").stdout == "digits@1\n"
        shown = ctl("models", "show", "digits").stdout
        assert "input    x  FP32 [any, 64]" in shown

    def test_where_a_model_is(self, ctl: Any, daemon: Any, digits: Path) -> None:
        digest = loads(ctl("models", "push", str(digits), "--json").stdout)["digest"]
        holders = [
            {"name": "founder", "node": "a" * 64, "alive": True, "primary": True},
            {"name": "b\x1b", "node": "b" * 64, "alive": False, "primary": False},
        ]
        found = {"name": "digits", "wanted": 3, "versions": [{"number": 1, "digest": digest, "holders": holders}]}

        def answer(http: Any) -> bool:
            return http.path.endswith("/digits/holders") and (http.reply(200, found) or True)

        daemon.rules.append(answer)
        shown = [line.split() for line in ctl("models", "show", "digits", "--where").stdout.splitlines()]
        assert ["held", "by", "founder", "a" * 12, "primary"] in shown
        assert ["held", "by", "b\\x1b", "b" * 12, "silent"] in shown
        assert ["copies", "REPLICATED", "2/3", "(pending)"] in shown
        (version,) = loads(ctl("models", "show", "digits", "--where", "-o", "json").stdout)["versions"]
        assert version["holders"] == holders
        assert version["copies"] == {"held": 2, "wanted": 3}
        assert "held by" not in ctl("models", "show", "digits").stdout

    def test_a_model_that_nobody_holds_is_not_only_pending(self, ctl: Any, daemon: Any, digits: Path) -> None:
        digest = loads(ctl("models", "push", str(digits), "--json").stdout)["digest"]
        found = {"name": "digits", "wanted": 2, "versions": [{"number": 1, "digest": digest, "holders": []}]}
        daemon.rules.append(lambda http: http.path.endswith("/holders") and (http.reply(200, found) or True))
        shown = ctl("models", "show", "digits", "--where").stdout
        assert "REPLICATED 0/2 (no manager that is there holds it)" in shown

    @pytest.mark.parametrize(
        ("successor", "says"),
        [
            ({}, []),
            (
                {"successor": "sec\x1bond"},
                ["models are changed on sec\\x1bond from now on", "on sec\\x1bond: tetherctl models ls"],
            ),
            ({"successor": ""}, ["no manager is left"]),
        ],
    )
    def test_sending_the_primary_away_says_where_models_are(
        self, ctl: Any, daemon: Any, successor: dict[str, str], says: list[str]
    ) -> None:
        gone = {"node": "a" * 64, "forgotten": "a" * 64, "name": "first", "joined": 1.0, "revoked": 2.0, **successor}
        daemon.rules.append(lambda http: "/nodes/first" in http.path and (http.reply(200, gone) or True))
        for verb in ("revoke", "forget"):
            done = ctl("nodes", verb, "first", "--yes")
            assert [line.startswith(start) for line, start in zip(done.stderr.splitlines(), says, strict=True)] == [
                True
            ] * len(says)

    @pytest.mark.parametrize(
        ("held", "wanted", "says"), [(1, 3, "REPLICATED 1/3 (pending)"), (1, 1, ""), (3, 3, "3/3 ")]
    )
    def test_a_push_says_how_far_it_has_spread(
        self, ctl: Any, daemon: Any, digits: Path, held: int, wanted: int, says: str
    ) -> None:
        daemon.copies = {"held": held, "wanted": wanted}
        shown = ctl("models", "push", str(digits)).stdout
        assert (says in shown) if says else ("REPLICATED" not in shown)
        assert "pending" not in shown or held < wanted

    def test_text_from_the_daemon_cannot_drive_the_terminal(self, ctl: Any, daemon: Any) -> None:
        evil = "\x1b[2J\u202egnp.exe\x07"
        daemon.rules.append(lambda http: bool(http.fail(409, "CONFLICT", evil, evil)) or True)
        shown = ctl("status").stderr
        assert not set(shown) & set("\x1b\u202e\x07")
        assert "\\x1b[2J\\u202egnp.exe" in shown

    def test_json_keeps_what_it_escapes(self, ctl: Any, daemon: Any) -> None:
        text = "Zähler \U0001f600 \u202e \x7f \x1b"
        daemon.rules.append(lambda http: bool(http.reply(200, {"node": text})) or True)
        for env in ({"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "utf-8"}):
            out = ctl("status", "--json", **env).stdout
            assert loads(out)["node"] == text
            assert not set(out) & set("\u202e\x7f\x1b")

    def test_works_without_a_locale(self, ctl: Any, daemon: Any) -> None:
        daemon.rules.append(lambda http: bool(http.reply(200, {"node": "Zähler", "workers": []})) or True)
        done = ctl("status", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
        assert done.returncode == 0
        assert "Z\\xe4hler" in done.stdout

    def test_colour_only_where_it_is_seen(self, ctl: Any, daemon: Any) -> None:
        assert "\x1b[31m" in ctl("models", "show", "ghost", "--color", "always").stderr
        assert "\x1b[31m" in ctl("models", "show", "ghost", FORCE_COLOR="1").stderr
        assert "\x1b" not in ctl("models", "show", "ghost", FORCE_COLOR="1", NO_COLOR="1").stderr
        assert "\x1b" not in ctl("models", "show", "ghost").stderr


class TestSettings:
    def test_file_below_environment_below_flags(self, ctl: Any, daemon: Any, place: Path) -> None:
        (place / ".config" / "tether").mkdir(parents=True)
        (place / ".config" / "tether" / "cli.toml").write_text('output = "json"\ntimeout = "3s"\n')
        assert ctl("models", "ls").stdout.startswith("{")
        assert ctl("models", "ls", TETHER_OUTPUT="name").stdout == ""
        assert ctl("models", "ls", "-o", "ndjson", TETHER_OUTPUT="name").stdout.count("\n") == 1

    @pytest.mark.parametrize("text", ["endpiont = 'x'", "output = 1", "= broken", "timeout = 'soon'"])
    def test_a_bad_file_is_named(self, ctl: Any, place: Path, text: str) -> None:
        (place / ".config" / "tether").mkdir(parents=True)
        (place / ".config" / "tether" / "cli.toml").write_text(text)
        done = ctl("status")
        assert done.returncode in {2, 78}
        assert "cli.toml" in done.stderr


class TestRemove:
    def test_needs_a_yes(self, ctl: Any, daemon: Any, digits: Path) -> None:
        ctl("models", "push", str(digits))
        done = ctl("models", "rm", "digits")
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1] == "  fix:  tetherctl models rm digits --yes"
        assert "digits" in daemon.versions
        assert ctl("models", "rm", "digits", "-y").stdout == "removed digits, all versions\n"
        assert "digits" not in daemon.versions

    @pytest.mark.parametrize(("reply", "code"), [(b"y\n", 0), (b"\n", 1), (b"what\n", 1)])
    def test_asks_on_a_terminal(
        self, env: dict[str, str], ctl: Any, daemon: Any, digits: Path, reply: bytes, code: int
    ) -> None:
        ctl("models", "push", str(digits))
        outer, inner = pty.openpty()
        process = subprocess.Popen([sys.executable, "-m", "tetherctl", "models", "rm", "digits"], env=env, stdin=inner)
        os.write(outer, reply)
        assert process.wait(10) == code
        assert ("digits" in daemon.versions) == bool(code)
        os.close(outer)
        os.close(inner)


class TestAliases:
    def test_promote_and_rollback(self, ctl: Any, daemon: Any, digits: Path) -> None:
        ctl("models", "push", str(digits))
        (digits / "labels.txt").write_text("changed")
        ctl("models", "push", str(digits), "--alias", "canary")
        done = ctl("models", "promote", "digits@2")
        assert done.stdout == "digits: latest -> 2   (was 1)\n"
        assert done.stderr == "undo: tetherctl models rollback digits\n"
        assert ctl("models", "rollback", "digits").stdout.startswith("digits: latest -> 1")
        assert loads(ctl("models", "promote", "digits@2", "--to", "stable", "--json").stdout)["number"] == 2
        assert loads(ctl("models", "promote", "digits@2", "--alias", "next", "--json").stdout)["alias"] == "next"

    def test_show_tells_why_once_and_only_what_needs_it(self, ctl: Any, daemon: Any, digits: Path) -> None:
        ctl("models", "push", str(digits))
        daemon.versions["digits"][0] |= {"state": "IDLE", "reason": "nobody asked for it"}
        assert "nobody asked" not in ctl("models", "show", "digits").stdout
        daemon.versions["digits"][0] |= {"state": "FAILED", "reason": "no such operator"}
        assert ctl("models", "show", "digits").stdout.count("no such operator") == 1

    def test_load_and_unload(self, ctl: Any, daemon: Any, digits: Path) -> None:
        ctl("models", "push", str(digits))
        assert ctl("models", "load", "digits").stdout == "digits@1 is ready\n"
        assert ctl("models", "unload", "digits", "-o", "name").stdout == "digits\n"
        assert ctl("models", "unload", "digits").stdout == "digits is unloaded\n"
        done = ctl("models", "unload", "digits@3")
        assert (done.returncode, "fix:  tetherctl models unload digits\n" in done.stderr) == (2, True)


def test_a_daemon_elsewhere_is_started_there(ctl: Any) -> None:
    assert "start it on that host: tetherd run" in ctl("status", "--endpoint", "http://127.0.0.2:1").stderr
    assert "start it: tetherd run" in ctl("status", "--endpoint", "http://127.0.0.1:1").stderr
