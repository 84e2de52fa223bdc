"""The authority's ledger: tokens, members and the keys they share, in one SQLite file.

A token is burned in the same transaction that records its member, so of two hosts that race exactly one wins. The epoch
grows with every change of what the roster says, in the same transaction as the change; and in the same transaction in
which a member goes, there is a next shared key, for that member knows the one before.
"""

import secrets
from pathlib import Path
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from tetherd.drivers.host.sqlite import Database
from tetherd.errors import NodeNotFound, Revoked, TokenExpired, TokenUsed, WrongToken
from tetherd.types import RoleName, Seconds
from tetherd.wire.roster import Member

SCHEMA: Final = 1
KEPT: Final[Seconds] = 30 * 86400.0
"""How long tokens are remembered after they expired, to say why they are refused."""

KEY_BYTES: Final = 32
PARTING: Final[Seconds] = 60.0
"""For how long the key that a node knew opens datagrams after the node left: those who stay need the next one first.

Who is away for longer gets the next key from the first member it reaches, by any way but the DHT.
"""

_APART: Final[Seconds] = 0.001
_NEW_TOKEN: Final = "make a new one: tetherctl cluster token"  # noqa: S105 - words, no secret

_tables = sa.MetaData()
_state = sa.Table(
    "state",
    _tables,
    sa.Column("schema", sa.Integer, nullable=False),
    sa.Column("network", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("changed", sa.Float, nullable=False),  # when the epoch last grew
    sa.Column("enrol", sa.Text, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),  # which of its roots the authority works with
    sa.Column("rotation", sa.Integer, nullable=False),  # how far the step to the next one has gone
)
_tokens = sa.Table(
    "tokens",
    _tables,
    sa.Column("id", sa.LargeBinary, primary_key=True),
    sa.Column("key", sa.LargeBinary, nullable=False),  # SHA-256 of the secret
    sa.Column("roles", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("expires", sa.Float, nullable=False),
    sa.Column("used_by", sa.Text),
)
_members = sa.Table(
    "members",
    _tables,
    sa.Column("node", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("roles", sa.Text, nullable=False),
    sa.Column("addresses", sa.Text, nullable=False),
    sa.Column("labels", sa.Text, nullable=False),
    sa.Column("joined", sa.Float, nullable=False),
    sa.Column("revoked", sa.Float, nullable=False),
)
_certificates = sa.Table(  # the newest of each node
    "certificates",
    _tables,
    sa.Column("node", sa.Text, primary_key=True),
    sa.Column("expires", sa.Float, nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
)
_keys = sa.Table(
    "keys",
    _tables,
    sa.Column("epoch", sa.Integer, primary_key=True),
    sa.Column("key", sa.LargeBinary, nullable=False),
    sa.Column("made", sa.Float, nullable=False),
    sa.Column("ends", sa.Float, nullable=False),  # 0 = it is the newest
)


class SharedKey(msgspec.Struct, frozen=True):
    """A key that members share; see ``KeyEpoch``."""

    epoch: int
    key: bytes
    made: Seconds
    ends: Seconds = 0.0


class State(msgspec.Struct, frozen=True):
    """What one reading of the ledger saw. ``generation`` and ``rotation``: see ``authority``."""

    network: str
    name: str
    epoch: int
    changed: Seconds
    members: tuple[Member, ...]
    keys: tuple[SharedKey, ...]
    enrol: tuple[str, ...]
    generation: int
    rotation: int


class Invitation(msgspec.Struct, frozen=True):
    """A token as the authority knows it. ``key``: SHA-256 of its secret. ``name``: what the node is to be called."""

    id: bytes
    key: bytes
    roles: tuple[RoleName, ...]
    expires: Seconds
    name: str = ""
    used_by: str = ""


class MemberLedger:
    """The ledger in the file ``path``. Blocking, used from one thread at a time; changes are durable on return.

    Raises StorageFailed for a damaged file and for one that a newer release wrote; every method, StorageFull too.
    """

    def __init__(self, path: Path) -> None:
        self._database = Database(path, _tables, what="ledger of members", disk="the disk of the state folder")
        self._transaction = self._database.transaction

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def found(self, network: str, name: str, now: Seconds) -> None:
        """Begin a network, unless it has begun."""
        with self._transaction() as connection:
            if connection.scalar(sa.select(_state.c.schema)) is None:
                connection.execute(
                    sa.insert(_state).values(
                        schema=SCHEMA,
                        network=network,
                        name=name,
                        epoch=1,
                        changed=now,
                        enrol="[]",
                        generation=1,
                        rotation=0,
                    )
                )
                _turn(connection, 0.0, now)

    def state(self) -> State:
        """Return everything that the roster says."""
        with self._transaction() as connection:
            row = connection.execute(sa.select(_state)).one()
            self._database.check_schema(row.schema, SCHEMA)
            members = connection.execute(sa.select(_members).order_by(_members.c.node))
            keys = connection.execute(sa.select(_keys).order_by(_keys.c.epoch))
            listed = tuple(map(_member, members))
            return State(
                network=row.network,
                name=row.name,
                epoch=row.epoch,
                changed=row.changed,
                members=listed,
                keys=tuple(SharedKey(*found) for found in keys),
                enrol=msgspec.json.decode(row.enrol, type=tuple[str, ...]),
                generation=row.generation,
                rotation=row.rotation,
            )

    def invite(self, token: Invitation, now: Seconds) -> None:
        """Record a token, and forget those that expired long ago."""
        with self._transaction() as connection:
            connection.execute(sa.delete(_tokens).where(_tokens.c.expires < now - KEPT))
            connection.execute(
                sa.insert(_tokens).values(
                    id=token.id,
                    key=token.key,
                    roles=_text(token.roles),
                    name=token.name,
                    expires=token.expires,
                )
            )

    def invitation(self, token: bytes) -> Invitation:
        """Return a token. Raises WrongToken where there is none of that id."""
        with self._transaction() as connection:
            return _invitation(connection, token)

    def admit(self, token: bytes, member: Member, now: Seconds) -> Member:
        """Burn the token and record its member, in one; the same node may repeat it until the token expires.

        The member gets the token's roles, and its name where it fixes one. Raises WrongToken, TokenExpired, TokenUsed,
        Revoked.
        """
        with self._transaction() as connection:
            found = _invitation(connection, token)
            before = _find(connection, member.node)
            if found.used_by and (found.used_by != member.node or before is None):
                raise TokenUsed("another host, or one that was forgotten, has joined with this token", fix=_NEW_TOKEN)
            if now >= found.expires:
                raise TokenExpired(f"this join token expired {now - found.expires:.0f} s ago", fix=_NEW_TOKEN)
            if before is not None and before.revoked:
                raise revoked(before)
            if not found.used_by:
                connection.execute(sa.update(_tokens).where(_tokens.c.id == token).values(used_by=member.node))
                name = _free_name(connection, found.name or member.name, member.node)
                member = msgspec.structs.replace(member, roles=found.roles, name=name, joined=_next(connection, now))
                _record(connection, member, now)
                return member
            assert before is not None
            return before

    def enlist(self, member: Member, now: Seconds) -> Member:
        """Record a member that needs no token: the founder itself; one that is there stays as it is."""
        with self._transaction() as connection:
            before = _find(connection, member.node)
            if before is None:
                _record(connection, member, now)
            return before or member

    def member(self, node: str) -> Member:
        """Return a member that may take part. Raises NodeNotFound, Revoked."""
        with self._transaction() as connection:
            found = _require(connection, node)
            if found.revoked:
                raise revoked(found)
            return found

    def expires(self, node: str) -> Seconds:
        """Return when the newest certificate of a node runs out, 0 if it never had one."""
        with self._transaction() as connection:
            chosen = sa.select(_certificates.c.expires).where(_certificates.c.node == node)
            return connection.scalar(chosen) or 0.0

    def issued(self, node: str, expires: Seconds, generation: int) -> None:
        """Record a new certificate of a node: when it runs out, and under which root it is."""
        with self._transaction() as connection:
            connection.execute(sa.delete(_certificates).where(_certificates.c.node == node))
            connection.execute(sa.insert(_certificates).values(node=node, expires=expires, generation=generation))

    def behind(self, generation: int) -> list[str]:
        """Return the members whose newest certificate is under an earlier root."""
        there = sa.select(_certificates.c.node).where(_certificates.c.generation >= generation)
        chosen = sa.select(_members.c.node).where(_members.c.revoked == 0, _members.c.node.not_in(there))
        with self._transaction() as connection:
            return list(connection.scalars(chosen.order_by(_members.c.node)))

    def move(self, enrol: tuple[str, ...], now: Seconds) -> None:
        """Record where the authority is reached."""
        with self._transaction() as connection:
            moved = sa.update(_state).where(_state.c.enrol != _text(enrol)).values(enrol=_text(enrol))
            if connection.execute(moved).rowcount:
                _bump(connection, now)

    def rotate(self, generation: int, rotation: int, now: Seconds) -> None:
        """Record how far the change of roots has gone."""
        with self._transaction() as connection:
            connection.execute(sa.update(_state).values(generation=generation, rotation=rotation))
            _bump(connection, now)

    def reissue(self, now: Seconds) -> None:
        """Let the roster be a newer one that says the same."""
        with self._transaction() as connection:
            _bump(connection, now)

    def change(self, node: str, now: Seconds, **values: Any) -> Member:
        """Set ``name``, ``roles``, ``addresses``, ``labels`` or ``revoked`` of a member. Raises NodeNotFound."""
        with self._transaction() as connection:
            before = _require(connection, node)
            after = msgspec.structs.replace(before, **values)
            if after != before:
                _record(connection, after, now)
            if after.revoked and not before.revoked:
                _turn(connection, PARTING, now)
            return after

    def forget(self, node: str, now: Seconds) -> None:
        """Strike a member off the list. Raises NodeNotFound."""
        with self._transaction() as connection:
            gone = _require(connection, node)
            connection.execute(sa.delete(_members).where(_members.c.node == node))
            if not gone.revoked:
                _turn(connection, PARTING, now)
            _bump(connection, now)

    def rekey(self, overlap: Seconds, now: Seconds) -> None:
        """Make the next key that members share; the one before opens datagrams for ``overlap`` more seconds."""
        with self._transaction() as connection:
            _turn(connection, overlap, now)
            _bump(connection, now)

    def retire(self, now: Seconds) -> None:
        """Drop the keys before the newest."""
        with self._transaction() as connection:
            if connection.execute(sa.delete(_keys).where(_keys.c.ends > 0)).rowcount:
                _bump(connection, now)


def revoked(member: Member) -> Revoked:
    """Return the error for a member that was sent away."""
    return Revoked(
        f"the node {member.name} ({member.node[:16]}) was revoked",
        fix="to let the host in again, have it leave (tetherctl cluster leave --force) and join with a new token",
    )


def _bump(connection: sa.Connection, now: Seconds) -> None:
    connection.execute(sa.update(_state).values(epoch=_state.c.epoch + 1, changed=now))


def _turn(connection: sa.Connection, overlap: Seconds, now: Seconds) -> None:
    """Make the next shared key; keep the one before for a while, and none before that."""
    newest: int = connection.scalar(sa.select(sa.func.max(_keys.c.epoch))) or 0
    connection.execute(sa.delete(_keys).where(_keys.c.epoch < newest))
    connection.execute(sa.update(_keys).values(ends=now + overlap))
    connection.execute(sa.insert(_keys).values(epoch=newest + 1, key=secrets.token_bytes(KEY_BYTES), made=now, ends=0))


def _next(connection: sa.Connection, now: Seconds) -> Seconds:
    """Return when a member joins: after all others, whatever the clock says, for the order decides who is primary."""
    newest: float = connection.scalar(sa.select(sa.func.max(_members.c.joined))) or 0.0
    return max(now, newest + _APART)


def _record(connection: sa.Connection, member: Member, now: Seconds) -> None:
    connection.execute(sa.delete(_members).where(_members.c.node == member.node))
    connection.execute(
        sa.insert(_members).values(
            node=member.node,
            name=member.name,
            roles=_text(member.roles),
            addresses=_text(member.addresses),
            labels=_text(member.labels),
            joined=member.joined,
            revoked=member.revoked,
        )
    )
    _bump(connection, now)


def _free_name(connection: sa.Connection, wanted: str, node: str) -> str:
    """Return a name that no other member has; two hosts are often called the same."""
    taken = set(connection.scalars(sa.select(_members.c.name).where(_members.c.node != node)))
    return wanted if wanted not in taken else f"{wanted[:55]}-{node[:8]}"


def _invitation(connection: sa.Connection, token: bytes) -> Invitation:
    row = connection.execute(sa.select(_tokens).where(_tokens.c.id == token)).one_or_none()
    if row is None:
        raise WrongToken("nobody in this network knows this join token", fix=_NEW_TOKEN)
    roles = msgspec.json.decode(row.roles, type=tuple[RoleName, ...])
    return Invitation(row.id, row.key, roles, row.expires, row.name, row.used_by or "")


def _find(connection: sa.Connection, node: str) -> Member | None:
    row = connection.execute(sa.select(_members).where(_members.c.node == node)).one_or_none()
    return None if row is None else _member(row)


def _require(connection: sa.Connection, node: str) -> Member:
    found = _find(connection, node)
    if found is None:
        raise NodeNotFound(f"there is no node {node[:16]} in this network", fix="see tetherctl nodes ls")
    return found


def _member(row: Any) -> Member:
    return Member(
        node=row.node,
        name=row.name,
        roles=msgspec.json.decode(row.roles, type=tuple[RoleName, ...]),
        addresses=msgspec.json.decode(row.addresses, type=tuple[str, ...]),
        labels=msgspec.json.decode(row.labels, type=dict[str, str]),
        joined=row.joined,
        revoked=row.revoked,
    )


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()
