"""What a training sees of a data set: images with labels, and those mixed in that have none or are auxiliary."""

from dataclasses import replace

from segdistill.config.schema import DataConfig
from segdistill.data.base import AUXILIARY, DataSource, Split
from segdistill.data.folder import ImageFolder, image_folder
from segdistill.data.splits import ConcatSplit, SubsetSplit
from segdistill.errors import UsageError
from segdistill.wording import counted


def with_auxiliary_split(data: DataSource, config: DataConfig, *, unlabeled: bool = True) -> DataSource:
    """Return the data as a training sees it: what is mixed in is the split `AUXILIARY`.

    Args:
        data: as it was loaded.
        config: which share of the training images keeps its labels, and what comes beside them.
        unlabeled: also mix in images without labels; a teacher's training has no use for them.

    Raises:
        UsageError: if no image keeps its label, or there is no such folder or split.
        DataError: if a folder has no image, or the data lacks a split for training or validation.
    """
    splits = {name: data.split(name) for name in ("train", "val")}
    expected = data.expected
    auxiliary = _auxiliary_splits(data, config, unlabeled=unlabeled)
    if config.labeled < 1:
        splits["train"], unlabeled_rest = _split_off_unlabeled(splits["train"], config.labeled)
        # A class that the labeled part lacks may be in the rest, so that its absence is no mistake.
        expected = frozenset()
        if unlabeled:
            auxiliary.append(unlabeled_rest)
    if unlabeled and data.without_labels is not None:
        auxiliary.append(data.without_labels)
    if unlabeled:
        auxiliary += [image_folder(path) for path in config.unlabeled]
    if auxiliary:
        splits[AUXILIARY] = ConcatSplit(tuple(auxiliary))
    return replace(data, splits=splits, expected=expected)


def _auxiliary_splits(data: DataSource, config: DataConfig, *, unlabeled: bool) -> list[Split]:
    """Return the further splits of the data set that are mixed in; `unlabeled` as in `with_auxiliary_split`."""
    splits = [data.split(name) for name in config.auxiliary]
    if unlabeled:
        return splits
    return [split for split in splits if not isinstance(split, ImageFolder)]


def _split_off_unlabeled(train: Split, labeled_share: float) -> tuple[SubsetSplit, SubsetSplit]:
    """Cut the training split into the images that keep their labels and those that lose them.

    The labeled ones are spread evenly: consecutive images are often frames of one film.

    Raises:
        UsageError: if no image would keep its label.
    """
    images = len(train.names)
    labeled: list[int] = []
    unlabeled: list[int] = []
    for index in range(images):
        # An image keeps its label where the running share passes a whole number.
        if int((index + 1) * labeled_share) > int(index * labeled_share):
            labeled.append(index)
        else:
            unlabeled.append(index)
    if not labeled:
        raise UsageError(
            f"data.labeled={labeled_share} leaves none of {counted(images, 'training image')} with its label.",
            f"Raise data.labeled: one image is a share of 1/{images}.",
        )
    return SubsetSplit(train, tuple(labeled), labels=True), SubsetSplit(train, tuple(unlabeled), labels=False)
