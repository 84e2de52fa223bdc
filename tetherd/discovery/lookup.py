"""One walk towards a key: whom to ask next, and when it is complete. Knows nothing of datagrams or time.

A node that is silent for its hedge time stops blocking: another is asked in its place, and the walk can end without it.
"""

from bisect import insort
from typing import Final

from tetherd.discovery.contacts import Contact
from tetherd.discovery.table import CLOSEST

PARALLEL: Final = 4
MAX_CANDIDATES: Final = 256
"""A hostile node can name any number of contacts; the closest ones so far are kept."""

_NEW: Final = 0
_ASKED: Final = 1
_SILENT: Final = 2
_ANSWERED: Final = 3
_FAILED: Final = 4


class Lookup:
    """Finds the ``CLOSEST`` nodes to a key that answer."""

    def __init__(self, key: int) -> None:
        self.key = key
        self.asked = 0
        self._ranked: list[tuple[int, Contact]] = []
        self._state: dict[bytes, int] = {}
        self._doubted: set[bytes] = set()
        self._open = 0

    def learn(self, contact: Contact, *, doubted: bool = False) -> None:
        """Take a contact in as a candidate; one that is ``doubted`` will be asked, but never waited for."""
        if contact.id in self._state:
            return
        self._state[contact.id] = _NEW
        if doubted:
            self._doubted.add(contact.id)
        insort(self._ranked, (contact.number ^ self.key, contact))
        if len(self._ranked) > MAX_CANDIDATES:
            farthest = self._ranked.pop()[1].id
            self._settle(farthest, _FAILED)
            del self._state[farthest]
            self._doubted.discard(farthest)

    def next(self) -> list[Contact]:
        """Return whom to ask now, and count them as asked."""
        found = []
        for contact in self._window(_NEW):
            if contact.id in self._doubted:
                self._state[contact.id] = _SILENT
            elif self._open < PARALLEL:
                self._state[contact.id] = _ASKED
                self._open += 1
            else:
                continue
            found.append(contact)
        self.asked += len(found)
        return found

    def answered(self, node: bytes) -> None:
        """Take note of an answer, even a late one."""
        self._settle(node, _ANSWERED)

    def silent(self, node: bytes) -> None:
        """Take note that a node keeps us waiting for too long."""
        if self._state.get(node) == _ASKED:
            self._settle(node, _SILENT)

    def failed(self, node: bytes) -> None:
        """Take note that a node does not answer, or not with anything usable."""
        if self._state.get(node) != _ANSWERED:
            self._settle(node, _FAILED)

    @property
    def done(self) -> bool:
        """Whether every node that counts has answered."""
        return not self._open and not self._window(_NEW)

    def closest(self) -> list[Contact]:
        """Return the closest nodes that answered, the closest first."""
        return [contact for _, contact in self._ranked if self._state[contact.id] == _ANSWERED][:CLOSEST]

    def _settle(self, node: bytes, state: int) -> None:
        before = self._state.get(node)
        if before is None:
            return
        if before == _ASKED:
            self._open -= 1
        self._state[node] = state

    def _window(self, state: int) -> list[Contact]:
        """Return those in ``state`` among the closest candidates that neither failed nor are silent."""
        found = []
        room = CLOSEST
        states = self._state
        for _, contact in self._ranked:
            now = states[contact.id]
            if now == state:
                found.append(contact)
            if now not in (_SILENT, _FAILED):
                room -= 1
                if not room:
                    break
        return found
