"""What a run that goes on has derived at its start: taken from its folder, never derived again."""

from pathlib import Path
from typing import Any

from segdistill.commands._context import Options
from segdistill.commands._json_file import read_table
from segdistill.commands._settings import DERIVED, SCHEDULE_FLAGS, recorded_config, schedule_flags
from segdistill.config.derivation import Derivation
from segdistill.errors import UsageError


def recorded_values(options: Options) -> dict[str, Any]:
    """Return what a run that goes on has derived at its start, by paths in the configuration; nothing of others.

    What is measured, such as the steps that fit into minutes, would be another number now.

    Raises:
        UsageError: if a flag that decides on the schedule is another than at the start.
        ModelError: if the run's configuration is damaged.
    """
    record = recorded_settings(options)
    if record is None or options.out is None or options.is_recorded:
        return {}
    _refuse_other_flags(options.out, options.derivation, has_derived_steps="optim.steps" in record)
    if not record:
        return {}
    table = recorded_config(options.out).to_dict()
    return {key: _value(table, key) for key in record if _may_be_taken(key, options.derivation)}


def _refuse_other_flags(run: Path, derivation: Derivation, *, has_derived_steps: bool) -> None:
    """Refuse flags that say another length than the run has, as nothing would follow from them any more.

    Where no steps were derived, --steps is in the configuration, which is compared as a whole, and a flag that is gone
    has changed nothing.
    """
    recorded = read_table(run / "environment.json").get(SCHEDULE_FLAGS)
    before, now = recorded if isinstance(recorded, dict) else {}, schedule_flags(derivation)
    compared = before | now if has_derived_steps else now.keys() - {"--steps"}
    changed = [flag for flag in sorted(compared) if before.get(flag) != now.get(flag)]
    if changed:
        lines = "\n".join(
            f"  {flag}: {before.get(flag, 'not given')} -> {now.get(flag, 'not given')}" for flag in changed
        )
        raise UsageError(
            f"--resume continues the same run, but these flags differ:\n{lines}",
            "Start a new run with another --out, or give the run's own flags.",
        )


def recorded_flags(run: Path) -> Derivation:
    """Return the flags that decided on a run's schedule at its start; nothing else is left to be derived."""
    table = read_table(run / "environment.json").get(SCHEDULE_FLAGS)
    flags = table if isinstance(table, dict) else {}
    return Derivation(
        epochs=flags.get("--epochs"), max_steps=flags.get("--steps"), max_minutes=flags.get("--max-minutes")
    )


def recorded_settings(options: Options) -> dict[str, str] | None:
    """Return what the run that goes on has derived, and from what; None of a run that begins."""
    out = options.out
    if not options.resume or out is None or not (out / "config.toml").exists():
        return None
    record = read_table(out / "environment.json").get(DERIVED)
    if not isinstance(record, dict):  # a run of an earlier version
        return {}
    return {str(key): str(reason) for key, reason in record.items()}


def _may_be_taken(key: str, derivation: Derivation) -> bool:
    """Whether a recorded setting may stand in: not where the user now states another value for it."""
    if key.endswith(".gradient_ratio"):
        return key.split(".")[1] in derivation.preset_weights
    if key in ("optim.steps", "teacher.steps"):
        return key in derivation.keys or bool(schedule_flags(derivation))
    return key in derivation.keys or (key == "data.batch_size" and derivation.fits_memory)


def _value(table: dict[str, Any], key: str) -> Any:
    """Return a value of a configuration by its path; None where it has none."""
    value: Any = table
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
