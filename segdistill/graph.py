"""An ONNX file: sealed by a digest, read with suspicion, and run.

The graph takes `image`, float32 RGB 0..255 (B, 3, H, W) of any size, normalises it and returns `logits` (B, C, H, W),
or (B, C + 1, H, W) of a network with a void output, which comes last.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor

from segdistill.checkpoint import MAX_SAID, ModelInfo, check_length
from segdistill.errors import ModelError, UsageError, out_of_memory
from segdistill.graph_limits import TooLarge, check_functions, check_size
from segdistill.latency import Subject
from segdistill.signals import in_thread
from segdistill.telemetry import switched_off

with switched_off():
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as ort

MAX_BYTES = 2**31 - 1
"""No protobuf message is larger."""
LOOPS = frozenset({"Loop", "Scan"})
CONTROL_FLOW = LOOPS | {"If", "SequenceMap"}
"""Operators with graphs of their own; no network here has any."""
UNUSED_OPTIMIZERS = ["ConstantFolding", "ConstantFoldingDQ"]
"""These compute while a graph is opened what it makes of constants, of any size: one line can ask for terabytes. It is
computed with the rest instead, and let go when it was used; exporters leave little of it."""
ORT_ERRORS = (
    ort.Fail,
    ort.InvalidArgument,
    ort.InvalidGraph,
    ort.InvalidProtobuf,
    ort.NotImplemented,
    ort.RuntimeException,
)


class OnnxModel:
    """An exported file, opened: images (B, 3, h, w) in 0..255 to logits (B, C, h, w).

    Attributes:
        info: the header of the model file it was made from.
        provider: what computes.
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
        content, self.info = _read(path)
        self.session = open_session(content, path, device)

    def __call__(self, image: Tensor) -> Tensor:
        """Return logits at the images' size, on the CPU.

        Raises:
            ModelError: if the graph fails on images of that shape, or gives something else.
        """
        try:
            (logits,) = in_thread(lambda: self.session.run(["logits"], {"image": _array(image)}))
        except ORT_ERRORS as error:
            if out_of_memory(error):
                raise
            raise ModelError(f"{self._path} fails on images of shape {tuple(image.shape)}: {error}") from None
        expected = (len(image), self.info.outputs, *image.shape[2:])
        if logits.shape != expected:
            raise ModelError(f"{self._path} has logits of shape {logits.shape}, not {expected}.", "Export it again.")
        return torch.from_numpy(logits)

    def subject(self, image: Tensor) -> Subject:
        """Return what the stopwatch measures: one call, from NumPy array to NumPy array."""
        feed = {"image": _array(image)}
        return Subject(lambda: self.session.run(["logits"], feed), self.provider)


def open_session(content: bytes, path: Path, device: torch.device) -> Any:
    """Return onnxruntime's session for a graph.

    Raises:
        UsageError: if onnxruntime cannot compute on that device.
        ModelError: if it refuses the graph.
    """
    provider = _provider(device)
    missing = UsageError(
        f"This onnxruntime cannot compute on {device}: it has no {provider}.",
        "Use --device cpu, or install onnxruntime-gpu in place of onnxruntime.",
    )
    if not computes_on(device):
        raise missing
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.log_severity_level = 4  # its errors are raised; they need not be printed too
    # Threads that spin while they wait hold the cores that PyTorch wants: measured in turns with such a session it
    # took twice as long on two cores. The session itself is no slower without.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # TF32, a GPU's default, keeps 10 bits of the mantissa: no graph would pass for equal.
    cuda = {"device_id": device.index or 0, "use_tf32": 0} if device.type == "cuda" else {}
    try:
        session = in_thread(
            lambda: onnxruntime.InferenceSession(
                content, options, [(provider, cuda)], disabled_optimizers=UNUSED_OPTIMIZERS, enable_fallback=0
            )
        )
        _ = [end.shape for end in (*session.get_inputs(), *session.get_outputs())]  # names of no text fail here
    except (*ORT_ERRORS, UnicodeDecodeError) as error:
        if out_of_memory(error):
            raise
        raise ModelError(f"onnxruntime {onnxruntime.__version__} refuses {path}: {error}") from None
    if session.get_providers()[0] != provider:
        raise missing
    return session


def read_graph(path: Path) -> tuple[bytes, dict[str, str]]:
    """Return the bytes of anybody's graph and its metadata, once it is sure that it reads no other file.

    Raises:
        ModelError: if it does, or is damaged.
    """
    content, model = _parsed(path)
    if any(isinstance(message, onnx.TensorProto) and _lies_elsewhere(message) for message in messages(model)):
        raise ModelError(
            f"{path} holds a tensor that lies in another file. It was not opened.",
            "Save it as one file: onnx.save(onnx.load(OLD), NEW).",
        )
    if any(isinstance(message, onnx.SparseTensorProto) for message in messages(model)):
        raise ModelError(
            f"{path} holds a sparse tensor, which may be of any size once it is opened. It was not opened.",
            "Export the network with dense weights.",
        )
    if loops := [node.op_type for node in nodes_of(model) if node.op_type in LOOPS]:
        raise ModelError(
            f"{path} holds a {loops[0]}, which may never end. It was not opened.",
            "Export the network without control flow: a segmentation network needs none.",
        )
    return content, _metadata_of(model)


