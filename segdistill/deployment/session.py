"""An exported graph, opened in onnxruntime and run.

The graph takes `image`, RGB 0..255, normalizes it and returns `logits` (B, C, H, W), or (B, C + 1, H, W) of a network
with a void output, which comes last. Its form says whether it takes floats or bytes, of which sizes, and whether it
returns labels.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from segdistill.deployment.form import GraphForm
from segdistill.deployment.graph_file import EXPORT_AGAIN, read_exported
from segdistill.errors import ModelError, UsageError, out_of_memory
from segdistill.evaluation.latency import Subject
from segdistill.runtime.signals import in_thread
from segdistill.runtime.telemetry import switched_off
from segdistill.types import IGNORE

with switched_off():
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as ort

UNUSED_OPTIMIZERS = ["ConstantFolding", "ConstantFoldingDQ"]
"""Optimizers that compute, while a graph is opened, what it makes of constants, of any size: one line can ask for
terabytes. It is computed with the rest instead, and let go when it was used; exporters leave little of it."""
FATAL_SEVERITY = 4
"""Level of onnxruntime's log that prints nothing short of a crash: its errors are raised, and need not be printed."""
ORT_ERRORS = (
    ort.Fail,
    ort.InvalidArgument,
    ort.InvalidGraph,
    ort.InvalidProtobuf,
    ort.NotImplemented,
    ort.RuntimeException,
)


