"""Options and arguments that several commands take, and the groups in which help lists them."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from segdistill.cli._completion import (
    complete_data,
    complete_device,
    complete_model,
    complete_preset,
    complete_preset_name,
)
from segdistill.cli._parsers import named_path, parse_batch_size, parse_size, typed_path, with_home

MODEL, LOSS, DATA, RUN, OUTPUT = "Model", "Loss", "Data", "Run", "Output"
"""Groups of options, in the order in which help lists them."""
DEFAULT_PRESET = "canonical"
MAX_WORKERS = 128
"""Most loader processes: each has a copy of the program in memory."""


class Precision(StrEnum):
    """Values of `--precision`."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class Baseline(StrEnum):
    """Values of `--baseline`."""

    steps = "steps"
    time = "time"


class ShippedWeights(StrEnum):
    """Values of `--weights`."""

    last = "last"
    ema = "ema"
    best = "best"


# Model

ModelArgument = Annotated[
    Path,
    typer.Argument(
        parser=typed_path,
        autocompletion=complete_model,
        metavar="MODEL",
        help="Folder of a run, .safetensors model file or exported .onnx file.",
    ),
]
WeightsFlag = Annotated[
    ShippedWeights | None,
    typer.Option(
        "--weights",
        metavar="last|ema|best",
        help="Weights of a run: of the last step, their moving average, or of the best validation, whose score is "
        "optimistic. Default: those that the run ships.",
        rich_help_panel=MODEL,
    ),
]
ClassMapFlag = Annotated[
    Path | None,
    typer.Option(
        "--class-map",
        parser=typed_path,
        metavar="FILE",
        help="TOML file that maps the teacher's classes to those of the data, where they differ.",
        rich_help_panel=DATA,
    ),
]
PretrainedFlag = Annotated[
    bool,
    typer.Option(
        "--pretrained",
        help="Start from ImageNet weights of the backbone: those on this machine, else downloaded once.",
        rich_help_panel=MODEL,
    ),
]
BackboneFlag = Annotated[
    Path | None,
    typer.Option(
        "--backbone-weights",
        parser=typed_path,
        metavar="FILE",
        help="Start from ImageNet weights of the backbone in a local file.",
        rich_help_panel=MODEL,
    ),
]

InitFlag = Annotated[
    Path | None,
    typer.Option(
        "--init-weights",
        parser=named_path,
        autocompletion=complete_model,
        metavar="FILE",
        help="Start from a run, a model file, a published checkpoint of this network, or tv:NAME[:FILE]; of other "
        "classes, outputs are kept by name.",
        rich_help_panel=MODEL,
    ),
]

# Loss

PresetFlag = Annotated[
    str,
    typer.Option(
        "--preset",
        parser=with_home,
        autocompletion=complete_preset,
        metavar="PRESET",
        help="Recipe of loss terms and schedule: a name from `segdistill presets list`, or a .toml file.",
        rich_help_panel=LOSS,
    ),
]
SetFlag = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key of the preset, e.g. optim.lr=0.005. Repeatable.",
        rich_help_panel=LOSS,
    ),
]

KeepWeightsFlag = Annotated[
    bool,
    typer.Option(
        "--keep-weights",
        help="Keep the preset's weights of terms, even with networks or data they were not chosen for.",
        rich_help_panel=LOSS,
    ),
]

# Data

DataFlag = Annotated[
    str | None,
    typer.Option(
        "--data",
        autocompletion=complete_data,
        metavar="DATA",
        help="Data set: NAME, NAME:PATH (camvid:CamVid) or the path of a data.toml. Default: the preset's if it is "
        "found, else the built-in streets.",
        rich_help_panel=DATA,
    ),
]
ModelDataFlag = Annotated[
    str | None,
    typer.Option(
        "--data",
        autocompletion=complete_data,
        metavar="DATA",
        help="Data set: NAME, NAME:PATH (camvid:CamVid) or the path of a data.toml. Default: that of the run, where "
        "its folder says that it lies.",
        rich_help_panel=DATA,
    ),
]
ModelImagesFlag = Annotated[
    list[Path] | None,
    typer.Option(
        "--images",
        parser=typed_path,
        metavar="DIR",
        help="Folder of images without labels, in the place of --data. Repeatable.",
        rich_help_panel=DATA,
    ),
]

