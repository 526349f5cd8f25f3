"""From what a command line says to a resolved configuration: preset, data set, overrides and flags, all checked."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segdistill.commands._local_record import read_local
from segdistill.commands._teacher import is_pretrained
from segdistill.config.network_recipes import RequestedNetworks
from segdistill.config.presets import ResolvedPreset, load_preset, read_class_map, resolve_preset
from segdistill.config.registry import BUILT_IN, components, data_example, find_data
from segdistill.config.schema import NetworkConfig, RunConfig
from segdistill.data.unlabeled import NAME
from segdistill.errors import UsageError
from segdistill.networks import missing_options, resolve, resolve_name
from segdistill.runtime.reporter import Reporter
from segdistill.storage.run_files import LOCAL
from segdistill.teachers.external import is_external
from segdistill.terms import cap_stages, check_terms

DATA_FOLDER_VARIABLE = "SEGDISTILL_DATA"
"""Environment variable that names the folder of the data sets."""


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


def resolve_config(flags: ConfigFlags, reporter: Reporter, *, takes_pretrained: bool) -> RunConfig:
    """Return the configuration of a training, with full names of networks and complete tables of terms.

    The preset's choices about its own networks do not hold for one that is named instead and has no such choice, and
    nothing that it says of its teacher is checked where that is pretrained.

    Args:
        flags: the command line.
        reporter: is told where the built-in data set stands in for the preset's.
        takes_pretrained: the command takes a teacher that is trained already, beside a network's name.

    Raises:
        UsageError: for anything unknown or contradictory in the preset, the overrides or the flags.
    """
    flags = with_recorded_paths(flags)
    # A pretrained teacher brings its own network.
    has_pretrained = takes_pretrained and flags.teacher is not None and is_pretrained(flags.teacher)
    # a command that takes none trains a teacher and no student
    config = _load(flags, reporter, trains_teacher=not has_pretrained, trains_student=takes_pretrained)
    values: dict[str, Any] = {f"terms.{name}": table for name, table in check_terms(config.terms).items()}
    values |= _network_values("student", config.student, flags.student, override_keys=flags.override_keys)
    if not has_pretrained:
        _refuse_external(flags.teacher or config.teacher.network)
        values |= _network_values("teacher", config.teacher, flags.teacher, override_keys=flags.override_keys)
    # Only now are the names full, so that choices about the networks can be checked.
    config = cap_stages(config.changed(**values), flags.steps)
    resolve(config.student)
    if not has_pretrained:
        resolve(config.teacher)
    return config


def with_recorded_paths(flags: ConfigFlags) -> ConfigFlags:
    """Return flags with the paths of the data of a run whose config.toml is the preset, where they name none."""
    path = Path(flags.preset)
    is_other = flags.data is not None or flags.images or "data.name" in flags.override_keys
    record = read_local(path.parent) if path.name == "config.toml" and path.is_file() and not is_other else None
    if record is None:
        return flags
    data = None if record.data == NAME else record.data
    if data is not None and not record.data_is_there():
        raise UsageError(
            f"The data set of {path.parent} is gone from where {path.with_name(LOCAL)} has it: {data}",
            f"Say where it lies now: --data {data_example(data.partition(':')[0])}",
        )
    unlabeled = flags.unlabeled or tuple(map(Path, record.unlabeled))
    return replace(flags, data=data, images=tuple(map(Path, record.images)), unlabeled=unlabeled)


def _load(flags: ConfigFlags, reporter: Reporter, *, trains_teacher: bool, trains_student: bool) -> RunConfig:
    """Return the preset with the overrides and flags, on the data set that was asked for or is there."""
    teacher = flags.teacher if trains_teacher else None
    networks = RequestedNetworks(
        flags.student, teacher, trains_teacher, resolve=_full_name, trains_student=trains_student
    )
    values: dict[str, Any] = {}
    if flags.seed is not None:
        values["seed"] = flags.seed
    if flags.precision is not None:
        values["precision"] = flags.precision
    if flags.unlabeled:
        values["data.unlabeled"] = [str(folder) for folder in flags.unlabeled]
    if flags.images:
        values["data.images"] = [str(folder) for folder in flags.images]
    if flags.class_map is not None:
        values["teacher.class_map"] = read_class_map(flags.class_map)
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
    return resolved.config


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
    folder = os.environ.get(DATA_FOLDER_VARIABLE)
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
