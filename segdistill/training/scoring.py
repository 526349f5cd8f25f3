"""The scores of a network on the validation images, as the header of its file says how it sees them."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from segdistill.checkpoints.model_file import ModelInfo
from segdistill.data import DataSource, SubsetSplit, evaluation_batches
from segdistill.evaluation.evaluate import evaluate, gather_scores, pixels_at_once
from segdistill.evaluation.metrics import Scores
from segdistill.evaluation.predictor import predictor
from segdistill.networks import SegNetwork
from segdistill.runtime import distributed
from segdistill.runtime.precision import Precision
from segdistill.teachers.label_assisted import with_labels
from segdistill.training.jobs import Runtime
from segdistill.training.memory import VALIDATION_ADVICE, explained_out_of_memory


class Rehearsal(NamedTuple):
    """A validation of the first images."""

    images: int
    """Number of images, over all processes."""
    seconds: float


def score(
    network: SegNetwork,
    info: ModelInfo,
    data: DataSource,
    *,
    runtime: Runtime,
    precision: Precision,
    on_batch: Callable[[int], None] | None = None,
) -> Scores:
    """Evaluate a network on the validation images; each process takes its share of them.

    Args:
        network: is left in the mode it is in.
        info: header of its file.
        data: with a val split.
        runtime: device and workers.
        precision: device and autocast type.
        on_batch: called with the number of images done; may raise to stop.

    Raises:
        ResourceError: if memory runs out.
    """
    was_training = network.training
    predict = predictor(network, precision)
    batches = evaluation_batches(
        data.split("val"),
        info.size,
        batch_size=runtime.eval_batch,
        max_pixels=pixels_at_once(info.outputs),
        workers=runtime.workers,
        rank=distributed.rank(),
        world=distributed.world_size(),
    )
    # The labels are a label-assisted teacher's fourth channel; other networks see the images as they are.
    batches = with_labels(batches, info.label_embedding, len(data.classes))
    try:
        with explained_out_of_memory(f"in the validation of {info.network.network}", VALIDATION_ADVICE):
            scores = evaluate(predict, batches, len(data.classes), on_batch=on_batch)
    finally:
        network.train(was_training)
    return gather_scores(scores, runtime.device)


def rehearse_validation(network: SegNetwork, info: ModelInfo, data: DataSource, runtime: Runtime) -> Rehearsal:
    """Score a network on the first batch of the validation images, for the memory that it takes.

    Args: as `score`.

    Returns:
        How many images these are, over all processes, and the time they took.
    """
    val = data.split("val")
    count = min(runtime.eval_batch * distributed.world_size(), len(val.names))
    first_batch = SubsetSplit(val, tuple(range(count)), labels=True)
    rehearsal = replace(data, splits={**data.splits, "val": first_batch})
    # float32, as after the last step: it takes the most
    start = time.perf_counter()
    score(network, info, rehearsal, runtime=replace(runtime, workers=0), precision=runtime.exact())
    return Rehearsal(count, time.perf_counter() - start)
