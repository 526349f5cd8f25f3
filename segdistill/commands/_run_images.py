"""The images without labels that a run was scored by, and its teacher, where local.json says that they lie."""

from pathlib import Path
from typing import NamedTuple

from segdistill.checkpoints.model_file import ModelInfo
from segdistill.commands._local_record import read_local, refuse_recorded_code
from segdistill.commands._scored_teacher import TeacherOptions
from segdistill.config.checking import validated
from segdistill.config.schema import RunConfig
from segdistill.config.toml import read_toml
from segdistill.data import DataSource
from segdistill.data.unlabeled import NAME, unlabeled_source
from segdistill.errors import UsageError
from segdistill.runtime.reporter import Reporter
from segdistill.storage.run_files import LOCAL
from segdistill.teachers.views import views_of


class RecordedImages(NamedTuple):
    """What a run without labels was scored by: images that it held back, and the teacher that it agreed with."""

    data: DataSource
    """Its val split are the images."""
    folders: tuple[Path, ...]
    teacher: str
    """As `--teacher` takes it."""
    options: TeacherOptions


def recorded_images(model: Path, info: ModelInfo, reporter: Reporter) -> RecordedImages | None:
    """Return what a run without labels was scored by; None of another run, and where its folder does not know it.

    Args:
        model: as it was named on the command line.
        info: the model's header.
        reporter: is told where the images lie.

    Raises:
        UsageError: if the images are gone from where they were.
    """
    record = read_local(model) if model.is_dir() and info.data == NAME else None
    if record is None or not record.images:
        return None
    missing = [folder for folder in record.images if not Path(folder).is_dir()]
    if missing:
        raise UsageError(
            f"The images of {model} are gone from where {model / LOCAL} has them: {', '.join(missing)}",
            "Add --images DIR, a folder of such images (evaluate: with --teacher T), or --data with labels of its "
            "classes.",
        )
    path = model / "config.toml"
    config = validated(RunConfig, read_toml(path), str(path))
    data = unlabeled_source(record.images, info.classes, info.palette, held_back=config.data.held_back)
    reporter.info(f"Images: {len(data.split('val').names)} of {', '.join(record.images)}, held back from the training.")
    options = TeacherOptions(config.teacher.class_map, config.teacher.input, views_of(config.teacher))
    return RecordedImages(data, tuple(map(Path, record.images)), record.teacher, options)


def recorded_teacher(images: RecordedImages, model: Path, *, named: str) -> str:
    """Return the teacher that a run is compared with: the one that is named now, or the recorded one.

    Raises:
        UsageError: if none is known, or it is code that no command line names.
    """
    if named:
        return named
    refuse_recorded_code(images.teacher, model)
    return images.teacher
