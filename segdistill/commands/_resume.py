"""What may not change when a run is resumed, and the results of one that is finished already."""

from pathlib import Path
from shlex import quote
from typing import Any

from segdistill.commands._context import RunContext
from segdistill.commands._json_file import read_table
from segdistill.commands._lengthening import STEPS_KEYS, optim_of
from segdistill.commands._results import Outcome, gain_to_json, is_entry, with_present_roles
from segdistill.commands._settings import environment, folder_config, is_same_data, part_folders, recorded_config
from segdistill.config.checking import validated
from segdistill.config.schema import RunConfig
from segdistill.errors import ModelError, UsageError
from segdistill.evaluation.significance import GainEstimate
from segdistill.storage.manifest import verify_file
from segdistill.terms import check_terms

DESCRIPTIONS = {"about", "paper", "starts_from"}
"""Keys of a preset that only describe it: another wording is no other run."""


def finished(context: RunContext, kind: str) -> Outcome | None:
    """Return the results of a run that has come to its end, if that is what `--resume` was given; write nothing.

    Raises:
        UsageError: if the command is another than the run's.
        ModelError: if its files are damaged.
    """
    if not context.options.resume or not all((part / "manifest.json").exists() for part in _parts(context)):
        return None
    run = context.out
    if _is_to_be_lengthened(run, context, kind):
        return None
    refuse_changes(run, context, kind)
    for seed in context.seeds[1:]:
        part = context.for_seed(seed)
        refuse_changes(part.out, part, "seed")
    verify_file(run, "model.safetensors")
    entries, gain = _verified_json(run, "scores.json"), _verified_json(run, "gain.json")
    if not entries or not all(map(is_entry, entries.values())):
        raise ModelError(f"{run / 'scores.json'} is gone or holds no results.", "Restore the file, or train again.")
    if gain is not None:
        gain = _present_gain(run / "gain.json", gain)
    context.reporter.info(f"Already finished: {run}. For more steps: segdistill resume {quote(str(run))} --steps N")
    return Outcome(run, with_present_roles(entries), gain)


def _is_to_be_lengthened(run: Path, context: RunContext, kind: str) -> bool:
    """Whether a finished run has a shorter schedule than it is to have from now on."""
    if context.options.lengthened_from is None:
        return False
    return optim_of(recorded_config(run), kind).steps < optim_of(context.config, kind).steps


def _parts(context: RunContext) -> list[Path]:
    """Return the folders of a run's seeds, and of their baselines."""
    return part_folders(context.out, context.seeds, with_baselines=context.options.baseline is not None)


def _verified_json(folder: Path, name: str) -> dict[str, Any] | None:
    verify_file(folder, name)
    return read_table(folder / name) if (folder / name).exists() else None


def _present_gain(path: Path, gain: dict[str, Any]) -> dict[str, Any]:
    """Return a stored gain as this version words it: earlier ones gave a verdict after one seed."""
    try:
        return gain_to_json(GainEstimate.from_json(gain))
    except ValueError:
        raise ModelError(f"{path} holds no gain.", "Restore the file, or train again.") from None


def refuse_changes(folder: Path, context: RunContext, kind: str) -> None:
    """Refuse to continue a run of another kind, with other settings or data.

    Raises:
        UsageError: naming every difference.
        ModelError: if the run's files do not say what it was.
    """
    recorded = read_table(folder / "environment.json")
    if recorded.get("kind") != kind:
        raise UsageError(
            f"{folder} holds a run of another kind: {recorded.get('kind')}, not {kind}.",
            "Give the command that began it, or another --out.",
        )
    before = _settings(recorded_config(folder))
    now = _settings(validated(RunConfig, folder_config(context), str(folder)))
    if context.options.lengthened_from is not None and before["optim.steps"] <= now["optim.steps"]:
        for settings in (before, now):
            for key in STEPS_KEYS:
                settings.pop(key, None)
    flags_before, flags_now = _flags(recorded, environment(context))
    before |= flags_before
    now |= flags_now
    changed = [key for key in sorted(before | now) if before.get(key) != now.get(key)]
    if changed:
        lines = "\n".join(f"  {key}: {before.get(key)} -> {now.get(key)}" for key in changed)
        raise UsageError(
            f"--resume continues the same run, but these settings differ:\n{lines}", _advice(folder, changed, now)
        )
    if not is_same_data(read_table(folder / "data.json"), context.verified_data):
        raise UsageError(
            "The data set has changed since this run began.", "Restore it, or start a new run with another --out."
        )


def _advice(folder: Path, changed: list[str], now: dict[str, Any]) -> str:
    """Return what helps where settings differ: a finished run may be lengthened, and any other one begun."""
    if all(key.endswith("steps") for key in changed) and (folder / "manifest.json").exists():
        steps = now[changed[0]]
        return (
            f"A finished run is lengthened by: segdistill resume {quote(str(folder))} --steps {steps}. A new one "
            f"starts from its weights with --init-weights {folder} and another --out."
        )
    return (
        f"`segdistill resume {quote(str(folder))}` continues it with its own. Or start a new run with another --out; "
        f"--init-weights {folder} has it start from these weights."
    )


def _flags(recorded: dict[str, Any], present: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the flags that must be the run's, as they were and as they are now.

    A baseline or seeds may be added to a run, which trains what is missing; neither may be taken away.
    """
    before, now = {}, {}
    for key, flag in (("weights", "--pretrained or --backbone-weights"), ("init_weights", "--init-weights")):
        before[flag], now[flag] = recorded.get(key, "none"), present[key]
    if recorded.get("baseline"):
        before["--baseline"], now["--baseline"] = recorded["baseline"], present["baseline"] or "none"
    seeds = recorded.get("seeds")
    if isinstance(seeds, int) and seeds > present["seeds"]:
        before["--seeds"], now["--seeds"] = seeds, present["seeds"]
    return before, now


def _settings(config: RunConfig) -> dict[str, Any]:
    """Return all keys that a run depends on, flat; a key that its version did not know has the default."""
    terms = {"terms": check_terms(config.terms)}
    return _flat(config.model_dump(mode="json", by_alias=True, exclude=DESCRIPTIONS) | terms)


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
