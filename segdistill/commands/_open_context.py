"""The start of a training command: flags, device, terms and data, checked before networks are built and files read."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segdistill.commands._context import RUNS, Options, RunContext, command_again, command_to_resume, default_workers
from segdistill.commands._label_free import TeacherClasses, load_images
from segdistill.commands._process_checks import check_batch, check_processes
from segdistill.commands._recorded_settings import recorded_values
from segdistill.config.schema import LARGEST_SIZE, RunConfig
from segdistill.data import AUXILIARY, DataSource, load_data, with_auxiliary_split
from segdistill.errors import UsageError
from segdistill.runtime import distributed
from segdistill.runtime.precision import resolve_device, resolve_precision
from segdistill.runtime.reporter import NullReporter, Reporter
from segdistill.storage.folder_checks import check_folder
from segdistill.storage.replacement import recover
from segdistill.storage.run_files import next_folder
from segdistill.terms import check_terms
from segdistill.training.class_weights import check_class_weights
from segdistill.training.jobs import EVAL_BATCH, Runtime


@contextmanager
def open_context(
    config: RunConfig,
    options: Options,
    reporter: Reporter,
    *,
    stem: str,
    unlabeled: bool,
    classes: TeacherClasses | None = None,
) -> Iterator[RunContext]:
    """Check everything that can be checked before networks are built and files are read: flags, device, terms, data.

    Args:
        config: resolved.
        options: the rest of the command line.
        reporter: of this process; those but the first are silent.
        stem: name of the run's folder under runs/, but for its number, where no folder was given.
        unlabeled: whether the training has a use for images without labels.
        classes: the teacher's, where images without labels are all that there is.
    """
    _check_flags(config, options)
    if options.out is not None and not options.dry_run and distributed.is_main():
        _check_out(options.out, options, reporter)
    device = distributed.local_device(resolve_device(options.device))
    precision = resolve_precision(config.precision, device)
    check_terms(config.terms)
    with distributed.process_group(device):
        if not distributed.is_main():
            reporter = NullReporter()
        # the values alone: that processes have the settings of the first one is checked, and not made so
        config = config.changed(**distributed.run_on_main(lambda: recorded_values(options)))
        workers = default_workers() if options.workers is None else options.workers
        runtime = Runtime(device, precision, workers, reporter, config.validate_.batch_size or EVAL_BATCH)
        data = load_images(config, classes) if config.data.images else _load_data(config, reporter, unlabeled=unlabeled)
        for loss in (config.loss, config.teacher_loss()):
            check_class_weights(loss, data.classes)
        # the folder's number is looked up by one process: another could find one more folder a moment later
        out = options.out or distributed.broadcast_object(next_folder(RUNS, stem))
        resume_command = options.resume_command or command_to_resume(options, out)
        restart_command = options.restart_command or command_again(options, out, "--overwrite")
        context = RunContext(config, options, data, runtime, out, resume_command, restart_command)
        check_processes(context)
        check_batch(config, device)
        yield context


def _check_flags(config: RunConfig, options: Options) -> None:
    if options.resume and options.overwrite:
        raise UsageError("--resume continues a run, --overwrite replaces it: give one of them.")
    if options.resume and options.out is None:
        raise UsageError("--resume needs --out DIR.", "DIR is the folder that the run named at its start.")
    if config.seed + options.seeds > LARGEST_SIZE:
        raise UsageError(
            f"--seeds {options.seeds} from seed {config.seed} upwards: the largest seed is {LARGEST_SIZE - 1}.",
            "Choose a smaller --seed, or fewer --seeds.",
        )


def _check_out(out: Path, options: Options, reporter: Reporter) -> None:
    if options.resume and recover(out):
        reporter.warning(
            f"The run that was to replace the one in {out} had not reached its first checkpoint: "
            "--overwrite begins it again. The one before is untouched, and --resume goes on with that."
        )
    check_folder(out, resume=options.resume, overwrite=options.overwrite)


def _load_data(config: RunConfig, reporter: Reporter, *, unlabeled: bool) -> DataSource:
    data = with_auxiliary_split(load_data(config.data.name), config.data, unlabeled=unlabeled)
    for warning in data.warnings:
        reporter.warning(warning)
    if AUXILIARY in data.splits and config.data.auxiliary_images == config.data.batch_size:
        reporter.warning(
            f"data.auxiliary_share={config.data.auxiliary_share:g} leaves no labeled image in a batch: lower it."
        )
    return data
