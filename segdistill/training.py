"""One training from its first step to its model file: logs, validation, checkpoints, signals, exact resume."""

import hashlib
import json
import math
import signal
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median_low
from typing import Any, NamedTuple

import torch

from segdistill import distributed
from segdistill.checkpoint import ModelInfo, load_state, save_model, save_state
from segdistill.config import RunConfig
from segdistill.data import AUXILIARY, DataSource, Part, evaluation_batches, training_batches
from segdistill.engine import Precision, Report, Training, evaluate, fit, gather_scores, pixels_at_once, skipped_in
from segdistill.errors import ModelError, ResourceError, Stopped, out_of_memory
from segdistill.label_codes import with_labels
from segdistill.metrics import Scores
from segdistill.networks import SegNetwork
from segdistill.prediction import predictor
from segdistill.report import skipped_steps
from segdistill.signals import Interrupted, stop, stop_signals
from segdistill.store import RunFolder
from segdistill.talk import Advance, Silence, Talk
from segdistill.types import Batch, Stage

LOG_EVERY = 10
"""Steps between two lines of metrics.jsonl; reading a value waits for the device."""
EVAL_BATCH = 4
"""Images that a validation takes at once, at most; large ones are fewer, as `engine.MAX_LOGITS_BYTES` says."""
IN_VALIDATION = (
    "--resume goes on with --set validate.batch_size=1 and fewer --workers (0 reads in the main process), and ends in "
    "the same weights. If that is not enough, a new run takes a smaller data.size."
)
IN_TRAINING = (
    "Use a smaller data.batch_size, data.crop or data.size, optim.accumulate=2, or a smaller network: in a new run, by "
    "--overwrite or another --out. --resume continues this one with fewer --workers (0 reads in the main process), or "
    "where there is more memory."
)
MAX_STALL = 3
"""Times the median step that a step counts for at most: contention on a busy machine stays below, a stall does not."""
TELLING = 5
"""Steps whose median says how long a step takes."""


@dataclass(frozen=True)
class Workplace:
    """Where and how everything of a command runs."""

    device: torch.device
    precision: Precision
    workers: int
    talk: Talk
    eval_batch: int = EVAL_BATCH

    def exact(self) -> Precision:
        """Return float32 on the same device: what is reported is computed in it."""
        return Precision("fp32", self.device, torch.float32)


@dataclass(frozen=True)
class Job:
    """A network, what it minimises, and what its model file will say."""

    stage: Stage
    network: SegNetwork
    info: ModelInfo
    config: RunConfig
    data: DataSource

    @property
    def title(self) -> str:
        """What the progress bar is called."""
        return f"{self.stage.name} {self.info.network.network}"


@dataclass(frozen=True)
class Preparation:
    """What is trained before a network, for a term that needs it: never validated, never shipped."""

    stage: Stage
    config: RunConfig
    data: DataSource

    @property
    def title(self) -> str:
        """What the progress bar is called."""
        return self.stage.name


class Trained(NamedTuple):
    """What came of a training."""

    scores: Scores
    seconds: float
    """Spent at work in its steps, as `StepClock` counts."""
    skipped: int
    """Steps that were left out, because their gradient was not finite."""


class StepClock:
    """Seconds that a training spends at work in its steps: without validation and checkpoints, and without stalls.

    A step counts for what it took, but for at most MAX_STALL times the median step: a process that was stopped, a
    machine that was suspended and storage that hung for a minute did no work that another training should be given.
    A slow loader counts: its steps are the median ones. So does hardly anything of the first step's setting up, as in
    the steps that the plain student is measured by.
    """

    def __init__(self, before: float = 0.0, median_before: float | None = None) -> None:
        """Go on from the seconds, and the median step, of the processes that a run was in before."""
        self._before, self._median_before = before, median_before
        self._steps = array("d")

    def add(self, seconds: float) -> None:
        """Count a step."""
        self._steps.append(seconds)

    @property
    def median(self) -> float | None:
        """The median step of this process, or of the ones before where this one is too young to tell; None of none."""
        young = len(self._steps) < TELLING and self._median_before is not None
        return self._median_before if young or not self._steps else median_low(self._steps)

    @property
    def seconds(self) -> float:
        """All seconds at work, those before included."""
        most = MAX_STALL * (self.median or 0.0)
        return self._before + sum(min(step, most) for step in self._steps)


