"""What the tests of training share: drawn scenes, networks of a few thousand weights, and stages made of both."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segdistill.checkpoints.model_file import ModelInfo
from segdistill.config.schema import DataConfig, NetworkConfig, OptimConfig, TermConfig
from segdistill.data import DataSource, Sample, training_batches
from segdistill.deployment.onnx import export_onnx
from segdistill.deployment.session import OnnxModel
from segdistill.networks import InferenceWrapper, SegNetwork, build_network
from segdistill.runtime.precision import Precision
from segdistill.terms import TermContext, build_terms
from segdistill.training.engine import Report, fit
from segdistill.training.objectives import Distillation
from segdistill.types import IGNORE, Batch, Frozen, Objective, SegOutput, Stage, Term

CLASSES = ("ground", "wall", "sky")
CPU = Precision("fp32", torch.device("cpu"), torch.float32)
BF16 = Precision("bf16", torch.device("cpu"), torch.bfloat16)
PLAIN = {"scale": (1.0, 1.0), "flip": 0.0}
"""Of a DataConfig: images as they are."""


@dataclass(frozen=True)
class Scenes:
    """Three bands of color with noise, and a rectangle of void that is larger in every next image."""

    count: int
    height: int = 48
    width: int = 64

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"scene-{index:02d}.png" for index in range(self.count))

    @property
    def fingerprint(self) -> str:
        return str(self)

    def read(self, index: int) -> Sample:
        rng = np.random.default_rng(index)
        label = np.zeros((self.height, self.width), np.uint8)
        sky, wall = np.sort(rng.integers(4, self.height - 4, 2))
        label[:wall], label[:sky] = 1, 2
        noise = rng.integers(-40, 41, (self.height, self.width, 3))
        image = np.array([(90, 90, 90), (160, 80, 60), (100, 150, 220)])[label] + noise
        label[: self.height * (index % 4) // 4, :20] = IGNORE
        return Sample(image.clip(0, 255).astype(np.uint8), label, self.names[index])

    def digest(self, index: int) -> bytes:
        return b"%d" % index


def source(train: int = 12, val: int = 3) -> DataSource:
    palette = ((90, 90, 90), (160, 80, 60), (100, 150, 220))
    return DataSource("tiny", CLASSES, palette, {"train": Scenes(train), "val": Scenes(val)})


def scenes(steps: int, images: int = 4, crop: tuple[int, int] = (48, 64), **options: Any) -> Iterator[Batch]:
    """Return the batches of a training on 12 scenes as they are drawn."""
    config = DataConfig(crop=crop, batch_size=images, **PLAIN)
    return training_batches(Scenes(12), config, seed=0, steps=steps, **options)


def one_batch(images: int = 4, crop: tuple[int, int] = (48, 64)) -> Batch:
    return next(scenes(1, images, crop))


def model_info(network: NetworkConfig | str, classes: tuple[str, ...] = CLASSES, **about: Any) -> ModelInfo:
    """Return a model file's header in which only that matters which is given."""
    config = NetworkConfig(network=network) if isinstance(network, str) else network
    palette = tuple((index, 10 * index, 255 - index) for index in range(len(classes)))
    given = {"network": config, "classes": classes, "palette": palette, "role": "student", "size": None}
    return ModelInfo.model_validate(given | {"data": "tiny", "preset": "test", "steps": 1} | about)


def assert_exported_alike(
    network: SegNetwork, folder: Path, shapes: Iterable[tuple[int, int, int]], most: float
) -> None:
    """Export a network; compare the graph with it on images of these shapes (B, H, W).

    Args:
        most: how far logits may lie apart, as a fraction of the largest.
    """
    deployed = InferenceWrapper(network)
    with torch.no_grad():
        outputs = deployed(torch.zeros(1, 3, 33, 47)).shape[1]
    export_onnx(network, model_info("any", tuple(map(str, range(outputs)))), folder / "model.onnx")
    exported = OnnxModel(folder / "model.onnx", CPU.device)
    for count, height, width in shapes:
        image = 255 * torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            expected = deployed(image)
        found = exported(image)
        assert found.shape == expected.shape == (count, outputs, height, width)
        assert (found - expected).abs().max() <= most * expected.abs().max()
        assert (found.argmax(1) == expected.argmax(1)).float().mean() >= 0.999


