"""One training from its first step to its model file: logs, validation, checkpoints, signals, exact resume."""

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from segdistill import distributed
from segdistill.checkpoint import ModelInfo, load_state, save_model, save_state
from segdistill.config import RunConfig
from segdistill.data import AUXILIARY, DataSource, evaluation_batches, training_batches
from segdistill.engine import Precision, Report, evaluate, fit, gather_scores
from segdistill.errors import ModelError, Stopped
from segdistill.metrics import Scores
from segdistill.networks import Deployed, SegNetwork
from segdistill.store import RunFolder
from segdistill.talk import Advance, Talk
from segdistill.types import Stage

LOG_EVERY = 10
"""Steps between two lines of metrics.jsonl; reading a value waits for the device."""
EVAL_BATCH = 4


@dataclass(frozen=True)
class Workplace:
    """Where and how everything of a command runs."""

    device: torch.device
    precision: Precision
    workers: int
    talk: Talk

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


def train(job: Job, folder: RunFolder | None, place: Workplace, *, resume: bool, command: str) -> Scores:
    """Train, validate, save; return the scores of the last step's weights, in float32.

    Args:
        job: what is trained.
        folder: the run's folder; None in all processes but the first, which alone writes.
        place: device, precision, workers.
        resume: continue from the folder's last checkpoint, where it has one.
        command: what continues the run, for messages.
    """
    state = load_last(folder, place.talk) if resume and folder is not None else None
    state = distributed.same_for_all(state)
    done = 0 if state is None else int(state["training"]["step"])
    optim, data = job.stage.optim, job.config.data
    batches = training_batches(
        job.data.split("train"),
        data,
        auxiliary=job.data.splits.get(AUXILIARY),
        seed=job.config.seed,
        start_step=done,
        steps=optim.steps,
        accumulate=optim.accumulate,
        rank=distributed.rank(),
        world=distributed.world_size(),
        workers=place.workers,
        device=place.device,
    )
    with (
        stop_signals() as stopped,
        place.talk.progress(f"{job.stage.name} {job.info.network.network}", optim.steps, done) as advance,
    ):
        recorder = Recorder(job, folder, place, advance, stopped, command, state)
        fit(
            job.stage,
            batches,
            precision=place.precision,
            seed=job.config.seed,
            on_step=recorder,
            resume=None if state is None else state["training"],
        )
    scores = recorder.scores or score(job.network, job.data, job.config.data.size, place, place.exact())
    if folder is not None:
        best = {"best_miou": recorder.best, "best_step": float(recorder.best_step)} if recorder.best_step else {}
        metrics = {"miou": scores.miou, "pixel_accuracy": scores.pixel_accuracy, **best}
        save_model(folder / "model.safetensors", job.network, job.info.model_copy(update={"metrics": metrics}))
    distributed.barrier()
    if distributed.any_process(stopped() is not None, place.device):
        raise stop(stopped(), f"after the last step of {optim.steps}", command)
    return scores


