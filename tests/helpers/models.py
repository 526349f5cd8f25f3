"""A model file with untrained weights."""

from pathlib import Path

import torch

from helpers.commands import NETWORK
from segdistill.checkpoints.model_file import ModelInfo, save_model
from segdistill.config.schema import NetworkConfig
from segdistill.data import load_data
from segdistill.networks import build_network


def model_of(data: str, file: str = "model.safetensors", size: tuple[int, int] | None = (32, 48)) -> Path:
    """Write a model that knows nothing, of a data set's classes."""
    source, config = load_data(data), NetworkConfig(network=NETWORK)
    torch.manual_seed(0)
    info = ModelInfo(
        network=config,
        classes=source.classes,
        palette=source.palette,
        role="student",
        size=size,
        data=source.name,
        preset="skd",
        steps=1,
    )
    save_model(Path(file), build_network(config, len(source.classes)), info)
    return Path(file)
