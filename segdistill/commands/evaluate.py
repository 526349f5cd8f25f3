"""Score a model on a split of a data set."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from segdistill.checkpoints.model_file import read_info, weights_path
from segdistill.commands._agreement import images_of, labeled_by_teacher
from segdistill.commands._context import default_workers
from segdistill.commands._inputs import data_inputs, model_inputs, refuse_files_over
from segdistill.commands._model import (
    MAX_BATCH_IMAGES,
    LoadedModel,
    find_data_of,
    in_classes_of,
    open_model,
    refuse_label_assisted,
)
from segdistill.commands._run_images import recorded_images, recorded_teacher
from segdistill.commands._scored_teacher import TeacherOptions, is_teacher, open_teacher
from segdistill.config.schema import Size, Weights
from segdistill.data import DataSource, Split, evaluation_batches
from segdistill.data.base import UNLABELED
from segdistill.errors import DataError, UsageError
from segdistill.evaluation.cityscapes_server import COUNTS, plan_submission, write_submission
from segdistill.evaluation.evaluate import evaluate, pixels_at_once
from segdistill.evaluation.metrics import Scores
from segdistill.evaluation.tiling import TilingComparison, compare_tiling
from segdistill.reports.scores import scores_table
from segdistill.runtime.precision import exact_float32
from segdistill.runtime.reporter import Reporter
from segdistill.teachers.external import parse_external
from segdistill.teachers.label_assisted import with_labels
from segdistill.types import Batch


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of an evaluation."""

    data: str | None = None
    """Data set as `--data` takes it; None stands for that of the run."""
    images: tuple[Path, ...] = ()
    """Folders of images without labels, on which the model is compared with `against`, in the place of a data set."""
    against: str = ""
    """Teacher as `--teacher` takes it, whose answers stand for labels there."""
    split: str = "val"
    """Name of the split: train, val or test."""
    device: str = "auto"
    """Device as `--device` takes it."""
    precision: str = "fp32"
    """Compute precision as `--precision` takes it; fp32 alone for an exported graph."""
    weights: Weights | None = None
    """Weights of a run: last, ema or best; None stands for those that it ships."""
    workers: int | None = None
    """Loader processes; None leaves one core to the main process."""
    submission: Path | None = None
    """Folder for the label maps of a benchmark, which are written too; None writes none."""
    overwrite: bool = False
    """Replace a submission that is there."""
    count_void: bool = False
    """Tell also the mIoU that counts the void pixels of the labels."""
    size: Size | None = None
    """Size (height, width) that images are brought to; None stands for the model's, else for their own."""
    teacher: TeacherOptions = field(default_factory=TeacherOptions)
    """Options of a model that could be a teacher; with `images`, of the teacher."""
    tiled: bool = False
    """Tell also what changes where images are labeled tile by tile, as `infer` labels large ones."""


@dataclass(frozen=True)
class Evaluation:
    """Scores, and what they were measured with."""

    model: LoadedModel
    data: DataSource
    options: EvaluateOptions
    scores: Scores
    tiled: TilingComparison | None = None
    """TilingComparison with the scores of images that are labeled tile by tile; None where it was not asked for."""

    @property
    def has_labels(self) -> bool:
        """Whether there were labels to score by."""
        return bool(self.scores.pixels[:-1].any())

    @property
    def by_teacher(self) -> bool:
        """Whether a teacher's answers stood for labels: then the scores are agreement, and no accuracy."""
        return bool(self.options.images)

    @property
    def miou_counting_void(self) -> float | None:
        """The mIoU that counts void pixels taken for a class; None where there is no accuracy to tell."""
        if not self.has_labels or self.model.info.label_assisted:
            return None
        return self.scores.miou_counting_void

    def to_json(self) -> dict[str, Any]:
        """Return what `evaluate --json` prints."""
        result: dict[str, Any] = {
            "model": str(self.model.path),
            "data": self.data.name,
            "split": self.options.split,
        }
        result |= scores_table(
            self.scores,
            self.data.classes,
            label_assisted=self.model.info.label_assisted,
            by_teacher=self.by_teacher,
        )
        if self.by_teacher:
            result |= {"data": None, "split": None, "teacher": self.options.against}
        # Without labels the scores are those of no pixel, 0, which would read as a result.
        if not self.has_labels:
            result |= {"miou": None, "pixel_accuracy": None}
        if self.options.count_void:
            result["miou_counting_void"] = self.miou_counting_void
        if self.tiled is not None:
            result["tiled"] = {"label_agreement": self.tiled.agreement, "miou": self.tiled.tiled.miou}
        result |= self.options.teacher.to_json()
        size = self.model.info.size
        result["size"] = None if size is None else list(size)
        result["precision"] = self.model.precision
        result["device"] = str(self.model.device)
        if self.options.submission is not None:
            result["submission"] = str(self.options.submission)
        return result


