"""A distillation from a teacher and folders of images, without labels: whose classes, which checks, what scores it."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from segdistill.commands._context import Options, RunContext
from segdistill.config.schema import RunConfig
from segdistill.data import DataSource, load_data
from segdistill.data.datasets.voc import colors
from segdistill.data.splits import PredictedSplit
from segdistill.data.unlabeled import NAME, Palette, unlabeled_source, with_unlabeled_training
from segdistill.errors import UsageError
from segdistill.runtime import distributed
from segdistill.teachers.answers import label_images
from segdistill.teachers.class_map import mapped_classes
from segdistill.teachers.teacher import Teacher
from segdistill.types import MAX_CLASSES
from segdistill.wording import counted

if TYPE_CHECKING:
    from segdistill.checkpoints.model_file import ModelInfo


@dataclass(frozen=True)
class TeacherClasses:
    """The classes that a teacher brings along, where no data set names any."""

    names: tuple[str, ...]
    palette: Palette


def classes_of(teacher: Teacher, config: RunConfig) -> TeacherClasses:
    """Return a teacher's classes, or those that a class map names, in the order of their first mention.

    Raises:
        UsageError: if fewer than two are left, or more than a label map can tell, or two have the same name.
    """
    info, class_map = teacher.info, config.teacher.class_map
    names = info.classes if class_map is None else mapped_classes(class_map)
    if len(names) < 2:
        found = ", ".join(names) or "none"
        raise UsageError(
            f"The class map leaves {counted(len(names), 'class', 'classes')} ({found}): nothing is to be told apart.",
            'Map outputs of the teacher to two classes or more: [classes], then lines "car" = "vehicle".',
        )
    if len(names) > MAX_CLASSES:
        raise UsageError(
            f"The teacher has {len(names)} classes; a label map tells {MAX_CLASSES} apart.",
            "Map them to fewer with --class-map FILE.toml.",
        )
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        outputs = ", ".join(str(output) for output, other in enumerate(names) if other == name)
        raise UsageError(
            f"The teacher's outputs {outputs} are all named {name!r}: a student's classes have a name each.",
            "Name them by their numbers in --class-map FILE.toml, which lists all that are wanted: [classes], then "
            f'lines "{names.index(name)}" = "{name}".',
        )
    return TeacherClasses(names, _palette(names, info, mapped=class_map is not None))


def load_images(config: RunConfig, classes: TeacherClasses | None) -> DataSource:
    """Find the images, and the labeled val split that scores them where a data set is given.

    Args:
        config: with `data.images`.
        classes: the teacher's; None where a data set names them.

    Raises:
        UsageError, DataError: if there is no such folder, or nothing in it.
    """
    data = config.data
    if data.name != NAME:
        return with_unlabeled_training(load_data(data.name), data.images)
    assert classes is not None, "a teacher that is loaded has classes"
    return unlabeled_source(data.images, classes.names, classes.palette, held_back=data.held_back)


def refuse_what_needs_labels(config: RunConfig, options: Options, teacher: Teacher | None) -> None:
    """Refuse what has no meaning where images have no labels, before anything is read.

    Args:
        config: with `data.images`.
        options: the command line's.
        teacher: None of one that is named by its network.

    Raises:
        UsageError: with the command that helps.
    """
    if teacher is None:
        raise UsageError(
            f"--images trains without a label, and {config.teacher.network} is a network to be trained on some.",
            "Give --teacher as a run's folder, a model file or SCHEME:WHERE; `segdistill train-teacher --data DATA` "
            "trains one.",
        )
    if teacher.is_label_assisted:
        raise UsageError(
            "This teacher is label-assisted: it sees the label beside the image, and --images has none.",
            "Give a plain teacher.",
        )
    if options.baseline is not None:
        raise UsageError(
            "--baseline trains the student on labels, and --images has none.",
            "Leave --baseline out. With labels for a part of the images: --data DATA --unlabeled DIR --baseline steps",
        )
    if config.data.unlabeled:
        raise UsageError(
            "--unlabeled mixes images into labeled ones, and --images trains on images without labels alone.",
            "Give all folders by --images, or all by --unlabeled beside --data DATA.",
        )


def without_counted_weights(context: RunContext) -> RunContext:
    """Return the context without class weights that are counted from labels, where the training has none to count.

    The recipes of some networks have such weights, so that a word is enough.
    """
    weights = context.config.loss.class_weights
    if "train" not in context.data.unlabeled or not isinstance(weights, str) or weights == "none":
        return context
    context.reporter.info(f"Class weights {weights} are left out: they count labels, and there are none.")
    return context.with_config(context.config.changed(**{"loss.class_weights": "none"}))


def labeled_by(teacher: Teacher, context: RunContext) -> RunContext:
    """Return a context whose held-back images have the teacher's answers for labels: what scores are then is agreement.

    Each process asks for its share of the images.
    """
    data, runtime = context.data, context.runtime
    if "val" not in data.unlabeled or context.options.dry_run:
        return context
    val = data.split("val")

    def label() -> list[bytes]:
        with context.reporter.progress("teacher's answers, held-back images", len(val.names)) as advance:
            labels = label_images(
                teacher,
                val,
                len(data.classes),
                context.config.teacher.threshold,
                runtime.exact(),
                workers=runtime.workers,
                rank=distributed.rank(),
                world=distributed.world_size(),
                on_image=lambda count: advance(count, ""),
            )
            return list(labels)

    parts = distributed.run_on_all(label)
    # process r has labeled the images r, r + world, r + 2 * world and so on
    labels = tuple(parts[index % len(parts)][index // len(parts)] for index in range(len(val.names)))
    splits = {**data.splits, "val": PredictedSplit(val, labels)}
    return replace(context, data=replace(data, splits=splits))


def _palette(names: tuple[str, ...], info: "ModelInfo", *, mapped: bool) -> Palette:
    """Return the teacher's own colors where its classes are these; others where it has none."""
    if not mapped and len(info.palette) == len(names):
        return info.palette
    return colors(range(1, len(names) + 1))  # the color of 0 is black, which stands for ignored pixels here
