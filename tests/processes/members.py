"""Daemons as members of a network, each as on a host of its own."""

from typing import Any

from harness import Daemon, Host, free_port, until


def ports() -> dict[str, str]:
    """Return addresses for everything that a member listens on for other hosts; the DHT has the port of the RPC."""
    found = {key: f"127.0.0.1:{free_port()}" for key in ("listen", "enrol", "bulk")}
    return {**found, "udp": found["listen"]}


def member(host: Host, name: str, *roles: str, **cluster: Any) -> Daemon:
    """Return a daemon of this name as on a host of its own, on loopback, with no source to find others by."""
    settings = {**ports(), "mdns": False, "dht": False, **cluster}
    return host.daemon(*roles, name=name, cluster=settings, worker={"spare": False})


def ask(daemon: Daemon, path: str) -> Any:
    """Return what a daemon answers on its control socket."""
    return daemon.call("GET", f"/api/v1/{path}", control=True).ok()


def workers(daemon: Daemon) -> set[str]:
    """Return the nodes whose workers a daemon knows."""
    return {worker["node"] for worker in ask(daemon, "status").get("workers", [])}


def restart(daemon: Daemon) -> None:
    """Kill it and start it again; in its network it may have no gateway that could be asked whether it listens."""
    daemon.kill()
    daemon.start(wait=False)
    until(lambda: answers(daemon), f"{daemon.name} answers again")


def answers(daemon: Daemon) -> bool:
    """Tell whether a daemon answers on its control socket."""
    try:
        return daemon.call("GET", "/health/live", control=True).status == 200
    except OSError:
        return False
