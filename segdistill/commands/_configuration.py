"""From what a command line says to a resolved configuration: preset, data set, overrides and flags, all checked."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from segdistill.commands._local_record import data_is_gone, read_local_beside
from segdistill.commands._teacher import is_pretrained
from segdistill.config.derivation import DERIVED_KEYS, Derivation
from segdistill.config.network_recipes import RequestedNetworks
from segdistill.config.presets import ResolvedPreset, load_preset, read_class_map, resolve_preset
from segdistill.config.registry import BUILT_IN, components, find_data
from segdistill.config.schema import NetworkConfig, RunConfig
from segdistill.data.layout import DATA_VARIABLE
from segdistill.data.unlabeled import NAME
from segdistill.errors import UsageError
from segdistill.networks import missing_options, resolve, resolve_name
from segdistill.runtime.reporter import Reporter
from segdistill.teachers.external import is_external
from segdistill.terms import cap_stages, check_terms, stage_tables


@dataclass(frozen=True)
class ConfigFlags:
    """Flags that change a configuration; None leaves a value to the preset."""

    preset: str
    """Name of a preset, or the path of a .toml file."""
    data: str | None = None
    """Data set as `--data` takes it."""
    overrides: tuple[str, ...] = ()
    """Texts "KEY=VALUE" of `--set`."""
    steps: int | None = None
    """Most steps of each training."""
    epochs: float | None = None
    """Times that each training image is to be seen."""
    max_minutes: float | None = None
    """Most minutes of all trainings together."""
    batch_size: int | Literal["auto"] | None = None
    """Images per step; "auto" halves them until a step fits into memory."""
    lr: float | None = None
    """Learning rate."""
    image_size: tuple[int, int] | None = None
    """Height and width that images are brought to."""
    keep_weights: bool = False
    """Whether terms keep the preset's weights on other networks and data too."""
    seed: int | None = None
    precision: str | None = None
    images: tuple[Path, ...] = ()
    """Folders of images without labels that alone are trained on."""
    unlabeled: tuple[Path, ...] = ()
    """Folders of images without labels."""
    class_map: Path | None = None
    """File that maps the teacher's classes to those of the data."""
    teacher: str | None = None
    """Teacher as `--teacher` takes it: a network, or one that is pretrained."""
    student: str | None = None
    """Network of the student."""

    @property
    def override_keys(self) -> set[str]:
        """Keys that `--set` gives a value."""
        return {text.partition("=")[0].strip() for text in self.overrides}

    @property
    def files(self) -> tuple[tuple[str, Path], ...]:
        """Files that are read for the configuration, each with its flag."""
        files = []
        if self.preset.endswith(".toml"):
            files.append(("--preset", Path(self.preset)))
        if self.class_map is not None:
            files.append(("--class-map", self.class_map))
        return tuple(files)


class Settings(NamedTuple):
    """The configuration of a training, as far as it is known before its images are."""

    config: RunConfig
    derivation: Derivation
    """What is left to be decided once the images are known."""
    origins: dict[str, str]
    """Source of each value that was stated, by its path; others are defaults."""


def resolve_settings(flags: ConfigFlags, reporter: Reporter, *, takes_pretrained: bool) -> Settings:
    """Return the settings of a training, with full names of networks and complete tables of terms.

    The preset's choices about its own networks do not hold for one that is named instead and has no such choice, and
    nothing that it says of its teacher is checked where that is pretrained.

    Args:
        flags: the command line.
        reporter: is told where the built-in data set stands in for the preset's.
        takes_pretrained: the command takes a teacher that is trained already, beside a network's name.

    Raises:
        UsageError: for anything unknown or contradictory in the preset, the overrides or the flags.
    """
    _check_numbers(flags)
    flags = with_recorded_paths(flags)
    # A pretrained teacher brings its own network.
    has_pretrained = takes_pretrained and flags.teacher is not None and is_pretrained(flags.teacher)
    # a command that takes none trains a teacher and no student
    resolved, stated = _load(flags, reporter, trains_teacher=not has_pretrained, trains_student=takes_pretrained)
    config = resolved.config
    values: dict[str, Any] = {f"terms.{name}": table for name, table in check_terms(config.terms).items()}
    names = _network_values("student", config.student, flags.student, override_keys=flags.override_keys)
    if not has_pretrained:
        _refuse_external(flags.teacher or config.teacher.network)
        names |= _network_values("teacher", config.teacher, flags.teacher, override_keys=flags.override_keys)
    # Only now are the names full, so that choices about the networks can be checked.
    config = cap_stages(config.changed(**values, **names), flags.steps)
    resolve(config.student)
    if not has_pretrained:
        resolve(config.teacher)
    origins = resolved.origins | stated | _origins_of_networks(names, flags)
    if flags.steps is not None:
        steps = {"optim.steps": resolved.config.optim.steps, "teacher.steps": resolved.config.teacher.steps}
        origins |= {path: "--steps" for path, before in steps.items() if before is not None and before > flags.steps}
    return Settings(config, _derivation(flags, resolved, config, set(stated)), origins)