class OnnxModel:
    """An exported graph, opened: images (B, 3, h, w) in 0..255 to logits (B, C, h, w), whatever its form is.

    Attributes:
        info: the header of the model file it was made from.
        form: what goes into the graph and comes out.
        provider: onnxruntime's name for what computes.
        threads: how many, the same number as PyTorch uses.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        """Read, check and load a file.

        Raises:
            UsageError: if onnxruntime cannot compute on that device.
            ModelError: if the file is damaged, not written by `export_onnx`, or reaches out of itself.
        """
        self._path = path
        self.provider = _provider(device)
        self.threads = torch.get_num_threads()
        content, self.info, self.form = read_exported(path)
        self.session = open_session(content, path, device)

    def __call__(self, image: Tensor) -> Tensor:
        """Return logits at the images' size, on the CPU: where the graph has labels alone, 1 for these and 0 elsewhere.

        Raises:
            UsageError: if the graph takes images of another size.
            ModelError: if it fails on images of that shape, or returns another shape.
        """
        if self.form.has_logits:
            logits = self._run("logits", image)
            return self._checked(logits, (len(image), self.info.outputs, *image.shape[2:]))
        return as_logits(self.labels(image), len(self.info.classes), self.info.outputs)

    def labels(self, image: Tensor) -> Tensor:
        """Return the labels of a graph that has them: class ids (B, h, w), IGNORE where a void output is the answer.

        Raises:
            UsageError, ModelError: as a call.
        """
        return self._checked(self._run("labels", image), (len(image), *image.shape[2:]))

    def _checked(self, result: Tensor, expected: tuple[int, ...]) -> Tensor:
        if result.shape != expected:
            raise ModelError(f"{self._path} returns the shape {tuple(result.shape)}, not {expected}.", EXPORT_AGAIN)
        return result

    def _run(self, output: str, image: Tensor) -> Tensor:
        """Run the graph on as many images at a time as it takes; fewer are filled up with zeros, which are left out."""
        size = tuple(image.shape[2:])
        if self.form.size is not None and self.form.size != size:
            height, width = self.form.size
            raise UsageError(
                f"{self._path} takes images of {height}x{width} alone, and there is one of {size[0]}x{size[1]}.",
                "Leave --size out, or export without --static.",
            )
        try:
            parts = [
                in_thread(lambda feed=feed: self.session.run([output], {"image": feed})[0])  # type: ignore[misc]
                for feed in self._feeds(image)
            ]
        except ORT_ERRORS as error:
            if out_of_memory(error):
                raise
            raise ModelError(f"{self._path} fails on images of shape {tuple(image.shape)}: {error}") from None
        return torch.from_numpy(np.concatenate(parts) if len(parts) > 1 else parts[0])[: len(image)]

    def _feeds(self, image: Tensor) -> Iterator[npt.NDArray[Any]]:
        array = _array(image, self.form)
        batch = self.form.batch or len(array)
        for start in range(0, len(array), batch):
            part = array[start : start + batch]
            missing = [(0, batch - len(part))] + [(0, 0)] * (part.ndim - 1)
            yield np.pad(part, missing) if len(part) < batch else part

    def subject(self, image: Tensor) -> Subject:
        """Return what the stopwatch measures: one call, from NumPy array to NumPy array."""
        feed, outputs = {"image": next(self._feeds(image))}, list(self.form.outputs)
        return Subject(lambda: self.session.run(outputs, feed), self.provider, images=len(feed["image"]))


def as_logits(labels: Tensor, num_classes: int, outputs: int) -> Tensor:
    """Return logits (B, outputs, h, w) that say nothing but the labels (B, h, w): 1 for the class of each, else 0.

    Args:
        labels: class ids, or IGNORE, which becomes the void output.
        num_classes: of the labels.
        outputs: of the network: one more where it has a void output, which comes last.
    """
    channels = torch.arange(outputs).view(1, -1, 1, 1)
    channel_of_label = labels.long().masked_fill(labels == IGNORE, num_classes)
    return (channels == channel_of_label.unsqueeze(1)).float()


def open_session(content: bytes, path: Path, device: torch.device) -> Any:
    """Return onnxruntime's session for a graph.

    Args:
        content: the bytes of the graph, known to read no other file.
        path: its name in messages.
        device: where it computes.

    Raises:
        UsageError: if onnxruntime cannot compute on that device.
        ModelError: if it refuses the graph.
    """
    provider = _provider(device)
    if not computes_on(device):
        raise _missing_provider(device)
    try:
        session = in_thread(
            lambda: onnxruntime.InferenceSession(
                content,
                _session_options(),
                providers=[(provider, _provider_options(device))],
                disabled_optimizers=UNUSED_OPTIMIZERS,
                enable_fallback=0,
            )
        )
        _read_ends(session)
    except (*ORT_ERRORS, UnicodeDecodeError) as error:
        if out_of_memory(error):
            raise
        raise ModelError(f"onnxruntime {onnxruntime.__version__} refuses {path}: {error}") from None
    # A provider whose libraries do not load is replaced by the CPU's without an error.
    if session.get_providers()[0] != provider:
        raise _missing_provider(device)
    return session


def computes_on(device: torch.device) -> bool:
    """Whether this onnxruntime can compute on a device."""
    return _provider(device) in onnxruntime.get_available_providers()


def _session_options() -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = FATAL_SEVERITY
    # Threads that spin while they wait hold the cores that PyTorch wants: measured in turns with such a session it
    # took twice as long on two cores. The session itself is no slower without.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _provider_options(device: torch.device) -> dict[str, int]:
    if device.type != "cuda":
        return {}
    # TF32, a GPU's default, keeps 10 bits of the mantissa: no graph would pass for equal.
    return {"device_id": device.index or 0, "use_tf32": 0}


def _read_ends(session: Any) -> None:
    """Read what a session says of its inputs and outputs: names that are no text fail here, and not in some later call.

    Raises:
        UnicodeDecodeError: if a name is no UTF-8.
    """
    for end in (*session.get_inputs(), *session.get_outputs()):
        _ = end.shape


def _missing_provider(device: torch.device) -> UsageError:
    return UsageError(
        f"onnxruntime cannot compute on {device}: this installation has no {_provider(device)}.",
        "Use --device cpu, or install onnxruntime-gpu in place of onnxruntime.",
    )


def _provider(device: torch.device) -> str:
    return "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider"


def _array(image: Tensor, form: GraphForm) -> npt.NDArray[Any]:
    """Return images (B, 3, h, w) in 0..255 as a form takes them."""
    pixels = image.cpu().numpy()
    if form.input == "uint8":
        return np.ascontiguousarray(np.rint(pixels).transpose(0, 2, 3, 1), dtype=np.uint8)
    return np.ascontiguousarray(pixels, dtype=np.float32)
