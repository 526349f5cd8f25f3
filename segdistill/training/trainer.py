"""One training from its first step to its model file: logs, validation, checkpoints, signals, exact resume."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from segdistill.data import AUXILIARY, training_batches
from segdistill.errors import ModelError, Stopped
from segdistill.evaluation.metrics import Scores
from segdistill.reports.scores import skipped_steps
from segdistill.runtime import distributed
from segdistill.runtime.signals import Interrupted, stop_signals
from segdistill.training.engine import fit
from segdistill.training.jobs import Job, OutputFolder, PretrainingJob, Runtime, TrainingJob
from segdistill.training.last_state import LastState, find_last
from segdistill.training.memory import TRAINING_ADVICE, explained_out_of_memory
from segdistill.training.recorder import Recorder
from segdistill.training.shipping import ship
from segdistill.training.state import Training
from segdistill.training.stopping import StopRequest
from segdistill.training.validator import NoValidation, Validator
from segdistill.types import Batch


@dataclass(frozen=True)
class Trained:
    """The result of a training."""

    scores: Scores
    """Scores of the weights that are shipped, in float32."""
    seconds: float
    """Seconds at work in its steps, as `StepClock` counts."""
    skipped: int
    """Number of steps that were skipped, because their gradient was not finite."""


@dataclass(frozen=True)
class _StageRun:
    """A stage that is ready to be fitted, from its start or from a checkpoint."""

    recorder: Recorder
    done: int
    """Number of steps done."""
    state: dict[str, Any] | None
    """State of the training to go on from; None at the start."""

    def go_on(self, training: Training) -> None:
        """Do what a checkpoint has left to be done, once it is loaded."""
        assert self.state is not None
        self.state.clear()  # it is loaded, and would take the memory of a second network until the end
        self.recorder.run_pending_validation(training)


def train(job: TrainingJob, folder: OutputFolder, runtime: Runtime, *, resume: bool, command: str) -> Trained:
    """Train, validate, save; return the scores of the weights that are shipped, in float32.

    Args:
        job: what is trained.
        folder: the run's folder in the first process, and a `NullRunFolder` in all others.
        runtime: device, precision, workers.
        resume: continue from the folder's last checkpoint, where it has one.
        command: what continues the run, for messages.
    """
    validator = Validator(job, folder, runtime)
    # Under torchrun one Ctrl-C comes twice, so a second signal ends the process at once only where it is alone.
    with stop_signals(alone=distributed.world_size() == 1) as received:
        stop = StopRequest(received, command)
        with _stage_run(job, folder, runtime, validator=validator, stop=stop, resume=resume) as run:
            training = fit(
                job.stage,
                training_stream(job, runtime, run.done),
                precision=runtime.precision,
                seed=job.config.seed,
                on_step=run.recorder,
                resume=run.state,
                on_resume=run.go_on,
            )
        try:
            scores = ship(job, folder, runtime, training=training, validator=validator)
        except Interrupted:  # while a loader process hung
            raise _stopped_late(stop, job) from None
        distributed.barrier()  # who ends first would end the others, and the file is the first one's to write
        if stop.in_any_process(runtime.device):
            raise _stopped_late(stop, job)
    return Trained(scores, run.recorder.clock.seconds, run.recorder.skipped)


def pretrain(job: PretrainingJob, folder: OutputFolder, runtime: Runtime, *, resume: bool, command: str) -> float:
    """Train what a term needs before the student; return the seconds that it took, as `StepClock` counts.

    Args: as `train`; the weights are the caller's to keep.
    """
    with stop_signals(alone=distributed.world_size() == 1) as received:
        stop = StopRequest(received, command)
        with _stage_run(job, folder, runtime, validator=NoValidation(), stop=stop, resume=resume) as run:
            fit(
                job.stage,
                training_stream(job, runtime, run.done),
                precision=runtime.precision,
                seed=job.config.seed,
                on_step=run.recorder,
                resume=run.state,
                on_resume=run.go_on,
            )
        if stop.in_any_process(runtime.device):
            raise _stopped_late(stop, job)
    return run.recorder.clock.seconds


def training_stream(job: Job, runtime: Runtime, done: int = 0) -> Iterator[Batch]:
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
        workers=runtime.workers,
        device=runtime.device,
    )


@contextmanager
def _stage_run(
    job: Job,
    folder: OutputFolder,
    runtime: Runtime,
    *,
    validator: Validator | NoValidation,
    stop: StopRequest,
    resume: bool,
) -> Iterator[_StageRun]:
    """Prepare a stage to be fitted inside, and put into words what ends it before its last step."""
    last = LastState(None, last_is_damaged=False)
    if resume:
        last = find_last(folder, runtime.reporter)
    # The first process alone has a folder: the others begin behind the same step, with the same weights.
    last = distributed.broadcast_object(last)
    state, done = _training_state(last, job)
    steps = job.stage.optim.steps
    with runtime.reporter.progress(job.title, steps, done) as advance:
        recorder = Recorder(job, folder, runtime, validator=validator, stop=stop, advance=advance)
        recorder.load(last, resume=resume)
        try:
            with explained_out_of_memory(f"in the training of {job.stage.name}", TRAINING_ADVICE):
                yield _StageRun(recorder, done, state)
        except Interrupted:
            raise recorder.stop_waiting() from None
    if recorder.skipped:
        runtime.reporter.warning(f"{job.stage.name}: {skipped_steps(recorder.skipped, steps)}.")


def _training_state(last: LastState, job: Job) -> tuple[dict[str, Any] | None, int]:
    """Return the state of a stage's training to go on from, and the number of steps done: none and 0 at its start.

    Raises:
        ModelError: if it has more steps than the stage.
    """
    checkpoint, steps = last.of_stage(job.stage.name), job.stage.optim.steps
    if checkpoint is None:
        return None, 0
    state: dict[str, Any] = checkpoint["training"]
    if state["step"] > steps:
        raise ModelError(f"The last checkpoint is of step {state['step']} of {steps}.", "Start a new run.")
    return state, state["step"]


def _stopped_late(stop: StopRequest, job: Job) -> Stopped:
    """Return what ends a run where a signal came during the last step: what that step made is saved first."""
    return stop.error(f"after the last step of {job.stage.optim.steps}")
