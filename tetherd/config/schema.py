"""Every setting there is: its type, its bounds, its default and what it means, written once.

Durations are seconds and sizes are bytes here; a configuration file writes them with units. Settings without a
default depend on the host (its name, memory, directories); ``parse`` fills them in.
"""

from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec

from tetherd.types import DEFAULT_ROLES, Isolation, RoleName

MIB: Final = 2**20
GIB: Final = 2**30
DAY: Final = 86400.0

LogLevel: TypeAlias = Literal["debug", "info", "warn", "error"]
LogFormat: TypeAlias = Literal["auto", "json", "pretty"]


def doc(text: str) -> msgspec.Meta:
    """Return what a setting means, as its type carries it."""
    return msgspec.Meta(description=text)


def text_form(kind: str, **bounds: Any) -> msgspec.Meta:
    """Return the mark of a setting whose text form is read by the reader of that name in ``parse``."""
    return msgspec.Meta(extra={"kind": kind}, **bounds)


Timeout: TypeAlias = Annotated[float, text_form("duration", ge=0.001, le=DAY)]
Delay: TypeAlias = Annotated[float, text_form("duration", ge=0, le=30 * DAY)]
Amount: TypeAlias = Annotated[int, text_form("size", ge=1, le=2**50)]
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=65536)]
CountOrAuto: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=65536)]
Directory: TypeAlias = Annotated[Path, text_form("path")]
RpcAddress: TypeAlias = Annotated[str, text_form("rpc")]
PeerAddress: TypeAlias = Annotated[str, text_form("peer")]


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """This host and where it keeps its files."""

    name: Annotated[str, text_form("name"), doc("What this host is called in status and logs.")]
    roles: Annotated[
        tuple[RoleName, ...], doc("What this host does; a role left out is dialled at its address in [peers].")
    ] = DEFAULT_ROLES
    state_dir: Annotated[Directory, doc("What must survive: models and their ledger.")]
    cache_dir: Annotated[Directory, doc("What can be made again: models unpacked for runners.")]
    runtime_dir: Annotated[Directory, doc("Sockets; emptied when the host restarts.")]


class Rpc(msgspec.Struct, frozen=True, kw_only=True):
    """How roles of different processes speak to each other."""

    listen: Annotated[
        RpcAddress, doc("Where other processes reach this one's roles: ipc:///path, or tcp:// on loopback.")
    ]
    max_message: Annotated[
        int,
        text_form("size", ge=2 * MIB, le=GIB),
        doc("The largest message taken from a peer; a request's tensors must fit into one."),
    ] = 64 * MIB


class Peers(msgspec.Struct, frozen=True, kw_only=True):
    """Where the roles are that this process needs but does not host; empty for those it hosts."""

    orchestrator: Annotated[PeerAddress, doc("Address of the orchestrator, when it is another process.")] = ""
    manager: Annotated[PeerAddress, doc("Address of the model manager, when it is another process.")] = ""


class Control(msgspec.Struct, frozen=True, kw_only=True):
    """The local socket that tetherctl talks to."""

    enabled: Annotated[bool, doc("Whether there is one.")] = True
    socket: Annotated[Path, text_form("socket"), doc("Its path, at most 107 bytes.")]
    mode: Annotated[
        int, text_form("mode"), doc("Its permissions, in octal: who may write to it may do everything.")
    ] = 0o600


class Gateway(msgspec.Struct, frozen=True, kw_only=True):
    """The HTTP surface."""

    listen: Annotated[str, text_form("http"), doc("HOST:PORT on a loopback address; IPv6 hosts in brackets.")] = (
        "127.0.0.1:3000"
    )
    max_body: Annotated[Amount, doc("The largest body of an inference request, after decompression.")] = 64 * MIB
    request_timeout: Annotated[Timeout, doc("How long a request may take in all when it brings no deadline.")] = 60.0
    header_timeout: Annotated[Timeout, doc("How long a client may take to send its headers.")] = 10.0
    body_timeout: Annotated[Timeout, doc("How long a client may send nothing in the middle of a body.")] = 60.0
    idle_timeout: Annotated[Timeout, doc("How long a connection is kept open between two requests.")] = 30.0
    max_connections: Annotated[Count, doc("Connections beyond this are closed at once.")] = 4096
    allowed_hosts: Annotated[
        tuple[Annotated[str, text_form("host")], ...],
        doc("Host headers taken besides those of loopback; anything else is refused (DNS rebinding)."),
    ] = ()


class Orchestrator(msgspec.Struct, frozen=True, kw_only=True):
    """Queues and batches."""

    queue_depth: Annotated[Count, doc("Requests that may wait per model version; the next one is answered 429.")] = 1024
    max_batch: Annotated[int, msgspec.Meta(ge=1, le=4096), doc("Rows that one batch may have.")] = 64
    batch_delay: Annotated[
        Annotated[float, text_form("duration", ge=0, le=10)],
        doc("How long a request waits for others to share its batch; 0s = batches form of what waits anyway."),
    ] = 0.0
    attempts: Annotated[int, msgspec.Meta(ge=1, le=16), doc("Runners that may try one request before it fails.")] = 3
    execution_timeout: Annotated[Timeout, doc("A runner that takes longer for one batch hangs and is replaced.")] = 30.0
    balance: Annotated[
        Literal["least-busy", "round-robin"], doc("Which of several runners that wait for a model gets its next batch.")
    ] = "least-busy"


class ModelSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a model may set for itself in [worker.models.NAME]; what it leaves out is as in [worker]."""

    isolation: Annotated[Isolation, doc("Like worker.isolation, for this model.")] = "process"
    runners: Annotated[Count, doc("Like worker.runners, for this model.")] = 1
    threads: Annotated[CountOrAuto, doc("Like worker.threads, for this model.")] = 0


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    """Where models are executed."""

    memory_limit: Annotated[
        int,
        text_form("memory", ge=MIB, le=2**50),
        doc("Memory that loaded models may use together, a size or a share; beyond it the least used is unloaded."),
    ]
    max_runners: Annotated[Count, doc("Models that may be loaded at once, counting each copy.")] = 16
    max_concurrency: Annotated[Count, doc("Batches that may be executed at once; 0 = twice the cores.")]
    spare: Annotated[bool, doc("Keep a process started ahead, so that loading a model does not wait for one.")] = True
    runners: Annotated[Count, doc("Copies of each model.")] = 1
    isolation: Annotated[Isolation, doc("process = a crash takes down one copy only; thread = inside the daemon.")] = (
        "process"
    )
    threads: Annotated[CountOrAuto, doc("Threads per copy for one execution; 0 = a fair share of the cores.")] = 0
    load_timeout: Annotated[Timeout, doc("A model that takes longer to load has failed to load.")] = 60.0
    idle_unload: Annotated[Delay, doc("Unload models unused for this long; 0s = only when memory is short.")] = 0.0
    preload: Annotated[
        tuple[Annotated[str, text_form("reference")], ...],
        doc('Models to load at start, like "digits", "digits@3" or "digits@stable".'),
    ] = ()
    models: dict[str, ModelSettings] = {}

    def settings(self, model: str) -> ModelSettings:
        """Return how ``model`` is to be hosted here."""
        return self.models.get(model) or ModelSettings(
            isolation=self.isolation, runners=self.runners, threads=self.threads
        )


class Manager(msgspec.Struct, frozen=True, kw_only=True):
    """The model store."""

    max_model: Annotated[Amount, doc("The largest model version, all its files together.")] = 8 * GIB
    upload_ttl: Annotated[Delay, doc("How long an unfinished upload is kept for its continuation.")] = 7 * DAY
    inspect_timeout: Annotated[Timeout, doc("How long reading a pushed model's graph may take.")] = 60.0


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """How this host meets the others of its network. Nothing of this listens until it is in one."""

    listen: Annotated[
        str,
        text_form("listener"),
        doc("HOST:PORT where other hosts reach this one's roles, over mutual TLS; [::] = every address, of IPv4 too."),
    ] = "[::]:7443"
    enrol: Annotated[
        str, text_form("listener"), doc("HOST:PORT where hosts join, on the one that founded the network.")
    ] = "[::]:7444"
    bulk: Annotated[str, text_form("listener"), doc("HOST:PORT where a manager gives other hosts model files.")] = (
        "[::]:7445"
    )
    advertise: Annotated[
        tuple[Annotated[str, text_form("reachable")], ...],
        doc("Names or addresses under which other hosts reach this one; none = the address of the way out."),
    ] = ()
    seeds: Annotated[
        tuple[Annotated[str, text_form("seed")], ...],
        doc("HOST:PORT of nodes to try besides those that are found."),
    ] = ()
    mdns: Annotated[bool, doc("Find nodes of the local network by multicast.")] = True
    dht: Annotated[bool, doc("Find nodes by asking those that are known, and keep records for them.")] = True
    udp: Annotated[str, text_form("listener"), doc("HOST:PORT of the DHT's datagrams.")] = "[::]:7443"
    port_mapping: Annotated[
        bool, doc("Have the router in front of this host (PCP, NAT-PMP, UPnP) let others in to these ports.")
    ] = False


class Relay(msgspec.Struct, frozen=True, kw_only=True):
    """What the role relay gives to nodes that cannot reach each other."""

    listen: Annotated[
        str, text_form("listener"), doc("HOST:PORT that other hosts can reach; IPv6 hosts in brackets.")
    ] = "[::]:7446"
    sessions: Annotated[Count, doc("Connections carried at once.")] = 512
    sessions_per_node: Annotated[Count, doc("Connections carried at once for one node that opened them.")] = 64
    session_limit: Annotated[Amount, doc("Bytes that one connection may carry before it is cut.")] = 64 * GIB
    daily_limit: Annotated[Amount, doc("Bytes that the connections of one node may carry in a day.")] = 256 * GIB
    idle_timeout: Annotated[Timeout, doc("A connection that carries nothing for this long is cut.")] = 300.0


class Drain(msgspec.Struct, frozen=True, kw_only=True):
    """How the daemon stops."""

    deadline: Annotated[
        Annotated[float, text_form("duration", ge=0, le=3600)],
        doc("How long requests in flight may take to finish after the first SIGTERM."),
    ] = 30.0


class Log(msgspec.Struct, frozen=True, kw_only=True):
    """What the daemon says on stderr."""

    level: Annotated[LogLevel, doc("The least important lines to write: debug, info, warn or error.")] = "info"
    format: Annotated[
        LogFormat, doc("json = one object per line; pretty = for reading; auto = pretty on a terminal.")
    ] = "auto"


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """One daemon's settings."""

    config_version: Annotated[Literal[1], doc("The version of this file's format.")] = 1
    node: Node
    rpc: Rpc
    peers: Peers
    control: Control
    gateway: Gateway
    orchestrator: Orchestrator
    worker: Worker
    manager: Manager
    cluster: Cluster
    relay: Relay
    drain: Drain
    log: Log
