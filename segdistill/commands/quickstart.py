"""The whole path in a few minutes, on the built-in scenes: teacher, baseline, distilled student, export, infer."""

from dataclasses import dataclass, replace
from pathlib import Path

from segdistill.commands import export, infer
from segdistill.commands._context import Options, command_again
from segdistill.commands._results import Outcome
from segdistill.commands.distill import distill
from segdistill.commands.export import ExportOptions
from segdistill.commands.infer import Inference, InferOptions
from segdistill.commands.train_teacher import train_teacher
from segdistill.config.presets import load_preset
from segdistill.data import load_data
from segdistill.deployment.report import ExportReport
from segdistill.errors import UsageError
from segdistill.reports.sheet import encode_png
from segdistill.runtime.reporter import Reporter
from segdistill.runtime.signals import exit_on_signal
from segdistill.storage.atomic import write_atomic
from segdistill.storage.replacement import recover
from segdistill.terms import cap_stages

PRESET, DATA = "canonical", "streets"
OVERRIDES = {
    "starts_from": "random",
    "teacher.network": "unet-resnet18",
    "teacher.output_stride": 32,
    "teacher.steps": 400,
    "teacher.lr": 2e-3,
    "student.network": "unet-resnet18-half",
    "student.output_stride": 32,
    "optim.algorithm": "adamw",
    "optim.lr": 4e-3,
    "optim.steps": 220,
    "optim.weight_decay": 1e-4,
    "loss.class_weights": "inverse-log",
    "validate.every": 1000,
}
"""Keys of the preset that are changed, to what two CPU cores train in minutes.

Poles and people take few pixels: a network whose output has the image's size finds them, when they are weighted."""
NUM_SCENES = 12
"""Scenes that are written as files and labeled by the exported student."""


@dataclass(frozen=True)
class QuickstartResult:
    """Files and results that the quick start leaves behind."""

    outcome: Outcome
    exported: ExportReport
    inference: Inference


def quickstart(out: Path, options: Options, steps: int | None, reporter: Reporter) -> QuickstartResult:
    """Train a teacher, distill it beside a baseline, export, verify and infer, all under `out`.

    Args:
        out: the folder, which may be there only to resume or overwrite.
        options: of the training commands; their output folders are chosen here.
        steps: the most steps of each training; None leaves those of `OVERRIDES`.
        reporter: tells what is going on.

    Raises:
        UsageError: if the folder cannot be used.
    """
    folders = _Folders(out)
    _check_folder(folders, options)
    config = cap_stages(load_preset(PRESET, data=DATA, flags=OVERRIDES), steps)
    if options.resume:
        recover(folders.teacher)
        recover(folders.student)

    # What is quick to make is made again, whether the trainings before it went on or began again.
    replaces = options.overwrite or options.resume
    options = replace(
        options,
        resume_command=options.resume_command or command_again(options, out, "--resume"),
        restart_command=options.restart_command or command_again(options, out, "--overwrite"),
    )
    with exit_on_signal(continued_by=options.resume_command):
        train_teacher(config, _options_of(folders.teacher, options), reporter)
        student_options = _options_of(folders.student, options)
        outcome = distill(config, str(folders.teacher), student_options, reporter)
        # On the CPU: the speed in the result is that of the machine most people try it on.
        exported = export.export_model(
            folders.student, ExportOptions(device="cpu", workers=0, overwrite=replaces), reporter
        )
        _write_scenes(folders.images)
        inference = infer.infer_images(
            folders.student / "model.onnx",
            str(folders.images),
            InferOptions(out=folders.labels, device="cpu", overlay=True, overwrite=replaces),
            reporter=reporter,
        )
    return QuickstartResult(outcome, exported, inference)


@dataclass(frozen=True)
class _Folders:
    """The folders of a quick start."""

    out: Path

    @property
    def teacher(self) -> Path:
        """The run of the teacher."""
        return self.out / "teacher"

    @property
    def student(self) -> Path:
        """The run of the student and its baseline."""
        return self.out / "student"

    @property
    def images(self) -> Path:
        """The scenes, as files."""
        return self.out / "images"

    @property
    def labels(self) -> Path:
        """The label maps of the scenes."""
        return self.out / "labels"


def _check_folder(folders: _Folders, options: Options) -> None:
    """Refuse a folder that holds something, unless it was asked for, and one that leads outside."""
    # An empty folder is taken: some people make it first.
    is_used = folders.out.exists() and any(folders.out.iterdir())
    if is_used and not (options.overwrite or options.resume):
        raise UsageError(
            f"{folders.out} is not empty.", "Add --resume to continue, --overwrite to replace it, or another --out."
        )
    # What --overwrite deletes must lie in the folder that was named.
    for folder in (folders.teacher, folders.student, folders.images, folders.labels):
        if folder.is_symlink():
            raise UsageError(f"{folder} is a link: what is written there would lie outside.", "Remove the link.")


def _options_of(folder: Path, options: Options) -> Options:
    """Return the options of one training, which resumes where it has begun and begins where it has not."""
    has_begun = (folder / "config.toml").exists()
    return replace(options, out=folder, resume=options.resume and has_begun, baseline="steps")


def _write_scenes(folder: Path) -> None:
    """Write some validation scenes as image files, as a user would have them."""
    folder.mkdir(exist_ok=True)
    scenes = load_data(DATA).split("val")
    for index in range(min(NUM_SCENES, len(scenes.names))):
        write_atomic(folder / f"scene-{index:03d}.png", encode_png(scenes.read(index).image))
