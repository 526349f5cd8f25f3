"""Pretraining stages: what a term has trained before the student, kept in the run's folder and found again.

A stage depends on the teacher and the images, not on the student. So runs of the same teacher share it: its weights are
kept with a key of all that they depend on, and taken from any run whose file has that key.
"""

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from segdistill.checkpoints.tensors import weights_digest, write_safetensors
from segdistill.commands._context import RUNS, RunContext
from segdistill.config.schema import DataConfig, OptimConfig
from segdistill.errors import ModelError
from segdistill.runtime import distributed
from segdistill.storage.atomic import write_atomic
from segdistill.storage.run_files import pretrained_files, pretrained_names
from segdistill.storage.run_folder import RunFolder
from segdistill.storage.weights import check_header
from segdistill.teachers.teacher import Teacher
from segdistill.training.jobs import PretrainingJob
from segdistill.training.last_state import stage_reached
from segdistill.training.objectives import Distillation
from segdistill.training.trainer import pretrain
from segdistill.types import Stage, Term
from segdistill.wording import counted

KEYS_SINCE_0_1 = ("schedule", "drops", "drop", "clip", "ema", "cutmix")
"""Keys of optimizer and data that version 0.1 did not know: at their defaults they change nothing, nor a file's key."""


@dataclass(frozen=True)
class Found:
    """A file with the weights of a stage."""

    path: Path


class Missing:
    """No file has the weights of a stage: it is trained."""


class Lost:
    """The weights of a stage that this run has gone on with are gone."""


def run_pretraining(context: RunContext, folder: RunFolder, objective: Distillation, teacher: Teacher) -> None:
    """Train or find what the terms need beforehand, and keep it in the run's folder; a dry run goes without.

    Raises:
        ModelError: if the run has gone on with a stage whose weights are gone.
    """
    reached = _stage_reached(context, folder)
    passed = reached is not None  # stages before the one that the last checkpoint is of
    for term in objective.terms.values():
        assert isinstance(term, Term)
        assert objective.teacher is not None  # terms have one
        torch.manual_seed(context.config.seed)
        for stage in term.pretraining_stages(objective.teacher):
            if context.options.dry_run:
                steps = stage.optim.steps
                context.reporter.info(f"{stage.name}: would be trained first, {counted(steps, 'step')}, unless found.")
                continue
            passed = passed and reached != stage.name
            _run_stage(context, folder, stage, teacher, passed=passed, under_way=reached == stage.name)


def _stage_reached(context: RunContext, folder: RunFolder) -> str | None:
    """Return the stage that a resumed run's last checkpoint is of; None where it has none."""
    found = stage_reached(folder) if context.options.resume else None
    reached: str | None = distributed.broadcast_object(found)
    return reached


def _run_stage(
    context: RunContext, folder: RunFolder, stage: Stage, teacher: Teacher, *, passed: bool, under_way: bool
) -> None:
    key = cache_key(context, stage, teacher)
    resolved = distributed.broadcast_object(resolve(context, stage, key, passed=passed, under_way=under_way))
    if isinstance(resolved, Lost):
        raise ModelError(
            f"{file_of(context.out, stage)} is gone or damaged, and the run has gone on with it.",
            "Restore it, or start a new run.",
        )
    if isinstance(resolved, Found):
        seconds = load(resolved.path, stage)
        run = resolved.path.parent.name
        context.reporter.info(f"{stage.name}: that of {run}, trained before for this teacher.")
    else:
        context.reporter.info(
            f"{stage.name}: trained first, {counted(stage.optim.steps, 'step')}, and kept for this teacher."
        )
        job = PretrainingJob(stage, context.config, context.data)
        seconds = pretrain(
            job,
            folder,
            context.runtime,
            resume=context.options.resume,
            command=context.resume_command,
        )
    # where a run is replaced, its file is in the old run's folder, and the new one keeps its own
    if folder.writes and resolved != Found(file_of(folder.path, stage)):
        keep(file_of(folder.path, stage), stage, key, seconds)


