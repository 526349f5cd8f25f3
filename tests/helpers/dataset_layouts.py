"""One image with its label in the layout of each public data set."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.io import savemat

from segdistill.data import DataSource, load_data
from segdistill.data.datasets.voc import colors

Pixels = npt.NDArray[np.uint8]
Write = Callable[[Path, str, str, list[int]], Path]


def write(path: Path, pixels: Pixels) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def picture(path: Path, width: int) -> Path:
    """Write an image whose pixels depend on its name and its folders' alone."""
    rng = np.random.default_rng(list("/".join(path.parts[-3:]).encode()))
    return write(path, rng.integers(0, 256, (1, width, 3), np.uint8))


def label(path: Path, ids: list[int]) -> Path:
    return write(path, np.array([ids], np.uint8))


def enlist(path: Path, line: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(line + "\n")


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


def tree(root: Path, name: str, train: int = 2, val: int = 1) -> Path:
    ids = list(MEANING[name])
    for split, count in (("train", train), ("val", val)):
        for i in range(count):
            LAYOUTS[name](root, split, f"{i:06}", ids)
    return root


def load(name: str, root: Path) -> DataSource:
    return load_data(f"{name}:{root}")
