"""The commands that train: quickstart, train-teacher, distill."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segdistill.cli._app import app, example
from segdistill.cli._flags import (
    DATA,
    DEFAULT_PRESET,
    OUTPUT,
    BackboneFlag,
    Baseline,
    DataFlag,
    DeviceFlag,
    DryFlag,
    JsonFlag,
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
    named_path,
    typed_path,
    typed_teacher,
    with_home,
)
from segdistill.cli._show import data_words, open_terminal, quoted, show_export, show_outcome
from segdistill.errors import CheckError, UsageError

if TYPE_CHECKING:
    from segdistill.config import RunConfig
    from segdistill.console import Terminal


@app.command(**example("segdistill quickstart --out runs/quickstart"))
def quickstart(
    out: Annotated[
        Path,
        typer.Option("--out", parser=named_path, metavar="DIR", help="Folder of everything.", rich_help_panel=OUTPUT),
    ] = Path("runs/quickstart"),
    steps: StepsFlag = None,
    device: DeviceFlag = "auto",
    workers: WorkersFlag = None,
    resume: ResumeFlag = False,
    overwrite: OverwriteFlag = False,
    quiet: QuietFlag = False,
    verbose: VerboseFlag = False,
) -> None:
    """See the whole path in a few minutes. On generated road scenes: train, distil, compare, export, infer."""
    from segdistill.quickstart import quickstart
    from segdistill.setting import Options

    terminal = open_terminal(quiet=quiet, verbose=verbose)
    options = Options(out, device, workers, resume, overwrite, command=words())
    result = quickstart(out, options, steps, terminal)
    failures = result.exported.pop("failures")
    show_export(terminal, result.exported)
    show_outcome(terminal, result.outcome)
    terminal.result(f"Labels:  {out / 'labels'} ({result.images_per_second:.1f} images per second)")
    terminal.result(f"Picture: {result.outcome.folder / 'picture.png'}")
    if failures:
        raise CheckError("The exported student did not pass: " + "; ".join(failures) + ".")


@app.command(**example("segdistill train-teacher --preset skd --teacher pspnet50 --data camvid:CamVid"))
def train_teacher(
    preset: PresetFlag = DEFAULT_PRESET,
    teacher: Annotated[
        str | None, typer.Option("--teacher", metavar="NET", help="A network; default: the preset's.")
    ] = None,
    data: DataFlag = None,
    out: OutFlag = None,
    steps: StepsFlag = None,
    set_: SetFlag = None,
    pretrained: PretrainedFlag = False,
    backbone_weights: BackboneFlag = None,
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
    """Train a teacher on labelled images."""
    terminal = open_terminal(quiet=quiet, verbose=verbose)
    config = checked(configuration(terminal, preset, data, set_, seed, precision), steps, set_, teacher=teacher)
    if print_config:
        return show_config(config)
    from segdistill import run
    from segdistill.setting import Options

    options = Options(
        *(out, device, workers, resume, overwrite, dry_run, pretrained, backbone_weights),
        files=files_named(preset, None),
        command=words(),
    )
    outcome = run.train_teacher(config, options, terminal)
    after = f"distill --preset {quoted(preset)} --teacher {quoted(outcome.folder)} --student {config.student.network}"
    return show_outcome(terminal, outcome, as_json=json_, after=after + data_words(data, config.data.name))


@app.command(**example("segdistill distill --preset skd --teacher pspnet101 --student resnet18"))
def distill(
    teacher: Annotated[
        str,
        typer.Option(
            "--teacher",
            parser=typed_teacher,
            metavar="T",
            help="A run's folder, a model file, or a network: found under runs/, or trained. From elsewhere: tv:NAME, "
            "hf:FOLDER, hf:ID, onnx:FILE, py:MODULE:FUNCTION.",
        ),
    ],
    student: Annotated[str, typer.Option("--student", metavar="NET", help="A network from `segdistill networks`.")],
    preset: PresetFlag = DEFAULT_PRESET,
    data: DataFlag = None,
    out: OutFlag = None,
    steps: StepsFlag = None,
    set_: SetFlag = None,
    unlabeled: Annotated[
        list[Path] | None,
        typer.Option(
            "--unlabeled",
            parser=named_path,
            metavar="DIR",
            help="Images without labels, mixed into the batches. Repeatable.",
            rich_help_panel=DATA,
        ),
    ] = None,
    class_map: Annotated[
        Path | None,
        typer.Option(
            "--class-map",
            parser=typed_path,
            metavar="FILE",
            help="TOML: which of the teacher's classes is which of the data's, where they differ.",
            rich_help_panel=DATA,
        ),
    ] = None,
    baseline: Annotated[
        Baseline | None,
        typer.Option("--baseline", help="Also train the plain student: as many steps, or as much time; terms off."),
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(
            "--seeds",
            metavar="N",
            min=1,
            help="Train N students from N seeds, for mean and spread. Take three or more.",
        ),
    ] = 1,
    accept_teacher: Annotated[
        bool, typer.Option("--accept-teacher", help="Follow the teacher even where the check at the start refuses it.")
    ] = False,
    pretrained: PretrainedFlag = False,
    backbone_weights: BackboneFlag = None,
    init_weights: Annotated[
        Path | None,
        typer.Option("--init-weights", parser=named_path, metavar="FILE", help="Start the student from a model file."),
    ] = None,
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
    """Distil a teacher into a student."""
    terminal = open_terminal(quiet=quiet, verbose=verbose)
    folders = None if not unlabeled else [str(path) for path in unlabeled]
    config = configuration(terminal, preset, data, set_, seed, precision, folders, class_map)
    from segdistill import run
    from segdistill.setting import Options
    from segdistill.teachers import is_given

    config = checked(config, steps, set_, teacher=teacher, ready=is_given(teacher), student=student)
    if print_config:
        return show_config(config)
    options = Options(
        *(out, device, workers, resume, overwrite, dry_run, pretrained, backbone_weights, init_weights),
        baseline=None if baseline is None else baseline.value,
        accept_teacher=accept_teacher,
        files=files_named(preset, class_map),
        seeds=seeds,
        command=words(),
    )
    outcome = run.distill(config, teacher, options, terminal)
    after = f"export {quoted(outcome.folder)}{data_words(data, config.data.name)}"
    return show_outcome(terminal, outcome, as_json=json_, after=after)


def configuration(
    terminal: "Terminal",
    preset: str,
    data: str | None,
    overrides: list[str] | None,
    seed: int | None,
    precision: Precision | None,
    unlabeled: list[str] | None = None,
    class_map: Path | None = None,
) -> "RunConfig":
    """Resolve preset, data set, overrides and flags."""
    from segdistill.config import BUILT_IN, find_data, load_preset, read_class_map

    overrides = overrides or []
    flags: dict[str, Any] = {}
    if seed is not None:
        flags["seed"] = seed
    if precision is not None:
        flags["precision"] = str(precision)
    if unlabeled is not None:
        flags["data.unlabeled"] = unlabeled
    if class_map is not None:
        flags["teacher.class_map"] = read_class_map(class_map)
    if data is None and not any(text.partition("=")[0].strip() == "data.name" for text in overrides):
        data = available_data(load_preset(preset, overrides).data.name)
        if data == BUILT_IN:
            terminal.say(f"No --data: the built-in scenes ({BUILT_IN}) are used.")
    config = load_preset(preset, overrides, data=data, flags=flags)
    find_data(config.data.name)
    return config


def files_named(preset: str, class_map: Path | None) -> tuple[tuple[str, Path], ...]:
    """Return the files that were read for the configuration."""
    files = [("--preset", Path(preset))] if preset.endswith(".toml") else []
    return (*files, ("--class-map", class_map)) if class_map is not None else tuple(files)


def available_data(name: str) -> str:
    """Return the preset's own data set where it has a path or lies in $SEGDISTILL_DATA, else the built-in one."""
    from segdistill.config import BUILT_IN, components

    folder = os.environ.get("SEGDISTILL_DATA")
    there = bool(folder) and name in components("data") and Path(with_home(str(folder)), name).is_dir()
    return name if there or ":" in name or name.endswith(".toml") else BUILT_IN


