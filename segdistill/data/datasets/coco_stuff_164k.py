"""COCO-Stuff: all labeled images of COCO 2017, 80 things and 91 kinds of stuff; https://github.com/nightrome/cocostuff.

The label maps of stuffthingmaps_trainval2017.zip hold COCO's ids less one, 0..181, and 255 where nothing is labeled.
Eleven of COCO's things were never labeled; the ids after such a gap move up, which leaves 171 classes. Names and ids
are those of labels.txt there.
"""

from pathlib import Path

from segdistill.data.base import DataSource
from segdistill.data.datasets.voc import colors
from segdistill.data.folder import id_table, pair_files
from segdistill.data.layout import data_source, layout_root
from segdistill.data.listing import FileIndex, files_in
from segdistill.types import IGNORE

CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator",
    "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush", "banner", "blanket", "branch",
    "bridge", "building-other", "bush", "cabinet", "cage", "cardboard", "carpet", "ceiling-other", "ceiling-tile",
    "cloth", "clothes", "clouds", "counter", "cupboard", "curtain", "desk-stuff", "dirt", "door-stuff", "fence",
    "floor-marble", "floor-other", "floor-stone", "floor-tile", "floor-wood", "flower", "fog", "food-other", "fruit",
    "furniture-other", "grass", "gravel", "ground-other", "hill", "house", "leaves", "light", "mat", "metal",
    "mirror-stuff", "moss", "mountain", "mud", "napkin", "net", "paper", "pavement", "pillow", "plant-other", "plastic",
    "platform", "playingfield", "railing", "railroad", "river", "road", "rock", "roof", "rug", "salad", "sand", "sea",
    "shelf", "sky-other", "skyscraper", "snow", "solid-other", "stairs", "stone", "straw", "structural-other", "table",
    "tent", "textile-other", "towel", "tree", "vegetable", "wall-brick", "wall-concrete", "wall-other", "wall-panel",
    "wall-stone", "wall-tile", "wall-wood", "water-other", "waterdrops", "window-blind", "window-other", "wood"
)  # fmt: skip
PALETTE = colors(range(1, 1 + len(CLASSES)))
NEVER_LABELED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
"""Ids of street sign, hat, shoe, eye glasses, plate, mirror, window, desk, door, blender, hair brush."""
COCO_IDS = tuple(id_ for id_ in range(1, 183) if id_ not in NEVER_LABELED)
"""The id of each class in COCO; label maps have it, or one less."""
USUAL_COUNTS = {"train": (118287,), "val": (5000,)}
"""Images per split."""
IMAGE_FOLDERS = {split: (f"images/{split}2017", f"{split}2017") for split in USUAL_COUNTS}
"""Folders in which each split's images may lie: as cocostuff's own instructions have it, and as COCO's archives
unpack."""
CONVERTED_ENDING = "_labelTrainIds"
"""End of the names of label maps that mmsegmentation writes beside the original ones."""


def load(path: str) -> DataSource:
    """Find train and val; absent ones and unusual numbers of images are warnings."""
    root = layout_root(
        "coco-stuff-164k",
        path,
        known_by=[folder for folders in IMAGE_FOLDERS.values() for folder in folders],
        expected="images/train2017/, images/val2017/ (or without images/) and stuffthingmaps/train2017/, "
        "stuffthingmaps/val2017/ (or annotations/; absent splits are fine)",
    )
    maps = "stuffthingmaps" if (root / "stuffthingmaps").is_dir() else "annotations"
    ids = id_table({id_ - 1: i for i, id_ in enumerate(COCO_IDS)} | {255: IGNORE})
    splits = {}
    for split in USUAL_COUNTS:
        image_folder = _image_folder(root, split)
        if image_folder is not None:
            images = files_in(root, image_folder)
            splits[split] = pair_files(root, images, _label_maps(root, f"{maps}/{split}2017"), classes_by_id=ids)
    return data_source("coco-stuff-164k", classes=CLASSES, palette=PALETTE, splits=splits, usual_counts=USUAL_COUNTS)


def _image_folder(root: Path, split: str) -> str | None:
    """Return the folder of a split's images; None where it is not there."""
    return next((folder for folder in IMAGE_FOLDERS[split] if (root / folder).is_dir()), None)


def _label_maps(root: Path, folder: str) -> FileIndex:
    """Find the original label maps in a folder."""
    labels = files_in(root, folder)
    return labels.without(key for key in labels.files if key.endswith(CONVERTED_ENDING))
