# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy>=2", "onnx>=1.19", "onnxruntime>=1.22"]
# ///
"""Train models/languages: tells five languages apart by the letters of a sentence.

The sentences are in languages.tsv. Run ``python models/build_languages.py`` with the packages named above
(or ``uv run models/build_languages.py``).
"""

from collections import Counter
from pathlib import Path

import bundle
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HERE = Path(__file__).parent
LONGEST = 3
"""Features are runs of one to three characters."""

RAREST = 4
"""A run must occur this often to count: rarer ones belong to a sentence, not to a language."""

EXAMPLES = [
    "Where is the next train station?",
    "Wo ist der nächste Bahnhof?",
    "Où se trouve la gare, s'il vous plaît ?",
]


def main() -> None:
    """Measure on sentences the model has not seen, train on all of them and write the folder."""
    rows = [line.split("\t") for line in (HERE / "languages.tsv").read_text(encoding="utf-8").splitlines()]
    names = sorted({name for name, _ in rows})
    classes = np.array([names.index(name) for name, _ in rows])
    sentences = [text for _, text in rows]
    accuracy = held_out(sentences, classes, len(names))
    pool = runs(sentences)
    weights, bias = train(counts(sentences, pool), classes, len(names))
    model = graph(pool, weights, bias, names)
    bundle.describe(
        model,
        task="name the language of a sentence",
        data=f"languages.tsv, {len(rows)} sentences; accuracy by five-fold cross-validation",
        held_out_accuracy=f"{accuracy:.4f}",
    )
    bundle.write(HERE / "languages", model, names, {"text": EXAMPLES})


def held_out(sentences: list[str], classes: np.ndarray, total: int) -> float:
    """Return the accuracy over five folds. Translations of one sentence share a fold, so none leaks."""
    per_language = len(sentences) // total
    fold = np.arange(len(sentences)) % per_language % 5
    right = 0
    for part in range(5):
        seen = [text for text, other in zip(sentences, fold != part, strict=True) if other]
        unseen = [text for text, here in zip(sentences, fold == part, strict=True) if here]
        pool = runs(seen)
        weights, bias = train(counts(seen, pool), classes[fold != part], total)
        right += int(((counts(unseen, pool) @ weights + bias).argmax(1) == classes[fold == part]).sum())
    return right / len(sentences)


def runs(sentences: list[str]) -> list[str]:
    """Return the character runs worth counting, shorter ones first as the vectorizer wants them."""
    seen = Counter(run for text in sentences for run in pieces(text))
    return sorted((run for run, count in seen.items() if count >= RAREST), key=lambda run: (len(run), run))


def pieces(text: str) -> list[str]:
    """Return every run of one to LONGEST characters in ``text``."""
    return [text[i : i + size] for size in range(1, LONGEST + 1) for i in range(len(text) - size + 1)]


def counts(sentences: list[str], pool: list[str]) -> np.ndarray:
    """Return how often each run of ``pool`` occurs in each sentence, as [sentences, runs]."""
    place = {run: column for column, run in enumerate(pool)}
    table = np.zeros((len(sentences), len(pool)))
    for row, text in enumerate(sentences):
        for run in pieces(text):
            if run in place:
                table[row, place[run]] += 1
    return table


def train(table: np.ndarray, classes: np.ndarray, total: int) -> tuple[np.ndarray, np.ndarray]:
    """Fit a softmax regression by plain gradient descent from zero, so that every run gives the same weights."""
    weights, bias = np.zeros((table.shape[1], total)), np.zeros(total)
    wanted = np.eye(total)[classes]
    for _ in range(2000):
        logits = table @ weights + bias
        scores = np.exp(logits - logits.max(1, keepdims=True))
        gap = (scores / scores.sum(1, keepdims=True) - wanted) / len(table)
        weights -= 0.05 * (table.T @ gap + 1e-3 * weights)
        bias -= 0.05 * gap.sum(0)
    return weights, bias


def graph(pool: list[str], weights: np.ndarray, bias: np.ndarray, names: list[str]) -> onnx.ModelProto:
    """Write the model as ONNX: text [batch] to scores [batch, languages] and language [batch].

    Splitting into characters is ONNX Runtime's own Tokenizer; its default build carries it.
    """
    starts = [next(i for i, run in enumerate(pool) if len(run) == size) for size in range(1, LONGEST + 1)]
    nodes = [
        helper.make_node(
            "Tokenizer",
            ["text"],
            ["letters"],
            domain="com.microsoft",
            mark=0,
            mincharnum=1,
            pad_value="",
            separators=[""],
        ),
        helper.make_node(
            "TfIdfVectorizer",
            ["letters"],
            ["counts"],
            mode="TF",
            min_gram_length=1,
            max_gram_length=LONGEST,
            max_skip_count=0,
            ngram_counts=[sum(len(run) for run in pool[:start]) for start in starts],
            ngram_indexes=list(range(len(pool))),
            pool_strings=[letter for run in pool for letter in run],
        ),
        helper.make_node("Gemm", ["counts", "weights", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=-1),
        helper.make_node("ArgMax", ["scores"], ["best"], axis=-1, keepdims=0),
        helper.make_node("Gather", ["names", "best"], ["language"]),
    ]
    return helper.make_model(
        helper.make_graph(
            nodes,
            "languages",
            [helper.make_tensor_value_info("text", TensorProto.STRING, ["batch"])],
            [
                helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", len(names)]),
                helper.make_tensor_value_info("language", TensorProto.STRING, ["batch"]),
            ],
            [
                numpy_helper.from_array(weights.astype(np.float32), "weights"),
                numpy_helper.from_array(bias.astype(np.float32), "bias"),
                helper.make_tensor("names", TensorProto.STRING, [len(names)], [name.encode() for name in names]),
            ],
        ),
        producer_name="build_languages.py",
        ir_version=9,
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)],
    )


if __name__ == "__main__":
    main()
