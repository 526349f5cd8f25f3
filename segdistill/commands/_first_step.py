"""The check of a distillation's first step: what each term compares, and how large its gradient is."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice

from segdistill.commands._context import RunContext
from segdistill.commands._teacher_check import has_passed_before
from segdistill.commands._teacher_record import note_passed, noted_weights
from segdistill.config.schema import RunConfig
from segdistill.runtime import distributed
from segdistill.storage.run_folder import RunFolder
from segdistill.teachers.teacher import Teacher
from segdistill.training.jobs import TrainingJob
from segdistill.training.objectives import Distillation
from segdistill.training.term_balance import BATCHES, balanced_weights, mean_gradients, rescaled
from segdistill.training.term_gradients import TermGradient, check_finite, gradient_warnings
from segdistill.training.trainer import training_stream

NAME = "first step"
"""Name of this check in teacher.json."""


def check_first_step(context: RunContext, folder: RunFolder, job: TrainingJob, teacher: Teacher) -> None:
    """Check a distillation's first step, and scale the weights of terms that are to be balanced.

    A resumed run that has passed that with this teacher and these terms is not checked again, and goes on with its
    weights. Students of further seeds have those of the first.

    Raises:
        CheckError: if a term or its gradient is not finite.
    """
    objective = job.stage.objective
    assert isinstance(objective, Distillation)
    if not objective.weights:
        return
    subject = _subject(context, teacher)
    recorded = distributed.run_on_main(lambda: _recorded_weights(context, subject))
    objective.weights |= {name: weight for name, weight in recorded.items() if name in objective.weights}
    if has_passed_before(context, NAME, subject):
        return
    ratios = {} if recorded else _ratios(context.config, objective)
    # read in this process: for a few batches, starting loader processes would take longer
    stream = training_stream(job, replace(context.runtime, workers=0))
    batches = islice(stream, BATCHES if ratios else 1)
    gradients = mean_gradients(job.stage, batches, context.runtime.precision)
    check_finite(gradients)  # before weights follow from them
    before = dict(objective.weights)
    balanced: dict[str, float] = distributed.broadcast_object(balanced_weights(objective, gradients, ratios))
    objective.weights |= balanced
    show_first_step(context, gradients, rescaled(gradients, before, balanced), balanced)
    note_passed(folder, NAME, subject, overruled=False, weights=balanced or recorded)


def _ratios(config: RunConfig, objective: Distillation) -> dict[str, float]:
    """Return the multiples of cross entropy's gradient that terms are brought to, of those that are balanced."""
    ratios = {name: config.terms[name].gradient_ratio for name in objective.weights}
    return {name: ratio for name, ratio in ratios.items() if ratio is not None}


def _recorded_weights(context: RunContext, subject: str) -> dict[str, float]:
    """Return the balanced weights of this run, or of its first seed; nothing where there are none yet."""
    if context.further_seed is not None:
        return noted_weights(context.out.parent, NAME, None)
    return noted_weights(context.out, NAME, subject) if context.options.resume else {}


def _subject(context: RunContext, teacher: Teacher) -> str:
    """Return a digest of all that the first step depends on."""
    config = context.config.to_dict()
    parts = [teacher.identity, config["terms"], config["student"], config["seed"]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def show_first_step(
    context: RunContext,
    gradients: Mapping[str, TermGradient],
    balanced: Mapping[str, TermGradient],
    weights: Mapping[str, float],
) -> None:
    """Print value and gradient of each term, and warn of those without effect and those that drown all others.

    Args:
        context: of the run.
        gradients: with the weights of the configuration.
        balanced: with those that were scaled.
        weights: the scaled ones, by term.
    """
    terms, rows = context.config.terms, []
    for name, term in gradients.items():
        now, compared = balanced[name], f": {term.compares}" if term.compares else ""
        text = f"{now.value:.3g}, gradient {now.gradient:.3g}"
        if name in weights:
            text += _weight_in_words(weights[name], terms[name].weight, term)
        rows.append((name, text + compared))
    title = "check: the first step, of two images"
    if weights:
        title = f"check: the first {BATCHES} batches, two images of each; --keep-weights leaves weights as they are"
    context.reporter.banner(title, rows)
    # a term of weight 0 is only logged, and has no gradient by the user's wish
    weighed = {name: term for name, term in balanced.items() if name not in terms or terms[name].weight > 0}
    for warning in gradient_warnings(weighed):
        context.reporter.warning(warning)


def _weight_in_words(weight: float, before: float, term: TermGradient) -> str:
    """Return a balanced term's weight, and what weight and gradient were before."""
    if weight == before:
        return f" with weight {weight:g}, as it was"
    return f" with weight {weight:g}, scaled from {before:g} (gradient {term.gradient:.3g})"
