"""From a preset by name, its recipes, `--set` and flags to a resolved `RunConfig`.

A recipe is a part of a preset that several presets share, such as their tables for one data set. A preset lists its
recipes, `recipes = ["camvid", "streets"]`, and they are merged beneath its own tables, key by key: a later recipe
overrides an earlier one, and the preset overrides them all. Only afterwards does the table of the chosen data set
(`[on.camvid]`), the recipes' as well as the preset's, override the others. How the networks' own recipes come in says
`network_recipes`.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field, field_validator

from segdistill.config.checking import validated
from segdistill.config.network_recipes import RequestedNetworks, apply_network_recipes
from segdistill.config.overrides import assign, merge, parse_override
from segdistill.config.registry import BUILT_IN, PACKAGE
from segdistill.config.schema import NetworkConfig, RunConfig, Strict
from segdistill.config.toml import read_toml
from segdistill.errors import UsageError, nearest


class ClassMapFile(Strict):
    """The file that `--class-map` names."""

    classes: dict[str, str]


class RecipeList(Strict):
    """The key of a preset that lists its recipes."""

    recipes: Annotated[tuple[Annotated[str, Field(max_length=64)], ...], Field(max_length=16)] = ()
    """Names of files in `presets/recipes/`, from the lowest up."""

    @field_validator("recipes")
    @classmethod
    def _known(cls, recipes: tuple[str, ...]) -> tuple[str, ...]:
        known = recipe_names()
        unknown = [name for name in recipes if name not in known]
        if unknown:
            raise ValueError(" ".join(f"unknown recipe {name!r}. {nearest(name, known)}" for name in unknown))
        return recipes


class ResolvedPreset(NamedTuple):
    """A preset's configuration, and where its values come from."""

    config: RunConfig
    origins: dict[str, str]
    """Source of each value that was stated, by its path; others are defaults."""
    replaced: dict[str, str]
    """Recipes of networks that took the place of the preset's [optim], by role."""
    users: frozenset[str]
    """Paths of the values that a user stated: by `--set`, or in a preset file of his own."""
    is_own_data: bool
    """Whether the preset has numbers for this data set: a table, or all of them where it is the paper's."""
    own_networks: dict[str, str]
    """Networks that the preset names for this data set, by role."""


def load_preset(
    name_or_path: str | Path,
    overrides: Iterable[str] = (),
    *,
    data: str | None = None,
    flags: Mapping[str, Any] | None = None,
) -> RunConfig:
    """Read a preset by name or from a file and resolve it, for the networks that it names.

    Args, Raises: as `resolve_preset`.
    """
    return resolve_preset(name_or_path, overrides, data=data, flags=flags).config