@exact_float32()
def evaluate_model(model: str, options: EvaluateOptions, reporter: Reporter) -> Evaluation:
    """Score a model on a split, at the labels' own size, and write a benchmark's label maps where asked for.

    Args:
        model: a run's folder, a model file, an exported graph, or SCHEME:WHERE of another library's network.
        options: on what and how.
        reporter: takes warnings and shows the progress.

    Raises:
        UsageError: if the model, the data and the options do not belong together.
        DataError: if there are no labels to score by, or an image cannot be used.
    """
    options, held_back = _with_recorded_images(model, options, reporter)
    _check_options(options)
    loaded, data = _open(model, options, held_back, reporter)
    images = data.split(options.split)
    targets: dict[str, Path] = {}
    if options.submission is not None:
        _check_submission(Path(model), loaded, data, options)
        targets = plan_submission(images.names, options.submission, overwrite=options.overwrite)
    else:
        _check_labels(images, data, options)
    if options.tiled:
        _check_tiling(loaded)

    batches = _batches(images, loaded, data, options)
    num_classes = len(data.classes)
    tiled: TilingComparison | None = None
    with reporter.progress(f"{data.name} {options.split}", len(images.names)) as advance:

        def on_batch(count: int) -> None:
            advance(count, "")

        # Each of the three computes the scores from one pass over the images.
        if options.tiled:
            tiled = compare_tiling(loaded.predict, batches, num_classes, on_batch=on_batch)
            scores = tiled.whole
        elif options.submission is not None:
            scores = write_submission(loaded.predict, batches, targets, on_batch=on_batch)
        else:
            scores = evaluate(loaded.predict, batches, num_classes, on_batch=on_batch)
    if options.submission is not None:
        _warn_if_incomplete(targets, options, reporter)
    return Evaluation(loaded, data, options, scores=scores, tiled=tiled)


def _with_recorded_images(
    model: str, options: EvaluateOptions, reporter: Reporter
) -> tuple[EvaluateOptions, DataSource | None]:
    """Return the options and images by which a run without labels was scored, where nothing else is named.

    Returns:
        The options, with the teacher that answers, and the images; unchanged and None where it is another model.
    """
    path = Path(model)
    if options.data is not None or options.images or not path.is_dir():
        return options, None
    images = recorded_images(path, read_info(weights_path(path, options.weights)), reporter)
    if images is None:
        return options, None
    teacher = recorded_teacher(images, path, named=options.against)
    asked = images.options if options.teacher == TeacherOptions() else options.teacher
    options = replace(options, images=images.folders, against=teacher, teacher=asked)
    return options, images.data


def _open(
    model: str, options: EvaluateOptions, images: DataSource | None, reporter: Reporter
) -> tuple[LoadedModel, DataSource]:
    """Open a model of any kind, and the data that it is scored on."""
    path, spec = Path(model), options.data
    if options.images:
        return _open_with_teacher(path, options, images, reporter)
    if is_teacher(model, options.teacher):
        if options.weights is not None and parse_external(model) is not None:
            raise UsageError(f"--weights chooses among those of a run, and {model} is none.", "Leave --weights out.")
        loaded, data = open_teacher(
            model if options.weights is None else str(weights_path(path, options.weights)),
            options.teacher,
            lambda info: find_data_of(path, info, spec=spec, reporter=reporter),
            device=options.device,
            precision=options.precision,
            reporter=reporter,
        )
    else:
        loaded = open_model(path, options.device, options.precision, options.weights)
        data = find_data_of(path, loaded.info, spec=spec, reporter=reporter)
        loaded = in_classes_of(data, loaded, spec, reporter)
    if options.size is not None:
        loaded = replace(loaded, info=loaded.info.model_copy(update={"size": options.size}))
    return loaded, data


