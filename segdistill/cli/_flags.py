"""What several commands take: options, and how their texts are read."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from segdistill.errors import UsageError
from segdistill.reading import check_utf8


def with_home(text: str) -> str:
    """Return a text with the home folder for a ~ at its beginning: in --out=~/run no shell puts it there."""
    return os.path.expanduser(text)


def typed_path(text: str | Path) -> Path:
    """Return a path as it was typed. Every option and argument that is one is read by this or the next function."""
    return Path(with_home(str(text)))


def named_path(text: str | Path) -> Path:
    """Return a path whose name is handed to safetensors, or written into a file.

    Raises:
        UsageError: if it is not UTF-8.
    """
    path = typed_path(text)
    check_utf8(path)
    return path


def typed_teacher(text: str) -> str:
    """Return a teacher as it was typed: a network, a path, or SCHEME:WHERE, where WHERE may have a path after a colon.

    Raises:
        UsageError: if it is not UTF-8.
    """
    whole = text if Path(text).exists() else ":".join(map(with_home, text.split(":")))
    check_utf8(Path(whole))
    return whole


class Precision(StrEnum):
    """What `--precision` takes."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class Baseline(StrEnum):
    """What `--baseline` takes."""

    steps = "steps"
    time = "time"


DEFAULT_PRESET = "canonical"
RUN, DATA, OUTPUT = "Run", "Data", "Output"
PresetFlag = Annotated[
    str,
    typer.Option("--preset", parser=with_home, metavar="PRESET", help="A name from `presets list`, or a .toml file."),
]
DataFlag = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="D",
        help="NAME, NAME:PATH (camvid:CamVid) or the path of a data.toml. Default: the preset's if it is there, "
        "else streets.",
        rich_help_panel=DATA,
    ),
]
ModelDataFlag = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="D",
        help="NAME, NAME:PATH (camvid:CamVid) or the path of a data.toml. Default: a run's own, where its name alone "
        "finds it.",
        rich_help_panel=DATA,
    ),
]
OutFlag = Annotated[
    Path | None,
    typer.Option("--out", parser=named_path, metavar="DIR", help="Folder of the run.", rich_help_panel=OUTPUT),
]
StepsFlag = Annotated[
    int | None,
    typer.Option("--steps", metavar="N", min=1, help="At most this many in every stage.", rich_help_panel=RUN),
]
SetFlag = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a preset's key, e.g. optim.lr=0.005. Repeatable."),
]
DeviceFlag = Annotated[
    str, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:N.", rich_help_panel=RUN)
]
PrecisionFlag = Annotated[
    Precision | None, typer.Option("--precision", help="Default: the preset's (auto).", rich_help_panel=RUN)
]
ExactFlag = Annotated[Precision, typer.Option("--precision", help="The network computes in it.", rich_help_panel=RUN)]
SeedFlag = Annotated[
    int | None, typer.Option("--seed", metavar="N", min=0, help="Default: the preset's.", rich_help_panel=RUN)
]
WorkersFlag = Annotated[
    int | None,
    typer.Option(
        "--workers", metavar="N", min=0, max=128, help="Loader processes; 0 reads in the main one.", rich_help_panel=RUN
    ),
]
ResumeFlag = Annotated[bool, typer.Option("--resume", help="Continue the run in --out, exactly.", rich_help_panel=RUN)]
OverwriteFlag = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.", rich_help_panel=OUTPUT)]
PrintFlag = Annotated[bool, typer.Option("--print-config", help="Print the resolved configuration and stop.")]
DryFlag = Annotated[
    bool,
    typer.Option("--dry-run", help="Check data, teacher and networks, estimate time and memory, and stop."),
]
PretrainedFlag = Annotated[bool, typer.Option("--pretrained", help="Start from the backbone's ImageNet weights.")]
BackboneFlag = Annotated[
    Path | None,
    typer.Option("--backbone-weights", parser=typed_path, metavar="FILE", help="The same from a local file."),
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel=OUTPUT)]
QuietFlag = Annotated[
    bool, typer.Option("--quiet", "-q", help="Only results, warnings, errors.", rich_help_panel=OUTPUT)
]
VerboseFlag = Annotated[
    bool, typer.Option("--verbose", "-v", help="A line for every step, no bar.", rich_help_panel=OUTPUT)
]
PresetArgument = Annotated[str, typer.Argument(metavar="NAME", help="As `segdistill presets list` shows it.")]
ModelArgument = Annotated[
    Path,
    typer.Argument(
        parser=typed_path, metavar="MODEL", help="A run's folder, a .safetensors model file or an .onnx file."
    ),
]


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Return (height, width) from "HxW"."""
    if text is None:
        return None
    height, x, width = text.lower().partition("x")
    if not (x and height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise UsageError(f"{text!r} is not a size.", "Write height x width, for example 512x1024.")
    return int(height), int(width)


def parse_channels(text: str | None, flag: str) -> tuple[float, float, float] | None:
    """Return the three numbers of "A,B,C"."""
    if text is None:
        return None
    try:
        first, second, third = map(float, text.split(","))
    except ValueError:
        raise UsageError(f"{flag} {text}: expected three numbers.", f"For example {flag} 72.39,82.91,73.16") from None
    return first, second, third
