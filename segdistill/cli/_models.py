"""The commands on a model: evaluate, export, infer."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from segdistill.cli._app import Command, app, examples
from segdistill.cli._completion import complete_model, complete_split, complete_teacher
from segdistill.cli._flags import (
    DATA,
    MODEL,
    OUTPUT,
    RUN,
    ClassMapFlag,
    DeviceFlag,
    ExactFlag,
    JsonFlag,
    ModelArgument,
    ModelDataFlag,
    ModelImagesFlag,
    OverwriteFlag,
    Precision,
    QuietFlag,
    VerboseFlag,
    WeightsFlag,
    WorkersFlag,
    chosen,
)
from segdistill.cli._parsers import (
    parse_factors,
    parse_optional_size,
    typed_path,
    typed_teacher,
    with_home,
)
from segdistill.cli._show import open_terminal, print_json, show_evaluation, show_export
from segdistill.cli._text import format_percent, quoted
from segdistill.wording import counted

if TYPE_CHECKING:
    from segdistill.cli.console import Terminal
    from segdistill.commands.infer import Inference


@app.command(
    **examples(
        "segdistill evaluate runs/camvid-student --data camvid:CamVid",
        "segdistill evaluate hf:segformer --data camvid:CamVid --class-map map.toml",
    )
)
def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            parser=typed_teacher,
            autocompletion=complete_teacher,
            metavar="MODEL",
            help="Folder of a run, .safetensors model file or .onnx file. From other libraries: tv:NAME, hf:ID, "
            "hf:FOLDER, onnx:FILE, py:MODULE:FUNCTION.",
        ),
    ],
    *,
    weights: WeightsFlag = None,
    data: ModelDataFlag = None,
    images: ModelImagesFlag = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher",
            parser=typed_teacher,
            autocompletion=complete_teacher,
            metavar="TEACHER",
            help="Teacher to compare with on --images, which have no labels; --class-map, --scales, --flip and --set "
            "are then this one's.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    class_map: ClassMapFlag = None,
    size: Annotated[
        str | None,
        typer.Option(
            "--size",
            metavar="HxW",
            help="Bring images to this size. Default: the model's, else their own.",
            rich_help_panel=DATA,
        ),
    ] = None,
    scales: Annotated[
        str | None,
        typer.Option(
            "--scales",
            metavar="S[,S]",
            help="Show the model its images enlarged, e.g. 1.5 or 1,1.5: the mean of the probabilities is scored.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    flip: Annotated[
        bool, typer.Option("--flip", help="Show the model its images mirrored, too.", rich_help_panel=MODEL)
    ] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Say how a model from another library wants its images: teacher.input.mean, .std, .order, .divide. "
            "Repeatable.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    split: Annotated[
        str,
        typer.Option(
            "--split",
            autocompletion=complete_split,
            metavar="SPLIT",
            help="Split: train, val or test.",
            rich_help_panel=DATA,
        ),
    ] = "val",
    submission: Annotated[
        Path | None,
        typer.Option(
            "--submission",
            parser=typed_path,
            metavar="DIR",
            help="Also write label maps for Cityscapes' server; needs --split test or val.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    count_void: Annotated[
        bool,
        typer.Option(
            "--count-void",
            help="Also print the mIoU that counts void pixels predicted as a class as false positives.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    tiled: Annotated[
        bool,
        typer.Option(
            "--tiled",
            help="Also print how scores change when images are labeled tile by tile, as infer labels large ones.",
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
    """Score a model on labeled images. Prints IoU per class, mIoU and pixel accuracy at the labels' own size."""
    from segdistill.commands._scored_teacher import teacher_options
    from segdistill.commands.evaluate import EvaluateOptions, evaluate_model

    terminal = open_terminal(quiet=quiet, verbose=verbose)
    options = EvaluateOptions(
        data=data,
        images=tuple(images or ()),
        against=teacher or "",
        split=split,
        device=device,
        precision=str(precision),
        weights=chosen(weights),
        workers=workers,
        submission=submission,
        overwrite=overwrite,
        count_void=count_void,
        size=parse_optional_size(size),
        teacher=teacher_options(class_map, parse_factors(scales, "--scales"), set_ or (), flip=flip),
        tiled=tiled,
    )
    evaluation = evaluate_model(model, options, terminal)
    if submission is not None:
        terminal.info(f"Label maps: {submission}. Cityscapes' server takes those of test, in one .zip file.")
    if json_:
        print_json(evaluation.to_json())
    else:
        show_evaluation(terminal, evaluation)


