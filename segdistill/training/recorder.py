"""What happens between two steps: the log, checkpoints, validation, signals."""

import hashlib
import json
import math
import time
from typing import Any

from segdistill.checkpoints.training_state import save_state
from segdistill.errors import ResourceError, Stopped
from segdistill.runtime import distributed
from segdistill.runtime.reporter import Advance
from segdistill.training.engine import Report
from segdistill.training.jobs import Job, OutputFolder, Runtime
from segdistill.training.last_state import LAST, LastState
from segdistill.training.state import Training, skipped_in
from segdistill.training.step_clock import StepClock
from segdistill.training.stopping import StopRequest
from segdistill.training.validator import NoValidation, Validator
from segdistill.wording import counted

LOG_EVERY = 10
"""Steps between two lines of metrics.jsonl; reading a value waits for the device."""
METRICS = "metrics.jsonl"


class Recorder:
    """The work between two steps: log, validate, save, stop when asked to."""

    def __init__(
        self,
        job: Job,
        folder: OutputFolder,
        runtime: Runtime,
        *,
        validator: Validator | NoValidation,
        stop: StopRequest,
        advance: Advance,
    ) -> None:
        self.job = job
        self.folder = folder
        self.runtime = runtime
        self.validator = validator
        self.stop = stop
        self.advance = advance
        self.clock = StepClock()
        self.skipped = 0
        """Number of steps that were skipped so far, because their gradient was not finite."""
        self.validation_pending = False
        """Whether the validation that belongs to the last step is still to come, or to be done again."""
        self.saved_step = 0
        """Step that the last checkpoint is of."""
        self.last_is_damaged = False
        """Whether the last checkpoint is no use, and the one before it therefore all there is."""
        self.unsaved: Training | None = None
        """State after the last step, if it was not saved yet: kept for a run that is stopped in a wait for images."""
        self._since = time.perf_counter()

    def load(self, last: LastState, *, resume: bool) -> None:
        """Go on where a checkpoint was taken; of another stage, only its lines in the log remain."""
        state = last.of_stage(self.job.stage.name)
        self.last_is_damaged = last.last_is_damaged
        if state is not None:
            median = state.get("median_step")  # a state of an earlier version does not say
            self.saved_step = state["training"]["step"]
            self.clock = StepClock(state["seconds"], median if isinstance(median, float) else None)
            self.skipped = skipped_in(state["training"])
            self.validation_pending = state.get("unvalidated", False)
            self.validator.load(state)
        if resume:
            self._drop_lines_behind(last.state)

    def __call__(self, report: Report) -> None:
        """Handle one step; called on every process."""
        is_last = self._is_last(report.step)
        self.skipped = report.training.skipped
        self.unsaved = report.training
        if report.step % LOG_EVERY == 0 or is_last:
            self._log(report)
        self.advance(1, "")
        self.clock.add(time.perf_counter() - self._since)
        self._save_and_validate(report.training)
        self._since = time.perf_counter()

    def run_pending_validation(self, training: Training) -> None:
        """Validate a state that was saved before it could be; called on every process."""
        if self.validation_pending:
            self._validate(training)
            if self.validation_pending:
                raise self._stopped_after(training.step)
            self._save(training)
        training.ended = self.validator.is_exhausted
        self._since = time.perf_counter()

    def stop_waiting(self) -> Stopped:
        """Save what is done, and return what ends a run that waited for images when it was asked to stop.

        Batches are taken before a step begins, so the state is that after the step before. Of several processes the
        others wait for this one and end with it, without a word to each other.
        """
        if self.unsaved is not None:
            self._save(self.unsaved)
        return self.stop.while_waiting()

    def _save_and_validate(self, training: Training) -> None:
        """Do what is due after a step, and stop where a signal has come."""
        is_last = self._is_last(training.step)
        save_due = is_last or training.step % self.job.config.checkpoint.every == 0
        validation_due = self.validator.is_due(training.step)
        self.validation_pending = validation_due
        if save_due:
            self._save(training)  # first, as a validation may take more memory than there is
        if validation_due:
            self._validate(training)
        stopping = self.stop.in_any_process(self.runtime.device)
        if stopping or training.ended or (save_due and validation_due):
            self._save(training)
        is_last = is_last or training.ended
        if stopping and (self.validation_pending or not is_last):  # after the last step the model file comes first
            distributed.barrier()
            raise self._stopped_after(training.step)

    def _validate(self, training: Training) -> None:
        """Validate after a step, unless a signal comes or memory runs out: that is left for later."""
        precision = self.runtime.exact() if self._is_last(training.step) else self.runtime.precision
        # Several processes must agree on when to stop, which they do between steps only.
        stop_received = self.stop.received if distributed.world_size() == 1 else lambda: None
        self.validation_pending = True
        try:
            with training.averaged():
                metrics = self.validator(training.step, precision, stop_received)
        except ResourceError:
            self._save(training)
            raise
        self.validation_pending = metrics is None
        if metrics is not None:
            self._write(training.step, metrics)
        if self.validator.is_exhausted and not self._is_last(training.step):
            patience = self.job.config.validate_.patience
            self.runtime.reporter.info(
                f"{self.job.stage.name} step {training.step}: no better mIoU in {counted(patience, 'validation')}, so "
                "the training ends here."
            )
            training.ended = True

    def _is_last(self, step: int) -> bool:
        return step == self.job.stage.optim.steps

    def _stopped_after(self, step: int) -> Stopped:
        return self.stop.error(f"after step {step} of {self.job.stage.optim.steps}")

    def _log(self, report: Report) -> None:
        """Write a step's terms to the log, and show them beside the progress."""
        terms = distributed.all_reduce_mean_dict(report.terms)
        # The critic's loss is not minimized by the student.
        loss = sum((value for name, value in terms.items() if name != "critic"), 0.0)
        entry = {"loss": loss, **terms, "lr": report.lr, "gradient_norm": report.gradient_norm}
        if self.skipped:
            entry["skipped_steps"] = self.skipped
        self._write(report.step, entry)
        values = "  ".join(f"{name} {value:.3f}" for name, value in terms.items())
        self.advance(0, f"loss {loss:.3f} ({values})")

    def _save(self, training: Training) -> None:
        """Save the state in the place of one of the same step; one of an earlier step is kept."""
        self.unsaved = None
        state = self._state(training)
        self.folder.sync(METRICS)  # a state counts on the lines that it names
        # The checkpoint before is what a run goes on from where this one is damaged: a damaged one must not replace it.
        keep_previous = training.step != self.saved_step and not self.last_is_damaged
        self.folder.write(LAST, lambda path: save_state(path, state, keep_previous=keep_previous))
        self.saved_step, self.last_is_damaged = training.step, False
        if self.job.replaces_run_before:
            self.folder.promote()

    def _state(self, training: Training) -> dict[str, Any]:
        """Return what a checkpoint holds: the training's state, and what this class goes on with."""
        lines = self.folder.lines(METRICS)
        return {
            "training": training.state(),
            "lines": len(lines),
            "lines_sha256": hashlib.sha256(b"".join(lines)).hexdigest(),
            "seconds": self.clock.seconds,
            "median_step": self.clock.median,
            "unvalidated": self.validation_pending,
            **self.validator.state(),
        }

    def _drop_lines_behind(self, state: dict[str, Any] | None) -> None:
        """Cut the log back to the lines of steps that are not done again."""
        if state is None:
            self.folder.truncate_lines(METRICS, 0, None)
        else:
            self.folder.truncate_lines(METRICS, state["lines"], state.get("lines_sha256"))

    def _write(self, step: int, values: dict[str, float]) -> None:
        """Write a line of the log; JSON has no number that is not finite."""
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        entry = {"stage": self.job.stage.name, "step": step, **finite}
        self.folder.append(METRICS, json.dumps(entry))