class Recorder:
    """What happens between two steps: log, validate, keep the best, save, stop when told."""

    def __init__(
        self,
        job: Job,
        folder: RunFolder | None,
        place: Workplace,
        advance: Advance,
        stopped: Callable[[], int | None],
        command: str,
        state: dict[str, Any] | None,
    ) -> None:
        self.job, self.folder, self.place, self.advance = job, folder, place, advance
        self.stopped, self.command = stopped, command
        self.best, self.best_step, self.lines = -1.0, 0, 0
        self.scores: Scores | None = None
        if state is not None:
            self.best, self.best_step, self.lines = state["best"], state["best_step"], state["lines"]
        if folder is not None:
            folder.truncate_lines("metrics.jsonl", self.lines)

    def __call__(self, report: Report) -> None:
        """Handle one step; called on every process."""
        config, steps = self.job.config, self.job.stage.optim.steps
        last = report.step == steps
        if report.step % LOG_EVERY == 0 or last:
            self._log(report)
        self.advance(1, "")
        if report.step % config.validate_.every == 0 or last:
            self._validate(report, self.place.exact() if last else self.place.precision)
        asked = distributed.any_process(self.stopped() is not None, self.place.device)
        if report.step % config.checkpoint.every == 0 or last or asked:
            self._save(report)
        if asked and not last:  # after the last step the model file comes first
            distributed.barrier()
            raise stop(self.stopped(), f"after step {report.step} of {steps}", self.command)

    def _log(self, report: Report) -> None:
        terms = distributed.mean_across(report.terms)
        if self.folder is None:
            return
        loss = sum((value for name, value in terms.items() if name != "critic"), 0.0)
        entry = {"loss": loss, **terms, "lr": report.lr, "gradient_norm": report.gradient_norm}
        self._write(report, entry)
        shown = "  ".join(f"{name} {value:.3f}" for name, value in terms.items())
        self.advance(0, f"loss {loss:.3f} ({shown})")

    def _validate(self, report: Report, precision: Precision) -> None:
        config = self.job.config
        self.scores = score(self.job.network, self.job.data, config.data.size, self.place, precision)
        if self.folder is not None:
            self._write(report, {"miou": self.scores.miou, "pixel_accuracy": self.scores.pixel_accuracy})
        self.place.talk.say(
            f"{self.job.stage.name} step {report.step}: mIoU {100 * self.scores.miou:.2f} %, "
            f"pixel accuracy {100 * self.scores.pixel_accuracy:.2f} %"
        )
        if self.scores.miou > self.best:
            self.best, self.best_step = self.scores.miou, report.step
            if self.folder is not None:
                metrics = {"miou": self.best, "step": float(self.best_step)}
                save_model(self.folder / "checkpoints/best", self.job.network, self._info(metrics))

    def _info(self, metrics: dict[str, float]) -> ModelInfo:
        return self.job.info.model_copy(update={"metrics": metrics})

    def _save(self, report: Report) -> None:
        if self.folder is not None:
            own = {"best": self.best, "best_step": self.best_step, "lines": self.lines}
            save_state(
                self.folder / "checkpoints/last", {"training": report.training.state(), **own}, keep_previous=True
            )

    def _write(self, report: Report, values: dict[str, float]) -> None:
        assert self.folder is not None
        entry = {"stage": self.job.stage.name, "step": report.step, **values}
        self.folder.append("metrics.jsonl", json.dumps(entry))
        self.lines += 1


def load_last(folder: RunFolder, talk: Talk) -> dict[str, Any] | None:
    """Return the newest undamaged state of a run, saying so where it is not the last; None where none was saved."""
    problem: ModelError | None = None
    for name in ("checkpoints/last", "checkpoints/last.prev"):
        if not (folder / name).exists():
            continue
        try:
            state = load_state(folder / name)
        except ModelError as error:
            problem = error
            talk.warn(error.what)
            continue
        if name.endswith(".prev"):
            talk.warn(f"Continuing from {folder / name}, step {state['training']['step']}.")
        return state
    if problem is not None:
        raise problem
    return None


def score(
    network: SegNetwork,
    data: DataSource,
    size: tuple[int, int] | None,
    place: Workplace,
    precision: Precision,
    split: str = "val",
) -> Scores:
    """Evaluate a network on images brought to `size`; each process takes its share of them."""
    training, deployed = network.training, Deployed(network.to(place.device))

    def predict(image: Tensor) -> Tensor:
        with precision.autocast():
            logits: Tensor = deployed(image.to(place.device, memory_format=torch.channels_last))
        return logits

    images = data.split(split)
    rank, world = distributed.rank(), distributed.world_size()
    batches = evaluation_batches(images, size, batch_size=EVAL_BATCH, workers=place.workers, rank=rank, world=world)
    scores = evaluate(predict, batches, len(data.classes))
    network.train(training)
    return gather_scores(scores, place.device)


def stop(number: int | None, when: str, command: str) -> Stopped:
    """Return what ends the run; `number` is None where only another process got the signal."""
    number = number or signal.SIGTERM
    what = f"Stopped by {signal.Signals(number).name} {when}; everything is saved."
    return Stopped(what, f"Continue with: {command}", number)


@contextmanager
def stop_signals() -> Iterator[Callable[[], int | None]]:
    """Turn SIGINT and SIGTERM into a flag that a loop asks for; a second signal ends the process as usual."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return

    def catch(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.signal(number, catch) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: caught[0] if caught else None
    finally:
        restore()