@app.command(
    **examples(
        "segdistill export runs/camvid-student --data camvid:CamVid --max-ms 50",
        "segdistill export model.safetensors --data camvid:CamVid --output labels",
    )
)
def export(
    model: Annotated[
        Path,
        typer.Argument(
            parser=typed_path,
            autocompletion=complete_model,
            metavar="MODEL",
            help="Folder of a run, or .safetensors model file.",
        ),
    ],
    *,
    output: Annotated[
        list[str] | None,
        typer.Option(
            "--output",
            metavar="FILE|logits|labels|both",
            help="Output file, by default model.onnx in the run, or what the graph returns, by default logits; or "
            "both.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    input_: Annotated[
        Literal["float", "uint8"],
        typer.Option(
            "--input",
            help="Images as the graph takes them: float32 (B, 3, H, W), or bytes (B, H, W, 3) as cameras deliver them.",
            rich_help_panel=OUTPUT,
        ),
    ] = "float",
    static: Annotated[
        bool,
        typer.Option(
            "--static", help="Fix the graph's sizes to --size and --batch, for compilers.", rich_help_panel=OUTPUT
        ),
    ] = False,
    batch: Annotated[
        int,
        typer.Option(
            "--batch", metavar="N", min=1, max=1024, help="Images at once, measured and fixed.", rich_help_panel=OUTPUT
        ),
    ] = 1,
    opset: Annotated[
        int | None,
        typer.Option(
            "--opset",
            metavar="N",
            help="Version of ONNX's operators, 13 to 20: older ones for older runtimes. Default: 20.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            "--size",
            metavar="HxW",
            help="Image size to export and measure at, e.g. 512x1024. Default: that of the training, or the most "
            "frequent one.",
            rich_help_panel=DATA,
        ),
    ] = None,
    weights: WeightsFlag = None,
    data: ModelDataFlag = None,
    images: ModelImagesFlag = None,
    min_fps: Annotated[
        float | None,
        typer.Option(
            "--min-fps",
            metavar="F",
            min=0,
            help="Exit with code 4 below F images per second.",
            rich_help_panel=RUN,
        ),
    ] = None,
    max_ms: Annotated[
        float | None,
        typer.Option(
            "--max-ms",
            metavar="M",
            min=0,
            help="Exit with code 4 above M milliseconds per image.",
            rich_help_panel=RUN,
        ),
    ] = None,
    device: DeviceFlag = "auto",
    workers: WorkersFlag = None,
    overwrite: OverwriteFlag = False,
    json_: JsonFlag = False,
    quiet: QuietFlag = False,
    verbose: VerboseFlag = False,
) -> None:
    """Export a model to ONNX. Compares it with PyTorch on the validation images, and measures its speed."""
    from segdistill.commands.export import ExportOptions, export_model, split_output

    terminal = open_terminal(quiet=quiet, verbose=verbose)
    file, returns = split_output(with_home(text) for text in output or [])
    options = ExportOptions(
        output=file,
        returns=returns,
        takes=input_,
        static=static,
        batch=batch,
        opset=opset,
        weights=chosen(weights),
        size=parse_optional_size(size),
        data=data,
        images=tuple(images or ()),
        device=device,
        workers=workers,
        overwrite=overwrite,
        min_fps=min_fps,
        max_ms=max_ms,
    )
    report = export_model(model, options, terminal)
    if json_:
        print_json(report.to_json())
    else:
        show_export(terminal, report)
    report.refuse_failures()
    terminal.info(f"Next: segdistill infer {quoted(report.file)} IMAGES --out DIR")


@app.command(
    **examples(
        "segdistill infer runs/camvid-student/model.onnx CamVid/val --out labels",
        "segdistill infer runs/camvid-student 'frames/*.png' --out labels --overlay",
    )
)
def infer(
    model: ModelArgument,
    source: Annotated[
        str | None,
        typer.Argument(
            parser=with_home,
            metavar="[INPUT]",
            help="Image, folder, or pattern in quotes. Default: the validation images of a run, where its folder says "
            "where they lie.",
        ),
    ] = None,
    *,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            parser=typed_path,
            metavar="DIR",
            help="Output folder, which mirrors the sub-folders of INPUT.",
            rich_help_panel=OUTPUT,
        ),
    ],
    overlay: Annotated[
        bool,
        typer.Option(
            "--overlay", help="Also write each image blended with its labels' colors.", rich_help_panel=OUTPUT
        ),
    ] = False,
    weights: WeightsFlag = None,
    device: DeviceFlag = "auto",
    precision: ExactFlag = Precision.fp32,
    overwrite: OverwriteFlag = False,
    json_: JsonFlag = False,
    quiet: QuietFlag = False,
    verbose: VerboseFlag = False,
) -> None:
    """Label images. Writes a PNG of class ids for each, with the classes' colors as its palette."""
    from segdistill.commands.infer import InferOptions, infer_images

    terminal = open_terminal(quiet=quiet, verbose=verbose)
    options = InferOptions(
        out=out,
        device=device,
        precision=str(precision),
        weights=chosen(weights),
        overlay=overlay,
        overwrite=overwrite,
    )
    inference = infer_images(model, source, options, reporter=terminal)
    summary = inference.summary
    if json_:
        print_json(inference.to_json())
    else:
        speed = f"{summary.images_per_second:.1f} images per second, from file to file"
        terminal.result(f"{counted(summary.done, 'label map')} in {out}, {speed}.")
    _tell_of_tiles(terminal, inference)
    inference.refuse_failures()


def _tell_of_tiles(terminal: "Terminal", inference: "Inference") -> None:
    """Tell of images that were too large for the network to see in one piece."""
    tiling = inference.summary.tiling
    if tiling is None:
        return
    subject = "1 image was" if tiling.images == 1 else f"{tiling.images} images were"
    terminal.info(
        f"{subject} too large to be seen whole and labeled tile by tile. In a part of the first, "
        f"{format_percent(tiling.agreement)} % of the pixels get the class that they get in one piece; "
        "`segdistill evaluate --tiled` tells the change of mIoU."
    )


app.command("val", cls=Command, hidden=True)(evaluate)
app.command("predict", cls=Command, hidden=True)(infer)
