"""The primary manager is gone for good: the next one goes on with its models, under their names and numbers."""

import json
import shutil
from typing import Any

from harness import DIGITS, EXAMPLE, Daemon, Host, is_right, until
from members import answers, ask, member, restart

ROLES = ("gateway", "manager")


class Network:
    """A founder without a manager, a worker, and managers of which the first is the primary."""

    def __init__(self, host: Host, *managers: str) -> None:
        self.host = host
        self.f = member(host, "f", "gateway", "orchestrator").start()
        self.w = member(host, "w", "worker").start(wait=False)
        self.managers = [member(host, name, *ROLES).start(wait=False) for name in managers]
        self.f.ctl("cluster", "init", "--name", "home")
        for manager in self.managers:
            self.join(manager, *ROLES)
        self.join(self.w, "worker")

    def join(self, daemon: Daemon, *roles: str) -> None:
        until(lambda: answers(daemon), f"{daemon.name} answers")
        words = [word for role in roles for word in ("--role", role)]
        daemon.ctl("cluster", "join", stdin=self.f.ctl("cluster", "token", *words).stdout)

    def push(self, daemon: Daemon, note: str, model: str = "digits") -> None:
        """Push the digits model with a note in it, which makes another version of it."""
        folder = self.host.folder / f"{model}-{note}"
        shutil.copytree(DIGITS, folder)
        with (folder / "model.onnx").open("ab") as file:
            file.write(b"\x32" + bytes([len(note)]) + note.encode())  # the field of a ModelProto that documents it
        until(lambda: not daemon.ctl("models", "push", str(folder), "--name", model, code=None).returncode, "a push")

    def infer(self) -> None:
        assert is_right(self.f.infer("digits", EXAMPLE["inputs"]).ok()["outputs"])


def said(daemon: Daemon, model: str = "digits") -> dict[str, Any]:
    """Return what a daemon says of a model that has to survive."""
    document = ask(daemon, f"models/{model}")
    versions = [(one["number"], one["digest"], one["created"]) for one in document["versions"]]
    return {"versions": versions, "aliases": document["aliases"]}


def follows(daemon: Daemon, wanted: dict[str, Any]) -> None:
    def met() -> bool:
        return bool(ask(daemon, "models")["models"]) and said(daemon) == wanted

    until(met, f"{daemon.name} has the catalog")


def copies(daemon: Daemon) -> int:
    """Return of how many managers it has a copy of the catalog."""
    return sum(f"/{daemon.name}/" in str(path) for path in daemon.folder.rglob("followed-*.json"))


def leads(daemon: Daemon, follower: Daemon) -> None:
    """Wait until a manager says that it follows another one."""
    words = f"follows the one of {daemon.name}".encode()
    refused = lambda: follower.ctl("models", "rm", "digits", "--yes", code=None).stderr  # noqa: E731
    until(lambda: words in refused(), f"{follower.name} follows {daemon.name}")


def fill(network: Network) -> dict[str, Any]:
    """Have models with a past on all managers, and return what they say of one."""
    f, b = network.f, network.managers[0]
    for note in ("one", "two", "three"):
        network.push(f, note)
    f.ctl("models", "promote", "digits@1")
    f.ctl("models", "promote", "digits@2", "--alias", "stable")
    f.ctl("models", "rollback", "digits")
    f.ctl("models", "promote", "digits@1")
    f.ctl("models", "promote", "digits@2")
    f.ctl("models", "promote", "digits@1")
    f.ctl("models", "rm", "digits@3", "--yes")
    network.push(f, "only", "idle")
    f.ctl("models", "unload", "idle")
    network.infer()
    before = said(b)
    for manager in network.managers:
        follows(manager, before)
    until(lambda: all(len(one["holders"]) == 3 for one in ask(b, "models/digits/holders")["versions"]), "all hold it")
    return before


def test_the_next_manager_goes_on_with_the_models_of_the_one_that_is_gone(host: Host) -> None:
    network = Network(host, "b", "c", "d")
    f, (b, c, d) = network.f, network.managers
    before = fill(network)
    assert [number for number, *_ in before["versions"]] == [1, 2]

    b.kill()
    assert b"models are changed on c from now on" in f.ctl("nodes", "revoke", "b", "--yes").stderr
    leads(c, d)
    follows(c, before)
    follows(d, before)
    network.infer()
    assert {model["name"]: model["state"] for model in ask(c, "models")["models"]}["idle"] == "UNLOADED"
    (line,) = [json.loads(line) for line in c.logged().splitlines() if "took over the models" in line]
    assert (line["models"], line["versions"], line["not_here_in_full"]) == (2, 3, [])

    network.push(f, "four")
    assert [number for number, *_ in said(c)["versions"]] == [1, 2, 4]
    f.ctl("models", "rollback", "digits")
    f.ctl("models", "rollback", "digits")
    after = said(c)
    assert after["aliases"]["latest"]["number"] == 2
    restart(c)
    follows(c, after)
    follows(d, after)
    network.infer()
    until(lambda: (copies(c), copies(d)) == (0, 1), "nobody keeps a copy of what the first one said")

    b.start(wait=False)
    until(lambda: answers(b), "b answers")
    b.ctl("cluster", "leave", "--force", "--yes")
    network.join(b, *ROLES)
    leads(c, b)
    follows(b, after)
    network.infer()


def test_whoever_goes_on_alone_has_the_models_that_its_host_copied(host: Host) -> None:
    a = member(host, "a", "gateway", "orchestrator", "worker", "manager").start()
    b = member(host, "b", "gateway", "orchestrator", "worker", "manager").start()
    a.ctl("cluster", "init", "--name", "home")
    words = [word for role in b.roles for word in ("--role", role)]
    b.ctl("cluster", "join", stdin=a.ctl("cluster", "token", *words).stdout)
    a.ctl("models", "push", str(DIGITS))
    before = said(a)
    until(lambda: len(ask(a, "models/digits/holders")["versions"][0]["holders"]) == 2, "both hold it")
    follows(b, before)
    a.kill()  # with it the authority: nobody can be sent away any more
    b.ctl("cluster", "leave", "--force", "--yes")
    follows(b, before)
    assert is_right(b.infer("digits", EXAMPLE["inputs"]).ok()["outputs"])
    assert copies(b) == 0


def test_what_the_next_manager_does_not_hold_it_fetches_from_those_who_do(host: Host) -> None:
    network = Network(host, "b", "c", "d")
    f, (b, c, d) = network.f, network.managers
    c.kill()
    network.push(f, "one")
    before = said(b)
    follows(d, before)
    until(lambda: len(ask(b, "models/digits/holders")["versions"][0]["holders"]) == 2, "b and d hold it")
    b.kill()
    f.ctl("nodes", "revoke", "b", "--yes")
    c.start(wait=False)
    until(lambda: answers(c), "c answers")
    leads(c, d)
    follows(c, before)
    shown = lambda: c.ctl("models", "show", "digits", "--where").stdout  # noqa: E731
    until(lambda: b"REPLICATED 2/2\n" in shown(), "c holds it, too")
    network.infer()
