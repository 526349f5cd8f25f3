"""A trained model, opened to label images: a run, a model file or an exported graph."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL.Image import Image

from segdistill.api._state import unchanged_process
from segdistill.api.commands import PathLike, export
from segdistill.commands._model import LoadedModel, open_model, refuse_label_assisted
from segdistill.deployment.report import ExportReport
from segdistill.errors import ShapeError, UsageError
from segdistill.evaluation.label_maps import label_map
from segdistill.networks import SegNetwork
from segdistill.runtime.precision import exact_float32


def load(model: PathLike, *, device: str = "auto", precision: str = "fp32") -> "Model":
    """Open a model.

    Args:
        model: folder of a run, .safetensors model file, or .onnx file that `export` wrote.
        device: auto, cpu, cuda or cuda:N; auto is the CPU for an .onnx file.
        precision: auto, fp32, bf16 or fp16; fp32 alone for an .onnx file.

    Raises:
        UsageError: if there is no such model, or it cannot compute like that.
        ModelError: if it is damaged.
    """
    with unchanged_process():
        loaded = open_model(Path(model), device, precision)
    return Model(Path(model), loaded)


class Model:
    """A model that labels images; `load` opens it."""

    def __init__(self, source: Path, loaded: LoadedModel) -> None:
        self.path = source
        """Run or file that it was opened from."""
        self._loaded = loaded

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, by id."""
        return self._loaded.info.classes

    @property
    def palette(self) -> tuple[tuple[int, int, int], ...]:
        """Colors of the classes, RGB, by id."""
        return self._loaded.info.palette

    @property
    def device(self) -> torch.device:
        """Device that it computes on."""
        return self._loaded.device

    @property
    def network(self) -> SegNetwork:
        """The network: images (B, 3, H, W) float RGB in 0..255 to a `SegOutput`.

        Raises:
            UsageError: for an exported graph, which has none.
        """
        if self._loaded.network is None:
            raise UsageError(
                f"{self.path} is an exported graph, which holds no PyTorch network.",
                "Load the run's folder, or its model.safetensors.",
            )
        return self._loaded.network

    def predict(self, image: npt.ArrayLike | Image) -> npt.NDArray[np.uint8]:
        """Return the class ids (H, W) of an image, as `segdistill infer` writes them.

        An image of another size than the model wants is brought to that and back; a large one is labeled tile by tile.

        Args:
            image: (H, W, 3) uint8 RGB: an array, or what NumPy makes one of, such as an image of Pillow in mode RGB.

        Returns:
            uint8 ids, 255 where a model that was trained to say so finds none of its classes.

        Raises:
            ShapeError: if it is no such image.
            UsageError: if the model needs the labels too.
        """
        refuse_label_assisted(self.path, self._loaded.info)
        pixels = np.asarray(image)
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or 0 in pixels.shape:
            raise ShapeError(
                f"The image has shape {pixels.shape} and type {pixels.dtype}.", "Expected: (H, W, 3) uint8, RGB."
            )
        with exact_float32():
            return label_map(self._loaded.predict, self._loaded.info, pixels)

    def export(self, output: PathLike | None = None, **options: Any) -> ExportReport:
        """Export the model to ONNX and check the graph; see `segdistill.export`.

        Args:
            output: file to write; default: model.onnx in the run.
            options: those of `segdistill.export`, such as `data`, `size` and `max_ms`.

        Raises:
            CheckError: if the graph is not equal to its network, or too slow; the file is kept.
            SegdistillError: as else `segdistill.export` ends with.
        """
        return export(self.path, output=output, **options)

    def __repr__(self) -> str:
        """Return where it is from, what it is, and where it computes."""
        info = self._loaded.info
        return f"Model({str(self.path)!r}, network={info.network.network!r}, classes={len(info.classes)})"
