"""Predictions as pictures: for each image of a file, folder or pattern a label map and, where asked for, an overlay.

Reading, predicting and writing go on at the same time. Outputs that would do harm are refused before the first image is
read; a damaged image is left out and told.
"""

import glob
import math
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from itertools import pairwise, takewhile
from pathlib import Path
from time import perf_counter
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from segdistill.checkpoint import ModelInfo
from segdistill.data import SUFFIXES, images_below, read_image, to_size
from segdistill.engine import AT_ONCE, predict_labels
from segdistill.errors import DataError, UsageError
from segdistill.metrics import Scores
from segdistill.store import sweep, write_atomic
from segdistill.types import IGNORE, Batch

MAX_DESCENTS = 2
"""Parts `**` of a pattern, those in a row counted once: time is at most that of listing the tree, times its depth."""
AHEAD = 2
"""Images read before the network is ready for them, and label maps that wait to be written."""

STRIDE = 32
"""Of all networks, or a multiple: tiles begin where the network's own grid has a point."""

Pixels = npt.NDArray[np.uint8]
Predict = Callable[[Tensor], Tensor]
"""Images (B, 3, h, w) in 0..255 to logits (B, C, h, w): a network or an exported graph."""
Item = TypeVar("Item")
Result = TypeVar("Result")


class Input(NamedTuple):
    """An image to segment."""

    path: Path
    relative: Path
    """To the folder it was found in, which the outputs mirror."""


@dataclass(frozen=True)
class Tiling:
    """How images are taken apart whose logits would not fit into memory."""

    max_pixels: int = AT_ONCE
    """Larger images are."""
    side: int = 1408
    """Of a tile."""
    margin: int = 192
    """The outer pixels of a tile, which only give context to the others. Like the side a multiple of `STRIDE`."""

    def always(self) -> "Tiling":
        """Return the same tiles, of small images too."""
        return replace(self, max_pixels=0)


class Failure(NamedTuple):
    """An image that could not be done, and why."""

    path: Path
    reason: str


class Apart(NamedTuple):
    """The images that were too large to be seen whole."""

    images: int
    agreement: float
    """Share of the pixels of a part of the first one that get the class which they get where that part is whole."""


@dataclass(frozen=True)
class Summary:
    """What came of it."""

    done: int
    failed: tuple[Failure, ...]
    seconds: float
    apart: Apart | None = None

    @property
    def images_per_second(self) -> float:
        """From file to file: reading and writing are part of it."""
        return self.done / self.seconds


class _Job(NamedTuple):
    image: Path
    targets: tuple[Path, ...]
    """The label map and, where asked for, the overlay."""


class _Prediction(NamedTuple):
    job: _Job
    image: Pixels  # (H, W, 3)
    labels: Pixels  # (H, W)


def find_inputs(source: str, out: Path) -> list[Input]:
    """Return the images that `source` names, sorted by path; a link to nothing is one that cannot be read.

    Args:
        source: an image; a folder, with all below it, through links too; or a pattern such as "frames/**/*.png".
        out: where the outputs go: a folder in the source whose images are no inputs.

    Raises:
        UsageError: if there is no such path.
        DataError: if there is no image, or a folder cannot be read.
    """
    path = Path(source)
    if path.is_file():
        return [Input(path, Path(path.name))]
    if path.is_dir():
        root, found = path, {*images_below(path)}
    elif glob.has_magic(source):
        root = Path(*takewhile(lambda part: not glob.has_magic(part), path.parts))
        found = _matches(path)
    else:
        raise UsageError(f"There is no {source}.", "Give an image, a folder, or a pattern in quotes: 'frames/*.png'.")
    own = out.resolve() if root.resolve() in out.resolve().parents else None
    inputs = [
        Input(file, file.relative_to(root))
        for file in sorted(found)
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and not file.is_dir()
        if own not in Path(os.path.realpath(file)).parents
    ]
    if not inputs:
        raise DataError(f"{source} holds no image.", f"Images end in {', '.join(sorted(SUFFIXES))}.")
    return inputs


def _matches(pattern: Path) -> set[Path]:
    """Return what a pattern names, each file once.

    Raises:
        UsageError: if it descends too often: glob goes through a folder in as many ways as its parts can be divided.
    """
    parts = [part for part, after in pairwise([*pattern.parts, ""]) if not part == after == "**"]
    if parts.count("**") > MAX_DESCENTS:
        raise UsageError(f"{pattern} has more than {MAX_DESCENTS} times '**'.", "Give 'frames/**/*.png', or a folder.")
    return {Path(name) for name in glob.iglob(str(Path(*parts)), recursive=True)}


