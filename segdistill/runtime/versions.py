"""Names and versions of what numbers depend on: libraries and the processor."""

import platform
from importlib import metadata

import torch

PACKAGES = ("segdistill", "torch", "torchvision", "albumentations", "opencv-python-headless", "onnx", "onnxruntime")


def versions() -> dict[str, str]:
    """Return the installed version of each library that computes something."""
    return {name: metadata.version(name) for name in PACKAGES}


def cpu_name() -> str:
    """Return the processor's name for itself; the architecture's where it has none."""
    return str(torch.cpu.get_capabilities().get("cpu_name") or platform.processor() or platform.machine())
