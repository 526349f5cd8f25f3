"""Every data set is read from a small tree in its own layout: ids become classes, and its known mistakes are caught."""

import pickle
import shutil
import struct
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scipy.io import loadmat, savemat

from segdistill.config import DataConfig, components, find_data
from segdistill.data import DataSource, check_files, load_data, mixture
from segdistill.data._base import UNLABELED
from segdistill.data._folder import data_source
from segdistill.data.cityscapes import LABEL_IDS
from segdistill.data.coco_stuff_10k import read_map
from segdistill.data.voc import PALETTE, colors
from segdistill.errors import DataError, UsageError
from segdistill.types import IGNORE

Pixels = npt.NDArray[np.uint8]
Write = Callable[[Path, str, str, list[int]], Path]
RNG = np.random.default_rng(0)


def write(path: Path, pixels: Pixels) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def picture(path: Path, width: int) -> Path:
    return write(path, RNG.integers(0, 256, (1, width, 3), np.uint8))


def label(path: Path, ids: list[int]) -> Path:
    return write(path, np.array([ids], np.uint8))


def enlist(path: Path, line: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(line + "\n")


# One image with its label, in each layout


def camvid(root: Path, split: str, stem: str, ids: list[int]) -> Path:
    picture(root / split / f"{stem}.png", len(ids))
    return label(root / f"{split}annot" / f"{stem}.png", ids)


def cityscapes(root: Path, split: str, stem: str, ids: list[int], kind: str = "gtFine_labelIds") -> Path:
    picture(root / "leftImg8bit" / split / "ulm" / f"ulm_{stem}_leftImg8bit.png", len(ids))
    return label(root / kind.split("_")[0] / split / "ulm" / f"ulm_{stem}_{kind}.png", ids)


def ade20k(root: Path, split: str, stem: str, ids: list[int]) -> Path:
    folder = {"train": "training", "val": "validation"}[split]
    picture(root / "images" / folder / f"ADE_{split}_{stem}.jpg", len(ids))
    return label(root / "annotations" / folder / f"ADE_{split}_{stem}.png", ids)


def voc(
    root: Path, split: str, stem: str, ids: list[int], file: str | None = None, folder: str = "SegmentationClass"
) -> Path:
    picture(root / "JPEGImages" / f"2007_{split}{stem}.jpg", len(ids))
    enlist(root / "ImageSets" / "Segmentation" / f"{file or split}.txt", f"2007_{split}{stem}")
    path = root / folder / f"2007_{split}{stem}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.array([ids], np.uint8)).convert("P")
    image.putpalette([channel for color in colors(range(256)) for channel in color])
    image.save(path)
    return path


def pascal_context(root: Path, split: str, stem: str, ids: list[int]) -> Path:
    picture(root / "JPEGImages" / f"2008_{split}{stem}.jpg", len(ids))
    enlist(root / "ImageSets" / "SegmentationContext" / f"{split}.txt", f"2008_{split}{stem}")
    return label(root / "SegmentationClassContext" / f"2008_{split}{stem}.png", ids)


def pascal_context_as_packed(root: Path, split: str, stem: str, ids: list[int]) -> Path:
    picture(root / "JPEGImages" / f"2008_{split}{stem}.jpg", len(ids))
    enlist(root / "ImageSets" / "Main" / f"{split}.txt", f"2008_{split}{stem}")
    path = root / "trainval" / f"2008_{split}{stem}.mat"
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"LabelMap": np.array([ids], np.uint16)})
    return path


def coco_stuff_10k(root: Path, split: str, stem: str, ids: list[int]) -> Path:
    picture(root / "images" / f"COCO_train2014_{split}{stem}.jpg", len(ids))
    enlist(root / "imageLists" / f"{'test' if split == 'val' else split}.txt", f"COCO_train2014_{split}{stem}")
    path = root / "annotations" / f"COCO_train2014_{split}{stem}.mat"
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"S": np.array([ids], np.uint16), "names": ["unlabeled"]}, do_compression=True)
    return path


