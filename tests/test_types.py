import pytest

from tetherd.errors import InvalidInput
from tetherd.types import digest_hex


def test_the_digits_of_a_digest() -> None:
    assert digest_hex("sha256:" + "0a" * 32) == "0a" * 32


@pytest.mark.parametrize("text", ["", "sha256:", "0a" * 32, "sha256:../../" + "0" * 58, "sha256:" + "0A" * 32])
def test_what_is_no_digest_has_none(text: str) -> None:
    with pytest.raises(InvalidInput, match="not a digest"):
        digest_hex(text)
