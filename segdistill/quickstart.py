"""The whole path in a few minutes, on the built-in scenes: teacher, plain student, distilled student, export, infer."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segdistill import deploy, run
from segdistill.config import load_preset
from segdistill.data import load_data
from segdistill.errors import UsageError
from segdistill.pictures import encode_png
from segdistill.record import Outcome
from segdistill.setting import Options, with_out
from segdistill.signals import at_once
from segdistill.store import recover, write_atomic
from segdistill.talk import Talk

PRESET, TEACHER, STUDENT = "skd", "pspnet-resnet34", "pspnet-resnet18-half"
SETTINGS = {
    "teacher.network": TEACHER,
    "teacher.steps": 350,
    "student.network": STUDENT,
    "optim.steps": 120,
}
"""What two CPU cores with fast bf16 train in under four minutes."""
IMAGES = 12
"""Scenes that are written as files and labelled by the exported student."""


@dataclass(frozen=True)
class Result:
    """What the quick start leaves behind."""

    outcome: Outcome
    exported: dict[str, Any]
    images_per_second: float


def quickstart(out: Path, options: Options, steps: int | None, talk: Talk) -> Result:
    """Train a teacher, distil it beside a plain student, export, verify and infer, all under `out`."""
    if out.exists() and any(out.iterdir()) and not (options.overwrite or options.resume):
        raise UsageError(
            f"{out} is not empty.", "Add --resume to continue, --overwrite to replace it, or another --out."
        )
    if links := [name for name in ("teacher", "student", "images", "labels") if (out / name).is_symlink()]:
        raise UsageError(f"{out / links[0]} is a link: what is written there would lie outside.", "Remove the link.")
    config = load_preset(PRESET, data="streets", flags=SETTINGS).capped(steps)
    replaced = options.overwrite or options.resume

    for folder in (out / "teacher", out / "student") if options.resume else ():
        recover(folder)

    def part(folder: Path) -> Options:
        started = (folder / "config.toml").exists()
        return replace(options, out=folder, resume=options.resume and started, baseline="steps")

    teacher, student = out / "teacher", out / "student"
    options = with_out(options, out)
    with at_once(continued_by=options.again):
        run.train_teacher(config, part(teacher), talk)
        outcome = run.distill(config, str(teacher), part(student), talk)
        exported = deploy.export_model(student, None, None, None, "cpu", replaced, None, None, 0, talk)
        images = out / "images"
        images.mkdir(exist_ok=True)
        scenes = load_data("streets").split("val")
        for index in range(min(IMAGES, len(scenes.names))):
            write_atomic(images / f"scene-{index:03d}.png", encode_png(scenes.read(index).image))
        summary = deploy.infer_images(
            *(student / "model.onnx", str(images), out / "labels", "cpu", "fp32", True, replaced, talk)
        )
    return Result(outcome, exported, summary.images_per_second)
