"""Single values: what each form takes from a file and from the shell, and what it says otherwise."""

from pathlib import Path
from typing import Any

import pytest

from tetherd.config import values
from tetherd.config.fields import SETTINGS, lookup
from tetherd.config.host import Host
from tetherd.config.layers import show_key
from tetherd.config.units import BadValue


def read(key: str, value: Any, host: Host, *, text: bool = False) -> Any:
    setting = lookup(tuple(key.split(".")))
    assert setting
    return values.read(setting.form, value, host, text=text)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("gateway.request_timeout", "250ms", 0.25),
        ("gateway.max_body", "1KiB", 1024),
        ("worker.memory_limit", "50%", 5 * 2**30),
        ("worker.spare", False, False),
        ("worker.threads", 0, 0),
        ("worker.preload", ["digits@3", "digits"], ("digits@3", "digits")),
        ("node.roles", ["worker"], ("worker",)),
        ("node.roles", [], ()),
        ("node.state_dir", "~/s", Path("/home/ada/s")),
        ("control.mode", "0660", 0o660),
        ("peers.manager", "", ""),
        ("gateway.allowed_hosts", ["a.example", "[::1]:80"], ("a.example", "[::1]:80")),
        ("config_version", 1, 1),
    ],
)
def test_values_of_a_file(key: str, value: Any, expected: Any, host: Host) -> None:
    found = read(key, value, host)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("worker.spare", "false", False),
        ("worker.threads", "3", 3),
        ("node.roles", "worker, manager", ("worker", "manager")),
        ("node.roles", '["worker"]', ("worker",)),
        ("node.roles", "", ()),
        ("log.level", "debug", "debug"),
    ],
)
def test_words_of_the_shell(key: str, value: str, expected: Any, host: Host) -> None:
    assert read(key, value, host, text=True) == expected


@pytest.mark.parametrize(
    ("key", "value", "message", "fix"),
    [
        ("gateway.request_timeout", 60, "'60' has no unit", 'like "60s"'),
        ("gateway.request_timeout", "0s", "0s is too small", "the least is 1ms"),
        ("gateway.max_body", 64, "'64' has no unit", 'like "64MiB"'),
        ("gateway.max_body", True, "expected text, found true or false (True)", "in quotes"),
        ("rpc.max_message", "1MiB", "1MiB is too small", "the least is 2MiB"),
        ("worker.memory_limit", 0.8, "'0.8' has no unit", "MiB"),
        ("worker.spare", "true", "expected true or false, found text ('true')", "write true without quotes"),
        ("worker.spare", 1, "expected true or false, found a number (1)", "write true or false"),
        ("worker.threads", "4", "expected a whole number, found text ('4')", "write 4 without quotes"),
        ("worker.threads", 1.0, "expected a whole number, found a number (1.0)", "like 4"),
        ("worker.threads", True, "expected a whole number", "like 4"),
        ("worker.threads", -1, "-1 is too small", "the least is 0"),
        ("worker.runners", 65537, "65537 is too large", "the most is 65536"),
        ("worker.runners", 2**63, "beyond 64 bits", "smaller"),
        ("worker.isolation", "proces", "'proces' is not one of process, thread", 'did you mean "process"?'),
        ("worker.isolation", 3, "3 is not one of", "use one of process, thread"),
        ("config_version", 2, "2 is not 1", "write 1"),
        ("config_version", True, "True is not 1", "write 1"),
        ("node.roles", "worker", "expected a list, found text ('worker')", 'write ["worker"]'),
        ("node.roles", ["worker", "worker"], "twice", "once"),
        ("node.roles", [["worker"]], "['worker'] is not one of", "use one of"),
        ("node.state_dir", "state", "'state' is not an absolute path", "start the path with /"),
        ("node.name", "a b", "is not a host name", "letters"),
        ("control.mode", 600, "expected text, found a number (600)", '"0600"'),
        ("control.mode", "0606", "lets everybody in", '"0660"'),
        ("control.mode", "0400", "shuts out the daemon", '"0600"'),
        ("control.mode", "rw", "is not a file mode", '"0600"'),
        ("worker.preload", ["Digits"], "'Digits' is not a model name", "a-z"),
        ("worker.preload", ["digits@"], "is not an alias", "a-z"),
        ("gateway.allowed_hosts", ["http://x"], "is not a Host header", "inference.example"),
    ],
)
def test_what_is_refused_says_what_to_write(key: str, value: Any, message: str, fix: str, host: Host) -> None:
    with pytest.raises(BadValue) as caught:
        read(key, value, host)
    assert message in str(caught.value)
    assert fix in caught.value.fix


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=lambda setting: show_key(setting.key))
@pytest.mark.parametrize("value", [None, {}, {"a": 1}, [[]], [{}], float("nan"), "\x1b[31m\n", 2**80, b"x"])
def test_no_value_breaks_a_reader(setting: Any, value: Any, host: Host) -> None:
    for text in (False, True):
        said = ""
        try:
            values.read(setting.form, value, host, text=text)
        except BadValue as error:
            said = f"{error}{error.fix}"
        assert said.isprintable()


@pytest.mark.parametrize("key", ["worker.runners", "gateway.idle_timeout", "worker.preload", "log.level"])
def test_numbers_too_long_to_write_out_are_refused(key: str, host: Host) -> None:
    huge = 0x10 << 40_000
    for value in (huge, -huge, [huge], {"a": huge}):
        with pytest.raises(BadValue):
            read(key, value, host)


def test_a_broken_list_of_the_shell_is_refused(host: Host) -> None:
    with pytest.raises(BadValue, match="is not a list"):
        read("node.roles", "[worker", host, text=True)
