"""The state that a run goes on from: its last checkpoint, or the one before where the last is damaged."""

from typing import Any, NamedTuple

from segdistill.checkpoints.training_state import load_state
from segdistill.errors import ModelError
from segdistill.runtime.reporter import NullReporter, Reporter
from segdistill.training.jobs import OutputFolder

LAST = "checkpoints/last"
BEFORE_LAST = "checkpoints/last.prev"
START_ANEW = "Start a new run."


class LastState(NamedTuple):
    """The last checkpoint of a run that is whole."""

    state: dict[str, Any] | None
    """Newest undamaged state, as `Recorder` saves it; None where none was saved."""
    last_is_damaged: bool
    """Whether the last checkpoint is no use, and the one before it therefore all there is."""

    def of_stage(self, name: str) -> dict[str, Any] | None:
        """Return the state if it was taken in this stage: one stage leaves its last state to the next."""
        if self.state is None or self.state["training"]["stage"] != name:
            return None
        return self.state


def find_last(folder: OutputFolder, reporter: Reporter) -> LastState:
    """Find the newest undamaged state of a run, and warn where it is not the last.

    Raises:
        ModelError: if there are states, and all of them are damaged.
    """
    # A kill between two renames leaves the one before alone; a disk may damage either.
    problem: ModelError | None = None
    for name in (LAST, BEFORE_LAST):
        path = folder.find(name)
        if path is None:
            continue
        try:
            state = load_state(path)
            if not _is_whole(state):
                raise ModelError(f"{path} is no state of a training.", START_ANEW)
        except ModelError as error:
            problem = error
            reporter.warning(error.what)
            continue
        if name == BEFORE_LAST:
            reporter.warning(f"Continuing from {path}, step {state['training']['step']}.")
        return LastState(state, last_is_damaged=problem is not None)
    if problem is not None:
        raise problem
    return LastState(None, last_is_damaged=False)


def load_last(folder: OutputFolder, reporter: Reporter) -> dict[str, Any] | None:
    """Return the newest undamaged state of a run, as `find_last` finds it; None where none was saved."""
    return find_last(folder, reporter).state


def stage_reached(folder: OutputFolder) -> str | None:
    """Return the name of the stage that a run was stopped in; None where it has saved nothing yet."""
    state = load_last(folder, NullReporter())
    return None if state is None else str(state["training"]["stage"])


def _is_whole(state: Any) -> bool:
    """Whether a state has what a training's has: only a forged one with a digest of its own has not."""
    if not isinstance(state, dict):
        return False
    return _has(state, {"training": dict, "lines": int, "seconds": float}) and (
        _has(state["training"], {"stage": str, "step": int, "weights": dict, "optimizer": dict})
        and state["training"]["step"] >= 0
        and state["lines"] >= 0
    )


# `isinstance` of each value: a forged state may have anything under a key, and would fail far from here.
def _has(table: dict[str, Any], types: dict[str, type]) -> bool:
    return all(isinstance(table.get(name), kind) for name, kind in types.items())
