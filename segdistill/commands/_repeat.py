"""A run's config.toml as a preset: with the local.json beside it, it finds the data again, or repeats the run alone."""

from dataclasses import replace
from pathlib import Path

from segdistill.commands._configuration import ConfigFlags
from segdistill.commands._context import Options
from segdistill.commands._local_record import LocalRecord, read_local_beside, refuse_recorded_code
from segdistill.errors import UsageError
from segdistill.runtime.reporter import Reporter


def repeated(flags: ConfigFlags, options: Options, reporter: Reporter) -> tuple[ConfigFlags, Options]:
    """Return the flags and options of a distillation that names no networks: those of the run whose config.toml it has.

    Who names one of the two wants the settings for another run: the other network is the run's, the data is found by
    `resolve_settings`, and no option is taken over.

    Raises:
        UsageError: if a network is missing, and no run's folder names it; if a folder names a teacher that is code.
    """
    if flags.teacher is not None and flags.student is not None:
        return flags, options
    record = read_local_beside(flags.preset)
    if record is None or not record.teacher:
        missing = "--teacher" if flags.teacher is None else "--student"
        raise UsageError(
            f"No {missing} given.",
            "For example: segdistill distill --teacher pspnet50 --student resnet18. A run's config.toml with its "
            "local.json beside it names both: --preset runs/NAME/config.toml",
        )
    if flags.teacher is not None:
        return flags, options
    run = Path(flags.preset).parent
    refuse_recorded_code(record.teacher, run)
    if flags.student is not None:
        return replace(flags, teacher=record.teacher), options
    reporter.info(f"Repeats {run}: teacher {record.teacher}, data {', '.join(record.images) or record.data}.")
    return replace(flags, teacher=record.teacher), _with_recorded_options(options, record)


def repeated_teacher(flags: ConfigFlags, options: Options) -> Options:
    """Return the options of a teacher's training: those of the run whose config.toml it has, where that names none."""
    record = read_local_beside(flags.preset)
    if record is None or record.teacher or flags.teacher is not None:
        return options
    return _with_recorded_options(options, record)


def _with_recorded_options(options: Options, record: LocalRecord) -> Options:
    """Return options with what a run was given, where nothing else is said."""
    recorded = record.options(None)
    return replace(
        options,
        pretrained=options.pretrained or recorded.pretrained,
        backbone_weights=options.backbone_weights or recorded.backbone_weights,
        init_weights=options.init_weights or recorded.init_weights,
        baseline=options.baseline or recorded.baseline,
        seeds=max(options.seeds, recorded.seeds),
        accept_teacher=options.accept_teacher or recorded.accept_teacher,
    )