def resolve_preset(
    name_or_path: str | Path,
    overrides: Iterable[str] = (),
    *,
    data: str | None = None,
    flags: Mapping[str, Any] | None = None,
    networks: RequestedNetworks | None = None,
) -> ResolvedPreset:
    """Read a preset by name or from a file and resolve it.

    Args:
        name_or_path: a name that `presets list` shows, or the path of a .toml file.
        overrides: "KEY=VALUE" strings, the key as `presets show` prints it, the value as TOML (or a bare string).
        data: the data set that decides which `[on.NAME]` table applies; default: the file's own, after `overrides`.
        flags: values by dotted path that are set last.
        networks: those that are wanted instead of the preset's, for their recipes; their names are not written into
            the configuration.

    Raises:
        UsageError: an unknown preset, recipe, key or value, naming all mistakes at once.
    """
    path = _preset_path(name_or_path)
    preset = read_toml(path)
    table, origins = _with_recipes(preset, path)
    data_set_tables = table.pop("on", {})
    table.setdefault("preset", path.stem)  # a run's config.toml says which it was, whatever the file is called
    settings = [parse_override(text) for text in overrides]
    # A mistake may be in the file or in the line, so both are named.
    given_keys = "".join(f" with --set {key}" for key, _ in settings)
    data_set = (data or _chosen_data(table, settings)).partition(":")[0]
    data_set_table = _data_set_table(data_set_tables, data_set, path)
    is_users = path.parent != preset_folder()
    is_own_data = bool(data_set_table) or (not is_users and data_set == _chosen_data(table, []))
    merge(table, data_set_table)
    own_networks = dict(_own_networks(table))
    # which of a data set's values are a recipe's is seen in its files
    origins |= dict.fromkeys(_paths(data_set_table), f"[on.{data_set}]")
    replaced: dict[str, str] = {}
    if _wants_recipes(table, path):
        requested = _with_set_networks(networks or RequestedNetworks(), settings)
        stated = set(_paths({"teacher": table.get("teacher")}))
        origins, replaced = _apply_recipes(table, requested, origins)
        if not requested.trains_student:
            of_recipe = set(_paths({"teacher": table.get("teacher")})) - stated
            # beneath the others: what is set of the teacher by name comes first
            settings = [
                (f"teacher.{key}", value) for key, value in settings if f"teacher.{key}" in of_recipe
            ] + settings
    # Only now: what is asked for in the line counts more than the data set's table.
    if data is not None:
        assign(table, "data.name", data, source="--data")
        origins["data.name"] = "--data"
    for key, value in settings:
        assign(table, key, value, source=f"--set {key}")
        origins |= dict.fromkeys(_paths({key: value}), "--set")
    for key, value in (flags or {}).items():
        assign(table, key, value, source=key)
    config = validated(RunConfig, table, f"preset {name_or_path}{given_keys}")
    stating = {"--set", "--data"} | ({f"preset {path.stem}"} if is_users else set())
    users = frozenset(key for key, source in origins.items() if source in stating)
    return ResolvedPreset(config, origins, replaced, users, is_own_data, own_networks)


def parse_network(name: str, overrides: Iterable[str]) -> NetworkConfig:
    """Return a network's configuration from "KEY=VALUE" strings; `model_fields_set` tells which keys there were.

    Raises:
        UsageError: unknown keys or values, naming all mistakes at once.
    """
    table: dict[str, Any] = {}
    for text in overrides:
        key, value = parse_override(text, example="output_stride=16")
        assign(table, key, value, source=f"--set {key}")
    return validated(NetworkConfig, table | {"network": name}, "--set")


def read_class_map(path: Path) -> dict[str, str]:
    """Read the table [classes] of a file: from the teacher's classes to the data's.

    Raises:
        UsageError: if there is none, or it holds anything else.
    """
    if not path.is_file():
        raise UsageError(
            f"There is no class map {path}.", 'It is a TOML file: [classes], then lines "car" = "vehicle".'
        )
    return validated(ClassMapFile, read_toml(path), str(path)).classes


def preset_names() -> list[str]:
    """Return the names of the presets that come with the package."""
    return sorted(path.stem for path in preset_folder().glob("*.toml"))


def recipe_names() -> list[str]:
    """Return the names of the recipes that a preset can list."""
    return sorted(path.stem for path in _recipe_folder().glob("*.toml"))


def recipe_paths(preset: Mapping[str, Any], path: Path) -> list[Path]:
    """Return the files of the recipes that a preset lists, from the lowest up.

    Args:
        preset: the preset's tables, as TOML has them.
        path: the preset's file, which a message names.

    Raises:
        UsageError: if it lists anything but recipes, with the nearest names.
    """
    names = validated(RecipeList, {"recipes": preset.get("recipes", [])}, f"preset {path}").recipes
    return [_recipe_folder() / f"{name}.toml" for name in names]


def preset_folder() -> Path:
    """Return the folder of the presets: inside an installed package, beside the package in a source tree."""
    installed = PACKAGE / "presets"
    return installed if installed.is_dir() else PACKAGE.parent / "presets"


def built_in_preset(name: str) -> Path:
    """Return the file of a preset that comes with the package.

    Raises:
        UsageError: if there is none, with the nearest names.
    """
    if name not in preset_names():
        raise UsageError(f"Unknown preset {name!r}.", nearest(name, preset_names()))
    return preset_folder() / f"{name}.toml"


