"""COCO-Stuff: two places for label maps, and MATLAB files."""

import struct
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from helpers.dataset_layouts import FOREIGN, coco_stuff_10k, coco_stuff_164k, load, tree, write
from segdistill.data import check_files
from segdistill.data.datasets.coco_stuff_10k import read_map
from segdistill.errors import DataError
from segdistill.types import IGNORE


def test_coco_stuff_label_maps_may_lie_in_annotations(tmp_path: Path) -> None:
    coco_stuff_164k(tmp_path, "train", "0", [12], maps="annotations")
    coco_stuff_164k(tmp_path, "train", "0", [11], maps="annotations", ending="_labelTrainIds")
    source = load("coco-stuff-164k", tmp_path)
    assert source.classes[source.split("train").read(0).label[0, 0]] == "stop sign"


def test_coco_s_images_may_lie_as_its_archives_unpack(tmp_path: Path) -> None:
    tree(tmp_path, "coco-stuff-164k")
    for split in ("train", "val"):
        (tmp_path / "images" / f"{split}2017").rename(tmp_path / f"{split}2017")
    (tmp_path / "images").rmdir()
    source = load("coco-stuff-164k", tmp_path)
    assert source.split("val").read(0).name == "val2017/000000.jpg"
    assert len(source.split("train").names) == 2


def test_coco_stuff_10k_and_164k_give_the_same_labels(tmp_path: Path) -> None:
    ids = [id_ for id_ in range(1, 183) if id_ not in FOREIGN["coco-stuff-10k"]]
    for split in ("train", "val"):
        coco_stuff_10k(tmp_path / "10k", split, "0", [0, *ids])
        coco_stuff_164k(tmp_path / "164k", split, "0", [255, *(id_ - 1 for id_ in ids)])
    small, large = (load(f"coco-stuff-{cut}", tmp_path / cut) for cut in ("10k", "164k"))
    assert small.split("val").read(0).label.tolist() == [[IGNORE, *range(171)]]
    assert np.array_equal(small.split("train").read(0).label, large.split("train").read(0).label)
    assert (small.classes, small.palette) == (large.classes, large.palette)


def test_matlab_label_maps_are_counted_and_compared_like_others(tmp_path: Path) -> None:
    ids = np.array([[1, 2, 3], [92, 182, 0]])
    for kind in (np.uint8, np.uint16):
        path = coco_stuff_10k(tmp_path, "train", "0", [1])
        coco_stuff_10k(tmp_path, "val", "0", [1])
        write(tmp_path / "images" / "COCO_train2014_train0.jpg", np.zeros((2, 3, 3), np.uint8))
        savemat(path, {"S": ids.astype(kind)})  # which are read column by column
        report = check_files(load("coco-stuff-10k", tmp_path), ["train"]).splits["train"]
        assert {i for i in range(171) if report.pixels[i]} == {0, 1, 2, 80, 170}
        assert report.ignored == 1


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float64])
def test_a_matlab_file_is_read_as_scipy_reads_it(kind: type[np.generic], packed: bool, tmp_path: Path) -> None:
    rng, path = np.random.default_rng(0), tmp_path / "a.mat"
    for shape in ((1, 1), (1, 3), (5, 1), (7, 9), (240, 320)):
        others = {"captions": ["a", "b"], "number": 1.5, "Sx": np.zeros(3), "names": np.array([["x"]], object)}
        savemat(path, {**others, "S": rng.integers(0, 183, shape).astype(kind)}, do_compression=packed)
        expected = loadmat(path)["S"]
        assert expected.dtype == kind
        assert read_map(path).ids.dtype == (np.uint16 if kind is np.float64 else kind)
        assert np.array_equal(read_map(path).ids, expected)


@pytest.mark.parametrize(
    ("number", "kind"), [(1, "i1"), (2, "u1"), (3, "<i2"), (4, "<u2"), (5, "<i4"), (6, "<u4"), (7, "<f4")]
)
def test_matlab_doubles_are_read_from_smaller_stored_types(number: int, kind: str, tmp_path: Path) -> None:
    path, ids = tmp_path / "a.mat", np.array([[1, 2, 3], [92, 120, 0]])
    savemat(path, {"S": ids.astype(float)})
    content, stored = path.read_bytes(), ids.T.astype(kind).tobytes()
    wide = struct.pack("<II", 9, 8 * ids.size)  # the tag of numbers in eight bytes each
    small = struct.pack("<II", number, len(stored)) + stored + bytes(-len(stored) % 8)
    body = content[136 : content.rindex(wide)] + small
    path.write_bytes(content[:132] + struct.pack("<I", len(body)) + body)
    assert np.array_equal(loadmat(path)["S"], ids)
    assert np.array_equal(read_map(path).ids, ids)


def test_a_damaged_matlab_file_is_refused_with_its_name(tmp_path: Path) -> None:
    path = coco_stuff_10k(tmp_path, "train", "0", list(range(1, 11)) * 20)
    whole = path.read_bytes()
    for damaged in (b"", b"no MATLAB file", whole[: len(whole) // 2], b"MATLAB 7.3 MAT-file" + b" " * 105 + b"\0\2IM"):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="cannot be read") as caught:
            read_map(path)
        assert str(path) in caught.value.what
        assert "v1.1" in caught.value.fix
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        read_map(path)


def test_a_matlab_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    savemat(path, {"T": np.zeros((2, 3), np.uint16)})
    with pytest.raises(DataError, match="there is no S"):
        read_map(path)
    savemat(path, {"S": np.full((2, 3), 1, np.int8)})
    with pytest.raises(DataError, match=r"S is int8 of shape \[2, 3\]"):
        read_map(path)
    for strange in (0.5, -1, 65536, np.nan, np.inf, 1e300):
        savemat(path, {"S": np.array([[1, strange]], float)})
        with pytest.raises(DataError, match="S has numbers that are no ids"):
            read_map(path)
    savemat(path, {"S": np.zeros((2, 3, 4), np.uint8)})
    with pytest.raises(DataError, match=r"S is uint8 of shape \[2, 3, 4\]"):
        read_map(path)
