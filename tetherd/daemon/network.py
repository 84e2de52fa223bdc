"""What a daemon has because its host is in a network: a door for other hosts, a way to each of them, and enrolment."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from tetherd.config import addresses
from tetherd.config.schema import Config
from tetherd.daemon.duties import Duty, enduring
from tetherd.daemon.finding import Finding
from tetherd.daemon.relays import Relays, local
from tetherd.discovery.addresses import plain
from tetherd.discovery.peers import Arrival
from tetherd.drivers.identity.enrolment import EnrolmentServer
from tetherd.drivers.identity.papers import DiskPapers
from tetherd.drivers.rpc.door import Door
from tetherd.drivers.rpc.reaching import TLS, Secret
from tetherd.drivers.rpc.remote import RemoteCaller
from tetherd.drivers.rpc.several import SeveralCaller, Way
from tetherd.policy import membership as policy
from tetherd.policy.admission import Admission
from tetherd.policy.membership import DIALABLE, Standing
from tetherd.ports import Clock
from tetherd.roles.membership import Membership
from tetherd.types import Credentials, RoleName
from tetherd.wire.assignments import Site
from tetherd.wire.catalog import GetBlob, GetManifest, WatchCatalog
from tetherd.wire.messages import Ensure, GetFleet, Infer, Release, Request
from tetherd.wire.relay import Service
from tetherd.wire.replication import GetHoldings
from tetherd.wire.roster import Member

SHARED: Final[Mapping[RoleName, frozenset[type[Request[Any]]]]] = {
    "orchestrator": frozenset({Infer, Ensure, Release, GetFleet}),
    # Neither changes nor what decides about them: a copy may be older than the primary.
    "manager": frozenset({WatchCatalog, GetHoldings, GetManifest, GetBlob}),
}
"""What any node with the role may answer; everything else is for the first one alone."""


class Network:
    """The host as a node. ``door`` is None on a host that only dials; ``listeners`` are other duties that listen."""

    def __init__(self, config: Config, clock: Clock, membership: Membership, papers: DiskPapers) -> None:
        assert membership.standing is not None
        self._standing: Final[Standing] = membership.standing
        self._config = config
        self._clock = clock
        self._membership = membership
        self._callers: dict[str, RemoteCaller] = {}
        self._several: dict[RoleName, SeveralCaller] = {}
        self._said: dict[str, str] = {}  # where each node is, as the roster has it
        self._tasks: set[asyncio.Task[Any]] = set()
        self.listeners: list[Duty] = []
        self.duties: list[Duty] = [membership.run]
        self.door: Door | None = None
        self._enrolment: EnrolmentServer | None = None
        credentials = self._standing.credentials
        if papers.authority is not None:
            self._enrolment = EnrolmentServer(
                config.cluster.enrol, papers.authority, credentials, clock=clock, admitted=self._admitted
            )
            self.listeners.append(self._enrolment.run)
        if DIALABLE.intersection(membership.roles):
            address = f"{TLS}{config.cluster.listen}"
            self.door = Door(address, credentials, Admission(membership.roles_of), clock)
        self.relays = Relays(membership, reach=self._reach, services=self._services(), clock=clock)
        self.duties += [self._follow, enduring(self.relays.run)]
        self.finding = Finding(
            config, clock, membership, callers=self._callers, relays=self.relays.ways, arrivals=self._arrivals
        )
        self.duties += map(enduring, self.finding.duties)
        membership.renewed = [self._renewed]

    @property
    def node(self) -> str:
        """This host's id."""
        return self._standing.node

    def credentials(self) -> Credentials:
        """Return what this node shows its peers now."""
        return (self._membership.standing or self._standing).credentials

    def roles_of(self, node: str) -> tuple[RoleName, ...] | None:
        """Return the roles of a member, None for one that is none."""
        return self._membership.roles_of(node)

    def primary(self) -> Member | None:
        """Return the member whose manager the others follow."""
        return policy.primary(self._standing.roster)

    @property
    def term(self) -> int:
        """The epoch of the roster that says who the primary is."""
        return self._standing.roster.epoch

    def reachable(self, port: int) -> str:
        """Return HOST:PORT where others reach a port of this host, under the first name that it gave them."""
        me = self._standing.me
        host = addresses.split(me.addresses[0])[0] if me and me.addresses else "127.0.0.1"
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def sites(self, role: RoleName) -> list[Site]:
        """Return where other nodes host a role, the first one first, and where each of them is dialled now."""
        return [Site(caller.address, member.node) for member, caller in self._hosts(role)]

    def caller(self, site: Site) -> RemoteCaller:
        """Return the caller of the roles of another node."""
        return self._callers[site.node]

    def several(self, role: RoleName) -> SeveralCaller:
        """Return the caller of all other nodes that have a role, of those that come later too."""
        if role not in self._several:
            self._several[role] = SeveralCaller(role, SHARED[role], self._ways(role))
        return self._several[role]

    def authority(self) -> RemoteCaller | None:
        """Return the caller of the node that lets hosts in."""
        member = policy.authority(self._standing.roster)
        return self._callers.get(member.node) if member else None

    def close(self) -> None:
        """Close the connections."""
        self.relays.close()
        for caller in self._callers.values():
            caller.close()

    def _services(self) -> dict[Service, tuple[str, int]]:
        """Return the listeners of this host that relays may lead to; a relay can be reached without one."""
        roles = self._membership.roles
        if self.door is None or "relay" in roles:
            return {}
        found: dict[Service, tuple[str, int]] = {"rpc": local(self._config.cluster.listen)}
        return found | ({"bulk": local(self._config.cluster.bulk)} if "manager" in roles else {})

    def _ways(self, role: RoleName) -> Sequence[Way]:
        return [Way(member.name, caller) for member, caller in self._hosts(role)]

    def _hosts(self, role: RoleName) -> list[tuple[Member, RemoteCaller]]:
        standing = self._membership.standing or self._standing
        found = policy.hosts(standing.roster, role, standing.node)
        return [(each, self._reach(each.node, each.addresses[0])) for each in found]

    def _reach(self, node: str, address: str) -> RemoteCaller:
        known = self._callers.get(node)
        if known is None:
            standing = self._membership.standing or self._standing
            known = self._callers[node] = RemoteCaller(
                f"{TLS}{address}",
                clock=self._clock,
                max_message=self._config.rpc.max_message,
                secret=Secret(standing.credentials, node),
            )
        elif self._said[node] != address:
            known.move(f"{TLS}{address}")  # what discovery found meanwhile is older than this
        self._said[node] = address
        return known

    def _arrivals(self) -> set[Arrival]:
        """Return from where the nodes come that have connections to this one."""
        found = [(node, plain(host), port) for node, host, port in self.door.arrivals()] if self.door else []
        carried = self.relays.carried()
        return {Arrival(node, host, carried.get((host, port), "")) for node, host, port in found}

    async def _follow(self, ready: Callable[[], None]) -> None:
        """Follow the roster of every node that can be dialled, of those that come later too, and leave the others."""
        ready()
        following: dict[tuple[str, str], asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while (standing := self._membership.standing) is not None:
                wanted = {(node, found[0]) for node, found in policy.dialable(standing.roster, standing.node).items()}
                for gone in following.keys() - wanted:
                    following.pop(gone).cancel()
                for node, address in wanted - following.keys():
                    work = self._membership.follow(node, self._reach(node, address))
                    following[node, address] = group.create_task(work)
                for role, several in self._several.items():
                    several.ways = self._ways(role)
                for left in self._callers.keys() - {node for node, _ in wanted}:
                    self._callers.pop(left).close()
                    del self._said[left]
                await self._membership.changes()

    def _renewed(self, credentials: Credentials) -> None:
        for caller in self._callers.values():
            caller.renew(credentials)
        if self.door is not None:
            self.door.renew(credentials)
        if self._enrolment is not None:
            self._enrolment.show(credentials)
        self.finding.renew(credentials)

    def _admitted(self) -> None:
        task = asyncio.create_task(self._membership.refresh())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
