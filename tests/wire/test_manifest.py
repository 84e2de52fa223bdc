import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tetherd.errors import InvalidInput, ModelInvalid, TetherError, UnsupportedMedia
from tetherd.types import Digest, Signature, TensorSpec
from tetherd.wire.catalog import FileEntry
from tetherd.wire.manifest import (
    MAX_FILES,
    MAX_MANIFEST,
    Config,
    build,
    check_files,
    digest_of,
    encode_config,
    model_file,
    parse,
)

SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, 64)),), (TensorSpec("y", "FP32", (-1, 10)),), batchable=True)
CONFIG = encode_config(Config("onnx", SIGNATURE))


def entry(path: str, content: bytes = b"") -> FileEntry:
    return FileEntry(path, digest_of(content), len(content))


names = st.text(st.characters(codec="utf-8", exclude_characters="/\\\x7f", min_codepoint=33), min_size=1, max_size=20)
paths = st.lists(names.filter(lambda name: name not in {".", ".."}), min_size=1, max_size=3).map("/".join)
listings = st.lists(st.tuples(paths, st.binary(max_size=40)), min_size=1, max_size=8)


def valid(listing: list[tuple[str, bytes]]) -> list[FileEntry] | None:
    files = [entry(path, content) for path, content in listing]
    try:
        check_files(files)
    except ModelInvalid:
        return None
    return files


@given(listings, st.randoms(use_true_random=False))
def test_the_order_of_files_does_not_change_the_bytes(listing, random):
    files = valid(listing)
    if files is None:
        return
    shuffled = list(files)
    random.shuffle(shuffled)
    assert build("digits", files, CONFIG) == build("digits", shuffled, CONFIG)


@given(listings)
def test_parse_returns_what_build_was_given(listing):
    files = valid(listing)
    if files is None:
        return
    found = parse(build("digits", files, CONFIG))
    assert found.files() == sorted(files, key=lambda file: file.path)
    assert found.config.digest == digest_of(CONFIG)
    assert found.model == "digits"


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_changed_byte_is_refused_or_is_another_canonical_manifest(position, value):
    original = build("digits", [entry("model.onnx", b"abc"), entry("w/0", b"")], CONFIG)
    data = bytearray(original)
    data[position % len(data)] = value
    try:
        found = parse(data)
    except (ModelInvalid, InvalidInput):
        return
    assert data == original or found != parse(original)


@given(st.binary(max_size=200))
def test_noise_is_refused(data):
    with pytest.raises(TetherError):
        parse(data)


def test_the_layout_is_an_oci_image_manifest():
    document = json.loads(build("digits", [entry("model.onnx", b"abc")], CONFIG))
    assert document == {
        "annotations": {"org.opencontainers.image.ref.name": "digits"},
        "artifactType": "application/vnd.tether.model.v1",
        "config": {
            "digest": digest_of(CONFIG),
            "mediaType": "application/vnd.tether.model.config.v1+json",
            "size": len(CONFIG),
        },
        "layers": [
            {
                "annotations": {"org.opencontainers.image.title": "model.onnx"},
                "digest": digest_of(b"abc"),
                "mediaType": "application/vnd.tether.model.file.v1",
                "size": 3,
            }
        ],
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "schemaVersion": 2,
    }


def test_the_identity_of_a_version_never_changes():
    """Stored versions are found by this digest: a change here orphans every model that was ever pushed."""
    data = build("digits", [entry("model.onnx", b"abc")], CONFIG)
    assert digest_of(data) == "sha256:98058c59a24953665d18f80e256d8d605d23c6ddc758f1b436774f8c70a011c7"


def test_the_same_files_of_two_models_are_two_versions():
    files = [entry("model.onnx", b"abc")]
    assert digest_of(build("digits", files, CONFIG)) != digest_of(build("letters", files, CONFIG))


@pytest.mark.parametrize("name", ["", "Digits", "../digits", "stats", "x" * 65])
def test_a_manifest_names_a_model_by_a_valid_name(name):
    with pytest.raises(InvalidInput):
        build(name, [entry("model.onnx")], CONFIG)
    with pytest.raises(InvalidInput):
        parse(build("digits", [entry("model.onnx")], CONFIG).replace(b'"digits"', b'"' + name.encode() + b'"'))


