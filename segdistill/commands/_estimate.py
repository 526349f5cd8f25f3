"""How long a training takes, and how much memory: of a pass on noise, a batch that is read, and a few images scored."""

import time
from typing import NamedTuple

from segdistill.commands._context import RunContext
from segdistill.data import training_batches
from segdistill.runtime import distributed
from segdistill.training.jobs import TrainingJob
from segdistill.training.probe import Probe, probe
from segdistill.training.scoring import rehearse_validation

READ_BATCHES = 2
"""Batches that are read: of the first one, libraries are loaded."""


class Estimate(NamedTuple):
    """What a training costs."""

    cost: Probe
    """A step's passes."""
    step: float
    """Seconds of a step, with the reading of its images."""
    validation: float
    """Seconds of a validation."""
    steps: int
    validations: int

    @property
    def seconds(self) -> float:
        """Seconds of the whole training."""
        return self.step * self.steps + self.validation * self.validations


def estimate_training(context: RunContext, job: TrainingJob) -> Estimate:
    """Try a step and a batch of validation, and return what the training costs.

    Raises:
        ResourceError: if memory runs out.
    """
    config, precision = context.config, context.runtime.precision
    cost = probe(job.stage, config.data.crop, len(context.data.classes), context.images_per_process, precision)
    rehearsal = rehearse_validation(job.network, job.info, context.data, context.runtime)
    steps, every = job.stage.optim.steps, config.validate_.every
    return Estimate(
        cost=cost,
        step=_step_seconds(context, cost.seconds),
        validation=rehearsal.seconds / rehearsal.images * len(context.data.split("val").names),
        steps=steps,
        validations=steps // every + (steps % every > 0),  # the last step is always followed by one
    )


def _step_seconds(context: RunContext, compute: float) -> float:
    """Return the seconds of a step from those of its passes and those of reading a batch.

    Loader processes read while the step is computed. On a CPU they take their share of the cores from it.
    """
    runtime, reading = context.runtime, _reading_seconds(context)
    if runtime.workers == 0:
        return compute + reading
    in_turn = reading / runtime.workers
    if runtime.device.type == "cpu":
        return max(compute + reading * distributed.world_size() / distributed.cores(), in_turn)
    return max(compute, in_turn)


def _reading_seconds(context: RunContext) -> float:
    """Return the seconds in which one process reads and changes the images of a step."""
    batches = training_batches(
        context.data.split("train"),
        context.config.data,
        seed=context.config.seed,
        steps=READ_BATCHES,
        rank=distributed.rank(),
        world=distributed.world_size(),
    )
    seconds = 0.0
    for _ in range(READ_BATCHES):
        start = time.perf_counter()
        next(batches)
        seconds = time.perf_counter() - start
    return seconds
