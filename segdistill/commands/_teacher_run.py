"""The training of a teacher in a run of its own."""

from segdistill.commands._context import RunContext
from segdistill.commands._estimate import estimate_training
from segdistill.commands._networks import build_initialized, model_info, supervision
from segdistill.commands._results import Outcome
from segdistill.commands._run_record import finish, open_run_folder
from segdistill.commands._summary import announce
from segdistill.commands._training_run import logging_context, result_if_trained, result_of_training
from segdistill.config.schema import RunConfig
from segdistill.training.jobs import TrainingJob
from segdistill.training.objectives import Distillation, LabelAssisted
from segdistill.training.trainer import train
from segdistill.types import Objective, Stage


def teacher_stem(config: RunConfig) -> str:
    """Return the name of the folder of a teacher's run, but for its number."""
    return f"train-teacher-{config.preset}-{config.teacher.network}"


def run_teacher_training(context: RunContext) -> Outcome:
    """Train the configuration's teacher network on its own, or go on with that."""
    reporter = context.reporter
    with open_run_folder(context, "teacher") as folder:
        context = logging_context(context, folder)
        job = teacher_job(context)
        result = result_if_trained(context, folder, job, "teacher")
        if result is None:
            announce(context, job, "teacher", estimate_training(context, job))
            if context.options.dry_run:
                return finish(folder, context, [])
            options = context.options
            trained = train(
                job,
                folder,
                context.runtime,
                resume=options.resume,
                command=context.resume_command,
            )
            result = result_of_training(context, folder, job, "teacher", trained)
        outcome = finish(folder, context, [result])
        reporter.info(f"Teacher: {context.out}")  # not into the log: the manifest has its digest
        return outcome


def teacher_job(context: RunContext) -> TrainingJob:
    """Return the training of the configuration's teacher."""
    config = context.config
    network = build_initialized(context, config.teacher, context.options.init_weights)
    labels, embedding = supervision(context, "teacher"), config.teacher.label_embedding
    objective: Objective = Distillation(labels)  # without terms: the loss with the labels alone
    if embedding is not None:
        objective = LabelAssisted(labels, embedding, len(context.data.classes))
    stage = Stage("teacher", network, objective, config.teacher_optim())
    info = model_info(context, config.teacher, "teacher", stage.optim.steps)
    return TrainingJob(stage, network, info, config, context.data)