def _preset_path(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if path.suffix == ".toml":  # no preset's name ends so
        if not path.is_file():
            raise UsageError(
                f"There is no preset file {path}.", "`segdistill presets copy NAME FILE` writes one to edit."
            )
        return path
    return built_in_preset(str(name_or_path))


def _chosen_data(table: Mapping[str, Any], settings: Iterable[tuple[str, Any]]) -> str:
    """Return the data set that `--set data.name=` names, else the preset, else the one that needs no files.

    Whatever else stands there is left to the check of the whole table.
    """
    for key, value in reversed(list(settings)):  # the last one counts
        if key == "data.name" and isinstance(value, str):
            return value
    data_table = table.get("data")
    name = data_table.get("name") if isinstance(data_table, dict) else None
    return name if isinstance(name, str) else BUILT_IN


def _data_set_table(tables: Any, data_set: str, path: Path) -> dict[str, Any]:
    """Return the table `[on.NAME]` of a data set; an empty one where the preset has none.

    Raises:
        UsageError: if `[on]` holds anything but such tables.
    """
    if not isinstance(tables, dict) or not all(isinstance(value, dict) for value in tables.values()):
        raise UsageError(
            f"{path}: [on] holds something else than one table per data set.",
            "Write [on.camvid.data], [on.camvid.optim], ...",
        )
    table: dict[str, Any] = tables.get(data_set, {})
    return table


def _own_networks(table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the roles of a preset's tables and the network that each names; what is no table is told of later."""
    for role in ("student", "teacher"):
        network_table = table.get(role)
        if isinstance(network_table, dict) and isinstance(network_table.get("network"), str):
            yield role, network_table["network"]


def _recipe_folder() -> Path:
    return preset_folder() / "recipes"


def _with_recipes(preset: dict[str, Any], path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a preset's tables with those of its recipes beneath them, and the source of each value."""
    table: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for recipe in recipe_paths(preset, path):
        beneath = read_toml(recipe)
        merge(table, beneath)
        origins |= dict.fromkeys(_paths(beneath), f"recipe {recipe.stem}")
    merge(table, preset)
    origins |= dict.fromkeys(_paths(preset), f"preset {path.stem}")
    table.pop("recipes", None)
    return table, origins


def _wants_recipes(table: dict[str, Any], path: Path) -> bool:
    """Take the key that asks for the networks' recipes out of a preset's tables, and return whether it does."""
    asked = table.pop("network_recipes", False)
    if not isinstance(asked, bool):
        raise UsageError(f"{path}: network_recipes is {asked!r}, expected true or false.", "Write it without quotes.")
    return asked


def _with_set_networks(networks: RequestedNetworks, settings: Iterable[tuple[str, Any]]) -> RequestedNetworks:
    """Return the networks that are wanted, with what `--set` says of them: their names, which a flag overrules."""
    named = {key: value for key, value in settings if isinstance(value, str)}
    algorithm = named.get("optim.algorithm")
    of_teacher = None if networks.trains_student else algorithm
    return networks._replace(
        student=networks.student or named.get("student.network"),
        teacher=networks.teacher or named.get("teacher.network"),
        student_algorithm=algorithm,
        teacher_algorithm=named.get("teacher.optim.algorithm", of_teacher),
    )


def _apply_recipes(
    table: dict[str, Any], networks: RequestedNetworks, origins: dict[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Merge the recipes of the networks into a preset; return the sources of all values, and the recipes that replace.

    A preset whose tables of networks are no such tables is left as it is: its check will say so.
    """
    own = dict(_own_networks(table))
    if len(own) < 2:
        return origins, {}
    holders = (table, table["teacher"])
    if not all(isinstance(holder.get(key, {}), dict) for holder in holders for key in ("optim", "loss")):
        return origins, {}
    found = apply_network_recipes(table, own, networks, preset_folder() / "networks")
    sources, replaced = dict(origins), {}
    for path, recipe in found.items():
        if path.startswith("replaced."):
            replaced[path.removeprefix("replaced.")] = recipe
        elif recipe:
            sources[path] = f"network {recipe}"
        else:
            sources[path] = origins.get(path.removeprefix("teacher."), "default")
    return sources, replaced


def _paths(table: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the paths of a table's values."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
