"""What this node wants the network to keep: said again before it expires, until it is taken back."""

from collections.abc import Callable
from typing import Final, TypeAlias

from tetherd.types import Seconds
from tetherd.wire.records import IMMUTABLE, MAX_TTL, Body, Kind

EARLY: Final[tuple[Seconds, ...]] = (1.0, 4.0)
"""When something new is said again: nodes that joined meanwhile may be closer to it."""

MAX_AHEAD: Final = 2**20
"""How far our sequence numbers may run ahead of the clock: twelve days, for a clock that was set back."""

Subject: TypeAlias = tuple[Kind, bytes]
"""What is said: the kind, and the topic, the name, or the value itself of an immutable record."""


class Word:
    """One thing that stands."""

    __slots__ = ("again", "body", "repeats")

    def __init__(self, body: Body, again: Seconds) -> None:
        self.body = body
        self.again = again
        self.repeats = 0


class Standing:
    """All that stands, and when to say each again.

    Sequence numbers follow the clock, so that they grow over restarts.
    """

    def __init__(self, public: bytes, entropy: Callable[[int], bytes]) -> None:
        self._public = public
        self._entropy = entropy
        self.next: Seconds = float("inf")
        self._words: dict[Subject, Word] = {}
        self._last: dict[Subject, int] = {}

    def __len__(self) -> int:
        return len(self._words)

    def subjects(self) -> list[Subject]:
        """Return what stands."""
        return list(self._words)

    def draft(self, subject: Subject, value: bytes, ttl: int, wall: Seconds) -> Body:
        """Return what to sign for something that may come to stand."""
        return self._body(subject, value, ttl, wall)

    def adopt(self, body: Body, now: Seconds) -> None:
        """Let something stand from now on, in the place of what stood there before."""
        self._words[_subject(body)] = Word(body, now + EARLY[0])
        self.next = min(self.next, now + EARLY[0])

    def withdraw(self, subject: Subject, wall: Seconds) -> Body | None:
        """Let something stand no longer; return what takes it back. None where that cannot be, or nothing stood."""
        word = self._words.pop(subject, None)
        if word is None or subject[0] == IMMUTABLE:
            return None
        ttl = min(MAX_TTL, word.body.issued + word.body.ttl - int(wall) + 60)
        return self._body(subject, b"", max(60, ttl), wall, gone=True)

    def due(self, now: Seconds, wall: Seconds) -> list[Body]:
        """Return what is to be said again now; ``next`` is when there will be more."""
        said = []
        for subject, word in self._words.items():
            if now < word.again:
                continue
            word.repeats += 1
            if word.repeats < len(EARLY):
                word.again = now + EARLY[word.repeats] - EARLY[word.repeats - 1]
            else:
                word.again = now + (word.body.ttl or MAX_TTL) / 2 * (0.9 + 0.2 * self._entropy(1)[0] / 255)
            if word.repeats > len(EARLY):
                word.body = self._body(subject, word.body.value, word.body.ttl, wall)
            said.append(word.body)
        self.next = min((word.again for word in self._words.values()), default=float("inf"))
        return said

    def hurry(self, moment: Seconds) -> None:
        """Say everything again at that moment: more of the network came into sight."""
        for word in self._words.values():
            word.again = min(word.again, moment)
        self.next = min(self.next, moment)

    def overtake(self, said: Body, seq: int, wall: Seconds) -> Body | None:
        """Say it again with a sequence number beyond ``seq``, which the network heard of us before.

        None if it does not stand any more, or if whoever says so goes too far: a hostile node must not use up our
        numbers.
        """
        subject = _subject(said)
        word = self._words.get(subject)
        if word is None or word.body is not said or seq > wall + MAX_AHEAD:
            return None
        self._last[subject] = max(self._last.get(subject, 0), seq)
        word.body = self._body(subject, said.value, said.ttl, wall)
        return word.body

    def _body(self, subject: Subject, value: bytes, ttl: int, wall: Seconds, *, gone: bool = False) -> Body:
        kind, name = subject
        if kind == IMMUTABLE:
            return Body(kind=kind, value=value)
        seq = self._last[subject] = max(self._last.get(subject, 0) + 1, int(wall))
        return Body(kind, name, self._public, seq, int(wall), ttl, value, gone)


def _subject(body: Body) -> Subject:
    return body.kind, body.value if body.kind == IMMUTABLE else body.name
