"""How the authors of a network trained it, and where that counts more than what a preset says of another network.

A preset that says `network_recipes = true` has these recipes, files in `presets/networks/`, under and over it:

- **Beneath** its own tables for the networks that it names, and for any whose authors train by the preset's algorithm:
  what the preset says was chosen for such a training, its data and its length. What it leaves out is the authors'.
- **Over** its `[optim]` for a network that is named instead of its own and whose authors train by another algorithm: a
  rate, a decay and a schedule of SGD mean nothing to Adam. The length of the training, its warm-up, clipping and the
  average stay the preset's.

A recorded configuration has no such key, so nothing is put beneath or over what a run was.
"""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from segdistill.config.checking import validated
from segdistill.config.overrides import merge
from segdistill.config.schema import LossChanges, LossConfig, NonNegative, OptimChanges, OptimConfig, RunConfig, Strict
from segdistill.config.toml import read_toml
from segdistill.errors import UsageError

KEPT = ("steps", "accumulate", "warmup", "clip", "ema")
"""Keys of a preset's [optim] that stay where a network's recipe takes the place of the others."""


class NetworkRecipe(Strict):
    """The training of a network as its authors did it, as far as it is theirs to say: a file in presets/networks/."""

    optim: OptimChanges = OptimChanges()
    """Keys of [optim]."""
    loss: LossConfig = LossConfig()
    """Keys of [loss]."""
    aux_weight: NonNegative | None = None
    """Weight of the auxiliary head's cross entropy."""


def _as_typed(text: str, default: str) -> str:
    return text


class RequestedNetworks(NamedTuple):
    """The networks of a command line, in the place of those that a preset names."""

    student: str | None = None
    """Network that is named; None is the preset's."""
    teacher: str | None = None
    """Likewise."""
    trains_teacher: bool = True
    """Whether the teacher may be trained: one that is given ready-made has no use for a recipe."""
    resolve: Callable[[str, str], str] = _as_typed
    """Full name of a network from what was typed, and the preset's network."""
    trains_student: bool = True
    """Whether a student is trained, too: beside a teacher alone, what is set of [optim] is meant for that."""
    student_algorithm: str | None = None
    """Optimizer that is asked for; where it is the preset's, so are its rate, decay and schedule."""
    teacher_algorithm: str | None = None
    """Likewise."""


class Training(NamedTuple):
    """The tables by which a network is trained."""

    optim: dict[str, Any]
    loss: dict[str, Any]
    aux_weight: float | None
    from_recipe: frozenset[str] = frozenset()
    """Paths of the values that are the network's recipe's."""
    recipe: str = ""
    """Name of that recipe."""
    replaces: bool = False
    """Whether it took the place of the preset's [optim]."""


def apply_network_recipes(
    table: dict[str, Any], own: Mapping[str, str], networks: RequestedNetworks, folder: Path
) -> dict[str, str]:
    """Merge the recipes of student and teacher into a preset's tables, which are changed.

    Args:
        table: the preset's tables, those for the data set merged in.
        own: networks that the preset names for that data set, by role.
        networks: those that are wanted instead.
        folder: of the recipes.

    Returns:
        The recipe that a value is from, by the value's path, and nothing where it is the preset's; under "replaced" the
        recipes that took the place of the preset's [optim], by role.
    """
    stated = Training(dict(table.get("optim", {})), dict(table.get("loss", {})), table.get("aux_weight"))
    student = _training(
        stated,
        own["student"],
        networks.student,
        networks.resolve,
        folder,
        algorithm_asked_for=networks.student_algorithm,
    )
    table["optim"], table["loss"] = student.optim, student.loss
    if student.aux_weight is not None:
        table["aux_weight"] = student.aux_weight
    origins = dict.fromkeys(student.from_recipe, student.recipe)
    if student.replaces:
        origins["replaced.student"] = student.recipe
    if networks.trains_teacher:
        teacher = _training(
            stated,
            own["teacher"],
            networks.teacher,
            networks.resolve,
            folder,
            algorithm_asked_for=networks.teacher_algorithm,
        )
        origins |= _apply_to_teacher(table["teacher"], teacher, student)
    return origins


def recipe_of(network: str, folder: Path) -> str:
    """Return the name of a network's recipe: that of the network or of its architecture; empty where there is none."""
    names = [path.stem for path in folder.glob("*.toml")]
    fitting = [name for name in names if network == name or network.startswith(f"{name}-")]
    return max(fitting, key=len, default="")


@cache
def read_recipe(path: Path) -> dict[str, Any]:
    """Return the tables of a recipe, checked.

    Raises:
        UsageError: if it says anything that is not the network's to say.
    """
    table = read_toml(path)
    validated(NetworkRecipe, table, str(path))
    return table


