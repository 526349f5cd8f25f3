"""Predictions as pictures: for each image a label map and, where asked for, an overlay.

Reading, predicting and writing go on at the same time. Outputs that would do harm are refused before the first image is
read; a damaged image is left out and told.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from time import perf_counter
from typing import NamedTuple, TypeVar

import torch
from PIL import Image

from segdistill.checkpoints.model_file import ModelInfo
from segdistill.data import read_image
from segdistill.errors import DataError, UsageError
from segdistill.evaluation.input_images import InputImage
from segdistill.evaluation.output_plan import CheckTargets, LabelMapJob, plan_outputs
from segdistill.evaluation.tiling import (
    DEFAULT_TILING,
    Pixels,
    Predict,
    Tiling,
    TilingStats,
    segment,
    tiling_agreement,
)
from segdistill.storage.atomic import write_atomic
from segdistill.types import IGNORE

MAX_PENDING = 2
"""Images read before the network is ready for them, and label maps that wait to be written."""
OVERLAY_OPACITY = 0.5
"""Share of the classes' colors in an overlay."""
COMPRESSION_LEVEL = 3
"""Level of zlib: Pillow's own, 6, takes twice as long to make a photograph a tenth smaller."""
PALETTE_BYTES = 3 * 256
"""Bytes of a PNG's palette: red, green and blue for each id."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class Failure(NamedTuple):
    """An image that could not be done, and why."""

    path: Path
    reason: str
    advice: str = ""
    """What helps; empty where nothing is known to."""


@dataclass(frozen=True)
class InferenceSummary:
    """The outcome of an inference over some images."""

    done: int
    """Number of images whose outputs were written."""
    failed: tuple[Failure, ...]
    seconds: float
    """Time from the first image to the last, reading and writing included."""
    tiling: TilingStats | None = None
    """Images that were too large to be seen whole; None where there were none."""

    @property
    def images_per_second(self) -> float:
        """Images per second, reading and writing included."""
        return self.done / self.seconds


class _Prediction(NamedTuple):
    job: LabelMapJob
    image: Pixels  # (H, W, 3)
    labels: Pixels  # (H, W)


class _Predictor:
    """Predicts label maps, and notes what was left out and what was tiled."""

    def __init__(self, predict: Predict, info: ModelInfo, tiling: Tiling) -> None:
        self.predict = predict
        self.info = info
        self.tiling = tiling
        self.failed: list[Failure] = []
        self.tiling_stats: TilingStats | None = None

    def __call__(
        self, jobs: Iterable[LabelMapJob], reader: Executor, on_failure: Callable[[], object]
    ) -> Iterator[_Prediction]:
        """Yield the predictions for all images that can be read, which the executor reads ahead."""
        for job, reading in _ahead(reader, lambda job: read_image(job.image), jobs):
            try:
                image = reading.result()
            except DataError as error:
                self.failed.append(Failure(job.image, error.what, error.fix))
                on_failure()
                continue
            self._note_tiling(image)
            yield _Prediction(job, image, label_map(self.predict, self.info, image, self.tiling))

    def _note_tiling(self, image: Pixels) -> None:
        """Count an image that is tiled; of the first one, measure what that changes."""
        height, width = image.shape[:2]
        if self.info.size is not None or height * width <= self.tiling.max_pixels:
            return
        if self.tiling_stats is None:  # once, as it takes as long as some images do
            self.tiling_stats = TilingStats(0, tiling_agreement(self.predict, image, self.tiling))
        self.tiling_stats = self.tiling_stats._replace(images=self.tiling_stats.images + 1)


@torch.no_grad()
def label_map(predict: Predict, info: ModelInfo, image: Pixels, tiling: Tiling = DEFAULT_TILING) -> Pixels:
    """Return the class ids (H, W) of an image (H, W, 3); IGNORE where a network with a void output answers that.

    Args:
        predict: the network.
        info: its header: the size that images are brought to, and the classes.
        image: RGB.
        tiling: the tiles of large images.
    """
    class_ids = segment(predict, image, info.size, tiling=tiling)
    class_ids[class_ids == len(info.classes)] = IGNORE
    return class_ids


@torch.no_grad()
def infer(
    predict: Predict,
    info: ModelInfo,
    inputs: Iterable[InputImage],
    out: Path,
    *,
    overlay: bool = False,
    overwrite: bool = False,
    tiling: Tiling = DEFAULT_TILING,
    check_targets: CheckTargets = lambda targets: None,
    on_image: Callable[[int], None] = lambda images: None,
) -> InferenceSummary:
    """Write `out/<relative>.png`, a palette PNG of class ids at the image's own size, for each image.

    Pixels that a network with a void output takes for void are IGNORE, drawn black.

    The suffix gives way to .png; where two outputs would share a name it is kept (`a.jpg.png`).

    Args:
        predict: the network.
        info: its header: the size that images are brought to, and the palette.
        inputs: what `find_inputs` found.
        out: a folder, made where it is missing; nothing is written outside it.
        overlay: write `<stem>_overlay.png` as well, the image with the classes' colors over it.
        overwrite: replace outputs that are there.
        tiling: the tiles of large images.
        check_targets: called with all outputs before the first is written; raises if one of them must not be.
        on_image: called with the number of images done or left out.

    Raises:
        UsageError: before anything is computed, if an output is there already, would replace an input, lie outside
            `out`, or share its name with another.
    """
    jobs = plan_outputs(inputs, out, check_targets, overlay=overlay, overwrite=overwrite)
    started = perf_counter()
    done = 0
    predictor = _Predictor(predict, info, tiling)
    # One thread writes: `write_atomic` changes the process's umask for a moment.
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        predictions = predictor(jobs, reader, on_failure=lambda: on_image(1))
        for prediction, writing in _ahead(writer, partial(_write, palette=info.palette), predictions):
            try:
                writing.result()
                done += 1
            except (OSError, UsageError) as error:
                reason = error.what if isinstance(error, UsageError) else f"{error.strerror}."
                image = prediction.job.image
                predictor.failed.append(Failure(image, f"What comes of {image} cannot be written: {reason}"))
            on_image(1)
    return InferenceSummary(
        done=done,
        failed=tuple(predictor.failed),
        seconds=perf_counter() - started,
        tiling=predictor.tiling_stats,
    )


def _ahead(
    pool: Executor, work: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[tuple[Item, Future[Result]]]:
    """Yield each item with its result to come, while the pool is at work on the next ones."""
    waiting = deque[tuple[Item, Future[Result]]]()
    for item in items:
        waiting.append((item, pool.submit(work, item)))
        if len(waiting) > MAX_PENDING:  # more would fill the memory where the network is slower than the disk
            yield waiting.popleft()
    yield from waiting


def _write(prediction: _Prediction, palette: Iterable[tuple[int, int, int]]) -> None:
    """Write an image's label map and, where it has a target, its overlay."""
    ids = Image.fromarray(prediction.labels)
    levels = bytes(level for color in palette for level in color)
    ids.putpalette(levels.ljust(PALETTE_BYTES, b"\0"))  # ids that count nowhere are black
    pictures = [ids]
    if len(prediction.job.targets) > 1:
        image = Image.fromarray(prediction.image)
        pictures.append(Image.blend(image, ids.convert("RGB"), OVERLAY_OPACITY))
    for picture, target in zip(pictures, prediction.job.targets, strict=True):
        content = BytesIO()
        picture.save(content, "PNG", compress_level=COMPRESSION_LEVEL)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, content.getvalue())