def train(job: Job, folder: RunFolder | None, place: Workplace, *, resume: bool, command: str) -> Trained:
    """Train, validate, save; return the scores of the last step's weights, in float32.

    Args:
        job: what is trained.
        folder: the run's folder; None in all processes but the first, which alone writes.
        place: device, precision, workers.
        resume: continue from the folder's last checkpoint, where it has one.
        command: what continues the run, for messages.
    """
    check = Check(job, folder, place)
    with stop_signals(alone=distributed.world_size() == 1) as stopped:
        recorder = _run_stage(job, folder, place, resume, command, stopped, check)
        try:
            scores = check.scores or check.score(place.exact())
        except Interrupted:
            raise stop(stopped(), f"after the last step of {job.stage.optim.steps}", command) from None
        if folder is not None:
            metrics = job.info.measured(scores.miou, scores.pixel_accuracy, scores.classes_scored)
            if check.best_step and not job.info.label_assisted:
                metrics |= {"best_miou": check.best, "best_step": float(check.best_step)}
                if check.best_classes is not None:
                    metrics["best_classes_scored"] = float(check.best_classes)
            save_model(folder / "model.safetensors", job.network, job.info.model_copy(update={"metrics": metrics}))
        distributed.barrier()
        _stop_late(stopped, job, place, command)
    return Trained(scores, recorder.clock.seconds, recorder.skipped)


def prepare(job: Preparation, folder: RunFolder | None, place: Workplace, *, resume: bool, command: str) -> float:
    """Train what a term needs before the student; return the seconds that it took, as `StepClock` counts.

    Args: as `train`; the weights are the caller's to keep.
    """
    with stop_signals(alone=distributed.world_size() == 1) as stopped:
        recorder = _run_stage(job, folder, place, resume, command, stopped)
        _stop_late(stopped, job, place, command)
    return recorder.clock.seconds


def _run_stage(
    job: Job | Preparation,
    folder: RunFolder | None,
    place: Workplace,
    resume: bool,
    command: str,
    stopped: Callable[[], int | None],
    check: "Check | None" = None,
) -> "Recorder":
    """Fit a stage from its start, or from the folder's last checkpoint if that is of this stage."""
    loaded = _load_last(folder, place.talk) if resume and folder is not None else (None, False)
    state, last_is_damaged = distributed.same_for_all(loaded)
    own = state if state is not None and state["training"]["stage"] == job.stage.name else None
    done = 0 if own is None else int(own["training"]["step"])
    stage, config = job.stage, job.config
    if done > stage.optim.steps:
        raise ModelError(f"The last checkpoint is of step {done} of {stage.optim.steps}.", "Start a new run.")
    with place.talk.progress(job.title, stage.optim.steps, done) as advance:
        recorder = Recorder(job, folder, place, advance, stopped, command, check)
        recorder.load(state, resume=resume, same_stage=own is not None)
        recorder.last_is_damaged = last_is_damaged

        def go_on(training: Training) -> None:
            assert own is not None
            own["training"].clear()  # it is loaded, and would take the memory of a second network until the end
            recorder.catch_up(training)

        try:
            with told_out_of_memory(f"in the training of {job.stage.name}", IN_TRAINING):
                fit(
                    stage,
                    training_stream(job, place, done),
                    precision=place.precision,
                    seed=config.seed,
                    on_step=recorder,
                    resume=None if own is None else own["training"],
                    on_resume=go_on,
                )
        except Interrupted:
            raise recorder.stop_waiting() from None
    if recorder.skipped:
        place.talk.warn(f"{job.stage.name}: {skipped_steps(recorder.skipped, stage.optim.steps)}.")
    return recorder


@contextmanager
def told_out_of_memory(where: str, advice: str) -> Iterator[None]:
    """Turn the many errors of too little memory into one that says where it was and what helps.

    Raises:
        ResourceError: in the place of any of them.
    """
    try:
        yield
    except Exception as error:
        sign = out_of_memory(error)
        if sign is None:
            raise
        raise ResourceError(f"Out of memory {where}. {sign}", advice) from error


