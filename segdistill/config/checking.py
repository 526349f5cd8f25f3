"""Tables checked against their models, with all mistakes told at once."""

from collections.abc import Mapping
from types import UnionType
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from segdistill.errors import UsageError, nearest
from segdistill.wording import counted

MAX_MISTAKES = 20
"""Mistakes in a message."""
MAX_VALUE_CHARACTERS = 200
"""Characters of a value in a message."""

Model = TypeVar("Model", bound=BaseModel)


def validated(model: type[Model], table: Mapping[str, Any], where: str) -> Model:
    """Check a table against its model, naming all mistakes at once with the nearest known keys.

    Args:
        model: its fields are the keys that there are.
        table: the values.
        where: what holds the table, for the message.

    Raises:
        UsageError: if there are mistakes.
    """
    try:
        return model.model_validate(table)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False)
    lines = [_explain(model, problem) for problem in problems[:MAX_MISTAKES]]
    if len(problems) > MAX_MISTAKES:
        lines.append(f"and {len(problems) - MAX_MISTAKES} more")
    text = "\n".join(f"  {line}" for line in lines)
    raise UsageError(f"{counted(len(problems), 'mistake')} in {where}:\n{text}")


def _explain(model: type[BaseModel], problem: Any) -> str:
    """Return a problem of pydantic's in our words, with the key before it."""
    path = [str(part) for part in problem["loc"]]
    key = ".".join(path)
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key. {nearest(path[-1], _keys_at(model, path[:-1]))}"
    if problem["type"] == "missing":
        return f"{key}: missing"
    expected = problem["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list")  # TOML has no tuples
    if problem["type"] in ("model_type", "dict_type"):
        expected = "Input should be a table of keys"  # not the name of a class of ours
    text = f"{key}: {expected}" if key else expected
    value = problem["input"]
    if not isinstance(value, dict):  # a table would fill the screen
        text += f" (found {_shown(value)})"
    return text


def _shown(value: Any) -> str:
    """Return a value as it is written, or the beginning of a long one."""
    try:
        text = repr(value)
    except ValueError:
        return "a number of thousands of digits"  # Python converts none of more than 4300
    return text if len(text) <= MAX_VALUE_CHARACTERS else f"{text[:MAX_VALUE_CHARACTERS]}..."


def _keys_at(model: type[BaseModel], path: list[str]) -> list[str]:
    """Return the keys that a table inside the model's may have, or those of the last model on the way to it."""
    for part in path:
        inner = _table_at(model, part)
        if inner is None:  # a list, or the terms' tables, whose keys each term knows
            break
        model = inner
    return [field.alias or name for name, field in model.model_fields.items()]


def _table_at(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    """Return the model of the table under a key; None where there is another value, or tables of any keys."""
    annotations = {field.alias or name: field.annotation for name, field in model.model_fields.items()}
    annotation = annotations.get(key)
    options = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)  # it may be optional
    return next((option for option in options if isinstance(option, type) and issubclass(option, BaseModel)), None)
