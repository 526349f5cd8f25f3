"""Export a model to ONNX, prove the graph equal, and measure it.

The graph is a candidate, under a name of its own, until it is proven: no file of the final name is ever a wrong one.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from segdistill.checkpoints.model_file import ModelInfo, load_model, model_path, weights_path
from segdistill.commands._agreement import images_of
from segdistill.commands._context import default_workers
from segdistill.commands._inputs import Input, data_inputs, refuse_files_over
from segdistill.commands._model import MAX_BATCH_IMAGES, data_of, refuse_label_assisted
from segdistill.commands._run_images import recorded_images
from segdistill.config.schema import Weights
from segdistill.data import Split, evaluation_batches
from segdistill.deployment.form import IR_VERSIONS, MAX_BATCH, OLDEST_OPSET, OPSET, GraphForm, Returns, Takes
from segdistill.deployment.onnx import export_onnx
from segdistill.deployment.parity import ParityResult, check_parity
from segdistill.deployment.report import ExportReport, speed_gate
from segdistill.deployment.session import OnnxModel
from segdistill.deployment.typical_image import TypicalImage, typical_image
from segdistill.errors import CheckError, ModelError, UsageError
from segdistill.evaluation.evaluate import pixels_at_once
from segdistill.evaluation.latency import Latency, measure, torch_subject
from segdistill.evaluation.predictor import predictor
from segdistill.networks import SegNetwork, build_network, meta_network
from segdistill.runtime.precision import Precision, exact_float32, resolve_device, resolve_precision
from segdistill.runtime.reporter import Reporter
from segdistill.storage.atomic import sweep
from segdistill.storage.files import sha256_of
from segdistill.storage.manifest import add_to_manifest
from segdistill.storage.write_errors import check_writable
from segdistill.wording import counted

MAX_TEACHER_BYTES = 1 << 31
"""Bytes of the weights of a teacher whose speed is measured: a header may ask for more than there is memory."""


@dataclass(frozen=True)
class ExportOptions:
    """Options of an export: the file of the graph, and the images it is measured and checked on."""

    output: Path | None = None
    """File to write; None stands for model.onnx in the run, or NAME.onnx beside a file NAME.safetensors."""
    weights: Weights | None = None
    """Weights of a run: last, ema or best; None stands for those that it ships. Others need an `output`."""
    size: tuple[int, int] | None = None
    """Height and width of the images; None stands for those of the model, or the most frequent ones."""
    returns: Returns = "logits"
    """Outputs of the graph."""
    takes: Takes = "float"
    """Images as the graph takes them."""
    static: bool = False
    """Fix the sizes of the graph: that of the images, and the batch."""
    batch: int = 1
    """Images at once: of a static graph its batch, of any the batch of the measurement."""
    opset: int | None = None
    """Version of ONNX's operators; None stands for the usual one."""
    data: str | None = None
    """Data set as `--data` takes it; None stands for that of the run."""
    images: tuple[Path, ...] = ()
    """Folders of images without labels to check on, in the place of a data set."""
    device: str = "auto"
    """Device as `--device` takes it; auto is the CPU."""
    workers: int | None = None
    """Loader processes; None leaves one core to the main process."""
    overwrite: bool = False
    """Replace a file that is there."""
    min_fps: float | None = None
    """Images per second that the median must reach; None asks for none."""
    max_ms: float | None = None
    """Milliseconds per image that the median must not exceed; None asks for none."""


def split_output(values: Iterable[str]) -> tuple[Path | None, Returns]:
    """Return the file and the outputs of a graph, each of which `--output` may name.

    Raises:
        UsageError: if one of them is named twice.
    """
    values = list(values)
    files = [Path(value) for value in values if value not in get_args(Returns)]
    returns: list[Returns] = [word for word in get_args(Returns) if word in values]
    if len(files) > 1 or len(returns) > 1 or len(files) + len(returns) < len(values):
        raise UsageError(
            f"--output {' --output '.join(values)}: that names a file, or what the graph returns, more than once.",
            "Give a FILE.onnx once, and logits, labels or both once.",
        )
    return files[0] if files else None, returns[0] if returns else "logits"


