"""Short trainings that can be stopped at a step, and data for them."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from helpers.tiny import distillation, model_info, plain, source, tiny
from segdistill.checkpoints.model_file import save_model
from segdistill.config.schema import NetworkConfig, RunConfig
from segdistill.data import DataSource
from segdistill.data.datasets.camvid import CLASSES as CAMVID_CLASSES
from segdistill.data.datasets.camvid import PALETTE as CAMVID_PALETTE
from segdistill.networks import build_network
from segdistill.runtime.reporter import Advance, NullReporter
from segdistill.training.jobs import TrainingJob
from segdistill.types import Stage

STEPS = 11
"""Three epochs of three steps and most of a fourth: 6 images, 2 per step."""
TERMS = {"pixel": {"weight": 10.0}, "pairwise": {"weight": 10.0}}


def configuration(**values: Any) -> RunConfig:
    table = {
        "preset": "test",
        "teacher": {"network": "pspnet-resnet18"},
        "student": {"network": "pspnet-resnet18-half"},
        "data": {"crop": [32, 32], "batch_size": 2, "scale": [0.8, 1.5], "color": 0.2},
        "optim": {"lr": 0.02, "steps": STEPS},
        "checkpoint": {"every": 2},
        "validate": {"every": 3},
        "terms": TERMS,
    }
    return RunConfig.model_validate(table).changed(**values)


def a_job(config: RunConfig, loss: str | None = None, *, data: DataSource | None = None) -> TrainingJob:
    """Return a job on fresh networks: the same ones every time."""
    student, teacher = tiny(0, dropout=0.2), tiny(1, width=10)
    weights = {name: term.weight for name, term in config.terms.items()}
    objective = distillation(student, teacher, weights, loss or "wgan-gp") if weights else plain(student)
    info = model_info(config.student, steps=STEPS)
    return TrainingJob(Stage("student", student, objective, config.optim), student, info, config, data or source(6, 3))


@dataclass
class Listener(NullReporter):
    """Keeps what is said, and does something to the process when a step is done."""

    at: int = 0
    action: Any = None
    heard: list[str] = field(default_factory=list)

    def info(self, text: str) -> None:
        self.heard.append(text)

    def warning(self, text: str) -> None:
        self.heard.append(text)

    @contextmanager
    def progress(self, title: str, total: int, done: int = 0) -> Iterator[Advance]:
        step = done

        def advance(count: int, text: str) -> None:
            nonlocal step
            step += count
            if count and step == self.at:
                self.action()

        yield advance


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def camvid(root: Path) -> Path:
    """Write a CamVid of six images, and return its folder."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for i in range(count):
            label = np.repeat(np.sort(rng.integers(0, 12, (6, 1)), axis=0), 8, axis=1).repeat(8, 0).repeat(8, 1)
            image = label[..., None] * 20 + rng.integers(0, 30, (*label.shape, 3))
            for folder, pixels in ((split, image), (f"{split}annot", label)):
                (root / folder).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(root / folder / f"{split}{i}.png")
    return root


def untrained_teacher(file: Path) -> Path:
    torch.manual_seed(0)
    config = NetworkConfig(network="pspnet-resnet18-half")
    network = build_network(config, len(CAMVID_CLASSES))
    info = model_info(config, CAMVID_CLASSES, palette=CAMVID_PALETTE, role="teacher", data="camvid")
    save_model(file, network, info)
    return file
