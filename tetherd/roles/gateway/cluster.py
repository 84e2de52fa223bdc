"""What operators ask of a host's network: found it, let hosts in, look at its nodes, send them away.

Served on the control socket alone: whoever may write to it may do everything, and nobody else may do any of this.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from tetherd.errors import Conflict, InvalidInput, NotInNetwork
from tetherd.policy import membership as policy
from tetherd.ports import Caller, Clock
from tetherd.roles.gateway.exchange import Answer, Exchange, document
from tetherd.roles.gateway.routing import Handler, Route
from tetherd.roles.membership import Membership
from tetherd.types import RoleName, Seconds, parse_host_name
from tetherd.wire import signing, tokens
from tetherd.wire.roster import MAX_LABELS, Member

TTL: Final[Seconds] = 600.0
MAX_TTL: Final[Seconds] = 86400.0
SEEN: Final[Seconds] = 40.0
"""A node that has not asked for so long is not connected: a parked question is asked anew each half minute."""

_CLUSTER: Final = "/api/v1/cluster"
_NODES: Final = "/api/v1/nodes"
_ERRORS: Final = (403, 404, 409)


class _Init(msgspec.Struct):
    name: str


class _Invite(msgspec.Struct):
    roles: tuple[RoleName, ...]
    ttl: Seconds = TTL
    name: str = ""


class _Join(msgspec.Struct):
    token: str


class _Force(msgspec.Struct):
    force: bool = False


class _Labels(msgspec.Struct):
    labels: dict[str, str | None]


class Cluster:
    """The routes. ``authority`` gives the caller of the node that lets hosts in, where that is another host.

    ``path`` names the path of the connection to a node; empty without one.
    """

    def __init__(
        self,
        membership: Membership,
        *,
        clock: Clock,
        authority: Callable[[], Caller | None],
        path: Callable[[str], str],
    ) -> None:
        self._membership = membership
        self._clock = clock
        self._authority = authority
        self._path = path

    def routes(self) -> list[Route]:
        """Return the paths."""
        table: list[tuple[str, str, Handler, str]] = [
            ("GET", _CLUSTER, self._show, "The network that this host is in"),
            ("POST", f"{_CLUSTER}/init", self._init, "Found a network"),
            ("POST", f"{_CLUSTER}/tokens", self._invite, "Make a join token"),
            ("POST", f"{_CLUSTER}/join", self._join, "Join a network"),
            ("POST", f"{_CLUSTER}/leave", self._leave, "Leave the network"),
            ("GET", f"{_CLUSTER}/ca", self._authorities, "The keys that the network trusts"),
            ("POST", f"{_CLUSTER}/ca/rotate", self._rotate, "Take the next step towards another root"),
            ("GET", f"{_CLUSTER}/keys", self._keys, "The keys that members share"),
            ("POST", f"{_CLUSTER}/keys/rotate", self._rekey, "Make the next key that members share"),
            ("GET", f"{_CLUSTER}/members", self._list, "The members of the network"),
            ("GET", _NODES, self._list, "The nodes of the network"),
            ("GET", f"{_NODES}/{{node}}", self._node, "One node"),
            ("PATCH", f"{_NODES}/{{node}}/labels", self._label, "Set and remove labels of a node"),
            ("POST", f"{_NODES}/{{node}}/revoke", self._revoke, "Send a node away"),
            ("DELETE", f"{_NODES}/{{node}}", self._forget, "Strike a node off the list"),
        ]
        return [
            Route(method, path, _local(handler), summary, errors=_ERRORS) for method, path, handler, summary in table
        ]

    async def _show(self, _: Exchange) -> Answer:
        return document(self._document())

    async def _init(self, exchange: Exchange) -> Answer:
        asked = await exchange.json(_Init)
        await self._membership.found(parse_host_name(asked.name))
        return document(self._document(), 201)

    async def _invite(self, exchange: Exchange) -> Answer:
        asked = await exchange.json(_Invite)
        if not asked.roles or len(set(asked.roles)) < len(asked.roles):
            raise InvalidInput("a join token is for one role or more, each named once", fix="--role worker")
        if not 0 < asked.ttl <= MAX_TTL:
            raise InvalidInput(f"a join token is good for {MAX_TTL / 3600:.0f} hours at most", fix="--ttl 1h")
        token = await self._membership.invite(asked.roles, asked.ttl, parse_host_name(asked.name) if asked.name else "")
        if not token.addresses:
            message = "no address is known under which other hosts could reach this one"
            raise Conflict(message, fix='set cluster.advertise = ["name or address of this host"]')
        return document(
            {
                "token": tokens.encode(token),
                "network": token.network,
                "roles": asked.roles,
                "expires": self._clock.wall() + asked.ttl,
                "addresses": token.addresses,
            },
            201,
        )

    async def _join(self, exchange: Exchange) -> Answer:
        asked = await exchange.json(_Join)
        await self._membership.join(tokens.decode(asked.token))
        return document(self._document(), 201)

    async def _leave(self, exchange: Exchange) -> Answer:
        asked = await exchange.json(_Force, empty=_Force())
        left = self._document()
        await self._membership.leave(self._authority(), force=asked.force)
        return document({"network": left["network"], "name": left["name"], "left": True})

    async def _rotate(self, exchange: Exchange) -> Answer:
        asked = await exchange.json(_Force, empty=_Force())
        await self._membership.rotate(force=asked.force)
        return await self._authorities(exchange)

    async def _authorities(self, _: Exchange) -> Answer:
        standing = self._standing()
        roots = signing.certificates(standing.roster.roots)
        leaf, issuing = signing.certificates([standing.credentials.chain_pem])[:2]
        stage, waiting = await self._membership.rotation()
        chain = [{"kind": "issuing", **signing.facts(issuing)}, {"kind": "this host", **signing.facts(leaf)}]
        return document(
            {
                "network": standing.network,
                "name": standing.roster.name,
                "roots": [{"kind": "root", **signing.facts(root)} for root in roots],
                "chain": chain,
                "pem": standing.roster.roots,
                "outdated": standing.outdated,
                "rotation": stage,
                "lagging": sorted(waiting),
            }
        )

    async def _rekey(self, exchange: Exchange) -> Answer:
        asked = await exchange.json(_Force, empty=_Force())
        await self._membership.rekey(force=asked.force)
        return await self._keys(exchange)

    async def _keys(self, _: Exchange) -> Answer:
        standing = self._standing()
        keys = [
            {
                "epoch": each.epoch,
                "digest": each.digest.hex(),
                "held": each.epoch in standing.keys,
                "issued": each.made,
                "expires": each.ends or None,
            }
            for each in sorted(standing.roster.keys, key=lambda each: -each.epoch)
        ]
        return document(
            {
                "network": standing.network,
                "name": standing.roster.name,
                "keys": keys,
                "lagging": self._membership.lagging() if standing.founder else [],
            }
        )

    async def _list(self, _: Exchange) -> Answer:
        standing = self._standing()
        nodes = [self._describe(member) for member in standing.roster.members]
        return document({"network": standing.network, "epoch": standing.roster.epoch, "nodes": nodes})

    async def _node(self, exchange: Exchange) -> Answer:
        member = self._find(exchange)
        return document({**self._describe(member), "path": self._path(member.node)})

    async def _label(self, exchange: Exchange) -> Answer:
        asked = await exchange.json(_Labels)
        member = self._find(exchange)
        labels = {**member.labels, **{key: value for key, value in asked.labels.items() if value is not None}}
        for key in labels:
            parse_host_name(key)
        labels = {key: value for key, value in labels.items() if asked.labels.get(key, "") is not None}
        if len(labels) > MAX_LABELS or any(len(value) > 128 for value in labels.values()):
            raise InvalidInput(f"a node has at most {MAX_LABELS} labels of 128 characters", fix="remove some: KEY-")
        standing = await self._membership.change(member.node, labels=labels)
        return document(self._describe(policy.find(standing.roster.members, member.node)))

    async def _revoke(self, exchange: Exchange) -> Answer:
        member = self._find(exchange)
        if member.node == self._standing().node:
            raise Conflict("a node does not send itself away", fix="tetherctl cluster leave")
        wrote = self._primary(member)
        if not member.revoked:
            await self._membership.change(member.node, revoked=self._clock.wall())
        return document({**self._describe(self._find(exchange)), **self._succession(wrote)})

    async def _forget(self, exchange: Exchange) -> Answer:
        member = self._find(exchange)
        if member.node == self._standing().node:
            raise Conflict("a node does not forget itself", fix="tetherctl cluster leave")
        if self._connected(member):
            fix = f"stop its daemon first, or send it away: tetherctl nodes revoke {member.name}"
            raise Conflict(f"the node {member.name} is connected", fix=fix)
        wrote = self._primary(member)
        await self._membership.forget(member.node)
        return document({"forgotten": member.node, "name": member.name, **self._succession(wrote)})

    def _standing(self) -> policy.Standing:
        if self._membership.standing is None:
            raise NotInNetwork.outside()
        return self._membership.standing

    def _find(self, exchange: Exchange) -> Member:
        return policy.find(self._standing().roster.members, exchange.params["node"])

    def _primary(self, member: Member) -> bool:
        return policy.primary(self._standing().roster) == member

    def _succession(self, wrote: bool) -> dict[str, Any]:
        """Return who changes models from now on, where ``wrote`` says that it was somebody who is gone."""
        now = policy.primary(self._standing().roster)
        return {"successor": now.name if now else ""} if wrote else {}

    def _connected(self, member: Member) -> bool:
        asked = self._membership.seen(member.node)
        return asked is not None and asked < SEEN and not member.revoked

    def _document(self) -> dict[str, Any]:
        standing = self._membership.standing
        if standing is None:
            return {"member": False, "roles": self._membership.roles}
        return {
            "member": standing.me is not None,
            "network": standing.network,
            "name": standing.roster.name,
            "node": standing.node,
            "roles": self._membership.roles,
            "founder": standing.founder,
            "epoch": standing.roster.epoch,
            "nodes": sum(not member.revoked for member in standing.roster.members),
            "certificate": {
                "issued": standing.issued,
                "expires": standing.expires,
                "urgency": policy.urgency(standing.expires, self._clock.wall()),
            },
            "enrol": standing.roster.enrol,
        }

    def _describe(self, member: Member) -> dict[str, Any]:
        standing, asked = self._standing(), self._membership.seen(member.node)
        me = member.node == standing.node
        state = "revoked" if member.revoked else "this host" if me else "connected" if self._connected(member) else ""
        return {
            "node": member.node,
            "name": member.name,
            "roles": member.roles,
            "state": state or ("unknown" if asked is None else "away"),
            "addresses": member.addresses,
            "labels": member.labels,
            "joined": member.joined,
            "revoked": member.revoked or None,
            "seen_ms_ago": None if asked is None else int(asked * 1000),
        }


def _local(handler: Handler) -> Handler:
    async def guarded(exchange: Exchange) -> Answer:
        exchange.check_local("the network is looked at and changed")
        return await handler(exchange)

    return guarded
