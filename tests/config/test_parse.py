"""Parsing: the later layer wins, and everything that is wrong is said at once, with its place and a suggestion."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tetherd.config import layers
from tetherd.config.fields import SETTINGS
from tetherd.config.host import Host
from tetherd.config.parse import Settings, parse
from tetherd.config.paths import find
from tetherd.config.schema import ModelSettings
from tetherd.errors import BadConfig


def parse_file(text: str, host: Host) -> Settings:
    return parse([layers.file(text, "t.toml")], host)


def problems(text: str, host: Host) -> list[dict[str, Any]]:
    with pytest.raises(BadConfig) as caught:
        parse_file(text, host)
    return list(caught.value.details["problems"])


def test_nothing_set_is_a_whole_configuration(host: Host) -> None:
    config = parse([], host).config
    assert config.node.name == "w-1"
    assert config.node.roles == ("gateway", "orchestrator", "worker", "manager")
    assert config.rpc.listen == "ipc:///run/tether/rpc.sock"
    assert config.control.socket == Path("/run/tether/control.sock")
    assert config.worker.memory_limit == 8 * 2**30
    assert config.worker.max_concurrency == 8
    assert config.gateway.request_timeout == 60.0


def test_the_later_layer_wins_and_its_origin_is_kept(host: Host) -> None:
    file = layers.file('[gateway]\nlisten = "127.0.0.1:1"\nmax_body = "1MiB"\nmax_connections = 7\n', "t.toml")
    environment = layers.environment({"TETHER__GATEWAY__LISTEN": "127.0.0.1:2", "TETHER__GATEWAY__MAX_BODY": "2MiB"})
    flags = layers.flags(["gateway.listen=127.0.0.1:3"], {("node", "roles"): ("--role", ["gateway"])})
    peers = layers.flags(["peers.orchestrator=tcp://127.0.0.1:9", "peers.manager=tcp://127.0.0.1:8"], {})
    found = parse([file, environment, flags, peers], host)
    gateway = found.config.gateway
    assert (gateway.listen, gateway.max_body, gateway.max_connections) == ("127.0.0.1:3", 2 * 2**20, 7)
    assert found.config.node.roles == ("gateway",)
    assert [
        str(found.origins["gateway", name]) for name in ("listen", "max_body", "max_connections", "idle_timeout")
    ] == [
        "flag --set gateway.listen",
        "env TETHER__GATEWAY__MAX_BODY",
        "t.toml:4",
        "default",
    ]
    assert str(found.origins["node", "roles"]) == "flag --role"


def test_every_setting_has_an_origin(host: Host) -> None:
    assert set(parse([], host).origins) == {key for key in SETTINGS if "*" not in key}


def test_sockets_follow_the_runtime_directory(host: Host) -> None:
    config = parse_file('[node]\nruntime_dir = "/tmp/t"', host).config
    assert (config.rpc.listen, str(config.control.socket)) == ("ipc:///tmp/t/rpc.sock", "/tmp/t/control.sock")


def test_a_model_takes_what_it_leaves_out_from_the_worker(host: Host) -> None:
    text = '[worker]\nthreads = 3\nisolation = "thread"\n[worker.models."a.b"]\nrunners = 2\n[worker.models.c]\n'
    assert parse_file(text, host).config.worker.models == {
        "a.b": ModelSettings(isolation="thread", runners=2, threads=3)
    }


def test_zero_concurrency_is_twice_the_cores_wherever_it_is_set(host: Host) -> None:
    assert parse_file("[worker]\nmax_concurrency = 0", host).config.worker.max_concurrency == 8
    assert parse([layers.flags(["worker.max_concurrency=0"], {})], host).config.worker.max_concurrency == 8
    assert parse_file("[worker]\nmax_concurrency = 3", host).config.worker.max_concurrency == 3


def test_all_problems_at_once_in_the_order_of_the_file(host: Host) -> None:
    text = """config_version = 2
