"""Exported files in the onnxruntime of January 2024 itself, installed in an environment of its own."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.commands import process
from helpers.networks import make, settled
from helpers.tiny import model_info
from segdistill.deployment.onnx import export_onnx
from segdistill.deployment.session import OnnxModel
from segdistill.networks import network_names

VERSION = "1.17.3"
SHAPES = ((1, 64, 96), (2, 33, 47))
PROGRAM = """
import sys
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
with np.load(sys.argv[2]) as images:
    labels = {name: session.run(["logits"], {"image": images[name]})[0].argmax(1) for name in images.files}
np.savez(sys.argv[3], **labels)
print(onnxruntime.__version__)
"""


@pytest.fixture(scope="module")
def old_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of an environment with that onnxruntime."""
    if not (3, 8) <= sys.version_info[:2] <= (3, 12):
        pytest.skip(f"onnxruntime {VERSION} has no wheel for Python {sys.version_info[0]}.{sys.version_info[1]}")
    folder = tmp_path_factory.mktemp("old") / "venv"
    made = process(sys.executable, "-m", "venv", folder)
    assert made.code == 0, made.err
    python = folder / "bin" / "python"
    installed = process(python, "-m", "pip", "install", "-q", f"onnxruntime=={VERSION}", "numpy<2")
    if installed.code != 0:
        pytest.skip(f"onnxruntime {VERSION} cannot be installed here: {installed.err.strip().splitlines()[-1]}")
    return python


@pytest.mark.promise("E3")
@pytest.mark.reliability
@pytest.mark.parametrize("name", network_names())
def test_the_runtime_of_january_2024_gives_the_same_labels(name: str, old_python: Path, tmp_path: Path) -> None:
    network = settled(make(name))
    export_onnx(network, model_info(name, tuple("abcde")), tmp_path / "model.onnx")
    generator = torch.Generator().manual_seed(0)
    images = {str(i): 255 * torch.rand(n, 3, h, w, generator=generator) for i, (n, h, w) in enumerate(SHAPES)}
    arrays: dict[str, Any] = {key: image.numpy() for key, image in images.items()}
    np.savez(tmp_path / "images.npz", **arrays)
    words = [tmp_path / file for file in ("model.onnx", "images.npz", "labels.npz")]
    ran = process(old_python, "-c", PROGRAM, *words, PYTHONPATH="")
    assert ran.code == 0, ran.err
    assert ran.out.strip() == VERSION
    exported = OnnxModel(tmp_path / "model.onnx", torch.device("cpu"))
    with np.load(tmp_path / "labels.npz") as labels:
        for key, image in images.items():
            assert (exported(image).argmax(1).numpy() == labels[key]).mean() >= 0.999
