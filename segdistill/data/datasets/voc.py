"""PASCAL VOC 2012: 20 things and the background; http://host.robots.ox.ac.uk/pascal/VOC/voc2012.

Names and the map of colors are those of the development kit (VOClabelcolormap.m). Its label maps are palette images:
the ids are the indices, and 255, drawn along the edges, is void. Papers train on 10,582 images, those of train.txt and
the ones that SBD (Hariharan et al. 2011) has labels for, less those of val.txt: SegmentationClassAug/ and trainaug.txt,
as semseg, mmsegmentation and others spread them. A label map that is not in there is taken from SegmentationClass/.
"""

from pathlib import Path

from segdistill.data.base import DataSource
from segdistill.data.folder import id_table, pair_files
from segdistill.data.layout import data_source, layout_root, other_layout_advice
from segdistill.data.listing import FileIndex, files_in, read_lists
from segdistill.errors import DataError
from segdistill.types import IGNORE
from segdistill.wording import counted

CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"
)  # fmt: skip
LABELS = "SegmentationClass"
AUGMENTED_LABELS = "SegmentationClassAug"
"""Folders of the label maps."""
LISTS = "ImageSets/Segmentation"
"""Folder of the lists."""
AUGMENTED_LISTS = (f"{LISTS}/trainaug.txt", f"{LISTS}/train_aug.txt")
"""Names under which the list of 10,582 images is spread."""
USUAL_COUNTS = {"train": (10582, 1464), "val": (1449,)}
"""Images per split."""


def colors(ids: range) -> tuple[tuple[int, int, int], ...]:
    """Return the colors of ids: the bits of an id, from its lowest one on, are dealt out to red, green and blue."""
    return tuple((_channel(id_, 0), _channel(id_, 1), _channel(id_, 2)) for id_ in ids)


def _channel(id_: int, first_bit: int) -> int:
    """Return one channel of an id's color: every third bit of the id, the lowest one at the channel's highest place."""
    channel = 0
    for i in range(3):
        bit = id_ >> (3 * i + first_bit) & 1
        channel |= bit << (7 - i)
    return channel


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
    val_labels = files_in(root, LABELS)
    train_list, train_labels, warning = _training_labels(root, val_labels)
    warnings = [warning]
    try:
        lists = read_lists(root, {"train": train_list, "val": f"{LISTS}/val.txt"})
    except DataError as error:
        raise DataError(error.what, f"{error.fix} {other_layout_advice(root)}".strip()) from None
    if lists.keys() == {"train", "val"}:
        leaked = lists["train"].files.keys() & lists["val"].files.keys()
        if leaked:
            warnings.append(f"{counted(len(leaked), 'image')} of {train_list} also in val.txt: not trained on.")
            lists["train"] = lists["train"].without(leaked)
    images = files_in(root, "JPEGImages")
    ids = id_table({i: i for i in range(len(CLASSES))} | {255: IGNORE})
    splits = {}
    for split, names in lists.items():
        labels = train_labels if split == "train" else val_labels
        splits[split] = pair_files(root, images, labels, classes_by_id=ids, listed_images=names)
    return data_source(
        "voc", classes=CLASSES, palette=PALETTE, splits=splits, usual_counts=USUAL_COUNTS, warnings=warnings
    )


def _training_labels(root: Path, labels: FileIndex) -> tuple[str, FileIndex, str]:
    """Return the list to train on, its label maps, and a sentence on which they are: a score depends on that."""
    augmented_list = next((file for file in AUGMENTED_LISTS if (root / file).is_file()), None)
    if augmented_list is not None and (root / AUGMENTED_LABELS).is_dir():
        # The folder that mmsegmentation's converter writes has only what SBD labeled.
        augmented = files_in(root, AUGMENTED_LABELS).with_fallback(labels)
        return augmented_list, augmented, f"voc trains on {augmented_list} with the labels in {augmented.location}/."
    plain_list = f"{LISTS}/train.txt"
    warning = (
        f"voc trains on {plain_list} with the labels in {labels.location}/. Papers train on the 10582 images of "
        f"{LISTS}/trainaug.txt with {AUGMENTED_LABELS}/; not all of that is here."
    )
    return plain_list, labels, warning
