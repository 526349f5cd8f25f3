"""What every training command starts from: what was asked for, the data, and a place to work, all checked."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from segdistill import __version__, distributed
from segdistill.checkpoint import model_path
from segdistill.config import LARGEST_SIZE, RunConfig
from segdistill.data import (
    AUXILIARY,
    DataSource,
    check_files,
    load_data,
    mixture,
    shared_memory_shortage,
    take_census,
)
from segdistill.engine import resolve_device, resolve_precision
from segdistill.errors import DataError, UsageError
from segdistill.store import check_folder, recover, sha256_of
from segdistill.talk import Silence, Talk
from segdistill.terms import check_terms
from segdistill.training import EVAL_BATCH, Workplace

MANY = 300
"""Images that take a moment to read."""
FEW = 16
"""Pairs of a split that tell at once of a mistake that is in all of them."""


@dataclass(frozen=True)
class Options:
    """What a command was asked for beside the configuration."""

    out: Path | None = None
    device: str = "auto"
    workers: int | None = None
    resume: bool = False
    overwrite: bool = False
    dry_run: bool = False
    pretrained: bool = False
    backbone_weights: Path | None = None
    init_weights: Path | None = None
    baseline: Literal["steps", "time"] | None = None
    """Also train the plain student: for as many steps, or for as long."""
    accept_teacher: bool = False
    """Follow the teacher even where the check before the start refuses it."""
    files: tuple[tuple[str, Path], ...] = ()
    """Other files that the command line names, such as a preset, each with its flag."""
    seeds: int = 1
    """How many students, from the configuration's seed upwards."""
    command: tuple[str, ...] = ()
    """The command line, without the program's name."""
    again: str = ""
    """The command that continues this run."""


@dataclass(frozen=True)
class Setting:
    """What every training command starts from."""

    config: RunConfig
    options: Options
    data: DataSource
    place: Workplace


@contextmanager
def prepared(config: RunConfig, options: Options, talk: Talk, *, unlabeled: bool) -> Iterator[Setting]:
    """Check everything that can be checked before networks are built and files are read: flags, device, terms, data.

    Args:
        config: resolved.
        options: the rest of the command line.
        talk: where to talk.
        unlabeled: the training has a use for images without labels.
    """
    if options.resume and options.overwrite:
        raise UsageError("--resume continues a run, --overwrite replaces it: give one of them.")
    if options.resume and options.out is None:
        raise UsageError("Which run is to be continued?", "Add --out DIR, the folder that the run named at its start.")
    if config.seed + options.seeds > LARGEST_SIZE:
        raise UsageError(
            f"--seeds {options.seeds} from seed {config.seed} upwards: the largest seed is {LARGEST_SIZE - 1}.",
            "Choose a smaller --seed.",
        )
    if options.out is not None and not options.dry_run and distributed.is_main():
        if options.resume and recover(options.out):
            talk.warn(
                f"The run that was to replace the one in {options.out} had not reached its first checkpoint: "
                "--overwrite begins it again. The one before is untouched, and --resume goes on with that."
            )
        check_folder(options.out, resume=options.resume, overwrite=options.overwrite)
    device = distributed.local_device(resolve_device(options.device))
    precision = resolve_precision(config.precision, device)
    check_terms(config.terms)
    with distributed.process_group(device):
        talk = talk if distributed.is_main() else Silence()
        workers = options.workers if options.workers is not None else default_workers()
        place = Workplace(device, precision, workers, talk, config.validate_.batch_size or EVAL_BATCH)
        parts = distributed.world_size() * config.optim.accumulate
        if shortage := shared_memory_shortage(config.data, workers, parts):
            talk.warn(shortage)
        data = mixture(load_data(config.data.name), config.data, unlabeled=unlabeled)
        for warning in data.warnings:
            talk.warn(warning)
        if AUXILIARY in data.splits and config.data.auxiliary_images == config.data.batch_size:
            talk.warn("No batch has an image of the training split beside those mixed in: lower data.auxiliary_share.")
        _check_alike(config, options, data)
        _check_batch(config, device)
        yield Setting(config, options, data, place)


def with_files_read(setting: Setting) -> Setting:
    """Read every file of the data, warn of what is unusual, and return a setting whose data is known by its content.

    Raises:
        DataError: naming the files that cannot be used; where many of them cannot, after the first few. In all
            processes, if the files of one machine are not those of another.
    """

    def read() -> dict[str, str] | None:
        return _read_files(setting.data, setting.place.talk) if distributed.is_first_here() else None

    found = distributed.from_each(read)
    contents = found[0] or {}
    others = [str(number) for number, own in enumerate(found) if own is not None and own != contents]
    if others:
        raise distributed.for_all(
            DataError(
                f"Process {', '.join(others)} reads other images or label maps than process 0, under the same names.",
                "Copy the data set to each machine again; `segdistill data check` reads every file.",
            )
        )
    return replace(setting, data=replace(setting.data, contents=contents))