@pytest.mark.parametrize(
    "path",
    [
        "", "/etc/passwd", "../x", "a/../../x", "a/..", ".", "./a", "a/./b", "a//b", "a/", "a\\b", "..\\x", "a\0b",
        "a\nb", "a\x7fb", "x" * 256, "/".join(["x" * 200] * 21), "\ud800",
    ],
)  # fmt: skip
def test_paths_that_leave_the_directory_or_fit_no_disk_are_refused(path):
    with pytest.raises(ModelInvalid):
        build("digits", [entry("model.onnx"), entry(path)], CONFIG)


@pytest.mark.parametrize(
    "pair",
    [("a", "a"), ("A", "a"), ("dir/Straße", "DIR/STRASSE"), ("é", "e\u0301"), ("a", "a/b"), ("A/b/c", "a/B")],
)
def test_paths_that_are_one_file_somewhere_are_refused(pair):
    with pytest.raises(ModelInvalid, match=r"same file|lies inside"):
        build("digits", [entry(path) for path in pair], CONFIG)


def test_neighbouring_names_are_not_collisions():
    build("digits", [entry("a"), entry("a.b"), entry("ab/c"), entry("a-b/c")], CONFIG)


@pytest.mark.parametrize("count", [0, MAX_FILES + 1])
def test_the_number_of_files_is_bounded(count):
    with pytest.raises(ModelInvalid):
        build("digits", [entry(f"f{index}") for index in range(count)], CONFIG)


def test_the_length_of_a_manifest_is_bounded():
    with pytest.raises(ModelInvalid, match="longer"):
        build("digits", [entry("/".join([f"{index:0200}"] * 8)) for index in range(MAX_FILES)], CONFIG)
    with pytest.raises(ModelInvalid, match="longer"):
        parse(b" " * (MAX_MANIFEST + 1))


@pytest.mark.parametrize("size", [-1, 1 << 63])
def test_impossible_sizes_are_refused(size):
    with pytest.raises(ModelInvalid):
        build("digits", [FileEntry("model.onnx", digest_of(b""), size)], CONFIG)


@pytest.mark.parametrize("digest", ["", "sha256:", "sha256:" + "A" * 64, "md5:" + "a" * 64, "sha256:../" + "a" * 61])
def test_what_is_not_a_digest_is_refused(digest):
    with pytest.raises(InvalidInput):
        build("digits", [FileEntry("model.onnx", Digest(digest), 1)], CONFIG)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"schemaVersion":2', '"schemaVersion":1'),
        lambda text: text.replace('"schemaVersion":2', '"schemaVersion":2,"subject":{}'),
        lambda text: text.replace(",", ", "),
        lambda text: text + "\n",
        lambda text: text.replace("org.opencontainers.image.title", "title"),
        lambda text: text.replace("org.opencontainers.image.ref.name", "name"),
        lambda text: text.replace('"digits"}', '"digits","other":"x"}'),
        lambda text: text.replace("vnd.tether.model.v1", "vnd.other.model.v1"),
        lambda text: text.replace('"layers":[', '"layers":[],"layers":['),
        lambda text: text.replace(f'"size":{len(CONFIG)}', '"size":-1'),
    ],
)
def test_a_manifest_has_one_spelling(change):
    text = build("digits", [entry("model.onnx", b"abc")], CONFIG).decode()
    assert change(text) != text
    with pytest.raises(ModelInvalid):
        parse(change(text).encode())


@pytest.mark.parametrize(
    ("listing", "chosen"),
    [
        (["digits.onnx", "labels.txt", "parts/head.onnx"], "digits.onnx"),
        (["b.onnx", "model.onnx"], "model.onnx"),
        (["Model.ONNX", "README.md"], "Model.ONNX"),
    ],
)
def test_the_model_is_the_onnx_file_at_the_top(listing, chosen):
    assert model_file(listing) == chosen


@pytest.mark.parametrize(
    "listing",
    [["a.pt"], ["model.safetensors", "config.json"], ["sub/model.onnx"], ["model.onnx", "extra.pkl"],
     ["model.onnx", "data/w.zip"], ["model.onnx.tar.gz"]],
)  # fmt: skip
def test_other_formats_are_refused_by_name(listing):
    with pytest.raises(UnsupportedMedia, match="only ONNX models are accepted"):
        model_file(listing)


def test_several_models_are_refused_by_name():
    with pytest.raises(ModelInvalid, match=r"'a\.onnx', 'b\.onnx'"):
        model_file(["b.onnx", "a.onnx"])
