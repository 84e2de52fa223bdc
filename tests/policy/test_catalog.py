import pytest

from tetherd.errors import ModelNotFound, ModelUnloaded, Unavailable, VersionNotFound
from tetherd.policy.catalog import View
from tetherd.types import Digest, Signature, parse_reference
from tetherd.wire.catalog import Alias, Catalog, Version


def version(model: str, number: int) -> Version:
    digest = Digest(f"sha256:{model}{number}")
    return Version(model, number, digest, digest, "onnx", Signature((), ()), 0, 0.0, [])


CATALOG = Catalog(
    1,
    [version("a", 1), version("a", 3), version("b", 1)],
    [Alias("a", "latest", 3, 1), Alias("a", "stable", 1, 1), Alias("a", "broken", 2, 1)],
)
VIEW = View(CATALOG, lambda one: one)


@pytest.mark.parametrize(("text", "number"), [("a", 3), ("a@latest", 3), ("a@stable", 1), ("a@1", 1), ("b@1", 1)])
def test_what_a_reference_means(text: str, number: int) -> None:
    found = VIEW.resolve(parse_reference(text))
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
        VIEW.resolve(parse_reference(text))


def test_a_name_that_is_nearly_right_is_corrected() -> None:
    view = View(Catalog(1, [version("digits", 1)], []), lambda one: one)
    with pytest.raises(ModelNotFound) as caught:
        view.model("digit")
    assert caught.value.fix == "did you mean 'digits'?"


def test_before_the_first_catalog_nothing_is_said_not_to_exist() -> None:
    with pytest.raises(Unavailable, match="has not sent its catalog"):
        View(None, lambda one: one).resolve(parse_reference("a"))


def test_what_was_unloaded_still_has_its_versions_but_takes_no_work() -> None:
    view = View(Catalog(1, CATALOG.versions, CATALOG.aliases, ["a"]), lambda one: one)
    assert view.resolve(parse_reference("a")).number == 3
    view.check_serving("b")
    with pytest.raises(ModelUnloaded) as caught:
        view.check_serving("a")
    assert caught.value.fix == "tetherctl models load a"


def test_what_a_bare_name_shows() -> None:
    assert (VIEW.model("a").current.number, VIEW.model("b").current.number) == (3, 1)
