"""A table of keys, from its model: type and bounds in words, default, and the docstring under the attribute."""

import ast
import inspect
import json
import textwrap
from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from _reference.markdown import alternatives, sentence, table

NOT_SET = "not set"


def keys_table(model: type[BaseModel], fields: dict[str, FieldInfo]) -> str:
    """Return a table of keys: name, type and bounds, default, meaning."""
    said = attribute_docstrings(model)
    rows = [
        [
            f"`{field.alias or name}`",
            annotation_in_words(field.annotation, field.metadata),
            default_of(field),
            sentence(said.get(name, "")),
        ]
        for name, field in fields.items()
    ]
    return table(("key", "value", "default", "meaning"), rows) if rows else ""


def attribute_docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Return what stands under the attributes of a model, and of the models it extends."""
    found: dict[str, str] = {}
    for one in reversed(model.__mro__):
        if not issubclass(one, BaseModel) or one is BaseModel:
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(one))).body
        assert isinstance(tree, ast.ClassDef)
        for attribute, under in zip(tree.body, tree.body[1:], strict=False):
            documented = isinstance(under, ast.Expr) and isinstance(under.value, ast.Constant)
            if isinstance(attribute, ast.AnnAssign) and isinstance(attribute.target, ast.Name) and documented:
                assert isinstance(under, ast.Expr)
                found[attribute.target.id] = str(ast.literal_eval(under.value))
    return found


def annotation_in_words(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """Return a type and the bounds on it in words, as they are written in TOML."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return annotation_in_words(inner[0], [*metadata, *flat(inner[1:])])
    if origin in (UnionType, Union):
        return " or ".join(annotation_in_words(one, metadata) for one in inner if one is not NoneType)
    if origin is Literal:
        return alternatives([f"`{json.dumps(value)}`" for value in inner])
    if origin is tuple and inner[1:] == (Ellipsis,):
        return f"list: {annotation_in_words(inner[0])}"
    if origin is tuple:
        return f"list of {len(inner)}: {annotation_in_words(inner[0])}"
    if origin is dict:
        return f"table: {annotation_in_words(inner[0])} = {annotation_in_words(inner[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "table"
    names = {bool: "true or false", int: "integer", float: "number", str: "text"}
    return names[annotation] + bounds_in_words(flat(metadata))


def flat(metadata: Iterable[Any]) -> list[Any]:
    """Return the bounds themselves of what may hold them in a `Field`."""
    found: list[Any] = []
    for one in metadata:
        found += one.metadata if isinstance(one, FieldInfo) else [one]
    return found


def bounds_in_words(metadata: list[Any]) -> str:
    """Return the bounds of a number, or of the length of a text."""
    limits = {
        name: getattr(one, name)
        for one in metadata
        for name in ("ge", "gt", "le", "lt", "max_length")
        if getattr(one, name, None) is not None
    }
    words = {"ge": "at least {}", "gt": "above {}", "le": "at most {}", "lt": "below {}"}
    limits = {name: whole(value) for name, value in limits.items()}
    if "ge" in limits and "le" in limits:
        return f", {limits['ge']} to {limits['le']}"
    if "max_length" in limits:
        return f" of at most {limits['max_length']} characters"
    said = [words[name].format(value) for name, value in limits.items()]
    return ", " + " and ".join(said) if said else ""


def whole(value: float) -> float:
    """Return a number that is whole as an integer."""
    return int(value) if value == int(value) else value


def default_of(field: FieldInfo) -> str:
    """Return a key's default, as TOML has it."""
    if field.is_required():
        return "required"
    value = field.default
    if value is None:
        return NOT_SET
    if isinstance(value, BaseModel):
        return "its defaults"
    return f"`{json.dumps(value)}`"


def model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model of a table, which may be optional; None of anything else."""
    for one in (annotation, *get_args(annotation)):
        if isinstance(one, type) and issubclass(one, BaseModel):
            return one
    return None
