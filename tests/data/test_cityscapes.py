"""Cityscapes: label ids, train ids, test images without labels, coarse labels."""

import shutil
from pathlib import Path

import pytest

from helpers.dataset_layouts import cityscapes, label, load, picture
from segdistill.data.base import UNLABELED
from segdistill.data.datasets.cityscapes import LABEL_IDS
from segdistill.errors import DataError
from segdistill.types import IGNORE


def test_cityscapes_train_ids_are_read_if_complete(tmp_path: Path) -> None:
    for i in range(2):
        cityscapes(tmp_path, "train", f"{i}", [7, 26, 0])
        cityscapes(tmp_path, "train", f"{i}", [0, 13, 255], "gtFine_labelTrainIds")
    train = load("cityscapes", tmp_path).split("train")
    assert train.read(0).label.tolist() == [[0, 13, IGNORE]]
    (path,) = tmp_path.rglob("ulm_0_gtFine_labelTrainIds.png")
    label(path, [18, 13, 255])
    assert train.read(0).label.tolist() == [[18, 13, IGNORE]]
    path.unlink()  # the conversion was interrupted
    assert load("cityscapes", tmp_path).split("train").read(1).label.tolist() == [[0, 13, IGNORE]]


def test_cityscapes_label_ids_named_as_train_ids_are_refused(tmp_path: Path) -> None:
    cityscapes(tmp_path, "train", "0", [7, 26], "gtFine_labelTrainIds")
    with pytest.raises(DataError, match=r"labelTrainIds\.png has class ids .* 26 \(1 px\)") as caught:
        load("cityscapes", tmp_path).split("train").read(0)
    assert caught.value.fix == "Allowed ids: 0-18, 255."


def test_cityscapes_other_files_are_skipped(tmp_path: Path) -> None:
    cityscapes(tmp_path, "val", "0", [7])
    for kind in ("instanceIds", "color"):
        label(tmp_path / "gtFine" / "val" / "ulm" / f"ulm_0_gtFine_{kind}.png", [99])
    (tmp_path / "gtFine" / "val" / "ulm" / "ulm_0_gtFine_polygons.json").write_text("{}")
    (tmp_path / "leftImg8bit" / "val" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "leftImg8bit" / "val" / "license.txt").touch()
    assert load("cityscapes", tmp_path).split("val").names == ("leftImg8bit/val/ulm/ulm_0_leftImg8bit.png",)


def test_cityscapes_test_images_have_no_labels_despite_dummies(tmp_path: Path) -> None:
    cityscapes(tmp_path, "val", "0", [7])
    cityscapes(tmp_path, "test", "0", [1, 2, 3])
    picture(tmp_path / "leftImg8bit" / "test" / "ulm" / "ulm_1_leftImg8bit.png", 3)
    test = load("cityscapes", tmp_path).split("test")
    assert test.names == tuple(f"leftImg8bit/test/ulm/ulm_{i}_leftImg8bit.png" for i in range(2))
    assert test.read(0).label.tolist() == [[UNLABELED] * 3]


def test_cityscapes_split_without_labels_is_left_out(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        cityscapes(tmp_path, split, "0", [7])
    shutil.rmtree(tmp_path / "gtFine" / "val")
    source = load("cityscapes", tmp_path)
    assert list(source.splits) == ["train", "test"]
    assert source.warnings[:2] == (
        "cityscapes's val images are left out: there is no gtFine/val/ here.",
        "cityscapes has no val split here.",
    )
    shutil.rmtree(tmp_path / "gtFine")
    assert list(load("cityscapes", tmp_path).splits) == ["test"]
    shutil.rmtree(tmp_path / "leftImg8bit" / "test")
    with pytest.raises(DataError, match="has images and no labels"):
        load("cityscapes", tmp_path)


def test_cityscapes_broken_link_to_a_city_is_named(tmp_path: Path) -> None:
    cityscapes(tmp_path, "val", "0", [7])
    (tmp_path / "leftImg8bit" / "val" / "bonn").symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match=r"val/bonn cannot be read: No such file"):
        load("cityscapes", tmp_path)


def test_cityscapes_folder_without_images_names_the_pattern(tmp_path: Path) -> None:
    picture(tmp_path / "leftImg8bit" / "test" / "ulm" / "renamed.png", 3)
    with pytest.raises(DataError, match=r"leftImg8bit/test/\*/\*_leftImg8bit has no images"):
        load("cityscapes", tmp_path)


def test_cityscapes_coarse_and_extra_splits_appear_when_present(tmp_path: Path) -> None:
    cityscapes(tmp_path, "train", "0", [7])
    assert list(load("cityscapes", tmp_path).splits) == ["train"]
    cityscapes(tmp_path, "train", "0", [8], "gtCoarse_labelIds")
    label(tmp_path / "gtCoarse" / "train_extra" / "ulm" / "ulm_1_gtCoarse_labelIds.png", [9])
    assert load("cityscapes", tmp_path).split("coarse").names == ("leftImg8bit/train/ulm/ulm_0_leftImg8bit.png",)
    cityscapes(tmp_path, "train_extra", "1", [33], "gtCoarse_labelIds")
    source = load("cityscapes", tmp_path)
    coarse, extra = source.split("coarse"), source.split("extra")
    assert [coarse.read(i).label.tolist() for i in range(2)] == [[[1]], [[18]]]
    assert extra.names == coarse.names[1:] == ("leftImg8bit/train_extra/ulm/ulm_1_leftImg8bit.png",)
    assert extra.read(0).label.tolist() == [[UNLABELED]]
    assert source.split("train").read(0).label.tolist() == [[0]]
    assert "cityscapes's coarse split has 2 images here; it usually has 22973." in source.warnings


def test_cityscapes_server_ids_are_the_ids_that_are_read(tmp_path: Path) -> None:
    cityscapes(tmp_path, "val", "0", list(LABEL_IDS))
    assert load("cityscapes", tmp_path).split("val").read(0).label.tolist() == [list(range(19))]
