"""The time of a training's step, measured on a few real ones."""

import statistics
import time
from dataclasses import replace
from itertools import pairwise

from segdistill.commands._context import RunContext
from segdistill.training.engine import fit
from segdistill.training.jobs import PretrainingJob
from segdistill.training.trainer import training_stream
from segdistill.types import Stage

WARM_UP_STEPS, TIMED_STEPS = 3, 9
"""Steps before and in a measurement of a step's time: a process's first steps set things up."""


def seconds_per_step(context: RunContext, stage: Stage) -> float:
    """Return the median seconds of a few steps, with loader and optimizer; they change the stage's weights."""
    config, runtime = context.config, context.runtime
    stage = replace(stage, optim=stage.optim.model_copy(update={"steps": WARM_UP_STEPS + TIMED_STEPS}))
    times = [time.perf_counter()]
    fit(
        stage,
        training_stream(PretrainingJob(stage, config, context.data), runtime),
        precision=runtime.precision,
        seed=config.seed,
        on_step=lambda report: times.append(time.perf_counter()),
    )
    return statistics.median(after - before for before, after in pairwise(times[WARM_UP_STEPS:]))