def training_stream(job: Job | Preparation, place: Workplace, done: int = 0) -> Iterator[Batch]:
    """Return this process's batches of a stage, from the first step that is not done."""
    return training_batches(
        job.data.split("train"),
        job.config.data,
        auxiliary=job.data.splits.get(AUXILIARY),
        seed=job.config.seed,
        start_step=done,
        steps=job.stage.optim.steps,
        accumulate=job.stage.optim.accumulate,
        rank=distributed.rank(),
        world=distributed.world_size(),
        workers=place.workers,
        device=place.device,
    )


def _stop_late(stopped: Callable[[], int | None], job: Job | Preparation, place: Workplace, command: str) -> None:
    """Stop where a signal came during the last step: what that step made is saved first."""
    if distributed.any_process(stopped() is not None, place.device):
        raise stop(stopped(), f"after the last step of {job.stage.optim.steps}", command)


class Recorder:
    """What happens between two steps: log, validate, save, stop when told."""

    def __init__(
        self,
        job: Job | Preparation,
        folder: RunFolder | None,
        place: Workplace,
        advance: Advance,
        stopped: Callable[[], int | None],
        command: str,
        check: "Check | None",
    ) -> None:
        self.job, self.folder, self.place, self.advance = job, folder, place, advance
        self.stopped, self.command, self.check = stopped, command, check
        self.clock = StepClock()
        self.skipped = 0
        """Steps that were left out so far, because their gradient was not finite."""
        self.unvalidated = False
        """Whether the validation that belongs to the last step is still to come, or to be done again."""
        self.saved = 0
        """Step that the last checkpoint is of."""
        self.last_is_damaged = False
        """Whether the last checkpoint is no use, and the one before it therefore all there is."""
        self.done: Training | None = None
        """The state after the last step that was done and not saved."""
        self._since = time.perf_counter()

    def load(self, state: dict[str, Any] | None, *, resume: bool, same_stage: bool) -> None:
        """Go on where a checkpoint was taken; of another stage, only its lines in the log remain."""
        if state is not None and same_stage:
            self.saved = state["training"]["step"]
            median = state.get("median_step")  # a state of an earlier version does not say
            self.clock = StepClock(state["seconds"], median if isinstance(median, float) else None)
            self.skipped = skipped_in(state["training"])
            self.unvalidated = state.get("unvalidated", False)
            if self.check is not None:
                self.check.best, self.check.best_step = _best(state)
                self.check.best_classes = state.get("best_classes")
        if self.folder is not None and resume:
            keep, digest = (0, None) if state is None else (state["lines"], state.get("lines_sha256"))
            self.folder.truncate_lines("metrics.jsonl", keep, digest)

    def __call__(self, report: Report) -> None:
        """Handle one step; called on every process."""
        config, steps = self.job.config, self.job.stage.optim.steps
        last = report.step == steps
        self.skipped = report.training.skipped
        self.done = report.training
        if report.step % LOG_EVERY == 0 or last:
            self._log(report)
        self.advance(1, "")
        self.clock.add(time.perf_counter() - self._since)
        save = report.step % config.checkpoint.every == 0 or last
        validate = self.check is not None and (report.step % config.validate_.every == 0 or last)
        self.unvalidated = validate
        if save:
            self._save(report.training)  # first, as a validation may take more memory than there is
        if validate:
            self._validate(report.training)
        asked = distributed.any_process(self.stopped() is not None, self.place.device)
        if asked or (save and validate):
            self._save(report.training)
        if asked and (self.unvalidated or not last):  # after the last step the model file comes first
            distributed.barrier()
            raise self._stop(report.step)
        self._since = time.perf_counter()

    def catch_up(self, training: Training) -> None:
        """Validate a state that was saved before it could be; called on every process."""
        if self.unvalidated:
            self._validate(training)
            if self.unvalidated:
                raise self._stop(training.step)
            self._save(training)
        self._since = time.perf_counter()

    def _validate(self, training: Training) -> None:
        """Validate after a step, unless a signal comes or memory runs out: that is left for later."""
        assert self.check is not None
        last = training.step == self.job.stage.optim.steps
        precision = self.place.exact() if last else self.place.precision
        # Several processes must agree on when to stop, which they do between steps only.
        asked = self.stopped if distributed.world_size() == 1 else lambda: None
        self.unvalidated = True
        try:
            scores = self.check(training.step, precision, asked)
        except ResourceError:
            self._save(training)
            raise
        self.unvalidated = scores is None
        if scores is not None:
            self._write(
                training.step, self.check.job.info.measured(scores.miou, scores.pixel_accuracy, scores.classes_scored)
            )

    def stop_waiting(self) -> Stopped:
        """Save what is done, and return what ends a run that waited for images when it was told to stop.

        Batches are taken before a step begins, so the state is that after the step before. Of several processes the
        others wait for this one and end with it, without a word to each other.
        """
        if self.done is not None:
            self._save(self.done)
        number = self.stopped() or signal.SIGTERM
        what = f"Stopped by {signal.Signals(number).name} while no image came; what was saved before is whole."
        return Stopped(what, f"Continue with: {self.command}", number)

    def _stop(self, step: int) -> Stopped:
        return stop(self.stopped(), f"after step {step} of {self.job.stage.optim.steps}", self.command)

    def _log(self, report: Report) -> None:
        terms = distributed.mean_across(report.terms)
        loss = sum((value for name, value in terms.items() if name != "critic"), 0.0)
        entry = {"loss": loss, **terms, "lr": report.lr, "gradient_norm": report.gradient_norm}
        if self.skipped:
            entry["skipped_steps"] = self.skipped
        self._write(report.step, entry)
        shown = "  ".join(f"{name} {value:.3f}" for name, value in terms.items())
        self.advance(0, f"loss {loss:.3f} ({shown})")

    def _save(self, training: Training) -> None:
        """Save the state in the place of one of the same step; one of an earlier step is kept."""
        if self.folder is None:
            return
        lines = self.folder.lines("metrics.jsonl")
        own = {"lines": len(lines), "lines_sha256": hashlib.sha256(b"".join(lines)).hexdigest()}
        own |= {"seconds": self.clock.seconds, "median_step": self.clock.median, "unvalidated": self.unvalidated}
        if self.check is not None:
            own |= {"best": self.check.best, "best_step": self.check.best_step}
            own |= {"best_classes": self.check.best_classes}
        self.done = None
        self.folder.sync("metrics.jsonl")  # a state counts on the lines that it names
        state = {"training": training.state(), **own}
        keep = training.step != self.saved and not self.last_is_damaged
        save_state(self.folder / "checkpoints/last", state, keep_previous=keep)
        self.saved, self.last_is_damaged = training.step, False
        if self.check is not None:  # what is trained beforehand comes before the last check
            self.folder.promote()

    def _write(self, step: int, values: dict[str, float]) -> None:
        if self.folder is None:
            return
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        entry = {"stage": self.job.stage.name, "step": step, **finite}
        self.folder.append("metrics.jsonl", json.dumps(entry))