@exact_float32()
def export_model(model: Path, options: ExportOptions, reporter: Reporter) -> ExportReport:
    """Export a model, prove the graph equal on the validation images, and measure it beside student and teacher.

    Args:
        model: a run's folder or a model file.
        options: where to, and on what it is proven and measured.
        reporter: tells what is going on.

    Returns:
        What was written and measured; `failures` says what did not pass.

    Raises:
        UsageError: if the model cannot be exported there, or the options contradict each other.
        CheckError: if the graph fails on images of some shape. It is kept then as FILE.rejected.
    """
    _check_limits(options)
    paths = _plan_output(model, options)
    # The usual onnxruntime has no CUDA: "auto" must not fail where PyTorch sees a GPU.
    device = resolve_device("cpu" if options.device == "auto" else options.device)
    subject = _open_subject(model, paths, options, reporter)
    # The graph computes in float32, so it is compared with a network that does.
    exact = resolve_precision("fp32", device)

    typical = typical_image(
        subject.images,
        requested_size=options.size,
        model_size=subject.model_size,
        workers=_workers(options),
        reporter=reporter,
    )
    form = _form(options, typical)
    if form.size is not None:
        subject = replace(subject, info=subject.info.model_copy(update={"size": form.size}))
    reporter.info(f"Exporting {subject.info.network.network} to {paths.output}")
    with _candidate(paths):
        export_onnx(subject.network, subject.info, paths.candidate, form)
        runtimes = _Runtimes(
            onnxruntime=OnnxModel(paths.candidate, device), torch=predictor(subject.network, exact), precision=exact
        )
        # Measured before the check: the first call of a network that has run before is no cold start.
        latencies = _measure(subject, runtimes, typical, options.batch, reporter=reporter)
        parity = _check(subject, runtimes, options, reporter=reporter)
    file = _promote(model, paths, parity)
    return ExportReport(
        file=file,
        sha256=sha256_of(file),
        size=(typical.image.shape[2], typical.image.shape[3]),
        size_source=typical.size_source,
        parity=parity,
        latencies=latencies,
        gate=speed_gate(latencies["onnxruntime"], min_fps=options.min_fps, max_ms=options.max_ms),
        form=form,
    )


def teacher_to_measure(path: Path, info: ModelInfo, reporter: Reporter) -> SegNetwork | None:
    """Return the teacher of a student, with any weights, as its speed depends on none; None where there is nothing.

    Args:
        path: of the student's model file, for messages.
        info: the student's header.
        reporter: is told of a teacher that is too large to be built.

    Raises:
        ModelError: if the header names a teacher that cannot be.
    """
    if info.teacher is None:
        return None
    try:
        # On the meta device first, where tensors have shapes and no memory.
        skeleton = meta_network(info.teacher, len(info.classes))
        weight_bytes = sum(tensor.nbytes for tensor in skeleton.state_dict().values())
        if weight_bytes > MAX_TEACHER_BYTES:
            reporter.warning(
                f"The teacher that {path} names has {weight_bytes:,} bytes of weights, more than "
                f"{MAX_TEACHER_BYTES:,}: it is not measured."
            )
            return None
        return build_network(info.teacher, len(info.classes))
    except UsageError as error:
        raise ModelError(f"The teacher that {path} names cannot be built: {error}", "Train again.") from None


@dataclass(frozen=True)
class _Paths:
    """The files of an export."""

    model: Path
    """Model file that is exported."""
    output: Path
    """Name of the graph once it is proven equal."""

    @property
    def candidate(self) -> Path:
        """Name of the graph until then."""
        return self.output.with_name(f"{self.output.name}.unproven")

    @property
    def rejected(self) -> Path:
        """Name of a graph that is not equal, kept so that one can see why."""
        return self.output.with_name(f"{self.output.name}.rejected")


@dataclass(frozen=True)
class _Subject:
    """A network that is exported, with what it is compared with and on."""

    network: SegNetwork
    info: ModelInfo
    """Header of the graph: that of the model file, with the size that was asked for."""
    model_size: tuple[int, int] | None
    """Size that the model file brings images to; None leaves them at their own."""
    teacher: SegNetwork | None
    """Network whose speed is measured too; None where the model names none."""
    images: Split
    """Validation images."""


@dataclass(frozen=True)
class _Runtimes:
    """One network in both runtimes."""

    torch: Callable[[Tensor], Tensor]
    onnxruntime: OnnxModel
    precision: Precision
    """Precision of PyTorch, float32 on the device of both."""


def _form(options: ExportOptions, typical: TypicalImage) -> GraphForm:
    """Return the form that was asked for; a static graph has the size of the image that stands for the data."""
    height, width = typical.image.shape[2:]
    return GraphForm(
        output=options.returns,
        input=options.takes,
        size=(height, width) if options.static else None,
        batch=options.batch if options.static else None,
        opset=options.opset or OPSET,
    )


def _name_of_form(options: ExportOptions) -> str:
    """Return what a file's name says of the form; empty of the usual one."""
    form = GraphForm(output=options.returns, input=options.takes, opset=options.opset or OPSET)
    return f"{form.suffix}-static" if options.static else form.suffix


def _check_limits(options: ExportOptions) -> None:
    if options.opset is not None and options.opset not in IR_VERSIONS:
        raise UsageError(
            f"--opset {options.opset}: graphs are written in opset {OLDEST_OPSET} to {OPSET}.",
            "Take the newest that your runtime reads.",
        )
    if not 1 <= options.batch <= MAX_BATCH:
        raise UsageError(f"--batch {options.batch}: expected 1 to {MAX_BATCH}.", "For example --batch 8")
    if options.images and options.data is not None:
        raise UsageError("--images and --data both name the images to check on.", "Give one of them.")
    if options.min_fps is not None and options.max_ms is not None:
        raise UsageError("--min-fps and --max-ms both limit the speed.", "Give one of them.")
    for flag, limit in (("--min-fps", options.min_fps), ("--max-ms", options.max_ms)):
        if limit is not None and not isfinite(limit):
            raise UsageError(f"{flag} {limit} is not a finite number.", f"For example: {flag} 30")