def with_recorded_paths(flags: ConfigFlags) -> ConfigFlags:
    """Return flags with the paths of the data of a run whose config.toml is the preset, where they name none."""
    is_other = flags.data is not None or flags.images or "data.name" in flags.override_keys
    record = None if is_other else read_local_beside(flags.preset)
    if record is None:
        return flags
    data = None if record.data == NAME else record.data
    if data is not None and not record.data_is_there():
        raise data_is_gone(Path(flags.preset).parent, data)
    unlabeled = flags.unlabeled or tuple(map(Path, record.unlabeled))
    return replace(flags, data=data, images=tuple(map(Path, record.images)), unlabeled=unlabeled)


def _load(
    flags: ConfigFlags, reporter: Reporter, *, trains_teacher: bool, trains_student: bool
) -> tuple[ResolvedPreset, dict[str, str]]:
    """Return the preset with the overrides and flags, on the data set that was asked for or is there.

    Returns:
        The preset, and the flag behind each value that one gave.
    """
    teacher = flags.teacher if trains_teacher else None
    networks = RequestedNetworks(
        flags.student, teacher, trains_teacher, resolve=_full_name, trains_student=trains_student
    )
    values, stated = _flag_values(flags, trains_student=trains_student)
    # Without --data a preset must run: few people have the data set of its paper.
    data = flags.data
    if data is None and flags.images:
        data = NAME  # no preset has a table for it
    if data is None and "data.name" not in flags.override_keys:
        preset_data = load_preset(flags.preset, flags.overrides).data
        # the configuration of a run without labels names no other data than its images
        is_label_free = bool(preset_data.images) and preset_data.name == NAME
        data = NAME if is_label_free else _available_data(preset_data.name)
        if data == BUILT_IN:
            reporter.info(f"No --data given: the built-in scenes ({BUILT_IN}) are used.")
    # Read again, because tables of the preset may hold for one data set alone.
    resolved = resolve_preset(flags.preset, flags.overrides, data=data, flags=values, networks=networks)
    data_config = resolved.config.data
    if data_config.name != NAME or not data_config.images:
        find_data(data_config.name)
    _tell_of_recipes(resolved, reporter)
    return resolved, stated


def _flag_values(flags: ConfigFlags, *, trains_student: bool) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the values that flags give, and the flag behind each, both by path."""
    given: list[tuple[str, str, Any]] = [
        ("--seed", "seed", flags.seed),
        ("--precision", "precision", flags.precision),
        ("--unlabeled", "data.unlabeled", [str(folder) for folder in flags.unlabeled] or None),
        ("--images", "data.images", [str(folder) for folder in flags.images] or None),
        ("--class-map", "teacher.class_map", None if flags.class_map is None else read_class_map(flags.class_map)),
        ("--lr", "optim.lr", flags.lr),
        # a teacher that is trained alone has no other rate
        ("--lr", "teacher.lr", None if trains_student else flags.lr),
        ("--image-size", "data.size", None if flags.image_size is None else list(flags.image_size)),
        ("--batch-size", "data.batch_size", None if flags.batch_size == "auto" else flags.batch_size),
        ("--keep-weights", "balance_terms", False if flags.keep_weights else None),
    ]
    values = {path: value for _, path, value in given if value is not None}
    return values, {path: flag for flag, path, value in given if value is not None}


def _check_numbers(flags: ConfigFlags) -> None:
    """Refuse numbers that a flag, or an argument from Python, cannot mean, and two that contradict each other.

    Raises:
        UsageError: naming the flags.
    """
    for flag, number, example in (
        ("--epochs", flags.epochs, "50"),
        ("--max-minutes", flags.max_minutes, "30"),
        ("--lr", flags.lr, "0.01"),
    ):
        if number is not None and not 0 < number < math.inf:
            raise UsageError(f"{flag} {number:g}: expected a number above 0.", f"For example {flag} {example}")
    if flags.epochs is not None and "optim.steps" in flags.override_keys:
        raise UsageError(
            "--epochs and --set optim.steps both say how long the training is.",
            "Leave one of them out. --steps N beside --epochs is the most steps that these make.",
        )
    batch_size = flags.batch_size
    if batch_size not in (None, "auto") and (not isinstance(batch_size, int) or batch_size < 1):
        raise UsageError(
            f"--batch-size {batch_size}: expected a whole number of at least 1, or auto.", "For example --batch-size 8"
        )


def _derivation(flags: ConfigFlags, resolved: ResolvedPreset, config: RunConfig, stated: set[str]) -> Derivation:
    """Return what is left to be decided once the images are known."""
    users = resolved.users | stated
    keys: set[str] = set()
    if not resolved.is_own_data:
        keys = set(DERIVED_KEYS)
        keys |= {f"terms.{name}.{key}.steps" for name, key in stage_tables(config)}
    elif "data.size" in stated:
        keys = {"data.crop"}  # the preset's was chosen for images of another size
    keys -= users
    if "data.crop" in users:
        keys.discard("data.size")  # the one says little without the other
    weights = {name for name in config.terms if f"terms.{name}.weight" not in users}
    return Derivation(
        keys=frozenset(keys),
        epochs=flags.epochs,
        max_steps=flags.steps,
        max_minutes=flags.max_minutes,
        fits_memory="data.batch_size" in keys or flags.batch_size == "auto",
        is_own_data=resolved.is_own_data,
        own_networks=_full_names(resolved.own_networks) if resolved.is_own_data else {},
        preset_weights=frozenset(weights),
    )


def _full_names(networks: Mapping[str, str]) -> dict[str, str]:
    """Return a preset's networks by their full names; one that there is not stays, as it may not be what is wanted."""
    names = {}
    for role, name in networks.items():
        try:
            names[role] = _full_name(name, name)
        except UsageError:
            names[role] = name
    return names


