"""A run as its folder tells it: what it trains, by which settings, and where on this machine its data and teacher are.

What is said now on the command line takes the place of what the folder says.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any, Literal

from segdistill.commands._json_file import read_table
from segdistill.commands._local_record import LocalRecord, data_is_gone, read_local, refuse_recorded_code
from segdistill.commands._run_record import PARTS_OF_A_RUN
from segdistill.commands._settings import part_folders, recorded_config
from segdistill.config.registry import BUILT_IN, data_example
from segdistill.config.schema import RunConfig
from segdistill.data.unlabeled import NAME
from segdistill.errors import UsageError
from segdistill.storage.run_files import LOCAL

Kind = Literal["teacher", "student"]
OF_A_DISTILLATION = ("teacher", "baseline", "seeds")
"""Fields of a record that a teacher's run has no use for."""


@dataclass(frozen=True)
class RecordedRun:
    """A run's folder, and all that its command needs."""

    path: Path
    kind: Kind
    config: RunConfig
    """With the paths of its data."""
    local: LocalRecord

    @property
    def parts(self) -> list[Path]:
        """Folders of the run's seeds, and of their baselines."""
        seeds = range(self.config.seed, self.config.seed + self.local.seeds)
        return part_folders(self.path, seeds, with_baselines=bool(self.local.baseline))


def read_run(path: Path, said: Mapping[str, Any]) -> RecordedRun:
    """Read what a run's folder says of it.

    Args:
        path: the folder, which has a config.toml.
        said: fields of the `LocalRecord` that are other now.

    Raises:
        UsageError: if it is no run of its own, or nothing says where its data or teacher is.
        ModelError: if its files are damaged.
    """
    kind = _kind_of(path)
    for name in OF_A_DISTILLATION:
        if kind == "teacher" and name in said:
            raise UsageError(f"--{name} is of a distillation, and {path} trains a teacher.", "Leave it out.")
    config = recorded_config(path)
    local = read_local(path) or _without_record(path, kind, config, said)
    if "teacher" not in said:
        refuse_recorded_code(local.teacher, path)
    local = replace(local, **said)
    if local.data != NAME and not local.data_is_there():
        raise data_is_gone(path, local.data, f"segdistill resume {quote(str(path))}")
    return RecordedRun(path, kind, local.in_config(config), local)


def _kind_of(run: Path) -> Kind:
    """Return what a run trains.

    Raises:
        UsageError: if it is a part of another, or trained nothing.
    """
    kind = read_table(run / "environment.json").get("kind")
    if kind in PARTS_OF_A_RUN:
        part = "of a further seed" if kind == "seed" else f"the {kind}"
        raise UsageError(
            f"{run} is {part} of another run, and continued with it.",
            f"Continue that: segdistill resume {quote(str(run.resolve().parent))}",
        )
    if kind not in ("teacher", "student"):
        raise UsageError(f"{run} holds no training that could be continued: its kind is {kind}.", "Give another run.")
    return "teacher" if kind == "teacher" else "student"


def _without_record(run: Path, kind: Kind, config: RunConfig, said: Mapping[str, Any]) -> LocalRecord:
    """Return what is known of a run that has no local.json: it is of an earlier version, or was given away.

    Raises:
        UsageError: if that and what is said do not suffice, with what is missing.
    """
    recorded = read_table(run / "environment.json")
    weights = recorded.get("weights", "none")
    given_files = {
        "--images": bool(config.data.images),
        "--unlabeled": bool(config.data.unlabeled),
        "--init-weights": recorded.get("init_weights", "none") != "none",
        "--backbone-weights": weights not in ("none", "imagenet"),
    }
    unknown = [flag for flag, is_used in given_files.items() if is_used]
    if unknown:
        raise UsageError(
            f"{run} has no {LOCAL}, which says where that lies which the run was given by {', '.join(unknown)}.",
            f"Give the command that began it, with --preset {run / 'config.toml'} --out {run} --resume",
        )
    missing = []
    if config.data.name != BUILT_IN and "data" not in said:
        missing.append(f"--data {data_example(config.data.name)}")
    if kind == "student" and "teacher_run" not in recorded and "teacher" not in said:
        missing.append("--teacher TEACHER")
    if missing:
        raise UsageError(
            f"{run} has no {LOCAL}, which says where its data and teacher lie: it is of an earlier version, or was "
            "copied without it.",
            f"Say it: segdistill resume {quote(str(run))} {' '.join(missing)}",
        )
    seeds, baseline = recorded.get("seeds"), recorded.get("baseline")
    return LocalRecord(
        data=config.data.name,
        teacher="" if kind == "teacher" else config.teacher.network,
        pretrained=weights == "imagenet",
        baseline=baseline if baseline in ("steps", "time") else "",
        seeds=seeds if isinstance(seeds, int) else 1,
    )
