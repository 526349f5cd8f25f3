"""The whole path in a few minutes, on the built-in scenes: teacher, plain student, distilled student, export, infer."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segdistill import deploy, run
from segdistill.config import RunConfig, load_preset
from segdistill.data import load_data
from segdistill.errors import UsageError
from segdistill.report import encode_png
from segdistill.store import write_atomic
from segdistill.talk import Talk

PRESET, TEACHER, STUDENT = "skd", "pspnet-resnet34", "pspnet-resnet18-half"
STEPS = {"teacher.steps": 200, "optim.steps": 200}
CROP = (96, 128)
IMAGES = 12
"""Scenes that are written as files and labelled by the exported student."""


@dataclass(frozen=True)
class Result:
    """What the quick start leaves behind."""

    out: Path
    outcome: run.Outcome
    exported: dict[str, Any]
    images_per_second: float


def quickstart_config(steps: int | None) -> RunConfig:
    """Return the preset on the built-in scenes, at a size that two CPU cores train in minutes."""
    values = {"teacher.network": TEACHER, "student.network": STUDENT, "data.crop": list(CROP), **STEPS}
    return load_preset(PRESET, data="streets", flags=values).capped(steps)


def quickstart(out: Path, options: run.Options, steps: int | None, talk: Talk) -> Result:
    """Train a teacher, distil it beside a plain student, export, verify and infer, all under `out`."""
    if out.exists() and any(out.iterdir()) and not options.overwrite:
        raise UsageError(f"{out} is not empty.", "Add --overwrite to replace it, or choose another --out.")
    config = quickstart_config(steps)
    teacher, student = out / "teacher", out / "student"
    own = replace(options, baseline=True)
    run.train_teacher(config, replace(own, out=teacher), talk)
    outcome = run.distill(config, str(teacher), replace(own, out=student), talk)
    exported = deploy.export_model(
        *(student, None, config.data.crop, None, "cpu", options.overwrite, None, None, 0, talk)
    )
    images = out / "images"
    images.mkdir(exist_ok=True)
    scenes = load_data("streets").split("val")
    for index in range(min(IMAGES, len(scenes.names))):
        write_atomic(images / f"scene-{index:03d}.png", encode_png(scenes.read(index).image))
    summary = deploy.infer_images(
        *(student / "model.onnx", str(images), out / "labels", "cpu", "fp32", True, options.overwrite, talk)
    )
    return Result(out, outcome, exported, summary.images_per_second)