def coco_stuff_164k(
    root: Path, split: str, stem: str, ids: list[int], maps: str = "stuffthingmaps", ending: str = ""
) -> Path:
    picture(root / "images" / f"{split}2017" / f"{stem}.jpg", len(ids))
    return label(root / maps / f"{split}2017" / f"{stem}{ending}.png", ids)


LAYOUTS: dict[str, Write] = {
    "ade20k": ade20k,
    "camvid": camvid,
    "cityscapes": cityscapes,
    "coco-stuff-10k": coco_stuff_10k,
    "coco-stuff-164k": coco_stuff_164k,
    "pascal-context": pascal_context,
    "voc": voc,
}
MEANING: dict[str, dict[int, tuple[int, str] | None]] = {
    "ade20k": {0: None, 1: (0, "wall"), 2: (1, "building"), 13: (12, "person"), 90: (89, "television"),
               150: (149, "flag")},
    "camvid": {0: (0, "sky"), 10: (10, "bicyclist"), 11: None},
    "cityscapes": {0: None, 1: None, 6: None, 7: (0, "road"), 8: (1, "sidewalk"), 9: None, 10: None, 18: None,
                   26: (13, "car"), 28: (15, "bus"), 29: None, 30: None, 31: (16, "train"), 33: (18, "bicycle")},
    "coco-stuff-10k": {0: None, 1: (0, "person"), 11: (10, "fire hydrant"), 13: (11, "stop sign"),
                       90: (79, "toothbrush"), 92: (80, "banner"), 182: (170, "wood")},
    "coco-stuff-164k": {0: (0, "person"), 10: (10, "fire hydrant"), 12: (11, "stop sign"), 89: (79, "toothbrush"),
                        91: (80, "banner"), 181: (170, "wood"), 255: None},
    "pascal-context": {0: None, 1: (0, "aeroplane"), 2: (1, "bag"), 55: (54, "tvmonitor"), 58: (57, "window"),
                       59: (58, "wood")},
    "voc": {0: (0, "background"), 1: (1, "aeroplane"), 15: (15, "person"), 20: (20, "tvmonitor"), 255: None},
}  # fmt: skip
"""Ids in files: class and name, from the lists that the data sets' authors publish; None counts nowhere."""
FOREIGN = {
    "ade20k": (151, 255),  # 255: "other" was made to be ignored and the classes moved down already
    "camvid": (12, 255),
    "cityscapes": (34, 255),  # 255: train ids under the name of label ids
    "coco-stuff-10k": (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91, 183, 255),
    "coco-stuff-164k": (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90, 182),
    "pascal-context": (60, 255),
    "voc": (21, 254),
}
USUAL = {
    "ade20k": ("20210", "2000"),
    "camvid": ("367", "101"),
    "cityscapes": ("2975", "500"),
    "coco-stuff-10k": ("9000", "1000"),
    "coco-stuff-164k": ("118287", "5000"),
    "pascal-context": ("4998 or 4996", "5105 or 5104"),
    "voc": ("10582 or 1464", "1449"),
}
NAMES = sorted(LAYOUTS)


def tree(root: Path, name: str, train: int = 2, val: int = 1) -> Path:
    ids = list(MEANING[name])
    for split, count in (("train", train), ("val", val)):
        for i in range(count):
            LAYOUTS[name](root, split, f"{i:06}", ids)
    return root


def load(name: str, root: Path) -> DataSource:
    return load_data(f"{name}:{root}")


# What holds for all of them


def test_every_data_set_that_lies_in_a_folder_is_tested_here() -> None:
    assert set(components("data")) - {"streets"} == set(LAYOUTS) == set(MEANING) == set(FOREIGN) == set(USUAL)


