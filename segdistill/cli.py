"""The command line: flags to configuration, results to stdout.

`--help` must come at once, so what takes long to import (torch, pydantic, rich) is imported where it is used.
"""

import json
import os
import shlex
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from segdistill import __version__
from segdistill.errors import CheckError, DataError, ResourceError, SegdistillError, Stopped, UsageError, nearest
from segdistill.signals import at_once

if TYPE_CHECKING:
    from segdistill.config import RunConfig
    from segdistill.console import Terminal
    from segdistill.record import Outcome


class Command(TyperCommand):
    """A command whose help lists the options by group, in plain text: typer's boxes take three times as long."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write a section per group."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                kind = "Options" if parameter.opts[0].startswith("-") else "Arguments"
                groups.setdefault(getattr(parameter, "rich_help_panel", None) or kind, []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": 100, "help_option_names": ["--help", "-h"]},
    help="Distil heavy semantic-segmentation networks into students that run in real time, and prove that they do.",
    epilog="Start with: segdistill quickstart",
)
presets_app = typer.Typer(
    no_args_is_help=True, help="List, show and copy the recipes.", epilog="Example: segdistill presets list"
)
data_app = typer.Typer(no_args_is_help=True, help="Check data sets.", epilog="Example: segdistill data check streets")
app.add_typer(presets_app, name="presets")
app.add_typer(data_app, name="data")


def example(line: str) -> dict[str, Any]:
    """Return a command's settings: grouped help that ends in an example, on a line of its own to copy."""
    return {"cls": Command, "epilog": f"\b\nExample:\n  {line}"}


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


