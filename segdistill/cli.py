"""The command line: flags to configuration, results to stdout. torch is imported by the commands, not by `--help`."""

import json
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tomli_w
import typer

from segdistill import __version__
from segdistill.config import RunConfig, components, load_preset, preset_folder, preset_names
from segdistill.console import Terminal
from segdistill.errors import ResourceError, SegdistillError, Stopped, UsageError, nearest

if TYPE_CHECKING:
    from segdistill.run import Outcome

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Distil heavy semantic-segmentation networks into students that run in real time, and prove that they do.",
    epilog="Start with: [bold]segdistill quickstart[/]",
)
presets_app = typer.Typer(no_args_is_help=True, help="The recipes: one complete TOML file each.")
data_app = typer.Typer(no_args_is_help=True, help="Data sets.")
app.add_typer(presets_app, name="presets")
app.add_typer(data_app, name="data")


class Precision(StrEnum):
    """What `--precision` takes."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class Baseline(StrEnum):
    """What `--baseline` takes."""

    steps = "steps"


RUN, DATA, OUTPUT = "Run", "Data", "Output"
PresetFlag = Annotated[str, typer.Option("--preset", help="A name from `presets list`, or a .toml file.")]
DataFlag = Annotated[
    str | None,
    typer.Option(
        "--data", help="NAME or NAME:PATH, for example camvid:CamVid. Default: streets.", rich_help_panel=DATA
    ),
]
OutFlag = Annotated[Path | None, typer.Option("--out", help="Folder of the run.", rich_help_panel=OUTPUT)]
StepsFlag = Annotated[int | None, typer.Option("--steps", min=1, help="No stage runs longer.", rich_help_panel=RUN)]
SetFlag = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a preset's key, e.g. optim.lr=0.005. Repeatable."),
]
DeviceFlag = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.", rich_help_panel=RUN)]
PrecisionFlag = Annotated[
    Precision | None, typer.Option("--precision", help="Default: the preset's (auto).", rich_help_panel=RUN)
]
ExactFlag = Annotated[Precision, typer.Option("--precision", help="Of the network.", rich_help_panel=RUN)]
SeedFlag = Annotated[int | None, typer.Option("--seed", min=0, help="Default: the preset's.", rich_help_panel=RUN)]
WorkersFlag = Annotated[
    int | None, typer.Option("--workers", min=0, help="Loader processes; 0 reads in the main one.", rich_help_panel=RUN)
]
ResumeFlag = Annotated[bool, typer.Option("--resume", help="Continue the run in --out, exactly.", rich_help_panel=RUN)]
OverwriteFlag = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.", rich_help_panel=OUTPUT)]
PrintFlag = Annotated[bool, typer.Option("--print-config", help="Print the resolved configuration and stop.")]
DryFlag = Annotated[
    bool, typer.Option("--dry-run", help="Check data and networks, run one step, estimate time and memory, and stop.")
]
PretrainedFlag = Annotated[bool, typer.Option("--pretrained", help="Start from torchvision's ImageNet weights.")]
BackboneFlag = Annotated[
    Path | None, typer.Option("--backbone-weights", metavar="FILE", help="The same from a local file.")
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel=OUTPUT)]
QuietFlag = Annotated[
    bool, typer.Option("--quiet", "-q", help="Only results, warnings, errors.", rich_help_panel=OUTPUT)
]
ModelArgument = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A run's folder, a .safetensors model file or an .onnx file.")
]


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; works anywhere in the line.")] = False,
) -> None:
    """Handle the flags that stand before a command."""
    if version:
        typer.echo(f"segdistill {__version__}")
        raise typer.Exit


@app.command(epilog="Example: [bold]segdistill train-teacher --preset skd --teacher pspnet50 --data camvid:CamVid[/]")
def train_teacher(
    preset: PresetFlag = "skd",
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
) -> None:
    """Train a teacher on labelled images."""
    terminal = Terminal(quiet=quiet)
    config = configuration(terminal, preset, data, steps, set_, seed, precision, teacher=teacher)
    if print_config:
        return show_config(config)
    from segdistill import run

    options = run.Options(
        out, device, workers, resume, overwrite, dry_run, pretrained, backbone_weights, command=words()
    )
    return show_outcome(terminal, run.train_teacher(config, options, terminal), as_json=json_)


@app.command(epilog="Example: [bold]segdistill distill --preset skd --teacher pspnet101 --student resnet18[/]")
def distill(
    teacher: Annotated[
        str,
        typer.Option("--teacher", help="A run's folder, a model file, or a network: found under runs/, or trained."),
    ],
    student: Annotated[str, typer.Option("--student", metavar="NET", help="A network from `segdistill networks`.")],
    preset: PresetFlag = "skd",
    data: DataFlag = None,
    out: OutFlag = None,
    steps: StepsFlag = None,
    set_: SetFlag = None,
    baseline: Annotated[
        Baseline | None,
        typer.Option("--baseline", help="Also train the plain student: same seed, batches and steps, terms off."),
    ] = None,
    pretrained: PretrainedFlag = False,
    backbone_weights: BackboneFlag = None,
    init_weights: Annotated[
        Path | None, typer.Option("--init-weights", metavar="FILE", help="Start the student from a model file.")
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
) -> None:
    """Distil a teacher into a student."""
    terminal = Terminal(quiet=quiet)
    config = configuration(terminal, preset, data, steps, set_, seed, precision, teacher=teacher, student=student)
    if print_config:
        return show_config(config)
    from segdistill import run

    options = run.Options(
        *(out, device, workers, resume, overwrite, dry_run, pretrained, backbone_weights, init_weights),
        baseline=baseline is not None,
        command=words(),
    )
    return show_outcome(terminal, run.distill(config, teacher, options, terminal), as_json=json_)


def configuration(
    terminal: Terminal,
    preset: str,
    data: str | None,
    steps: int | None,
    overrides: list[str] | None,
    seed: int | None,
    precision: Precision | None,
    *,
    teacher: str | None = None,
    student: str | None = None,
) -> RunConfig:
    """Resolve preset, overrides and flags; a teacher given as a path leaves the preset's teacher network as it is."""
    overrides = overrides or []
    flags: dict[str, Any] = {}
    if seed is not None:
        flags["seed"] = seed
    if precision is not None:
        flags["precision"] = str(precision)
    given = data or next((text.partition("=")[2] for text in overrides if text.startswith("data.name=")), None)
    if given is None:
        given = available_data(load_preset(preset, overrides).data.name)
        if given == "streets":
            terminal.say("No --data: the built-in scenes (streets) are used.")
    config = load_preset(preset, overrides, data=given, flags=flags).capped(steps)
    from segdistill.networks import resolve_name
    from segdistill.run import is_path

    names = {"student": config.student.network, "teacher": config.teacher.network}
    if student is not None:
        names["student"] = student
    if teacher is not None and not is_path(teacher):
        names["teacher"] = teacher
    decoders = {"student": config.student.network, "teacher": config.teacher.network}
    return config.changed(
        **{f"{role}.network": resolve_name(name, decoders[role].partition("-")[0]) for role, name in names.items()}
    )


