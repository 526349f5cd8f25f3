"""The configuration that a training command would use, with the source of each value: what --print-config prints."""

from segdistill.commands._configuration import Settings
from segdistill.commands._derived_settings import Conditions, balanced_terms, images_of, settings_from
from segdistill.commands._label_free import TeacherClasses, load_images
from segdistill.commands.show_preset import text_with_sources
from segdistill.config.derivation import Derived, with_derived
from segdistill.config.schema import RunConfig
from segdistill.data import AUXILIARY, VerifiedData, load_data, verify_data, with_auxiliary_split
from segdistill.errors import SegdistillError
from segdistill.runtime import distributed
from segdistill.runtime.precision import resolve_device
from segdistill.runtime.reporter import Reporter

ANY_CLASSES = TeacherClasses(("any", "other"), ((0, 0, 0), (255, 255, 255)))
"""Classes of images without labels, whose sizes alone count here."""
UNREAD = "and derived from the images when the run begins"
"""What is said of a value where the images cannot be read."""


def settings_text(settings: Settings, reporter: Reporter, device: str, *, trains_student: bool) -> str:
    """Return a resolved configuration as a preset, each value with its source.

    The data is read where settings follow from it; where it cannot be, the preset's values stand there.

    Args:
        settings: of the command line.
        reporter: is told why the data cannot be read.
        device: as `--device` takes it.
        trains_student: whether it is of a command that trains students, whose terms are balanced.

    Raises:
        UsageError: if the device is unknown or missing here, or the images make more steps of the epochs than can be.
    """
    config, derivation, origins = settings.config, settings.derivation, dict(settings.origins)
    on_gpu = resolve_device(device).type == "cuda"
    derived: list[Derived] = []
    if derivation.keys or derivation.epochs is not None:
        try:
            data = _read(config, reporter)
        except SegdistillError as error:
            reporter.warning(f"{error.what} So values that follow from the images are the preset's here.")
            origins |= {key: f"{origins.get(key, 'default')}, {UNREAD}" for key in derivation.keys}
        else:
            conditions = Conditions(on_gpu, distributed.world_size(), AUXILIARY in data.splits)
            derived = settings_from(config, derivation, images_of(data), conditions)
    if trains_student and not config.data.images:
        derived += balanced_terms(config, derivation)
    origins |= {setting.key: f"derived: {setting.reason}" for setting in derived}
    if derivation.max_minutes is not None:
        origins["optim.steps"] = f"{origins.get('optim.steps', 'default')}, and fewer if --max-minutes asks for it"
    return text_with_sources(with_derived(config, derived), origins)


def _read(config: RunConfig, reporter: Reporter) -> VerifiedData:
    if config.data.images:
        data = load_images(config, ANY_CLASSES)
    else:
        data = with_auxiliary_split(load_data(config.data.name), config.data, unlabeled=True)
    return verify_data(data, reporter)
