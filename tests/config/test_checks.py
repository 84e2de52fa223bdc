"""Combinations of settings that cannot work, each with the key to change."""

import pytest

from tetherd.config import layers
from tetherd.config.checks import check
from tetherd.config.host import Host
from tetherd.config.parse import parse
from tetherd.errors import BadConfig

ELSEWHERE = '[peers]\norchestrator = "tcp://127.0.0.1:9"\nmanager = "ipc:///run/m.sock"\n'


def found(text: str, host: Host) -> dict[str, str]:
    try:
        parse([layers.file(text, "t.toml")], host)
    except BadConfig as error:
        return {each["key"]: each["message"] for each in error.details["problems"]}
    return {}


def test_the_defaults_work_together(host: Host) -> None:
    assert not list(check(parse([], host).config))


def test_no_roles_is_refused(host: Host) -> None:
    assert found("[node]\nroles = []", host) == {"node.roles": "a daemon without roles does nothing"}


@pytest.mark.parametrize("role", ["gateway", "worker"])
def test_roles_need_the_peers_they_call(role: str, host: Host) -> None:
    assert set(found(f'[node]\nroles = ["{role}"]\n[peers]\nmanager = "ipc:///m"', host)) == {"peers.orchestrator"}
    assert set(found(f'[node]\nroles = ["{role}"]\n[peers]\norchestrator = "ipc:///o"', host)) == {"peers.manager"}
    assert not found(f'[node]\nroles = ["{role}"]\n{ELSEWHERE}', host)


@pytest.mark.parametrize("role", ["gateway", "worker"])
def test_a_host_without_peers_finds_them_in_its_network(role: str, host: Host) -> None:
    assert not found(f'[node]\nroles = ["{role}"]', host)


@pytest.mark.parametrize("role", ["orchestrator", "manager", "relay"])
def test_roles_that_call_nobody_need_no_peers(role: str, host: Host) -> None:
    assert not found(f'[node]\nroles = ["{role}"]', host)


def test_a_peer_that_is_hosted_here_is_refused(host: Host) -> None:
    messages = found('[node]\nroles = ["gateway", "manager"]\n' + ELSEWHERE, host)
    assert messages == {"peers.manager": "this process hosts the manager itself"}


def test_a_peer_is_not_this_process(host: Host) -> None:
    text = '[node]\nroles = ["worker", "manager"]\n[rpc]\nlisten = "tcp://127.0.0.1:9"\n[peers]\n'
    assert "peers.orchestrator" in found(text + 'orchestrator = "tcp://127.0.0.1:9"', host)


def test_directories_are_three(host: Host) -> None:
    messages = found('[node]\nstate_dir = "/d"\ncache_dir = "/d"\nruntime_dir = "/d"', host)
    assert set(messages) == {"node.cache_dir", "node.runtime_dir"}


def test_sockets_are_two(host: Host) -> None:
    text = '[control]\nsocket = "/run/tether/rpc.sock"\n'
    assert set(found(text, host)) == {"control.socket"}
    assert not found(text + "enabled = false", host)


def test_copies_fit_into_the_runners(host: Host) -> None:
    assert set(found("[worker]\nrunners = 17", host)) == {"worker.runners"}
    assert set(found("[worker.models.digits]\nrunners = 17", host)) == {"worker.models.digits.runners"}
    assert not found("[worker]\nmax_runners = 17\nrunners = 17", host)


def test_names_of_models_are_names_of_models(host: Host) -> None:
    assert set(found("[worker.models.Digits]\nrunners = 1", host)) == {"worker.models.Digits"}