def available_data(name: str) -> str:
    """Return the preset's own data set where it lies in $SEGDISTILL_DATA, else the built-in one."""
    folder = os.environ.get("SEGDISTILL_DATA")
    return name if folder and name in components("data") and (Path(folder) / name).is_dir() else "streets"


def words() -> tuple[str, ...]:
    """Return the command line as it was typed, without the program's name."""
    return tuple(sys.argv[1:])


def show_config(config: RunConfig) -> None:
    """Print a resolved configuration: a preset again."""
    typer.echo(tomli_w.dumps(config.to_dict()), nl=False)


def show_outcome(terminal: Terminal, outcome: "Outcome", *, as_json: bool) -> None:
    """Print the table of what was trained, and what to do next."""
    if as_json:
        return typer.echo(json.dumps(outcome.to_json(), indent=2))
    if outcome.dry_run:
        return terminal.result("Dry run: nothing was written.")
    header = ["", "network", "mIoU %", "best", "pixel acc. %", "parameters M", "GMACs"]
    rows = [
        [
            row.name,
            row.network,
            f"{100 * row.scores.miou:.2f}",
            "-" if row.best is None else f"{100 * row.best:.2f}",
            f"{100 * row.scores.pixel_accuracy:.2f}",
            f"{row.parameters / 1e6:.2f}",
            f"{row.macs / 1e9:.2f}",
        ]
        for row in outcome.rows
    ]
    if outcome.rows:
        terminal.table(f"{outcome.rows[-1].scores.images} validation images, weights of the last step", header, rows)
        terminal.result(f"Run: {outcome.folder}")
        terminal.say(f"Next: segdistill export {outcome.folder}")
    return None


@presets_app.command("list")
def presets_list(json_: JsonFlag = False) -> None:
    """List the presets."""
    presets = [load_preset(name) for name in preset_names()]
    if json_:
        entries = [{"name": p.preset, "about": p.about, "paper": p.paper, "terms": sorted(p.terms)} for p in presets]
        return typer.echo(json.dumps(entries, indent=2))
    rows = [[p.preset, p.about, p.paper] for p in presets]
    return Terminal().table("", ["preset", "what it does", "paper"], rows)


@presets_app.command("show")
def presets_show(name: str) -> None:
    """Print a preset's file, with the source of every number."""
    typer.echo(_preset_file(name).read_text(encoding="utf-8"), nl=False)


@presets_app.command("copy")
def presets_copy(name: str, file: Path, overwrite: OverwriteFlag = False) -> None:
    """Copy a preset to a file of your own, to edit and to give as --preset FILE."""
    from segdistill.store import write_atomic

    if file.suffix != ".toml":
        raise UsageError(f"{file} does not end in .toml.", f"For example: segdistill presets copy {name} mine.toml")
    if file.exists() and not overwrite:
        raise UsageError(f"{file} exists.", "Choose another name, or add --overwrite.")
    write_atomic(file, _preset_file(name).read_bytes())
    Terminal().say(f"Wrote {file}.")


def _preset_file(name: str) -> Path:
    if name not in preset_names():
        raise UsageError(f"Unknown preset {name!r}.", nearest(name, preset_names()))
    return preset_folder() / f"{name}.toml"


def main() -> None:
    """Run the command line and turn errors into a panel and an exit code; tracebacks only with --debug."""
    debug = "--debug" in sys.argv
    sys.argv = [word for word in sys.argv if word != "--debug"]
    terminal = Terminal()
    try:
        app(standalone_mode=True)
    except SegdistillError as error:
        if debug and not isinstance(error, Stopped):
            raise
        terminal.error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        terminal.warn("Interrupted.")
        sys.exit(130)
    except Exception as error:
        if debug:
            raise
        terminal.error(_explain(error))
        sys.exit(1)


def _explain(error: Exception) -> SegdistillError:
    """Return the error to show for an exception that nothing else expected."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text:
        return ResourceError(
            f"Out of memory. {text.splitlines()[0]}",
            "Use a smaller data.batch_size or data.crop, optim.accumulate=2, or a smaller network.",
        )
    return SegdistillError(f"Internal error. {text}", "Run it again with --debug for the traceback.")
