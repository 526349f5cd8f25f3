"""The commands on a finished model: evaluate it, export it, let it label images."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segdistill import report
from segdistill.checkpoint import ModelInfo, load_model, model_path
from segdistill.config import components, data_example
from segdistill.data import DataSource, Part, evaluation_batches, load_data
from segdistill.data._base import UNLABELED, Split
from segdistill.engine import evaluate, pixels_at_once, resolve_device, resolve_precision
from segdistill.errors import CheckError, DataError, ModelError, UsageError
from segdistill.export import export_onnx
from segdistill.graph import OnnxModel
from segdistill.inference import Comparison, Summary, compare_tiling, find_inputs, infer
from segdistill.inputs import Input, data_inputs, model_inputs, refuse_files_over
from segdistill.label_codes import with_labels
from segdistill.latency import measure, torch_subject
from segdistill.metrics import Scores
from segdistill.networks import SegNetwork, blank_network, build_network
from segdistill.parity import check_parity, export_report, speed_gate
from segdistill.prediction import predictor
from segdistill.store import check_writable, seal_one, sweep
from segdistill.submission import COUNTS, plan_submission, write_submission
from segdistill.talk import Talk

BATCH = 4
"""Images at a time in evaluation and checks, at most: large ones are fewer; the result does not depend on it."""

MAX_TEACHER_BYTES = 1 << 31
"""Weights of a teacher whose speed is measured: a header may ask for more than there is memory."""


@dataclass(frozen=True)
class Opened:
    """A model of any kind, ready to predict."""

    path: Path
    info: ModelInfo
    predict: Callable[[Tensor], Tensor]
    device: torch.device
    precision: str


@dataclass(frozen=True)
class Evaluation:
    """Scores, and what they were measured with."""

    model: Opened
    data: DataSource
    split: str
    scores: Scores
    submission: Path | None = None
    """The folder of the label maps for a benchmark."""
    count_void: bool = False
    """Whether to tell also the mIoU that counts the void pixels of the labels."""
    tiled: Comparison | None = None
    """With what comes of the images tile by tile, as `infer` takes large ones apart."""

    @property
    def scored(self) -> bool:
        """Whether there were labels."""
        return bool(self.scores.pixels[:-1].any())

    @property
    def miou_counting_void(self) -> float | None:
        """The mIoU that counts void pixels taken for a class; None where there is no accuracy to tell."""
        return self.scores.miou_counting_void if self.scored and not self.model.info.label_assisted else None

    def to_json(self) -> dict[str, Any]:
        """Return what `evaluate --json` prints."""
        tiled = self.tiled
        return {
            "model": str(self.model.path),
            "data": self.data.name,
            "split": self.split,
            **report.scores_table(self.scores, self.data.classes, label_assisted=self.model.info.label_assisted),
            **({} if self.scored else {"miou": None, "pixel_accuracy": None}),
            **({"miou_counting_void": self.miou_counting_void} if self.count_void else {}),
            **({"tiled": {"label_agreement": tiled.agreement, "miou": tiled.apart.miou}} if tiled else {}),
            "precision": self.model.precision,
            "device": str(self.model.device),
            **({} if self.submission is None else {"submission": str(self.submission)}),
        }


def open_model(model: Path, device: str, precision: str) -> Opened:
    """Open a run's folder, a model file or an exported graph."""
    path = model_path(model)
    if path.suffix == ".onnx":
        if precision != "fp32":
            raise UsageError(f"--precision {precision}: an exported graph computes in fp32.", "Leave it out.")
        where = torch.device("cpu") if device == "auto" else resolve_device(device)
        exported = OnnxModel(path, where)
        return Opened(path, exported.info, exported, where, "fp32")
    where = resolve_device(device)
    chosen = resolve_precision(precision, where)
    network, info = load_model(path)
    return Opened(path, info, predictor(network, chosen), where, chosen.name)


def data_of(model: Path, info: ModelInfo, given: str | None, talk: Talk) -> DataSource:
    """Return the data to use a model on: what was given, else what a run's folder was trained on, by its name.

    Raises:
        UsageError: for a bare file without data, and for data of other classes.
    """
    if given is None and (model.is_file() or info.data not in components("data")):
        raise UsageError(
            f"{model} does not say where its data{f' ({info.data})' if info.data else ''} lies.",
            f"Add --data, for example --data {data_example(info.data)}.",
        )
    data = load_data(given or info.data)
    for warning in data.warnings:
        talk.warn(warning)
    if data.classes != info.classes:
        raise UsageError(
            f"The model's classes are not those of {data.name}.\n"
            f"  model ({len(info.classes)}): {', '.join(info.classes)}\n"
            f"  {data.name} ({len(data.classes)}): {', '.join(data.classes)}",
            "Give the data set the model was trained on."
            if info.data
            else f"It was imported without --data: import it again with --data {given}, which names its classes.",
        )
    return data