@pytest.mark.parametrize("name", components("data"))
def test_classes_have_different_names_and_a_colour_each(name: str) -> None:
    module = import_module(find_data(name))
    assert len(module.CLASSES) == len(module.PALETTE) == len(set(module.CLASSES))
    assert len(module.CLASSES) <= UNLABELED
    assert all(word == word.strip() and word for word in module.CLASSES)
    assert all(len(color) == 3 and 0 <= min(color) <= max(color) <= 255 for color in module.PALETTE)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_alone_asks_where_the_data_is(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEGDISTILL_DATA", raising=False)
    with pytest.raises(UsageError, match=f"{name}:PATH"):
        load_data(name)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_of_another_layout_is_described_with_what_was_expected(name: str, tmp_path: Path) -> None:
    (tmp_path / "nothing of it").mkdir()
    with pytest.raises(DataError, match=rf"not laid out as {name} is: it has nothing of it\.") as caught:
        load(name, tmp_path)
    assert caught.value.fix.startswith("Expected ")


@pytest.mark.parametrize("name", NAMES)
def test_ids_in_files_become_the_classes_of_the_published_lists(name: str, tmp_path: Path) -> None:
    source = load(name, tree(tmp_path, name))
    meant = list(MEANING[name].values())
    for split in ("train", "val"):
        sample = source.split(split).read(0)
        assert sample.label.tolist() == [[IGNORE if entry is None else entry[0] for entry in meant]]
        assert (tmp_path / sample.name).is_file()
    assert all(source.classes[entry[0]] == entry[1] for entry in meant if entry is not None)
    census = check_files(source, ["train"])
    assert census.ignored["train"] == 2 * meant.count(None)


@pytest.mark.parametrize(("name", "foreign"), [(name, id_) for name in NAMES for id_ in FOREIGN[name]])
def test_an_id_that_the_data_set_has_not_is_refused_with_its_file(name: str, foreign: int, tmp_path: Path) -> None:
    path = LAYOUTS[name](tree(tmp_path, name), "train", "999999", [foreign, *MEANING[name]])
    with pytest.raises(DataError, match=rf"{foreign} \(1 px\)") as caught:
        load(name, tmp_path).split("train").read(2)
    assert str(path) in caught.value.what


@pytest.mark.parametrize("name", NAMES)
def test_an_image_without_its_label_is_refused_with_its_name(name: str, tmp_path: Path) -> None:
    path = LAYOUTS[name](tree(tmp_path, name), "train", "999999", list(MEANING[name]))
    path.unlink()
    with pytest.raises(DataError, match=r"1 file is in .* without a partner") as caught:
        load(name, tmp_path)
    assert "999999" in caught.value.what


@pytest.mark.parametrize("name", NAMES)
def test_a_label_without_its_image_is_refused_with_its_name(name: str, tmp_path: Path) -> None:
    LAYOUTS[name](tree(tmp_path, name), "train", "999999", list(MEANING[name]))
    source = load(name, tmp_path)
    (tmp_path / source.split("train").names[2]).unlink()
    with pytest.raises(DataError, match=r"1 file is in .* without a partner") as caught:
        load(name, tmp_path)
    assert "999999" in caught.value.what


@pytest.mark.parametrize("name", NAMES)
def test_unusual_numbers_of_images_are_warnings(name: str, tmp_path: Path) -> None:
    train, val = USUAL[name]
    assert load(name, tree(tmp_path, name)).warnings[-2:] == (
        f"{name}'s train split has 2 images here; it usually has {train}.",
        f"{name}'s val split has 1 images here; it usually has {val}.",
    )


def test_usual_numbers_of_images_are_no_warnings(tmp_path: Path) -> None:
    source = load("ade20k", tree(tmp_path, "ade20k"))
    usual = {"train": (2, 5), "val": (3, 1)}
    assert data_source("a", source.classes, source.palette, source.splits, usual).warnings == ()


@pytest.mark.parametrize("name", NAMES)
def test_what_loader_workers_are_given_survives_the_way_into_a_fresh_process(name: str, tmp_path: Path) -> None:
    split = load(name, tree(tmp_path, name)).split("train")
    copy = pickle.loads(pickle.dumps(split))
    assert np.array_equal(copy.read(1).label, split.read(1).label)


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("ade20k", "ADEChallengeData2016"),
        ("coco-stuff-10k", "cocostuff-10k-v1.1"),
        ("pascal-context", "VOC2010"),
        ("pascal-context", "VOCdevkit/VOC2010"),
        ("voc", "VOC2012"),
        ("voc", "VOCdevkit/VOC2012"),
    ],
)
def test_the_folder_that_an_archive_unpacks_to_may_be_left_out(name: str, folder: str, tmp_path: Path) -> None:
    root = tree(tmp_path / folder, name)
    assert load(name, tmp_path).fingerprint == load(name, root).fingerprint


