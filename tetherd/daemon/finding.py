"""What a daemon has because its host looks for the other nodes of its network: the sources, and what they feed.

Nothing here is needed to serve: a node that finds nobody new keeps the connections that it has.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from ipaddress import ip_address
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tetherd.config import addresses
from tetherd.config.schema import Config
from tetherd.daemon.duties import Duty
from tetherd.daemon.mapping import Outside, endpoint
from tetherd.discovery.addresses import Address, parse, refusal, sift
from tetherd.discovery.announcement import Orders, network_tag
from tetherd.discovery.diagnosis import OUTSIDE, Counts
from tetherd.discovery.exchange import Rules, claim
from tetherd.discovery.hints import Drop, Hint
from tetherd.discovery.nat import Sight, View, judge
from tetherd.discovery.peers import Arrival, Live, Peer, PeerTable
from tetherd.discovery.racing import Reached, Relay, is_relayed
from tetherd.drivers.discovery import interfaces, remembered
from tetherd.drivers.discovery.mdns import Mdns
from tetherd.drivers.discovery.paths import TlsProber
from tetherd.drivers.discovery.udp import Dht
from tetherd.drivers.host.vitals import HostVitals
from tetherd.drivers.rpc.reaching import TLS
from tetherd.drivers.rpc.remote import RemoteCaller
from tetherd.drivers.tcp.mutual import dialling
from tetherd.errors import StorageFailed, StorageFull, TetherError
from tetherd.policy.membership import DIALABLE
from tetherd.ports import Clock
from tetherd.roles.gateway.diagnosis import Diagnosis, Senses
from tetherd.roles.membership import Membership
from tetherd.roles.peering import TICK, Peering
from tetherd.roles.whereabouts import Whereabouts
from tetherd.types import Credentials, Seconds
from tetherd.types import Finding as Examined
from tetherd.wire.datagrams import Keyring
from tetherd.wire.endpoint import Endpoint
from tetherd.wire.signatures import KeySigner

SAVE: Final[Seconds] = 5.0
HINT: Final[Seconds] = 15.0
LOST: Final[Seconds] = 2.0
AGAIN: Final[Seconds] = 10.0
"""A node without a connection for so long is looked for, and then again so often."""

NOWHERE: Final = Sight(views=judge((), (), OUTSIDE), dialable=False, relays=())

_OFF: Final[Seconds] = 30.0
_log = logging.getLogger("tetherd.peering")


class Finding:
    """The sources of one node. ``peering`` is what others ask; ``duties`` are to be run.

    ``callers``: this node's ways to others, by node id, as they come and go; ``relays`` gives those through relays,
    ``arrivals`` says where the connections come from that others have made to this node.
    """

    def __init__(
        self,
        config: Config,
        clock: Clock,
        membership: Membership,
        *,
        callers: Mapping[str, RemoteCaller],
        relays: Callable[[str], Sequence[Relay]],
        arrivals: Callable[[], Iterable[Arrival]],
    ) -> None:
        assert membership.standing is not None
        self._config = config
        self._clock = clock
        self._membership = membership
        self._standing = membership.standing
        self._directory = config.node.state_dir / "identity"
        self._began = clock.monotonic()
        self._dht: Dht | None = None
        self._fault = ""
        loopback = _is_loopback(config.cluster.listen)
        self._prober = TlsProber(dialling(self._standing.credentials), clock)
        self.peering = Peering(
            PeerTable(self._standing.node, loopback=loopback),
            prober=self._prober,
            clock=clock,
            chance=random.random,
            caller=callers.get,
            relays=relays,
        )
        self._callers = callers
        self._relays = relays
        self._arrivals = arrivals
        self._chosen: dict[str, Reached] = {}
        self._mdns = Mdns(self._orders(), self.peering, clock) if config.cluster.mdns else None
        self.duties: list[Duty] = [self.peering.run, self._follow, self._remember, self._watch]
        if self._mdns:
            self.duties.append(self._announce)
        if config.cluster.dht and self._standing.me:
            self.duties.append(self._ask_around)
        self._outside = Outside(config, clock, membership, self._ports())
        self.duties += self._outside.duties

    def renew(self, credentials: Credentials) -> None:
        """Show another certificate from now on."""
        self._prober.renew(dialling(credentials))

    def multicast(self) -> Counts | None:
        """Return the counts of mDNS, None where it is switched off."""
        if self._mdns is None:
            return None
        tally, age = self._mdns.tally, self._clock.monotonic() - self._began
        return Counts(
            sent=tally.sent,
            heard=tally.heard,
            known=tally.known,
            dropped=tally.dropped,
            fault=tally.fault,
            echo=bool(tally.own) if self._dialable else None,
            age=age,
        )

    def datagrams(self) -> Counts | None:
        """Return the counts of the DHT, None where it is switched off."""
        if not self._config.cluster.dht:
            return None
        counters = self._dht.counters() if self._dht else {}
        return Counts(
            sent=counters.pop("sent", 0),
            heard=counters.pop("heard", 0),
            known=len(self._dht.peers()) if self._dht else 0,
            asked=counters.pop("asked", 0),
            dropped=counters,
            fault=self._fault,
            age=self._clock.monotonic() - self._began,
        )

    def sight(self, relays: Sequence[str]) -> Sight:
        """Return how this host appears to others; ``relays`` lead to it."""
        return Sight(views=self._views(), dialable=self._dialable, relays=relays, mapping=self._outside.report())

    def _views(self) -> tuple[View, ...]:
        if not self._config.cluster.dht:
            return judge((), (), "cluster.dht is false, and only nodes of the DHT say what they see")
        observed = self._dht.observed() if self._dht else []
        return judge(observed, interfaces.all_addresses(), self._fault or "no node of the DHT has answered yet")

    @property
    def _dialable(self) -> bool:
        return bool(DIALABLE.intersection(self._membership.roles))

    def _ports(self) -> dict[str, int]:
        """Return this node's listeners by service; none where it only dials."""
        cluster, roles = self._config.cluster, self._membership.roles
        if not self._dialable:
            return {}
        ports = {"rpc": addresses.split(cluster.listen)[1]}
        if "manager" in roles:
            ports["bulk"] = addresses.split(cluster.bulk)[1]
        if cluster.dht:
            ports["dht"] = addresses.split(cluster.udp)[1]
        return ports

    def _orders(self) -> Orders:
        """Return what to announce: the addresses of a listener on one of them, or of every interface."""
        host = addresses.split(self._config.cluster.listen)[0]
        chosen = () if addresses.wildcard(host) else (host,)
        return Orders(network_tag(self._standing.network), self._standing.node, self._ports(), chosen, chosen)

    async def _announce(self, ready: Callable[[], None]) -> None:
        ready()
        assert self._mdns is not None
        await self._mdns.run()

    async def _follow(self, ready: Callable[[], None]) -> None:
        """Feed the peer table what is known at the start, and every roster."""
        self.peering.recall(await asyncio.to_thread(remembered.load, self._directory))
        for seed in self._config.cluster.seeds:
            self.peering.hear(Hint(source="seed", origin=seed, addresses=(seed,)))
        ready()
        while (standing := self._membership.standing) is not None:
            self.peering.follow(standing.roster)
            if self._dht is not None and standing.me:
                self._dht.rekey(Keyring(standing.network, standing.keys))
            await self._membership.changes()

    async def _watch(self, ready: Callable[[], None]) -> None:
        """Show in the peer table which connections there are, and lead those that break to where the node is now."""
        ready()
        due: dict[str, Seconds] = {}  # when a node without a connection is looked for
        self.peering.moved = self._move
        async with asyncio.TaskGroup() as group:
            news = group.create_task(self.peering.news())
            while True:
                now = self._clock.monotonic()
                self.peering.table.arrived(self._arrivals(), now)
                for node, caller in list(self._callers.items()):
                    await self._look_at(node, caller)
                    if caller.connected:
                        due.pop(node, None)
                    elif now >= due.setdefault(node, now + LOST):
                        due[node] = now + AGAIN
                        group.create_task(self._search(node))
                await asyncio.sleep(TICK)
                if news.done():
                    due = dict.fromkeys(due, now)
                    news = group.create_task(self.peering.news())

    async def _look_at(self, node: str, caller: RemoteCaller) -> None:
        """Have the peer table show a connection as it is now."""
        peer = self.peering.table.peer(node)
        if peer is None:
            return  # the roster that names it is being taken over
        live, address = self.peering.table.live(node), caller.address.removeprefix(TLS)
        if caller.connected and (live is None or (live.address, live.path) != (address, self._path(node, address))):
            await self._greet(peer, caller)
        elif live and not caller.connected:
            self.peering.disconnected(node)

    async def _greet(self, peer: Peer, caller: RemoteCaller) -> None:
        node, address = peer.node, caller.address.removeprefix(TLS)
        answer = await self.peering.ask(peer)
        if caller.connected:
            self.peering.connected(node, Live(self._path(node, address), address, answer.rtt, self._clock.monotonic()))

    def _path(self, node: str, address: str) -> str:
        """Return which path a connection takes; behind one and the same address, relays stand in for each other."""
        found = self._chosen.get(node)
        if found is None or found.address != address:
            return self.peering.table.path(node, parse(address).host)
        if not is_relayed(found.path):
            return found.path
        return next((f"relay:{way.name}" for way in self._relays(node) if way.address == address), found.path)

    async def _search(self, node: str) -> None:
        """Find out where a node is that is not where it was."""
        try:
            reached = await self.peering.choose(node)
            if (caller := self._callers.get(node)) and not caller.connected:  # the connection may be back
                self._move(reached)
        except TetherError as error:
            _log.debug("a node is nowhere to be found", extra={"peer_node": node, "reason": error.message})

    def _move(self, reached: Reached) -> None:
        """Lead the connection to a node over another path."""
        caller, address = self._callers.get(reached.node), f"{TLS}{reached.address}"
        self._chosen[reached.node] = reached
        if caller is not None and caller.address != address:
            _log.info("a node is reached elsewhere", extra={"peer_node": reached.node, "path": reached.path})
            caller.move(address)

    async def _remember(self, ready: Callable[[], None]) -> None:
        """Keep what was proven on the disk."""
        ready()
        kept = self.peering.table.remembered()
        while True:
            await asyncio.sleep(SAVE)
            now = self.peering.table.remembered()
            if now != kept:
                with contextlib.suppress(StorageFailed, StorageFull):  # the next one may succeed
                    await asyncio.to_thread(remembered.save, self._directory, now)
                    kept = now

    async def _ask_around(self, ready: Callable[[], None]) -> None:
        """Take part in the DHT, again and again where its port is taken."""
        ready()
        while True:
            try:
                async with self._joined() as dht:
                    await self._exchange(dht)
            except TetherError as error:
                self._fault = error.message
                _log.warning("the DHT is off: %s", error.message, extra={"fix": error.fix})
            await asyncio.sleep(_OFF)

    @contextlib.asynccontextmanager
    async def _joined(self) -> AsyncIterator[Dht]:
        standing = self._membership.standing or self._standing
        key = load_pem_private_key(standing.credentials.key_pem.encode(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey), "keys of nodes are P-256"
        rules = Rules(serves=self._dialable, member=self._is_member, allow=self._is_allowed)
        listen = addresses.sockets(self._config.cluster.udp)
        if not self._dialable:
            listen = [("0.0.0.0", 0), *([("::", 0)] if interfaces.has_ipv6() else [])]  # noqa: S104
        async with Dht(KeySigner(key), Keyring(standing.network, standing.keys), rules, listen) as dht:
            self._dht, self._fault = dht, ""
            try:
                yield dht
            finally:
                self._dht = None

    async def _exchange(self, dht: Dht) -> None:
        whereabouts = Whereabouts(
            dht, self.peering, self._clock, mine=self._endpoint, wanted=self._wanted, chance=random.random
        )
        self._outside.moved = whereabouts.move
        async with asyncio.TaskGroup() as group:
            group.create_task(self._introduce(dht))
            group.create_task(self._alarm(dht))
            group.create_task(whereabouts.run(lambda: None))
            while True:
                await self.peering.news()
                whereabouts.hurry()

    def _endpoint(self) -> Endpoint | None:
        """Return where others can dial this node: through its router, if that lets them in, and directly."""
        me, ports = self._standing.me, self._ports()
        reached = me is not None and me.addresses and ports
        return endpoint(self._standing.here, ports, self._outside.places()) if reached else None

    async def _alarm(self, dht: Dht) -> None:
        """Have the peer table show what the DHT learnt of ids that several hosts claim."""
        while True:
            while dht.conflicts:
                found = dht.conflicts.popleft()
                now, address = self._clock.monotonic(), str(Address(*found.other))
                if not (found.proven and self._is_at(found.node.hex(), found.address[0], found.other[0])):
                    self.peering.drop(Drop("conflict", claim(found), found.node.hex(), address, "dht", last=now))
            await asyncio.sleep(TICK)

    def _is_at(self, node: str, *hosts: str) -> bool:
        """Return whether a node has told the authority of each of these addresses: a host may have several."""
        member = (self._membership.standing or self._standing).roster.member(node)
        return {*hosts} <= {place.host for place in sift(member.addresses if member else (), trusted=True).accepted}

    async def _introduce(self, dht: Dht) -> None:
        """Tell the DHT of every address that any source gave for a node, as long as it knows few itself."""
        dht.join([])
        while True:
            for place in self._entrances():
                dht.hint(place)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HINT):
                    await self.peering.news()

    def _entrances(self) -> list[tuple[str, int]]:
        table = self.peering.table
        found = [parse(seen.address) for seen in table.seeds()]
        for peer in table.peers():
            places = [parse(seen.address) for seen in peer.addresses]
            found += [place.at(peer.ports.get("dht", place.port)) for place in places if not peer.revoked]
        return list(dict.fromkeys((place.host, place.port) for place in found if _is_ip(place)))

    def _wanted(self) -> list[str]:
        """Return the nodes to ask about: members that others dial, and that no connection is open to."""
        peers = self.peering.table.peers()
        return [one.node for one in peers if not one.dialled and not one.revoked and DIALABLE.intersection(one.roles)]

    def _is_member(self, node: bytes) -> bool:
        return self._membership.roles_of(node.hex()) is not None

    def _is_allowed(self, place: tuple[str, int]) -> bool:
        return not refusal(Address(*place), loopback=_is_loopback(self._config.cluster.listen))


def diagnosis(
    config: Config,
    clock: Clock,
    membership: Membership,
    finding: Finding | None,
    *,
    relays: Callable[[], Sequence[str]],
    examine: Callable[[str], Examined],
) -> Diagnosis:
    """Return what examines this host; ``finding`` is None where it is in no network.

    ``relays`` lead to it; ``examine`` says, blocking, what is wrong with the way to HOST:PORT.
    """

    def credentials() -> Credentials | None:
        return membership.standing.credentials if membership.standing else None

    senses = Senses(lambda: None, lambda: None, lambda: NOWHERE)
    if finding:
        senses = Senses(finding.multicast, finding.datagrams, lambda: finding.sight(relays()))
    return Diagnosis(
        peering=finding.peering if finding else None,
        host=HostVitals([config.node.state_dir, config.node.cache_dir], credentials, clock),
        clock=clock,
        senses=senses,
        examine=examine,
    )


def _is_loopback(listen: str) -> bool:
    return addresses.loopback(addresses.split(listen)[0])


def _is_ip(place: Address) -> bool:
    try:
        ip_address(place.host)
    except ValueError:
        return False
    return True