def evaluate_model(
    model: Path,
    given: str | None,
    split: str,
    device: str,
    precision: str,
    workers: int,
    talk: Talk,
    submission: Path | None = None,
    overwrite: bool = False,
    count_void: bool = False,
    tiled: bool = False,
) -> Evaluation:
    """Score a model on a split, at the labels' own size, and write a benchmark's label maps where asked for."""
    if submission is not None and split not in COUNTS:
        raise UsageError(f"--submission is of --split test or val, not {split}.", "The server scores test.")
    opened = open_model(model, device, precision)
    data = data_of(model, opened.info, given, talk)
    images = data.split(split)
    targets: dict[str, Path] = {}
    if submission is not None:
        if data.name != "cityscapes":
            raise UsageError(f"--submission is for cityscapes, and this is {data.name}.", "Leave it out.")
        _check_plain(opened.path, opened.info)
        refuse_files_over([submission], [*model_inputs("MODEL", model), *data_inputs(data, given or "")])
        targets = plan_submission(images.names, submission, overwrite=overwrite)
    if tiled and (targets or opened.info.label_assisted or opened.info.size is not None):
        raise UsageError(
            "--tiled compares how a model sees large images, whole or tile by tile: not with --submission, not one "
            "that sees labels, nor one that brings all images to one size.",
            "Leave --tiled out.",
        )
    if not targets and (images.read(0).label == UNLABELED).all():
        raise DataError(
            f"The {split} images of {data.name} have no labels to score by.",
            "Give another --split. --submission DIR writes what the server of cityscapes scores.",
        )
    pixels = pixels_at_once(opened.info.outputs)
    batches = evaluation_batches(images, opened.info.size, batch_size=BATCH, max_pixels=pixels, workers=workers)
    batches = with_labels(batches, opened.info.label_codes, len(data.classes))
    comparison: Comparison | None = None
    with talk.progress(f"{data.name} {split}", len(images.names)) as advance:
        if tiled:
            comparison = compare_tiling(opened.predict, batches, len(data.classes), lambda count: advance(count, ""))
            scores = comparison.whole
        elif targets:
            scores = write_submission(opened.predict, batches, targets, lambda count: advance(count, ""))
        else:
            scores = evaluate(opened.predict, batches, len(data.classes), lambda count: advance(count, ""))
    if targets and len(targets) != COUNTS[split]:
        talk.warn(f"These are {len(targets)} of Cityscapes' {COUNTS[split]} {split} images: its server wants them all.")
    return Evaluation(opened, data, split, scores, submission, count_void, comparison)


def _check_plain(path: Path, info: ModelInfo) -> None:
    if info.label_assisted:
        raise UsageError(
            f"{path} is a label-assisted teacher: without the labels of an image it cannot segment it.",
            "It is there to teach. Give a student that was distilled from it.",
        )


def _teacher_of(path: Path, info: ModelInfo, talk: Talk) -> SegNetwork | None:
    """Return the network, with any weights, whose speed a student is compared with."""
    if info.teacher is None:
        return None
    try:
        blank = blank_network(info.teacher, len(info.classes))
        if sum(tensor.nbytes for tensor in blank.state_dict().values()) > MAX_TEACHER_BYTES:
            talk.warn(f"The teacher that {path} names has more than {MAX_TEACHER_BYTES:,} bytes: it is not measured.")
            return None
        return build_network(info.teacher, len(info.classes))
    except UsageError as error:
        raise ModelError(f"The teacher that {path} names cannot be built: {error}", "Train again.") from None


