"""The models the repository carries: sound, really trained, and answering what their folders promise."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

MODELS = Path(__file__).parent.parent / "models"
FOLDERS = [pytest.param(MODELS / name, id=name) for name in ("digits", "languages")]
KINDS = {"tensor(float)": np.float32, "tensor(string)": np.object_}


def run(folder: Path, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    feeds = {item.name: np.array(inputs[item.name], dtype=KINDS[item.type]) for item in session.get_inputs()}
    names = [item.name for item in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_example_gives_the_expected_answer(folder: Path) -> None:
    expected = load(folder / "expected.json")
    outputs = run(folder, load(folder / "example.json")["inputs"])
    assert list(outputs) == list(expected["outputs"])
    for name, value in expected["outputs"].items():
        if outputs[name].dtype == np.float32:
            np.testing.assert_allclose(outputs[name], value, rtol=expected["rtol"], atol=expected["atol"])
        else:
            assert outputs[name].tolist() == value


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_file_is_the_one_that_was_trained(folder: Path) -> None:
    raw = (folder / "model.onnx").read_bytes()
    assert hashlib.sha256(raw).hexdigest() == load(folder / "expected.json")["sha256"]
    model = onnx.load_from_string(raw)
    facts = {item.key: item.value for item in model.metadata_props}
    assert (MODELS / model.producer_name).is_file()
    assert float(facts["held_out_accuracy"]) >= 0.96
    assert len(raw) < 64 * 1024


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_graph_passes_the_checker_and_takes_any_number_of_rows(folder: Path) -> None:
    model = onnx.load(folder / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    for value in [*model.graph.input, *model.graph.output]:
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_row_answers_the_same_alone_and_among_others(folder: Path) -> None:
    (name, rows), *_ = load(folder / "example.json")["inputs"].items()
    alone = run(folder, {name: rows[:1]})
    among = run(folder, {name: [rows[-1], rows[0], rows[0]]})
    np.testing.assert_allclose(among["scores"][1], alone["scores"][0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("folder", FOLDERS)
def test_labels_name_the_scores(folder: Path) -> None:
    labels = (folder / "labels.txt").read_text(encoding="utf-8").splitlines()
    outputs = run(folder, load(folder / "example.json")["inputs"])
    assert next(iter(outputs)) == "scores"  # the first output is the one that labels.txt is about
    best = [labels[i] for i in outputs["scores"].argmax(1)]
    if "language" in outputs:
        assert best == outputs["language"].tolist()
    else:
        assert outputs["label"].tolist() == outputs["scores"].argmax(1).tolist()


def test_languages_answers_for_empty_and_foreign_text() -> None:
    outputs = run(MODELS / "languages", {"text": ["", "\N{SNOWMAN}" * 500]})
    np.testing.assert_allclose(outputs["scores"].sum(1), [1, 1], rtol=1e-5)
