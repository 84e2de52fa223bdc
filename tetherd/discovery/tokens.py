"""Write tokens: what a node hands to an address, so that whoever shows it later proves to receive there."""

from hashlib import blake2b
from hmac import compare_digest
from typing import Final

from tetherd.types import Seconds

EPOCH: Final[Seconds] = 300.0
"""A token holds for the epoch it was made in and the next one."""

SIZE: Final = 8
_MAX_REMEMBERED: Final = 4096


class Tokens:
    """A keyed hash of host and epoch: nothing to keep per host but what saves time."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._epoch = -1
        self._now: dict[str, bytes] = {}
        self._before: dict[str, bytes] = {}

    def issue(self, host: str, now: Seconds) -> bytes:
        """Return the token for a host."""
        self._turn(now)
        return self._token(self._now, host, self._epoch)

    def valid(self, token: bytes, host: str, now: Seconds) -> bool:
        """Tell whether a token was issued to that host in this epoch or the last."""
        self._turn(now)
        if len(token) != SIZE:
            return False
        return compare_digest(token, self._token(self._now, host, self._epoch)) or compare_digest(
            token, self._token(self._before, host, self._epoch - 1)
        )

    def _turn(self, now: Seconds) -> None:
        epoch = int(now // EPOCH)
        if epoch != self._epoch:
            self._before = self._now if epoch == self._epoch + 1 else {}
            self._now = {}
            self._epoch = epoch

    def _token(self, known: dict[str, bytes], host: str, epoch: int) -> bytes:
        token = known.get(host)
        if token is None:
            if len(known) >= _MAX_REMEMBERED:
                known.clear()
            token = known[host] = blake2b(
                b"%d|%b" % (epoch, host.encode()), digest_size=SIZE, key=self._secret
            ).digest()
        return token
