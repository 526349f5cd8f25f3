"""teacher.json of a run: which teacher it has, and which checks have been passed with it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segdistill.commands._json_file import read_table
from segdistill.errors import ModelError, UsageError
from segdistill.storage.atomic import write_json
from segdistill.storage.run_folder import RunFolder
from segdistill.teachers.teacher import Teacher

FILE = "teacher.json"
SIGNS_OF_A_BEGINNING = ("checkpoints/last", "checkpoints/last.prev", "model.safetensors")
"""Files that a run writes after teacher.json."""


def write_teacher(folder: RunFolder, teacher: Teacher) -> None:
    """Write which teacher a run has, beside the checks that it has passed already."""
    if not folder.writes:
        return
    table = {
        "network": teacher.info.network.network,
        "sha256": teacher.info.sha256,
        "metrics": teacher.info.metrics,
        "identity": teacher.identity,
        "parts": teacher.identity_parts(),
        "checks": _passed_checks(folder.path),
    }
    write_json(folder / FILE, table)


def read_teacher(folder: Path) -> dict[str, Any]:
    """Return what a run's folder says of its teacher; nothing where it has none."""
    path = folder / FILE
    return read_table(path) if path.exists() else {}


def refuse_other_teacher(folder: Path, teacher: Teacher) -> None:
    """Refuse to continue a run under another teacher, or under one that may be another.

    Raises:
        UsageError: naming the parts of the teacher that have changed.
        ModelError: if the run has begun, and nothing says with which teacher.
    """
    path = folder / FILE
    if not path.exists():
        if any((folder / name).exists() for name in SIGNS_OF_A_BEGINNING):
            raise ModelError(f"{path} is gone: nothing says which teacher the run began with.", "Start a new run.")
        return
    recorded, present = read_table(path), teacher.identity_parts()
    parts = recorded.get("parts")
    if not isinstance(parts, dict):  # a run before version 0.1 has recorded the weights alone
        parts = {"weights": recorded.get("sha256")}
    # the class map is a setting of the run, and compared with its settings
    changed = [name for name in parts if parts[name] != present.get(name) and name != "class map"]
    if changed:
        lines = "\n".join(f"  {name}: {parts[name]} -> {present.get(name)}" for name in changed)
        raise UsageError(
            f"The teacher has changed since this run began:\n{lines}", "Give the same teacher, or start a new run."
        )


def note_passed(
    folder: RunFolder, check: str, subject: str, *, overruled: bool, weights: Mapping[str, float] | None = None
) -> None:
    """Write down that a check was passed.

    Args:
        folder: the run's.
        check: name of the check.
        subject: identity of what was checked.
        overruled: whether it had found something, and the user follows the teacher all the same.
        weights: weights of terms that the run goes on with, where they were scaled.
    """
    if not folder.writes:
        return
    entry: dict[str, Any] = {"identity": subject, "overruled": overruled}
    if weights:
        entry["weights"] = dict(weights)
    checks = _passed_checks(folder.path) | {check: entry}
    write_json(folder / FILE, read_table(folder / FILE) | {"checks": checks})


def noted_weights(folder: Path, check: str, subject: str | None) -> dict[str, float]:
    """Return the weights of terms that were written down with a check; nothing where it has none.

    Args:
        folder: of a run.
        check: name of the check.
        subject: identity of what was checked; None takes any.
    """
    passed = _passed_checks(folder).get(check)
    if not isinstance(passed, dict) or subject not in (None, passed.get("identity")):
        return {}
    weights = passed.get("weights", {})
    if not isinstance(weights, dict) or not all(isinstance(weight, float) for weight in weights.values()):
        raise ModelError(f"{folder / FILE} holds no weights of terms.", "Start a new run.")
    return weights


def has_passed(folder: Path, check: str, subject: str, *, accept_overruled: bool) -> bool:
    """Whether a check of this subject was passed; one that was overruled must be accepted again."""
    passed = _passed_checks(folder).get(check)
    if not isinstance(passed, dict) or passed.get("identity") != subject:
        return False
    overruled = passed.get("overruled")
    return overruled is False or (overruled is True and accept_overruled)


def _passed_checks(folder: Path) -> dict[str, Any]:
    path = folder / FILE
    checks = read_table(path).get("checks") if path.exists() else None
    return checks if isinstance(checks, dict) else {}