def _open_with_teacher(
    path: Path, options: EvaluateOptions, images: DataSource | None, reporter: Reporter
) -> tuple[LoadedModel, DataSource]:
    """Open a model, and images whose labels are the answers of a teacher: all of the folders, or those given."""
    # With none of a teacher's options, which are those of --teacher here.
    if is_teacher(str(path), TeacherOptions()):
        raise UsageError(
            f"{path} is a network of another library: --images compares a model of ours with its teacher.",
            f"Give the student in its place, and --teacher {path}; to score {path} itself, --data with labels.",
        )
    loaded = open_model(path, options.device, options.precision, options.weights)
    refuse_label_assisted(loaded.path, loaded.info)
    if options.size is not None:
        loaded = replace(loaded, info=loaded.info.model_copy(update={"size": options.size}))
    data = labeled_by_teacher(
        images or images_of(loaded.info, options.images),
        options.against,
        options.teacher,
        size=loaded.info.size,
        device=options.device,
        workers=_workers(options),
        reporter=reporter,
    )
    return loaded, data


def _check_agreement(options: EvaluateOptions) -> None:
    """Refuse what does not go with a teacher's answers for labels."""
    if not options.images:
        if options.against:
            raise UsageError(
                "--teacher is compared with on images without labels, and no --images were given.",
                "Add --images DIR; to score the teacher itself by labels, give it in the place of MODEL.",
            )
        return
    if not options.against:
        raise UsageError(
            "--images have no labels to score by.",
            "Add --teacher TEACHER, whose answers the model is compared with; or give --data with labels.",
        )
    others = {
        "--data": options.data is not None,
        f"--split {options.split}": options.split != "val",
        "--submission": options.submission is not None,
        "--count-void": options.count_void,
        "--tiled": options.tiled,
    }
    for flag, is_given in others.items():
        if is_given:
            raise UsageError(f"{flag} needs labels, and --images has none.", "Give one of the two.")


def _check_options(options: EvaluateOptions) -> None:
    """Refuse options that contradict each other, before anything is read."""
    _check_agreement(options)
    if options.submission is None:
        return
    if options.split not in COUNTS:
        raise UsageError(
            f"--submission supports --split test or val, not {options.split}.", "Cityscapes' server scores test."
        )
    if options.tiled:
        raise UsageError(
            "--tiled and --submission exclude each other: a submission is of images labeled whole.",
            "Give one of them.",
        )


def _check_submission(model: Path, loaded: LoadedModel, data: DataSource, options: EvaluateOptions) -> None:
    """Refuse a submission of other data than the server has, by a model that cannot predict, or over an input."""
    assert options.submission is not None, "asked for"
    if data.name != "cityscapes":
        raise UsageError(f"--submission supports the data set cityscapes, not {data.name}.", "Leave --submission out.")
    # Its labels would be those it was shown: no prediction.
    refuse_label_assisted(loaded.path, loaded.info)
    inputs = [*model_inputs("MODEL", model), *data_inputs(data, options.data or "")]
    refuse_files_over([options.submission], inputs)


def _check_tiling(loaded: LoadedModel) -> None:
    """Refuse a model for which tiles are no question: it sees labels, or no image in its own size."""
    if loaded.info.label_assisted:
        raise UsageError("--tiled does not support a network that sees labels.", "Leave --tiled out.")
    if loaded.info.size is not None:
        height, width = loaded.info.size
        raise UsageError(
            f"--tiled does not support this model: it brings all images to {height}x{width}, so none has tiles.",
            "Leave --tiled out.",
        )


def _check_labels(images: Split, data: DataSource, options: EvaluateOptions) -> None:
    """Refuse a split without labels, such as the test split of most benchmarks."""
    # The first image stands for all: data sets publish a split with labels or without.
    if (images.read(0).label == UNLABELED).all():
        raise DataError(
            f"The {options.split} images of {data.name} have no labels to score by.",
            "Give another --split. --submission DIR writes what the server of cityscapes scores.",
        )


def _batches(images: Split, loaded: LoadedModel, data: DataSource, options: EvaluateOptions) -> Iterator[Batch]:
    # The pixels of a batch are bounded by its logits, which are larger than its images.
    batches = evaluation_batches(
        images,
        loaded.info.size,
        batch_size=MAX_BATCH_IMAGES,
        max_pixels=pixels_at_once(loaded.info.outputs),
        workers=_workers(options),
    )
    return with_labels(batches, loaded.info.label_embedding, len(data.classes))


def _warn_if_incomplete(targets: Mapping[str, Path], options: EvaluateOptions, reporter: Reporter) -> None:
    """Tell of a submission that the server would refuse."""
    expected = COUNTS[options.split]
    if len(targets) != expected:
        reporter.warning(
            f"The submission has {len(targets)} of Cityscapes' {expected} {options.split} images: its server wants "
            "all of them."
        )


def _workers(options: EvaluateOptions) -> int:
    return default_workers() if options.workers is None else options.workers