class Check:
    """The validation of a network in training: its scores, and the best weights so far."""

    def __init__(self, job: Job, folder: RunFolder | None, place: Workplace) -> None:
        self.job, self.folder, self.place = job, folder, place
        self.best, self.best_step = -1.0, 0
        self.best_classes: int | None = None
        """Number of classes that the best mIoU is a mean over; a state of an earlier version does not say."""
        self.scores: Scores | None = None

    def __call__(self, step: int, precision: Precision, asked: Callable[[], int | None]) -> Scores | None:
        """Validate after a step; keep the weights where they are better than before.

        Args:
            step: of the training.
            precision: device and autocast type.
            asked: whether to stop, in which case nothing comes of it.
        """

        def go_on(images: int) -> None:
            if asked() is not None:
                raise Interrupted

        try:
            scores = self.scores = self.score(precision, go_on)
        except Interrupted:
            if distributed.world_size() > 1:  # the others are in the midst of it
                raise
            return None
        text = f"mIoU {100 * scores.miou:.2f} %{scores.coverage}, pixel accuracy {100 * scores.pixel_accuracy:.2f} %"
        if self.job.info.label_assisted:
            text = f"agrees with {100 * scores.pixel_accuracy:.2f} % of the labels it sees; this is no accuracy"
        self.place.talk.say(f"{self.job.stage.name} step {step}: {text}")
        if scores.miou > self.best:
            self.best, self.best_step, self.best_classes = scores.miou, step, scores.classes_scored
            if self.folder is not None:
                own = self.job.info.measured(scores.miou, scores.pixel_accuracy, scores.classes_scored) | {
                    "step": float(step)
                }
                info = self.job.info.model_copy(update={"metrics": own})
                save_model(self.folder / "checkpoints/best", self.job.network, info)
        return scores

    def score(self, precision: Precision, on_batch: Callable[[int], None] | None = None) -> Scores:
        """Return the scores of the weights as they are."""
        return score(self.job.network, self.job.info, self.job.data, self.place, precision, on_batch)


