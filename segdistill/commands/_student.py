"""The training of a student: distilled, or the baseline without a teacher."""

from typing import Literal

from segdistill.commands._context import RunContext
from segdistill.commands._estimate import estimate_training
from segdistill.commands._first_step import check_first_step
from segdistill.commands._networks import build_initialized, model_info, supervision
from segdistill.commands._pretraining import run_pretraining
from segdistill.commands._results import NetworkResult
from segdistill.commands._summary import announce
from segdistill.commands._training_run import logging_context, result_if_trained, result_of_training
from segdistill.networks import SegNetwork
from segdistill.storage.run_folder import RunFolder
from segdistill.teachers.selective import Following
from segdistill.teachers.teacher import Teacher
from segdistill.terms import TermContext, build_terms
from segdistill.training.jobs import TrainingJob
from segdistill.training.objectives import Distillation
from segdistill.training.trainer import train
from segdistill.types import Stage

PSEUDO_LABELS = "pseudo-labels"
"""What a model's header calls the teacher's classes as labels, beside the names of terms."""


def train_student(
    context: RunContext, folder: RunFolder, teacher: Teacher, role: Literal["baseline", "distilled"]
) -> tuple[SegNetwork, NetworkResult | None]:
    """Train a student in its folder; one that a resumed run has trained already is only scored.

    Args:
        context: whose configuration has no terms where the student is the baseline.
        folder: of the student's run.
        teacher: is not asked by a baseline.
        role: of the student.

    Returns:
        The trained network and its result; no result in a dry run.
    """
    context = logging_context(context, folder)
    job, objective = student_job(context, teacher)
    result = result_if_trained(context, folder, job, role)
    if result is not None:
        return job.network, result
    run_pretraining(context, folder, objective, teacher)
    announce(context, job, role, estimate_training(context, job))
    check_first_step(context, folder, job, teacher)
    if context.options.dry_run:
        return job.network, None
    trained = train(
        job,
        folder,
        context.runtime,
        resume=context.options.resume,
        command=context.resume_command,
    )
    return job.network, result_of_training(context, folder, job, role, trained)


def student_job(context: RunContext, teacher: Teacher) -> tuple[TrainingJob, Distillation]:
    """Return the training of the configuration's student, and what it minimizes.

    Raises:
        UsageError, ModelError: if initial weights or terms do not fit the networks.
    """
    config = context.config
    student = build_initialized(context, config.student, context.options.init_weights)
    objective = distillation(context, student, teacher)
    stage = Stage("student", student, objective, config.optim)
    info = model_info(context, config.student, "student", stage.optim.steps)
    # export measures the teacher's speed beside the student's, if it can build the teacher again
    terms = tuple(objective.weights)
    if objective.teacher is not None and objective.teacher.labels_images:
        terms += (PSEUDO_LABELS,)
    about = {"terms": terms, "teacher": teacher.rebuildable_network}
    return TrainingJob(stage, student, info.model_copy(update=about), config, context.data), objective


def distillation(context: RunContext, student: SegNetwork, teacher: Teacher) -> Distillation:
    """Return what a student minimizes: cross entropy and the configuration's terms.

    Raises:
        UsageError: if a term does not fit the two networks.
    """
    config = context.config
    term_context = TermContext(student, teacher.network, len(context.data.classes), len(teacher.missing_classes))
    terms = build_terms(config.terms, term_context)
    following = Following.of(config.teacher)
    is_asked = bool(terms) or following.labels_images
    return Distillation(supervision(context, "student"), teacher.frozen(following) if is_asked else None, terms)
