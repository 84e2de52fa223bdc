"""What no setting can tell alone: combinations that cannot work. Each check is a small pure function over a Config."""

from collections.abc import Iterator
from typing import Final

import msgspec

from tetherd.config.locate import Key
from tetherd.config.schema import Config
from tetherd.errors import InvalidInput
from tetherd.types import RoleName, parse_model

NEEDS: Final[dict[RoleName, tuple[RoleName, ...]]] = {
    "gateway": ("orchestrator", "manager"),
    "worker": ("orchestrator", "manager"),
    "orchestrator": (),
    "manager": (),
    "relay": (),
}
"""The roles that each role calls."""


class Check(msgspec.Struct, frozen=True):
    """A combination that cannot work: the key to change, and every key that takes part."""

    key: Key
    message: str
    fix: str
    involved: tuple[Key, ...]


def check(config: Config) -> Iterator[Check]:
    """Yield everything that is wrong between the settings of ``config``."""
    yield from _roles(config)
    yield from _peers(config)
    yield from _directories(config)
    yield from _sockets(config)
    yield from _runners(config)


def _roles(config: Config) -> Iterator[Check]:
    key = ("node", "roles")
    if not config.node.roles:
        yield Check(
            key, "a daemon without roles does nothing", 'name one, like ["worker"], or leave the line out', (key,)
        )


def _peers(config: Config) -> Iterator[Check]:
    roles = config.node.roles
    for peer in ("orchestrator", "manager"):
        key, involved = ("peers", peer), (("peers", peer), ("node", "roles"))
        address = getattr(config.peers, peer)
        users = [role for role in roles if peer in NEEDS[role]]
        if address and peer in roles:
            yield Check(
                key, f"this process hosts the {peer} itself", f"remove the line, or {peer} from node.roles", involved
            )
        elif users and not address and peer not in roles and any((config.peers.orchestrator, config.peers.manager)):
            # With neither, both are found in the network that this host is in, or will join.
            needs = f"{' and '.join(users)} {'needs' if len(users) == 1 else 'need'}"
            yield Check(
                key,
                f"{needs} the {peer}, which this process does not host",
                f"set it to the rpc.listen address of the process with that role, or add {peer} to node.roles",
                involved,
            )
        elif address and address == config.rpc.listen:
            yield Check(
                key, "this is the address this process listens on", "name the other process", (key, ("rpc", "listen"))
            )


def _directories(config: Config) -> Iterator[Check]:
    seen: dict[str, Key] = {}
    for name in ("state_dir", "cache_dir", "runtime_dir"):
        key, directory = ("node", name), str(getattr(config.node, name))
        if directory in seen:
            other = seen[directory]
            fix = "give each its own directory: one is kept, one may be emptied, one is emptied at every start"
            yield Check(key, f"the same directory as {'.'.join(other)}", fix, (key, other))
        seen.setdefault(directory, key)


def _sockets(config: Config) -> Iterator[Check]:
    key, other = ("control", "socket"), ("rpc", "listen")
    if config.control.enabled and config.rpc.listen == f"ipc://{config.control.socket}":
        yield Check(key, "the same socket as rpc.listen", "give each its own path", (key, other))


def _runners(config: Config) -> Iterator[Check]:
    worker, most = config.worker, ("worker", "max_runners")
    fix = f"raise worker.max_runners (now {worker.max_runners}) or lower this"
    if worker.runners > worker.max_runners:
        key: Key = ("worker", "runners")
        yield Check(key, f"{worker.runners} copies of one model are more than may be loaded at once", fix, (key, most))
    for name, model in worker.models.items():
        key = ("worker", "models", name, "runners")
        try:
            parse_model(name)
        except InvalidInput as error:
            yield Check(key[:3], error.message, error.fix, (key[:3],))
        if model.runners > worker.max_runners and model.runners != worker.runners:
            yield Check(
                key, f"{model.runners} copies of one model are more than may be loaded at once", fix, (key, most)
            )
