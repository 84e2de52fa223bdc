"""How a primary comes to the models of those before it: from the copies on its disk, and from followers that know more.

A copy that was taken over once is known by its origin and epoch and never taken again, so a crash at any point repeats
nothing and loses nothing. It removes a copy only when the ledger has it.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from tetherd.errors import Conflict, InvalidInput, StorageFailed
from tetherd.policy import succession as policy
from tetherd.ports import Blobs, Clock, Context, Former, Formers, Handler, Ledger
from tetherd.wire.catalog import Catalog
from tetherd.wire.messages import Done, Request
from tetherd.wire.replication import HandOver

NOTHING: Final = Catalog(0, [], [])
MAX_HERITAGE: Final = 256
"""How many ledgers a follower can have go into this one: each stays in it as it was."""

_log = logging.getLogger("tetherd.succession")


class Succession:
    """Takes catalogs over into ``ledger``.

    ``term``: the epoch of the roster that makes the manager here the primary, 0 in no network.
    """

    def __init__(self, ledger: Ledger, blobs: Blobs, clock: Clock, *, term: int) -> None:
        self._ledger = ledger
        self._blobs = blobs
        self._clock = clock
        self._term = term

    def begin(self, formers: Formers) -> None:
        """Take over what this host copied of others, the newest first, before anybody sees the ledger. Blocking.

        Raises StorageFull and StorageFailed where the ledger could not record it: whoever went on without it would
        give its numbers a second time.
        """
        for place, former in enumerate(filter(_sound, formers.load())):
            self._take(former, leading=place == 0)
            try:
                formers.remove(former.node)
            except StorageFailed as error:
                _log.warning("a copy that is of no more use stays", extra={"reason": error.message})
        if self._ledger.catalog().epoch < policy.beginning(self._term):
            union = policy.unite(self._ledger.catalog(), NOTHING, self._term)
            self._ledger.adopt(union.catalog, NOTHING)

    def routes(
        self, record: Callable[..., Awaitable[Any]], news: Callable[[], None]
    ) -> Mapping[type[Request[Any]], Handler]:
        """Return what is answered. ``record`` changes the ledger for all to see; ``news`` is called afterwards."""

        async def take(request: HandOver, context: Context) -> Done:
            policy.check(request.catalog, policy.beginning(self._term))
            await record(self._inherit, Former(context.node, request.catalog, self._clock.wall()))
            news()
            return Done()

        return {HandOver: take}

    def _inherit(self, former: Former) -> None:
        if len(self._ledger.catalog().heritage) >= MAX_HERITAGE:
            raise Conflict("the models of too many managers went into these", fix="found a network anew and push them")
        self._take(former)

    def _take(self, former: Former, *, leading: bool = False) -> None:
        """Unite a copy with the ledger, unless that has it; ``leading``: where they differ, the copy is right."""
        own = self._ledger.catalog()
        theirs = former.catalog
        if policy.covers(own, theirs):
            return
        if leading:
            # What a primary before took over of this host's own, it removed on purpose where it does not have it now.
            union = policy.unite(theirs, own, self._term, own if policy.covers(theirs, own) else None)
        else:
            union = policy.unite(own, theirs, self._term, self._ledger.taken(theirs.origin))
        self._ledger.adopt(union.catalog, theirs)
        self._tell(former, own, union)

    def _tell(self, former: Former, own: Catalog, union: policy.Union) -> None:
        known = {(one.model, one.version) for one in own.versions}
        new = [one for one in union.catalog.versions if (one.model, one.version) not in known]
        missing = [
            f"{one.model}@{one.number}"
            for one in new
            if not all(self._blobs.stat(digest).complete for digest in one.blobs())
        ]
        level = logging.WARNING if missing or union.renamed else logging.INFO
        _log.log(
            level,
            "took over the models of another manager",
            extra={
                "of": former.node,
                "as_of": datetime.fromtimestamp(former.copied, UTC).isoformat(timespec="seconds"),
                "epoch": former.catalog.epoch,
                "models": len({one.model for one in new}),
                "versions": len(new),
                "not_here_in_full": missing[:20],
                "kept_under_another_name": sorted(union.renamed.values())[:20],
            },
        )


def _sound(former: Former) -> bool:
    try:
        policy.check(former.catalog)
    except InvalidInput as error:
        _log.error("a copy is not taken over", extra={"of": former.node, "reason": error.message})
        return False
    return True
