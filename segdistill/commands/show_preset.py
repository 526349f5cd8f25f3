"""A preset as it is for some networks and a data set, with the source of each value."""

from collections.abc import Iterator, Mapping
from typing import Any

import tomli_w

from segdistill.config.derivation import DERIVED_KEYS
from segdistill.config.network_recipes import RequestedNetworks
from segdistill.config.presets import resolve_preset
from segdistill.config.registry import find_data
from segdistill.config.schema import RunConfig
from segdistill.networks import resolve_name

WIDTH = 38
"""Characters of a value's line before its source."""


def resolved_preset_text(name: str, *, student: str | None, teacher: str | None, data: str | None) -> str:
    """Return a preset as it is for some networks and a data set, each value with its source.

    Args:
        name: name of a preset, or the path of a .toml file.
        student: network in the place of the preset's.
        teacher: likewise.
        data: data set as `--data` takes it.

    Raises:
        UsageError: an unknown preset, network or data set.
    """
    if data is not None:
        find_data(data)
    resolved = resolve_preset(
        name, data=data, networks=RequestedNetworks(student=student, teacher=teacher, resolve=resolve_name)
    )
    config = resolved.config
    names = {}
    for role, requested in (("student", student), ("teacher", teacher)):
        if requested is not None:
            names[f"{role}.network"] = resolve_name(requested, getattr(config, role).network)
    origins = resolved.origins | dict.fromkeys(names, "as asked for")
    if data is not None and not resolved.is_own_data:
        unstated = {key for key in DERIVED_KEYS if key not in resolved.users}
        origins |= {key: f"{origins.get(key, 'default')}, but derived from the images in a run" for key in unstated}
    return text_with_sources(config.changed(**names), origins)


def text_with_sources(config: RunConfig, origins: Mapping[str, str]) -> str:
    """Return a configuration as a preset's file, each value with its source behind it.

    Args:
        config: resolved.
        origins: source of each value that is no default, by its path.
    """
    return "\n".join(_lines(config.to_dict(), origins))


def _lines(table: dict[str, Any], origins: Mapping[str, str], path: str = "") -> Iterator[str]:
    """Yield a table's lines as TOML, each value with its source behind it, and those of the tables in it."""
    inner = {key: value for key, value in table.items() if isinstance(value, dict)}
    values = {key: value for key, value in table.items() if key not in inner}
    if path and values:
        yield f"\n[{path}]"
    for key, value in values.items():
        where = f"{path}.{key}" if path else key
        line = f"{tomli_w.dumps({key: value}, multiline_strings=False).strip()}"
        # a list takes several lines
        line = " ".join(line.split())
        yield f"{line:<{WIDTH - 1}} # {origins.get(where, 'default')}"
    for key, value in inner.items():
        yield from _lines(value, origins, f"{path}.{key}" if path else key)
