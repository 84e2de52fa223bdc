"""Says what ONNX Runtime said in words for whoever brought the model or the input. Never leaves a path of this host in.

Its messages are made for its authors: a status and its number, where in the C++ sources it gave up, which condition
did not hold there. What is left of them here is the node and the reason.
"""

import re
from pathlib import Path
from typing import Final

LONGEST: Final = 300
_READ: Final = 8_000  # a model can make its engine quote as much as it likes

_STATUS: Final = re.compile(r"\[ONNXRuntimeError\] : \d+ : (\w+) : ")
_LOADING: Final = re.compile(r"Load model from .*? failed: ?(?:Fatal error: )?")
_NODE: Final = re.compile(r"Non-zero status code returned while running (\S+) node\. Name:'([^']*)' Status Message: ")
_SOURCE: Final = re.compile(
    r"\S*\.(?:h|cc|cpp|cu):\d+ "  # the place in the sources
    r"(?:[^()]*::[^()]*\([^()]*\)(?: const)? )?"  # the function
    r"(?:.*? was false\. (?=\S))?"  # the condition, where the reason follows it
)


def plain(error: Exception, directory: Path | None = None) -> str:
    """Return an error of the engine as one short printable line, without ``directory`` where it names files."""
    text = str(error)[:_READ]
    if directory is not None:
        text = text.replace(f"{directory}/", "")
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    for pattern, instead in ((_STATUS, ""), (_LOADING, ""), (_NODE, r"\1 node '\2': "), (_SOURCE, "")):
        text = pattern.sub(instead, text, count=1)
    if len(text) > LONGEST:
        text = text[:LONGEST].rsplit(" ", 1)[0] + " ..."
    return text or type(error).__name__


def is_refusal(error: Exception) -> bool:
    """Return whether the engine says that what it was given is wrong, and not that it failed on it."""
    status = _STATUS.match(str(error))
    return status is not None and status[1] == "INVALID_ARGUMENT"
