"""Pictures of images and their labels: the comparison of networks, and the preview of a data set."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from segdistill.data import ConcatSplit, DataSource, to_size
from segdistill.data.base import Pixels, Sample, Split
from segdistill.errors import UsageError
from segdistill.evaluation.evaluate import predict_labels
from segdistill.evaluation.predictor import predictor
from segdistill.networks import SegNetwork
from segdistill.reports.sheet import colored, encode_png, render_sheet
from segdistill.runtime.precision import resolve_precision
from segdistill.storage.atomic import write_atomic
from segdistill.types import IGNORE

NUM_COMPARED = 3
"""Images in a comparison."""
NUM_PREVIEWED = 8
"""Images in a preview of a data set."""
OVERLAY_SHARE = 0.5
"""Share of the image in a preview's overlay; the rest is of the labels' colors."""


def draw_comparison(
    path: Path, networks: Mapping[str, SegNetwork], data: DataSource, size: tuple[int, int] | None
) -> None:
    """Write a picture of a few validation images: image, ground truth, and what each network predicts.

    Args:
        path: of the PNG, replaced atomically.
        networks: by the names that stand above their predictions.
        data: the images, and the classes and colors of the legend.
        size: height and width that the networks take images at; None leaves these at their own.
    """
    predictors = [_exact_predictor(network) for network in networks.values()]
    rows = []
    for sample in _evenly_spaced(data.split("val"), NUM_COMPARED):
        seen = sample.image if size is None else to_size(sample.image, size)
        row = [sample.image, colored(sample.label, data.palette)]
        row += [_prediction(predict, seen, sample, data) for predict in predictors]
        rows.append(row)
    truth = "teacher" if "val" in data.unlabeled else "ground truth"
    sheet = render_sheet(rows, ["image", truth, *networks], data)
    write_atomic(path, encode_png(sheet))


def check_preview(path: Path, *, overwrite: bool) -> None:
    """Check that a preview can be written, before all images are read for it.

    Raises:
        UsageError: if it cannot, or if a file is there and `overwrite` was not asked for.
    """
    if path.suffix.lower() != ".png":
        raise UsageError(f"--preview {path} does not end in .png.", "For example: --preview preview.png")
    if not path.parent.is_dir():
        raise UsageError(f"The folder {path.parent} does not exist.", "Make it first, or choose another --preview.")
    if path.is_dir() or (path.exists() and not overwrite):
        raise UsageError(f"{path} exists.", "Add --overwrite, or choose another --preview.")


def draw_preview(path: Path, data: DataSource, splits: Sequence[str]) -> list[str]:
    """Write a picture of a few images of some splits: image, labels, and these over it, with a legend of the classes.

    Returns:
        The images' names, from top to bottom.
    """
    images = ConcatSplit(tuple(data.split(name) for name in splits))
    rows, names = [], []
    for sample in _evenly_spaced(images, NUM_PREVIEWED):
        labels = colored(sample.label, data.palette)
        overlay = cv2.addWeighted(sample.image, OVERLAY_SHARE, labels, 1 - OVERLAY_SHARE, 0).astype(np.uint8)
        rows.append([sample.image, labels, overlay])
        names.append(sample.name)
    sheet = render_sheet(rows, ["image", "labels", "overlay"], data)
    write_atomic(path, encode_png(sheet))
    return names


def _evenly_spaced(images: Split, count: int) -> list[Sample]:
    """Return images from the first to the last in even steps: neighbors in a video look alike."""
    num_images = len(images.names)
    indices = np.linspace(0, num_images - 1, min(count, num_images)).astype(int)
    return [images.read(int(index)) for index in indices]


def _exact_predictor(network: SegNetwork) -> Callable[[Tensor], Tensor]:
    """Return a network's predictor in float32, on the device where it is."""
    return predictor(network, resolve_precision("fp32", network.mean.device))


def _prediction(predict: Callable[[Tensor], Tensor], image: Pixels, sample: Sample, data: DataSource) -> Pixels:
    """Return what a network predicts at the label's size, in the palette's colors."""
    batch = torch.from_numpy(image).permute(2, 0, 1)[None].float()  # (1, 3, h, w)
    with torch.no_grad():
        labels = predict_labels(predict, batch, sample.label.shape)[0].numpy()
    # What the ground truth leaves out is black in predictions too, so that eyes compare what scores compare.
    return colored(np.where(sample.label == IGNORE, IGNORE, labels), data.palette)