@torch.no_grad()
def infer(
    predict: Predict,
    info: ModelInfo,
    inputs: Iterable[Input],
    out: Path,
    *,
    overlay: bool = False,
    overwrite: bool = False,
    tiling: Tiling = Tiling(),
    check_targets: Callable[[list[Path]], object] = lambda targets: None,
    on_image: Callable[[int], None] | None = None,
) -> Summary:
    """Write `out/<relative>.png`, a palette PNG of class ids at the image's own size, for each image.

    Pixels that a network with a void output takes for void are IGNORE, drawn black.

    The suffix gives way to .png; where two outputs would share a name it is kept (`a.jpg.png`).

    Args:
        predict: the network.
        info: its header: the size that images are brought to, and the palette.
        inputs: what `find_inputs` found.
        out: a folder, made where it is missing; nothing is written outside it.
        overlay: write `<stem>_overlay.png` as well, the image with the classes' colours over it.
        overwrite: replace outputs that are there.
        tiling: of large images.
        check_targets: called with all outputs before the first is written; raises if one of them must not be.
        on_image: called with the number of images done or left out.

    Raises:
        UsageError: before anything is computed, if an output is there already, would replace an input, lie outside
            `out`, or share its name with another.
    """
    jobs = _plan(inputs, out, check_targets, overlay=overlay, overwrite=overwrite)
    started = perf_counter()
    done, failed, count = 0, list[Failure](), on_image or (lambda images: None)
    apart: Apart | None = None

    def predictions() -> Iterator[_Prediction]:
        nonlocal apart
        for job, reading in _ahead(reader, lambda job: read_image(job.image), jobs):
            try:
                image = reading.result()
            except DataError as error:
                failed.append(Failure(job.image, error.what))
                count(1)
            else:
                if info.size is None and image.shape[0] * image.shape[1] > tiling.max_pixels:
                    agreement = _agreement(predict, image, tiling) if apart is None else apart.agreement
                    apart = Apart(1 if apart is None else apart.images + 1, agreement)
                labels = segment(predict, image, info.size, tiling)
                labels[labels == len(info.classes)] = IGNORE  # what a network with a void output says of void
                yield _Prediction(job, image, labels)

    # One thread writes: `write_atomic` changes the process's umask for a moment.
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        for prediction, writing in _ahead(writer, partial(_write, palette=info.palette), predictions()):
            try:
                writing.result()
                done += 1
            except (OSError, UsageError) as error:
                reason = error.what if isinstance(error, UsageError) else f"{error.strerror}."
                image = prediction.job.image
                failed.append(Failure(image, f"What comes of {image} cannot be written: {reason}"))
            count(1)
    return Summary(done, tuple(failed), perf_counter() - started, apart)


def segment(predict: Predict, image: Pixels, size: tuple[int, int] | None, tiling: Tiling = Tiling()) -> Pixels:
    """Return the class ids (H, W) of an image (H, W, 3).

    Args:
        predict: the network.
        image: RGB.
        size: (height, width) that the network sees; None shows it the image as it is, a large one tile by tile.
        tiling: of large images.
    """
    height, width = image.shape[:2]
    if size is not None or height * width <= tiling.max_pixels:
        seen = image if size is None else to_size(image, size)
        return _ids(predict, seen, (height, width), tiling.max_pixels)
    labels = np.empty((height, width), np.uint8)
    for rows, kept_rows in _windows(height, tiling):
        for columns, kept_columns in _windows(width, tiling):
            tile = image[rows, columns]
            ids = _ids(predict, tile, tile.shape[:2], AT_ONCE)
            labels[kept_rows, kept_columns] = ids[_within(kept_rows, rows), _within(kept_columns, columns)]
    return labels


class Comparison(NamedTuple):
    """What it changes that images are taken apart."""

    whole: Scores
    apart: Scores
    agreement: float
    """Share of the pixels that get the same class."""


@torch.no_grad()
def compare_tiling(
    predict: Predict,
    batches: Iterable[Batch],
    num_classes: int,
    on_batch: Callable[[int], None],
    tiling: Tiling = Tiling(),
) -> Comparison:
    """Label images whole and tile by tile.

    Args:
        predict: the network.
        batches: of images at the size of their labels.
        num_classes: C.
        on_batch: called with the number of images done.
        tiling: the tiles, which smaller images have one of.
    """
    whole = apart = Scores.empty(num_classes)
    equal = pixels = 0
    for batch in batches:
        labels = predict_labels(predict, batch.image, batch.label.shape[-2:])
        images = batch.image.permute(0, 2, 3, 1).to(torch.uint8).numpy()
        tiled = np.stack([segment(predict, image, None, tiling.always()) for image in images])
        whole += Scores.of(labels, batch.label, num_classes)
        apart += Scores.of(torch.from_numpy(tiled).long(), batch.label, num_classes)
        equal += int((tiled == labels.numpy()).sum())
        pixels += tiled.size
        on_batch(len(images))
    return Comparison(whole, apart, equal / max(pixels, 1))


