"""Requests of one client mostly differ in their numbers alone: what was decided about the rest is kept and used again.

A template is the text before and after the data array of a JSON request with one input. It is only made of a request
whose text, with that array empty, is a valid request whose data is empty; so any text that begins and ends the same,
with one JSON array between, is that request with other data, and its head need not be read and judged again. Halves
what a small request costs to decode.
"""

from math import prod
from typing import Any, Final

import msgspec
import simdjson

from tetherd.errors import InvalidInput
from tetherd.types import Signature, Tensor
from tetherd.wire import jsondata, openinference
from tetherd.wire.inference import Prepared, prepare

MAX_TEMPLATES: Final = 8
"""Per model version; whoever sends more kinds of requests than these has them read in full."""

_LONGEST: Final = 4096


class Template(msgspec.Struct, frozen=True):
    """A request without its data. ``prepared`` has no inputs."""

    prefix: bytes
    suffix: bytes
    name: str
    datatype: str
    shape: tuple[int, ...]
    count: int
    prepared: Prepared

    def fill(self, body: bytes) -> Prepared | None:
        """Return the request that ``body`` is, if this is its template and its data fits; else None."""
        if not (body.startswith(self.prefix) and body.endswith(self.suffix)):
            return None
        try:
            array: Any = jsondata.parse(body[len(self.prefix) : len(body) - len(self.suffix)])
            if type(array) is not simdjson.Array:
                return None
            count, data = jsondata.read(self.name, self.datatype, array)
        except InvalidInput:
            return None  # reading it in full says what is wrong with it
        if count != self.count:
            return None
        known = self.prepared
        return Prepared(known.request, [Tensor(self.name, self.datatype, self.shape, data)], known.wanted, known.rows)


class Head(msgspec.Struct, frozen=True):
    """The JSON part of a request whose inputs are all binary, of ``size`` bytes, and of sizes that their shapes fix."""

    size: int
    inputs: list[tuple[str, str, tuple[int, ...], int]]
    prepared: Prepared

    def fill(self, blobs: memoryview) -> Prepared:
        """Return the request of this head with these ``size`` bytes of data."""
        tensors, at = [], 0
        for name, datatype, shape, size in self.inputs:
            tensors.append(Tensor(name, datatype, shape, blobs[at : at + size]))
            at += size
        return Prepared(self.prepared.request, tensors, self.prepared.wanted, self.prepared.rows)


class Templates:
    """The templates of one model version, learned from the requests it gets."""

    def __init__(self, signature: Signature) -> None:
        self._signature = signature
        self._known: list[Template] = []
        self._heads: dict[bytes, Head] = {}

    def read(self, body: bytes) -> Prepared:
        """Decode a JSON request and check it against the signature. Raises InvalidInput."""
        for template in self._known:
            prepared = template.fill(body)
            if prepared is not None:
                return prepared
        prepared = prepare(openinference.decode(body, None), self._signature)
        if len(self._known) < MAX_TEMPLATES and (learned := learn(body, prepared)) is not None:
            self._known.append(learned)
        return prepared

    def read_binary(self, body: bytes, length: int) -> Prepared:
        """Decode a request whose JSON part has ``length`` bytes, and check it. Raises InvalidInput."""
        head = self._heads.get(body[:length])
        if head is not None and head.size == len(body) - length:
            return head.fill(memoryview(body)[length:])
        prepared = prepare(openinference.decode(body, length), self._signature)
        if len(self._heads) < MAX_TEMPLATES and length <= _LONGEST and _is_all_binary(prepared, len(body) - length):
            inputs = [(one.name, one.datatype, one.shape, len(one.data)) for one in prepared.inputs]
            self._heads[body[:length]] = Head(len(body) - length, inputs, _without_inputs(prepared))
        return prepared


def _is_all_binary(prepared: Prepared, size: int) -> bool:
    """Return whether ``size`` bytes of blobs are the data of all inputs, in the order that they are bound in."""
    given = [one.name for one in prepared.request.inputs]
    fixed = all(one.datatype != "BYTES" for one in prepared.inputs)  # of those every element is checked
    ordered = given == [one.name for one in prepared.inputs]
    return fixed and ordered and not prepared.request.id and sum(len(one.data) for one in prepared.inputs) == size


def _without_inputs(prepared: Prepared) -> Prepared:
    return Prepared(msgspec.structs.replace(prepared.request, inputs=[]), [], prepared.wanted, prepared.rows)


def learn(body: bytes, prepared: Prepared) -> Template | None:
    """Return the template of a request that was read in full, if it can have one."""
    if len(prepared.inputs) != 1 or prepared.request.id:
        return None
    start = body.find(b"[", body.find(b'"data"') + 1)
    end = body.find(b"]", start) + 1
    prefix, suffix = body[:start], body[end:]
    if not 0 < start < end or len(prefix) + len(suffix) > _LONGEST:
        return None
    tensor = prepared.inputs[0]
    if not openinference.has_empty_data(prefix + b"[]" + suffix):
        return None
    count, head = prod(tensor.shape), _without_inputs(prepared)
    template = Template(prefix, suffix, tensor.name, tensor.datatype, tensor.shape, count, head)
    return template if template.count and template.fill(body) is not None else None