ImageSizeFlag = Annotated[
    Any,
    typer.Option(
        "--image-size",
        parser=parse_size,
        metavar="HxW",
        help="Height and width that images are brought to first, in training and afterwards.",
        rich_help_panel=DATA,
    ),
]

# Run

StepsFlag = Annotated[
    int | None,
    typer.Option("--steps", metavar="N", min=1, help="Train each stage for N steps at most.", rich_help_panel=RUN),
]
EpochsFlag = Annotated[
    float | None,
    typer.Option(
        "--epochs", metavar="N", help="Train each stage until it has seen each image N times.", rich_help_panel=RUN
    ),
]
MinutesFlag = Annotated[
    float | None,
    typer.Option(
        "--max-minutes",
        metavar="M",
        help="Shorten the schedule so that all trainings of the command take M minutes, by a few measured steps.",
        rich_help_panel=RUN,
    ),
]
BatchSizeFlag = Annotated[
    Any,
    typer.Option(
        "--batch-size",
        parser=parse_batch_size,
        metavar="N|auto",
        help="Images per step, or auto: the preset's, halved until a step fits into memory.",
        rich_help_panel=RUN,
    ),
]
LearningRateFlag = Annotated[
    float | None,
    typer.Option("--lr", metavar="RATE", help="Learning rate of the schedule's start.", rich_help_panel=RUN),
]
DeviceFlag = Annotated[
    str,
    typer.Option(
        "--device",
        autocompletion=complete_device,
        metavar="DEVICE",
        help="Device: auto, cpu, cuda or cuda:N.",
        rich_help_panel=RUN,
    ),
]
PrecisionFlag = Annotated[
    Precision | None,
    typer.Option(
        "--precision",
        metavar="PRECISION",
        help="Compute precision: auto, fp32, bf16 or fp16. Default: the preset's, usually auto.",
        rich_help_panel=RUN,
    ),
]
ExactFlag = Annotated[
    Precision,
    typer.Option(
        "--precision",
        metavar="PRECISION",
        help="Compute precision: auto, fp32, bf16 or fp16.",
        rich_help_panel=RUN,
    ),
]
SeedFlag = Annotated[
    int | None,
    typer.Option("--seed", metavar="N", min=0, help="Random seed. Default: the preset's.", rich_help_panel=RUN),
]
WorkersFlag = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        min=0,
        max=MAX_WORKERS,
        help="Data loader processes; 0 loads in the main process. Default: one per core but one, at most 8.",
        rich_help_panel=RUN,
    ),
]
ResumeFlag = Annotated[
    bool, typer.Option("--resume", help="Continue the run in --out where it stopped.", rich_help_panel=RUN)
]
DryFlag = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Check data, teacher and networks, estimate time and memory, and exit.",
        rich_help_panel=RUN,
    ),
]

# Output

OutFlag = Annotated[
    Path | None,
    typer.Option(
        "--out",
        parser=named_path,
        metavar="DIR",
        help="Output folder. Default: a new one in runs/.",
        rich_help_panel=OUTPUT,
    ),
]
OverwriteFlag = Annotated[bool, typer.Option("--overwrite", help="Replace existing files.", rich_help_panel=OUTPUT)]
PrintFlag = Annotated[
    bool, typer.Option("--print-config", help="Print the resolved configuration and exit.", rich_help_panel=OUTPUT)
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel=OUTPUT)]
QuietFlag = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print only results, warnings and errors.", rich_help_panel=OUTPUT)
]
VerboseFlag = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Print a line per step instead of a progress bar.", rich_help_panel=OUTPUT),
]
PresetArgument = Annotated[
    str,
    typer.Argument(
        autocompletion=complete_preset_name, metavar="NAME", help="Name of a preset, from `segdistill presets list`."
    ),
]


def chosen(weights: ShippedWeights | None) -> Literal["last", "ema", "best"] | None:
    """Return the weights of a run that were asked for."""
    return None if weights is None else weights.value
