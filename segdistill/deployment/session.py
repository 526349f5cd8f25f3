"""An exported graph, opened in onnxruntime and run.

The graph takes `image`, float32 RGB 0..255 (B, 3, H, W) of any size, normalizes it and returns `logits` (B, C, H, W),
or (B, C + 1, H, W) of a network with a void output, which comes last.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from segdistill.deployment.graph_file import EXPORT_AGAIN, read_exported
from segdistill.errors import ModelError, UsageError, out_of_memory
from segdistill.evaluation.latency import Subject
from segdistill.runtime.signals import in_thread
from segdistill.runtime.telemetry import switched_off

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
    """An exported graph, opened: images (B, 3, h, w) in 0..255 to logits (B, C, h, w).

    Attributes:
        info: the header of the model file it was made from.
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
        content, self.info = read_exported(path)
        self.session = open_session(content, path, device)

    def __call__(self, image: Tensor) -> Tensor:
        """Return logits at the images' size, on the CPU.

        Raises:
            ModelError: if the graph fails on images of that shape, or returns another shape.
        """
        try:
            (logits,) = in_thread(lambda: self.session.run(["logits"], {"image": _array(image)}))
        except ORT_ERRORS as error:
            if out_of_memory(error):
                raise
            raise ModelError(f"{self._path} fails on images of shape {tuple(image.shape)}: {error}") from None
        expected = (len(image), self.info.outputs, *image.shape[2:])
        if logits.shape != expected:
            raise ModelError(f"{self._path} has logits of shape {logits.shape}, not {expected}.", EXPORT_AGAIN)
        return torch.from_numpy(logits)

    def subject(self, image: Tensor) -> Subject:
        """Return what the stopwatch measures: one call, from NumPy array to NumPy array."""
        feed = {"image": _array(image)}
        return Subject(lambda: self.session.run(["logits"], feed), self.provider)


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


def _array(image: Tensor) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(image.cpu().numpy(), dtype=np.float32)