def _origins_of_networks(names: Mapping[str, Any], flags: ConfigFlags) -> dict[str, str]:
    """Return the flag behind each value of a network that was named; its other choices are the network's own."""
    requested = {"student": flags.student, "teacher": flags.teacher}
    origins = {}
    for path in names:
        role, _, key = path.partition(".")
        if requested[role] is not None:
            origins[path] = f"--{role}" if key == "network" else "default"
    return origins


def _full_name(text: str, default: str) -> str:
    """Return a network's full name; of an external teacher, which is refused later, what was typed."""
    return text if is_external(text) else resolve_name(text, default)


def _tell_of_recipes(resolved: ResolvedPreset, reporter: Reporter) -> None:
    """Say whose optimizer a network has in the place of the preset's, which was written for another one."""
    config = resolved.config
    optims = {"student": config.optim, "teacher": config.teacher_optim()}
    tables = {"student": "optim.", "teacher": "teacher.optim."}
    for role, recipe in resolved.replaced.items():
        optim = optims[role]
        is_changed = any(
            source == "--set" and path.startswith(tables[role]) for path, source in resolved.origins.items()
        )
        exception = ", but for what --set says" if is_changed else ""
        reporter.info(
            f"The {role} is trained as the authors of {recipe} did{exception}, by {optim.algorithm} at a rate of "
            f"{optim.lr:g}: the preset's [optim] is for another algorithm. --set changes what you like."
        )


def _available_data(name: str) -> str:
    """Return the preset's own data set where it has a path or lies in $SEGDISTILL_DATA, else the built-in one."""
    if ":" in name or name.endswith(".toml"):
        return name
    folder = os.environ.get(DATA_VARIABLE)
    if not folder or name not in components("data.datasets"):
        return BUILT_IN
    # No shell replaces a ~ within a variable's value.
    path = Path(os.path.expanduser(folder), name)
    return name if path.is_dir() else BUILT_IN


def _network_values(
    role: str, config: NetworkConfig, requested: str | None, *, override_keys: set[str]
) -> dict[str, Any]:
    """Return the keys of one network that change: its full name, and choices that it does not have.

    Args:
        role: student or teacher, the beginning of the keys.
        config: what the preset says of it.
        requested: the network that is named instead; None keeps the preset's.
        override_keys: keys whose values stay, as the user chose them: what is wrong with them is told later.
    """
    name = resolve_name(requested or config.network, config.network)
    values: dict[str, Any] = {f"{role}.network": name}
    if requested is None:
        return values
    for option in missing_options(config.model_copy(update={"network": name})):
        key = f"{role}.{option}"
        if key not in override_keys:
            values[key] = type(config).model_fields[option].default
    return values


def _refuse_external(teacher: str) -> None:
    if is_external(teacher):
        raise UsageError(
            f"The teacher {teacher} is not a network that is trained here.",
            "Give a pretrained teacher to the command that takes one: segdistill distill --teacher "
            f"{teacher} --student NET",
        )
