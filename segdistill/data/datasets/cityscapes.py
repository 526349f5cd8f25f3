"""Cityscapes: street scenes of 2048x1024 pixels from 50 cities, 19 classes; https://www.cityscapes-dataset.com.

Names, ids and colors are those of cityscapesScripts' helpers/labels.py, the folders those of its README. The labels as
they are downloaded, `*_labelIds.png`, hold 34 ids, of which 19 are trained: taking the others for classes, or ids for
classes, is the most common mistake with this data. `*_labelTrainIds.png`, which csCreateTrainIdLabelImgs makes of the
polygons, hold the classes themselves and are read where they are complete.

The labels of the test images are not public, and the files in gtFine/test hold nothing but the borders: that split has
images only, for the benchmark's server.
"""

from collections.abc import Mapping
from pathlib import Path

from segdistill.data.base import SPLITS, DataSource, IdTable, Split
from segdistill.data.folder import FolderSplit, id_table, pair_files, unlabeled_split
from segdistill.data.layout import data_source, layout_root
from segdistill.data.listing import FileIndex, files_below
from segdistill.data.splits import ConcatSplit
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
LAST_ID = 33
"""The largest id in `*_labelIds.png`; ids up to it that are no class's count nowhere."""
LABELED_SPLITS = ("train", "val")
EXTRA_FOLDER = "train_extra"
"""Folder of the further training images, which have coarse labels only."""
COARSE_FOLDERS = ("train", EXTRA_FOLDER)
"""Folders whose coarse labels are trained on; those of val would be trained on its images."""
USUAL_COUNTS = {"train": (2975,), "val": (500,), "test": (1525,), "coarse": (2975 + 19998,), "extra": (19998,)}
"""Images per split."""

Images = Mapping[str, FileIndex]
"""The images in each folder of leftImg8bit/ that is there."""


def load(path: str) -> DataSource:
    """Find the splits train, val and test; coarse (gtCoarse of train and train_extra) and extra (its images alone)."""
    root = layout_root(
        "cityscapes",
        path,
        known_by=[f"leftImg8bit/{split}" for split in SPLITS],
        expected="leftImg8bit/ and gtFine/, each with train/CITY/, val/CITY/ (absent splits are fine)",
    )
    images = {}
    for folder in (*SPLITS, EXTRA_FOLDER):
        if (root / "leftImg8bit" / folder).is_dir():
            images[folder] = files_below(root, f"leftImg8bit/{folder}", "_leftImg8bit")
    splits = _fine_splits(root, images)
    left_out = images.keys() - splits.keys()
    warnings = [
        f"cityscapes's {folder} images are left out: there is no gtFine/{folder}/ here."
        for folder in LABELED_SPLITS
        if folder in left_out
    ]
    if "test" in images:
        splits["test"] = unlabeled_split(root, images["test"])
    splits |= _coarse_splits(root, images)
    if not splits:
        raise DataError(
            f"{root} has images and no labels.", "Expected: label maps in gtFine/ (gtFine_trainvaltest.zip)."
        )
    return data_source(
        "cityscapes",
        classes=CLASSES,
        palette=PALETTE,
        splits=splits,
        usual_counts=USUAL_COUNTS,
        warnings=warnings,
    )


def _fine_splits(root: Path, images: Images) -> dict[str, Split]:
    """Return train and val as far as both their images and their fine labels are there."""
    splits: dict[str, Split] = {}
    for folder in _labeled_folders(root, "gtFine", images=images):
        if folder in LABELED_SPLITS:
            splits[folder] = _labeled_split(root, "gtFine", folder, images=images[folder])
    return splits


def _coarse_splits(root: Path, images: Images) -> dict[str, Split]:
    """Return what stands beside the fine labels: coarse ones, and the further images without any."""
    splits: dict[str, Split] = {}
    coarse_folders = [
        folder for folder in _labeled_folders(root, "gtCoarse", images=images) if folder in COARSE_FOLDERS
    ]
    if coarse_folders:
        parts = [_labeled_split(root, "gtCoarse", folder, images=images[folder]) for folder in coarse_folders]
        splits["coarse"] = ConcatSplit(tuple(parts))
    if EXTRA_FOLDER in images:
        splits["extra"] = unlabeled_split(root, images[EXTRA_FOLDER])
    return splits


def _labeled_folders(root: Path, kind: str, *, images: Images) -> list[str]:
    """Return the folders of images for which there is a folder of labels of this kind, in their order."""
    return [folder for folder in images if (root / kind / folder).is_dir()]


def _labeled_split(root: Path, kind: str, folder: str, *, images: FileIndex) -> FolderSplit:
    """Pair images with their train ids where these are complete, else with the ids as they are downloaded."""
    train_ids = files_below(root, f"{kind}/{folder}", f"_{kind}_labelTrainIds")
    if images.files.keys() <= train_ids.files.keys():
        return pair_files(root, images, train_ids, classes_by_id=_train_ids())
    label_ids = files_below(root, f"{kind}/{folder}", f"_{kind}_labelIds")
    return pair_files(root, images, label_ids, classes_by_id=_label_ids())


def _train_ids() -> IdTable:
    return id_table({i: i for i in range(len(CLASSES))} | {IGNORE: IGNORE})


def _label_ids() -> IdTable:
    """Return the table of 0..33. License plates, -1, are not drawn: 255 shows a file of train ids by a wrong name."""
    ignored = dict.fromkeys(range(LAST_ID + 1), IGNORE)
    return id_table(ignored | {id_: i for i, id_ in enumerate(LABEL_IDS)})
