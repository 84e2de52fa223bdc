"""The text of a join token, and what it stands for. Never holds more than one line can: a token is passed on stdin."""

import re
from base64 import b32decode, b32encode
from typing import Final

import msgspec

from tetherd.config.addresses import is_host, split
from tetherd.config.units import BadValue
from tetherd.errors import InvalidInput, WrongToken

PREFIX: Final = "tthj1"
MAX_TEXT: Final = 2048
MAX_ADDRESSES: Final = 8
MAX_ADDRESS: Final = 260
SECRET_BYTES: Final = 16
ID_BYTES: Final = 5

_NETWORK = re.compile(r"[0-9a-f]{16}")
_BASE32 = re.compile(r"[a-z2-7]+")
_PARTS: Final = ("prefix", "network id", "root key", "token id", "secret", "addresses")
_AGAIN: Final = "copy the whole line that tetherctl cluster token printed, or make a new token"
_ADDRESS: Final = "write it as HOST:PORT"


class JoinToken(msgspec.Struct, frozen=True):
    """What lets one host into a network.

    ``network``: its id, see ``network_id``. ``pin``: SHA-256 of its root's public key (SubjectPublicKeyInfo, DER).
    ``id``: what the authority knows it by. ``addresses``: HOST:PORT of enrolment listeners, the best first.
    """

    network: str
    pin: bytes
    id: bytes
    secret: bytes
    addresses: tuple[str, ...]

    def __repr__(self) -> str:
        return f"JoinToken(network={self.network!r}, id={self.id.hex()!r})"  # never the secret: this may be logged


def network_id(pin: bytes) -> str:
    """Return the id of a network that was founded with the root key of this SHA-256; later roots do not change it."""
    return pin.hex()[:16]


def encode(token: JoinToken) -> str:
    """Return the token's text: one line without a line break."""
    parts = (PREFIX, token.network, _text(token.pin), _text(token.id), _text(token.secret), ",".join(token.addresses))
    return ".".join(parts)


def decode(text: str) -> JoinToken:
    """Read a token's text, with white space around it. Raises WrongToken, which says what is wrong but no secret."""
    text = text.strip()
    if not text:
        raise WrongToken("there is no join token: the input is empty", fix="tetherctl cluster join < token.txt")
    if len(text) > MAX_TEXT:
        raise WrongToken(f"a join token has at most {MAX_TEXT} characters, this has {len(text)}", fix=_AGAIN)
    parts = text.split(".", 5)
    if parts[0] != PREFIX:
        if re.fullmatch(r"tthj[0-9]+", parts[0]):
            fix = "use the same release of Tether on both hosts"
            raise WrongToken("this join token is of a kind that this release does not know", fix=fix)
        raise WrongToken(f"this is no join token: those begin with {PREFIX}.", fix=_AGAIN)
    if len(parts) < len(_PARTS):
        raise WrongToken(f"the join token is cut off: its {_PARTS[len(parts)]} is missing", fix=_AGAIN)
    _, network, pin, token_id, secret, addresses = parts
    if not _NETWORK.fullmatch(network):
        raise WrongToken("the join token is damaged: its network id cannot be read", fix=_AGAIN)
    return JoinToken(
        network=network,
        pin=_bytes(pin, 32, "root key"),
        id=_bytes(token_id, ID_BYTES, "token id"),
        secret=_bytes(secret, SECRET_BYTES, "secret"),
        addresses=_addresses(addresses),
    )


def _text(data: bytes) -> str:
    return b32encode(data).decode().rstrip("=").lower()


def _bytes(text: str, length: int, what: str) -> bytes:
    try:
        if not _BASE32.fullmatch(text):
            raise ValueError
        found = b32decode(text.upper() + "=" * (-len(text) % 8))
    except ValueError:
        raise WrongToken(f"the join token is damaged: its {what} cannot be read", fix=_AGAIN) from None
    if len(found) != length or _text(found) != text:  # one text for each value: spare bits must be zero
        raise WrongToken(f"the join token is damaged: its {what} has the wrong length", fix=_AGAIN)
    return found


def _addresses(text: str) -> tuple[str, ...]:
    found = tuple(text.split(","))
    if len(found) > MAX_ADDRESSES:
        raise WrongToken(f"a join token names at most {MAX_ADDRESSES} addresses", fix=_AGAIN)
    try:
        return tuple(map(check_address, found))
    except InvalidInput as error:
        raise WrongToken(f"the join token is damaged: {error.message}", fix=_AGAIN) from None


def check_address(text: str) -> str:
    """Return ``text`` if it is HOST:PORT that a token or a member record can carry; raise InvalidInput otherwise."""
    try:
        host, port = split(text)
    except BadValue as error:
        raise InvalidInput(f"{text[:80]!r} is no address: {error}", fix=_ADDRESS) from None
    plain = is_host(host) and str(port) == text.rpartition(":")[2]
    if not plain or len(text) > MAX_ADDRESS:
        raise InvalidInput(f"{text[:80]!r} is no address", fix=_ADDRESS)
    return text
