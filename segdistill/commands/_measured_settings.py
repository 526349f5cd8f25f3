"""Settings that are measured at the start: the batch that fits into memory, and the steps that fit into minutes."""

import math
from collections.abc import Callable
from typing import NamedTuple

from segdistill.commands._context import RunContext
from segdistill.commands._networks import build_initialized, model_info, supervision
from segdistill.commands._step_time import seconds_per_step
from segdistill.commands._student import distillation
from segdistill.commands._teacher import untrained_teacher
from segdistill.commands._teacher_run import teacher_job
from segdistill.config.derivation import VALIDATIONS, Derived, can_halve, with_derived
from segdistill.config.schema import RunConfig
from segdistill.errors import UsageError
from segdistill.runtime import distributed
from segdistill.runtime.reporter import duration
from segdistill.teachers.teacher import Teacher
from segdistill.training.objectives import Distillation
from segdistill.training.scoring import rehearse_validation
from segdistill.training.step_memory import fits
from segdistill.types import Stage

RESERVE = 0.1
"""Share of the minutes that is left for what is not measured: loaders that start, checkpoints, figures, scores."""
ADVISED = 2.0
"""Times what one step of each training needs that is advised as the least: a second measurement may be slower."""


class Trainings(NamedTuple):
    """What a command trains."""

    student: bool
    """Whether it trains students; a command that trains a teacher alone does not."""
    teacher: Teacher | None
    """Teacher that is there; None of one that is trained, too."""


def measured_batch(context: RunContext, trainings: Trainings) -> list[Derived]:
    """Return the batch, halved until a step of it fits into memory.

    Raises:
        UsageError: if the smallest one does not fit either.
    """
    batch = context.config.data.batch_size
    parts = distributed.world_size() * context.config.optim.accumulate
    found = batch
    while not _fits(context.with_config(_with_batch(context.config, found)), trainings):
        if not can_halve(found, parts):
            crop = "x".join(map(str, context.config.data.crop))
            raise UsageError(
                f"A step of {found} images at crops of {crop} does not fit into memory.",
                "Give a smaller --image-size, --set data.crop=[H,W], or a smaller network.",
            )
        found //= 2
    if found == batch:
        return []
    where = "tried on the GPU" if context.runtime.device.type == "cuda" else "estimated"
    return [Derived("data.batch_size", found, f"{batch} do not fit into memory, {where}")]


def steps_in_minutes(context: RunContext, trainings: Trainings, minutes: float) -> list[Derived]:
    """Return the steps that fit into the minutes, where these are fewer: the same number for all trainings.

    Raises:
        UsageError: if not even one does.
    """
    seconds = distributed.broadcast_object(_measured_seconds(context, trainings))
    budget = 60 * minutes * (1 - RESERVE) - seconds.validations
    steps = math.floor(budget / seconds.steps)
    if steps < 1:
        needed = ADVISED * (seconds.validations + seconds.steps) / 60
        raise UsageError(
            f"--max-minutes {minutes:g} leaves no step: one takes {seconds.steps:.2g} s, and the validations "
            f"{duration(seconds.validations)}.",
            f"Give at least --max-minutes {math.ceil(needed * 10) / 10:g}, or a smaller --image-size.",
        )
    config = context.config
    longest = max(config.optim.steps, config.teacher_optim().steps)
    if steps >= longest:
        return []
    reason = f"--max-minutes {minutes:g}, at {seconds.steps:.2g} s for a step of each training"
    derived = [Derived("optim.steps", min(steps, config.optim.steps), reason)]
    if config.teacher.steps is not None:
        derived.append(Derived("teacher.steps", min(steps, config.teacher.steps), reason))
    return derived


class _Seconds(NamedTuple):
    """Times of a command, over all its trainings."""

    steps: float
    """Seconds of one step of each training."""
    validations: float
    """Seconds of all their validations."""


def _fits(context: RunContext, trainings: Trainings) -> bool:
    config, classes = context.config, len(context.data.classes)
    fitting = True
    for build in _builders(context, trainings):
        stage = build()
        crop, images = config.data.crop, context.images_per_process
        fitting = fitting and fits(stage, crop, classes, images, context.runtime.precision)
    return not distributed.all_reduce_any(not fitting, context.runtime.device)


def _with_batch(config: RunConfig, batch: int) -> RunConfig:
    return with_derived(config, [Derived("data.batch_size", batch, "")])


def _builders(context: RunContext, trainings: Trainings) -> list[Callable[[], Stage]]:
    """Return what builds the stage of each training: one after the other, as each takes memory."""
    builders: list[Callable[[], Stage]] = []
    if trainings.teacher is None:
        builders.append(lambda: teacher_job(context).stage)
    if trainings.student:
        builders.append(lambda: _student_stage(context, trainings.teacher))
    return builders


def _student_stage(context: RunContext, teacher: Teacher | None) -> Stage:
    student = build_initialized(context, context.config.student, context.options.init_weights)
    objective = distillation(context, student, untrained_teacher(context) if teacher is None else teacher)
    return Stage("student", student, objective, context.config.optim)


def _baseline_stage(context: RunContext) -> Stage:
    student = build_initialized(context, context.config.student, context.options.init_weights)
    return Stage("baseline", student, Distillation(supervision(context, "student")), context.config.optim)


def _measured_seconds(context: RunContext, trainings: Trainings) -> _Seconds:
    """Measure a step of each training, and a validation of the network that is trained most."""
    options, steps, count = context.options, 0.0, 0
    if trainings.teacher is None:
        steps += seconds_per_step(context, teacher_job(context).stage)
        count += 1
    if trainings.student:
        of_student = seconds_per_step(context, _student_stage(context, trainings.teacher))
        of_baseline = {None: 0.0, "time": of_student, "steps": 0.0}[options.baseline]
        if options.baseline == "steps":
            of_baseline = seconds_per_step(context, _baseline_stage(context))
        steps += options.seeds * (of_student + of_baseline)
        count += options.seeds * (2 if options.baseline else 1)
    return _Seconds(steps, count * (VALIDATIONS + 1) * _seconds_per_validation(context, trainings))


def _seconds_per_validation(context: RunContext, trainings: Trainings) -> float:
    config = context.config.student if trainings.student else context.config.teacher
    network = build_initialized(context, config).to(context.runtime.device)
    info = model_info(context, config, "student" if trainings.student else "teacher", steps=0)
    rehearse_validation(network, info, context.data, context.runtime)  # sets things up
    images, seconds = rehearse_validation(network, info, context.data, context.runtime)
    return seconds / images * len(context.data.split("val").names)
