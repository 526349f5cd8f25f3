"""Cityscapes: street scenes of 2048x1024 pixels from 50 cities, 19 classes; https://www.cityscapes-dataset.com.

Names, ids and colours are those of cityscapesScripts' helpers/labels.py, the folders those of its README. The labels as
they are downloaded, `*_labelIds.png`, hold 34 ids, of which 19 are trained: taking the others for classes, or ids for
classes, is the most common mistake with this data. `*_labelTrainIds.png`, which csCreateTrainIdLabelImgs makes of the
polygons, hold the classes themselves and are read where they are complete.

The labels of the test images are not public, and the files in gtFine/test hold nothing but the borders: that split has
images only, for the benchmark's server.
"""

from pathlib import Path

from segdistill.data._base import SPLITS, DataSource, IdTable, Joined, Split
from segdistill.data._folder import (
    Files,
    FolderSplit,
    data_source,
    files_below,
    id_table,
    layout_root,
    paired,
    unlabeled,
)
from segdistill.errors import DataError
from segdistill.types import IGNORE

CLASSES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"
)  # fmt: skip
PALETTE = (
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30),
    (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70),
    (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32)
)  # fmt: skip
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""The id of each class in `*_labelIds.png`, and in what the benchmark's server takes."""
USUAL = {"train": (2975,), "val": (500,), "test": (1525,), "coarse": (2975 + 19998,), "extra": (19998,)}
"""Images per split."""


def load(path: str) -> DataSource:
    """Find the splits train, val and test; coarse (gtCoarse of train and train_extra) and extra (its images alone)."""
    root = layout_root(
        "cityscapes",
        path,
        known_by=[f"leftImg8bit/{split}" for split in SPLITS],
        expected="leftImg8bit/ and gtFine/, each with train/CITY/, val/CITY/ (absent splits are fine)",
    )
    images = {
        folder: files_below(root, f"leftImg8bit/{folder}", "_leftImg8bit")
        for folder in (*SPLITS, "train_extra")
        if (root / "leftImg8bit" / folder).is_dir()
    }
    there = [split for split in ("train", "val") if split in images]
    bare = [split for split in there if not (root / "gtFine" / split).is_dir()]
    splits: dict[str, Split] = {
        split: _labelled(root, "gtFine", split, images[split]) for split in there if split not in bare
    }
    if "test" in images:
        splits["test"] = unlabeled(root, images["test"])
    coarse = [
        _labelled(root, "gtCoarse", folder, images[folder])
        for folder in ("train", "train_extra")
        if folder in images and (root / "gtCoarse" / folder).is_dir()
    ]
    if coarse:
        splits["coarse"] = Joined(tuple(coarse))
    if "train_extra" in images:
        splits["extra"] = unlabeled(root, images["train_extra"])
    if not splits:
        raise DataError(f"{root} has images and no labels.", "Expected them in gtFine/ (gtFine_trainvaltest.zip).")
    warnings = [f"cityscapes's {split} images are left out: there is no gtFine/{split}/ here." for split in bare]
    return data_source("cityscapes", CLASSES, PALETTE, splits, USUAL, warnings)


def _labelled(root: Path, kind: str, folder: str, images: Files) -> FolderSplit:
    classes = files_below(root, f"{kind}/{folder}", f"_{kind}_labelTrainIds")
    if images.found.keys() <= classes.found.keys():
        return paired(root, images, classes, _train_ids())
    return paired(root, images, files_below(root, f"{kind}/{folder}", f"_{kind}_labelIds"), _label_ids())


def _train_ids() -> IdTable:
    return id_table({i: i for i in range(len(CLASSES))} | {IGNORE: IGNORE})


def _label_ids() -> IdTable:
    """Return the table of 0..33. License plates, -1, are not drawn: 255 shows a file of train ids by a wrong name."""
    return id_table(dict.fromkeys(range(34), IGNORE) | {id_: i for i, id_ in enumerate(LABEL_IDS)})
