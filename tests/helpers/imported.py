"""Checkpoints as others publish them, and their import by the command."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from helpers.commands import refused, succeeds
from segdistill.checkpoints.model_file import ModelInfo, load_model
from segdistill.config.schema import InputConfig, NetworkConfig
from segdistill.networks import SegNetwork, build_network

HALF = "pspnet-resnet18-half"
LIU = InputConfig(mean=(72.41519599, 82.93553322, 73.18188461), std=(44.9148, 46.1528, 45.3199), order="bgr")
"""What ESPNets of Liu et al. 2019 expect, in red, green, blue."""
TOLD = "--mean 123.675,116.28,103.53 --std 58.395,57.12,57.375"
"""What must be told of images where neither names nor outputs tell the publication."""


def network(name: str, outputs: int, **choices: Any) -> SegNetwork:
    torch.manual_seed(0)
    return build_network(NetworkConfig.model_validate({"network": name, **choices}), outputs).eval()


def state_of(name: str, outputs: int, **choices: Any) -> dict[str, Tensor]:
    """Return a network's tensors, in a dictionary that a test may change."""
    return dict(network(name, outputs, **choices).state_dict())


def imported(state: object, line: str) -> tuple[SegNetwork, ModelInfo, str]:
    """Save a checkpoint, import it, and return the network that the commands load, with what was said."""
    torch.save(state, "file.pth")
    said = succeeds(f"import-weights file.pth --out model --overwrite {line}").err
    return *load_model(Path("model/model.safetensors")), said


def not_imported(state: object, line: str, *expected: str, code: int = 5) -> None:
    """Save a checkpoint whose import must be refused, with nothing written."""
    torch.save(state, "file.pth")
    refused(f"import-weights file.pth --out model {line}", "file.pth", *expected, code=code)
    assert not Path("model").exists()
