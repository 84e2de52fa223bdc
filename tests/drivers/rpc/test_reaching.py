import subprocess
import sys

from tetherd.drivers.rpc.reaching import CONNECT, REDIAL, unreachable


def test_an_error_says_where_and_why() -> None:
    error = unreachable("ipc:///run/x", "no connection")
    assert error.message == "cannot reach ipc:///run/x: no connection"
    assert error.fix


def test_a_call_does_not_outlast_the_dial_it_waits_for() -> None:
    assert CONNECT < REDIAL


def test_whoever_only_calls_from_threads_loads_no_server() -> None:
    code = "import sys; import tetherd.drivers.rpc.blocking; sys.exit('tetherd.drivers.rpc.door' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
