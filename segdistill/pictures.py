"""What is drawn: the comparison of networks, the preview of a data set, the curves of a training."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch

from segdistill.data import DataSource, Joined, to_size
from segdistill.data._base import Pixels
from segdistill.engine import predict_labels, resolve_precision
from segdistill.errors import ModelError, UsageError
from segdistill.networks import SegNetwork
from segdistill.prediction import predictor
from segdistill.store import write_atomic
from segdistill.types import IGNORE

PICTURES = 3
"""Images in a comparison."""
PREVIEWS = 8
"""Images in a preview of a data set."""
CELL_HEIGHT, CELL_WIDTH = 192, 480
"""Of an image in a picture; the width is the most it can be."""
MARGIN, TITLE, LETTER = 6, 28, 9


def colored(label: npt.NDArray[np.integer], palette: Sequence[tuple[int, int, int]]) -> Pixels:
    """Paint class ids (H, W) in the palette's colours, ignored pixels black: (H, W, 3) RGB."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    painted: Pixels = table[label]
    return painted


def draw_comparison(
    path: Path, networks: Mapping[str, SegNetwork], data: DataSource, size: tuple[int, int] | None
) -> None:
    """Write a picture of a few images: image, truth, and what each network says, with a legend of the classes."""
    images = data.split("val")
    chosen = np.linspace(0, len(images.names) - 1, min(PICTURES, len(images.names))).astype(int)
    devices = [network.mean.device for network in networks.values()]
    predictors = [
        predictor(network, resolve_precision("fp32", device))
        for network, device in zip(networks.values(), devices, strict=True)
    ]
    rows = []
    for index in chosen:
        sample = images.read(int(index))
        cells = [sample.image, colored(sample.label, data.palette)]
        small = sample.image if size is None else to_size(sample.image, size)
        tensor = torch.from_numpy(small).permute(2, 0, 1)[None].float()
        for predict in predictors:
            with torch.no_grad():
                labels = predict_labels(predict, tensor, sample.label.shape)[0].numpy()
            # what the truth leaves out is black in the predictions too, so that eyes compare what scores compare
            cells.append(colored(np.where(sample.label == IGNORE, IGNORE, labels), data.palette))
        rows.append(cells)
    write_atomic(path, encode_png(_sheet(rows, ["image", "truth", *networks], data)))


def check_preview(path: Path, *, overwrite: bool) -> None:
    """Look whether a preview can be written, before all images are read for it.

    Raises:
        UsageError: if it cannot, or if a file is there and `overwrite` was not asked for.
    """
    if path.suffix.lower() != ".png":
        raise UsageError(f"{path} does not end in .png.", "For example: --preview preview.png")
    if not path.parent.is_dir():
        raise UsageError(f"There is no folder {path.parent}.", "Make it first, or choose another --preview.")
    if path.is_dir() or (path.exists() and not overwrite):
        raise UsageError(f"{path} exists.", "Add --overwrite, or choose another --preview.")


def draw_preview(path: Path, data: DataSource, splits: Sequence[str]) -> list[str]:
    """Write a picture of a few images of some splits: image, labels, and these over it, with a legend of the classes.

    Returns:
        The images' names, from top to bottom.
    """
    images = Joined(tuple(data.split(name) for name in splits))
    chosen = np.linspace(0, len(images.names) - 1, min(PREVIEWS, len(images.names))).astype(int)
    samples = [images.read(int(index)) for index in chosen]
    rows = []
    for sample in samples:
        labels = colored(sample.label, data.palette)
        rows.append([sample.image, labels, cv2.addWeighted(sample.image, 0.5, labels, 0.5, 0).astype(np.uint8)])
    write_atomic(path, encode_png(_sheet(rows, ["image", "labels", "overlay"], data)))
    return [sample.name for sample in samples]


def encode_png(image: Pixels) -> bytes:
    """Return an RGB image (H, W, 3) as PNG."""
    ok, encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    assert ok
    return encoded.tobytes()


def _sheet(rows: list[list[Pixels]], titles: list[str], data: DataSource) -> Pixels:
    """Arrange pictures in cells of the first one's shape, with the classes' colours below."""
    height, width = rows[0][0].shape[:2]
    cell = (CELL_HEIGHT, min(round(width * CELL_HEIGHT / height), CELL_WIDTH))
    step = (cell[0] + MARGIN, cell[1] + MARGIN)
    across = len(titles) * step[1] + MARGIN
    per_line = max(1, across // (LETTER * max(map(len, data.classes)) + 30))
    bottom = TITLE + len(rows) * step[0]
    sheet = np.full((bottom + -(-len(data.classes) // per_line) * TITLE, across, 3), 255, np.uint8)
    for column, title in enumerate(titles):
        _write(sheet, title, (MARGIN + column * step[1], TITLE - 9))
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            top, left = TITLE + y * step[0], MARGIN + x * step[1]
            scale = min(cell[0] / image.shape[0], cell[1] / image.shape[1])
            high, wide = (max(1, round(side * scale)) for side in image.shape[:2])
            sheet[top : top + high, left : left + wide] = cv2.resize(
                image, (wide, high), interpolation=cv2.INTER_NEAREST if x else cv2.INTER_LINEAR
            )
    for index, (name, color) in enumerate(zip(data.classes, data.palette, strict=True)):
        line, column = divmod(index, per_line)
        left, base = MARGIN + column * (across - MARGIN) // per_line, bottom + line * TITLE + TITLE - 9
        sheet[base - 12 : base + 2, left : left + 14] = color
        _write(sheet, name, (left + 20, base))
    return sheet


def _write(image: Pixels, text: str, origin: tuple[int, int]) -> None:
    cv2.putText(image, text, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.48, (40, 40, 40), 1, cv2.LINE_AA)


def draw_curves(metrics: Path, path: Path) -> None:
    """Draw the terms of the loss and the validation's mIoU over the steps, from a run's metrics.jsonl."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    try:
        entries = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
        training = [entry for entry in entries if "loss" in entry and entry["stage"] == entries[-1]["stage"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise ModelError(f"{metrics} is gone or damaged.", "Restore it, or start a new run.") from None
    validation = [entry for entry in entries if "miou" in entry]
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    names = (
        [key for key in training[0] if key not in ("stage", "step", "lr", "gradient_norm", "critic", "skipped_steps")]
        if training
        else []
    )
    for name in names:
        left.plot([e["step"] for e in training], [e[name] for e in training], label=name, lw=2 if name == "loss" else 1)
    left.set(xlabel="step", ylabel="weighted loss")
    right.plot([e["step"] for e in validation], [100 * e["miou"] for e in validation], marker="o")
    right.set(xlabel="step", ylabel="validation mIoU (%)", ylim=(0, None))
    if names:
        left.legend(fontsize=7)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    write_atomic(path, buffer.getvalue())
