"""Label maps as the Cityscapes benchmark's server takes them.

By cityscapesScripts' evaluation/evalPixelLevelSemanticLabeling.py (`getPrediction`, `evaluatePair`), which also scores
them on the validation images: for each image exactly one PNG of one channel and of the image's size, named
<city>_123456_123456*.png, whose pixels are the ids of helpers/labels.py and not the 19 train ids.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from segdistill.data.datasets.cityscapes import CLASSES, LABEL_IDS, USUAL_COUNTS
from segdistill.errors import DataError, UsageError
from segdistill.evaluation.evaluate import predict_labels
from segdistill.evaluation.metrics import Scores
from segdistill.storage.atomic import write_atomic
from segdistill.types import Batch
from segdistill.wording import listed

SIZE = (1024, 2048)
"""Height and width of every image of Cityscapes."""
IMAGE_NAME = re.compile(r"[a-z-]+_\d{6}_\d{6}(?=_)")
"""City, sequence and frame, by which the server knows an image."""
COUNTS = {split: USUAL_COUNTS[split][0] for split in ("val", "test")}
"""Numbers of images of the splits that a submission can be of."""
UNLABELED = 0
"""Id, in helpers/labels.py, of what a network with a void output takes for void."""
MAX_LISTED = 5
"""Files in a message."""


def plan_submission(images: Sequence[str], folder: Path, *, overwrite: bool) -> dict[str, Path]:
    """Return where the label map of each image goes.

    Args:
        images: names of a split's samples.
        folder: where all label maps go, made where it is missing.
        overwrite: replace label maps of these images that are there.

    Raises:
        UsageError: if the folder holds anything else, or they are there and `overwrite` was not asked for.
        DataError: if an image has not the name of one of Cityscapes, or two have the same.
    """
    targets = _name_targets(images, folder)
    existing = set(folder.iterdir()) if folder.is_dir() else set()
    if existing and not overwrite:
        raise UsageError(f"{folder} is not empty.", "Add --overwrite, or choose another --submission.")
    foreign = sorted(path.name for path in existing - set(targets.values()))
    if foreign:
        raise UsageError(
            f"{folder} holds what is no part of this submission: {listed(foreign, MAX_LISTED)}.",
            "The server would refuse it. Choose another --submission, or delete that.",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be made a folder: {error.strerror}.", "Choose another --submission."
        ) from None
    return targets


@torch.no_grad()
def write_submission(
    predict: Callable[[Tensor], Tensor],
    batches: Iterable[Batch],
    targets: Mapping[str, Path],
    on_batch: Callable[[int], None],
) -> Scores:
    """Write the label map of every image.

    Args:
        predict: images (B, 3, h, w) in 0..255 to logits (B, 19, h', w'), or 20 with void.
        batches: those of `evaluation_batches`.
        targets: those of `plan_submission`.
        on_batch: called with the number of images done.

    Returns:
        The scores where there are labels.

    Raises:
        DataError: if an image has not Cityscapes' size.
    """
    # By the class's train id; the last is the answer of a network with a void output.
    server_ids = np.array([*LABEL_IDS, UNLABELED], np.uint8)
    scores = Scores.empty(len(CLASSES))
    for batch in batches:
        height, width = batch.label.shape[-2:]
        if (height, width) != SIZE:
            raise DataError(
                f"{batch.names[0]} has {width}x{height} pixels.",
                f"The server takes label maps of {SIZE[1]}x{SIZE[0]}: use the images as they are downloaded.",
            )
        prediction = predict_labels(predict, batch.image, SIZE)
        scores += Scores.of(prediction, batch.label, len(CLASSES))
        for name, class_ids in zip(batch.names, prediction.numpy(), strict=True):
            content = BytesIO()
            Image.fromarray(server_ids[class_ids]).save(content, "PNG")
            write_atomic(targets[name], content.getvalue())
        on_batch(len(batch.names))
    return scores


def _name_targets(images: Sequence[str], folder: Path) -> dict[str, Path]:
    """Return the path of each image's label map, named by city, sequence and frame.

    Raises:
        DataError: if an image has not the name of one of Cityscapes, or two have the same.
    """
    targets: dict[str, Path] = {}
    images_by_name: dict[str, str] = {}
    for image in images:
        match = IMAGE_NAME.match(Path(image).name)
        if match is None:
            raise DataError(f"{image} is not named as Cityscapes' images are.", "Expected CITY_123456_123456_*.png.")
        name = match[0]
        first = images_by_name.setdefault(name, image)
        if first != image:
            raise DataError(f"{first} and {image} are both {name}.", "The server takes one label map of each.")
        targets[image] = folder / f"{name}_labelIds.png"
    return targets