@pytest.mark.parametrize("name", ["ade20k", "cityscapes", "coco-stuff-164k"])
def test_an_absent_split_is_a_warning(name: str, tmp_path: Path) -> None:
    source = load(name, tree(tmp_path, name, train=0))
    assert list(source.splits) == ["val"]
    assert f"{name} has no train split here." in source.warnings
    with pytest.raises(DataError) as caught:
        mixture(source, DataConfig(name=name, crop=(8, 8), batch_size=2))
    assert str(caught.value.fix) == "Splits that it has: val."


# Cityscapes: ids, train ids, test images without labels, coarse labels


def test_train_ids_are_read_where_they_are_complete(tmp_path: Path) -> None:
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


def test_label_ids_under_the_name_of_train_ids_are_refused(tmp_path: Path) -> None:
    cityscapes(tmp_path, "train", "0", [7, 26], "gtFine_labelTrainIds")
    with pytest.raises(DataError, match=r"labelTrainIds\.png has class ids .* 26 \(1 px\)") as caught:
        load("cityscapes", tmp_path).split("train").read(0)
    assert caught.value.fix == "Allowed ids: 0-18, 255."


def test_what_else_lies_beside_the_labels_is_passed_over(tmp_path: Path) -> None:
    cityscapes(tmp_path, "val", "0", [7])
    for kind in ("instanceIds", "color"):
        label(tmp_path / "gtFine" / "val" / "ulm" / f"ulm_0_gtFine_{kind}.png", [99])
    (tmp_path / "gtFine" / "val" / "ulm" / "ulm_0_gtFine_polygons.json").write_text("{}")
    (tmp_path / "leftImg8bit" / "val" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "leftImg8bit" / "val" / "license.txt").touch()
    assert load("cityscapes", tmp_path).split("val").names == ("leftImg8bit/val/ulm/ulm_0_leftImg8bit.png",)


def test_the_test_images_have_no_labels_even_where_dummies_are_there(tmp_path: Path) -> None:
    cityscapes(tmp_path, "val", "0", [7])
    cityscapes(tmp_path, "test", "0", [1, 2, 3])
    picture(tmp_path / "leftImg8bit" / "test" / "ulm" / "ulm_1_leftImg8bit.png", 3)
    test = load("cityscapes", tmp_path).split("test")
    assert test.names == tuple(f"leftImg8bit/test/ulm/ulm_{i}_leftImg8bit.png" for i in range(2))
    assert test.read(0).label.tolist() == [[UNLABELED] * 3]


def test_images_of_a_split_without_a_folder_of_labels_are_left_out_with_a_warning(tmp_path: Path) -> None:
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


def test_a_link_to_a_city_that_is_gone_is_named(tmp_path: Path) -> None:
    cityscapes(tmp_path, "val", "0", [7])
    (tmp_path / "leftImg8bit" / "val" / "bonn").symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match=r"val/bonn cannot be read: No such file"):
        load("cityscapes", tmp_path)


def test_a_folder_without_images_is_refused_with_the_pattern_of_their_names(tmp_path: Path) -> None:
    picture(tmp_path / "leftImg8bit" / "test" / "ulm" / "renamed.png", 3)
    with pytest.raises(DataError, match=r"leftImg8bit/test/\*/\*_leftImg8bit has no images"):
        load("cityscapes", tmp_path)


