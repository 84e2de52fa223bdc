import pytest

from tetherd.errors import InvalidInput
from tetherd.types import Credentials, digest_hex, is_node_id


def test_the_digits_of_a_digest() -> None:
    assert digest_hex("sha256:" + "0a" * 32) == "0a" * 32


@pytest.mark.parametrize("text", ["", "sha256:", "0a" * 32, "sha256:../../" + "0" * 58, "sha256:" + "0A" * 32])
def test_what_is_no_digest_has_none(text: str) -> None:
    with pytest.raises(InvalidInput, match="not a digest"):
        digest_hex(text)


@pytest.mark.parametrize("text", ["", "0A" * 32, "0a" * 31, "0a" * 32 + "\n", "0a" * 32 + ", O=x", "\u0660" * 64])
def test_what_is_no_id_of_a_node(text: str) -> None:
    assert is_node_id("0a" * 32)
    assert not is_node_id(text)


def test_credentials_do_not_show_their_key() -> None:
    credentials = Credentials("0a" * 32, "the key", "the chain", "the roots")
    assert "the key" not in f"{credentials} {credentials!r}"
