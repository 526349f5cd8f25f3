"""Settings that follow from the images: derived once, when a run begins, and taken from its folder when it goes on."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from segdistill.commands._context import RunContext
from segdistill.commands._measured_settings import Trainings, measured_batch, steps_in_minutes
from segdistill.commands._recorded_settings import recorded_settings
from segdistill.config.derivation import (
    CPU,
    GPU,
    MAX_EPOCHS,
    Derivation,
    Derived,
    Images,
    Limits,
    Size,
    batch_setting,
    image_settings,
    in_words,
    interval_settings,
    length_setting,
    stage_settings,
    with_derived,
)
from segdistill.config.schema import RunConfig
from segdistill.data import AUXILIARY, VerifiedData, shared_memory_shortage
from segdistill.networks import resolve
from segdistill.runtime import distributed
from segdistill.terms import gradient_ratios, stage_tables
from segdistill.wording import counted

Measure = Callable[[RunConfig, Literal["batch", "steps"]], list[Derived]]


def with_derived_settings(context: RunContext, trainings: Trainings) -> RunContext:
    """Return the context with settings that follow from its data, and say what each follows from.

    Args:
        context: with data whose files were read.
        trainings: what the command trains.

    Raises:
        UsageError: if no step fits into the memory or the minutes.
    """
    record: dict[str, str] | None = distributed.run_on_main(lambda: recorded_settings(context.options))
    if record is None:
        derived = _derive(context, trainings)
        record = {setting.key: setting.reason for setting in derived}
        _show(context, derived)
        context = context.with_config(with_derived(context.config, derived))
    context = context.with_derived(record)
    _warn(context)
    runtime, parts = context.runtime, distributed.world_size() * context.config.optim.accumulate
    shortage = shared_memory_shortage(context.config.data, runtime.workers, parts)
    if shortage:
        context.reporter.warning(shortage)
    return context


def images_of(data: VerifiedData) -> Images:
    """Return what the scan of a data set found of its images."""
    training = data.split("train")
    return Images(data.report.splits["train"].sizes, len(training.names), len(data.split("val").names))


class Conditions(NamedTuple):
    """Where a run computes, as far as settings depend on that."""

    on_gpu: bool
    processes: int
    has_auxiliary: bool
    """Whether images are mixed into the batches that are not counted in epochs."""

    @property
    def limits(self) -> Limits:
        """What the device is given to do at most."""
        return GPU if self.on_gpu else CPU


def settings_from(
    config: RunConfig,
    derivation: Derivation,
    images: Images,
    conditions: Conditions,
    measure: Measure = lambda config, what: [],
) -> list[Derived]:
    """Return all settings that follow from the images.

    Args:
        config: of the preset.
        derivation: what is left to be decided.
        images: what the scan found.
        conditions: of the run.
        measure: returns the batch that fits into memory, or the steps that fit into minutes, for a configuration; the
            default measures nothing.
    """
    keys, limits = derivation.keys, conditions.limits
    found = image_settings(config, keys, images, _stride(config), limits)
    found += batch_setting(config, keys, images, conditions.processes * config.optim.accumulate, limits)
    if derivation.fits_memory:
        found += measure(with_derived(config, found), "batch")
    sized = with_derived(config, found)
    labeled = _labeled_per_step(sized, has_auxiliary=conditions.has_auxiliary)
    found += length_setting(sized, derivation, images, labeled, limits)
    if derivation.max_minutes is not None:
        found += measure(with_derived(config, found), "steps")
    timed = with_derived(config, found)
    found += interval_settings(timed, keys, images)
    stages = {f"terms.{name}.{key}.steps": table.steps for (name, key), table in stage_tables(config).items()}
    found += stage_settings(config.optim.steps, stages, keys, timed.optim.steps)
    return list({setting.key: setting for setting in found}.values())  # the last one of each


def balanced_terms(config: RunConfig, derivation: Derivation) -> list[Derived]:
    """Return the `gradient_ratio` of each term whose weight was chosen for other networks or data.

    Args:
        config: with the networks that are used.
        derivation: what the weights were chosen for.
    """
    networks = {"student": config.student.network, "teacher": config.teacher.network}
    is_own = derivation.is_own_data and (not derivation.own_networks or networks == derivation.own_networks)
    is_wanted = config.balance_terms if config.balance_terms is not None else not is_own
    if not is_wanted:
        return []
    reason = "as balance_terms asks"
    if config.balance_terms is None:
        reason = f"the weight is for {'other networks' if derivation.is_own_data else 'other data'}"
    ratios = gradient_ratios(config.terms)
    return [
        Derived(f"terms.{name}.gradient_ratio", ratios[name], reason)
        for name, term in config.terms.items()
        if name in derivation.preset_weights and term.weight > 0 and term.gradient_ratio is None
    ]


def _derive(context: RunContext, trainings: Trainings) -> list[Derived]:
    """Return all settings that are derived, those that are measured included."""
    derivation, config, data = context.options.derivation, context.config, context.verified_data

    def measure(config: RunConfig, what: Literal["batch", "steps"]) -> list[Derived]:
        if what == "batch":
            return measured_batch(context.with_config(config), trainings)
        assert derivation.max_minutes is not None
        return steps_in_minutes(context.with_config(config), trainings, derivation.max_minutes)

    on_gpu = context.runtime.device.type == "cuda"
    conditions = Conditions(on_gpu, distributed.world_size(), AUXILIARY in data.splits)
    found = settings_from(config, derivation, images_of(data), conditions, measure)
    if trainings.student and "train" not in data.unlabeled:  # without labels there is nothing to compare with
        found += balanced_terms(config, derivation)
    return found


def _labeled_per_step(config: RunConfig, *, has_auxiliary: bool) -> int:
    return max(1, config.data.batch_size - (config.data.auxiliary_images if has_auxiliary else 0))


def _stride(config: RunConfig) -> int:
    """Return the larger output stride of the networks that are built here; an external teacher's is not known."""
    strides = [resolve(config.student).output_stride, config.teacher.output_stride]
    return max(stride for stride in strides if stride is not None)