def test_coarse_labels_and_extra_images_are_splits_where_they_are_there(tmp_path: Path) -> None:
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


def test_the_ids_for_the_benchmark_s_server_are_those_that_are_read(tmp_path: Path) -> None:
    cityscapes(tmp_path, "val", "0", list(LABEL_IDS))
    assert load("cityscapes", tmp_path).split("val").read(0).label.tolist() == [list(range(19))]


# VOC: palettes, lists, and images of val among those of train


@pytest.mark.promise("D3")
def test_a_palette_image_read_in_grey_would_have_other_ids(tmp_path: Path) -> None:
    path = voc(tmp_path, "train", "0", [0, 15, 20, 255])
    voc(tmp_path, "val", "0", [0])
    assert load("voc", tmp_path).split("train").read(0).label.tolist() == [[0, 15, 20, IGNORE]]
    with Image.open(path) as image:
        grey = image.convert("L")
    assert np.asarray(grey).tolist() != [[0, 15, 20, 255]]
    with Image.open(path) as image:
        colored = image.convert("RGB")
    colored.save(path)
    with pytest.raises(DataError, match="holds colours"):
        load("voc", tmp_path).split("train").read(0)


def test_voc_s_colours_are_those_of_the_development_kit() -> None:
    known = {0: (0, 0, 0), 1: (128, 0, 0), 8: (64, 0, 0), 15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)}
    assert {id_: colors(range(256))[id_] for id_ in known} == known
    assert colors(range(21)) == PALETTE
    assert len(set(colors(range(256)))) == 256


@pytest.mark.parametrize("file", ["trainaug", "train_aug"])
def test_voc_trains_on_the_augmented_list_where_it_is_there_and_says_so(file: str, tmp_path: Path) -> None:
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


def test_images_of_val_are_not_trained_on_even_if_the_list_names_them(tmp_path: Path) -> None:
    voc(tmp_path, "val", "0", [2])
    voc(tmp_path, "val", "0", [2], file="train")
    with pytest.raises(DataError, match=r"train\.txt has no images"):
        load("voc", tmp_path)
    voc(tmp_path, "train", "0", [1])
    source = load("voc", tmp_path)
    assert source.split("train").names == ("JPEGImages/2007_train0.jpg",)
    assert "1 images of ImageSets/Segmentation/train.txt are those of val.txt: they are not trained on." in (
        source.warnings
    )


def test_lists_may_name_files_with_folders_and_label_maps_and_have_empty_lines(tmp_path: Path) -> None:
    voc(tmp_path, "val", "0", [2])
    voc(tmp_path, "train", "0", [1])
    file = tmp_path / "ImageSets" / "Segmentation" / "train.txt"
    plain = load("voc", tmp_path).fingerprint
    file.write_text("\n/JPEGImages/2007_train0.jpg /SegmentationClass/2007_train0.png\r\n\n")
    assert load("voc", tmp_path).fingerprint == plain
    file.write_bytes(b"\xef\xbb\xbfJPEGImages\\2007_train0.jpg SegmentationClass\\2007_train0.png\r\n")
    assert load("voc", tmp_path).fingerprint == plain


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("voc", "ImageSets/Segmentation/val.txt"),
        ("pascal-context", "ImageSets/SegmentationContext/val.txt"),
        ("coco-stuff-10k", "imageLists/test.txt"),
    ],
)
def test_a_split_without_its_list_is_told_and_the_others_are_there(tmp_path: Path, name: str, file: str) -> None:
    tree(tmp_path, name)
    (tmp_path / file).unlink()
    source = load(name, tmp_path)
    assert list(source.splits) == ["train"]
    assert f"{name} has no val split here." in source.warnings
    with pytest.raises(DataError, match="has no val split"):
        source.split("val")