def _training(
    stated: Training,
    own: str,
    requested: str | None,
    resolve: Callable[[str, str], str],
    folder: Path,
    *,
    algorithm_asked_for: str | None,
) -> Training:
    """Return how a network is trained, by what a preset states and by its own recipe."""
    own = _full_name(own, resolve)
    wanted = own if requested is None else resolve(requested, own)
    name = recipe_of(wanted, folder)
    if not name:
        return stated
    recipe = read_recipe(folder / f"{name}.toml")
    is_own = wanted == own or name == recipe_of(own, folder)
    beneath: dict[str, Any] = recipe.get("optim", {})
    algorithm, authors = _algorithm(stated, own, folder), beneath.get("algorithm")
    replaces = False
    over: Mapping[str, Any] = stated.optim
    if algorithm != authors:
        # who asks for the preset's algorithm gets the rate that belongs to it
        replaces = not is_own and algorithm_asked_for != algorithm
        if replaces:
            over = {key: value for key, value in stated.optim.items() if key in KEPT}
        else:
            beneath = {}  # its values would be another algorithm's
    optim, loss = dict(beneath), dict(recipe.get("loss", {}))
    merge(optim, over)
    merge(loss, stated.loss)
    aux_weight, from_recipe = stated.aux_weight, set[str]()
    if "aux_weight" in recipe and (aux_weight is None or not is_own):
        aux_weight = recipe["aux_weight"]
        from_recipe.add("aux_weight")
    from_recipe |= {f"optim.{key}" for key in optim if key not in over}
    from_recipe |= {f"loss.{key}" for key in loss if key not in stated.loss}
    return Training(optim, loss, aux_weight, frozenset(from_recipe), name, replaces)


def _algorithm(stated: Training, own: str, folder: Path) -> Any:
    """Return the optimizer that a preset's [optim] is for: the stated one, else that of its own network's authors."""
    name = recipe_of(own, folder)
    recipe: dict[str, Any] = read_recipe(folder / f"{name}.toml").get("optim", {}) if name else {}
    return _value(OptimConfig, recipe | stated.optim, "algorithm")


def _full_name(network: str, resolve: Callable[[str, str], str]) -> str:
    """Return the full name of a preset's network; one that there is not stays, as it may not be what is wanted."""
    try:
        return resolve(network, network)
    except UsageError:
        return network


def _apply_to_teacher(table: dict[str, Any], teacher: Training, student: Training) -> dict[str, str]:
    """Write into [teacher] what differs in its training from the student's; return the recipe of each such value."""
    origins: dict[str, str] = {}
    if teacher.replaces:
        # the preset wrote the others for its own teacher
        table.pop("lr", None)
        kept = {key: value for key, value in table.pop("optim", {}).items() if key in KEPT}
        if kept:
            table["optim"] = kept
        origins["replaced.teacher"] = teacher.recipe
    origins |= _write_changes(table, "optim", OptimConfig, OptimChanges, teacher=teacher, student=student)
    origins |= _write_changes(table, "loss", LossConfig, LossChanges, teacher=teacher, student=student)
    default = RunConfig.model_fields["aux_weight"].default
    aux_weight = default if teacher.aux_weight is None else teacher.aux_weight
    if "aux_weight" not in table and aux_weight != (default if student.aux_weight is None else student.aux_weight):
        table["aux_weight"] = aux_weight
        origins |= _origin("teacher.aux_weight", "aux_weight", teacher)
    return origins


def _write_changes(
    table: dict[str, Any],
    name: str,
    model: type[Strict],
    changes_model: type[Strict],
    *,
    teacher: Training,
    student: Training,
) -> dict[str, str]:
    """Write the keys of one of [teacher]'s tables that differ from the student's, but for those that the preset states.

    Returns:
        The recipe of each such value.
    """
    stated = table.get(name, {})
    of_teacher, of_student = getattr(teacher, name), getattr(student, name)
    changes: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for key in changes_model.model_fields:
        value = _value(model, of_teacher, key)
        if value != _value(model, of_student, key) and key not in stated:
            changes[key] = value
            origins |= _origin(f"teacher.{name}.{key}", f"{name}.{key}", teacher)
    if changes:
        table[name] = changes | stated
    return origins


def _origin(path: str, stated_as: str, training: Training) -> dict[str, str]:
    """Return the recipe of a teacher's value, empty where the preset states it for teacher and student."""
    return {path: training.recipe if stated_as in training.from_recipe else ""}


def _value(model: type[Strict], table: Mapping[str, Any], key: str) -> Any:
    """Return a table's value, or the default, as TOML has it; None of a key that has none."""
    if key in table:
        return table[key]
    field = model.model_fields[key]
    return None if field.is_required() else field.default
