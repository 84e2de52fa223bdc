"""Executes one ONNX model with ONNX Runtime. Imported only where models run, never by the daemon's other roles."""

import ctypes
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort

from tetherd.drivers.engines.onnx_words import is_refusal, plain
from tetherd.drivers.host import memory
from tetherd.errors import DeadlineExceeded, ExecutionFailed, InvalidInput, ModelLoadFailed
from tetherd.types import Seconds, Signature, Tensor
from tetherd.wire import tensors

_BFLOAT16: Final = 16  # onnx.TensorProto.BFLOAT16, without importing onnx
_FIX: Final = "send shapes and values that the model can compute with; tetherctl models show tells its inputs"


class OnnxEngine:
    """One session. ``execute`` is for one thread at a time; ``watch`` may be called from another."""

    def __init__(self, model: Path, signature: Signature, threads: int) -> None:
        """Load ``model`` with ``threads`` threads for one execution. Raises ModelLoadFailed with the reason."""
        memory.set_large_apart()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        # Threads that spin while they wait take up to half of a small host away from the other runners.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session: Any = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises a class per status, and plain ones for what it cannot parse
            raise ModelLoadFailed(plain(error, model.parent)) from None
        self.signature = signature
        self.bytes = sum(path.stat().st_size for path in model.parent.rglob("*") if path.is_file())
        self._directory = model.parent
        self._names = [output.name for output in signature.outputs]
        self._bf16 = any(spec.datatype == "BF16" for spec in (*signature.inputs, *signature.outputs))
        self._options: Any = None
        self._until: Seconds = 0.0

    def execute(self, inputs: list[Tensor], budget: Seconds) -> tuple[list[Tensor], tuple[int, int, int]]:
        """Return the outputs in signature order, and nanoseconds spent on input, inference and output.

        Raises InvalidInput or ExecutionFailed with the engine's reason, DeadlineExceeded when ``watch`` ended it.
        """
        began = time.perf_counter_ns()
        feeds = {tensor.name: self._feed(tensor) for tensor in inputs}
        self._until = time.monotonic() + budget  # before the options: a watcher must never see it of the past with them
        self._options = ort.RunOptions()
        start = time.perf_counter_ns()
        results = self._run(feeds, budget)
        done = time.perf_counter_ns()
        outputs = [self._give(name, result) for name, result in zip(self._names, results, strict=True)]
        return outputs, (start - began, done - start, time.perf_counter_ns() - done)

    def end(self, now: Seconds) -> None:
        """End the execution under way, if any; ``watch`` counts from here whether it does."""
        self._until = now
        self.watch(now + 1e-9)

    def watch(self, now: Seconds) -> Seconds:
        """End an execution that is over its budget; return by how many seconds it is (0 = it is not)."""
        options, until = self._options, self._until
        if options is None or now <= until:
            return 0.0
        options.terminate = True
        return now - until

    def close(self) -> None:
        """Give the model's memory back to the host."""
        self._session = None
        memory.give_back()

    def _run(self, feeds: dict[str, Any], budget: Seconds) -> list[Any]:
        options = self._options
        try:
            if self._bf16:
                return list(self._session.run_with_ort_values(self._names, feeds, options))
            return list(self._session.run(self._names, feeds, options))
        except Exception as error:
            if options.terminate:
                raise DeadlineExceeded(f"the execution took longer than {budget:.1f} s and was ended") from None
            reason = plain(error, self._directory)
            if is_refusal(error):
                raise InvalidInput(f"the model refuses this input: {reason}", fix=_FIX) from None
            raise ExecutionFailed(f"the model failed on this input: {reason}", fix=_FIX) from None
        finally:
            self._options = None

    def _feed(self, tensor: Tensor) -> Any:
        array = tensors.to_numpy(tensor)
        if tensor.datatype == "BYTES":
            array = _as_text(tensor.name, array)
        if not self._bf16:
            return array
        if tensor.datatype == "BF16":
            return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(np.array(array), _BFLOAT16)
        return ort.OrtValue.ortvalue_from_numpy(np.array(array))

    def _give(self, name: str, result: Any) -> Tensor:
        if not isinstance(result, np.ndarray):
            if result.data_type() == "tensor(bfloat16)":
                # NumPy has no such type: its words are read where they lie.
                words = ctypes.string_at(result.data_ptr(), result.tensor_size_in_bytes())
                return Tensor(name, "BF16", tuple(result.shape()), words)
            result = result.numpy()
        return tensors.from_numpy(name, result)


def _as_text(name: str, array: Any) -> Any:
    text = np.empty(array.shape, dtype=object)
    flat = text.reshape(-1)
    try:
        flat[:] = [item.decode() for item in array.reshape(-1)]
    except UnicodeDecodeError:
        raise InvalidInput(f"input '{name}': ONNX strings are UTF-8, this one is not") from None
    return text
