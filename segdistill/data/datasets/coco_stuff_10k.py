"""COCO-Stuff 10K: 10,000 of COCO's images, the classes of `coco_stuff_164k`; https://github.com/nightrome/cocostuff10k.

Read as cocostuff-10k-v1.1.zip has it: images/*.jpg, annotations/*.mat, imageLists/{train,test}.txt. A label map is the
variable S of a MATLAB file and holds COCO's ids, 0 where nothing is labeled. Version 1.0, which had other ids, is in a
newer format of MATLAB's and refused.
"""

from functools import partial

from segdistill.data.base import DataSource
from segdistill.data.datasets._matlab import read_mat
from segdistill.data.datasets.coco_stuff_164k import CLASSES, COCO_IDS, PALETTE
from segdistill.data.folder import id_table, pair_files
from segdistill.data.layout import data_source, layout_root
from segdistill.data.listing import files_in, read_lists
from segdistill.types import IGNORE

LIST_FILES = {"train": "imageLists/train.txt", "val": "imageLists/test.txt"}
"""List of each split's images."""
USUAL_COUNTS = {"train": (9000,), "val": (1000,)}
"""Images per split."""
read_map = partial(read_mat, name="S", expected="Expected a file of cocostuff-10k-v1.1.zip, with S in it.")
"""Reads a label map."""


def load(path: str) -> DataSource:
    """Find train, and val, which its authors call test."""
    root = layout_root(
        "coco-stuff-10k",
        path,
        known_by=["imageLists"],
        inside=["cocostuff-10k-v1.1"],
        expected="images/, annotations/ and imageLists/ of cocostuff-10k-v1.1.zip",
    )
    images = files_in(root, "images")
    labels = files_in(root, "annotations", suffixes=[".mat"])
    ids = id_table({0: IGNORE} | {id_: i for i, id_ in enumerate(COCO_IDS)})
    splits = {}
    for split, names in read_lists(root, LIST_FILES).items():
        splits[split] = pair_files(root, images, labels, classes_by_id=ids, listed_images=names, decode=read_map)
    return data_source("coco-stuff-10k", classes=CLASSES, palette=PALETTE, splits=splits, usual_counts=USUAL_COUNTS)
