"""PASCAL-Context: VOC 2010's images with a class for (almost) every pixel, the 59 most frequent ones.

Mottaghi et al. 2014, https://cs.stanford.edu/~roozbeh/pascal-context. Read as its authors pack it, beside VOC 2010's
JPEGImages/ and ImageSets/Main/{train,val}.txt: trainval/*.mat, where a label map is the variable LabelMap and has 459
classes. Or as tools/dataset_converters/pascal_context.py of mmsegmentation writes it from trainval_merged.json:
SegmentationClassContext/*.png and ImageSets/SegmentationContext/{train,val}.txt, where 0 is all that is none of the 59,
and counts nowhere, and 1..59 are the classes in alphabetical order; 59_labels.txt of the data set's site has another.
"""

from functools import partial

from segdistill.data._base import DataSource
from segdistill.data._folder import data_source, files_in, id_table, layout_root, lists_in, paired
from segdistill.data._image import decode_label
from segdistill.data._matlab import read_mat
from segdistill.data.voc import colors
from segdistill.types import IGNORE

CLASSES = (
    "aeroplane", "bag", "bed", "bedclothes", "bench", "bicycle", "bird", "boat", "book", "bottle", "building", "bus",
    "cabinet", "car", "cat", "ceiling", "chair", "cloth", "computer", "cow", "cup", "curtain", "dog", "door", "fence",
    "floor", "flower", "food", "grass", "ground", "horse", "keyboard", "light", "motorbike", "mountain", "mouse",
    "person", "plate", "platform", "pottedplant", "road", "rock", "sheep", "shelves", "sidewalk", "sign", "sky", "snow",
    "sofa", "table", "track", "train", "tree", "truck", "tvmonitor", "wall", "water", "window", "wood"
)  # fmt: skip
PALETTE = colors(range(1, 1 + len(CLASSES)))
OWN_IDS = (
    2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144, 158, 159,
    162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355, 360, 366, 368, 397,
    415, 416, 420, 424, 427, 440, 445, 454, 458
)  # fmt: skip
"""What the classes are among the authors' 459, which are in alphabetical order too; the converter has these numbers."""
LABELS, OWN_LABELS = "SegmentationClassContext", "trainval"
LISTS = ("ImageSets/SegmentationContext", "ImageSets/Main")
USUAL = {"train": (4998, 4996), "val": (5105, 5104)}
"""Images per split: in the paper, and in trainval_merged.json, which came later."""
CONVERTED = {0: IGNORE} | {1 + i: i for i in range(len(CLASSES))}
OWN = dict.fromkeys(range(460), IGNORE) | {id_: i for i, id_ in enumerate(OWN_IDS)}
"""From ids to classes."""
read_own = partial(read_mat, name="LabelMap", expected="Expected a file of trainval.tar.gz, with LabelMap in it.")
"""Reads a label map of the authors'."""


def load(path: str) -> DataSource:
    """Find train and val; label maps that were converted come before the authors' own."""
    root = layout_root(
        "pascal-context",
        path,
        known_by=[LABELS, OWN_LABELS],
        inside=["VOC2010", "VOCdevkit/VOC2010"],
        expected=f"VOC2010's JPEGImages/ and ImageSets/ with {OWN_LABELS}/*.mat, or {LABELS}/ of mmsegmentation's. "
        "59_context_labels/ is not read: its classes have another order",
    )
    images = files_in(root, "JPEGImages")
    if (root / LABELS).is_dir():
        labels, ids, decode = files_in(root, LABELS), id_table(CONVERTED), decode_label
    else:
        labels, ids, decode = files_in(root, OWN_LABELS, suffixes=[".mat"]), id_table(OWN), read_own
    lists = next((folder for folder in LISTS if (root / folder).is_dir()), LISTS[0])
    splits = {
        split: paired(root, images, labels, ids, listed=names, decode=decode)
        for split, names in lists_in(root, {split: f"{lists}/{split}.txt" for split in USUAL}).items()
    }
    return data_source("pascal-context", CLASSES, PALETTE, splits, USUAL)
