"""Which ports a router is asked to map and when, and what is believed of its answers. Time and nonces are given to it.

Everything is asked in rounds, by one method after the other until one grants something; a round renews every mapping
at half its life. What a router says only ever makes one more address to try: who is there, the TLS handshake proves.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Final, TypeAlias

import msgspec

from tetherd.discovery.addresses import Address, refusal
from tetherd.types import Seconds
from tetherd.wire.portmapping import NONCE, Answer, Ask, Method, Transport

LEASE: Final = 600
"""Seconds a mapping is asked for: so long does it outlive a daemon that was killed."""

SOONEST: Final[Seconds] = 15.0
"""From one round to the next at least, however short the leases are that are granted."""

AGAIN: Final[Seconds] = 300.0
"""How long nothing is asked after every method was tried in vain."""

PAUSES: Final[dict[Method, tuple[Seconds, ...]]] = {
    "pcp": (0.25, 0.5, 1.0, 2.0),
    "nat-pmp": (0.25, 0.5, 1.0, 2.0),
    "upnp": (30.0,),
}
"""How long answers are waited for before what is missing is asked again, or given up."""

SILENT: Final = "it does not answer"
_CLOCK: Final = 7 / 8
_JITTER: Final[Seconds] = 2.0

_Key: TypeAlias = tuple[Transport, int]
_OUTSIDE: Final[_Key] = ("tcp", 0)
"""The question for the outer address, which NAT-PMP asks apart."""


class Want(msgspec.Struct, frozen=True):
    """A port of this host that others are to reach; ``service`` is what it is called."""

    service: str
    transport: Transport
    port: int


class Mapped(msgspec.Struct, frozen=True):
    """A mapping that the router granted: ``outside`` leads to the wanted port for ``left`` seconds.

    ``obstacle``: why others cannot use it; empty = as far as is known they can.
    """

    want: Want
    outside: Address
    left: Seconds
    obstacle: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked of the router and what came of it. ``refused``: by service, or by method that was tried in vain.

    ``off``: why nothing is to be asked; ``fault``: why nothing can be.
    """

    off: str = ""
    router: str = ""
    method: Method | None = None
    mapped: tuple[Mapped, ...] = ()
    refused: dict[str, str] = {}
    fault: str = ""
    sent: int = 0
    heard: int = 0
    dropped: dict[str, int] = {}


class _Slot:
    """One wanted port."""

    __slots__ = ("external", "nonce", "outer", "refused", "until", "want")

    def __init__(self, want: Want, nonce: bytes) -> None:
        self.want = want
        self.nonce = nonce
        self.outer = want.port
        self.external = ""
        self.until = float("-inf")
        self.refused = ""


