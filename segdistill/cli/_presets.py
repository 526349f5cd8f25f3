"""The commands on presets: list, show, copy."""

from pathlib import Path
from typing import Annotated

import typer

from segdistill.cli._app import examples, presets_app
from segdistill.cli._completion import complete_data, complete_network
from segdistill.cli._flags import JsonFlag, OverwriteFlag, PresetArgument
from segdistill.cli._parsers import typed_path
from segdistill.cli._show import open_terminal, print_json


@presets_app.command("list", **examples("segdistill presets list", "segdistill presets list --json"))
def presets_list(json_: JsonFlag = False) -> None:
    """List the presets."""
    from segdistill.commands.presets import list_presets

    presets = list_presets()
    if json_:
        return print_json(presets)
    rows = [[preset["name"], preset["about"], preset["paper"]] for preset in presets]
    return open_terminal().table("", ["preset", "what it does", "paper"], rows)


@presets_app.command(
    "show", **examples("segdistill presets show skd", "segdistill presets show skd --student espnet --data camvid")
)
def presets_show(
    name: PresetArgument,
    student: Annotated[
        str | None,
        typer.Option(
            "--student", autocompletion=complete_network, metavar="NET", help="Print what holds for this student."
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher",
            autocompletion=complete_network,
            metavar="NET",
            help="Print what holds for this teacher, trained first.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", autocompletion=complete_data, metavar="DATA", help="Print what holds for this data set."
        ),
    ] = None,
) -> None:
    """Print a preset. With the source of every number of the method, or, for a network, of every value."""
    from segdistill.config.preset_text import preset_text

    if student is None and teacher is None and data is None:
        return typer.echo(preset_text(name), nl=False)
    from segdistill.commands.show_preset import resolved_preset_text

    return typer.echo(resolved_preset_text(name, student=student, teacher=teacher, data=data))


@presets_app.command(
    "copy",
    **examples("segdistill presets copy skd mine.toml", "segdistill presets copy canonical mine.toml --overwrite"),
)
def presets_copy(
    name: PresetArgument,
    file: Annotated[
        Path, typer.Argument(parser=typed_path, metavar="FILE", help="File to write, which ends in .toml.")
    ],
    overwrite: OverwriteFlag = False,
) -> None:
    """Copy a preset to a file. It is yours to edit, and to give as --preset FILE."""
    from segdistill.commands.presets import copy_preset

    copy_preset(name, file, overwrite=overwrite)
    open_terminal().info(f"Wrote {file}.")
