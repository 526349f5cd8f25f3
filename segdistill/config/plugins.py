"""Terms, networks and data sets of other packages, which say so by entry points.

A package that is installed beside this one names its modules in its pyproject.toml:

    [project.entry-points."segdistill.terms"]
    my-term = "my_package.my_term"

Such a module has what those in `terms/`, `networks/` and `data/datasets/` have. It is imported when it is asked for.
"""

import re
from functools import cache
from importlib import import_module, metadata
from typing import Any, NamedTuple

from segdistill.errors import SegdistillError, UsageError, out_of_memory

GROUPS = {"terms": "segdistill.terms", "networks": "segdistill.networks", "data.datasets": "segdistill.datasets"}
"""Group of entry points for each of our packages to which others can add."""
NAME = re.compile(r"[a-z0-9]+([-_][a-z0-9]+)*")
"""Names that a preset can give."""
NETWORK_NAME = re.compile(r"[a-z0-9_]+")
"""Names of architectures: without a dash, which would begin a variant."""
REQUIRED = {
    "terms": ("Options", "build"),
    "networks": ("BACKBONES", "STRIDES", "OPTIONS", "build"),
    "data.datasets": ("load",),
}
"""Attributes that a module must have, by the package it is added to."""


class Plugin(NamedTuple):
    """A module of another package."""

    name: str
    """Name that a preset gives it."""
    module: str
    """Name that it is imported by."""
    package: str
    """Distribution that it came with, for messages."""


def plugins(package: str, built_in: frozenset[str]) -> dict[str, Plugin]:
    """Return what other packages add to one of ours, by name.

    Args:
        package: ours, such as `terms`.
        built_in: names of our own modules there.

    Raises:
        UsageError: if a name is no name, one of ours, or that of two packages.
    """
    found: dict[str, Plugin] = {}
    for plugin in _entry_points(GROUPS.get(package, "")):
        pattern = NETWORK_NAME if package == "networks" else NAME
        if not pattern.fullmatch(plugin.name):
            raise UsageError(
                f"Package {plugin.package} names one of its {package} {plugin.name!r}.",
                f"Expected: lower-case letters and digits, as {pattern.pattern}. Update or uninstall it.",
            )
        other = found.get(plugin.name)
        owner = "segdistill itself" if other is None else f"package {other.package}"
        if plugin.name in built_in or other is not None:
            raise UsageError(
                f"Package {plugin.package} adds {plugin.name!r} to {GROUPS[package]}, a name that {owner} has.",
                f"Uninstall one of them: pip uninstall {plugin.package}",
            )
        found[plugin.name] = plugin
    return found


def load_plugin(package: str, plugin: Plugin) -> Any:
    """Import a module of another package.

    Raises:
        UsageError: if it cannot be imported, or does not have what it has to have.
    """
    where = f"{plugin.name!r} of {GROUPS[package]}, from package {plugin.package},"
    advice = f"Update or uninstall it: pip uninstall {plugin.package}"
    try:
        module = import_module(plugin.module)
    except SegdistillError:
        raise  # it says already what is missing
    except (Exception, SystemExit) as error:  # somebody else's code
        if out_of_memory(error):
            raise
        raise UsageError(f"{where} cannot be imported: {type(error).__name__}: {error}", advice) from error
    missing = [name for name in REQUIRED[package] if not hasattr(module, name)]
    if missing:
        raise UsageError(f"{where} has no {' and no '.join(missing)} in {plugin.module}.", advice)
    return module


@cache
def _entry_points(group: str) -> tuple[Plugin, ...]:
    """Return the entry points of a group, each once, sorted by name and package."""
    found = set()
    for entry in metadata.entry_points(group=group):
        package = None if entry.dist is None else entry.dist.name
        found.add(Plugin(entry.name, entry.value, package or "without a name"))
    return tuple(sorted(found))
