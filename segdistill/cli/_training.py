"""The commands that train: quickstart, train-teacher, distill."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segdistill.cli._app import app, examples
from segdistill.cli._completion import complete_network, complete_teacher
from segdistill.cli._flags import (
    DATA,
    DEFAULT_PRESET,
    LOSS,
    MODEL,
    OUTPUT,
    RUN,
    BackboneFlag,
    Baseline,
    BatchSizeFlag,
    ClassMapFlag,
    DataFlag,
    DeviceFlag,
    DryFlag,
    EpochsFlag,
    ImageSizeFlag,
    InitFlag,
    JsonFlag,
    KeepWeightsFlag,
    LearningRateFlag,
    MinutesFlag,
    OutFlag,
    OverwriteFlag,
    Precision,
    PrecisionFlag,
    PresetFlag,
    PretrainedFlag,
    PrintFlag,
    QuietFlag,
    ResumeFlag,
    SeedFlag,
    SetFlag,
    StepsFlag,
    VerboseFlag,
    WorkersFlag,
)
from segdistill.cli._parsers import named_path, typed_teacher
from segdistill.cli._show import open_terminal, show_export, show_outcome
from segdistill.cli._text import data_option, quoted
from segdistill.errors import CheckError

if TYPE_CHECKING:
    from segdistill.cli.console import Terminal
    from segdistill.commands._configuration import Settings


@app.command(**examples("segdistill quickstart", "segdistill quickstart --out runs/first --device cpu"))
def quickstart(
    *,
    out: Annotated[
        Path,
        typer.Option("--out", parser=named_path, metavar="DIR", help="Output folder.", rich_help_panel=OUTPUT),
    ] = Path("runs/quickstart"),
    steps: StepsFlag = None,
    device: DeviceFlag = "auto",
    workers: WorkersFlag = None,
    resume: ResumeFlag = False,
    overwrite: OverwriteFlag = False,
    quiet: QuietFlag = False,
    verbose: VerboseFlag = False,
) -> None:
    """See the whole path in a few minutes. On generated road scenes: train, distill, compare, export, infer."""
    from segdistill.commands._context import Options
    from segdistill.commands.quickstart import quickstart

    terminal = open_terminal(quiet=quiet, verbose=verbose)
    options = Options(
        out=out, device=device, workers=workers, resume=resume, overwrite=overwrite, command=command_line()
    )
    result = quickstart(out, options, steps, reporter=terminal)
    show_export(terminal, result.exported)
    show_outcome(terminal, result.outcome)
    speed = result.inference.summary.images_per_second
    terminal.result(f"Labels:  {result.inference.out} ({speed:.1f} images per second)")
    terminal.result(f"Picture: {result.outcome.folder / 'picture.png'}")
    if result.exported.failures:
        raise CheckError(f"The exported student did not pass: {'; '.join(result.exported.failures)}.")


@app.command(
    **examples(
        "segdistill train-teacher --teacher pspnet50 --data camvid:CamVid",
        "segdistill train-teacher --preset skd --pretrained --out runs/teacher",
    )
)
def train_teacher(
    *,
    preset: PresetFlag = DEFAULT_PRESET,
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher",
            autocompletion=complete_network,
            metavar="NET",
            help="Teacher network, from `segdistill networks`. Default: the preset's.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    data: DataFlag = None,
    out: OutFlag = None,
    steps: StepsFlag = None,
    epochs: EpochsFlag = None,
    max_minutes: MinutesFlag = None,
    batch_size: BatchSizeFlag = None,
    lr: LearningRateFlag = None,
    image_size: ImageSizeFlag = None,
    set_: SetFlag = None,
    pretrained: PretrainedFlag = False,
    backbone_weights: BackboneFlag = None,
    init_weights: InitFlag = None,
    device: DeviceFlag = "auto",
    precision: PrecisionFlag = None,
    seed: SeedFlag = None,
    workers: WorkersFlag = None,
    resume: ResumeFlag = False,
    overwrite: OverwriteFlag = False,
    print_config: PrintFlag = False,
    dry_run: DryFlag = False,
    json_: JsonFlag = False,
    quiet: QuietFlag = False,
    verbose: VerboseFlag = False,
) -> None:
    """Train a teacher on labeled images. It can then be given to distill, or is found there by its name."""
    from segdistill.commands._configuration import ConfigFlags, resolve_settings

    terminal = open_terminal(quiet=quiet, verbose=verbose)
    flags = ConfigFlags(
        preset=preset,
        data=data,
        overrides=tuple(set_ or ()),
        steps=steps,
        epochs=epochs,
        max_minutes=max_minutes,
        batch_size=batch_size,
        lr=lr,
        image_size=image_size,
        seed=seed,
        precision=_text(precision),
        teacher=teacher,
    )
    settings = resolve_settings(flags, terminal, takes_pretrained=False)
    if print_config:
        return _print_config(settings, terminal, device, trains_student=False)
    config = settings.config
    from segdistill.commands import train_teacher as command
    from segdistill.commands._context import Options
    from segdistill.commands._repeat import repeated_teacher

    options = Options(
        out=out,
        device=device,
        workers=workers,
        resume=resume,
        overwrite=overwrite,
        dry_run=dry_run,
        pretrained=pretrained,
        backbone_weights=backbone_weights,
        init_weights=init_weights,
        files=flags.files,
        derivation=settings.derivation,
        command=command_line(),
    )
    outcome = command.train_teacher(config, repeated_teacher(flags, options), terminal)
    next_command = (
        f"distill --preset {quoted(preset)} --teacher {quoted(outcome.folder)} --student {config.student.network}"
        f"{data_option(data, config.data.name)}"
    )
    return show_outcome(terminal, outcome, as_json=json_, next_command=next_command)


@app.command(
    **examples(
        "segdistill distill --teacher pspnet101 --student resnet18 --preset skd",
        "segdistill distill --teacher hf:segformer --images frames --student resnet18",
    )
)
def distill(
    *,
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher",
            parser=typed_teacher,
            autocompletion=complete_teacher,
            metavar="TEACHER",
            help="Teacher: the folder of a run, a model file, or a network, which is taken from runs/ or trained "
            "first. From other libraries: tv:NAME, hf:ID, hf:FOLDER, onnx:FILE, py:MODULE:FUNCTION.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    student: Annotated[
        str | None,
        typer.Option(
            "--student",
            autocompletion=complete_network,
            metavar="NET",
            help="Student network, from `segdistill networks`.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    preset: PresetFlag = DEFAULT_PRESET,
    data: DataFlag = None,
    out: OutFlag = None,
    steps: StepsFlag = None,
    epochs: EpochsFlag = None,
    max_minutes: MinutesFlag = None,
    batch_size: BatchSizeFlag = None,
    lr: LearningRateFlag = None,
    image_size: ImageSizeFlag = None,
    set_: SetFlag = None,
    images: Annotated[
        list[Path] | None,
        typer.Option(
            "--images",
            parser=named_path,
            metavar="DIR",
            help="Folder of images to train on without any label: the classes are the teacher's. Repeatable. --data "
            "then only scores the student, by its val split.",
            rich_help_panel=DATA,
        ),
    ] = None,
    unlabeled: Annotated[
        list[Path] | None,
        typer.Option(
            "--unlabeled",
            parser=named_path,
            metavar="DIR",
            help="Folder of images without labels, mixed into the batches. Repeatable.",
            rich_help_panel=DATA,
        ),
    ] = None,
    class_map: ClassMapFlag = None,
    keep_weights: KeepWeightsFlag = False,
    baseline: Annotated[
        Baseline | None,
        typer.Option(
            "--baseline",
            metavar="steps|time",
            help="Also train the student without distillation, for as many steps or as much time, and print the gain.",
            rich_help_panel=LOSS,
        ),
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(
            "--seeds",
            metavar="N",
            min=1,
            help="Train N students from N seeds, for mean and standard deviation. Take three or more.",
            rich_help_panel=RUN,
        ),
    ] = 1,
    accept_teacher: Annotated[
        bool,
        typer.Option("--accept-teacher", help="Distill even if the teacher check fails.", rich_help_panel=MODEL),
    ] = False,
    pretrained: PretrainedFlag = False,
    backbone_weights: BackboneFlag = None,
    init_weights: InitFlag = None,
    device: DeviceFlag = "auto",
    precision: PrecisionFlag = None,
    seed: SeedFlag = None,
    workers: WorkersFlag = None,
    resume: ResumeFlag = False,
    overwrite: OverwriteFlag = False,
    print_config: PrintFlag = False,
    dry_run: DryFlag = False,
    json_: JsonFlag = False,
    quiet: QuietFlag = False,
    verbose: VerboseFlag = False,
) -> None:
    """Distill a teacher into a student. Trains the teacher first where it is named and not found."""
    from segdistill.commands._configuration import ConfigFlags, resolve_settings

    terminal = open_terminal(quiet=quiet, verbose=verbose)
    flags = ConfigFlags(
        preset=preset,
        data=data,
        overrides=tuple(set_ or ()),
        steps=steps,
        epochs=epochs,
        max_minutes=max_minutes,
        batch_size=batch_size,
        lr=lr,
        image_size=image_size,
        seed=seed,
        precision=_text(precision),
        images=tuple(images or ()),
        unlabeled=tuple(unlabeled or ()),
        class_map=class_map,
        keep_weights=keep_weights,
        teacher=teacher,
        student=student,
    )
    from segdistill.commands._context import Options
    from segdistill.commands._repeat import repeated

    options = Options(
        out=out,
        device=device,
        workers=workers,
        resume=resume,
        overwrite=overwrite,
        dry_run=dry_run,
        pretrained=pretrained,
        backbone_weights=backbone_weights,
        init_weights=init_weights,
        baseline=None if baseline is None else baseline.value,
        accept_teacher=accept_teacher,
        files=flags.files,
        seeds=seeds,
        command=command_line(),
    )
    flags, options = repeated(flags, options, terminal)
    settings = resolve_settings(flags, terminal, takes_pretrained=True)
    if print_config:
        return _print_config(settings, terminal, device, trains_student=True)
    options = replace(options, derivation=settings.derivation)
    from segdistill.commands import distill as command

    outcome = command.distill(settings.config, flags.teacher or "", options, terminal)
    return show_outcome(terminal, outcome, as_json=json_, next_command=f"export {quoted(outcome.folder)}")


def command_line() -> tuple[str, ...]:
    """Return the command line as it was typed, without the program's name: what --resume is added to."""
    return tuple(sys.argv[1:])


def _text(precision: Precision | None) -> str | None:
    return None if precision is None else precision.value


def _print_config(settings: "Settings", terminal: "Terminal", device: str, *, trains_student: bool) -> None:
    """Print a configuration, each value with its source: a preset again."""
    from segdistill.commands.print_config import settings_text

    typer.echo(settings_text(settings, terminal, device, trains_student=trains_student))
