"""The check of a distillation's first step: what each term compares, and how large its gradient is."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace

from segdistill.commands._context import RunContext
from segdistill.commands._teacher_check import has_passed_before
from segdistill.commands._teacher_record import note_passed
from segdistill.storage.run_folder import RunFolder
from segdistill.teachers.teacher import Teacher
from segdistill.training.jobs import TrainingJob
from segdistill.training.objectives import Distillation
from segdistill.training.term_gradients import TermGradient, check_finite, gradient_warnings, term_gradients
from segdistill.training.trainer import training_stream

NAME = "first step"
"""Name of this check in teacher.json."""


def check_first_step(context: RunContext, folder: RunFolder, job: TrainingJob, teacher: Teacher) -> None:
    """Check a distillation's first step, unless a resumed run has passed that with this teacher and these terms.

    Raises:
        CheckError: if a term or its gradient is not finite.
    """
    assert isinstance(job.stage.objective, Distillation)
    if not job.stage.objective.weights:
        return
    subject = _subject(context, teacher)
    if has_passed_before(context, NAME, subject):
        return
    # read in this process: for one batch, starting loader processes would take longer
    runtime = replace(context.runtime, workers=0)
    batch = next(training_stream(job, runtime))
    gradients = term_gradients(job.stage, batch, runtime.precision)
    show_first_step(context, gradients)
    note_passed(folder, NAME, subject, overruled=False)


def _subject(context: RunContext, teacher: Teacher) -> str:
    """Return a digest of all that the first step depends on."""
    config = context.config.to_dict()
    parts = [teacher.identity, config["terms"], config["student"], config["seed"]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def show_first_step(context: RunContext, gradients: Mapping[str, TermGradient]) -> None:
    """Print value and gradient of each term, and warn of those without effect and those that drown all others.

    Raises:
        CheckError: if one is not finite.
    """
    rows = []
    for name, term in gradients.items():
        compared = f": {term.compares}" if term.compares else ""
        rows.append((name, f"{term.value:.3g}, gradient {term.gradient:.3g}{compared}"))
    context.reporter.banner("check: the first step, of two images", rows)
    check_finite(gradients)
    terms = context.config.terms
    # a term of weight 0 is only logged, and has no gradient by the user's wish
    weighed = {name: term for name, term in gradients.items() if name not in terms or terms[name].weight > 0}
    for warning in gradient_warnings(weighed):
        context.reporter.warning(warning)
