# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy>=2", "onnx>=1.19", "onnxruntime>=1.22", "scikit-learn>=1.5"]
# ///
"""Train models/digits: a small network that reads the 8x8 handwritten digits bundled with scikit-learn.

Run ``python models/build_digits.py`` with the packages named above (or ``uv run models/build_digits.py``).
"""

from pathlib import Path

import bundle
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

FOLDER = Path(__file__).parent / "digits"
SEED = 20
NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
BRIGHTEST = 16.0
"""Pixels count from 0 to 16; the graph scales them, so that callers send what the data set holds."""


def main() -> None:
    """Train, measure on digits the network has not seen, and write the folder."""
    pixels, digits = load_digits(return_X_y=True)
    seen, unseen, seen_digits, unseen_digits = train_test_split(
        pixels, digits, test_size=0.25, random_state=SEED, stratify=digits
    )
    network = MLPClassifier((128,), alpha=1e-2, max_iter=400, random_state=SEED)
    network.fit(seen / BRIGHTEST, seen_digits)
    accuracy = network.score(unseen / BRIGHTEST, unseen_digits)
    model = graph(network)
    bundle.describe(
        model,
        task="classify 8x8 handwritten digits",
        data="scikit-learn load_digits, 1797 images, a quarter held out",
        seed=str(SEED),
        held_out_accuracy=f"{accuracy:.4f}",
    )
    bundle.write(FOLDER, model, NAMES, {"pixels": unseen[1:2].astype(int).tolist()})


def graph(network: MLPClassifier) -> onnx.ModelProto:
    """Write the trained network as ONNX: pixels [batch, 64] to scores [batch, 10] and label [batch]."""
    (w1, w2), (b1, b2) = network.coefs_, network.intercepts_
    weights = {"w1": w1 / BRIGHTEST, "b1": b1, "w2": w2, "b2": b2}
    nodes = [
        helper.make_node("Gemm", ["pixels", "w1", "b1"], ["before"]),
        helper.make_node("Relu", ["before"], ["hidden"]),
        helper.make_node("Gemm", ["hidden", "w2", "b2"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=-1),
        helper.make_node("ArgMax", ["scores"], ["label"], axis=-1, keepdims=0),
    ]
    return helper.make_model(
        helper.make_graph(
            nodes,
            "digits",
            [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 64])],
            [
                helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 10]),
                helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]),
            ],
            [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
        ),
        producer_name="build_digits.py",
        ir_version=9,
        opset_imports=[helper.make_opsetid("", 17)],
    )


if __name__ == "__main__":
    main()
