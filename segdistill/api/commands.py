"""The commands as functions: options by the names of the flags in, result objects out, `segdistill.errors` raised."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from segdistill.api._state import unchanged_process
from segdistill.api.reporter import LibraryReporter
from segdistill.commands._configuration import ConfigFlags, resolve_settings
from segdistill.commands._context import Options
from segdistill.commands._repeat import repeated, repeated_teacher
from segdistill.commands._results import Outcome
from segdistill.commands._scored_teacher import teacher_options
from segdistill.commands.distill import distill as distill_by_options
from segdistill.commands.evaluate import EvaluateOptions, Evaluation, evaluate_model
from segdistill.commands.export import ExportOptions, export_model, split_output
from segdistill.commands.infer import Inference, InferOptions, infer_images
from segdistill.commands.resume import ResumeOptions
from segdistill.commands.resume import resume as resume_by_options
from segdistill.commands.train_teacher import train_teacher as train_teacher_by_options
from segdistill.config.schema import Weights
from segdistill.deployment.form import Takes
from segdistill.deployment.report import ExportReport
from segdistill.runtime.reporter import Reporter
from segdistill.storage.files import check_utf8

DEFAULT_PRESET = "canonical"
PathLike = str | Path
Overrides = Iterable[str] | Mapping[str, Any]
"""Texts "KEY=VALUE", or values by key, as in {"optim.lr": 0.005}."""


def train_teacher(
    *,
    preset: PathLike = DEFAULT_PRESET,
    teacher: str | None = None,
    data: str | None = None,
    out: PathLike | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    max_minutes: float | None = None,
    batch_size: int | Literal["auto"] | None = None,
    lr: float | None = None,
    image_size: tuple[int, int] | None = None,
    set: Overrides | None = None,  # noqa: A002  # as the flag
    pretrained: bool = False,
    backbone_weights: PathLike | None = None,
    init_weights: PathLike | None = None,
    device: str = "auto",
    precision: str | None = None,
    seed: int | None = None,
    workers: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    reporter: Reporter | None = None,
) -> Outcome:
    """Train a teacher on labeled images, as `segdistill train-teacher` does with the flags of these names.

    Args:
        preset: name of a preset, or a .toml file.
        teacher: network; default: the preset's.
        data: data set, NAME, NAME:PATH or a data.toml.
        out: folder of the run; default: a new one in runs/.
        steps: most steps of the training.
        epochs: times that each image is seen.
        max_minutes: most minutes of the training, which is made shorter by what a few steps take.
        batch_size: images per step; "auto" halves the preset's until a step fits into memory.
        lr: learning rate of the schedule's start.
        image_size: height and width that images are brought to first.
        set: keys of the preset that are changed.
        pretrained: start from ImageNet weights of the backbone.
        backbone_weights: file of such weights.
        init_weights: run, model file, published checkpoint of this network or tv:NAME[:FILE] that it starts from.
        device: auto, cpu, cuda or cuda:N.
        precision: auto, fp32, bf16 or fp16; default: the preset's.
        seed: of all that is random; default: the preset's.
        workers: loader processes; 0 loads in this one.
        resume: continue the run in `out`.
        overwrite: replace the run in `out`.
        dry_run: check everything, train nothing.
        reporter: takes what the command would print on the way; default: Python's logging.

    Raises:
        SegdistillError: as the command ends with.
    """
    reporter = reporter or LibraryReporter()
    flags = ConfigFlags(
        preset=str(preset),
        data=data,
        overrides=_overrides(set),
        steps=steps,
        epochs=epochs,
        max_minutes=max_minutes,
        batch_size=batch_size,
        lr=lr,
        image_size=image_size,
        seed=seed,
        precision=precision,
        teacher=teacher,
    )
    options = Options(
        out=_named(out),
        device=device,
        workers=workers,
        resume=resume,
        overwrite=overwrite,
        dry_run=dry_run,
        pretrained=pretrained,
        backbone_weights=_path(backbone_weights),
        init_weights=_named(init_weights),
        files=flags.files,
        resume_command=_same_call(out, "resume"),
        restart_command=_same_call(out, "overwrite"),
    )
    with unchanged_process():
        settings = resolve_settings(flags, reporter, takes_pretrained=False)
        options = replace(repeated_teacher(flags, options), derivation=settings.derivation)
        return train_teacher_by_options(settings.config, options, reporter)


def distill(
    *,
    teacher: PathLike | None = None,
    student: str | None = None,
    preset: PathLike = DEFAULT_PRESET,
    data: str | None = None,
    out: PathLike | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    max_minutes: float | None = None,
    batch_size: int | Literal["auto"] | None = None,
    lr: float | None = None,
    image_size: tuple[int, int] | None = None,
    set: Overrides | None = None,  # noqa: A002  # as the flag
    images: Iterable[PathLike] | None = None,
    unlabeled: Iterable[PathLike] | None = None,
    class_map: PathLike | None = None,
    keep_weights: bool = False,
    baseline: Literal["steps", "time"] | None = None,
    seeds: int = 1,
    accept_teacher: bool = False,
    pretrained: bool = False,
    backbone_weights: PathLike | None = None,
    init_weights: PathLike | None = None,
    device: str = "auto",
    precision: str | None = None,
    seed: int | None = None,
    workers: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    reporter: Reporter | None = None,
) -> Outcome:
    """Distill a teacher into a student, as `segdistill distill` does with the flags of these names.

    Args:
        teacher: folder of a run, model file, network, or SCHEME:WHERE of another library's; with `student`, left out to
            repeat the run whose config.toml is the preset.
        student: network.
        preset: name of a preset, or a .toml file.
        data: data set, NAME, NAME:PATH or a data.toml.
        out: folder of the run; default: a new one in runs/.
        steps: most steps of each training.
        epochs: times that each training sees each image.
        max_minutes: most minutes of all trainings, which are made shorter by what a few steps take.
        batch_size: images per step; "auto" halves the preset's until a step fits into memory.
        lr: learning rate of the schedule's start.
        image_size: height and width that images are brought to first.
        set: keys of the preset that are changed.
        images: folders of images to train on without any label; `data` then only scores the student.
        unlabeled: folders of images without labels, mixed in beside labeled ones.
        class_map: TOML file from the teacher's classes to the data's.
        keep_weights: keep the preset's weights of terms on networks and data that they were not chosen for.
        baseline: also train the student without distillation, for as many steps or as much time.
        seeds: number of students, for mean and standard deviation.
        accept_teacher: distill even if the teacher check fails.
        pretrained: start from ImageNet weights of the backbone.
        backbone_weights: file of such weights.
        init_weights: run, model file, published checkpoint of this network or tv:NAME[:FILE] that the student starts
            from.
        device: auto, cpu, cuda or cuda:N.
        precision: auto, fp32, bf16 or fp16; default: the preset's.
        seed: of all that is random; default: the preset's.
        workers: loader processes; 0 loads in this one.
        resume: continue the run in `out`.
        overwrite: replace the run in `out`.
        dry_run: check everything, train nothing.
        reporter: takes what the command would print on the way; default: Python's logging.

    Raises:
        SegdistillError: as the command ends with.
    """
    reporter = reporter or LibraryReporter()
    if teacher is not None:
        _checked(Path(teacher))
    flags = ConfigFlags(
        preset=str(preset),
        data=data,
        overrides=_overrides(set),
        steps=steps,
        epochs=epochs,
        max_minutes=max_minutes,
        batch_size=batch_size,
        lr=lr,
        image_size=image_size,
        seed=seed,
        precision=precision,
        images=tuple(_checked(Path(folder)) for folder in images or ()),
        unlabeled=tuple(_checked(Path(folder)) for folder in unlabeled or ()),
        class_map=_path(class_map),
        keep_weights=keep_weights,
        teacher=None if teacher is None else str(teacher),
        student=student,
    )
    options = Options(
        out=_named(out),
        device=device,
        workers=workers,
        resume=resume,
        overwrite=overwrite,
        dry_run=dry_run,
        pretrained=pretrained,
        backbone_weights=_path(backbone_weights),
        init_weights=_named(init_weights),
        baseline=baseline,
        accept_teacher=accept_teacher,
        files=flags.files,
        seeds=seeds,
        resume_command=_same_call(out, "resume"),
        restart_command=_same_call(out, "overwrite"),
    )
    with unchanged_process():
        flags, options = repeated(flags, options, reporter)
        settings = resolve_settings(flags, reporter, takes_pretrained=True)
        options = replace(options, derivation=settings.derivation)
        return distill_by_options(settings.config, flags.teacher or "", options, reporter)


def resume(
    run: PathLike,
    *,
    steps: int | None = None,
    data: str | None = None,
    teacher: PathLike | None = None,
    baseline: Literal["steps", "time"] | None = None,
    seeds: int | None = None,
    set: Overrides | None = None,  # noqa: A002  # as the flag
    accept_teacher: bool = False,
    device: str | None = None,
    workers: int | None = None,
    reporter: Reporter | None = None,
) -> Outcome:
    """Continue a run, or train a finished one for longer, as `segdistill resume` does with the flags of these names.

    Args:
        run: its folder.
        steps: of the schedule, a new one, that a finished run is to have; default: its own.
        data: data set, NAME, NAME:PATH or a data.toml, where it lies elsewhere by now.
        teacher: where that lies elsewhere by now, or is code.
        baseline: add a baseline to a run without one.
        seeds: add seeds, up to as many students.
        set: keys that are no part of a run, such as validate.batch_size.
        accept_teacher: distill even if the teacher check fails.
        device: auto, cpu, cuda or cuda:N; default: as it was asked for.
        workers: loader processes; 0 loads in this one.
        reporter: takes what the command would print on the way; default: Python's logging.

    Raises:
        SegdistillError: as the command ends with.
    """
    options = ResumeOptions(
        steps=steps,
        data=data,
        teacher=None if teacher is None else str(teacher),
        baseline=baseline,
        seeds=seeds,
        overrides=_overrides(set),
        accept_teacher=accept_teacher,
        device=device,
        workers=workers,
        resume_command=f"the call segdistill.resume({str(run)!r})",
    )
    with unchanged_process():
        return resume_by_options(_checked(Path(run)), options, reporter or LibraryReporter()).outcome


def evaluate(
    model: PathLike,
    *,
    weights: Weights | None = None,
    data: str | None = None,
    images: Iterable[PathLike] | None = None,
    teacher: PathLike | None = None,
    split: str = "val",
    class_map: PathLike | None = None,
    size: tuple[int, int] | None = None,
    scales: Iterable[float] | None = None,
    flip: bool = False,
    set: Overrides | None = None,  # noqa: A002  # as the flag
    submission: PathLike | None = None,
    count_void: bool = False,
    tiled: bool = False,
    device: str = "auto",
    precision: str = "fp32",
    workers: int | None = None,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> Evaluation:
    """Score a model on labeled images, as `segdistill evaluate` does with the flags of these names.

    Args:
        model: folder of a run, model file, exported graph, or SCHEME:WHERE of another library's network.
        weights: of a run: last, ema or best; default: those that it ships.
        data: data set, NAME, NAME:PATH or a data.toml; default: that of the run, where its folder
            says that it lies.
        images: folders of images without labels, in the place of `data`.
        teacher: what the model is compared with on `images`; the class map, scales, flip and set are then its own.
        split: train, val or test.
        class_map: TOML file from the model's classes to the data's.
        size: height and width that images are brought to; default: the model's, else their own.
        scales: factors by which images are enlarged; the mean of the probabilities is scored.
        flip: show the model its images mirrored, too.
        set: keys of `teacher.input`, how a model from another library wants its images.
        submission: folder for label maps of a benchmark's server, which are written too.
        count_void: `to_json` tells also the mIoU that counts void pixels.
        tiled: score also images that are labeled tile by tile.
        device: auto, cpu, cuda or cuda:N.
        precision: auto, fp32, bf16 or fp16.
        workers: loader processes; 0 loads in this one.
        overwrite: replace a submission that is there.
        reporter: takes what the command would print on the way; default: Python's logging.

    Raises:
        SegdistillError: as the command ends with.
    """
    options = EvaluateOptions(
        weights=weights,
        data=data,
        images=tuple(Path(folder) for folder in images or ()),
        against="" if teacher is None else str(teacher),
        split=split,
        device=device,
        precision=precision,
        workers=workers,
        submission=_path(submission),
        overwrite=overwrite,
        count_void=count_void,
        size=size,
        teacher=teacher_options(_path(class_map), tuple(scales or (1.0,)), _overrides(set), flip=flip),
        tiled=tiled,
    )
    with unchanged_process():
        return evaluate_model(str(model), options, reporter or LibraryReporter())


def export(
    model: PathLike,
    *,
    weights: Weights | None = None,
    output: PathLike | Sequence[PathLike] | None = None,
    input: Takes = "float",  # noqa: A002  # as the flag is called
    static: bool = False,
    batch: int = 1,
    opset: int | None = None,
    size: tuple[int, int] | None = None,
    data: str | None = None,
    images: Iterable[PathLike] | None = None,
    min_fps: float | None = None,
    max_ms: float | None = None,
    device: str = "auto",
    workers: int | None = None,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> ExportReport:
    """Export a model to ONNX and check it, as `segdistill export` does with the flags of these names.

    Args:
        model: folder of a run, or model file.
        weights: of a run: last, ema or best, which need an `output` unless the run ships them.
        output: file to write, by default model.onnx in the run; or what the graph returns, logits (B, C, H, W) by
            default, labels (B, H, W) in bytes, or both; or a list of a file and that.
        input: float (B, 3, H, W) or uint8 (B, H, W, 3), both RGB 0..255.
        static: fix the graph's sizes.
        batch: images at once.
        opset: version of ONNX's operators, 13 to 20; default: 20.
        size: height and width to export and measure at.
        data: data set to check on; default: that of the run, where its folder
            says that it lies.
        images: folders of images without labels to check on, in the place of `data`.
        min_fps: images per second that must be reached.
        max_ms: milliseconds per image that must not be exceeded.
        device: auto, cpu, cuda or cuda:N; auto is the CPU.
        workers: loader processes; 0 loads in this one.
        overwrite: replace a file that is there.
        reporter: takes what the command would print on the way; default: Python's logging.

    Raises:
        CheckError: if the graph is not equal to its network, or too slow; the file is kept.
        SegdistillError: as else the command ends with.
    """
    outputs = [output] if isinstance(output, str | Path) else output or ()
    file, returns = split_output(map(str, outputs))
    options = ExportOptions(
        output=file,
        weights=weights,
        returns=returns,
        takes=input,
        static=static,
        batch=batch,
        opset=opset,
        size=size,
        data=data,
        images=tuple(Path(folder) for folder in images or ()),
        device=device,
        workers=workers,
        overwrite=overwrite,
        min_fps=min_fps,
        max_ms=max_ms,
    )
    with unchanged_process():
        report = export_model(Path(model), options, reporter or LibraryReporter())
    report.refuse_failures()
    return report


def infer(
    model: PathLike,
    source: PathLike | None = None,
    *,
    weights: Weights | None = None,
    out: PathLike,
    overlay: bool = False,
    device: str = "auto",
    precision: str = "fp32",
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> Inference:
    """Write a label map for each image, as `segdistill infer` does with the flags of these names.

    Args:
        model: folder of a run, model file or exported graph.
        source: an image, a folder, or a pattern such as "frames/*.png"; default: the validation images of a run, where
            its folder says that they lie.
        weights: of a run: last, ema or best; default: those that it ships.
        out: folder of the label maps, which mirrors the sub-folders of `source`.
        overlay: write also each image under the classes' colors.
        device: auto, cpu, cuda or cuda:N.
        precision: auto, fp32, bf16 or fp16.
        overwrite: replace label maps that are there.
        reporter: takes what the command would print on the way; default: Python's logging.

    Raises:
        DataError: if some images cannot be labeled; the others' label maps are written.
        SegdistillError: as else the command ends with.
    """
    options = InferOptions(
        out=Path(out), device=device, precision=precision, weights=weights, overlay=overlay, overwrite=overwrite
    )
    with unchanged_process():
        pattern = None if source is None else str(source)
        inference = infer_images(Path(model), pattern, options, reporter or LibraryReporter())
    inference.refuse_failures()
    return inference


def _overrides(values: Overrides | None) -> tuple[str, ...]:
    """Return the texts "KEY=VALUE" of overrides."""
    if values is None:
        return ()
    if isinstance(values, Mapping):
        # Of numbers, texts, lists and flags JSON is what TOML is.
        return tuple(f"{key}={json.dumps(value)}" for key, value in values.items())
    return tuple(values)


def _same_call(out: PathLike | None, argument: str) -> str:
    """Return what continues a run or begins it again, in the place of a command line."""
    folder = "that run's folder" if out is None else repr(str(out))
    return f"the same call with out={folder} and {argument}=True"


def _path(path: PathLike | None) -> Path | None:
    return None if path is None else Path(path)


def _named(path: PathLike | None) -> Path | None:
    """Return a path whose name is handed to safetensors, or written into a file."""
    return None if path is None else _checked(Path(path))


def _checked(path: Path) -> Path:
    """Return a path.

    Raises:
        UsageError: if it is not UTF-8.
    """
    check_utf8(path)
    return path