def _show(context: RunContext, derived: list[Derived]) -> None:
    changes = [setting for setting in derived if not setting.key.endswith(".gradient_ratio")]
    if changes:
        rows = [(setting.key, f"{_in_words(setting.value)}: {setting.reason}") for setting in changes]
        context.reporter.banner(f"settings for {context.data.name}, from its images", rows)


def _warn(context: RunContext) -> None:
    """Warn of a length and a crop that nobody wants, where the user, or a preset for other images, says so."""
    config, data = context.config, context.verified_data
    images, crop, size = images_of(data), config.data.crop, config.data.size
    labeled = _labeled_per_step(config, has_auxiliary=AUXILIARY in data.splits)
    epochs = config.optim.steps * labeled / max(1, images.training)
    if epochs > MAX_EPOCHS:
        context.reporter.warning(
            f"{counted(config.optim.steps, 'step')} show each of {images.training} training images {epochs:.0f} times: "
            "--epochs 50 is usual."
        )
    if context.options.derivation.is_own_data and "data.size" not in context.derived:
        return  # the preset's recipe for this data
    if size is not None and (crop[0] > size[0] or crop[1] > size[1]):
        _warn_of_crop(context, crop, f"the images at {in_words(size)}")
    elif size is None and 2 * images.below(crop) > sum(images.sizes.values()):
        _warn_of_crop(context, crop, f"most images ({images.in_words()})")


def _warn_of_crop(context: RunContext, crop: Size, images: str) -> None:
    context.reporter.warning(
        f"The crop of {in_words(crop)} is larger than {images}: the rest is filled up. Choose a smaller data.crop, or "
        "leave it out."
    )


def _in_words(value: Any) -> str:
    if value is None:
        return "as they are"
    if not isinstance(value, list):
        return str(value)
    is_size = all(isinstance(number, int) for number in value)
    return ("x" if is_size else " to ").join(map(str, value))