def resolve(context: RunContext, stage: Stage, key: str, *, passed: bool, under_way: bool) -> Found | Missing | Lost:
    """Look for a stage's weights.

    Args:
        context: of the student.
        stage: whose weights are looked for.
        key: `cache_key` of the stage.
        passed: whether the run has gone on from this stage. Then its own file counts, whatever its key: it may have
            been trained in another precision, of which the user was warned.
        under_way: whether the run's last checkpoint is of this stage. Then no other run's file counts, as the run would
            not end as if it had not been stopped.
    """
    runs = [context.out]
    if not (passed or under_way):
        beside = context.out.parent
        runs += [beside, *sorted(RUNS.glob("*/")), *sorted(beside.glob("*/"))]
    path = find(stage, None if passed else key, runs)
    if path is not None:
        return Found(path)
    return Lost() if passed else Missing()


def cache_key(context: RunContext, stage: Stage, teacher: Teacher) -> str:
    """Return a sha256 of all that the stage's weights depend on, the order of the images aside."""
    data = _known_or_said(context.config.data)
    for name in ("name", "unlabeled", "images", "held_back"):
        del data[name]
    parts = {
        "stage": stage.name,
        "shapes": {name: list(tensor.shape) for name, tensor in stage.model.state_dict().items()},
        "teacher": teacher.identity,
        "images": [context.verified_data.fingerprint, data],
        "optim": _known_or_said(stage.optim),
        "precision": context.runtime.precision.name,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _known_or_said(config: OptimConfig | DataConfig) -> dict[str, Any]:
    """Return a configuration's keys; those that version 0.1 did not know only where they say something."""
    table = config.model_dump(mode="json")
    for key in KEYS_SINCE_0_1:
        if key in table and table[key] == type(config).model_fields[key].default:
            del table[key]
    return table


def keep(path: Path, stage: Stage, key: str, seconds: float) -> None:
    """Write a trained stage's weights to `file_of` a run."""
    weights = stage.model.state_dict()
    header = {"key": key, "sha256": weights_digest(weights), "seconds": str(seconds)}
    metadata = {"segdistill-stage": json.dumps(header)}
    write_atomic(path, lambda file: write_safetensors(file, weights, metadata))


def file_of(run: Path, stage: Stage) -> Path:
    """Return the file of a stage in a run's folder: that of version 0.1 where it alone is there."""
    paths = [run / name for name in pretrained_names(stage.name)]
    return next((path for path in paths if path.exists()), paths[0])


def find(stage: Stage, key: str | None, runs: Iterable[Path]) -> Path | None:
    """Return a file of that stage, with that key or any, in one of the runs' folders; damaged ones are passed over."""
    for run in runs:
        path = file_of(run, stage)
        header = _header(path)
        if header and key in (None, header["key"]) and _holds(path, header["sha256"], stage):
            return path
    return None


def _holds(path: Path, sha256: str, stage: Stage) -> bool:
    """Whether a file has the weights of that digest, and they are such as the stage's."""
    try:
        weights = safetensors.torch.load_file(path)
    except (SafetensorError, OSError):
        return False
    shapes = {name: tensor.shape for name, tensor in stage.model.state_dict().items()}
    return (
        weights_digest(weights) == sha256
        and {name: tensor.shape for name, tensor in weights.items()} == shapes
        and all(bool(tensor.isfinite().all()) for tensor in weights.values())
    )


def load(path: Path, stage: Stage) -> float:
    """Fill the stage's model from a file that `find` returned; return the seconds its training took."""
    stage.model.load_state_dict(safetensors.torch.load_file(path))
    return float(_header(path)["seconds"])


def pretraining_seconds(run: Path) -> float:
    """Return the seconds that the stages kept in a run's folder took to train, there or in another run."""
    return sum(float(_header(path).get("seconds", 0)) for path in pretrained_files(run))


def _header(path: Path) -> dict[str, str]:
    """Return what a stage's file says of it; nothing where it is not whole."""
    try:
        check_header(path)
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("segdistill-stage", "{}"))
    except (ModelError, SafetensorError, OSError, ValueError, RecursionError):
        return {}
    try:
        seconds = float(header["seconds"])
        are_texts = all(isinstance(header[name], str) for name in ("key", "sha256"))
    except (KeyError, TypeError, ValueError):
        return {}
    return header if are_texts and 0 <= seconds < math.inf else {}