OUT_OF_MEMORY = (
    *("out of memory", "can't allocate memory", "Cannot allocate memory"),
    *("Insufficient memory", "Unable to allocate", "bad_alloc", "MemoryError"),
)
"""How PyTorch and the system, then OpenCV, NumPy and others say it: of an error in a loader process, text is left."""
DEFAULT_PRESET = "canonical"
RUN, DATA, OUTPUT = "Run", "Data", "Output"
PresetFlag = Annotated[
    str, typer.Option("--preset", metavar="PRESET", help="A name from `presets list`, or a .toml file.")
]
DataFlag = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="D",
        help="NAME, NAME:PATH (camvid:CamVid) or the path of a data.toml. Default: streets.",
        rich_help_panel=DATA,
    ),
]
OutFlag = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Folder of the run.", rich_help_panel=OUTPUT)
]
StepsFlag = Annotated[
    int | None, typer.Option("--steps", metavar="N", min=1, help="No stage runs longer.", rich_help_panel=RUN)
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
ExactFlag = Annotated[Precision, typer.Option("--precision", help="Of the network.", rich_help_panel=RUN)]
SeedFlag = Annotated[
    int | None, typer.Option("--seed", metavar="N", min=0, help="Default: the preset's.", rich_help_panel=RUN)
]
WorkersFlag = Annotated[
    int | None,
    typer.Option(
        "--workers", metavar="N", min=0, help="Loader processes; 0 reads in the main one.", rich_help_panel=RUN
    ),
]
ResumeFlag = Annotated[bool, typer.Option("--resume", help="Continue the run in --out, exactly.", rich_help_panel=RUN)]
OverwriteFlag = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.", rich_help_panel=OUTPUT)]
PrintFlag = Annotated[bool, typer.Option("--print-config", help="Print the resolved configuration and stop.")]
DryFlag = Annotated[
    bool,
    typer.Option("--dry-run", help="Check data, teacher and networks, estimate time and memory, and stop."),
]
PretrainedFlag = Annotated[bool, typer.Option("--pretrained", help="Start from torchvision's ImageNet weights.")]
BackboneFlag = Annotated[
    Path | None, typer.Option("--backbone-weights", metavar="FILE", help="The same from a local file.")
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


@app.command(**example("segdistill quickstart --out runs/quickstart"))
def quickstart(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder of everything.", rich_help_panel=OUTPUT)
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
    show_outcome(terminal, result.outcome, as_json=False, exported=True)
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

    options = Options(out, device, workers, resume, overwrite, dry_run, pretrained, backbone_weights, command=words())
    return show_outcome(terminal, run.train_teacher(config, options, terminal), as_json=json_)


@app.command(**example("segdistill distill --preset skd --teacher pspnet101 --student resnet18"))
def distill(
    teacher: Annotated[
        str,
        typer.Option(
            "--teacher",
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
            metavar="DIR",
            help="Images without labels, mixed into the batches. Repeatable.",
            rich_help_panel=DATA,
        ),
    ] = None,
    class_map: Annotated[
        Path | None,
        typer.Option(
            "--class-map",
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
        typer.Option("--seeds", metavar="N", min=1, help="Students, one per seed (three or more): mean and spread."),
    ] = 1,
    accept_teacher: Annotated[
        bool, typer.Option("--accept-teacher", help="Follow the teacher even where the check at the start refuses it.")
    ] = False,
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
        seeds=seeds,
        command=words(),
    )
    return show_outcome(terminal, run.distill(config, teacher, options, terminal), as_json=json_)


def open_terminal(*, quiet: bool = False, verbose: bool = False) -> "Terminal":
    """Return what talks to the user."""
    from segdistill.console import Terminal

    return Terminal(quiet=quiet, verbose=verbose)


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
    from segdistill.config import find_data, load_preset, read_class_map

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
        if data == "streets":
            terminal.say("No --data: the built-in scenes (streets) are used.")
    config = load_preset(preset, overrides, data=data, flags=flags)
    find_data(config.data.name)
    return config


def available_data(name: str) -> str:
    """Return the preset's own data set where it has a path or lies in $SEGDISTILL_DATA, else the built-in one."""
    from segdistill.config import components

    folder = os.environ.get("SEGDISTILL_DATA")
    there = bool(folder) and name in components("data") and Path(str(folder), name).is_dir()
    return name if there or ":" in name or name.endswith(".toml") else "streets"


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


def show_outcome(terminal: "Terminal", outcome: "Outcome", *, as_json: bool, exported: bool = False) -> None:
    """Print the table of what was trained, and what to do next; of several processes, one speaks."""
    from segdistill.distributed import is_main
    from segdistill.report import SEES_LABELS

    if not is_main():
        return None
    if as_json:
        return typer.echo(json.dumps(outcome.to_json(), indent=2))
    if outcome.dry_run:
        return terminal.result("Dry run: nothing was written.")
    costs = {"parameters": 1e6, "macs": 1e9}
    header = ["", "network", "mIoU %", "best", "pixel acc. %", "parameters M", "GMACs"]
    rows = [
        [
            name,
            result["network"],
            *(percent(result[key]) for key in ("miou", "best_miou", "pixel_accuracy")),
            *("-" if result[key] is None else f"{result[key] / unit:.2f}" for key, unit in costs.items()),
        ]
        for name, result in outcome.results.items()
    ]
    if rows:
        images = next(iter(outcome.results.values()))["images"]
        terminal.table(f"{images} validation images, weights of the last step", header, rows)
        for role, entry in outcome.spread().items():
            terminal.result(
                f"{role}: mIoU {100 * entry['mean']:.2f} %, spread {100 * entry['std']:.2f} over {entry['seeds']} seeds"
            )
        if any("note" in result for result in outcome.results.values()):
            terminal.result(f"- : {SEES_LABELS}")
        if outcome.gain is not None:
            terminal.result(outcome.gain["sentence"])
        terminal.result(f"Run: {outcome.folder}")
        # what sees labels has no export
        if not exported and not all("note" in result for result in outcome.results.values()):
            terminal.say(f"Next: segdistill export {_word(outcome.folder)}")
    return None


@app.command(**example("segdistill evaluate runs/camvid-student --data camvid:CamVid"))
def evaluate(
    model: ModelArgument,
    data: DataFlag = None,
    split: Annotated[
        str, typer.Option("--split", metavar="SPLIT", help="train, val or test.", rich_help_panel=DATA)
    ] = "val",
    submission: Annotated[
        Path | None,
        typer.Option(
            "--submission",
            metavar="DIR",
            help="Also write the label maps for Cityscapes' server, of --split test or val.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    count_void: Annotated[
        bool,
        typer.Option(
            "--count-void",
            help="Also print the mIoU with void pixels of the labels, where taken for a class, as false positives.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    tiled: Annotated[
        bool,
        typer.Option(
            "--tiled",
            help="Also print what changes where images are labelled tile by tile, as infer labels large ones.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    device: DeviceFlag = "auto",
    precision: ExactFlag = Precision.fp32,
    workers: WorkersFlag = None,
    overwrite: OverwriteFlag = False,
    json_: JsonFlag = False,
    quiet: QuietFlag = False,
    verbose: VerboseFlag = False,
) -> None:
    """Score a model. mIoU over one confusion matrix at the labels' own size, IoU per class, pixel accuracy."""
    from segdistill import deploy
    from segdistill.report import SEES_LABELS
    from segdistill.setting import default_workers

    terminal = open_terminal(quiet=quiet, verbose=verbose)
    workers = default_workers() if workers is None else workers
    result = deploy.evaluate_model(
        *(model, data, split, device, str(precision), workers, terminal, submission, overwrite, count_void, tiled)
    )
    if submission is not None:
        terminal.say(f"Label maps: {submission}. The server takes them in one .zip file.")
    if json_:
        return typer.echo(json.dumps(result.to_json(), indent=2))
    if not result.scored:
        return terminal.result("No labels, no scores.")
    scores = result.scores
    if result.model.info.label_assisted:
        return terminal.result(
            f"{SEES_LABELS} It agrees with {percent(scores.pixel_accuracy)} % of the labels that it was shown "
            f"({result.data.name} {split}, {scores.images} images)."
        )
    rows = [[name, percent(value)] for name, value in zip(result.data.classes, scores.iou, strict=True)]
    rows += [["mIoU", percent(scores.miou)], ["pixel accuracy", percent(scores.pixel_accuracy)]]
    if count_void:
        rows.append(["mIoU counting void", percent(result.miou_counting_void)])
    if result.tiled is not None:
        change = result.tiled.apart.miou - scores.miou
        rows.append(["mIoU tile by tile", f"{percent(result.tiled.apart.miou)} ({100 * change:+z.2f})"])
        rows.append(["pixels of the same class", percent(result.tiled.agreement)])
    title = f"{result.data.name} {split}, {scores.images} images, {result.model.precision} on {result.model.device}"
    terminal.table(title, ["", "IoU %"], rows)
    if any(value is None for value in scores.iou):
        terminal.say("- : neither there nor predicted, left out of the mean.")
    return None


@app.command(**example("segdistill export runs/camvid-student --data camvid:CamVid --max-ms 50"))
def export(
    model: ModelArgument,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help="Default: model.onnx in the run.", rich_help_panel=OUTPUT),
    ] = None,
    size: Annotated[str | None, typer.Option("--size", metavar="HxW", help="Of the images it is measured on.")] = None,
    data: DataFlag = None,
    min_fps: Annotated[
        float | None, typer.Option("--min-fps", metavar="F", min=0, help="Exit 4 if it is slower.")
    ] = None,
    max_ms: Annotated[
        float | None, typer.Option("--max-ms", metavar="M", min=0, help="Exit 4 if it is slower.")
    ] = None,
    device: DeviceFlag = "auto",
    workers: WorkersFlag = None,
    overwrite: OverwriteFlag = False,
    json_: JsonFlag = False,
    quiet: QuietFlag = False,
    verbose: VerboseFlag = False,
) -> None:
    """Export to ONNX, prove it equal, measure it. It is compared with PyTorch on the validation images."""
    from segdistill import deploy
    from segdistill.setting import default_workers

    terminal = open_terminal(quiet=quiet, verbose=verbose)
    if min_fps is not None and max_ms is not None:
        raise UsageError("--min-fps and --max-ms say the same: give one of them.")
    workers = default_workers() if workers is None else workers
    result = deploy.export_model(
        model, output, parse_size(size), data, device, overwrite, min_fps, max_ms, workers, terminal
    )
    failures = result.pop("failures")
    if json_:
        typer.echo(json.dumps(result, indent=2))
    else:
        show_export(terminal, result)
    if failures:
        raise CheckError(f"{result['file']} did not pass: " + "; ".join(failures) + ".")
    terminal.say(f"Next: segdistill infer {_word(result['file'])} IMAGES --out DIR")


def show_export(terminal: "Terminal", result: dict[str, Any]) -> None:
    """Print the checks and the latencies of an export."""
    check = result["check"]
    terminal.table(
        f"{result['file']}: opset {result['opset']}, checked on {check['images']} images",
        ["check", "found", "limit"],
        [
            ["largest difference of logits", f"{check['max_abs_diff']:.2g}", "1e-4 of the largest"],
            ["pixels with the same label", f"{100 * check['label_agreement']:.4f} %", ">= 99.9 %"],
            [
                "mIoU in PyTorch, in onnxruntime",
                f"{percent(check['miou_torch'])}, {percent(check['miou_onnx'])}",
                "0.1 apart",
            ],
        ],
    )
    latencies = {name: entry for name, entry in result["latency_ms"].items() if entry is not None}
    names = {"teacher": "teacher, PyTorch", "student": "student, PyTorch", "onnxruntime": "student, onnxruntime"}
    rows = [
        [
            names[name],
            *("-" if entry[key] is None else f"{entry[key]:.1f}" for key in ("first", "p50", "p90", "p99")),
            f"{1000 / entry['p50']:.1f}",
            str(entry["n"]),
        ]
        for name, entry in latencies.items()
    ]
    threads = next(iter(latencies.values()))["threads"]
    size = "x".join(map(str, result["size"]))
    title = f"Milliseconds per image at {size}, batch 1, fp32, {threads} threads, measured in turns"
    terminal.table(title, ["", "first", "p50", "p90", "p99", "fps", "runs"], rows)


@app.command(**example("segdistill infer runs/camvid-student/model.onnx CamVid/val --out labels --overlay"))
def infer(
    model: ModelArgument,
    source: Annotated[str, typer.Argument(metavar="INPUT", help="An image, a folder, or a pattern in quotes.")],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder of the label maps.", rich_help_panel=OUTPUT)
    ],
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Also write the image under the classes' colours.", rich_help_panel=OUTPUT)
    ] = False,
    device: DeviceFlag = "auto",
    precision: ExactFlag = Precision.fp32,
    overwrite: OverwriteFlag = False,
    json_: JsonFlag = False,
    quiet: QuietFlag = False,
    verbose: VerboseFlag = False,
) -> None:
    """Label images. One palette PNG of class ids each, sub-folders mirrored."""
    from segdistill import deploy

    terminal = open_terminal(quiet=quiet, verbose=verbose)
    summary = deploy.infer_images(model, source, out, device, str(precision), overlay, overwrite, terminal)
    failed = [{"file": str(failure.path), "reason": failure.reason} for failure in summary.failed]
    speed = summary.images_per_second
    apart = summary.apart
    if json_:
        result = {"out": str(out), "images": summary.done, "failed": failed, "images_per_second": speed}
        result |= {} if apart is None else {"tiled": {"images": apart.images, "label_agreement": apart.agreement}}
        typer.echo(json.dumps(result, indent=2))
    else:
        terminal.result(f"{summary.done} label maps in {out}, {speed:.1f} images per second, from file to file.")
    if apart is not None:
        many = "1 image was" if apart.images == 1 else f"{apart.images} images were"
        terminal.say(
            f"{many} too large to be seen whole and labelled tile by tile. In a part of the first, "
            f"{percent(apart.agreement)} % of the pixels get the class that they get in one piece; "
            "`segdistill evaluate --tiled` tells the change of mIoU."
        )
    if failed:
        lines = "\n".join(f"  {failure.reason}" for failure in summary.failed[:10])
        more = f"\n  ... and {len(failed) - 10} more" if len(failed) > 10 else ""
        raise DataError(f"{len(failed)} of {len(failed) + summary.done} images could not be read:\n{lines}{more}")


@app.command(
    **example("segdistill import-weights espnet_p_2_q_8_camvid.pth --network espnet --void-output 11 --out espnet")
)
def import_weights(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .pth, .pt or .safetensors file of tensors.")],
    network: Annotated[str, typer.Option("--network", metavar="NET", help="A network from `segdistill networks`.")],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder of the model file.", rich_help_panel=OUTPUT)
    ],
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="D", help="Names the classes and their colours.", rich_help_panel=DATA),
    ] = None,
    classes: Annotated[
        int | None,
        typer.Option(
            "--classes", metavar="N", min=1, help="Without void; default: those of the file.", rich_help_panel=DATA
        ),
    ] = None,
    void_output: Annotated[
        int | None,
        typer.Option(
            "--void-output", metavar="N", min=0, help="Which output is no class but void.", rich_help_panel=DATA
        ),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option("--mean", metavar="A,B,C", help="Of channels in 0..255, in the order the network sees them."),
    ] = None,
    std: Annotated[str | None, typer.Option("--std", metavar="A,B,C", help="Their deviation, likewise.")] = None,
    bgr: Annotated[
        bool | None, typer.Option("--bgr/--rgb", help="Which order that is. Default of all these: as published.")
    ] = None,
    divide: Annotated[
        float | None, typer.Option("--divide", metavar="F", help="Divides what mean and deviation leave.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Choose about the network, e.g. stem=deep. Repeatable."),
    ] = None,
    overwrite: OverwriteFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Turn a published checkpoint into a model. Every tensor is used, or named with the reason why it is not."""
    from segdistill.config import parse_network
    from segdistill.import_weights import Request, import_weights
    from segdistill.networks import resolve_name

    terminal = open_terminal(quiet=quiet)
    request = Request(
        *(file, parse_network(resolve_name(network), set_ or []), data, classes, void_output),
        mean=parse_channels(mean, "--mean"),
        std=parse_channels(std, "--std"),
        divide=divide,
        order=None if bgr is None else "bgr" if bgr else "rgb",
    )
    import_weights(request, out, terminal, overwrite=overwrite)
    terminal.result(f"Model: {out}")
    own = _word(out)
    after = f"infer {own} IMAGES --out LABELS" if data is None else f"evaluate {own} --data {_word(data)}"
    terminal.say(f"Next: segdistill {after}")


app.command("val", cls=Command, hidden=True)(evaluate)
app.command("predict", cls=Command, hidden=True)(infer)


@app.command(**example("segdistill networks --size 360x480 --classes 11"))
def networks(
    part: Annotated[
        str, typer.Argument(metavar="[PART]", help="List only names with this in them, or timm:NAME.")
    ] = "",
    size: Annotated[str, typer.Option("--size", metavar="HxW", help="Of the image the MACs are for.")] = "512x1024",
    classes: Annotated[int, typer.Option("--classes", metavar="N", min=1, help="Number of classes.")] = 19,
    latency: Annotated[bool, typer.Option("--latency", help="Also measure each here, which takes minutes.")] = False,
    max_ms: Annotated[
        float | None, typer.Option("--max-ms", metavar="M", min=0, help="The same, and list only what is as fast.")
    ] = None,
    device: DeviceFlag = "auto",
    json_: JsonFlag = False,
) -> None:
    """List the networks with their costs. As published, without auxiliary head; FLOPs are twice the MACs."""
    from segdistill.networks import list_networks

    shape = parse_size(size) or (512, 1024)
    if timed := latency or max_ms is not None:
        from segdistill.catalogue import networks_in_time

        entries = networks_in_time(shape, classes, part, device, max_ms, open_terminal())
    else:
        entries = list_networks(shape, classes, part)
    if json_:
        return typer.echo(json.dumps(entries, indent=2))
    rows = [
        [
            e["name"],
            str(e["output_stride"]),
            f"{e['parameters'] / 1e6:.3f}",
            f"{e['macs'] / 1e9:.2f}",
            f"{e['flops'] / 1e9:.2f}",
            *([f"{e['latency_ms']:.1f}", f"{1000 / e['latency_ms']:.1f}"] if timed else []),
        ]
        for e in entries
    ]
    more = ["ms", "fps"] if timed else []
    title = f"{classes} classes, at {shape[0]}x{shape[1]}" + (", batch 1, fp32, PyTorch" if timed else "")
    return open_terminal().table(title, ["network", "output stride", "parameters M", "GMACs", "GFLOPs", *more], rows)


@app.command(**example("segdistill doctor"))
def doctor(json_: JsonFlag = False) -> None:
    """Check machine and installation. Exit 4 if something is broken."""
    from segdistill.doctor import examine

    findings = examine()
    if json_:
        typer.echo(
            json.dumps([{"name": f.name, "value": f.value, "ok": f.ok, "cure": f.cure} for f in findings], indent=2)
        )
    else:
        open_terminal().table("", ["", "found", ""], [[f.name, f.value, "ok" if f.ok else "BROKEN"] for f in findings])
    if broken := [finding for finding in findings if not finding.ok]:
        raise CheckError(f"{len(broken)} thing(s) are not all right.", "\n".join(f"{f.name}: {f.cure}" for f in broken))


@data_app.command("check", **example("segdistill data check camvid:CamVid --preview camvid.png"))
def data_check(
    data: Annotated[str, typer.Argument(metavar="D", help="NAME, NAME:PATH or the path of a data.toml.")],
    preview: Annotated[
        Path | None,
        typer.Option("--preview", metavar="FILE.png", help="Draw 8 images under their labels.", rich_help_panel=OUTPUT),
    ] = None,
    overwrite: OverwriteFlag = False,
    json_: JsonFlag = False,
) -> None:
    """Read every image and label. Exit 3 names the files that cannot be used."""
    from segdistill import report
    from segdistill.data import load_data, take_census

    terminal = open_terminal()
    if preview is not None:
        report.check_preview(preview, overwrite=overwrite)
    source = load_data(data)
    images = {name: len(split.names) for name, split in source.splits.items()}
    with terminal.progress(source.name, sum(images.values())) as advance:
        census = take_census(source, images, lambda count: advance(count, ""))
    for warning in (*source.warnings, *census.warnings):
        terminal.warn(warning)
    if json_:
        typer.echo(json.dumps(census.to_json(source), indent=2))
    if census.error is not None:
        raise census.error
    if not json_:
        shares = {name: pixels / max(pixels.sum(), 1) for name, pixels in census.pixels.items()}
        rows = [
            [name, *(f"{100 * share[i]:.2f}" for share in shares.values())] for i, name in enumerate(source.classes)
        ]
        counts = ", ".join(f"{count} {name}" for name, count in images.items())
        terminal.table(f"{source.name}: {counts}; share of pixels in %", ["class", *shares], rows)
        terminal.result(f"Sizes, height x width: {census.sizes_in_words()}")
    if preview is not None:
        labelled = [name for name in images if census.pixels[name].any()]
        names = report.draw_preview(preview, source, labelled or [*images])
        terminal.say(f"Wrote {preview}: {', '.join(names)}.")


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


def percent(value: float | None) -> str:
    """Return a fraction in percent, or a dash for none."""
    return "-" if value is None else f"{100 * value:.2f}"


@presets_app.command("list", **example("segdistill presets list"))
def presets_list(json_: JsonFlag = False) -> None:
    """List the presets."""
    from segdistill.config import load_preset, preset_names

    presets = [load_preset(name) for name in preset_names()]
    if json_:
        entries = [{"name": p.preset, "about": p.about, "paper": p.paper, "terms": sorted(p.terms)} for p in presets]
        return typer.echo(json.dumps(entries, indent=2))
    rows = [[p.preset, p.about, p.paper] for p in presets]
    return open_terminal().table("", ["preset", "what it does", "paper"], rows)


@presets_app.command("show", **example("segdistill presets show skd"))
def presets_show(name: PresetArgument) -> None:
    """Print a preset, with the source of every number."""
    typer.echo(_preset_file(name).read_text(encoding="utf-8"), nl=False)


@presets_app.command("copy", **example("segdistill presets copy skd mine.toml"))
def presets_copy(
    name: PresetArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Ends in .toml.")],
    overwrite: OverwriteFlag = False,
) -> None:
    """Copy a preset to a file. It is yours to edit and to give as --preset FILE."""
    from segdistill.store import write_atomic

    if file.suffix != ".toml":
        raise UsageError(f"{file} does not end in .toml.", f"For example: segdistill presets copy {name} mine.toml")
    if file.exists() and not overwrite:
        raise UsageError(f"{file} exists.", "Choose another name, or add --overwrite.")
    write_atomic(file, _preset_file(name).read_bytes())
    open_terminal().say(f"Wrote {file}.")


def _preset_file(name: str) -> Path:
    from segdistill.config import preset_folder, preset_names

    if name not in preset_names():
        raise UsageError(f"Unknown preset {name!r}.", nearest(name, preset_names()))
    return preset_folder() / f"{name}.toml"


def main() -> None:
    """Run the command line and turn errors into a panel and an exit code; tracebacks only with --debug."""
    debug = "--debug" in sys.argv
    sys.argv = [word for word in sys.argv if word != "--debug"]
    try:
        with at_once(signal.SIGTERM):
            app()
    except SystemExit as end:
        if end.code == 130:  # what typer makes of a KeyboardInterrupt
            open_terminal().warn("Interrupted.")
        raise
    except Exception as error:
        known = error if isinstance(error, SegdistillError) else _explain(error)
        if debug and not isinstance(error, Stopped):
            raise
        open_terminal().error(known)
        sys.exit(known.exit_code)


def _word(text: str | Path) -> str:
    """Return a path as it is typed, whatever it begins with and whatever is in it."""
    path = str(text)
    return shlex.quote(f"./{path}" if path.startswith("-") else path)


def _explain(error: Exception) -> SegdistillError:
    """Return the error to show for an exception that nothing else expected."""
    from segdistill.store import disk_full

    text = f"{type(error).__name__}: {error}"
    told = [line for line in text.splitlines() if any(sign in line for sign in OUT_OF_MEMORY)]
    if told:
        return ResourceError(
            f"Out of memory. {told[0].strip()}",
            "Use a smaller data.batch_size, data.crop or data.size, optim.accumulate=2, or a smaller network.",
        )
    if isinstance(error, OSError) and (full := disk_full(error)):
        return full
    if isinstance(error, OSError) and error.filename is not None:
        return UsageError(f"{error.filename}: {error.strerror}.", "Check that path.")
    return SegdistillError(f"Internal error. {text}", "Run it again with --debug for the traceback.")