def test_where_all_lists_are_gone_one_is_named_with_what_there_is(tmp_path: Path) -> None:
    tree(tmp_path, "voc")
    shutil.rmtree(tmp_path / "ImageSets")
    with pytest.raises(DataError, match=r"train\.txt cannot be read: No such file") as caught:
        load("voc", tmp_path)
    assert caught.value.fix == f"{tmp_path} has JPEGImages, SegmentationClass."


def test_images_outside_the_lists_are_passed_over(tmp_path: Path) -> None:
    tree(tmp_path, "pascal-context")
    picture(tmp_path / "JPEGImages" / "2008_unlisted.jpg", 2)
    label(tmp_path / "SegmentationClassContext" / "2008_other.png", [1])
    assert len(load("pascal-context", tmp_path).split("train").names) == 2


def test_of_two_files_of_one_name_it_matters_only_whether_they_are_wanted(tmp_path: Path) -> None:
    tree(tmp_path, "pascal-context")
    for ending in ("jpg", "png"):
        picture(tmp_path / "JPEGImages" / f"2008_unlisted.{ending}", 2)
        label(tmp_path / "SegmentationClassContext" / f"2008_other.{ending}", [1])
    assert len(load("pascal-context", tmp_path).split("train").names) == 2
    picture(tmp_path / "JPEGImages" / "2008_train000001.png", 2)
    with pytest.raises(DataError, match=r"1 file is in .*JPEGImages with more than one ending: 2008_train000001\n"):
        load("pascal-context", tmp_path)


# COCO-Stuff: two places for label maps, MATLAB files


def test_label_maps_may_lie_in_annotations_beside_those_that_another_tool_converted(tmp_path: Path) -> None:
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


def test_both_cuts_of_coco_stuff_give_an_image_the_same_label(tmp_path: Path) -> None:
    ids = [id_ for id_ in range(1, 183) if id_ not in FOREIGN["coco-stuff-10k"]]
    for split in ("train", "val"):
        coco_stuff_10k(tmp_path / "10k", split, "0", [0, *ids])
        coco_stuff_164k(tmp_path / "164k", split, "0", [255, *(id_ - 1 for id_ in ids)])
    small, large = (load(f"coco-stuff-{cut}", tmp_path / cut) for cut in ("10k", "164k"))
    assert small.split("val").read(0).label.tolist() == [[IGNORE, *range(171)]]
    assert np.array_equal(small.split("train").read(0).label, large.split("train").read(0).label)
    assert (small.classes, small.palette) == (large.classes, large.palette)


def test_label_maps_of_matlab_are_counted_and_told_apart_like_others(tmp_path: Path) -> None:
    ids = np.array([[1, 2, 3], [92, 182, 0]])
    for kind in (np.uint8, np.uint16):
        path = coco_stuff_10k(tmp_path, "train", "0", [1])
        coco_stuff_10k(tmp_path, "val", "0", [1])
        write(tmp_path / "images" / "COCO_train2014_train0.jpg", np.zeros((2, 3, 3), np.uint8))
        savemat(path, {"S": ids.astype(kind)})  # which are read column by column
        census = check_files(load("coco-stuff-10k", tmp_path), ["train"])
        assert {i for i in range(171) if census.pixels["train"][i]} == {0, 1, 2, 80, 170}
        assert census.ignored == {"train": 1}


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
def test_a_matrix_of_doubles_is_read_however_small_its_numbers_are_stored(
    number: int, kind: str, tmp_path: Path
) -> None:
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


# PASCAL-Context as its authors pack it


def test_the_459_classes_of_pascal_contexts_authors_become_the_59(tmp_path: Path) -> None:
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


def test_converted_label_maps_of_pascal_context_come_before_its_authors(tmp_path: Path) -> None:
    for split in ("train", "val"):
        pascal_context_as_packed(tmp_path, split, "0", [458, 2])
        pascal_context(tmp_path, split, "0", [1, 59])
    assert load("pascal-context", tmp_path).split("val").read(0).label.tolist() == [[0, 58]]