def _plan_output(model: Path, options: ExportOptions) -> _Paths:
    """Return the files of an export, once it is sure that they can be written: the work before that takes minutes."""
    path = weights_path(model, options.weights)
    if path != model_path(model) and options.output is None:
        raise UsageError(
            f"--weights {options.weights} needs --output FILE: model.onnx is the graph of the weights that the run "
            "ships.",
            f"For example: --output {options.weights}.onnx",
        )
    if path.suffix == ".onnx":
        raise UsageError(f"{path} is exported already.", "Give a run's folder or a .safetensors file.")
    stem = "model" if model.is_dir() else path.stem
    output = options.output or path.with_name(f"{stem}{_name_of_form(options)}.onnx")
    if output.suffix != ".onnx":
        raise UsageError(
            f"--output {output} does not end in .onnx, by which the other commands know a graph.",
            "For example: --output model.onnx",
        )
    if output.exists() and not options.overwrite:
        raise UsageError(f"{output} exists.", "Add --overwrite, or choose another --output.")
    if not output.parent.is_dir():
        raise UsageError(f"The folder {output.parent} does not exist.", "Make it first, or choose another --output.")
    check_writable(output.parent)
    return _Paths(model=path, output=output)


def _open_subject(model: Path, paths: _Paths, options: ExportOptions, reporter: Reporter) -> _Subject:
    """Load the model, its teacher and the data, and refuse what would write over one of them."""
    network, info = load_model(paths.model)
    refuse_label_assisted(paths.model, info)
    teacher = teacher_to_measure(paths.model, info, reporter)
    recorded = None
    if options.data is None and not options.images:
        recorded = recorded_images(model, info, reporter)
    if options.images:
        data = images_of(info, options.images)
    elif recorded is not None:
        data = recorded.data
    else:
        data = data_of(model, info, spec=options.data, reporter=reporter)
    images = data.split("val")
    inputs = [Input("MODEL", paths.model), *data_inputs(data, options.data or "")]
    refuse_files_over([paths.output, paths.candidate, paths.rejected], inputs)
    return _Subject(
        network=network,
        info=info.model_copy(update={"size": options.size or info.size}),
        model_size=info.size,
        teacher=teacher,
        images=images,
    )


@contextmanager
def _candidate(paths: _Paths) -> Iterator[None]:
    """Keep the candidate while it is proven; one that fails is kept as rejected, and other errors leave no file."""
    sweep([paths.candidate])
    try:
        yield
    except CheckError:
        paths.candidate.replace(paths.rejected)
        raise
    # Also what is no error, such as an interrupt: an unproven graph must not stay.
    except BaseException:
        paths.candidate.unlink(missing_ok=True)
        raise


def _measure(
    subject: _Subject, runtimes: _Runtimes, typical: TypicalImage, batch: int, *, reporter: Reporter
) -> dict[str, Latency]:
    """Measure the teacher and the student in PyTorch and the graph in onnxruntime, in turns on the same images."""
    threads = torch.get_num_threads()
    height, width = typical.image.shape[2:]
    reporter.info(
        f"Measuring at {height}x{width} ({typical.size_source}), batch {batch}, fp32, {counted(threads, 'thread')}"
    )
    images = typical.image.repeat(batch, 1, 1, 1)
    image = images.to(runtimes.precision.device, memory_format=torch.channels_last)
    # In this order they take turns, and stand in the table.
    subjects = {}
    if subject.teacher is not None:
        subjects["teacher"] = torch_subject(predictor(subject.teacher, runtimes.precision), image)
    subjects["student"] = torch_subject(runtimes.torch, image)
    subjects["onnxruntime"] = runtimes.onnxruntime.subject(images)
    return measure(subjects, threads=threads)


def _check(subject: _Subject, runtimes: _Runtimes, options: ExportOptions, *, reporter: Reporter) -> ParityResult:
    """Compare the graph with its network on all validation images."""
    batches = evaluation_batches(
        subject.images,
        subject.info.size,
        batch_size=MAX_BATCH_IMAGES,
        max_pixels=pixels_at_once(subject.info.outputs),
        workers=_workers(options),
    )
    with reporter.progress("checking", len(subject.images.names)) as advance:
        return check_parity(runtimes.torch, runtimes.onnxruntime, batches, on_batch=lambda count: advance(count, ""))


def _promote(model: Path, paths: _Paths, parity: ParityResult) -> Path:
    """Give the candidate its final name, and return that."""
    # A graph that is only too slow computes the right thing: it is kept under its name.
    if parity.failures():
        return paths.candidate.replace(paths.rejected)
    file = paths.candidate.replace(paths.output)
    # A finished run lists its files with their digests; a graph beside it, under another name, is none of them.
    if model.is_dir() and file == model / "model.onnx" and (model / "manifest.json").exists():
        add_to_manifest(model, file.name)
    return file


def _workers(options: ExportOptions) -> int:
    return default_workers() if options.workers is None else options.workers
