"""What a term had trained before the student: kept in the run's folder, found again for the same teacher and data."""

import hashlib
import json
import math
from collections.abc import Iterable
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError, safe_open

from segdistill.checkpoint import ModelInfo, identity, weights_digest, write_safetensors
from segdistill.errors import ModelError
from segdistill.networks._weights import check_header
from segdistill.setting import Setting
from segdistill.store import PREPARED, prepared_in, write_atomic
from segdistill.types import Stage


def key_of(setting: Setting, stage: Stage, teacher: ModelInfo) -> str:
    """Return a sha256 of all that the stage's weights depend on, the order of the images aside."""
    data = setting.config.data.model_dump(mode="json", exclude={"name", "unlabeled"})
    parts = {
        "stage": stage.name,
        "shapes": {name: list(tensor.shape) for name, tensor in stage.model.state_dict().items()},
        "teacher": identity(teacher, setting.config.teacher.class_map),
        "images": [setting.data.fingerprint, data],
        "optim": stage.optim.model_dump(),
        "precision": setting.place.precision.name,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def keep(path: Path, stage: Stage, key: str, seconds: float) -> None:
    """Write a trained stage's weights."""
    assert PREPARED.fullmatch(path.name), f"store.PREPARED does not know {path.name} as a run's own file"
    weights = stage.model.state_dict()
    header = {"key": key, "sha256": weights_digest(weights), "seconds": str(seconds)}
    metadata = {"segdistill-stage": json.dumps(header)}
    write_atomic(path, lambda file: write_safetensors(file, weights, metadata))


def find(stage: Stage, key: str | None, runs: Iterable[Path]) -> Path | None:
    """Return a file of that stage, with that key or any, in one of the runs' folders; damaged ones are passed over."""
    for run in runs:
        path = run / f"{stage.name}.safetensors"
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


def seconds_in(run: Path) -> float:
    """Return the seconds that what is kept in a run's folder took to train, there or elsewhere."""
    return sum(float(_header(path).get("seconds", 0)) for path in prepared_in(run))


def _header(path: Path) -> dict[str, str]:
    try:
        check_header(path)
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("segdistill-stage", "{}"))
    except (ModelError, SafetensorError, OSError, ValueError, RecursionError):
        return {}
    try:
        took = float(header["seconds"])
        known = all(isinstance(header[name], str) for name in ("key", "sha256")) and 0 <= took < math.inf
    except (KeyError, TypeError, ValueError):
        return {}
    return header if known else {}
