"""Content-Encoding: bounded decompression of requests, compression of answers for clients that ask for it."""

import asyncio
import zlib
from typing import Final

from tetherd.errors import InvalidInput, UnsupportedMedia
from tetherd.roles.gateway.exchange import Answer, Exchange

SMALLEST: Final = 1024
"""Answers below this many bytes are never compressed: it costs more than it saves."""

_OFF_LOOP: Final = 64 * 1024
_WINDOW: Final = {"gzip": 31, "deflate": 15}


async def unpack(exchange: Exchange, body: bytes, coding: bytes) -> bytes:
    """Return a compressed body's content. Raises TooLarge at the bound, without unpacking further."""
    name = coding.decode("latin-1").strip().lower()
    if name in ("", "identity"):
        return body
    if name not in _WINDOW:
        raise UnsupportedMedia(f"Content-Encoding {name[:40]!r} is not supported", fix="use gzip or deflate, once")
    limit = exchange.max_body + 1
    if len(body) > _OFF_LOOP:
        data = await asyncio.to_thread(_inflate, body, _WINDOW[name], limit)
    else:
        data = _inflate(body, _WINDOW[name], limit)
    if len(data) == limit:
        raise exchange.too_large()
    return data


def _inflate(body: bytes, window: int, limit: int) -> bytes:
    stream = zlib.decompressobj(window)
    try:
        data = stream.decompress(body, limit)
    except zlib.error:
        raise InvalidInput("the body is not compressed as Content-Encoding says") from None
    if len(data) < limit and (not stream.eof or stream.unused_data):
        raise InvalidInput("the compressed body is truncated, or something follows it")
    return data


def choose(accept: str) -> str | None:
    """Return the coding to answer in by an Accept-Encoding header: gzip, deflate, or None for plain."""
    weights = {}
    for item in accept.lower().split(","):
        name, *parameters = [part.strip() for part in item.split(";")]
        weights[name] = _quality(parameters)
    rest = weights.get("*", 0.0)
    best = max(_WINDOW, key=lambda name: weights.get(name, rest))
    weight = weights.get(best, rest)
    return best if weight > 0 and weight >= weights.get("identity", 0.0) else None


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


async def pack(answer: Answer, accept: str) -> None:
    """Compress an answer in place, if it is worth it and the client's Accept-Encoding wants it."""
    if len(answer.body) < SMALLEST or (coding := choose(accept)) is None:
        return
    if len(answer.body) > _OFF_LOOP:
        answer.body = await asyncio.to_thread(_deflate, answer.body, _WINDOW[coding])
    else:
        answer.body = _deflate(answer.body, _WINDOW[coding])
    answer.headers += [(b"content-encoding", coding.encode()), (b"vary", b"accept-encoding")]


def _deflate(body: bytes, window: int) -> bytes:
    stream = zlib.compressobj(1, zlib.DEFLATED, window)
    return stream.compress(body) + stream.flush()
