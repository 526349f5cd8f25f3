"""Values by dotted path, such as `--set optim.lr=0.005`, and tables merged over each other."""

import tomllib
from collections.abc import Mapping
from typing import Any

from segdistill.config.toml import MAX_KEY_PARTS
from segdistill.errors import UsageError

MAX_SHOWN_CHARACTERS = 20
"""Characters of an overlong key in a message."""


def parse_override(text: str, example: str = "optim.lr=0.005") -> tuple[str, Any]:
    """Return key and value of "KEY=VALUE", the value as TOML, or as text where it is none.

    Raises:
        UsageError: if it has another form, or its key more parts than anybody writes.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set {text}: expected KEY=VALUE.", f"For example --set {example}")
    if key.count(".") >= MAX_KEY_PARTS:
        shown = text[:MAX_SHOWN_CHARACTERS]
        raise UsageError(f"--set {shown}...: a key of more than {MAX_KEY_PARTS} parts.", f"For example --set {example}")
    try:
        return key.strip(), tomllib.loads(f"value = {value.strip()}")["value"]
    except (ValueError, RecursionError):  # a bare word needs no quotes
        return key.strip(), value.strip()


def assign(table: dict[str, Any], path: str, value: Any, *, source: str) -> None:
    """Set a value by its dotted path; tables on the way that are missing are made.

    Args:
        table: it is changed.
        path: keys with dots between them.
        value: the new one.
        source: what asks for it, for the message.

    Raises:
        UsageError: if there is a value where the path needs a table.
    """
    *parents, last = path.split(".")
    for part in parents:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise UsageError(
                f"{source}: {part} is a value, not a table.", "`segdistill presets show NAME` prints the keys."
            )
    table[last] = value


def merge(table: dict[str, Any], over: Mapping[str, Any]) -> None:
    """Merge a table over another, which is changed: tables in both are merged too, and other values replaced."""
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(table.get(key), dict):
            merge(table[key], value)
        else:
            table[key] = value