class StillNorm(nn.BatchNorm2d):
    """Batch norm that stays in eval mode, with statistics that are not trivial: it does not couple the images."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        nn.init.uniform_(self.get_buffer("running_mean"), -0.5, 0.5)
        nn.init.uniform_(self.get_buffer("running_var"), 0.5, 2.0)
        self.train()

    def train(self, mode: bool = True) -> "StillNorm":
        super().train(False)
        return self


class TinyNetwork(SegNetwork):
    """Two strided convolutions with batch norm, dropout, a classifier at stride 4 and an auxiliary head."""

    def __init__(self, width: int, norm: Callable[[int], nn.Module] = nn.BatchNorm2d, dropout: float = 0.0) -> None:
        super().__init__(len(CLASSES))
        self.first = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), norm(width), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), norm(2 * width), nn.ReLU())
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(2 * width, len(CLASSES), 1)
        self.auxiliary = nn.Conv2d(width, len(CLASSES), 1)

    def segment(self, image: Tensor) -> SegOutput:
        first = self.first(image)
        second = self.second(first)
        logits = self.classifier(self.dropout(second))
        return SegOutput(logits, (first, second), self.auxiliary(first) if self.training else None)


def tiny(
    seed: int, width: int = 6, norm: Callable[[int], nn.Module] = nn.BatchNorm2d, dropout: float = 0.0
) -> TinyNetwork:
    torch.manual_seed(seed)
    return TinyNetwork(width, norm, dropout)


def pspnet(seed: int, name: str = "pspnet-resnet18-half") -> SegNetwork:
    torch.manual_seed(seed)
    return build_network(NetworkConfig(network=name), len(CLASSES))


SKD = {"pixel": 10.0, "pairwise": 10.0, "holistic": 0.1}


def distillation(
    student: SegNetwork,
    teacher: SegNetwork,
    weights: dict[str, float] | None = None,
    loss: str = "wgan-gp",
    aux_weight: float = 0.4,
) -> Distillation:
    """Return cross entropy plus the three terms of skd, with weights of the caller's choice."""
    tables = {
        name: TermConfig.model_validate({"weight": weight} | ({"loss": loss} if name == "holistic" else {}))
        for name, weight in (SKD if weights is None else weights).items()
    }
    torch.manual_seed(7)
    return Distillation(aux_weight, Frozen(teacher), build_terms(tables, TermContext(student, teacher, len(CLASSES))))


def with_sgd_critic(objective: Objective) -> None:
    """Train the critic by SGD: Adam makes a full step of the rounding error in a gradient that should be 0."""
    for term in objective.modules():
        if isinstance(term, Term) and term.critic is not None:
            term.critic_optim = optim(1, lr=0.01)


def optim(steps: int, **options: Any) -> OptimConfig:
    return OptimConfig.model_validate({"lr": 0.05, "steps": steps} | options)


def train(
    stage: Stage,
    batches: Iterable[Batch],
    on_step: Callable[[Report], None] = lambda report: None,
    precision: Precision = CPU,
) -> list[Report]:
    """Run a stage to its end and return what it reported."""
    reports: list[Report] = []

    def both(report: Report) -> None:
        reports.append(report)
        on_step(report)

    fit(stage, batches, precision=precision, seed=3, on_step=both)
    return reports


def repeated(batch: Batch, times: int) -> Iterator[Batch]:
    return islice(iter(lambda: batch, None), times)


def copied(module: nn.Module) -> dict[str, Tensor]:
    """Return weights and buffers as they are now."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    """Return the names of the tensors that are not equal bit for bit."""
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def plain(student: SegNetwork, aux_weight: float = 0.4) -> Objective:
    return Distillation(aux_weight)
