"""Data sets with lists: VOC's palettes and lists, and images that must not be trained on."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.dataset_layouts import label, load, picture, tree, voc
from segdistill.data.datasets.voc import PALETTE, colors
from segdistill.errors import DataError
from segdistill.types import IGNORE


@pytest.mark.promise("D3")
def test_voc_palette_images_keep_their_ids(tmp_path: Path) -> None:
    path = voc(tmp_path, "train", "0", [0, 15, 20, 255])
    voc(tmp_path, "val", "0", [0])
    assert load("voc", tmp_path).split("train").read(0).label.tolist() == [[0, 15, 20, IGNORE]]
    with Image.open(path) as image:
        gray = image.convert("L")
    assert np.asarray(gray).tolist() != [[0, 15, 20, 255]]
    with Image.open(path) as image:
        colored = image.convert("RGB")
    colored.save(path)
    with pytest.raises(DataError, match="holds colors"):
        load("voc", tmp_path).split("train").read(0)


def test_voc_s_colors_are_those_of_the_development_kit() -> None:
    known = {0: (0, 0, 0), 1: (128, 0, 0), 8: (64, 0, 0), 15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)}
    assert {id_: colors(range(256))[id_] for id_ in known} == known
    assert colors(range(21)) == PALETTE
    assert len(set(colors(range(256)))) == 256


@pytest.mark.parametrize("file", ["trainaug", "train_aug"])
def test_voc_trains_on_the_augmented_list_when_present(file: str, tmp_path: Path) -> None:
    voc(tmp_path, "train", "0", [1])
    voc(tmp_path, "val", "0", [2])
    (plain, *_) = load("voc", tmp_path).warnings
    assert plain.startswith("voc trains on ImageSets/Segmentation/train.txt with the labels in SegmentationClass/.")
    assert "10582" in plain
    for i in range(2):
        voc(tmp_path, "train", f"{i}", [3 + i], file=file, folder="SegmentationClassAug")
    source = load("voc", tmp_path)
    expected = f"ImageSets/Segmentation/{file}.txt with the labels in SegmentationClassAug/ or SegmentationClass/."
    assert source.warnings[0] == f"voc trains on {expected}"
    assert [source.split("train").read(i).label.tolist() for i in range(2)] == [[[3]], [[4]]]
    assert source.split("val").read(0).label.tolist() == [[2]]
    voc(tmp_path, "train", "2", [5], file=file)  # SBD has no label for it
    assert load("voc", tmp_path).split("train").read(2).label.tolist() == [[5]]
    shutil.rmtree(tmp_path / "SegmentationClassAug")
    assert load("voc", tmp_path).warnings[0] == plain


def test_voc_val_images_are_never_trained_on(tmp_path: Path) -> None:
    voc(tmp_path, "val", "0", [2])
    voc(tmp_path, "val", "0", [2], file="train")
    with pytest.raises(DataError, match=r"train\.txt has no images"):
        load("voc", tmp_path)
    voc(tmp_path, "train", "0", [1])
    source = load("voc", tmp_path)
    assert source.split("train").names == ("JPEGImages/2007_train0.jpg",)
    assert "1 image of ImageSets/Segmentation/train.txt also in val.txt: not trained on." in (source.warnings)


def test_voc_lists_may_hold_folders_label_maps_and_empty_lines(tmp_path: Path) -> None:
    voc(tmp_path, "val", "0", [2])
    voc(tmp_path, "train", "0", [1])
    file = tmp_path / "ImageSets" / "Segmentation" / "train.txt"
    plain = load("voc", tmp_path).listing_fingerprint
    file.write_text("\n/JPEGImages/2007_train0.jpg /SegmentationClass/2007_train0.png\r\n\n")
    assert load("voc", tmp_path).listing_fingerprint == plain
    file.write_bytes(b"\xef\xbb\xbfJPEGImages\\2007_train0.jpg SegmentationClass\\2007_train0.png\r\n")
    assert load("voc", tmp_path).listing_fingerprint == plain


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("voc", "ImageSets/Segmentation/val.txt"),
        ("pascal-context", "ImageSets/SegmentationContext/val.txt"),
        ("coco-stuff-10k", "imageLists/test.txt"),
    ],
)
def test_split_without_its_list_is_a_warning(tmp_path: Path, name: str, file: str) -> None:
    tree(tmp_path, name)
    (tmp_path / file).unlink()
    source = load(name, tmp_path)
    assert list(source.splits) == ["train"]
    assert f"{name} has no val split here." in source.warnings
    with pytest.raises(DataError, match="has no val split"):
        source.split("val")


def test_missing_lists_are_reported_with_the_folder_content(tmp_path: Path) -> None:
    tree(tmp_path, "voc")
    shutil.rmtree(tmp_path / "ImageSets")
    with pytest.raises(DataError, match=r"train\.txt cannot be read: No such file") as caught:
        load("voc", tmp_path)
    assert caught.value.fix.startswith(f"{tmp_path} has JPEGImages, SegmentationClass. ")
    assert f"segdistill data init {tmp_path} --out data.toml" in caught.value.fix


def test_images_outside_the_lists_are_passed_over(tmp_path: Path) -> None:
    tree(tmp_path, "pascal-context")
    picture(tmp_path / "JPEGImages" / "2008_unlisted.jpg", 2)
    label(tmp_path / "SegmentationClassContext" / "2008_other.png", [1])
    assert len(load("pascal-context", tmp_path).split("train").names) == 2


def test_duplicate_file_stems_matter_only_if_listed(tmp_path: Path) -> None:
    tree(tmp_path, "pascal-context")
    for ending in ("jpg", "png"):
        picture(tmp_path / "JPEGImages" / f"2008_unlisted.{ending}", 2)
        label(tmp_path / "SegmentationClassContext" / f"2008_other.{ending}", [1])
    assert len(load("pascal-context", tmp_path).split("train").names) == 2
    picture(tmp_path / "JPEGImages" / "2008_train000001.png", 2)
    with pytest.raises(DataError, match=r"Files in .*JPEGImages with more than one ending \(1\): 2008_train000001\.\n"):
        load("pascal-context", tmp_path)