def _agreement(predict: Predict, image: Pixels, tiling: Tiling) -> float:
    """Return how much of the middle of a large image gets the same classes whole and tile by tile."""
    height = min(image.shape[0], math.isqrt(tiling.max_pixels // 2))
    width = min(image.shape[1], tiling.max_pixels // height)
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    part = np.ascontiguousarray(image[top : top + height, left : left + width])
    return float((segment(predict, part, None, tiling) == segment(predict, part, None, tiling.always())).mean())


def _plan(
    inputs: Iterable[Input],
    out: Path,
    check_targets: Callable[[list[Path]], object],
    *,
    overlay: bool,
    overwrite: bool,
) -> list[_Job]:
    """Decide on the outputs' names and refuse what would do harm."""
    inputs = list(inputs)

    def job(image: Input, stem: Path) -> _Job:
        endings = (".png", "_overlay.png") if overlay else (".png",)
        return _Job(image.path, tuple(out / stem.with_name(stem.name + ending) for ending in endings))

    jobs = [job(image, image.relative.with_suffix("")) for image in inputs]
    claims = _claims(jobs)
    jobs = [
        plain if all(claims[_folded(target)] == 1 for target in plain.targets) else job(image, image.relative)
        for plain, image in zip(jobs, inputs, strict=True)
    ]
    claims = _claims(jobs)
    root, images = out.resolve(), {_identity(image.path) for image in inputs} - {None}
    for image, targets in jobs:
        for target in targets:
            if not target.parent.resolve().is_relative_to(root):
                raise UsageError(f"{target} would lie outside {out}.", "Remove the link, or choose another --out.")
            if claims[_folded(target)] > 1:
                raise UsageError(f"{image} and another image would both be written to {target}.", "Rename one of them.")
            if _identity(target) in images:
                raise UsageError(f"{target} would replace an image of the input.", "Choose another --out.")
            if os.path.lexists(target) and not overwrite:
                raise UsageError(f"{target} is there already.", "Add --overwrite, or choose another --out.")
    check_targets([target for job in jobs for target in job.targets])
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{out} cannot be made a folder: {error.strerror}.", "Choose another --out.") from None
    sweep(target for job in jobs for target in job.targets)
    return jobs


def _claims(jobs: list[_Job]) -> Counter[str]:
    return Counter(_folded(target) for job in jobs for target in job.targets)


def _folded(path: Path) -> str:
    """Return what two names have in common that some file systems do not tell apart."""
    return str(path).casefold()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _ahead(
    pool: Executor, work: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[tuple[Item, Future[Result]]]:
    """Yield each item with its result to come, while the pool is at work on the next ones."""
    waiting = deque[tuple[Item, Future[Result]]]()
    for item in items:
        waiting.append((item, pool.submit(work, item)))
        if len(waiting) > AHEAD:
            yield waiting.popleft()
    yield from waiting


def _write(prediction: _Prediction, palette: Iterable[tuple[int, int, int]]) -> None:
    """Write an image's label map and, where it has a target, its overlay."""
    label_map = Image.fromarray(prediction.labels)
    levels = bytes(level for color in palette for level in color)
    label_map.putpalette(levels.ljust(3 * 256, b"\0"))  # what counts nowhere is black
    pictures = [label_map]
    if len(prediction.job.targets) > 1:
        pictures.append(Image.blend(Image.fromarray(prediction.image), label_map.convert("RGB"), 0.5))
    for picture, target in zip(pictures, prediction.job.targets, strict=True):
        content = BytesIO()
        # Pillow's own level, 6, takes twice as long to make a photograph a tenth smaller.
        picture.save(content, "PNG", compress_level=3)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, content.getvalue())


def _ids(predict: Predict, image: Pixels, size: tuple[int, ...], at_once: int) -> Pixels:
    """Return class ids at `size`, as evaluation takes them."""
    return predict_labels(predict, _tensor(image), size, at_once)[0].to(torch.uint8).numpy()


def _windows(length: int, tiling: Tiling) -> Iterator[tuple[slice, slice]]:
    """Yield, along one side of an image, each tile and what of it is kept: the middle, and up to the image's border."""
    last = max(length - tiling.side, 0) // STRIDE * STRIDE
    starts = [*range(0, last, tiling.side - 2 * tiling.margin), last]
    cuts = [0, *(start + tiling.margin for start in starts[1:]), length]
    for start, kept in zip(starts, pairwise(cuts), strict=True):
        yield slice(start, length if start == last else start + tiling.side), slice(*kept)


def _within(part: slice, whole: slice) -> slice:
    return slice(part.start - whole.start, part.stop - whole.start)


def _tensor(image: Pixels) -> Tensor:
    """Return an image as networks take it, (1, 3, H, W)."""
    return torch.from_numpy(image).permute(2, 0, 1).unsqueeze(0).float()