def checked(
    config: "RunConfig",
    steps: int | None,
    overrides: list[str] | None,
    *,
    teacher: str | None = None,
    ready: bool = False,
    student: str | None = None,
) -> "RunConfig":
    """Check networks and terms; return the configuration with full names and tables, no stage longer than `steps`.

    The preset's choices about its own networks do not hold for one that is named instead and has no such choice, and
    nothing that it says of its teacher is asked where that is given ready-made.
    """
    from segdistill.foreign import is_foreign
    from segdistill.networks import missing_options, resolve, resolve_name
    from segdistill.terms import check_terms

    values: dict[str, Any] = {f"terms.{name}": table for name, table in check_terms(config.terms).items()}
    asked = {text.partition("=")[0].strip() for text in overrides or []}
    roles = [("student", config.student, student)]
    if not ready:
        roles.append(("teacher", config.teacher, teacher))
        if is_foreign(teacher or config.teacher.network):
            raise UsageError(
                f"{teacher or config.teacher.network} is not a network that is trained here.",
                "A teacher that is ready is given to `segdistill distill --teacher`.",
            )
    for role, own, given in roles:
        name = values[f"{role}.network"] = resolve_name(given or own.network, own.network)
        if given is not None:
            missing = missing_options(own.model_copy(update={"network": name}))
            unset = {f"{role}.{option}": type(own).model_fields[option].default for option in missing}
            values |= {key: value for key, value in unset.items() if key not in asked}
    config = config.changed(**values).capped(steps)
    resolve(config.student)
    if not ready:
        resolve(config.teacher)
    return config


def words() -> tuple[str, ...]:
    """Return the command line as it was typed, without the program's name."""
    return tuple(sys.argv[1:])


def show_config(config: "RunConfig") -> None:
    """Print a resolved configuration: a preset again."""
    import tomli_w

    typer.echo(tomli_w.dumps(config.to_dict()), nl=False)
