"""Which teacher: the one that was given, or the newest finished run that trained this network so on this data."""

import json
import os
from pathlib import Path
from typing import Any

import torch

from segdistill import distributed
from segdistill.checkpoint import ModelInfo, load_model, model_path
from segdistill.class_map import in_classes_of, meaning_of, resolve_class_map
from segdistill.config import RunConfig, read_toml
from segdistill.data import AUXILIARY
from segdistill.engine import resolve_device
from segdistill.errors import UsageError
from segdistill.foreign import is_foreign, load_foreign, uri
from segdistill.networks import SegNetwork
from segdistill.reading import read_file
from segdistill.record import describe_data
from segdistill.setting import Options, Setting, weights_used
from segdistill.talk import Talk

RUNS = Path("runs")


def is_given(text: str) -> bool:
    """Whether a teacher is given ready-made (a run's folder, a file, SCHEME:WHERE), not by its network's name.

    Raises:
        UsageError: if it is SCHEME:WHERE with an unknown scheme.
    """
    return uri(text) is not None or Path(text).exists() or "/" in text or text.endswith(".safetensors")


def open_teacher(text: str, config: RunConfig, options: Options, talk: Talk) -> tuple[SegNetwork, ModelInfo]:
    """Load a teacher that is given, before images are read or anything is written."""
    place = uri(text)
    if place is None:
        network, info = load_model(model_path(Path(text)))
        if config.teacher.input is not None and config.teacher.input.over(network.images) != network.images:
            talk.warn("teacher.input changes nothing: the teacher's file says how it wants its images.")
        return network, info
    device = distributed.local_device(resolve_device(options.device))
    network, info, notes = load_foreign(*place, config.teacher.input, device)
    for note in notes if distributed.is_main() else ():
        talk.say(f"Teacher: {note}")
    return network, info


def adopted(setting: Setting, network: SegNetwork, info: ModelInfo) -> tuple[RunConfig, tuple[SegNetwork, ModelInfo]]:
    """Return a given teacher, made to speak of the classes of the data, and the configuration that says what it is.

    Raises:
        UsageError: if it is of other classes, without a class map.
    """
    config, data, talk = setting.config, setting.data, setting.place.talk
    table = config.teacher.class_map
    if table is not None:
        table = resolve_class_map(table, info.classes, data.classes)
    meaning, warning = meaning_of(info, table, data.classes)
    if warning:
        talk.warn(warning)
    seen = in_classes_of(network, meaning)
    if seen is not network:
        talk.say(f"Teacher: {meaning.in_words()}")
    if info.label_assisted and seen is not network:
        raise UsageError(
            "A label-assisted teacher reads labels, so its classes are the data's, in their order.",
            "Give the data it was trained on.",
        )
    if is_foreign(info.network.network):
        info = _sized(info, config, talk)
    own = {f"teacher.{key}": value for key, value in info.network.model_dump().items()}
    codes = None if info.label_codes is None else info.label_codes.model_dump()
    config = config.changed(**own, **{"teacher.label_codes": codes, "teacher.class_map": table})
    return config, (seen.to(setting.place.device, torch.float32), info)


def _sized(info: ModelInfo, config: RunConfig, talk: Talk) -> ModelInfo:
    """Score a teacher from elsewhere on images of its own size, or of the data's where it does not say one."""
    taught = config.data.size
    if info.size is None or info.size == taught:
        return info.model_copy(update={"size": taught})
    scored, seen = ("x".join(map(str, size)) if size else "their own size" for size in (info.size, taught))
    talk.say(f"Teacher: it is scored on images at {scored}, as it wants them; it teaches on crops of images at {seen}.")
    return info


def runs_beside(out: Path) -> Path:
    """Return the folder in which the teacher of a run is trained: `runs/` here, or beside a run that lies elsewhere.

    So the way from the one to the other, which the run keeps, names nothing of this machine.
    """
    return RUNS if out.resolve().is_relative_to(Path.cwd()) else out.parent


def find_teacher(setting: Setting, out: Path) -> tuple[Path, bool] | None:
    """Return a teacher run with this recipe on this data, and whether it is finished.

    The one that the run in `out` keeps the way to comes first, then finished ones, then newer ones: of those under
    `runs/` and beside `out`, where that lies elsewhere.
    """
    data, mixed = describe_data(setting.data), AUXILIARY in setting.data.splits
    wanted = teacher_recipe(setting.config.to_dict(), setting.options, mixed=mixed)
    found = []
    kept = _kept(out)
    folders = dict.fromkeys(file.parent for runs in (RUNS, runs_beside(out)) for file in runs.glob("*/config.toml"))
    for folder in [*([kept] if kept else []), *folders]:
        file = folder / "config.toml"
        try:
            kind = json.loads(read_file(folder / "environment.json"))
            own = teacher_recipe(read_toml(file), setting.options, mixed=mixed) | {"weights": kind["weights"]}
            same = kind["kind"] == "teacher" and own == wanted and json.loads(read_file(folder / "data.json")) == data
        except (OSError, ValueError, KeyError, TypeError, RecursionError, UsageError):
            continue
        if same:
            finished = (folder / "manifest.json").exists()
            found.append((folder == kept and finished, finished, file.stat().st_mtime, folder))
    if not found:
        return None
    _, finished, _, folder = max(found)
    return folder, finished


def _kept(out: Path) -> Path | None:
    """Return where the run in a folder had its teacher trained; None where it does not say so."""
    try:
        way = json.loads(read_file(out / "environment.json")).get("teacher_run")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return Path(os.path.normpath(out / way)) if isinstance(way, str) else None


def teacher_recipe(table: dict[str, Any], options: Options, *, mixed: bool) -> dict[str, Any]:
    """Return all of a configuration that the weights of a teacher depend on; `mixed` if it sees auxiliary images."""
    config = RunConfig.model_validate(table)
    unused = {"name", "unlabeled", "auxiliary"} | (set() if mixed else {"auxiliary_share"})
    data = config.data.model_dump(exclude=unused)
    teacher = config.teacher.model_dump(exclude={"steps", "lr", "aux_weight"})
    recipe = {"teacher": teacher, "data": data, "optim": config.teacher_optim().model_dump()}
    return recipe | {
        "aux": config.teacher_aux_weight(),
        "seed": config.seed,
        "precision": config.precision,
        "weights": weights_used(options),
    }
