"""Validation while a network is trained, and the best weights so far."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

from segdistill.checkpoints.model_file import save_model
from segdistill.errors import ModelError
from segdistill.evaluation.metrics import Scores
from segdistill.runtime import distributed
from segdistill.runtime.precision import Precision
from segdistill.runtime.signals import Interrupted
from segdistill.storage.run_files import WEIGHT_FILES
from segdistill.training.jobs import OutputFolder, Runtime, TrainingJob
from segdistill.training.scoring import score


class Best(NamedTuple):
    """The best validation so far."""

    miou: float = -1.0
    step: int = 0
    """Step that it belongs to; 0 before the first validation."""
    classes: int | None = None
    """Number of classes that the mIoU is a mean over; None where a state of an earlier version does not say."""
    since: int = 0
    """Number of validations since then, none of which was better."""


class NoValidation:
    """Stands in where nothing is validated: in a pretraining, whose model has no mIoU."""

    is_exhausted: ClassVar[bool] = False
    """Whether the training is to end before its last step: never."""

    def is_due(self, step: int) -> bool:
        """Return False, after any step."""
        return False

    def __call__(self, step: int, precision: Precision, stop_received: Callable[[], int | None]) -> None:
        """Do nothing."""

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of it: nothing."""
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Take nothing from a checkpoint."""


class Validator:
    """The validation of a network in training.

    Weights are the best where their mIoU is higher than that of all before. Of equal ones the earlier stay the best:
    they took fewer steps, and a validation that is done again after a resume replaces nothing.
    """

    def __init__(self, job: TrainingJob, folder: OutputFolder, runtime: Runtime) -> None:
        self.job = job
        self.folder = folder
        self.runtime = runtime
        self.best = Best()
        self.scores: Scores | None = None
        """Scores of the last validation that came to its end in this process."""

    @property
    def is_exhausted(self) -> bool:
        """Whether so many validations in a row were no better than the best that the training is to end."""
        # mIoU says how well such a teacher reads the labels, which it soon does, and not how well it teaches
        if self.job.info.label_assisted:
            return False
        patience = self.job.config.validate_.patience
        return patience > 0 and self.best.since >= patience

    def is_due(self, step: int) -> bool:
        """Whether a step is followed by a validation: each so many, and the last."""
        return step % self.job.config.validate_.every == 0 or step == self.job.stage.optim.steps

    def __call__(
        self, step: int, precision: Precision, stop_received: Callable[[], int | None]
    ) -> dict[str, float] | None:
        """Validate after a step, report it, and keep the weights where they are better than before.

        Args:
            step: number of steps done.
            precision: device and autocast type.
            stop_received: returns a signal that asks to stop, in which case nothing comes of it.

        Returns:
            The metrics to log; None if it was stopped.
        """

        def stop_or_go_on(images: int) -> None:
            if stop_received() is not None:
                raise Interrupted

        try:
            self.scores = self.score(precision, stop_or_go_on)
        except Interrupted:
            if distributed.world_size() > 1:  # the others are in the midst of it
                raise
            return None
        self.runtime.reporter.info(f"{self.job.stage.name} step {step}: {self._sentence(self.scores)}")
        self._keep_if_best(step, self.scores)
        return self._metrics(self.scores)

    def score(self, precision: Precision, on_batch: Callable[[int], None] | None = None) -> Scores:
        """Return the scores of the weights as they are."""
        job = self.job
        return score(job.network, job.info, job.data, runtime=self.runtime, precision=precision, on_batch=on_batch)

    def final_metrics(self, scores: Scores) -> dict[str, float]:
        """Return what the model file says: scores of the last step, and of the best where mIoU means something."""
        metrics = self._metrics(scores)
        # Of a label-assisted teacher mIoU says how well it reads the labels, and the best is no better than the last.
        if self.best.step == 0 or self.job.info.label_assisted:
            return metrics
        best_miou = "best_agreement_miou" if self.job.info.scored_by_teacher else "best_miou"
        metrics |= {best_miou: self.best.miou, "best_step": float(self.best.step)}
        if self.best.classes is not None:
            metrics["best_classes_scored"] = float(self.best.classes)
        return metrics

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of it."""
        best = self.best
        return {
            "best": best.miou,
            "best_step": best.step,
            "best_classes": best.classes,
            "validations_since_best": best.since,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over what was best before a checkpoint.

        Raises:
            ModelError: if it does not say so.
        """
        # Keys of a checkpoint, which version 0.1 writes too, without the number of classes.
        miou, step = state.get("best"), state.get("best_step")
        if not isinstance(miou, float) or not isinstance(step, int):
            raise ModelError("The last checkpoint does not say what was best so far.", "Start a new run.")
        since = state.get("validations_since_best", 0)  # patience is younger than the others
        if type(since) is not int or since < 0:
            raise ModelError("The last checkpoint does not say how long ago the best was.", "Start a new run.")
        self.best = Best(miou, step, state.get("best_classes"), since)

    def _keep_if_best(self, step: int, scores: Scores) -> None:
        """Save the weights where they are better than all before."""
        if scores.miou <= self.best.miou:
            # one that is done again after a resume must not count twice: `load` has set the count back with the step
            self.best = self.best._replace(since=self.best.since + 1)
        else:
            self.best = Best(scores.miou, step, scores.classes_scored)
            metrics = self._metrics(scores) | {"step": float(step)}  # a header has numbers of one type
            info = self.job.info.model_copy(update={"metrics": metrics, "weights": "best"})
            self.folder.write(WEIGHT_FILES["best"], lambda path: save_model(path, self.job.network, info))

    def _metrics(self, scores: Scores) -> dict[str, float]:
        return self.job.info.measured(scores.miou, scores.pixel_accuracy, scores.classes_scored)

    def _sentence(self, scores: Scores) -> str:
        accuracy = f"{100 * scores.pixel_accuracy:.2f} %"
        if self.job.info.label_assisted:
            return f"agrees with {accuracy} of the labels it sees; this is no accuracy"
        if self.job.info.scored_by_teacher:
            return (
                f"agreement with the teacher: mIoU {100 * scores.miou:.2f} %{scores.coverage}, {accuracy} of the "
                "pixels; this is no accuracy"
            )
        return f"mIoU {100 * scores.miou:.2f} %{scores.coverage}, pixel accuracy {accuracy}"