def default_workers() -> int:
    """Return the number of loader processes per training process: one for each core but one, at most eight."""
    return min(8, max(1, distributed.cores() // distributed.world_size() - 1))


def with_out(options: Options, out: Path) -> Options:
    """Return options that know the run's folder and the command that continues it."""
    words = [word for word in options.command if word not in ("--resume", "--overwrite")]
    words += [] if any(word == "--out" or word.startswith("--out=") for word in words) else ["--out", str(out)]
    world = distributed.world_size()
    program = ["segdistill"] if world == 1 else ["torchrun", f"--nproc-per-node={world}", "-m", "segdistill"]
    return replace(options, out=out, again=options.again or shlex.join([*program, *words, "--resume"]))


def weights_used(options: Options) -> str:
    """Return which weights a backbone starts from: none, ImageNet's, or a file's sha256."""
    if options.backbone_weights is not None:
        return sha256_of(options.backbone_weights)
    return "imagenet" if options.pretrained else "none"


def init_weights_used(options: Options) -> str:
    """Return which model a student starts from: none, or a file's sha256."""
    return "none" if options.init_weights is None else sha256_of(model_path(options.init_weights))


def _read_files(data: DataSource, talk: Talk) -> dict[str, str]:
    """Read every file, warn of what is unusual, and return what identifies them."""
    images = sum(len(split.names) for split in data.splits.values())
    many = images > MANY and not data.generated
    if many:
        try:
            check_files(data, data.splits, at_most=FEW)
        except DataError as error:
            raise DataError(error.what, f"{error.fix}\n`segdistill data check` reads every file.".lstrip()) from None
    shown = talk if many else Silence()
    with shown.progress(f"reading {data.name}", images) as advance:
        census = take_census(data, data.splits, lambda count: advance(count, ""))
    for warning in census.warnings:
        talk.warn(warning)
    if census.error is not None:  # warnings come first: they may name its cause
        raise census.error
    return census.contents


def _check_alike(config: RunConfig, options: Options, data: DataSource) -> None:
    """Refuse processes that were given different settings, or that see different data.

    Raises:
        UsageError: in all processes, naming those with other settings than the first.
        DataError: in all processes, naming those with other names or sizes of files than the first.
    """
    if distributed.world_size() == 1:
        return
    table = config.changed(**{"data.name": data.name, "data.unlabeled": []}).to_dict()
    given = {key: table[key] for key in sorted(table)} | {
        "--resume": options.resume,
        "--overwrite": options.overwrite,
        "--dry-run": options.dry_run,
        "--baseline": options.baseline,
        "--seeds": options.seeds,
        "--accept-teacher": options.accept_teacher,
        "--pretrained or --backbone-weights": weights_used(options),
        "--init-weights": init_weights_used(options),
        "segdistill": __version__,
    }
    everybody = distributed.gather((given, data.fingerprint))
    for number, (own, fingerprint) in enumerate(everybody):
        first = everybody[0][0]
        changed = [key for key in first if own.get(key) != first[key]]
        if changed:
            what = f"Process {number} was given other settings than process 0: {', '.join(changed)}."
            raise distributed.for_all(UsageError(what, "Start all processes with the same command and version."))
        if fingerprint != everybody[0][1]:
            what = f"Process {number} sees other data than process 0: other files, or of other sizes."
            raise distributed.for_all(DataError(what, "Give all machines the same data set."))


def _check_batch(config: RunConfig, device: torch.device) -> None:
    """Refuse a batch that batch norm cannot take: one value per channel in the pyramid's 1x1 bin."""
    world = distributed.world_size()
    parts = world * config.optim.accumulate
    if config.data.batch_size % parts:
        raise UsageError(
            f"A batch of {config.data.batch_size} does not divide into {world} process(es) times "
            f"{config.optim.accumulate} micro-batch(es).",
            "Choose data.batch_size as a multiple of their product.",
        )
    together = 1 if device.type == "cpu" else world  # batch norm is synchronised across GPUs
    if config.data.batch_size // parts * together < 2:
        raise UsageError(
            "Batch norm needs at least 2 images at a time; this run would give it 1.",
            "Raise data.batch_size, or lower optim.accumulate or the number of processes.",
        )