class Mapper:
    """One router, at ``router``, as this host sees it from its address ``me``.

    Whoever drives it sends what ``due`` returns, gives every answer from the router to ``hear``, and calls again at
    ``wake``. ``methods``: those to try, in this order. ``random`` gives bytes that nobody can guess.
    """

    def __init__(
        self, router: str, me: str, wants: Sequence[Want], methods: Sequence[Method], random: Callable[[int], bytes]
    ) -> None:
        self._router = router
        self._me = me
        self._slots: dict[_Key, _Slot] = {(want.transport, want.port): _Slot(want, random(NONCE)) for want in wants}
        self._methods = methods
        self._turn = 0
        self._external = ""
        self._waiting: set[_Key] = set()
        self._tries = 0
        self._answered = False
        self._next: Seconds = float("-inf")
        self._began: tuple[Seconds, int] | None = None
        self._vain: dict[str, str] = {}
        self._counts: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()

    @property
    def method(self) -> Method:
        """Return the method that is tried, or was granted something."""
        return self._methods[self._turn]

    @property
    def settled(self) -> bool:
        """Return whether no answer is waited for."""
        return not self._waiting

    def wake(self) -> Seconds:
        """Return when to call ``due`` again, if no answer comes before."""
        return self._next

    def due(self, now: Seconds) -> list[Ask]:
        """Return what is to be asked now."""
        if now < self._next:
            return []
        if self._waiting and self._tries == len(PAUSES[self.method]):
            self._give_up(now)
            return self.due(now)
        if not self._waiting:
            self._begin()
        asks = [self._ask(key, LEASE) for key in sorted(self._waiting)]
        self._counts["sent"] += len(asks)
        self._next = now + PAUSES[self.method][self._tries]
        self._tries += 1
        return asks

    def hear(self, answer: Answer, now: Seconds) -> None:
        """Take in an answer that came from the router. What was not asked for, or not with our nonce, is counted."""
        self._counts["heard"] += 1
        key = (answer.transport, answer.inner) if answer.inner else _OUTSIDE
        if answer.unsupported:
            if answer.method == self.method and self._waiting and not self._live(now):
                self._next_method(now, answer.refused)
        elif answer.method != self.method or key not in self._waiting:
            self._dropped["unasked"] += 1
        elif key != _OUTSIDE and answer.method == "pcp" and answer.nonce != self._slots[key].nonce:
            self._dropped["nonce"] += 1
        elif self._restarted(answer, now):
            self._waiting.update(self._slots)  # without new tries: epochs that go to and fro end with the round
            self._next = now
        else:
            self._take(key, answer, now)

    def spoilt(self) -> None:
        """Count an answer that could not be read."""
        self._dropped["malformed"] += 1

    def release(self, now: Seconds) -> list[Ask]:
        """Return what ends every mapping that there is or may be; nothing is asked for from then on."""
        keys = [key for key, slot in sorted(self._slots.items()) if slot.until > now or key in self._waiting]
        for key in keys:
            self._slots[key].until = now
        self._waiting.clear()
        self._next = float("inf")
        return [self._ask(key, 0) for key in keys]

    def places(self, now: Seconds) -> dict[str, Address]:
        """Return by service where others reach this host through the router, leaving out what they cannot use."""
        return {each.want.service: each.outside for each in self._mapped(now) if not each.obstacle}

    def report(self, now: Seconds) -> Report:
        """Return what was asked and what came of it."""
        mapped = self._mapped(now)
        refused = {slot.want.service: slot.refused for slot in self._slots.values() if slot.refused}
        return Report(
            router=self._router,
            method=self.method,
            mapped=mapped,
            refused=refused if mapped or not self._vain else self._vain,
            sent=self._counts["sent"],
            heard=self._counts["heard"],
            dropped=dict(self._dropped),
        )

    # --- rounds -------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._waiting = set(self._slots)
        if self.method == "nat-pmp":
            self._waiting.add(_OUTSIDE)
        self._tries, self._answered = 0, False

    def _ask(self, key: _Key, lifetime: int) -> Ask:
        if key == _OUTSIDE:
            return Ask(method=self.method, me=self._me)
        slot = self._slots[key]
        return Ask(
            method=self.method,
            me=self._me,
            transport=slot.want.transport,
            inner=slot.want.port,
            outer=slot.outer,
            lifetime=lifetime,
            nonce=slot.nonce,
        )

    def _take(self, key: _Key, answer: Answer, now: Seconds) -> None:
        if key == _OUTSIDE:
            self._external = answer.external
        elif answer.refused:
            self._slots[key].refused, self._slots[key].until = answer.refused, now
        elif not answer.outer or not answer.lifetime:
            self._dropped["malformed"] += 1
            return
        else:
            slot = self._slots[key]
            slot.refused, slot.outer, slot.external = "", answer.outer, answer.external
            slot.until = now + min(answer.lifetime, LEASE)
        self._answered = True
        self._waiting.discard(key)
        if not self._waiting:
            self._rest(now)

    def _rest(self, now: Seconds) -> None:
        """Wait for the next round, or go on to the next method where this one granted nothing."""
        live = self._live(now)
        if live:
            self._vain.clear()
            self._next = now + max(SOONEST, min(slot.until - now for slot in live) / 2)
        else:
            self._next_method(now, next((slot.refused for slot in self._slots.values() if slot.refused), SILENT))

    def _give_up(self, now: Seconds) -> None:
        for key in self._waiting - {_OUTSIDE}:
            self._slots[key].refused = SILENT
        self._waiting.clear()
        if self._answered:
            self._rest(now)
        elif self._live(now):
            self._next = now + SOONEST
        else:
            self._next_method(now, SILENT)

    def _next_method(self, now: Seconds, why: str) -> None:
        self._vain[self.method] = why
        self._waiting.clear()
        self._began = None
        self._turn = (self._turn + 1) % len(self._methods)
        self._next = now if self._turn else now + AGAIN

    def _restarted(self, answer: Answer, now: Seconds) -> bool:
        """Tell whether the router began anew since it was last heard, and so forgot its mappings."""
        if answer.epoch is None:
            return False
        before, self._began = self._began, (now, answer.epoch)
        return before is not None and answer.epoch + _JITTER < before[1] + (now - before[0]) * _CLOCK

    # --- what there is ------------------------------------------------------------------------------------------------

    def _live(self, now: Seconds) -> list[_Slot]:
        return [slot for slot in self._slots.values() if slot.until > now]

    def _mapped(self, now: Seconds) -> tuple[Mapped, ...]:
        found = []
        for slot in self._live(now):
            outside = Address(slot.external or self._external, slot.outer)
            found.append(Mapped(slot.want, outside, slot.until - now, obstacle(outside)))
        return tuple(found)


def obstacle(outside: Address) -> str:
    """Return why others cannot reach a mapped address; empty if they may."""
    if not outside.host:
        return "the router does not say which address it has outside"
    if reason := refusal(outside):
        return reason
    if not ip_address(outside.host).is_global:
        return f"double NAT: {outside.host} is a private address, so another router is in front of this one"
    return ""
