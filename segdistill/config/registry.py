"""The terms, networks and data sets that a preset can name: our own files, and what other packages add."""

import shlex
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from segdistill.config.plugins import load_plugin, plugins
from segdistill.errors import UsageError, nearest

PACKAGE = Path(__file__).parents[1]
BUILT_IN = "streets"
"""The data set that needs no files."""


def components(package: str) -> list[str]:
    """Return the names that a preset can give from a package such as `terms`, sorted.

    They are those of its files without a leading underscore, and of what other packages add.

    Raises:
        UsageError: if another package adds a name that is taken.
    """
    built_in = _built_in(package)
    return sorted(built_in | plugins(package, built_in).keys())


def find(package: str, name: str, kind: str, hint: str = "") -> str:
    """Return the module that a preset names, e.g. `segdistill.terms.pairwise`.

    Raises:
        UsageError: if there is none, with the nearest names and the hint.
    """
    built_in = _built_in(package)
    if name in built_in:
        return f"segdistill.{package}.{name.replace('-', '_')}"
    added = plugins(package, built_in)
    if name not in added:
        raise UsageError(f"Unknown {kind} {name!r}.", f"{nearest(name, components(package))} {hint}".strip())
    return added[name].module


def load(package: str, name: str, kind: str, hint: str = "") -> Any:
    """Import the module that a preset names.

    Raises:
        UsageError: as `find`; if it is another package's and cannot be imported, or is no such module.
    """
    module = find(package, name, kind, hint)
    added = plugins(package, _built_in(package))
    return load_plugin(package, added[name]) if name in added else import_module(module)


@cache
def _built_in(package: str) -> frozenset[str]:
    """Return the names of our own files."""
    # By the names of files: their import would import torch, for which `--help` has no time.
    entries = PACKAGE.joinpath(*package.split(".")).iterdir()
    names = [entry.stem for entry in entries if entry.suffix == ".py" or (entry / "__init__.py").exists()]
    return frozenset(name.replace("_", "-") for name in names if not name.startswith("_"))


def data_example(name: str) -> str:
    """Return an example of what `--data` is given for the data set of that name, or for any where the name is empty.

    PATH, FILE and NAME stand for what only the user knows.
    """
    if not name:
        return "NAME:PATH"
    if name == BUILT_IN:
        return name
    return f"{name}:PATH" if name in components("data.datasets") else "FILE.toml"


DATA_HINT = "Data is given as NAME, as NAME:PATH, for example camvid:/data/CamVid, or as the path of a data.toml."


def find_data(spec: str) -> str:
    """Return the module of the data set that NAME, NAME:PATH or the path of a data.toml names.

    Raises:
        UsageError: if there is none.
    """
    if spec.endswith(".toml"):
        return "segdistill.data.datasets._toml"
    return find("data.datasets", spec.partition(":")[0], "data set", _data_hint(spec))


def _data_hint(spec: str) -> str:
    """Return how data is given; for a folder, the command that describes it."""
    if Path(spec).is_dir():
        return f"It is a folder: `segdistill data init {shlex.quote(spec)} --out data.toml` describes it."
    return DATA_HINT


def load_data_module(spec: str) -> Any:
    """Import the module of that data set.

    Raises:
        UsageError: as `find_data`; if it is another package's and cannot be imported, or is no such module.
    """
    if spec.endswith(".toml"):
        return import_module(find_data(spec))
    return load("data.datasets", spec.partition(":")[0], "data set", _data_hint(spec))
