"""Continue a run by its folder alone, or train a finished one for longer."""

from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any, Literal

from segdistill.commands._json_file import read_table
from segdistill.commands._lengthening import Lengthening, lengthenings, optim_of, sentence, with_steps
from segdistill.commands._recorded_run import RecordedRun, read_run
from segdistill.commands._recorded_settings import recorded_flags
from segdistill.commands._results import Outcome
from segdistill.commands.distill import distill
from segdistill.commands.train_teacher import train_teacher
from segdistill.config.overrides import parse_override
from segdistill.errors import UsageError
from segdistill.runtime import distributed
from segdistill.runtime.reporter import Reporter
from segdistill.storage.folder_checks import check_folder
from segdistill.storage.replacement import recover


@dataclass(frozen=True)
class ResumeOptions:
    """What may be said beside the run's folder; None leaves it as the run had it."""

    steps: int | None = None
    """Steps of the schedule: more than a finished run had lengthen it."""
    data: str | None = None
    """Data set as `--data` takes it, where it lies elsewhere by now."""
    teacher: str | None = None
    """Teacher as `--teacher` takes it, where it lies elsewhere by now."""
    baseline: Literal["steps", "time"] | None = None
    """Baseline that is added."""
    seeds: int | None = None
    """Number of students, with those that are added."""
    overrides: tuple[str, ...] = ()
    """Texts "KEY=VALUE" of keys that are no part of a run."""
    accept_teacher: bool = False
    device: str | None = None
    workers: int | None = None
    resume_command: str = ""
    """What continues the run; empty where that is `segdistill resume`."""

    @property
    def said(self) -> dict[str, Any]:
        """Fields of a `LocalRecord` that are other than they were."""
        names = ("data", "teacher", "baseline", "seeds", "device", "workers")
        said = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return said | {"accept_teacher": True} if self.accept_teacher else said


@dataclass(frozen=True)
class Resumed:
    """A run that was continued, and what came of it."""

    run: RecordedRun
    outcome: Outcome


def resume(path: Path, options: ResumeOptions, reporter: Reporter) -> Resumed:
    """Continue a run as the command did that began it, or train a finished one for longer.

    Args:
        path: folder of the run.
        options: what is other than it was.
        reporter: tells the user what happens.

    Raises:
        UsageError: if there is no run, or it cannot be continued like that; nothing was written then.
        SegdistillError: whatever its training ends with.
    """
    distributed.run_on_main(lambda: _check_folder(path, reporter))
    run = read_run(path, options.said)
    config = run.config
    for text in options.overrides:
        key, value = parse_override(text)
        config = config.changed(**{key: value})
    run, lengthened_from = _lengthened(replace(run, config=config), options, reporter)
    command = replace(
        run.local.options(path),
        is_recorded=True,
        derivation=recorded_flags(path),
        lengthened_from=lengthened_from,
        resume_command=options.resume_command,
    )
    if run.kind == "teacher":
        return Resumed(run, train_teacher(run.config, command, reporter))
    return Resumed(run, distill(run.config, run.local.teacher, command, reporter))


def _check_folder(path: Path, reporter: Reporter) -> None:
    """Refuse a folder without a run, and bring one in order in which a run was killed that was to replace another."""
    if path.is_dir() and recover(path):
        reporter.warning(
            f"The run that was to replace the one in {path} had not reached its first checkpoint: "
            "--overwrite begins it again. The one before is untouched, and is continued."
        )
    if not (path / "config.toml").is_file():
        problem = "it has no config.toml" if path.is_dir() else "there is no such folder"
        if path.is_file():
            problem = "it is a file"
        raise UsageError(
            f"There is no run to continue in {path}: {problem}.",
            "Give the folder of a run, which it named at its start: segdistill resume runs/NAME",
        )
    check_folder(path, resume=True, overwrite=False)


def _lengthened(run: RecordedRun, options: ResumeOptions, reporter: Reporter) -> tuple[RecordedRun, int | None]:
    """Return the run with the steps that it is to have, and those of its schedule before, if it had another.

    Raises:
        UsageError: if it is not to be lengthened like that.
    """
    known = lengthenings(run.path)
    if known:  # the folder says so first, and a kill may have come before its config.toml did
        run = _with_steps(run, known[-1].after)
        _refuse_additions(run, options)
    steps = optim_of(run.config, run.kind).steps
    if options.steps is None or options.steps == steps:
        return run, known[-1].before if known else None
    _check_lengthening(run, options, steps)
    run = _with_steps(run, options.steps)
    if distributed.is_main():
        reporter.info(sentence(Lengthening(steps, options.steps), optim_of(run.config, run.kind)))
    return run, steps


def _with_steps(run: RecordedRun, steps: int) -> RecordedRun:
    return replace(run, config=with_steps(run.config, run.kind, steps))


def _check_lengthening(run: RecordedRun, options: ResumeOptions, steps: int) -> None:
    """Refuse another schedule for a run that is not at the end of its own, or would not follow it."""
    anew = f"Start a new run from its weights, with --init-weights {run.path} and another --out."
    if options.steps is not None and options.steps < steps:
        raise UsageError(f"--steps {options.steps} is less than the {steps} steps of {run.path}.", anew)
    _refuse_additions(run, options)
    unfinished = [part for part in run.parts if not (part / "manifest.json").exists()]
    if unfinished:
        raise UsageError(
            f"{unfinished[0]} is not finished: a run gets a longer schedule once its {steps} steps are done.",
            f"First: segdistill resume {quote(str(run.path))}",
        )
    patience = run.config.validate_.patience
    if patience:
        raise UsageError(
            f"{run.path} has validate.patience={patience}, which decides when its training ends, and not the steps.",
            anew,
        )


def _refuse_additions(run: RecordedRun, options: ResumeOptions) -> None:
    """Refuse further seeds, or a baseline, where the others had two schedules: theirs would be another."""
    recorded = read_table(run.path / "environment.json")
    # fewer seeds, or another baseline, are changes of the run, which are told as those of any run are
    seeds = recorded.get("seeds")
    adds_seeds = options.seeds is not None and isinstance(seeds, int) and options.seeds > seeds
    adds_baseline = options.baseline is not None and not recorded.get("baseline")
    additions = (("--seeds", options.seeds, adds_seeds), ("--baseline", options.baseline, adds_baseline))
    for flag, value, is_added in additions:
        if is_added:
            raise UsageError(
                f"{flag} {value} would be trained by another schedule than what {run.path} has, which is lengthened.",
                "Leave it out, or give it before a run is lengthened.",
            )
