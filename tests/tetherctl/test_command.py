"""An option is not set twice."""

import pytest

from tetherctl.app import load
from tetherctl.command import refuse_twice
from tetherctl.errors import Usage

PARAMS = load("infer").params


@pytest.mark.parametrize(
    "words", ["m -i a", "m -i a --input a", "m --batch --batch", "m -i a -- -i b", "m --deadline=1s --deadline 1s"]
)
def test_fine(words: str) -> None:
    refuse_twice(PARAMS, words.split())


@pytest.mark.parametrize("words", ["-i a -i b", "--input=a -i b", "m --deadline 1s --batch --deadline=2s"])
def test_refused(words: str) -> None:
    with pytest.raises(Usage):
        refuse_twice(PARAMS, words.split())


def test_what_may_be_repeated() -> None:
    refuse_twice(load("cluster token").params, ["--role", "manager", "--role", "gateway"])
