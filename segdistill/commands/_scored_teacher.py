"""A teacher as `evaluate` opens it: of any kind, in the classes of the data, as it would be shown its images.

So that a teacher is chosen before a student is trained, its score here is the one that `distill` would print of it, at
the same size.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segdistill.checkpoints.model_file import ModelInfo
from segdistill.commands._load_teacher import in_data_classes, load_teacher
from segdistill.commands._model import LoadedModel
from segdistill.config.checking import validated
from segdistill.config.overrides import assign, parse_override
from segdistill.config.presets import read_class_map
from segdistill.config.schema import InputConfig, TeacherConfig
from segdistill.data import DataSource
from segdistill.deployment.graph_file import is_exported
from segdistill.errors import UsageError
from segdistill.evaluation.predictor import predictor
from segdistill.runtime.precision import resolve_device, resolve_precision
from segdistill.runtime.reporter import Reporter
from segdistill.teachers.external import parse_external
from segdistill.teachers.views import PLAIN, Views, views_of

INPUT_KEYS = "teacher.input."
EXAMPLE = "teacher.input.mean=[127.5,127.5,127.5]"
DataOf = Callable[[ModelInfo], DataSource]


@dataclass(frozen=True)
class TeacherOptions:
    """Options that a teacher alone has."""

    class_map: Mapping[str, str] | None = None
    """Classes of the teacher to those of the data; None where they are the same."""
    input: InputConfig | None = None
    """Normalization of its images, where that is not what it says itself."""
    views: Views = PLAIN
    """Views that it is shown of each image."""

    def to_json(self) -> dict[str, Any]:
        """Return what was asked for, for `evaluate --json`."""
        table: dict[str, Any] = {}
        if self.class_map is not None:
            table["class_map"] = dict(self.class_map)
        if not self.views.is_plain:
            table |= {"scales": list(self.views.scales), "flip": self.views.flip}
        return table


def teacher_options(
    class_map: Path | None, scales: tuple[float, ...], overrides: Iterable[str], *, flip: bool
) -> TeacherOptions:
    """Return the options of a teacher, checked as the table [teacher] of a preset is.

    Args:
        class_map: file that `--class-map` names.
        scales: factors by which its images are enlarged.
        overrides: "KEY=VALUE" strings; keys of `teacher.input`.
        flip: whether it sees each image mirrored, too.

    Raises:
        UsageError: for a key of something else than its images, and for values that a preset could not have.
    """
    table: dict[str, Any] = {"network": "any", "scales": list(scales), "flip": flip}
    for text in overrides:
        key, value = parse_override(text, example=EXAMPLE)
        if not key.startswith(INPUT_KEYS):
            raise UsageError(
                f"--set {text}: `evaluate` takes the keys of {INPUT_KEYS}* alone.", f"For example --set {EXAMPLE}"
            )
        assign(table, key.removeprefix("teacher."), value, source=f"--set {key}")
    config = validated(TeacherConfig, table, "--scales, --set")
    return TeacherOptions(
        class_map=None if class_map is None else read_class_map(class_map),
        input=config.input,
        views=views_of(config),
    )


def is_teacher(model: str, options: TeacherOptions) -> bool:
    """Whether MODEL is one that only a teacher can be: of another library, or with options that are a teacher's.

    An .onnx file that `segdistill export` wrote is a model like any other, unless it is asked for as a teacher.
    """
    if options.class_map is not None or options.input is not None or not options.views.is_plain:
        return True
    if parse_external(model) is None:
        return False
    path = Path(model)
    return not (path.is_file() and is_exported(path))


def open_teacher(
    model: str, options: TeacherOptions, data_of: DataOf, *, device: str, precision: str, reporter: Reporter
) -> tuple[LoadedModel, DataSource]:
    """Open a teacher as one of the models that can be scored, with the data whose classes it then speaks of.

    Args:
        model: as it was typed.
        options: the teacher's.
        data_of: finds the data, given the teacher's header.
        device: as `--device` takes it.
        precision: as `--precision` takes it.
        reporter: is told how many outputs mean how many classes.

    Raises:
        UsageError: if there is no such teacher, its classes are others, or it cannot be shown its images like that.
        ModelError: if it cannot be used.
    """
    resolved_device = resolve_device(device)
    resolved_precision = resolve_precision(precision, resolved_device)
    teacher = load_teacher(model, options.input, device, reporter).shown(options.views)
    data = data_of(teacher.info)
    teacher = in_data_classes(teacher, options.class_map, data.classes, reporter)
    # The header in the data's classes: what follows counts its outputs, and names its classes.
    mapped = {"classes": data.classes, "palette": data.palette, "void_output": None}
    loaded = LoadedModel(
        path=Path(model),
        info=teacher.info.model_copy(update=mapped),
        predict=predictor(teacher.network, resolved_precision),
        device=resolved_device,
        precision=resolved_precision.name,
        network=teacher.network,
    )
    return loaded, data