[gatway]
listen = "x"
[gateway]
listen = "0.0.0.0:3000"
request_timeout = 60
max_bdy = "1MiB"
[worker]
runners = 17
"""
    found = problems(text, host)
    assert [(each["line"], each["column"], each["key"]) for each in found] == [
        (1, 1, "config_version"),
        (3, 1, "gatway.listen"),
        (5, 1, "gateway.listen"),
        (6, 1, "gateway.request_timeout"),
        (7, 1, "gateway.max_bdy"),
        (9, 1, "worker.runners"),
    ]
    assert {each["file"] for each in found} == {"t.toml"}
    assert all(each["message"] and each["fix"] for each in found)


def test_problems_of_every_layer_are_reported_also_of_values_that_lose(host: Host) -> None:
    with pytest.raises(BadConfig) as caught:
        parse(
            [
                layers.file("[drain]\ndeadline = 5", "t.toml"),
                layers.environment({"TETHER__DRAIN__DEADLNE": "5s", "TETHER__WORKER__SPARE": "yes"}),
                layers.flags(["drain.deadline=5s", "nonsense"], {}),
            ],
            host,
        )
    assert [each["source"] for each in caught.value.details["problems"]] == [
        "t.toml:2",
        "env TETHER__DRAIN__DEADLNE",
        "env TETHER__WORKER__SPARE",
        "flag --set nonsense",
    ]
    assert "3 more" in caught.value.message


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("[gateway]\nlisen = 1", "did you mean gateway.listen?"),
        ("[gatewy]\nlisten = 1", "did you mean [gateway]?"),
        ("[gatewy]", "did you mean [gateway]?"),
        ("[zzz]\na = 1", "there are [node], [rpc]"),
        ("listen = 1", "did you mean rpc.listen or gateway.listen or cluster.listen or relay.listen?"),
        ("[node]\nqueue_depth = 1", "did you mean orchestrator.queue_depth?"),
        ("[log]\nzzz = 1", "[log] has level, format"),
        ("zzz = 1", "there are [node], [rpc]"),
        ("gateway = 3", "write [gateway] once"),
        ("[[gateway]]\nlisten = 1", "write [gateway] once"),
        ("[gateway.listen]\nhost = 1", "set gateway.listen = ..."),
        ("[gateway.listen]", "write it in quotes"),
        ("[worker.models.digits]\nrunnrs = 1", "did you mean worker.models.digits.runners?"),
        ("[worker.models]\ndigits = 1", "write [worker.models.digits] once"),
        ("[worker.models.digits.more]\nx = 1", "[worker.models.digits] has isolation"),
    ],
)
def test_unknown_keys_are_answered_with_what_was_meant(text: str, fix: str, host: Host) -> None:
    (found,) = problems(text, host)
    assert fix in found["fix"]


def test_a_value_that_was_not_read_causes_no_second_problem(host: Host) -> None:
    assert len(problems('[node]\nroles = ["wroker"]', host)) == 1
    assert len(problems('[worker]\nmax_runners = "x"\nrunners = 17', host)) == 1


def test_a_default_that_does_not_work_on_this_host_says_so(host: Host) -> None:
    deep = Path("/" + "d" * 120)
    lost = Host("w", 1, 2**30, deep, find({}, uid=1, home=deep))
    with pytest.raises(BadConfig) as caught:
        parse([], lost)
    assert [each["key"] for each in caught.value.details["problems"]] == ["rpc.listen", "control.socket"]
    assert "its default does not work here" in caught.value.message
    assert "node.runtime_dir" in caught.value.fix


def test_a_file_of_nonsense_has_a_bounded_list_of_problems(host: Host) -> None:
    assert len(problems("\n".join(f"k{index} = 1" for index in range(500)), host)) == 100


_keys = st.sampled_from([*(".".join(key) for key in SETTINGS), "gateway", "worker.models.x", "nope", "gateway.x.y"])
_raw = st.sampled_from(["1", '"1s"', '"a"', "[]", "{}", "true", "1979-05-27", '["worker"]', "{ listen = 1 }", "nan"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(st.tuples(_keys, _raw), max_size=6))
def test_any_settings_give_a_configuration_or_problems(lines: list[tuple[str, str]], host: Host) -> None:
    try:
        parse_file("\n".join(f"{key} = {raw}".replace("*", "x") for key, raw in lines), host)
    except BadConfig as error:
        told = error.details["problems"]
    else:
        told = ["nothing is wrong"]
    assert told