def export_model(
    model: Path,
    output: Path | None,
    size: tuple[int, int] | None,
    given: str | None,
    device: str,
    overwrite: bool,
    min_fps: float | None,
    max_ms: float | None,
    workers: int,
    talk: Talk,
) -> dict[str, Any]:
    """Export a model, prove the graph equal on the validation images, and measure it beside student and teacher.

    Returns:
        What `export --json` prints, and under "failures" what did not pass, in sentences.
    """
    path = model_path(model)
    if path.suffix == ".onnx":
        raise UsageError(f"{path} is exported already.", "Give a run's folder or a .safetensors file.")
    file = output or path.with_name("model.onnx" if model.is_dir() else f"{path.stem}.onnx")
    if file.suffix != ".onnx":
        raise UsageError(f"{file} does not end in .onnx.", "By that ending the other commands know a graph.")
    if file.exists() and not overwrite:
        raise UsageError(f"{file} exists.", "Add --overwrite, or choose another --output.")
    if not file.parent.is_dir():
        raise UsageError(f"There is no folder {file.parent}.", "Make it first, or choose another --output.")
    check_writable(file.parent)
    where = resolve_device("cpu" if device == "auto" else device)
    network, info = load_model(path)
    _check_plain(path, info)
    teacher = _teacher_of(path, info, talk)
    data = data_of(model, info, given, talk)
    images = data.split("val")
    unproven, rejected = file.with_name(f"{file.name}.unproven"), file.with_name(f"{file.name}.rejected")
    refuse_files_over([file, unproven, rejected], [Input("MODEL", path), *data_inputs(data, given or "")])
    shape = size or info.size
    talk.say(f"Exporting {info.network.network} to {file}")
    sweep([unproven])
    export_onnx(network, info.model_copy(update={"size": shape}), unproven)
    try:
        exact = resolve_precision("fp32", where)
        exported, predict = OnnxModel(unproven, where), predictor(network, exact)
        image, size_from = typical_image(images, size, info.size, workers, talk)
        threads = torch.get_num_threads()
        talk.say(f"Measuring at {image.shape[2]}x{image.shape[3]} ({size_from}), batch 1, fp32, {threads} threads")
        there = image.to(where, memory_format=torch.channels_last)
        subjects = {"student": torch_subject(predict, there), "onnxruntime": exported.subject(image)}
        if teacher is not None:
            subjects = {"teacher": torch_subject(predictor(teacher, exact), there)} | subjects
        latencies = measure(subjects, threads=threads)
        pixels = pixels_at_once(info.outputs)
        batches = evaluation_batches(images, shape, batch_size=BATCH, max_pixels=pixels, workers=workers)
        with talk.progress("checking", len(images.names)) as advance:
            check = check_parity(predict, exported, batches, lambda count: advance(count, ""))
    except CheckError:
        unproven.replace(rejected)
        raise
    except BaseException:
        unproven.unlink(missing_ok=True)
        raise
    failures = check.failures()
    file = unproven.replace(rejected if failures else file)
    gate = speed_gate(latencies["onnxruntime"], min_fps=min_fps, max_ms=max_ms)
    if gate is not None and not gate.passed:
        failures = [*failures, f"the speed gate: {gate.limit}, measured {latencies['onnxruntime'].p50:.2f} ms"]
    if model.is_dir() and file == model / "model.onnx" and (model / "manifest.json").exists():
        seal_one(model, file.name)
    result = export_report(file, (image.shape[2], image.shape[3]), size_from, check, latencies, gate)
    return result | {"failures": failures}


def typical_image(
    images: Split, asked: tuple[int, int] | None, trained: tuple[int, int] | None, workers: int, talk: Talk
) -> tuple[Tensor, str]:
    """Return an image (1, 3, h, w) of the size that stands for the data, and where that size comes from, in words.

    Args:
        images: the validation split.
        asked: the size in `--size`.
        trained: the size that the model brings all images to.
        workers: processes that read.
        talk: where to show how far it is.
    """
    if (size := asked or trained) is not None:
        (batch,) = evaluation_batches(Part(images, (0,), labels=True), size)
        return batch.image, "of --size" if asked else "of the model"
    first: dict[tuple[int, int], int] = {}
    counts: Counter[tuple[int, int]] = Counter()
    with talk.progress("sizes", len(images.names)) as advance:
        for index, batch in enumerate(evaluation_batches(images, None, workers=workers)):
            height, width = batch.image.shape[2:]
            first.setdefault((height, width), index)
            counts[height, width] += 1
            advance(1, "")
    (size, count), *_ = counts.most_common()  # of equally frequent ones the first that came
    (batch,) = evaluation_batches(Part(images, (first[size],), labels=True), None)
    return batch.image, f"the most frequent, {count} of {len(images.names)} validation images"


def infer_images(
    model: Path, source: str, out: Path, device: str, precision: str, overlay: bool, overwrite: bool, talk: Talk
) -> Summary:
    """Label the images of a file, a folder or a pattern."""
    opened = open_model(model, device, precision)
    _check_plain(opened.path, opened.info)
    inputs = find_inputs(source, out)
    with talk.progress("images", len(inputs)) as advance:
        return infer(
            opened.predict,
            opened.info,
            inputs,
            out,
            overlay=overlay,
            overwrite=overwrite,
            check_targets=lambda targets: refuse_files_over(targets, model_inputs("MODEL", model)),
            on_image=lambda count: advance(count, ""),
        )
