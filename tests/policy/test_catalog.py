import pytest

from tetherd.errors import ModelNotFound, VersionNotFound
from tetherd.policy.catalog import resolve
from tetherd.types import Digest, Signature, parse_reference
from tetherd.wire.messages import Alias, Catalog, Version


def version(model: str, number: int) -> Version:
    return Version(model, number, Digest(f"sha256:{model}{number}"), "onnx", Signature((), ()), 0, 0.0, [])


CATALOG = Catalog(
    1,
    [version("a", 1), version("a", 3), version("b", 1)],
    [Alias("a", "latest", 3, 1), Alias("a", "stable", 1, 1), Alias("a", "broken", 2, 1)],
)


@pytest.mark.parametrize(("text", "number"), [("a", 3), ("a@latest", 3), ("a@stable", 1), ("a@1", 1), ("b@1", 1)])
def test_what_a_reference_means(text: str, number: int) -> None:
    found = resolve(CATALOG, parse_reference(text))
    assert (found.model, found.number) == (text[0], number)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("c", ModelNotFound),
        ("a@2", VersionNotFound),
        ("a@broken", VersionNotFound),
        ("a@nothing", VersionNotFound),
        ("b", VersionNotFound),
    ],
)
def test_what_is_not_there(text: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        resolve(CATALOG, parse_reference(text))