def stage_reached(folder: RunFolder) -> str | None:
    """Return the stage that a run was stopped in; None where it has saved nothing yet."""
    state = load_last(folder, Silence())
    return None if state is None else str(state["training"]["stage"])


def _is_whole(state: Any) -> bool:
    """Whether a state has what a training's has: only a forged one with a digest of its own has not."""
    parts = {"stage": str, "step": int, "weights": dict, "optimizer": dict}
    own = state.get("training") if isinstance(state, dict) else None
    return (
        isinstance(own, dict)
        and all(isinstance(own.get(name), kind) for name, kind in parts.items())
        and isinstance(state.get("lines"), int)
        and isinstance(state.get("seconds"), float)
        and own["step"] >= 0
        and state["lines"] >= 0
    )


def _best(state: dict[str, Any]) -> tuple[float, int]:
    """Return the best mIoU before a state was taken, and its step."""
    best, step = state.get("best"), state.get("best_step")
    if not isinstance(best, float) or not isinstance(step, int):
        raise ModelError("The last checkpoint does not say what was best so far.", "Start a new run.")
    return best, step


def load_last(folder: RunFolder, talk: Talk) -> dict[str, Any] | None:
    """Return the newest undamaged state of a run, saying so where it is not the last; None where none was saved."""
    return _load_last(folder, talk)[0]


def _load_last(folder: RunFolder, talk: Talk) -> tuple[dict[str, Any] | None, bool]:
    """Do as `load_last` says; return also whether the last state is damaged."""
    problem: ModelError | None = None
    for name in ("checkpoints/last", "checkpoints/last.prev"):
        if not (folder / name).exists():
            continue
        try:
            state = load_state(folder / name)
            if not _is_whole(state):
                raise ModelError(f"{folder / name} is no state of a training.", "Start a new run.")
        except ModelError as error:
            problem = error
            talk.warn(error.what)
            continue
        if name.endswith(".prev"):
            talk.warn(f"Continuing from {folder / name}, step {state['training']['step']}.")
        return state, problem is not None
    if problem is not None:
        raise problem
    return None, False


def score(
    network: SegNetwork,
    info: ModelInfo,
    data: DataSource,
    place: Workplace,
    precision: Precision,
    on_batch: Callable[[int], None] | None = None,
) -> Scores:
    """Evaluate a network on the validation images as its header says; each process takes its share of them.

    Args:
        network: is left in the mode it is in.
        info: the header of its file.
        data: with a val split.
        place: device and workers.
        precision: device and autocast type.
        on_batch: called with the number of images done; may raise to stop.

    Raises:
        ResourceError: if memory runs out.
    """
    training, predict = network.training, predictor(network, precision)
    images = data.split("val")
    rank, world = distributed.rank(), distributed.world_size()
    batches = evaluation_batches(
        images,
        info.size,
        batch_size=place.eval_batch,
        max_pixels=pixels_at_once(info.outputs),
        workers=place.workers,
        rank=rank,
        world=world,
    )
    batches = with_labels(batches, info.label_codes, len(data.classes))
    try:
        with told_out_of_memory(f"in the validation of {info.network.network}", IN_VALIDATION):
            scores = evaluate(predict, batches, len(data.classes), on_batch)
    finally:
        network.train(training)
    return gather_scores(scores, place.device)


def rehearse_validation(network: SegNetwork, info: ModelInfo, data: DataSource, place: Workplace) -> None:
    """Score a network on the first batch of the validation images, for the memory that it takes.

    Args: as `score`.
    """
    val = data.split("val")
    first = range(min(place.eval_batch * distributed.world_size(), len(val.names)))
    few = replace(data, splits={**data.splits, "val": Part(val, tuple(first), labels=True)})
    score(network, info, few, replace(place, workers=0), place.exact())
