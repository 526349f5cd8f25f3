"""Which teacher: the one that was given, or the newest finished run that trained this network so on this data."""

import json
import tomllib
from pathlib import Path
from typing import Any

import torch

from segdistill.checkpoint import ModelInfo, load_model, model_path
from segdistill.config import RunConfig
from segdistill.data import DataSource
from segdistill.errors import UsageError
from segdistill.label_codes import check_kind
from segdistill.networks import SegNetwork
from segdistill.record import describe_data
from segdistill.setting import Options, Setting, weights_used

RUNS = Path("runs")


def is_path(text: str) -> bool:
    """Whether a teacher is given as a run's folder or a file, not by its network's name."""
    return Path(text).exists() or "/" in text or text.endswith((".safetensors", ".onnx"))


def given_teacher(setting: Setting, text: str) -> tuple[SegNetwork, ModelInfo]:
    """Load the teacher from a path, before anything is written."""
    network, info = load_model(model_path(Path(text)))
    check_kind(info, setting.config)
    _check_classes(info.classes, setting.data)
    return network.to(setting.place.device, torch.float32), info


def find_teacher(setting: Setting) -> tuple[Path, bool] | None:
    """Return the newest teacher run under `runs/` with this recipe on this data, and whether it is finished."""
    wanted, data = teacher_recipe(setting.config.to_dict(), setting.options), describe_data(setting.data)
    found = []
    for file in RUNS.glob("*/config.toml"):
        folder = file.parent
        try:
            kind = json.loads((folder / "environment.json").read_text())
            own = teacher_recipe(tomllib.loads(file.read_text()), setting.options) | {"weights": kind["weights"]}
            same = (
                kind["kind"] == "teacher" and own == wanted and json.loads((folder / "data.json").read_text()) == data
            )
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if same:
            finished = (folder / "manifest.json").exists()
            found.append((finished, file.stat().st_mtime, folder))
    if not found:
        return None
    finished, _, folder = max(found)
    return folder, finished


def teacher_recipe(table: dict[str, Any], options: Options) -> dict[str, Any]:
    """Return all of a configuration that a teacher's weights depend on."""
    config = RunConfig.model_validate(table)
    data = config.data.model_dump(exclude={"name", "unlabeled", "auxiliary", "auxiliary_share"})
    teacher = config.teacher.model_dump(exclude={"steps", "lr", "aux_weight"})
    recipe = {"teacher": teacher, "data": data, "optim": config.teacher_optim().model_dump()}
    return recipe | {
        "aux": config.teacher_aux_weight(),
        "seed": config.seed,
        "precision": config.precision,
        "weights": weights_used(options),
    }


def _check_classes(classes: tuple[str, ...], data: DataSource) -> None:
    if classes != data.classes:
        raise UsageError(
            f"The teacher's classes are not those of {data.name}.\n"
            f"  teacher ({len(classes)}): {', '.join(classes)}\n"
            f"  {data.name} ({len(data.classes)}): {', '.join(data.classes)}",
            "Train a teacher on this data (`segdistill train-teacher`), or give the data it was trained on.",
        )
