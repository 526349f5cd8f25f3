"""PASCAL-Context as its authors pack it."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from helpers.dataset_layouts import enlist, load, pascal_context, picture
from segdistill.errors import DataError
from segdistill.types import IGNORE

# One image with its label, in each layout


def pascal_context_as_packed(root: Path, split: str, stem: str, ids: list[int]) -> Path:
    picture(root / "JPEGImages" / f"2008_{split}{stem}.jpg", len(ids))
    enlist(root / "ImageSets" / "Main" / f"{split}.txt", f"2008_{split}{stem}")
    path = root / "trainval" / f"2008_{split}{stem}.mat"
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"LabelMap": np.array([ids], np.uint16)})
    return path


# PASCAL-Context as its authors pack it


def test_pascal_context_459_classes_become_59(tmp_path: Path) -> None:
    named = {2: "aeroplane", 9: "bag", 59: "car", 397: "table", 427: "tvmonitor", 440: "wall", 458: "wood"}
    own = [*named, 0, 1, 3, 459]
    for split in ("train", "val"):
        pascal_context_as_packed(tmp_path, split, "0", own)
        pascal_context_as_packed(tmp_path, split, "1", list(range(1, 460)))
    source = load("pascal-context", tmp_path)
    for split in ("train", "val"):
        few, all_ = (source.split(split).read(i).label[0].tolist() for i in range(2))
        assert [source.classes[i] for i in few[:7]] == list(named.values())
        assert few[7:] == [IGNORE] * 4
        assert [i for i in all_ if i != IGNORE] == list(range(59))
    path = pascal_context_as_packed(tmp_path, "train", "0", [2, 460])
    with pytest.raises(DataError, match=r"460 \(1 px\)"):
        load("pascal-context", tmp_path).split("train").read(0)
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"train0\.mat cannot be read") as caught:
        load("pascal-context", tmp_path).split("train").read(0)
    assert "LabelMap" in caught.value.fix


def test_pascal_context_prefers_converted_label_maps(tmp_path: Path) -> None:
    for split in ("train", "val"):
        pascal_context_as_packed(tmp_path, split, "0", [458, 2])
        pascal_context(tmp_path, split, "0", [1, 59])
    assert load("pascal-context", tmp_path).split("val").read(0).label.tolist() == [[0, 58]]
