"""One inference request and its answer, apart from how they are written: what was asked, and whether it can be done."""

import msgspec

from tetherd.errors import InvalidInput
from tetherd.types import Signature, Tensor, TensorSpec


class Wanted(msgspec.Struct, frozen=True):
    """An output the client asked for. ``classes`` > 0: the best so many classes instead of the tensor."""

    name: str
    binary: bool = False
    classes: int = 0


class InferenceRequest(msgspec.Struct):
    """A decoded request. Its tensors' data fits their shapes; nothing is checked against a model yet.

    ``wanted`` None means all outputs, in binary form if ``binary``. ``timeout_us`` 0 means none was given.
    """

    inputs: list[Tensor]
    id: str = ""
    wanted: list[Wanted] | None = None
    binary: bool = False
    priority: int = 0
    timeout_us: int = 0


class Prepared(msgspec.Struct):
    """A request that can be executed: ``inputs`` in the signature's order, the outputs to answer with, the rows."""

    request: InferenceRequest
    inputs: list[Tensor]
    wanted: list[Wanted]
    rows: int


def prepare(request: InferenceRequest, signature: Signature) -> Prepared:
    """Check a request against a model. Raises InvalidInput."""
    wanted = plan(request, signature)
    inputs, rows = bind(request.inputs, signature)
    return Prepared(request, inputs, wanted, rows)


def bind(tensors: list[Tensor], signature: Signature) -> tuple[list[Tensor], int]:
    """Return the tensors in the signature's order, and their rows (0 if the model does not batch).

    Raises InvalidInput, naming the tensor, what was expected and what came.
    """
    specs = signature.inputs
    if [tensor.name for tensor in tensors] != [spec.name for spec in specs]:
        tensors, specs = _in_order(tensors, specs)
    for tensor, spec in zip(tensors, specs, strict=True):
        if tensor.datatype != spec.datatype:
            raise InvalidInput(
                f"input '{spec.name}': expected datatype {spec.datatype}, got {tensor.datatype}",
                fix=f"send its elements as {spec.datatype}",
            )
        if tensor.shape != spec.shape and not fits(tensor.shape, spec.shape):
            raise InvalidInput(
                f"input '{spec.name}': expected shape {list(spec.shape)}, got {list(tensor.shape)}"
                + (" (-1 stands for any size)" if -1 in spec.shape else ""),
                fix=f"send it with {_dimensions(spec.shape)}",
            )
    if not signature.batchable or not tensors:
        return tensors, 0
    rows = tensors[0].shape[0]
    for tensor in tensors:
        if tensor.shape[0] != rows:
            raise InvalidInput(
                f"input '{tensor.name}': expected {rows} rows as in '{tensors[0].name}', got {tensor.shape[0]}",
                fix="send as many rows of every input",
            )
    return tensors, rows


def fits(shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Return whether a shape is one that the expected shape, with -1 for any size, allows."""
    if len(shape) != len(expected):
        return False
    return not [want for got, want in zip(shape, expected, strict=True) if want not in (-1, got)]


def _dimensions(shape: tuple[int, ...]) -> str:
    if not shape:
        return "one element and no dimension"
    sizes = ", ".join("any" if size == -1 else str(size) for size in shape)
    return f"{len(shape)} dimension{'s' * (len(shape) > 1)}, of size {sizes}"


def _in_order(tensors: list[Tensor], specs: tuple[TensorSpec, ...]) -> tuple[list[Tensor], tuple[TensorSpec, ...]]:
    given = {tensor.name: tensor for tensor in tensors}
    if len(given) != len(tensors):
        twice = next(t.name for i, t in enumerate(tensors) if t.name in {u.name for u in tensors[:i]})
        raise InvalidInput(f"input '{twice[:80]}' is given more than once", fix="give each input once")
    known = [spec.name for spec in specs]
    for name in given:
        if name not in known:
            raise InvalidInput(f"unexpected input '{name[:80]}'", fix=f"this model takes {', '.join(known) or 'none'}")
    for spec in specs:
        if spec.name not in given and not spec.optional:
            raise InvalidInput(
                f"input '{spec.name}' is missing: expected {spec.datatype} of shape {list(spec.shape)}",
                fix=f"give it, as {spec.datatype} with {_dimensions(spec.shape)}",
            )
    present = tuple(spec for spec in specs if spec.name in given)
    return [given[spec.name] for spec in present], present


def plan(request: InferenceRequest, signature: Signature) -> list[Wanted]:
    """Return the outputs to answer with, in order. Raises InvalidInput for one that cannot be given as asked.

    Asking before the model runs means that no work is done for an answer that could not be written.
    """
    wanted = request.wanted
    if wanted is None:
        wanted = [Wanted(spec.name, request.binary) for spec in signature.outputs]
    specs = {spec.name: spec for spec in signature.outputs}
    seen = set()
    for output in wanted:
        spec = specs.get(output.name)
        if spec is None:
            raise InvalidInput(
                f"unexpected inference output '{output.name[:80]}'", fix=f"this model gives {', '.join(specs)}"
            )
        if output.name in seen:
            raise InvalidInput(f"output '{output.name}' is asked for more than once", fix="ask once")
        seen.add(output.name)
        if output.classes:
            if spec.datatype == "BYTES":
                raise InvalidInput(
                    f"output '{output.name}' is BYTES, which cannot be classified", fix="ask for it without classes"
                )
        elif spec.datatype in ("FP16", "BF16") and not output.binary:
            raise InvalidInput(
                f"output '{output.name}' is {spec.datatype}, which JSON cannot carry",
                fix="ask for it in binary form (parameters.binary_data = true)",
            )
    return wanted
