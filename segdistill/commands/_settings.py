"""What a run's folder records of its circumstances: configuration, data, environment."""

import platform
from pathlib import Path
from typing import Any

import torch

from segdistill.commands._context import Options, RunContext
from segdistill.commands._initial_weights import initial_file
from segdistill.config.checking import validated
from segdistill.config.derivation import Derivation
from segdistill.config.schema import RunConfig
from segdistill.config.toml import read_toml
from segdistill.data import VerifiedData
from segdistill.errors import ModelError, UsageError
from segdistill.runtime import distributed
from segdistill.runtime.conditions import conditions
from segdistill.runtime.versions import cpu_name, versions
from segdistill.storage.files import sha256_of
from segdistill.terms import check_terms

DERIVED = "derived"
"""Key of environment.json: settings that follow from the images, by their paths, and what each follows from."""
CONTENT = "content_sha256"
"""Key of data.json: what the files hold, without their names, which a data.toml has by paths that may be absolute."""
SCHEDULE_FLAGS = "schedule_flags"
"""Key of environment.json: flags that say how long a run is, and that its configuration does not hold."""


def folder_config(context: RunContext) -> dict[str, Any]:
    """Return the resolved configuration as a run's folder keeps it: what a run is, wherever and however it runs.

    Data sets and folders are there by name, without paths: a folder may be moved or given away. How many images a
    validation takes at once is left out, as it changes no number.
    """
    data = context.config.data
    portable = {
        "data.name": context.data.name,
        "data.unlabeled": [Path(path).name for path in data.unlabeled],
        "data.images": [Path(path).resolve().name for path in data.images],
        "validate.batch_size": None,
    }
    return context.config.changed(**portable).to_dict()


def recorded_config(run: Path) -> RunConfig:
    """Return the configuration that a run's folder keeps.

    Raises:
        ModelError: if there is none that this version understands.
    """
    path = run / "config.toml"
    try:
        config = validated(RunConfig, read_toml(path), str(path))
        check_terms(config.terms)
    except UsageError as error:
        raise ModelError(f"The run in {run} cannot be continued: {error.what}", "Start a new one.") from None
    return config


def part_folders(run: Path, seeds: range, *, with_baselines: bool) -> list[Path]:
    """Return the folders of a run's seeds, the first of which is its own, and of their baselines."""
    folders = [run, *(run / f"seed-{seed}" for seed in seeds[1:])]
    return [*folders, *(folder / "baseline" for folder in folders)] if with_baselines else folders


def describe_data(data: VerifiedData) -> dict[str, Any]:
    """Return what identifies the data, wherever it lies."""
    return {
        "name": data.name,
        "classes": list(data.classes),
        "images": {name: len(split.names) for name, split in data.splits.items()},
        "sha256": data.fingerprint,
        CONTENT: data.content_fingerprint,
    }


def is_same_data(recorded: Any, data: VerifiedData) -> bool:
    """Whether a run's data.json is of this data, be its folders or files named otherwise now.

    Runs of earlier versions have no digest of the content alone: theirs must have the same names too.
    """
    if not isinstance(recorded, dict):
        return False
    present = describe_data(data)
    digests = ("sha256", CONTENT)
    is_alike = any(recorded.get(key) == present[key] for key in digests)
    return is_alike and all(recorded.get(key) == present[key] for key in present if key not in digests)


def environment(context: RunContext) -> dict[str, Any]:
    """Return versions, hardware and the weights that networks start from; no paths, no names of machines."""
    runtime, options = context.runtime, context.options
    on_gpu = runtime.device.type == "cuda"
    return {
        "versions": versions(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(runtime.device) if on_gpu else cpu_name(),
        "precision": runtime.precision.name,
        "threads": torch.get_num_threads(),
        "processes": distributed.world_size(),
        **conditions(),
        "weights": backbone_weights_used(options),
        "init_weights": init_weights_used(options),
        "baseline": options.baseline,
        "seeds": options.seeds,
        DERIVED: dict(context.derived),
        SCHEDULE_FLAGS: schedule_flags(options.derivation),
    }


def schedule_flags(derivation: Derivation) -> dict[str, Any]:
    """Return the flags that decide on a schedule once the images are known, by name."""
    flags = {
        "--epochs": derivation.epochs,
        "--steps": derivation.max_steps,
        "--max-minutes": derivation.max_minutes,
    }
    return {flag: value for flag, value in flags.items() if value is not None}


def backbone_weights_used(options: Options) -> str:
    """Return which weights a backbone starts from: none, ImageNet's, or a file's sha256."""
    if options.backbone_weights is not None:
        return sha256_of(options.backbone_weights)
    return "imagenet" if options.pretrained else "none"


def init_weights_used(options: Options) -> str:
    """Return which model a network starts from: none, or a file's sha256."""
    return "none" if options.init_weights is None else sha256_of(initial_file(options.init_weights))
