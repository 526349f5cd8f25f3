"""PASCAL VOC 2012: 20 things and the background; http://host.robots.ox.ac.uk/pascal/VOC/voc2012.

Names and the map of colours are those of the development kit (VOClabelcolormap.m). Its label maps are palette images:
the ids are the indices, and 255, drawn along the edges, is void. Papers train on 10,582 images, those of train.txt and
the ones that SBD (Hariharan et al. 2011) has labels for, less those of val.txt: SegmentationClassAug/ and trainaug.txt,
as semseg, mmsegmentation and others spread them. A label map that is not in there is taken from SegmentationClass/.
"""

from segdistill.data._base import DataSource
from segdistill.data._folder import data_source, files_in, id_table, layout_root, lists_in, paired
from segdistill.types import IGNORE

CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"
)  # fmt: skip
LABELS, AUGMENTED, LISTS = "SegmentationClass", "SegmentationClassAug", "ImageSets/Segmentation"
USUAL = {"train": (10582, 1464), "val": (1449,)}
"""Images per split."""


def colors(ids: range) -> tuple[tuple[int, int, int], ...]:
    """Return the colours of ids: the bits of an id, from its lowest one on, are dealt out to red, green and blue."""

    def channel(id_: int, first: int) -> int:
        return sum((id_ >> (3 * i + first) & 1) << (7 - i) for i in range(3))

    return tuple((channel(id_, 0), channel(id_, 1), channel(id_, 2)) for id_ in ids)


PALETTE = colors(range(len(CLASSES)))


def load(path: str) -> DataSource:
    """Find train, with the augmented labels where they are there, and val, whose images are not trained on."""
    root = layout_root(
        "voc",
        path,
        known_by=[LABELS],
        inside=["VOC2012", "VOCdevkit/VOC2012"],
        expected=f"VOC2012's JPEGImages/, {LABELS}/ and {LISTS}/",
    )
    augmented = [file for name in ("trainaug", "train_aug") if (root / (file := f"{LISTS}/{name}.txt")).is_file()]
    labels = train_labels = files_in(root, LABELS)
    if augmented and (root / AUGMENTED).is_dir():
        train_list, more = augmented[0], ""
        train_labels = files_in(root, AUGMENTED).or_else(labels)  # mmsegmentation's has only what SBD labelled
    else:
        train_list = f"{LISTS}/train.txt"
        more = f" Papers train on the 10582 images of {LISTS}/trainaug.txt with {AUGMENTED}/; not all of that is here."
    lists = lists_in(root, {"train": train_list, "val": f"{LISTS}/val.txt"})
    warnings = [f"voc trains on {train_list} with the labels in {train_labels.place}/.{more}"]
    images, ids = files_in(root, "JPEGImages"), id_table({i: i for i in range(len(CLASSES))} | {255: IGNORE})
    if lists.keys() == {"train", "val"} and (leaked := lists["train"].found.keys() & lists["val"].found.keys()):
        warnings.append(f"{len(leaked)} images of {train_list} are those of val.txt: they are not trained on.")
        lists["train"] = lists["train"].without(leaked)
    splits = {
        split: paired(root, images, train_labels if split == "train" else labels, ids, listed=names)
        for split, names in lists.items()
    }
    return data_source("voc", CLASSES, PALETTE, splits, USUAL, warnings)
