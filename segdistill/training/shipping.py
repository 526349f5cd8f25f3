"""The end of a training: which of its weights become the model, their scores, and the files of the others."""

from collections.abc import Mapping

from torch import Tensor

from segdistill.checkpoints.model_file import read_weights, save_model
from segdistill.config.schema import Weights
from segdistill.errors import ModelError
from segdistill.evaluation.metrics import Scores
from segdistill.runtime.distributed import run_on_main
from segdistill.storage.run_files import WEIGHT_FILES
from segdistill.training.jobs import OutputFolder, Runtime, TrainingJob
from segdistill.training.state import Training
from segdistill.training.validator import Validator

MODEL = "model.safetensors"


def ship(
    job: TrainingJob, folder: OutputFolder, runtime: Runtime, *, training: Training, validator: Validator
) -> Scores:
    """Write the weights that become the model, and beside it the others; the network keeps those of the model.

    The choice is the configuration's, so it is the same for a distilled student and its baseline. The model's file is
    the last one that is written: a run that has it is trained.

    Returns:
        The scores of the shipped weights, in float32.

    Raises:
        ModelError: if the best weights are to be shipped, and their file is gone or damaged.
    """
    choice = _choice(job, training)
    validated: Weights = "last" if training.average is None else "ema"
    scores: Scores | None = None
    with training.averaged():
        if choice == validated:
            scores = _validated_scores(validator, training, runtime)
        if validated == "ema" and choice != "ema":
            _write(job, folder, training, "ema")
    if choice != "last":
        _write(job, folder, training, "last")
    if choice == "ema" and training.average is not None:
        training.average.adopt()
    elif choice == "best":
        job.network.load_state_dict(_best_weights(folder))
    if scores is None:
        scores = validator.score(runtime.exact())
    _write(job, folder, training, choice, name=MODEL, metrics=validator.final_metrics(scores))
    return scores


def _choice(job: TrainingJob, training: Training) -> Weights:
    """Return which weights become the model, of those that there are."""
    choice = job.config.shipped_weights(job.stage.optim)
    # a teacher may be trained without an average beside a student that has one
    if choice == "ema" and training.average is None:
        return "last"
    # mIoU says how well a label-assisted teacher reads the labels, and its best is no better than its last
    if choice == "best" and job.info.label_assisted:
        return "last" if training.average is None else "ema"
    return choice


def _validated_scores(validator: Validator, training: Training, runtime: Runtime) -> Scores:
    """Return the scores of what validations score, after the last step."""
    is_complete = training.step == training.stage.optim.steps
    # The validation after the last step is exact. One before it is not, and one of a process before this one is gone:
    # a checkpoint keeps its mIoU alone.
    if is_complete and validator.scores is not None:
        return validator.scores
    return validator.score(runtime.exact())


def _write(
    job: TrainingJob,
    folder: OutputFolder,
    training: Training,
    weights: Weights,
    *,
    name: str = "",
    metrics: Mapping[str, float] | None = None,
) -> None:
    """Write the network as it is to a model file: by default that of the weights, which were not scored."""
    info = job.info.model_copy(update={"weights": weights, "steps": training.step, "metrics": dict(metrics or {})})
    folder.write(name or WEIGHT_FILES[weights], lambda path: save_model(path, job.network, info))


def _best_weights(folder: OutputFolder) -> dict[str, Tensor]:
    """Return the weights of the best validation, in all processes: the first one has the folder."""

    def read() -> dict[str, Tensor]:
        path = folder.find(WEIGHT_FILES["best"])
        if path is None:
            raise ModelError("The run's folder has no checkpoints/best to ship.", "Start a new run.")
        return read_weights(path)

    return run_on_main(read)
