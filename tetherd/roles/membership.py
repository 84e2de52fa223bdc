"""This host's membership while its daemon runs: the roster it holds, who follows it, and the certificate it renews.

Lives longer than the roles: when what the host does in its network changes, ``recompose`` is called, and the daemon
puts its roles together anew. Asks nobody but members, and believes nothing that the authority has not signed.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from tetherd.errors import Conflict, NotInNetwork, Revoked, TetherError
from tetherd.policy import membership as policy
from tetherd.policy.membership import Standing
from tetherd.ports import Caller, Clock, Context, Handler, Papers
from tetherd.types import Credentials, RoleName, Seconds
from tetherd.wire.membership import Resign, Rostered, WatchRoster
from tetherd.wire.messages import Done, Request
from tetherd.wire.tokens import JoinToken

T = TypeVar("T")

PARK: Final[Seconds] = 30.0
BACKOFF: Final[tuple[Seconds, Seconds]] = (0.1, 5.0)
_MARGIN: Final[Seconds] = 0.5
_LOOK: Final[Seconds] = 60.0
"""How often the clock is looked at: a host that slept wakes up with an old certificate."""

LONELY: Final[Seconds] = 2 * PARK
"""After how long without an answer from any member the certificate is renewed: the root may have changed meanwhile."""

_GLANCE: Final[Seconds] = 1.0
"""How often it is looked at whether all members have the newest key, while there is an older one."""

_log = logging.getLogger("tetherd.membership")


class Membership:
    """The host's standing, None while it is in no network.

    ``configured``: the roles that the configuration allows. ``chance`` gives a number from 0 to 1. ``preflight``
    raises, blocking, what would keep this host from listening in some roles, and as the founder if it is to be that.
    ``renewed`` lists who is told of every new certificate.
    """

    def __init__(
        self,
        papers: Papers,
        *,
        configured: tuple[RoleName, ...],
        clock: Clock,
        chance: Callable[[], float],
        recompose: Callable[[], None],
        preflight: Callable[[tuple[RoleName, ...], bool], None] = lambda _, __: None,
    ) -> None:
        self.standing: Standing | None = papers.load()
        self.renewed: list[Callable[[Credentials], None]] = []
        self._papers = papers
        self._configured = configured
        self._clock = clock
        self._chance = chance
        self._recompose = recompose
        self._preflight = preflight
        self._changed = asyncio.Event()
        self._following: dict[str, Seconds] = {}
        self._held: dict[str, int] = {}
        self._alone = clock.monotonic()  # since when no member has answered

    @property
    def roles(self) -> tuple[RoleName, ...]:
        """Return what this host does now."""
        if self.standing is None:
            return self._configured
        me = self.standing.me
        return policy.duties(self._configured, me.roles if me else ())

    def seen(self, node: str) -> Seconds | None:
        """Return how many seconds ago a node asked this one for the roster; None = never since the start."""
        asked = self._following.get(node)
        return None if asked is None else self._clock.monotonic() - asked

    def roles_of(self, node: str) -> tuple[RoleName, ...] | None:
        """Return the roles of a member, None for any other node. Called from any thread."""
        member = self.standing.roster.member(node) if self.standing else None
        return None if member is None else member.roles

    def routes(self) -> Mapping[type[Request[Any]], Handler]:
        """Return what this role answers, by request class."""
        return {WatchRoster: self._watch, Resign: self._resign}

    async def run(self, ready: Callable[[], None]) -> None:
        """Keep the certificate young, and on the founder the keys that members share, until cancelled."""
        ready()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._stay_young())
            group.create_task(self._retire())

    async def changes(self) -> None:
        """Wait for the next change of the standing."""
        await self._changed.wait()

    async def follow(self, node: str, peer: Caller) -> None:
        """Take over every newer roster of a peer, until cancelled."""
        delay = BACKOFF[0]
        while self.standing is not None:
            try:
                deadline = self._clock.monotonic() + PARK
                news = await peer.call(WatchRoster(self.standing.roster.epoch), deadline=deadline)
                await self._take(self._papers.accept, news.roster, news.keys)
                self._alone, delay = self._clock.monotonic(), BACKOFF[0]
            except TetherError as error:
                _log.debug("no roster from a peer", extra={"peer_node": node, "reason": error.message})
                await asyncio.sleep(delay)
                delay = min(delay * 2, BACKOFF[1])

    # --- what operators ask for --------------------------------------------------------------------------------------

    async def found(self, network: str) -> Standing:
        """Found a network with this host as its first node. Raises Conflict, InUse."""
        if self.standing is None:
            await asyncio.to_thread(self._preflight, self._configured, True)
        return await self._take(self._papers.found, network, self._configured)

    async def join(self, token: JoinToken) -> Standing:
        """Join a network. Raises what ports.Papers says, and InUse where this host could not do what it is to do."""
        return await self._take(self._papers.join, token, self._consent)

    def _consent(self, granted: tuple[RoleName, ...]) -> None:
        self._preflight(policy.duties(self._configured, granted), False)

    async def leave(self, authority: Caller | None, *, force: bool) -> None:
        """Leave the network: tell the authority, then forget everything. ``force``: also where that cannot be told.

        Raises NotInNetwork, Conflict on the founder, Unreachable.
        """
        standing = self._require()
        if standing.founder and not force and len(standing.roster.members) > 1:
            raise Conflict(
                "this host holds the authority of the network, and without it nobody can join or renew",
                fix="to end the network for all its nodes, say tetherctl cluster leave --force",
            )
        if not standing.founder and standing.me is not None:  # who was sent away has nobody to tell
            try:
                if authority is None:
                    raise NotInNetwork("where the network's authority is, is not known", fix="leave with --force")
                await authority.call(Resign(), deadline=self._clock.monotonic() + PARK)
            except TetherError as error:
                if not force:
                    error.fix = f"{error.fix}; or tell only this host: tetherctl cluster leave --force"
                    raise
        await asyncio.to_thread(self._papers.leave)
        self.standing = None
        self._recompose()

    async def invite(self, roles: tuple[RoleName, ...], ttl: Seconds, name: str) -> JoinToken:
        """Make a join token. Raises NotInNetwork."""
        return await asyncio.to_thread(self._papers.invite, roles, ttl, name)

    async def change(self, node: str, **values: Any) -> Standing:
        """Change what the roster says of a member. Raises NodeNotFound, NotInNetwork."""
        return await self._take(self._papers.change, node, **values)

    async def forget(self, node: str) -> Standing:
        """Strike a member off the roster. Raises NodeNotFound, NotInNetwork."""
        return await self._take(self._papers.forget, node)

    async def rotate(self, *, force: bool) -> Standing:
        """Take the next step towards another root. Raises Conflict while members are not ready, NotInNetwork."""
        return await self._take(self._papers.rotate, self.lagging(), force=force)

    async def rotation(self) -> tuple[str, list[str]]:
        """Return how far the step to another root has gone, and whom the next waits for, as the founder knows it."""
        if not self._require().founder:
            return "", []
        return await asyncio.to_thread(self._papers.rotation, self.lagging())

    async def rekey(self, *, force: bool) -> Standing:
        """Make the next key that members share. Raises Conflict while some may not have the last, NotInNetwork."""
        return await self._take(self._papers.rekey, self.lagging(), force=force)

    def lagging(self) -> list[str]:
        """Return the names of the members that do not have this node's roster yet, as far as it knows."""
        roster, me = self._require().roster, self._require().node
        others = (each for each in roster.members if each.node != me and not each.revoked)
        return [each.name for each in others if self._held.get(each.node, -1) < roster.epoch]

    async def reach(self, address: str, enrol: str) -> Standing:
        """Be reached at these places (HOST:PORT) too, in the place of those named before; see ports.Papers."""
        return await self._take(self._papers.reach, address, enrol)

    async def refresh(self) -> None:
        """Take over what the authority on this host has decided meanwhile."""
        await self._take(self._papers.publish)

    # --- what nodes ask ----------------------------------------------------------------------------------------------

    async def _watch(self, request: WatchRoster, context: Context) -> Rostered:
        """Answer when the roster is newer than the caller's, or shortly before the caller gives up."""
        self._following[context.node] = self._clock.monotonic()
        self._held[context.node] = request.epoch
        patience = context.deadline - self._clock.monotonic()
        try:
            async with asyncio.timeout(patience - min(_MARGIN, patience / 10)):
                while request.epoch >= self._require().roster.epoch:
                    await self._changed.wait()
        except TimeoutError:
            pass
        finally:
            self._following[context.node] = self._clock.monotonic()
        standing = self._require()
        # Who was just sent away learns that, and not the key that was made because of it.
        is_member = standing.roster.member(context.node) is not None
        return Rostered(standing.signed, standing.keys if is_member else {})

    async def _resign(self, _: Resign, context: Context) -> Done:
        if not context.node:
            raise NotInNetwork("only a node of another host resigns", fix="tetherctl cluster leave")
        await self.forget(context.node)
        return Done()

    # --- what changes the standing -----------------------------------------------------------------------------------

    async def _take(self, deed: Callable[..., Standing], *arguments: Any, **values: Any) -> Standing:
        """Do something that changes the standing, and let everybody know."""
        after = await asyncio.to_thread(deed, *arguments, **values)
        if self.standing is not None and after.roster.epoch < self.standing.roster.epoch:
            return self.standing  # another deed overtook this one
        before, rests_on = self.standing, self._foundations()  # as they are now: another deed may have come between
        self.standing = after
        self._changed.set()
        self._changed = asyncio.Event()
        if before is None or self._foundations() != rests_on:
            self._recompose()
        elif before.credentials != after.credentials:
            for tell in self.renewed:
                tell(after.credentials)
        if before is not None and before.me is not None and after.me is None:
            _log.error("this node was revoked: it takes no part in the network any more")
        return after

    def _foundations(self) -> Any:
        """Return what the daemon's composition rests on."""
        standing = self.standing
        if standing is None:
            return None
        return self.roles, standing.me is None, policy.foundations(standing.roster, self.roles, standing.node)

    def _require(self) -> Standing:
        if self.standing is None:
            raise NotInNetwork.outside()
        return self.standing

    async def _wait_until_due(self, chance: float) -> None:
        """Wait until the certificate is half way to its end, or there is something to tell the authority or to hear.

        There is where it has another root, where this host has moved, and where no member has answered for long.
        """
        while (standing := self.standing) and not (standing.outdated or standing.moved):
            left = policy.renewal(standing.issued, standing.expires, chance) - self._clock.wall()
            if not standing.founder:
                left = min(left, self._alone + LONELY - self._clock.monotonic())
            if left <= 0:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, _LOOK)):
                    await self._changed.wait()
        await asyncio.sleep(policy.SPREAD * chance)  # not all members at once

    async def _stay_young(self) -> None:
        attempts, hurry = 0, self.standing is not None and self.standing.moved  # others look for it where it was
        while self.standing is not None:
            if not attempts and not hurry:
                await self._wait_until_due(self._chance())
            attempts, hurry = await self._tend(attempts), False

    async def _retire(self) -> None:
        """On the founder, drop the keys before the newest when they have served their time."""
        while (standing := self.standing) is not None:
            if not standing.founder or len(standing.roster.keys) == 1:
                await self._changed.wait()
                continue
            pause = _GLANCE
            if policy.spent(standing.roster, self.lagging(), self._clock.wall()):
                try:
                    await self._take(self._papers.retire)
                except TetherError as error:
                    _log.error("the last key was not dropped: %s", error.message, extra={"fix": error.fix})
                    pause = _LOOK
            await asyncio.sleep(pause)

    async def _tend(self, attempts: int) -> int:
        """Renew the certificate; return how many attempts failed in a row."""
        if (standing := self.standing) is None:
            return 0  # it has just left
        now = self._clock.wall()
        try:
            renewed = await self._take(self._papers.renew)
            self._alone = self._clock.monotonic() + policy.RETRY
            _log.info("renewed this node's certificate", extra={"expires": renewed.expires})
            await asyncio.sleep(policy.PAUSE)
            return 0
        except Revoked as error:
            _log.error("%s", error.message)
        except TetherError as error:
            # Before it is due nothing is amiss yet: it was another matter that was to be told or heard.
            is_due = policy.renewal(standing.issued, standing.expires, 1.0) <= now
            level = logging.WARNING if is_due else logging.INFO
            if policy.urgency(standing.expires, now) == "error":
                level = logging.ERROR
            _log.log(level, "this node's certificate was not renewed: %s", error.message, extra={"fix": error.fix})
        await asyncio.sleep(policy.retry(attempts, self._chance()))
        return attempts + 1
