from tetherd.roles.orchestrator.fleet import RETURN, SILENT, Fleet
from tetherd.types import Digest
from tetherd.wire.messages import Commands, Load, Loaded, Recycle, Report, RunnerState, Unload

V = Digest("sha256:0")


def report(name: str, *runners: Loaded, stopping: bool = False, concurrency: int = 2) -> Report:
    return Report(name, "node", 1000, 10, concurrency, list(runners), stopping)


def loaded(state: RunnerState) -> Loaded:
    return Loaded("r", "m", 1, V, state)


def test_workers_come_report_and_go() -> None:
    fleet = Fleet()
    first = fleet.observe(report("a"), 1, now=0.0)
    assert fleet.observe(report("a"), 2, now=4.0) is first
    fleet.observe(report("b"), 2, now=5.0)
    assert fleet.remove_lost(1, 5.0) == []  # it has another connection since
    assert [worker.report.worker for worker in fleet.remove_silent(4.0 + SILENT + 0.1)] == ["a"]
    assert fleet.get("a") is None
    assert [worker.report.worker for worker in fleet.remove_lost(2, 9.5)] == ["b"]
    assert list(fleet) == []


def test_what_stops_loads_nothing_more() -> None:
    fleet = Fleet()
    fleet.observe(report("a", stopping=True), None, 0.0)
    fleet.observe(report("b", loaded("READY")), None, 0.0)
    assert [(room.worker, room.memory_limit, room.memory_used, room.runners) for room in fleet.rooms()] == [
        ("b", 1000, 10, 1)
    ]
    assert [runner.runner for runner in fleet.runners(V)] == ["r"]


def test_commands_wait_until_they_are_fetched() -> None:
    worker = Fleet().observe(report("a"), None, 0.0)
    load, unload, recycle = Load("m", 1, V), Unload(V), Recycle("r")
    for command in (load, unload, recycle):
        worker.command(command)
    assert worker.called.is_set()
    commands = worker.fetch()
    assert (commands.load, commands.unload, commands.recycle) == ([load], [unload], [recycle])
    worker.obeyed(commands.number)
    assert not worker.called.is_set()
    assert worker.fetch() == Commands()


def test_commands_come_again_until_they_are_received() -> None:
    worker = Fleet().observe(report("a"), None, 0.0)
    worker.command(Unload(V))
    first = worker.fetch()
    worker.command(Recycle("r"))
    worker.obeyed(0)
    assert worker.fetch() == first
    worker.obeyed(first.number)
    assert worker.called.is_set()
    second = worker.fetch()
    assert (second.unload, second.recycle) == ([], [Recycle("r")])
    assert second.number > first.number


def test_numbers_go_on_where_an_orchestrator_before_this_one_stopped() -> None:
    worker = Fleet().observe(report("a"), None, 0.0)
    worker.obeyed(7)
    worker.command(Unload(V))
    assert worker.fetch().number == 8


def test_a_worker_of_another_host_has_some_time_to_come_back() -> None:
    fleet = Fleet()
    fleet.observe(report("a"), 1, 10.0, "node-a")
    assert fleet.remove_lost(1, 10.5) == []
    assert fleet.remove_silent(10.5 + RETURN) == []
    fleet.observe(report("a"), 2, 11.0, "node-a")
    assert fleet.remove_silent(11.0 + SILENT) == []
    fleet.remove_lost(2, 15.0)
    assert [worker.report.worker for worker in fleet.remove_silent(15.1 + RETURN)] == ["a"]


def test_a_version_may_be_served_while_a_load_is_on_its_way() -> None:
    fleet = Fleet()
    worker = fleet.observe(report("a", loaded("FAILED")), None, 0.0)
    assert not fleet.may_serve(V)
    worker.command(Load("m", 1, V))
    assert fleet.may_serve(V)
    number = worker.fetch().number
    assert fleet.may_serve(V)
    worker.obeyed(number)
    assert not fleet.may_serve(V)
    for state in ("LOADING", "READY", "UNLOADING"):
        fleet.observe(report("a", loaded(state)), None, 0.0)
        assert fleet.may_serve(V)


def test_a_worker_is_saturated_by_what_it_may_execute() -> None:
    worker = Fleet().observe(report("a", concurrency=2), None, 0.0)
    assert not worker.saturated
    worker.busy = 2
    assert worker.saturated
    state = worker.state(now=1.5)
    assert (state.busy, state.seen_ms_ago, state.max_concurrency) == (2, 1500, 2)
