"""A pretrained teacher of any kind, loaded and made to speak of the data's classes, to be followed or only scored."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from segdistill.checkpoints.model_file import load_model, model_path
from segdistill.config.schema import InputConfig
from segdistill.errors import UsageError
from segdistill.runtime import distributed
from segdistill.runtime.precision import resolve_device
from segdistill.runtime.reporter import Reporter
from segdistill.teachers.class_map import match_classes, resolve_class_map
from segdistill.teachers.external import load_external, parse_external
from segdistill.teachers.remapped import remap_network
from segdistill.teachers.teacher import Teacher


def load_teacher(spec: str, wanted: InputConfig | None, device: str, reporter: Reporter) -> Teacher:
    """Load a run's model, a model file, or SCHEME:WHERE of another library.

    Args:
        spec: as `--teacher` takes it, but no network's name.
        wanted: how its images are normalized, where that is not what an external teacher says itself.
        device: as `--device` takes it.
        reporter: is told what was taken for granted.

    Raises:
        UsageError: if there is no such teacher, or an extra is missing.
        ModelError: if it cannot be used.
    """
    external = parse_external(spec)
    if external is None:
        network, info = load_model(model_path(Path(spec)))
        if wanted is not None and wanted.over(network.images) != network.images:
            reporter.warning("teacher.input changes nothing: the teacher's file says how it wants its images.")
        return Teacher(network, info)
    teacher, messages = load_external(external, wanted, distributed.local_device(resolve_device(device)))
    if distributed.is_main():
        for message in messages:
            reporter.info(f"Teacher: {message}")
    return teacher


def in_data_classes(
    teacher: Teacher, class_map: Mapping[str, str] | None, classes: Sequence[str], reporter: Reporter
) -> Teacher:
    """Return a teacher whose outputs are the classes of the data, with the class map in the spelling of both sides.

    Args:
        teacher: in its own classes.
        class_map: from its classes to the data's; None where they are the same.
        classes: names of the data's.
        reporter: is told how many outputs mean how many classes.

    Raises:
        UsageError: if it is of other classes, without a class map; if the map has mistakes.
    """
    info = teacher.info
    if class_map is not None:
        class_map = resolve_class_map(class_map, info.classes, classes)
    mapping, warning = match_classes(info, class_map, classes)
    if warning:
        reporter.warning(warning)
    network = remap_network(teacher.network, mapping)
    if network is teacher.network:
        return replace(teacher, class_map=class_map)
    reporter.info(f"Teacher: {mapping.summary()}")
    if info.label_assisted:
        raise UsageError(
            "A label-assisted teacher reads labels, so its classes are the data's, in their order.",
            "Give the data it was trained on.",
        )
    return replace(teacher, network=network, class_map=class_map)
