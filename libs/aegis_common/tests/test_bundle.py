"""Model bundles: packed the same way each time, and read as bytes of a stranger."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest

from aegis_common.store.bundle import Bundle, pack, unpack
from aegis_common.store.errors import InvalidModelBundle
from aegis_common.store.model_spec import MAX_SPEC_BYTES, read_spec

IMAGE = """\
schema_version: 1
task: image-classification
preprocessing:
  image: {size: 8}
labels: labels.txt
examples:
  - input: {image: {file: examples/red.png}}
    output: {labels: [{label: red}]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "examples").mkdir(parents=True)
    (folder / "model.yaml").write_text(IMAGE)
    (folder / "model.onnx").write_bytes(b"onnx")
    (folder / "labels.txt").write_text("red\ngreen\n")
    (folder / "examples/red.png").write_bytes(b"png")
    (folder / "notes.txt").write_text("not named, so not packed")
    return folder


def zipped(*entries: tuple[str, bytes], **options: Any) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in entries:
            entry = zipfile.ZipInfo(name)
            for option, value in options.items():
                setattr(entry, option, value)
            archive.writestr(entry, data)
    return target.getvalue()


def raw(*more: tuple[str, bytes], spec: bytes = b"schema_version: 1\ntask: raw\n", **options: Any) -> bytes:
    return zipped(("model.yaml", spec), ("model.onnx", b"onnx"), *more, **options)


def refused(data: bytes) -> InvalidModelBundle:
    with pytest.raises(InvalidModelBundle) as caught:
        Bundle.read(data)
    return caught.value


def spec_fault(text: str) -> InvalidModelBundle:
    with pytest.raises(InvalidModelBundle) as caught:
        read_spec(text.encode())
    return caught.value


def test_a_folder_always_gives_the_same_bytes_and_comes_back_whole(folder: Path, tmp_path: Path) -> None:
    """Times and modes of the files do not count; what `model.yaml` does not name stays out."""
    first = pack(folder)
    for path in folder.rglob("*.*"):
        path.chmod(0o600)
        path.touch()
    bundle = unpack(first, tmp_path / "out")

    assert pack(folder) == first
    assert pack(tmp_path / "out") == first
    assert sorted(bundle.files) == ["examples/red.png", "labels.txt"]
    assert bundle.labels == ("red", "green")
    assert (tmp_path / "out/examples/red.png").read_bytes() == b"png"
    assert not (tmp_path / "out/notes.txt").exists()


def test_unpacking_overwrites_nothing(folder: Path, tmp_path: Path) -> None:
    data = pack(folder)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/labels.txt").write_text("mine")

    with pytest.raises(FileExistsError):
        unpack(data, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["labels.txt"]


def test_unpacking_follows_no_link_out_of_the_folder(folder: Path, tmp_path: Path) -> None:
    data = pack(folder)
    (tmp_path / "out").mkdir()
    (tmp_path / "else").mkdir()
    (tmp_path / "out/examples").symlink_to(tmp_path / "else")

    with pytest.raises(FileExistsError):
        unpack(data, tmp_path / "out")
    assert not any((tmp_path / "else").iterdir())


@pytest.mark.parametrize("name", ["labels.txt", "model.onnx", "model.yaml", "examples/red.png"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()

    with pytest.raises(InvalidModelBundle) as caught:
        pack(folder)
    assert caught.value.metadata["file"] == name


def test_weights_beside_the_model_file_are_refused(folder: Path) -> None:
    (folder / "model.onnx.data").write_bytes(b"weights")

    with pytest.raises(InvalidModelBundle, match=r"model\.onnx\.data: weights outside"):
        pack(folder)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "a/../b", "a//b", "a\\b", "x/", ".hidden", "a/b/c/d/e", "\u00e9", ""]
)
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    assert refused(raw((name, b"x"))).reason == "INVALID_MODEL_BUNDLE"


def test_a_name_that_ends_at_a_zero_byte_is_refused() -> None:
    data = raw(("labels.txtX..", b"x")).replace(b"labels.txtX..", b"labels.txt\0..")

    assert "is no name of a file" in refused(data).message


def test_a_file_that_nothing_names_is_refused() -> None:
    error = refused(raw(("extra.py", b"x")))

    assert error.metadata["file"] == "extra.py"
    assert "unexpected" in error.message


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["model.onnx", "MODEL.onnx"])
def test_a_name_that_stands_twice_is_refused(name: str) -> None:
    assert "twice" in refused(raw((name, b"other"))).message


def test_links_and_other_special_files_are_refused() -> None:
    error = refused(raw(external_attr=(stat.S_IFLNK | 0o777) << 16))

    assert "no plain file" in error.message


def test_a_bomb_is_refused_by_what_it_states() -> None:
    data = raw(
        ("labels.txt", bytes(33 << 20)),
        spec=b"schema_version: 1\ntask: raw\nlabels: labels.txt\n",
        compress_type=zipfile.ZIP_DEFLATED,
    )

    assert len(data) < 1 << 20
    assert refused(data).metadata["file"] == "labels.txt"


