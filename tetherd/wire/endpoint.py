"""Where a node can be dialled, as it says so itself in a signed record of the DHT."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from tetherd.errors import MALFORMED, InvalidInput
from tetherd.wire.records import MAX_VALUE

NAME: Final = b"endpoint"
"""The name of the record that holds it."""

MAX_ADDRESSES: Final = 8
MAX_TEXT: Final = 80

Port = Annotated[int, Meta(ge=1, le=65535)]


class Endpoint(msgspec.Struct, array_like=True, frozen=True):
    """``addresses``: HOST:PORT of its RPC listener. ``ports``: its other listeners on the same hosts, by service."""

    addresses: Annotated[tuple[Annotated[str, Meta(max_length=MAX_TEXT)], ...], Meta(max_length=MAX_ADDRESSES)]
    ports: Annotated[dict[Annotated[str, Meta(max_length=16)], Port], Meta(max_length=8)] = {}


_decoder: Final = msgspec.msgpack.Decoder(Endpoint)


def encode(endpoint: Endpoint) -> bytes:
    """Return the value of the record; the last addresses are left out where all would not fit."""
    addresses = endpoint.addresses[:MAX_ADDRESSES]
    while len(data := msgspec.msgpack.encode(Endpoint(addresses, endpoint.ports))) > MAX_VALUE:
        addresses = addresses[:-1]
    return data


def decode(data: bytes) -> Endpoint:
    """Read the value of a record. Raises InvalidInput."""
    try:
        return _decoder.decode(data)
    except MALFORMED as error:
        raise InvalidInput(f"the record does not say where the node is: {error}", fix="upgrade that node") from None
