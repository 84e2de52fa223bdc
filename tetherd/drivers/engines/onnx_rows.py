"""Whether the rows of a batch leave each other alone, found out by running the model.

A free first dimension may mean something else than rows (time steps, say). Batching such a model would mix the
requests of different users, and nobody would see it.
"""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import onnxruntime

from tetherd.types import Seconds

MAX_ELEMENTS: Final = 1 << 22
_ROWS: Final = 8
_CUT: Final = 3
_SIZES: Final = (8, 64)  # tried for free dimensions beyond the first: small images and short texts, then larger ones
_TOLERANCE: Final = 0.01  # of the largest value: engines round differently at different batch sizes
_NUMPY: Final = {
    "float": "f4", "double": "f8", "float16": "f2", "bool": "?", "int8": "i1", "int16": "i2", "int32": "i4",
    "int64": "i8", "uint8": "u1", "uint16": "u2", "uint32": "u4", "uint64": "u8", "string": "O",
}  # fmt: skip


def rows_mix(session: Any, budget: Seconds) -> bool:
    """Return whether some rows together gave something else than the same rows apart.

    False also when the model did not run on made-up inputs or took longer than ``budget``: the graph's word stands.
    """
    for size in _SIZES:
        with contextlib.suppress(Exception), _terminating(budget) as options:
            rows = _made_up(session, size)
            runs = [
                session.run(None, {name: value[part] for name, value in rows.items()}, options)
                for part in (slice(_ROWS), slice(_CUT), slice(_CUT, _ROWS))
            ]
            return not all(_agree(*outputs) for outputs in zip(*runs, strict=True))
    return False


@contextlib.contextmanager
def _terminating(budget: Seconds) -> Iterator[Any]:
    options = onnxruntime.RunOptions()
    options.log_severity_level = 4
    timer = threading.Timer(budget, setattr, (options, "terminate", True))
    timer.start()
    try:
        yield options
    finally:
        timer.cancel()


def _made_up(session: Any, size: int) -> dict[str, Any]:
    """Return rows for every input; raise ValueError or KeyError where none can be made."""
    rng = np.random.default_rng(0)
    made = {}
    for item in session.get_inputs():
        kind = np.dtype(_NUMPY[item.type.removeprefix("tensor(").removesuffix(")")])
        shape = [_ROWS, *(dim if isinstance(dim, int) else size for dim in item.shape[1:])]
        if np.prod(shape, dtype=float) > MAX_ELEMENTS:
            raise ValueError("too large to try")
        if kind.kind == "f":
            made[item.name] = rng.standard_normal(shape).astype(kind)
        elif kind.kind == "O":
            made[item.name] = rng.choice(np.array(["a", "b"], dtype=object), shape)
        else:
            made[item.name] = rng.integers(0, 2, shape).astype(kind)
    return made


def _agree(together: Any, first: Any, rest: Any) -> bool:
    if not first.ndim or (len(first), len(rest)) != (_CUT, _ROWS - _CUT) or first.shape[1:] != rest.shape[1:]:
        return False
    apart = np.concatenate([first, rest])
    if apart.shape != together.shape:
        return False
    if apart.dtype.kind != "f" or not apart.size:
        return bool(np.array_equal(apart, together))
    largest = np.nan_to_num(np.abs(apart.astype("f8")), posinf=0.0).max()
    return bool(np.allclose(together, apart, rtol=0, atol=_TOLERANCE * largest + 1e-6, equal_nan=True))
