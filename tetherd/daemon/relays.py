"""What a host has to do with the relays of its network: it waits at them to be reached, and reaches others by them."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from tetherd.config import addresses
from tetherd.config.schema import Relay as Settings
from tetherd.discovery import racing
from tetherd.drivers.relay.junction import SocketJunction
from tetherd.drivers.relay.tunnels import SocketTunnels
from tetherd.errors import Unavailable
from tetherd.policy import membership as policy
from tetherd.policy.relaying import Limits
from tetherd.ports import Caller, Clock
from tetherd.roles.membership import Membership
from tetherd.roles.relay import Relay
from tetherd.roles.relayed import Forwarder, RelayedNode, Via
from tetherd.wire.relay import Service

LOOPBACK: Final = "127.0.0.1"

_log = logging.getLogger("tetherd.relay")


def relay(settings: Settings, membership: Membership, clock: Clock) -> Relay:
    """Return the relay role of a member, as configured."""
    assert membership.standing is not None
    limits = Limits(
        sessions=settings.sessions,
        sessions_per_node=settings.sessions_per_node,
        session_bytes=settings.session_limit,
        node_bytes=settings.daily_limit,
        idle=settings.idle_timeout,
    )
    return Relay(
        node=membership.standing.node,
        member=lambda node: membership.roles_of(node) is not None,
        junction=SocketJunction(settings.listen),
        limits=limits,
        clock=clock,
    )


def local(listen: str) -> tuple[str, int]:
    """Return the host and port at which a listener of this host is reached from itself."""
    host, port = addresses.split(listen)
    return (LOOPBACK if addresses.wildcard(host) else host, port)


class Relays:
    """The relays that the roster names, as this node uses them.

    ``reach`` returns the caller of a node at HOST:PORT. ``services`` are the listeners of this host that others may be
    led to: without any, it only goes to others.
    """

    def __init__(
        self,
        membership: Membership,
        *,
        reach: Callable[[str, str], Caller],
        services: Mapping[Service, tuple[str, int]],
        clock: Clock,
    ) -> None:
        self._membership = membership
        self._reach = reach
        self._services = services
        self._clock = clock
        self._tunnels = SocketTunnels()
        self._forwarder = Forwarder(tunnels=self._tunnels, clock=clock)
        self._waiting: dict[tuple[str, str], RelayedNode] = {}  # by node and host

    @property
    def reachable(self) -> list[str]:
        """Return the relays, by node id, through which others can reach this node now."""
        return [node for (node, _), waiting in self._waiting.items() if waiting.reachable]

    @property
    def names(self) -> list[str]:
        """Return the names of those relays."""
        return [self._name(node) for node in self.reachable]

    def carried(self) -> dict[tuple[str, int], str]:
        """Return where on this host the connections of others begin that come by relays, and by which (its name)."""
        return {end: self._name(relay) for (relay, _), waiting in self._waiting.items() for end in waiting.carried}

    def ways(self, node: str, service: Service = "rpc") -> Sequence[racing.Relay]:
        """Return the ways to a node through relays: one door on this host, which tries each relay in turn.

        None where there is no relay, or no room for a door now, or where the node is no member.
        """
        vias = [via for via in self._vias() if via.node != node]
        if not vias or self._membership.roles_of(node) is None:
            return ()
        try:
            door = self._forwarder.reach(node, vias, service)
        except Unavailable as error:
            _log.warning("no way through relays to a node: %s", error.message, extra={"peer_node": node})
            return ()
        return (racing.Relay(self._name(self._forwarder.used(node, service) or vias[0].node), door),)

    async def run(self, ready: Callable[[], None]) -> None:
        """Wait at every relay there is, and close the doors to nodes that are no members any more, until cancelled."""
        ready()
        self._waiting.clear()
        tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while (standing := self._membership.standing) is not None:
                self._forwarder.keep({each.node for each in standing.roster.members if not each.revoked})
                vias = {(via.node, via.host): via for via in self._vias()} if self._services else {}
                for gone in tasks.keys() - vias.keys():
                    tasks.pop(gone).cancel()
                    del self._waiting[gone]
                for new in vias.keys() - tasks.keys():
                    waiting = RelayedNode(vias[new], self._services, tunnels=self._tunnels, clock=self._clock)
                    self._waiting[new] = waiting
                    tasks[new] = group.create_task(waiting.run(lambda: None))
                await self._membership.changes()

    def close(self) -> None:
        """Close every door."""
        self._forwarder.close()

    def _vias(self) -> list[Via]:
        standing = self._membership.standing
        if standing is None:
            return []
        found = policy.hosts(standing.roster, "relay", standing.node)
        return [
            Via(each.node, addresses.split(each.addresses[0])[0], self._reach(each.node, each.addresses[0]))
            for each in found
        ]

    def _name(self, node: str) -> str:
        standing = self._membership.standing
        member = standing.roster.member(node) if standing else None
        return member.name if member else node[:16]
