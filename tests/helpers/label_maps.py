"""Images of noise, and networks that answer with the strongest color."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from helpers.tiny import model_info
from segdistill.checkpoints.model_file import ModelInfo
from segdistill.config.schema import NetworkConfig
from segdistill.networks import InferenceWrapper, build_network

Pixels = npt.NDArray[np.uint8]
PALETTE = ((200, 0, 0), (0, 200, 0), (0, 0, 200))


def info(size: tuple[int, int] | None = None) -> ModelInfo:
    return model_info("pspnet-resnet18-half", ("red", "green", "blue"), palette=PALETTE, size=size)


def strongest_color(image: Tensor) -> Tensor:
    """A network whose class is the channel with the largest value."""
    return image


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, seed: int = 0, size: tuple[int, int] = (6, 9)) -> Pixels:
    """Write noise, and return what a reader of the file sees."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(*size, seed)).save(path)
    with Image.open(path) as file:
        return np.asarray(file)


def network() -> Callable[[Tensor], Tensor]:
    """A real network with random weights; without its means, so that every class is somewhere."""
    torch.manual_seed(0)
    deployed = InferenceWrapper(build_network(NetworkConfig(network="pspnet-resnet18-half"), 3))

    def predict(image: Tensor) -> Tensor:
        logits: Tensor = deployed(image)
        return logits - logits.mean(dim=(2, 3), keepdim=True)

    return predict
