"""Weights of classes in the loss: from what a configuration says, and from what the labels of the training hold."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from segdistill.config.schema import LossConfig
from segdistill.data import DataSource, VerifiedData
from segdistill.errors import UsageError, nearest

Counts = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float64]


def class_weights(config: LossConfig, data: DataSource) -> list[float] | None:
    """Return the weight of each class, in their order; None where all count alike.

    Of data whose files were not read yet there are no counts: weights that need them are 1 until then.

    Raises:
        UsageError: as `check_class_weights`.
    """
    chosen = config.class_weights
    if chosen == "none":
        return None
    check_class_weights(config, data.classes)
    if isinstance(chosen, Mapping):
        return [chosen.get(name, 1.0) for name in data.classes]
    if not isinstance(chosen, str):
        return list(chosen)
    if not isinstance(data, VerifiedData):
        return [1.0] * len(data.classes)
    report = data.report.splits["train"]
    if chosen == "inverse-log":
        return [float(weight) for weight in inverse_log(report.pixels, config.log_offset)]
    return [float(weight) for weight in median_frequency(report.pixels, report.present)]


def check_class_weights(config: LossConfig, classes: Sequence[str]) -> None:
    """Refuse weights that are not those of the classes.

    Raises:
        UsageError: an unknown class with the nearest names, another number of weights than classes, or only zeros.
    """
    chosen = config.class_weights
    if isinstance(chosen, str):
        return
    if isinstance(chosen, Mapping):
        unknown = [name for name in chosen if name not in classes]
        if unknown:
            raise UsageError(
                f"loss.class_weights has no class of the data: {', '.join(map(repr, unknown))}.",
                nearest(unknown[0], classes),
            )
        values = [chosen.get(name, 1.0) for name in classes]
    else:
        values = list(chosen)
    if len(values) != len(classes):
        raise UsageError(
            f"loss.class_weights has {len(values)} numbers, expected one for each of {len(classes)} classes.",
            "A table by class name may leave some out: --set 'loss.class_weights={pole=5}'",
        )
    if not any(values):
        raise UsageError("loss.class_weights has only zeros, so that nothing would be learned.", "Give a positive one.")


def inverse_log(pixels: Counts, offset: float) -> Weights:
    """Return 1 / ln(offset + p), where p is a class's share of all labeled pixels (Paszke et al. 2016, ENet).

    Args:
        pixels: (C,) numbers of labeled pixels.
        offset: above 1; ENet has 1.02, the code of ESPNet 1.10.
    """
    shares = pixels / max(int(pixels.sum()), 1)
    weights: Weights = 1 / np.log(offset + shares)
    return weights


def median_frequency(pixels: Counts, present: Counts) -> Weights:
    """Return median(f) / f, where f is a class's share of the pixels of images that have it (Eigen and Fergus 2015).

    A class that no image has is left out of the median, and has weight 1.

    Args:
        pixels: (C,) numbers of labeled pixels.
        present: (C,) numbers of labeled pixels of the images that have a pixel of the class.
    """
    is_there = pixels > 0
    weights: Weights = np.ones(len(pixels))
    if is_there.any():
        frequency = pixels[is_there] / present[is_there]
        weights[is_there] = np.median(frequency) / frequency
    return weights
