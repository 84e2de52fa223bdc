"""Write a trained model's folder: the graph, its labels, an example request and the answer expected for it."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

LIMIT = 256 * 1024
"""Bytes. The repository carries these files, so a model that outgrows this is a mistake."""


def write(folder: Path, model: onnx.ModelProto, labels: list[str], inputs: dict[str, Any]) -> None:
    """Check ``model``, run it on ``inputs`` (nested lists by input name) and write everything to ``folder``.

    Raises ValueError if the file would be larger than LIMIT, and onnx's ValidationError if the graph is not sound.
    """
    onnx.checker.check_model(model, full_check=True)
    raw = model.SerializeToString(deterministic=True)
    if len(raw) > LIMIT:
        raise ValueError(f"{folder.name} is {len(raw)} bytes; the repository carries at most {LIMIT}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(raw)
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
    _dump(folder / "example.json", {"inputs": inputs})
    _dump(
        folder / "expected.json",
        {
            "sha256": hashlib.sha256(raw).hexdigest(),
            "rtol": 1e-3,
            "atol": 1e-5,
            "outputs": answer(raw, inputs),
        },
    )
    print(f"{folder.name}: {len(raw)} bytes, " + ", ".join(f"{item.key} {item.value}" for item in model.metadata_props))


def answer(model: bytes, inputs: dict[str, Any]) -> dict[str, Any]:
    """Run the serialized ``model`` on nested lists and return nested lists, both by tensor name."""
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    kinds = {"tensor(float)": np.float32, "tensor(string)": np.object_}
    feeds = {item.name: np.array(inputs[item.name], dtype=kinds[item.type]) for item in session.get_inputs()}
    names = [item.name for item in session.get_outputs()]
    return {name: value.tolist() for name, value in zip(names, session.run(names, feeds), strict=True)}


def describe(model: onnx.ModelProto, **facts: str) -> None:
    """Record how the model was trained in its own metadata, where it cannot be separated from the weights."""
    for key, value in facts.items():
        model.metadata_props.add(key=key, value=value)


def _dump(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")
