"""A finished run that is trained for longer: its weights and optimizer go on, under a schedule that is a new one.

Nothing of the run is lost before it has something better: its model and scores stay as they are, without the manifest
that calls them finished, until the longer training has reached its end.
"""

from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from segdistill.checkpoints.model_file import read_info
from segdistill.commands._json_file import read_table
from segdistill.config.schema import OptimConfig, RunConfig
from segdistill.errors import ModelError
from segdistill.storage.atomic import write_json
from segdistill.training.optim import scheduled_rate

KEY = "lengthened"
"""Key of the list in environment.json."""
STEPS_KEYS = frozenset({"optim.steps", "teacher.steps"})
"""Settings that a lengthened run has other than it began with."""


class Lengthening(NamedTuple):
    """One time that a run got a longer schedule."""

    before: int
    """Steps of the schedule that it had come to the end of, all of which were done."""
    after: int
    """Steps of the new one."""


def with_steps(config: RunConfig, kind: str, steps: int) -> RunConfig:
    """Return the configuration of a longer training of the run's own network; all else stays as long as it was.

    Args:
        config: of the run.
        kind: of the run: a teacher's has steps of its own.
        steps: of the new schedule.
    """
    if kind == "teacher":
        return config.changed(**{"teacher.steps": steps})
    # the teacher that was trained on the way is found by its steps, which may be the student's
    return config.changed(**{"optim.steps": steps, "teacher.steps": config.teacher_optim().steps})


def optim_of(config: RunConfig, kind: str) -> OptimConfig:
    """Return the optimizer of a run's own network."""
    return config.teacher_optim() if kind == "teacher" else config.optim


def lengthenings(run: Path) -> list[Lengthening]:
    """Return each time that a run was lengthened, the last one last.

    Raises:
        ModelError: if its folder does not say it in whole.
    """
    path = run / "environment.json"
    entries = read_table(path).get(KEY, [])
    try:
        found = [Lengthening(entry["from"], entry["to"]) for entry in entries]
    except (TypeError, KeyError):
        found = [Lengthening(0, 0)]
    if not all(type(step) is int and step > 0 for entry in found for step in entry):
        raise ModelError(f"{path} is damaged: {KEY} is {entries!r}.", "Start a new run.")
    return found


def record_lengthening(run: Path, before: int, after: int) -> None:
    """Write into environment.json that a run has a longer schedule from here on."""
    known = lengthenings(run)
    if known and known[-1].after == after:  # a kill came between this file and config.toml
        return
    table = read_table(run / "environment.json")
    entry: dict[str, Any] = {"time": f"{datetime.now():%Y-%m-%d %H:%M:%S}", "from": before, "to": after}
    write_json(run / "environment.json", table | {KEY: [*table.get(KEY, []), entry]})


def is_trained(run: Path) -> bool:
    """Whether a run's folder has the model that it is to end with: of one that was lengthened, not the one before."""
    model = run / "model.safetensors"
    if not model.exists():
        return False
    if not (run / "environment.json").exists():
        return True
    known = lengthenings(run)
    return not known or read_info(model).steps > known[-1].before


def sentence(lengthening: Lengthening, optim: OptimConfig) -> str:
    """Return what a longer training is, and what it is not.

    Args:
        lengthening: of the run.
        optim: the optimizer with the new schedule.
    """
    before, after = lengthening
    fallen = scheduled_rate(optim, before - 1, before)
    rate = scheduled_rate(optim, before, after)
    return (
        f"Lengthened from {before} to {after} steps. Weights, optimizer and the order of the images go on from step "
        f"{before}; the schedule is a new one: the learning rate, which had fallen to {fallen:.2g}, goes on at "
        f"{rate:.2g}, as at that step of {after}. It is not the training that {after} steps from the start are."
    )