def nodes_of(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph, of the graphs in it and of its functions."""
    return (message for message in messages(model) if isinstance(message, onnx.NodeProto))


def sealed(content: bytes) -> bytes:
    """Append a model's digest to it. Protobuf merges what is concatenated: it is one more line of metadata."""
    entry = onnx.StringStringEntryProto(key="digest", value=hashlib.sha256(content).hexdigest())
    tail: bytes = onnx.ModelProto(metadata_props=[entry]).SerializeToString()
    return content + tail


def messages(message: Any) -> Iterator[Any]:
    """Yield a protobuf message and all inside it."""
    waiting = [message]
    while waiting:
        current = waiting.pop()
        yield current
        for field, value in current.ListFields():
            if field.message_type is not None:
                waiting.extend([value] if hasattr(value, "ListFields") else value)


def computes_on(device: torch.device) -> bool:
    """Whether this onnxruntime can compute on a device."""
    return _provider(device) in onnxruntime.get_available_providers()


def _provider(device: torch.device) -> str:
    return "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider"


def _read(path: Path) -> tuple[bytes, ModelInfo]:
    """Return the bytes of an exported file and its header, once it is sure that onnxruntime may see them."""
    again = "Export the model again."
    content, model = _parsed(path)
    metadata = _metadata_of(model)
    if "segdistill" not in metadata:
        raise ModelError(
            f"{path} is no ONNX file of ours: it lacks the header that says how to use it.",
            "Give a file that `segdistill export` wrote.",
        )
    if stranger := _stranger(model):
        raise ModelError(f"{path} holds {stranger}, as no exported file does. It was not opened.", again)
    if sealed(content[: -len(sealed(b""))]) != content:
        raise ModelError(f"{path} is damaged or was changed: its content does not have the digest it names.", again)
    try:
        check_length(metadata["segdistill"])
        info = ModelInfo.model_validate_json(metadata["segdistill"])
        info.check_labels()
    except ValueError as error:  # pydantic's are
        raise ModelError(
            f"The header of {path} is not one this version reads: {str(error)[:MAX_SAID]}", again
        ) from None
    ends = [{end.name: _shape(end) for end in ends} for ends in (model.graph.input, model.graph.output)]
    if ends != [{"image": [None, 3, None, None]}, {"logits": [None, info.outputs, None, None]}]:
        raise ModelError(f"{path} does not go from an image to {info.outputs} logits for each of its pixels.", again)
    return content, info


def _stranger(model: onnx.ModelProto) -> str:
    """Return what would make onnxruntime read other files or need other code; nothing where all is well."""
    for message in messages(model):
        if isinstance(message, onnx.TensorProto) and _lies_elsewhere(message):
            return "a tensor that lies in another file"
        if isinstance(message, onnx.TensorProto) and not _is_finite(message):
            return "a tensor that is not finite"
        if isinstance(message, onnx.SparseTensorProto):
            return "a sparse tensor"
        if isinstance(message, onnx.NodeProto) and message.domain not in ("", "ai.onnx"):
            return f"an operator of the domain {message.domain[:80]!r}"
    flow = [node.op_type for node in nodes_of(model) if node.op_type in CONTROL_FLOW]
    return f"control flow ({flow[0]})" if flow else ""


def _lies_elsewhere(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.external_data or tensor.data_location)


def _is_finite(tensor: onnx.TensorProto) -> bool:
    """Whether its numbers are, where it is one of float32, as all of ours are."""
    if tensor.data_type != onnx.TensorProto.FLOAT:
        return True
    whole = len(tensor.raw_data) // 4 * 4  # another size is for onnxruntime to refuse
    numbers = np.frombuffer(tensor.raw_data[:whole], "<f4")
    return bool(np.isfinite(numbers).all() and np.isfinite(np.array(tensor.float_data, np.float32)).all())


def _parsed(path: Path) -> tuple[bytes, onnx.ModelProto]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ModelError(f"{path} has more than {MAX_BYTES} bytes: it is no ONNX file.")
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from None
    try:
        check_size(content)
        model: onnx.ModelProto = onnx.load_model_from_string(content)
        check_functions(model)
    except TooLarge as error:
        raise ModelError(f"{path} has {error}. It was not opened.", "A segmentation network has far less.") from None
    except Exception as error:  # ours, or protobuf's DecodeError, whose package has no types
        if out_of_memory(error):
            raise
        raise ModelError(f"{path} is damaged, or no ONNX file.", "Export the model again.") from None
    return content, model


def _metadata_of(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def _shape(end: onnx.ValueInfoProto) -> list[int | None]:
    """Return the sizes of an input or output, None for those that vary."""
    return [dim.dim_value if dim.HasField("dim_value") else None for dim in end.type.tensor_type.shape.dim]


def _array(image: Tensor) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(image.cpu().numpy(), dtype=np.float32)
