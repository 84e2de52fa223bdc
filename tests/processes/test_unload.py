"""A model that was unloaded on purpose stays unloaded over a restart, until it is loaded again."""

import graphs
from harness import Host

SPARE = "/api/v1/models/spare"
INPUTS = {"x": [1.5]}


def test_unloaded_survives_a_restart(host: Host) -> None:
    daemon = host.daemon(worker={"preload": ["spare"]}).start().wait_ready()
    daemon.push("spare", graphs.identity("FP32", (1,)))
    daemon.wait_runners("spare", 1)
    assert daemon.call("POST", f"{SPARE}/unload").ok()["state"] == "UNLOADED"
    assert daemon.stop() == 0

    daemon.start().wait_ready()
    refused = daemon.infer("spare", INPUTS)
    assert (refused.status, refused.json()["code"]) == (503, "MODEL_UNLOADED")
    assert refused.json()["fix"] == "tetherctl models load spare"
    assert (daemon.get(SPARE)["state"], daemon.runners("spare")) == ("UNLOADED", [])

    assert daemon.call("POST", f"{SPARE}/load").ok()["state"] == "READY"
    assert daemon.infer("spare", INPUTS).ok()["outputs"]
    assert daemon.stop() == 0
    daemon.start().wait_ready()
    daemon.wait_runners("spare", 1)
