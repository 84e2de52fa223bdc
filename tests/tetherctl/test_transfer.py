"""Push and pull as processes: what is chosen, what survives a break, and what is never published or overwritten."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

LARGE = 9 * 1024 * 1024


def loads(text: str) -> Any:
    return msgspec.json.decode(text)


@pytest.fixture
def large(digits: Path) -> Path:
    (digits / "weights.bin").write_bytes(os.urandom(LARGE))
    return digits


def start(env: dict[str, str], *args: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "tetherctl", *args],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class TestPush:
    def test_says_what_it_did_and_what_comes_next(self, ctl: Any, daemon: Any, digits: Path) -> None:
        done = ctl("models", "push", str(digits), "-v")
        assert done.returncode == 0, done.stderr
        digest = daemon.versions["digits"][0]["digest"]
        assert done.stdout == f"pushed digits@1  {digest[:19]}  3.9 KiB  latest -> 1\n"
        assert done.stderr.splitlines()[-1] == f"next: tetherctl infer digits < {digits}/example.json"
        (digits / "example.json").unlink()
        said = ctl("models", "push", str(digits)).stderr.splitlines()[-1]
        assert said == "next: tetherctl infer digits < input.json   (goes in: x  FP32 [any, 64])"
        for skipped in ("README.md", "build.py", "example.json"):
            assert f"skipped  {skipped}" in done.stderr
        files = [file["path"] for file in daemon.versions["digits"][0]["files"]]
        assert files == ["digits.onnx", "labels.txt", "weights.bin"]

    def test_again_is_no_new_version(self, ctl: Any, daemon: Any, digits: Path) -> None:
        ctl("models", "push", str(digits))
        daemon.seen.clear()
        done = ctl("models", "push", str(digits), "--json")
        document = loads(done.stdout)
        assert (document["number"], document["new"], document["alias"]) == (1, False, "latest")
        assert document["schema"] == "tether.models.push/v1"
        assert done.stderr == ""
        assert not [method for method, _, _ in daemon.seen if method == "PATCH"]

    def test_one_file(self, ctl: Any, daemon: Any, digits: Path) -> None:
        assert ctl("models", "push", str(digits / "digits.onnx")).returncode == 0
        assert [file["path"] for file in daemon.versions["digits"][0]["files"]] == ["digits.onnx", "weights.bin"]

    @pytest.mark.parametrize("shape", ["bar", "plain", "json", "none"])
    def test_progress(self, ctl: Any, daemon: Any, digits: Path, shape: str) -> None:
        done = ctl("models", "push", str(digits), "--progress", shape)
        said = done.stderr.splitlines()[:-1]
        if shape == "json":
            events = [loads(line) for line in said]
            assert {event["phase"] for event in events} == {"hash", "check", "upload", "commit"}
        elif shape == "none":
            assert said == []
        else:
            assert "upload" in done.stderr
            assert ("[####" in done.stderr) == (shape == "bar")

    @pytest.mark.parametrize(
        ("make", "why"),
        [
            (lambda root: (root / "digits.onnx").unlink(), "only ONNX models"),
            (lambda root: root.rename(root.with_name("My Model")), "cannot name a model"),
            (
                lambda root: ((root / "labels.txt").unlink(), (root / "labels.txt").symlink_to("/etc/passwd")),
                "is a link",
            ),
            (lambda root: ((root / "weights.bin").unlink(), os.mkfifo(root / "weights.bin")), "not a regular file"),
            (lambda root: ((root / "weights.bin").unlink(), (root / "weights.bin").symlink_to("x")), "is a link"),
            (lambda root: [path.unlink() for path in root.iterdir()], "only ONNX models"),
            (lambda root: (root / "other.onnx").write_bytes(b"x"), "several files"),
        ],
    )
    def test_refuses(self, ctl: Any, daemon: Any, digits: Path, make: Any, why: str) -> None:
        make(digits)
        root = next(path for path in digits.parent.iterdir() if path.is_dir() and path.name != ".config")
        done = ctl("models", "push", str(root))
        assert done.returncode in {1, 2}
        assert why in done.stderr
        assert not daemon.seen

    def test_absent(self, ctl: Any, daemon: Any) -> None:
        assert "does not exist" in ctl("models", "push", "/nowhere").stderr

    def test_resumes_where_the_daemon_stands(self, ctl: Any, daemon: Any, large: Path) -> None:
        import hashlib

        content = (large / "weights.bin").read_bytes()
        daemon.partial[f"sha256:{hashlib.sha256(content).hexdigest()}"] = bytearray(content[:5_000_000])
        assert ctl("models", "push", str(large)).returncode == 0
        offsets = [int(headers["Upload-Offset"]) for method, _, headers in daemon.seen if method == "PATCH"]
        assert 5_000_000 in offsets
        assert sum(1 for offset in offsets if offset == 0) == 2  # the two small files

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_interrupt_publishes_nothing_and_resumes(
        self, env: dict[str, str], ctl: Any, daemon: Any, large: Path, number: int, code: int
    ) -> None:
        reached, go = threading.Event(), threading.Event()

        def hold(http: Any) -> bool:
            if http.command == "PATCH" and int(http.headers["Upload-Offset"]) >= 4 * 1024 * 1024:
                reached.set()
                go.wait(5)
            return False

        daemon.rules.append(hold)
        process = start(env, "models", "push", str(large))
        assert reached.wait(10)
        process.send_signal(number)
        _, said = process.communicate(timeout=5)
        go.set()
        assert process.returncode == code
        assert said.splitlines()[-1] == "stopped at 44%; nothing was published. Run the same command to resume"
        assert daemon.versions == {}
        daemon.rules.clear()
        assert ctl("models", "push", str(large)).returncode == 0

    def test_daemon_restarts_under_it(self, env: dict[str, str], daemon: Any, large: Path) -> None:
        reached = threading.Event()

        def die(http: Any) -> bool:
            if (
                http.command == "PATCH"
                and int(http.headers["Upload-Offset"]) >= 4 * 1024 * 1024
                and not reached.is_set()
            ):
                http.connection.shutdown(socket.SHUT_RDWR)
                reached.set()
                return True
            return False

        daemon.rules.append(die)
        process = start(env, "models", "push", str(large))
        assert reached.wait(10)
        daemon.stop()
        time.sleep(0.3)  # long enough for the client to meet a socket nobody listens on
        daemon.start()
        out, said = process.communicate(timeout=15)
        assert process.returncode == 0, said
        assert "retry 1" in said
        assert out.startswith("pushed digits@1")

    def test_connection_breaks_at_commit(self, ctl: Any, daemon: Any, digits: Path) -> None:
        lost: list[str] = []

        def lose(http: Any) -> bool:
            if http.path.endswith("/versions") and not lost:
                daemon.commit("digits", loads(http.body().decode()))
                lost.append(http.path)
                http.close_connection = True
                return True
            return False

        daemon.rules.append(lose)
        done = ctl("models", "push", str(digits))
        assert done.returncode == 0
        assert len(daemon.versions["digits"]) == 1

    def test_a_refused_model_is_told_at_once(self, ctl: Any, daemon: Any, digits: Path) -> None:
        daemon.rules.append(
            lambda http: (
                http.path.endswith("/versions")
                and (http.body(), http.fail(422, "MODEL_INVALID", "node 3 is not ONNX", "export it again"), True)[-1]
            )
        )
        done = ctl("models", "push", str(digits))
        assert done.returncode == 1
        assert "node 3 is not ONNX" in done.stderr


class TestPull:
    @pytest.fixture(autouse=True)
    def pushed(self, ctl: Any, daemon: Any, large: Path) -> None:
        assert ctl("models", "push", str(large)).returncode == 0

    def test_brings_back_what_was_pushed(self, ctl: Any, place: Path, large: Path) -> None:
        done = ctl("models", "pull", "digits@1", "-d", str(place / "out"))
        assert done.returncode == 0, done.stderr
        assert sorted(path.name for path in (place / "out").iterdir()) == ["digits.onnx", "labels.txt", "weights.bin"]
        assert (place / "out" / "weights.bin").read_bytes() == (large / "weights.bin").read_bytes()
        again = ctl("models", "pull", "digits", "-d", str(place / "out"), "--json")
        assert loads(again.stdout)["schema"] == "tether.models.pull/v1"

    def test_resumes(self, ctl: Any, daemon: Any, place: Path, large: Path) -> None:
        (place / "out").mkdir()
        (place / "out" / "weights.bin.part").write_bytes((large / "weights.bin").read_bytes()[:1000])
        assert ctl("models", "pull", "digits", "-d", str(place / "out")).returncode == 0
        assert "bytes=1000-" in [headers.get("Range") for _, _, headers in daemon.seen]

    def test_breaks_half_way(self, ctl: Any, daemon: Any, place: Path, large: Path) -> None:
        breaks: list[int] = []

        def cut(http: Any) -> bool:
            if "/blobs/" in http.path and len(breaks) < 2:
                blob = daemon.blobs[http.path.rsplit("/", 1)[1]]
                if len(blob) == LARGE:
                    begin = int(http.headers.get("Range", "bytes=0-")[6:-1])
                    breaks.append(begin)
                    http.send_response_only(206 if begin else 200)
                    http.send_header("Content-Length", str(LARGE - begin))
                    http.end_headers()
                    http.wfile.write(blob[begin : begin + 3_000_000])
                    http.close_connection = True
                    return True
            return False

        daemon.rules.append(cut)
        done = ctl("models", "pull", "digits", "-d", str(place / "out"))
        assert done.returncode == 0, done.stderr
        assert breaks == [0, 3_000_000]
        assert (place / "out" / "weights.bin").read_bytes() == (large / "weights.bin").read_bytes()

    def test_damaged_bytes_get_no_name(self, ctl: Any, daemon: Any, place: Path) -> None:
        digest = next(digest for digest, blob in daemon.blobs.items() if len(blob) == LARGE)
        daemon.blobs[digest] = bytes(LARGE)
        assert ctl("models", "pull", "digits", "-d", str(place / "out")).returncode == 11
        assert not [path for path in (place / "out").iterdir() if path.name.startswith("weights")]

    def test_another_manifest_is_refused(self, ctl: Any, daemon: Any, place: Path) -> None:
        daemon.manifests = {
            digest: raw.replace(b"labels.txt", b"../bashrc") for digest, raw in daemon.manifests.items()
        }
        assert ctl("models", "pull", "digits", "-d", str(place / "out")).returncode == 11
        assert not (place / "out").exists()

    def test_the_manifest_of_another_model_is_refused(self, ctl: Any, daemon: Any, place: Path) -> None:
        from tetherd.wire.manifest import digest_of

        version = daemon.versions["digits"][0]
        raw = daemon.manifests[version["digest"]].replace(b'"digits"', b'"letters"')
        version["digest"] = digest_of(raw)
        daemon.manifests[version["digest"]] = raw
        done = ctl("models", "pull", "digits", "-d", str(place / "out"))
        assert done.returncode == 11
        assert "is one of letters" in done.stderr
        assert not (place / "out").exists()

    def test_a_path_that_leads_out_is_refused(self, ctl: Any, daemon: Any, place: Path) -> None:
        from tetherd.wire.manifest import digest_of

        version = daemon.versions["digits"][0]
        raw = daemon.manifests[version["digest"]].replace(b'"labels.txt"', b'"../bashrc"')
        version["digest"] = digest_of(raw)
        daemon.manifests[version["digest"]] = raw
        done = ctl("models", "pull", "digits", "-d", str(place / "out"))
        assert done.returncode == 1
        assert "leaves its directory" in done.stderr
        assert not (place / "bashrc").exists()

    def test_overwrites_nothing(self, ctl: Any, place: Path) -> None:
        (place / "out").mkdir()
        (place / "out" / "labels.txt").write_text("mine")
        assert ctl("models", "pull", "digits", "-d", str(place / "out")).returncode == 7
        assert (place / "out" / "labels.txt").read_text() == "mine"

    def test_follows_no_link(self, ctl: Any, place: Path) -> None:
        (place / "out").mkdir()
        (place / "out" / "labels.txt.part").symlink_to(place / "victim")
        assert ctl("models", "pull", "digits", "-d", str(place / "out")).returncode == 1
        assert not (place / "victim").exists()