def test_a_bomb_that_states_less_is_not_unfolded() -> None:
    """The bytes unfold to 64 MiB, the directory says 100: no more than that is ever produced."""
    data = bytearray(raw(("big", bytes(64 << 20)), compress_type=zipfile.ZIP_DEFLATED))
    data = bytearray(bytes(data).replace(struct.pack("<L", 64 << 20), struct.pack("<L", 100)))

    assert "no sound zip" in refused(bytes(data)).message


def test_the_total_is_bounded() -> None:
    with pytest.raises(InvalidModelBundle, match="at most 20 are allowed"):
        Bundle.read(raw(), max_bytes=20)


def test_too_many_files_are_refused_before_they_are_listed() -> None:
    data = raw(*((f"f{n}", b"") for n in range(100)))

    assert "102 entries" in refused(data).message


def test_other_packings_are_refused() -> None:
    assert "packed otherwise" in refused(raw(compress_type=zipfile.ZIP_BZIP2)).message


@pytest.mark.parametrize("data", [b"", b"PK", b"x" * 100, raw()[:-1], raw() + b"x", raw()[40:]])
def test_what_is_no_zip_file_is_refused(data: bytes) -> None:
    assert refused(data).metadata["file"] == "the bundle"


def test_a_damaged_file_is_refused() -> None:
    assert "no sound zip" in refused(raw().replace(b"onnx", b"onny")).message


def test_an_unknown_field_is_refused_with_near_names() -> None:
    error = spec_fault(IMAGE.replace("{size: 8}", "{size: 8, lay_out: NCHW}"))

    assert error.metadata == {"file": "model.yaml", "field": "preprocessing.image.lay_out"}
    assert "near: layout" in error.message


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (("schema_version: 1", "schema_version: 2"), "schema_version"),
        (("schema_version: 1\n", ""), "schema_version"),
        (("image-classification", "image"), "task"),
        (("{size: 8}", "{size: 0}"), "preprocessing.image.size[0]"),
        (("{size: 8}", "{size: 8, mean: [1, 2]}"), "preprocessing.image"),
        (("{size: 8}", "{size: 8, std: [1, 2, 0]}"), "preprocessing.image.std[2]"),
        (("{size: 8}", "{size: 8, shortest_edge: 4}"), "preprocessing.image"),
        (("examples/red.png", "../red.png"), "examples[0].input"),
        (("labels: labels.txt", "labels: ../labels.txt"), "labels"),
        (("labels: labels.txt", "labels: [red, true]"), "labels[1]"),
        (("labels: labels.txt", "labels: model.onnx"), ""),
        (("labels: labels.txt", "labels: Examples/RED.png"), ""),
        (("labels: labels.txt", "labels: examples"), ""),
        (("labels: labels.txt\n", ""), ""),
        (("labels: labels.txt", "labels: labels.txt\nproviders: [GPU]"), "providers[0]"),
        (("labels: labels.txt", "labels: labels.txt\nversion: 1.0"), "version"),
        (("  image: {size: 8}", "  tabular: {features: [{name: a}]}"), ""),
    ],
)
def test_a_wrong_field_is_named(change: tuple[str, str], field: str) -> None:
    error = spec_fault(IMAGE.replace(*change))

    assert error.metadata == {"file": "model.yaml", "field": field}


def test_a_number_where_a_text_belongs_says_how_to_mend_it() -> None:
    assert "write it in quotes" in spec_fault(IMAGE + "version: 1.0\n").message


def test_an_error_repeats_only_the_beginning_of_what_is_wrong() -> None:
    error = spec_fault(f"schema_version: 1\ntask: raw\n{'x' * 100_000}: 1\n")

    assert len(error.message) < 2000
    assert len(spec_fault(f"schema_version: {'x' * 100_000}").message) < 2000


def test_labels_stay_the_words_that_were_written() -> None:
    """YAML 1.1 would make booleans, dates and octal numbers of them."""
    spec = read_spec(IMAGE.replace("labels.txt", "[no, on, 2020-01-01, 0, 1]").encode())

    assert spec.labels == ("no", "on", "2020-01-01", "0", "1")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: &x [1]\nb: *x\n", "aliases"),
        ("a: 1\na: 2\n", "twice"),
        ("[" * 50 + "]" * 50, "deeper than"),
        ("a: !!python/object/apply:os.system [id]", "python"),
        ("a: 1e999", "too large"),
        ("1: a", "is no text"),
        ("a: [1", "line 1"),
        ("a: 1\n---\nb: 1\n", "another document"),
        ("- a", "mapping"),
    ],
)
def test_yaml_that_could_do_harm_is_refused(text: str, part: str) -> None:
    assert part in spec_fault(text).message


def test_a_long_or_binary_yaml_is_refused() -> None:
    with pytest.raises(InvalidModelBundle, match="at most"):
        read_spec(b"#" * (MAX_SPEC_BYTES + 1))
    with pytest.raises(InvalidModelBundle, match="UTF-8"):
        read_spec(b"a: \xff")


def test_a_feature_is_checked_as_a_whole() -> None:
    head = "schema_version: 1\ntask: tabular\npreprocessing: {tabular: {features: ["

    assert "categories" in spec_fault(head + "{name: a, type: category}]}}").message
    assert "twice" in spec_fault(head + "{name: a}, {name: a}]}}").message
    assert "default" in spec_fault(head + "{name: a, default: yes}]}}").message
    assert "for numbers" in spec_fault(head + "{name: a, type: boolean, mean: 1.0}]}}").message
