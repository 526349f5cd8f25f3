"""The commands on a model: evaluate, export, infer, import-weights."""

import json
import math
from pathlib import Path
from typing import Annotated

import typer

from segdistill.cli._app import Command, app, example
from segdistill.cli._flags import (
    DATA,
    OUTPUT,
    DeviceFlag,
    ExactFlag,
    JsonFlag,
    ModelArgument,
    ModelDataFlag,
    OverwriteFlag,
    Precision,
    QuietFlag,
    VerboseFlag,
    WorkersFlag,
    named_path,
    parse_channels,
    parse_size,
    typed_path,
    with_home,
)
from segdistill.cli._show import open_terminal, percent, quoted, show_export
from segdistill.errors import CheckError, DataError, UsageError


@app.command(**example("segdistill evaluate runs/camvid-student --data camvid:CamVid"))
def evaluate(
    model: ModelArgument,
    data: ModelDataFlag = None,
    split: Annotated[
        str, typer.Option("--split", metavar="SPLIT", help="train, val or test.", rich_help_panel=DATA)
    ] = "val",
    submission: Annotated[
        Path | None,
        typer.Option(
            "--submission",
            parser=typed_path,
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
    from segdistill.report import ABSENT, SEES_LABELS
    from segdistill.setting import default_workers

    terminal = open_terminal(quiet=quiet, verbose=verbose)
    workers = default_workers() if workers is None else workers
    result = deploy.evaluate_model(
        *(model, data, split, device, str(precision), workers, terminal, submission, overwrite, count_void, tiled)
    )
    if submission is not None:
        terminal.say(f"Label maps: {submission}. Cityscapes' server takes those of test, in one .zip file.")
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
    rows.append(["mIoU", f"{percent(scores.miou)}{scores.coverage}"])
    rows.append(["pixel accuracy", percent(scores.pixel_accuracy)])
    if count_void:
        rows.append(["mIoU counting void", f"{percent(result.miou_counting_void)}{scores.coverage_counting_void}"])
    if result.tiled is not None:
        tiles = result.tiled.apart
        change = 100 * (tiles.miou - scores.miou)
        rows.append(["mIoU tile by tile", f"{percent(tiles.miou)}{tiles.coverage} ({change:+z.2f})"])
        rows.append(["pixels of the same class", percent(result.tiled.agreement)])
    title = f"{result.data.name} {split}, {scores.images} images, {result.model.precision} on {result.model.device}"
    terminal.table(title, ["", "IoU %"], rows)
    if scores.coverage:
        terminal.say(ABSENT)
    return None


@app.command(**example("segdistill export runs/camvid-student --data camvid:CamVid --max-ms 50"))
def export(
    model: Annotated[
        Path, typer.Argument(parser=typed_path, metavar="MODEL", help="A run's folder or a .safetensors model file.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            parser=typed_path,
            metavar="FILE",
            help="Default: model.onnx in the run.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            "--size",
            metavar="HxW",
            help="Image size it is exported and measured at. Default: training's, or the most frequent.",
        ),
    ] = None,
    data: ModelDataFlag = None,
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
    if any(limit is not None and not math.isfinite(limit) for limit in (min_fps, max_ms)):
        raise UsageError("--min-fps and --max-ms take a number.")
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
    terminal.say(f"Next: segdistill infer {quoted(result['file'])} IMAGES --out DIR")


@app.command(**example("segdistill infer runs/camvid-student/model.onnx CamVid/val --out labels --overlay"))
def infer(
    model: ModelArgument,
    source: Annotated[
        str, typer.Argument(parser=with_home, metavar="INPUT", help="An image, a folder, or a pattern in quotes.")
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", parser=typed_path, metavar="DIR", help="Folder of the label maps.", rich_help_panel=OUTPUT
        ),
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
        raise DataError(f"{len(failed)} of {len(failed) + summary.done} images were not labelled:\n{lines}{more}")


@app.command(
    **example("segdistill import-weights espnet_p_2_q_8_camvid.pth --network espnet --void-output 11 --out espnet")
)
def import_weights(
    file: Annotated[
        Path, typer.Argument(parser=typed_path, metavar="FILE", help="A .pth, .pt or .safetensors file of tensors.")
    ],
    network: Annotated[str, typer.Option("--network", metavar="NET", help="A network from `segdistill networks`.")],
    out: Annotated[
        Path,
        typer.Option(
            "--out", parser=named_path, metavar="DIR", help="Folder of the model file.", rich_help_panel=OUTPUT
        ),
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
    size: Annotated[
        str | None,
        typer.Option("--size", metavar="HxW", help="Size that images are brought to. Default: their own."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Choose about the network, e.g. stem=deep. Repeatable."),
    ] = None,
    drop_label_channel: Annotated[
        bool,
        typer.Option("--drop-label-channel", help="Leave out the fourth input channel of a student of LAD's."),
    ] = False,
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
        size=parse_size(size),
        drop_label_channel=drop_label_channel,
    )
    import_weights(request, out, terminal, overwrite=overwrite)
    terminal.result(f"Model: {out}")
    own = quoted(out)
    after = f"infer {own} IMAGES --out LABELS" if data is None else f"evaluate {own} --data {quoted(data)}"
    terminal.say(f"Next: segdistill {after}")


app.command("val", cls=Command, hidden=True)(evaluate)
app.command("predict", cls=Command, hidden=True)(infer)
