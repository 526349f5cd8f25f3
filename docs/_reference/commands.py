"""The page of commands, from what they are registered with: arguments, options by group, example, exit codes."""

import inspect
import textwrap
from collections.abc import Callable, Iterator
from enum import StrEnum
from types import NoneType
from typing import Any, get_args

from typer import Typer
from typer.models import ArgumentInfo, CommandInfo, OptionInfo

import segdistill.cli  # noqa: F401  # registers the commands
from _reference.markdown import fenced, paragraph, sentence, table
from segdistill import errors
from segdistill.cli._app import app


def commands_page() -> str:
    """Return every command with its arguments, options by group, and its example."""
    parts = [
        "# Commands\n\nEvery command also says this with `--help`. Results go to standard output, everything else to "
        "standard error.",
        "Before any command, `--version` prints the version. Anywhere in the line, `--debug` shows tracebacks.",
        "## Exit codes\n\n" + fenced(tree_of_errors()),
    ]
    parts += [command_section(words, command) for words, command in commands(app).items()]
    return "\n\n".join(parts)


def commands(application: Typer, before: tuple[str, ...] = ()) -> dict[tuple[str, ...], CommandInfo]:
    """Return the commands that help shows, by the words that call them."""
    found: dict[tuple[str, ...], CommandInfo] = {}
    for command in application.registered_commands:
        if command.callback is not None and not command.hidden:
            name = command.name or command.callback.__name__.replace("_", "-")
            found[*before, name] = command
    for group in application.registered_groups:
        assert group.typer_instance is not None, "a group is an application of its own"
        found |= commands(group.typer_instance, (*before, str(group.name)))
    return found


def command_section(words: tuple[str, ...], command: CommandInfo) -> str:
    """Return what help says of one command."""
    assert command.callback is not None
    parameters = list(parameters_of(command.callback))
    arguments = [row for info, row in parameters if isinstance(info, ArgumentInfo)]
    groups: dict[str, list[list[str]]] = {}
    for info, row in parameters:
        if isinstance(info, OptionInfo):
            groups.setdefault(info.rich_help_panel or "Options", []).append(row)
    called = " ".join(("segdistill", *words))
    usage = " ".join([called, *(row[0].strip("`") for row in arguments), "[OPTIONS]"])
    parts = [f"## {called}", paragraph(inspect.getdoc(command.callback) or ""), fenced(usage)]
    if arguments:
        parts.append(table(("argument", "", "default"), arguments))
    parts += [f"**{group}**\n\n{table(('option', '', 'default'), rows)}" for group, rows in groups.items()]
    if example := (command.epilog or "").rpartition("Example:")[2].strip():
        parts.append(f"Example:\n\n{fenced(example, 'sh')}")
    return "\n\n".join(parts)


def parameters_of(callback: Callable[..., Any]) -> Iterator[tuple[ArgumentInfo | OptionInfo, list[str]]]:
    """Yield each parameter of a command with its row: how it is typed, what it does, its default."""
    for parameter in inspect.signature(callback).parameters.values():
        kind, info = get_args(parameter.annotation)
        assert isinstance(info, ArgumentInfo | OptionInfo), parameter
        required = parameter.default is inspect.Parameter.empty
        default = "required" if required else shown_default(parameter.default)
        typed = info.metavar or parameter.name.upper()
        if isinstance(info, OptionInfo):
            words = (info.default, *(info.param_decls or ()))  # behind Annotated, typer takes the first for a default
            flags = [word.replace("/", " / ") for word in words if isinstance(word, str)]
            typed = ", ".join([*flags[:-1], f"{flags[-1]} {value_of(kind, info)}".strip()])
        said = sentence(info.help or "") + bounds_of_flag(info)
        yield info, [f"`{typed}`", said, default]


def value_of(kind: Any, info: OptionInfo) -> str:
    """Return what stands for an option's value, nothing for a switch."""
    plain = without_none(kind)
    if plain is bool:
        return ""
    if isinstance(plain, type) and issubclass(plain, StrEnum):
        return "|".join(plain)
    return info.metavar or str(getattr(plain, "__name__", plain)).upper()


def bounds_of_flag(info: ArgumentInfo | OptionInfo) -> str:
    """Return the bounds of a number, as a sentence of its own."""
    if info.min is None and info.max is None:
        return ""
    if info.max is None:
        return f" At least {info.min:g}."
    return f" {info.min:g} to {info.max:g}."


def shown_default(value: object) -> str:
    """Return a flag's default; a switch that is off, and what is not set, have none to show."""
    return "" if value in (None, False, "") else f"`{value}`"


def tree_of_errors() -> str:
    """Return the tree of errors with their exit codes, as the module that has them draws it."""
    drawn = (errors.__doc__ or "").split("\n\n")[1]
    return "0  done\n" + textwrap.dedent(drawn)


def without_none(annotation: Any) -> Any:
    """Return what an optional type holds, of a list its elements."""
    inner = [one for one in get_args(annotation) if one is not NoneType]
    return without_none(inner[0]) if inner else annotation
