"""Images that nobody has labeled, to compare a model on: with its teacher, or with its own exported graph."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from segdistill.checkpoints.model_file import ModelInfo
from segdistill.commands._load_teacher import in_data_classes, load_teacher
from segdistill.commands._scored_teacher import TeacherOptions
from segdistill.config.schema import Size
from segdistill.data import DataSource
from segdistill.data.splits import PredictedSplit
from segdistill.data.unlabeled import NAME, images_in
from segdistill.errors import UsageError
from segdistill.runtime.precision import resolve_device, resolve_precision
from segdistill.runtime.reporter import Reporter
from segdistill.teachers.answers import label_images


def images_of(info: ModelInfo, folders: Sequence[Path]) -> DataSource:
    """Return folders of images as data of a model's classes, with a val split that has no labels.

    Args:
        info: the model's header.
        folders: as `--images` takes them.

    Raises:
        UsageError, DataError: if there is no such folder, or no image in it.
    """
    images = images_in([str(folder) for folder in folders])
    return DataSource(NAME, info.classes, info.palette, {"val": images}, unlabeled=frozenset({"val"}))


def labeled_by_teacher(
    data: DataSource,
    spec: str,
    options: TeacherOptions,
    *,
    size: Size | None,
    device: str,
    workers: int,
    reporter: Reporter,
) -> DataSource:
    """Return images without labels with the answers of a teacher for labels.

    Args:
        data: as `images_of` returned it.
        spec: the teacher, as `--teacher` takes it.
        options: of the teacher.
        size: of the images that an external teacher is shown, where it does not say one itself; None leaves them at
            their own.
        device: as `--device` takes it.
        workers: loader processes.
        reporter: shows the progress.

    Raises:
        UsageError: if there is no such teacher, it sees labels, or its classes are not the model's.
    """
    teacher = load_teacher(spec, options.input, device, reporter).shown(options.views)
    if teacher.is_label_assisted:
        raise UsageError(
            f"--teacher {spec} is label-assisted: it sees the label beside the image, and --images has none.",
            "Give a plain teacher.",
        )
    teacher = in_data_classes(teacher, options.class_map, data.classes, reporter)
    # As `distill` has it: a teacher of our own sees images at the size in its file, or at their own where it has none.
    if teacher.is_external and teacher.info.size is None:
        teacher = replace(teacher, info=teacher.info.model_copy(update={"size": size}))
    val = data.split("val")
    with reporter.progress("teacher's answers", len(val.names)) as advance:
        labels = tuple(
            label_images(
                teacher,
                val,
                len(data.classes),
                threshold=0.0,
                precision=resolve_precision("fp32", resolve_device(device)),
                workers=workers,
                rank=0,
                world=1,
                on_image=lambda count: advance(count, ""),
            )
        )
    return replace(data, splits={"val": PredictedSplit(val, labels)})
