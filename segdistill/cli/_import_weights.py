"""The command that turns a published checkpoint into a model."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from segdistill.cli._app import app, examples
from segdistill.cli._completion import complete_data, complete_network
from segdistill.cli._flags import DATA, MODEL, OUTPUT, OverwriteFlag, QuietFlag
from segdistill.cli._parsers import named_path, parse_channels, parse_optional_size, typed_path
from segdistill.cli._show import open_terminal
from segdistill.cli._text import quoted


@app.command(
    **examples(
        "segdistill import-weights espnetv2_s_2.0_city_1024x512.pth --out a",
        "segdistill import-weights b.pth --network pspnet101 --data camvid --out b",
    )
)
def import_weights(
    file: Annotated[
        Path,
        typer.Argument(
            parser=typed_path, metavar="FILE", help="Checkpoint: a .pth, .pt or .safetensors file of tensors."
        ),
    ],
    *,
    out: Annotated[
        Path,
        typer.Option("--out", parser=named_path, metavar="DIR", help="Output folder.", rich_help_panel=OUTPUT),
    ],
    network: Annotated[
        str | None,
        typer.Option(
            "--network",
            autocompletion=complete_network,
            metavar="NET",
            help="Network of the checkpoint, from `segdistill networks`. Default: what a published file's name tells.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            autocompletion=complete_data,
            metavar="DATA",
            help="Data set that names the classes and their colors.",
            rich_help_panel=DATA,
        ),
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option(
            "--classes",
            metavar="N",
            min=1,
            help="Number of classes, void not counted. Default: that of the checkpoint.",
            rich_help_panel=DATA,
        ),
    ] = None,
    void_output: Annotated[
        int | None,
        typer.Option(
            "--void-output",
            metavar="N",
            min=0,
            help="Index of the output that stands for void.",
            rich_help_panel=DATA,
        ),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            "--mean",
            metavar="A,B,C",
            help="Per-channel mean in 0..255, in the channel order of the network. Default: as published.",
            rich_help_panel=DATA,
        ),
    ] = None,
    std: Annotated[
        str | None,
        typer.Option("--std", metavar="A,B,C", help="Per-channel std. Default: as published.", rich_help_panel=DATA),
    ] = None,
    bgr: Annotated[
        bool | None,
        typer.Option("--bgr/--rgb", help="Channel order of the network. Default: as published.", rich_help_panel=DATA),
    ] = None,
    divide: Annotated[
        float | None,
        typer.Option(
            "--divide",
            metavar="F",
            help="Divide the image by F after mean and std. Default: as published.",
            rich_help_panel=DATA,
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            "--size", metavar="HxW", help="Resize images to this size. Default: their own.", rich_help_panel=DATA
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Make a choice about the network, e.g. stem=deep. Repeatable.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    drop_label_channel: Annotated[
        bool,
        typer.Option(
            "--drop-label-channel",
            help="Drop the fourth input channel of a LAD student, which is always 0.",
            rich_help_panel=MODEL,
        ),
    ] = False,
    overwrite: OverwriteFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Turn a published checkpoint into a model. Every tensor is used, or named with the reason why it is not."""
    from segdistill.commands import import_weights as command
    from segdistill.commands._import_preprocessing import RequestedPreprocessing
    from segdistill.config.presets import parse_network
    from segdistill.networks import resolve_name

    if network is None:
        network = command.network_of_published(file)
    terminal = open_terminal(quiet=quiet)
    preprocessing = RequestedPreprocessing(
        mean=parse_channels(mean, "--mean"), std=parse_channels(std, "--std"), divide=divide, order=_order(bgr)
    )
    options = command.ImportOptions(
        file=file,
        network=parse_network(resolve_name(network), set_ or []),
        out=out,
        data=data,
        classes=classes,
        void_output=void_output,
        preprocessing=preprocessing,
        size=parse_optional_size(size),
        drop_label_channel=drop_label_channel,
        overwrite=overwrite,
    )
    command.import_weights(options, terminal)
    terminal.result(f"Model: {out}")
    next_command = f"infer {quoted(out)} IMAGES --out LABELS"
    if data is not None:
        next_command = f"evaluate {quoted(out)} --data {quoted(data)}"
    terminal.info(f"Next: segdistill {next_command}")


def _order(bgr: bool | None) -> Literal["rgb", "bgr"] | None:
    if bgr is None:
        return None
    return "bgr" if bgr else "rgb"
