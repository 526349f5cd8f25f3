"""A training in its folder: announced, checked, trained or found trained, and the result that comes of it."""

from dataclasses import replace

from segdistill.checkpoints.model_file import ModelInfo, load_model, read_info
from segdistill.commands._context import RunContext
from segdistill.commands._lengthening import is_trained
from segdistill.commands._networks import exact_scores
from segdistill.commands._pretraining import pretraining_seconds
from segdistill.commands._results import NetworkResult, Role
from segdistill.commands._run_log import log_writer
from segdistill.evaluation.metrics import Scores
from segdistill.networks import SegNetwork, count_parameters, countable_macs
from segdistill.runtime import distributed
from segdistill.runtime.reporter import LoggingReporter
from segdistill.storage.run_folder import RunFolder
from segdistill.training.jobs import TrainingJob
from segdistill.training.last_state import load_last
from segdistill.training.state import skipped_in
from segdistill.training.trainer import Trained

MODEL = "model.safetensors"


def logging_context(context: RunContext, folder: RunFolder) -> RunContext:
    """Return a context whose reporter also writes the run's log."""
    if not folder.writes:
        return context
    return context.logging_to(LoggingReporter(context.reporter, log_writer(folder)))


def result_if_trained(context: RunContext, folder: RunFolder, job: TrainingJob, role: Role) -> NetworkResult | None:
    """Load the network that a resumed run has trained already and return its result; None if it has not."""
    model = context.out / MODEL
    if not distributed.broadcast_object(context.options.resume and is_trained(context.out)):
        return None
    network, info = load_model(model)
    job.network.load_state_dict(network.state_dict())
    context.reporter.info(f"{role}: already trained")
    state = load_last(folder, context.reporter)
    if state is not None:
        # lines behind the last checkpoint are of steps that a kill has cut off
        folder.truncate_lines("metrics.jsonl", state["lines"], state.get("lines_sha256"))
    seconds = distributed.broadcast_object(None if state is None else state["seconds"])
    skipped = distributed.broadcast_object(0 if state is None else skipped_in(state["training"]))
    scores = exact_scores(context, job.network, info)
    return _trained_result(context, job, info, role, scores=scores, seconds=seconds, skipped_steps=skipped)


def result_of_training(
    context: RunContext, folder: RunFolder, job: TrainingJob, role: Role, trained: Trained
) -> NetworkResult:
    """Return the result of a training that has just ended."""
    info = read_info(context.out / MODEL) if folder.writes else job.info
    return _trained_result(
        context, job, info, role, scores=trained.scores, seconds=trained.seconds, skipped_steps=trained.skipped
    )


def _trained_result(
    context: RunContext,
    job: TrainingJob,
    info: ModelInfo,
    role: Role,
    *,
    scores: Scores,
    seconds: float | None,
    skipped_steps: int,
) -> NetworkResult:
    return replace(
        network_result(context, job.network, info, role, scores),
        seed=context.further_seed,
        training_seconds=seconds,
        pretraining_seconds=pretraining_seconds(context.out),
        skipped_steps=skipped_steps,
    )


def network_result(
    context: RunContext, network: SegNetwork, info: ModelInfo, role: Role, scores: Scores
) -> NetworkResult:
    """Return scores and costs of a network, wherever it was trained."""
    by_teacher = "val" in context.data.unlabeled
    best_miou = info.metrics.get("best_agreement_miou" if by_teacher else "best_miou")
    return NetworkResult(
        role=role,
        network=info.network.network,
        scores=scores,
        parameters=count_parameters(network) or None,
        macs=countable_macs(network, context.config.data.crop),
        best_miou=best_miou,
        # a teacher whose answers are the labels has its own best, of labels, and none of agreement
        best_classes_scored=None if best_miou is None else info.metrics.get("best_classes_scored"),
        weights=info.weights,
        label_assisted=info.label_assisted,
        by_teacher=by_teacher,
    )
