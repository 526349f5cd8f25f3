"""PASCAL-Context: VOC 2010's images with a class for (almost) every pixel, the 59 most frequent ones.

Mottaghi et al. 2014, https://cs.stanford.edu/~roozbeh/pascal-context. Read as mmsegmentation's converter, which is
tools/dataset_converters/pascal_context.py there, writes it into VOC2010/ from trainval_merged.json:
SegmentationClassContext/*.png and ImageSets/SegmentationContext/{train,val}.txt. There 0 is background, which counts
nowhere, and 1..59 are the classes in alphabetical order; 59_labels.txt of the data set's site has another order.
"""

from segdistill.data._base import DataSource
from segdistill.data._folder import data_source, files_in, id_table, layout_root, names_in, paired
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
LABELS, LISTS = "SegmentationClassContext", "ImageSets/SegmentationContext"
USUAL = {"train": (4998, 4996), "val": (5105, 5104)}
"""Images per split: in the paper, and in trainval_merged.json, which came later."""


def load(path: str) -> DataSource:
    """Find train and val."""
    root = layout_root(
        "pascal-context",
        path,
        known_by=[LABELS],
        inside=["VOC2010", "VOCdevkit/VOC2010"],
        expected=f"VOC2010's JPEGImages/ with {LABELS}/ and {LISTS}/, as mmsegmentation converts them",
    )
    images, labels = files_in(root, "JPEGImages"), files_in(root, LABELS)
    ids = id_table({0: IGNORE} | {i + 1: i for i in range(len(CLASSES))})
    splits = {
        split: paired(root, images, labels, ids, listed=names_in(root, f"{LISTS}/{split}.txt")) for split in USUAL
    }
    return data_source("pascal-context", CLASSES, PALETTE, splits, USUAL)
