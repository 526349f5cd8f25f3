"""PASCAL-Context: VOC 2010's images with a class for (almost) every pixel, the 59 most frequent ones.

Mottaghi et al. 2014, https://cs.stanford.edu/~roozbeh/pascal-context. Read as its authors pack it, beside VOC 2010's
JPEGImages/ and ImageSets/Main/{train,val}.txt: trainval/*.mat, where a label map is the variable LabelMap and has 459
classes. Or as tools/dataset_converters/pascal_context.py of mmsegmentation writes it from trainval_merged.json:
SegmentationClassContext/*.png and ImageSets/SegmentationContext/{train,val}.txt, where 0 is all that is none of the 59,
and counts nowhere, and 1..59 are the classes in alphabetical order; 59_labels.txt of the data set's site has another.
"""

from functools import partial

from segdistill.data.base import DataSource
from segdistill.data.datasets._matlab import read_mat
from segdistill.data.datasets.voc import colors
from segdistill.data.folder import id_table, pair_files
from segdistill.data.layout import data_source, layout_root
from segdistill.data.listing import files_in, read_lists
from segdistill.types import IGNORE

CLASSES = (
    "aeroplane", "bag", "bed", "bedclothes", "bench", "bicycle", "bird", "boat", "book", "bottle", "building", "bus",
    "cabinet", "car", "cat", "ceiling", "chair", "cloth", "computer", "cow", "cup", "curtain", "dog", "door", "fence",
    "floor", "flower", "food", "grass", "ground", "horse", "keyboard", "light", "motorbike", "mountain", "mouse",
    "person", "plate", "platform", "pottedplant", "road", "rock", "sheep", "shelves", "sidewalk", "sign", "sky", "snow",
    "sofa", "table", "track", "train", "tree", "truck", "tvmonitor", "wall", "water", "window", "wood"
)  # fmt: skip
PALETTE = colors(range(1, 1 + len(CLASSES)))
AUTHORS_IDS = (
    2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144, 158, 159,
    162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355, 360, 366, 368, 397,
    415, 416, 420, 424, 427, 440, 445, 454, 458
)  # fmt: skip
"""The id of each class among the authors' 459, which are in alphabetical order too; the converter has these numbers."""
AUTHORS_LAST_ID = 459
CONVERTED_LABELS = "SegmentationClassContext"
AUTHORS_LABELS = "trainval"
"""Folders of the label maps."""
LIST_FOLDERS = ("ImageSets/SegmentationContext", "ImageSets/Main")
"""Folders of the lists, the converter's before VOC 2010's."""
USUAL_COUNTS = {"train": (4998, 4996), "val": (5105, 5104)}
"""Images per split: in the paper, and in trainval_merged.json, which came later."""
CONVERTED_CLASSES = {0: IGNORE} | {1 + i: i for i in range(len(CLASSES))}
AUTHORS_CLASSES = dict.fromkeys(range(AUTHORS_LAST_ID + 1), IGNORE) | {id_: i for i, id_ in enumerate(AUTHORS_IDS)}
"""From ids to classes."""
read_authors_map = partial(
    read_mat, name="LabelMap", expected="Expected a file of trainval.tar.gz, with LabelMap in it."
)
"""Reads a label map of the authors'."""


def load(path: str) -> DataSource:
    """Find train and val; label maps that were converted come before the authors' own."""
    root = layout_root(
        "pascal-context",
        path,
        known_by=[CONVERTED_LABELS, AUTHORS_LABELS],
        inside=["VOC2010", "VOCdevkit/VOC2010"],
        expected=f"VOC2010's JPEGImages/ and ImageSets/ with {AUTHORS_LABELS}/*.mat, or {CONVERTED_LABELS}/ of "
        "mmsegmentation's. 59_context_labels/ is not read: its classes have another order",
    )
    images = files_in(root, "JPEGImages")
    if (root / CONVERTED_LABELS).is_dir():
        labels = files_in(root, CONVERTED_LABELS)
        pair = partial(pair_files, classes_by_id=id_table(CONVERTED_CLASSES))
    else:
        labels = files_in(root, AUTHORS_LABELS, suffixes=[".mat"])
        pair = partial(pair_files, classes_by_id=id_table(AUTHORS_CLASSES), decode=read_authors_map)
    list_folder = next((folder for folder in LIST_FOLDERS if (root / folder).is_dir()), LIST_FOLDERS[0])
    lists = read_lists(root, {split: f"{list_folder}/{split}.txt" for split in USUAL_COUNTS})
    splits = {split: pair(root, images, labels, listed_images=names) for split, names in lists.items()}
    return data_source("pascal-context", classes=CLASSES, palette=PALETTE, splits=splits, usual_counts=USUAL_COUNTS)
