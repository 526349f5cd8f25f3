"""The baseline beside a distilled student: for as many steps or for as long, and the gain over it."""

from collections.abc import Sequence
from pathlib import Path

from segdistill.commands._context import RunContext
from segdistill.commands._lengthening import lengthenings
from segdistill.commands._networks import build_initialized, supervision
from segdistill.commands._results import NetworkResult
from segdistill.commands._step_time import seconds_per_step
from segdistill.config.checking import validated
from segdistill.config.schema import RunConfig
from segdistill.config.toml import read_toml
from segdistill.errors import ModelError, UsageError
from segdistill.evaluation.significance import GainEstimate, compare
from segdistill.runtime import distributed
from segdistill.runtime.reporter import duration
from segdistill.training.objectives import Distillation
from segdistill.types import Stage


def baseline_context(context: RunContext, distilled: NetworkResult | None) -> RunContext:
    """Return the context of the baseline of a distilled student: without terms, in the budget that was asked for.

    Args:
        context: of the distilled student.
        distilled: its result; None in a dry run.
    """
    steps = context.config.optim.steps
    if context.options.baseline == "time":
        steps = _steps_in_the_time(context, distilled)
    return context.for_baseline(steps)


def _steps_in_the_time(context: RunContext, distilled: NetworkResult | None) -> int:
    """Return how many steps the baseline has in the time that the distilled student took, pretraining included.

    Both are measured: the distilled student's time at work in its training (`StepClock`: no validation, checkpoints or
    stalls), and a step of the baseline as the median of a few real ones beforehand.
    """
    begun = context.out / "baseline" / "config.toml"
    least = 1
    if context.options.resume and begun.exists():
        known = lengthenings(begun.parent)
        if len(known) >= len(lengthenings(context.out)):  # measured again, it would be another number
            return known[-1].after if known else _steps_of(begun)
        least = _steps_of(begun)
    if distilled is None:
        return context.config.optim.steps
    if distilled.training_seconds is None:
        raise ModelError(f"{context.out} does not say how long its student was trained.", "Start a new run.")
    steps: int = distributed.broadcast_object(max(least, round(distilled.seconds / _seconds_per_step(context))))
    return steps


def _steps_of(path: Path) -> int:
    try:
        return validated(RunConfig, read_toml(path), str(path)).optim.steps
    except UsageError as error:
        raise ModelError(f"{path.parent} cannot be continued: {error.what}", "Start a new run.") from None


def _seconds_per_step(context: RunContext) -> float:
    """Return the seconds of a step of the baseline."""
    config = context.config
    student = build_initialized(context, config.student, context.options.init_weights)
    stage = Stage("timing", student, Distillation(supervision(context, "student")), config.optim)
    return seconds_per_step(context, stage)


def gain_over_baseline(context: RunContext, results: Sequence[NetworkResult]) -> GainEstimate | None:
    """Return how much better the distilled students are than their baselines; None of a run without a baseline."""
    options = context.options
    if options.baseline is None or options.dry_run:
        return None
    baselines = [result for result in results if result.role == "baseline"]
    students = [result for result in results if result.role == "distilled"]
    budget = _time_budget(baselines, students)
    if options.baseline == "steps":
        budget = "at the same steps"
        if context.config.validate_.patience > 0:
            budget = "with the same patience, which may end them at other steps"
    return compare([result.scores for result in baselines], [result.scores for result in students], budget)


def _time_budget(baselines: Sequence[NetworkResult], students: Sequence[NetworkResult]) -> str:
    baseline = duration(sum(result.seconds for result in baselines))
    distilled = duration(sum(result.seconds for result in students))
    return f"in the same training time ({baseline} baseline, {distilled} distilled)"
