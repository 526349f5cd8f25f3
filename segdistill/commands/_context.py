"""Options of a training command, and the RunContext that follows from them."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from segdistill.config.derivation import Derivation
from segdistill.config.schema import RunConfig
from segdistill.data import DataSource, VerifiedData, verify_data
from segdistill.runtime import distributed
from segdistill.runtime.reporter import LoggingReporter, Reporter
from segdistill.teachers.external_spec import names_code
from segdistill.training.jobs import Runtime

RUNS = Path("runs")
"""Folder of the runs that were given no `--out`."""
MAX_DEFAULT_WORKERS = 8


@dataclass(frozen=True)
class Options:
    """Options of a training command beside the configuration."""

    out: Path | None = None
    """Folder of the run; None takes the next free one under runs/."""
    device: str = "auto"
    workers: int | None = None
    """Loader processes per training process; None takes one for each core but one."""
    resume: bool = False
    overwrite: bool = False
    dry_run: bool = False
    pretrained: bool = False
    """Whether backbones start from ImageNet weights."""
    backbone_weights: Path | None = None
    """File of the weights that a backbone starts from."""
    init_weights: Path | None = None
    """Model file that the student starts from."""
    baseline: Literal["steps", "time"] | None = None
    """Whether the baseline is trained too: for as many steps as the distilled student, or for as long."""
    accept_teacher: bool = False
    """Whether a teacher is followed that fails its check."""
    files: tuple[tuple[str, Path], ...] = ()
    """Other files that the command line names, such as a preset, each with its flag."""
    seeds: int = 1
    """Number of students, from the configuration's seed upwards."""
    teacher: str = ""
    """Teacher as `--teacher` takes it; empty of a command that trains one."""
    command: tuple[str, ...] = ()
    """Words of the command line, without the program's name."""
    derivation: Derivation = field(default_factory=Derivation)
    """What of the configuration is left to be decided once the images are known: nothing, unless it says so."""
    resume_command: str = ""
    """What continues the run; empty where that is `segdistill resume`."""
    restart_command: str = ""
    """What begins it again, in the place of what it has done; empty where that is `command` with --overwrite."""
    is_recorded: bool = False
    """The configuration is that of the run's own folder: all that was derived is in it."""
    lengthened_from: int | None = None
    """Steps of the schedule that the run had come to the end of before it got its present one; None of most runs."""


@dataclass(frozen=True)
class RunContext:
    """The checked start of a training command: nothing in it is missing any more."""

    config: RunConfig
    options: Options
    data: DataSource
    runtime: Runtime
    out: Path
    """Folder of the run, the same in all processes."""
    resume_command: str
    """Command that continues the run."""
    restart_command: str
    """Command that begins it again, in the place of what it has done."""
    further_seed: int | None = None
    """Seed of a student beyond the first one."""
    derived: Mapping[str, str] = field(default_factory=dict)
    """Settings that follow from the images, by their paths, and what each follows from."""

    @property
    def reporter(self) -> Reporter:
        """The way to tell the user something."""
        return self.runtime.reporter

    @property
    def seeds(self) -> range:
        """Seeds of the students."""
        return range(self.config.seed, self.config.seed + self.options.seeds)

    @property
    def images_per_process(self) -> int:
        """Images of one step in each process, over all its micro-batches."""
        return self.config.data.batch_size // distributed.world_size()

    @property
    def verified_data(self) -> VerifiedData:
        """The data, once `with_verified_data` has read its files."""
        assert isinstance(self.data, VerifiedData), "the files were not read yet"
        return self.data

    def with_verified_data(self) -> "RunContext":
        """Return the context with data whose files were read; see `verify_data`."""
        return replace(self, data=verify_data(self.data, self.reporter))

    def for_seed(self, seed: int) -> "RunContext":
        """Return the context of a student with this seed; the first one's folder is the run's own."""
        if seed == self.config.seed:
            return self
        return replace(self, config=self.config.changed(seed=seed), out=self.out / f"seed-{seed}", further_seed=seed)

    def with_config(self, config: RunConfig) -> "RunContext":
        """Return the context with another configuration."""
        return replace(self, config=config)

    def with_derived(self, derived: Mapping[str, str]) -> "RunContext":
        """Return the context of a run whose configuration has settings that follow from the images."""
        return replace(self, derived=derived)

    def for_baseline(self, steps: int) -> "RunContext":
        """Return the context of the baseline of this student: no terms, and as many steps as it is allowed."""
        # nor labels that a teacher gives
        config = self.config.changed(terms={}, **{"optim.steps": steps, "teacher.targets": "soft"})
        return replace(self, config=config, out=self.out / "baseline")

    def logging_to(self, reporter: LoggingReporter) -> "RunContext":
        """Return the context with a reporter that also writes the run's log."""
        return replace(self, runtime=replace(self.runtime, reporter=reporter))


def default_workers() -> int:
    """Return the number of loader processes per training process: one for each core but one, at most eight."""
    return min(MAX_DEFAULT_WORKERS, max(1, distributed.cores() // distributed.world_size() - 1))


def command_to_resume(options: Options, out: Path) -> str:
    """Return the command that continues a run: its folder knows all else."""
    more = []
    if names_code(options.teacher):  # code runs only where a command line names it
        more = ["--teacher", options.teacher]
    return shlex.join([*program(), "resume", str(out), *more])


def command_again(options: Options, out: Path, flag: str) -> str:
    """Return a command as it was typed, with --resume or --overwrite, and with the folder of the run."""
    words = [word for word in options.command if word not in ("--resume", "--overwrite")]
    if not any(word == "--out" or word.startswith("--out=") for word in words):
        words += ["--out", str(out)]
    return shlex.join([*program(), *words, flag])


def program() -> list[str]:
    """Return the words that start this program, in as many processes as there are now."""
    world = distributed.world_size()
    return ["segdistill"] if world == 1 else ["torchrun", f"--nproc-per-node={world}", "-m", "segdistill"]
