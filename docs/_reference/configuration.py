"""The pages of keys: those of a preset, table by table, and those of a data file."""

import inspect
from typing import Any, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from _reference.keys import keys_table, model_in
from _reference.markdown import paragraph, prose, slug
from segdistill.config.schema import RunConfig
from segdistill.data.datasets import _toml as data_file
from segdistill.data.datasets._toml import schema


def configuration_page() -> str:
    """Return every key of a preset, table by table."""
    top = {name: field for name, field in RunConfig.model_fields.items() if model_in(field.annotation) is None}
    parts = [
        "# Configuration\n\nThe keys of a preset, and so of `--set KEY=VALUE` and of a run's `config.toml`. "
        "[Presets](../presets.md) says how a preset, a table for a data set, `--set` and flags are merged.",
        "Besides the tables below, `[terms.NAME]` holds the options of a [term](terms.md), and `[on.DATASET]` the keys "
        "that are other for one data set: `[on.camvid.optim]` changes `[optim]` for `camvid`.",
        "## Top level\n\n" + keys_table(RunConfig, top),
    ]
    seen: dict[type[BaseModel], str] = {}
    fields = RunConfig.model_fields
    for name in ("student", "teacher", *(name for name in fields if name not in ("student", "teacher"))):
        parts += model_sections(fields[name].alias or name, fields[name].annotation, seen)
    return "\n\n".join(parts)


def model_sections(path: str, annotation: Any, seen: dict[type[BaseModel], str]) -> list[str]:
    """Return a section for a table, and after it one for each table in it; nothing where it is no table."""
    model = model_in(annotation)
    if model is None:
        return []
    path = f"{path}.NAME" if get_origin(annotation) is dict else path
    parts = [f"## [{path}]\n\n{sections_body(path, model, seen)}"]
    for name, field in own_fields(model, seen).items():
        parts += model_sections(f"{path}.{field.alias or name}", field.annotation, seen)
    return parts


def sections_body(path: str, model: type[BaseModel], seen: dict[type[BaseModel], str]) -> str:
    """Return the keys of a table; of one that was shown before, where."""
    if model in seen:
        return f"{paragraph(inspect.getdoc(model) or '')}\n\nThe keys of {link(seen[model])}."
    parts = [paragraph(inspect.getdoc(model) or "")]
    base = next((one for one in model.__mro__[1:] if one in seen), None)
    own = own_fields(model, seen)
    if base is not None:
        parts.append(f"All keys of {link(seen[base])}" + (", and:" if own else "."))
    parts.append(keys_table(model, own))
    seen[model] = path
    return "\n\n".join(part for part in parts if part)


def own_fields(model: type[BaseModel], seen: dict[type[BaseModel], str]) -> dict[str, FieldInfo]:
    """Return the fields of a model that no model before it had."""
    inherited = {name for base in model.__mro__[1:] if base in seen for name in base.model_fields}
    return {name: field for name, field in model.model_fields.items() if name not in inherited}


def link(path: str) -> str:
    """Return a link to a table's section."""
    return f"[`[{path}]`](#{slug(path)})"


def data_file_page() -> str:
    """Return every key of a data.toml."""
    parts = ["# Data files", prose(data_file.__doc__ or "")]
    models: dict[str, type[BaseModel]] = {
        "Top level": schema.DataFile,
        "[train], [val], [test]": schema.PairsEntry,
        "A class": schema.ClassEntry,
    }
    for title, model in models.items():
        parts.append(f"## {title}\n\n{keys_table(model, dict(model.model_fields))}")
    parts.append("[Your own data](../data.md) shows it at work.")
    return "\n\n".join(parts)
