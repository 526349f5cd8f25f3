"""The run that trained a teacher's network so on this data, if there is one."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from segdistill.commands._context import RUNS, Options, RunContext
from segdistill.commands._lengthening import KEY
from segdistill.commands._settings import backbone_weights_used, is_same_data
from segdistill.config.schema import RunConfig
from segdistill.config.toml import read_toml
from segdistill.data import AUXILIARY, VerifiedData
from segdistill.errors import UsageError
from segdistill.storage.files import read_file

HOW_IT_IS_ASKED = ("scale", "scales", "flip", "targets", "threshold")
"""Keys of a teacher's table that change nothing about its training."""
UNREADABLE = (OSError, ValueError, KeyError, TypeError, RecursionError, UsageError)
"""Errors of files that are no run's, or of another version: such a folder is passed over."""


class TeacherRun(NamedTuple):
    """A run that trains, or has trained, the teacher that is looked for."""

    folder: Path
    finished: bool


def runs_beside(out: Path) -> Path:
    """Return the folder in which the teacher of a run is trained: `runs/` here, or beside a run that lies elsewhere.

    So the way from the one to the other, which the run records, names nothing of this machine.
    """
    return RUNS if out.resolve().is_relative_to(Path.cwd()) else out.parent


def find_teacher(context: RunContext, out: Path) -> TeacherRun | None:
    """Return a run that trained the configuration's teacher with this recipe on this data.

    The one that the student's run has recorded comes first, then finished ones, then newer ones: of those under
    `runs/` and beside the student's run.

    Args:
        context: with the teacher's configuration and data.
        out: folder of the student's run.
    """
    sees_auxiliary = AUXILIARY in context.data.splits
    data = context.verified_data
    recipe = teacher_recipe(context.config.to_dict(), context.options, sees_auxiliary=sees_auxiliary)
    recorded = _recorded_teacher(out)
    folders = [] if recorded is None else [recorded]
    for runs in dict.fromkeys((RUNS, runs_beside(out))):
        folders += [file.parent for file in runs.glob("*/config.toml")]
    candidates = []
    for folder in dict.fromkeys(folders):
        try:
            if not _trains(folder, recipe, data, context.options, sees_auxiliary=sees_auxiliary):
                continue
            begun = (folder / "config.toml").stat().st_mtime
        except UNREADABLE:
            continue
        finished = (folder / "manifest.json").exists()
        candidates.append((folder == recorded and finished, finished, begun, folder))
    if not candidates:
        return None
    _, finished, _, folder = max(candidates)
    return TeacherRun(folder, finished)


def _trains(
    folder: Path, recipe: dict[str, Any], data: VerifiedData, options: Options, *, sees_auxiliary: bool
) -> bool:
    """Whether a folder is of a teacher's run with this recipe on this data."""
    environment = json.loads(read_file(folder / "environment.json"))
    table = read_toml(folder / "config.toml")
    run_recipe = teacher_recipe(table, options, sees_auxiliary=sees_auxiliary) | {"weights": environment["weights"]}
    # one that started from another model is not what a network's name means
    is_from_scratch = environment.get("init_weights", "none") == "none"
    # nor is one that was lengthened, whose steps are those of two schedules
    is_lengthened = KEY in environment
    if environment["kind"] != "teacher" or run_recipe != recipe or not is_from_scratch or is_lengthened:
        return False
    return is_same_data(json.loads(read_file(folder / "data.json")), data)


def _choice_of_weights(config: RunConfig) -> dict[str, Any]:
    """Return what decides which of a teacher's weights become its model, and when its training ends."""
    shipped, patience = config.shipped_weights(config.teacher_optim()), config.validate_.patience
    if shipped == "best" or patience:
        # only then the weights depend on when they were validated
        return {"weights": shipped, "patience": patience, "every": config.validate_.every}
    return {"weights": shipped}


def _recorded_teacher(out: Path) -> Path | None:
    """Return where a student's run had its teacher trained; None where it does not say so."""
    try:
        way = json.loads(read_file(out / "environment.json")).get("teacher_run")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return Path(os.path.normpath(out / way)) if isinstance(way, str) else None


def teacher_recipe(table: dict[str, Any], options: Options, *, sees_auxiliary: bool) -> dict[str, Any]:
    """Return all of a configuration that the weights of a teacher depend on.

    Args:
        table: a configuration, as config.toml has it.
        options: which weights the backbone starts from.
        sees_auxiliary: whether the teacher is trained on auxiliary images too.
    """
    config = RunConfig.model_validate(table)
    without_effect = {"name", "unlabeled", "images", "held_back", "auxiliary"}
    if not sees_auxiliary:
        without_effect.add("auxiliary_share")
    return {
        # the training's keys are in those below; the others say how it is asked, once it is trained
        "teacher": config.teacher.model_dump(exclude={"steps", "lr", "aux_weight", "optim", "loss", *HOW_IT_IS_ASKED}),
        "data": config.data.model_dump(exclude=without_effect),
        "optim": config.teacher_optim().model_dump(),
        "aux": config.teacher_aux_weight(),
        "loss": config.teacher_loss().model_dump(),
        "shipped": _choice_of_weights(config),
        "seed": config.seed,
        "precision": config.precision,
        "weights": backbone_weights_used(options),
    }
