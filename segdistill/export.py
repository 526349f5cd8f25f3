"""The network as one ONNX file that describes itself, the checks that prove it equal and the gate that proves it fast.

The graph takes `image`, float32 RGB 0..255 (B, 3, H, W) of any size, normalises it and returns `logits` (B, C, H, W),
or (B, C + 1, H, W) of a network with a void output, which comes last.
The file carries the header of the model file it was made from, and ends in a digest of all that stands before.
"""

import copy
import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as ort
from torch import Tensor
from torch.nn import functional as F

from segdistill.checkpoint import ModelInfo
from segdistill.engine import predict_labels
from segdistill.errors import CheckError, DataError, ModelError, UsageError
from segdistill.latency import Latency, Subject
from segdistill.metrics import Scores
from segdistill.networks import Deployed, SegNetwork
from segdistill.store import sha256_of, write_atomic
from segdistill.types import IGNORE, Batch

OPSET, IR = 20, 10
"""Old enough for the onnxruntime, TensorRT and OpenVINO of 2024."""
MAX_BYTES = 2**31 - 1
"""No protobuf message is larger."""
MAX_DIFFERENCE, MIN_AGREEMENT, MAX_MIOU_CHANGE = 1e-4, 0.999, 1e-3
"""The difference is a fraction of the largest logit."""
EXAMPLE_SHAPE = (2, 3, 65, 97)
"""What the graph is traced with: an axis of length 1, or two of one length, could be taken for constants."""
CHECKED_SHAPES = ((1, 67, 101), (3, 101, 67))
"""Batch, height and width beside those of the data: whatever the trace took for a constant shows here."""
ORT_ERRORS = (
    ort.Fail,
    ort.InvalidArgument,
    ort.InvalidGraph,
    ort.InvalidProtobuf,
    ort.NotImplemented,
    ort.RuntimeException,
)


def export_onnx(network: SegNetwork, info: ModelInfo, path: Path) -> None:
    """Write the network as it is shipped, without its auxiliary head, as one self-describing file.

    Args:
        network: stays as it is.
        info: the header of its model file.
        path: is replaced atomically.

    Raises:
        UsageError: if the network sees more than the image.
    """
    if network.mean.shape[1] != 3:
        raise UsageError(f"This {info.network.network} sees more than images, labels for example.", "Export a student.")
    own = copy.deepcopy(network).to("cpu", torch.float32)
    own.ship()
    shipped = Deployed(own)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, about itself
        program = torch.onnx.export(
            shipped,
            (torch.zeros(EXAMPLE_SHAPE),),
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes={"image": {0: "batch", 2: "height", 3: "width"}},
            verbose=False,
        )
    assert program is not None, "the dynamo exporter returns the program"
    model = program.model_proto
    model.ir_version = min(model.ir_version, IR)
    for message in _messages(model):  # stack traces with paths of this machine, names of weights that are gone
        for field in {"doc_string", "metadata_props"}.intersection(message.DESCRIPTOR.fields_by_name):
            message.ClearField(field)
    del model.graph.value_info[:]
    for key, value in _metadata(info).items():
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model, full_check=True)
    write_atomic(path, _sealed(model.SerializeToString()))


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
            (logits,) = self.session.run(["logits"], {"image": _array(image)})
        except ORT_ERRORS as error:
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
    if provider not in onnxruntime.get_available_providers():
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
        session = onnxruntime.InferenceSession(content, options, [(provider, cuda)], enable_fallback=0)
        _ = [end.shape for end in (*session.get_inputs(), *session.get_outputs())]  # names of no text fail here
    except (*ORT_ERRORS, UnicodeDecodeError) as error:
        raise ModelError(f"onnxruntime {onnxruntime.__version__} refuses {path}: {error}") from None
    if session.get_providers()[0] != provider:
        raise missing
    return session


def _provider(device: torch.device) -> str:
    return "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider"


@dataclass(frozen=True)
class Check:
    """How far an exported graph is from the network it was made from."""

    max_abs_diff: float
    """Between logits, over all images and `CHECKED_SHAPES`."""
    largest_logit: float
    """By magnitude."""
    label_agreement: float
    """Share of the pixels, at the labels' size, to which both give the same class."""
    miou_torch: float
    miou_onnx: float
    images: int

    def failures(self) -> list[str]:
        """Say which limits it breaks; nothing to say means passed. What is not a number breaks them."""
        limit, change = MAX_DIFFERENCE * self.largest_logit, abs(self.miou_torch - self.miou_onnx)
        rules = {
            f"the logits differ by up to {self.max_abs_diff:.3g}, which is more than {limit:.3g}, "
            f"{MAX_DIFFERENCE:g} of the largest": self.max_abs_diff <= limit,
            f"only {100 * self.label_agreement:.3f} % of the pixels get the same class, "
            f"less than {100 * MIN_AGREEMENT:g} %": self.label_agreement >= MIN_AGREEMENT,
            f"the mIoU goes from {self.miou_torch:.4f} to {self.miou_onnx:.4f}, "
            f"by more than {MAX_MIOU_CHANGE:g}": change <= MAX_MIOU_CHANGE,
        }
        return [sentence for sentence, kept in rules.items() if not kept]


@torch.no_grad()
def check_parity(
    predict: Callable[[Tensor], Tensor],
    exported: OnnxModel,
    batches: Iterable[Batch],
    on_batch: Callable[[int], None] | None = None,
) -> Check:
    """Compare an exported graph with its network on the images of a data set, at their size and at `CHECKED_SHAPES`.

    Args:
        predict: the network, in float32 without TF32: images (B, 3, h, w) to logits (B, C, h, w).
        exported: the graph.
        batches: what `engine.evaluate` takes.
        on_batch: called with the number of images done.

    Raises:
        DataError: if there are no images.
        CheckError: if the graph fails on images of some shape.
    """
    num_classes = len(exported.info.classes)
    scores = [Scores.empty(num_classes)] * 2
    largest: list[Tensor] = []
    differences: list[Tensor] = []
    equal = pixels = 0
    for batch in batches:
        images = [batch.image] if pixels else [batch.image, *_at_checked_shapes(batch.image)]
        pairs = [_both(predict, exported, image) for image in images]
        largest += [ours.abs().max() for ours, _ in pairs]
        differences += [(ours - theirs).abs().max() for ours, theirs in pairs]
        labels = [predict_labels(lambda logits: logits, logits, batch.label.shape[-2:]) for logits in pairs[0]]
        scores = [sofar + Scores.of(own, batch.label, num_classes) for sofar, own in zip(scores, labels, strict=True)]
        equal += int((labels[0] == labels[1]).sum())
        pixels += labels[0].numel()
        if on_batch is not None:
            on_batch(len(batch.image))
    if not pixels:
        raise DataError("There are no images to compare the exported graph on.", "Choose another split or data set.")
    return Check(
        max_abs_diff=float(torch.stack(differences).max()),
        largest_logit=float(torch.stack(largest).max()),
        label_agreement=equal / pixels,
        miou_torch=scores[0].miou,
        miou_onnx=scores[1].miou,
        images=scores[0].images,
    )


@dataclass(frozen=True)
class Gate:
    """A limit that was asked for, and whether it was kept."""

    limit: str
    passed: bool


def speed_gate(latency: Latency, *, min_fps: float | None, max_ms: float | None) -> Gate | None:
    """Hold the median against `--min-fps` or `--max-ms`; None where neither was asked for."""
    if min_fps is not None:
        return Gate(f"at least {min_fps:g} fps", latency.fps >= min_fps)
    if max_ms is not None:
        return Gate(f"at most {max_ms:g} ms", latency.p50 <= max_ms)
    return None


def export_report(
    path: Path, size: tuple[int, int], check: Check, latencies: dict[str, Latency], gate: Gate | None
) -> dict[str, Any]:
    """Return what `export --json` prints.

    Args:
        path: the exported file, under the name it has now.
        size: (height, width) of the image in the measurement.
        check: of the graph against the network.
        latencies: of "student" and "onnxruntime", and of "teacher" where there is one.
        gate: the limit that was asked for.
    """
    comparison = asdict(check)
    del comparison["largest_logit"]
    return {
        "file": str(path),
        "sha256": sha256_of(path),
        "opset": OPSET,
        "size": list(size),
        "check": comparison,
        "latency_ms": {"teacher": None} | {name: asdict(latency) for name, latency in latencies.items()},
        "fps": latencies["onnxruntime"].fps,
        "gate": asdict(gate) if gate else None,
    }


def _metadata(info: ModelInfo) -> dict[str, str]:
    """Return the header as a whole, for ourselves, and in words of its own what others need."""
    void = {} if info.void_output is None else {"void_output": str(info.outputs - 1)}
    return {
        "segdistill": info.model_copy(update={"void_output": info.outputs - 1} if void else {}).model_dump_json(),
        "input": "image: float32 RGB 0..255 (B, 3, H, W)",
        "output": f"logits: float32 (B, {info.outputs}, H, W) before softmax, at the input's size",
        "normalization": "in_graph",
        "classes": json.dumps(info.classes),
        "palette": json.dumps(info.palette),
        "ignore_index": str(IGNORE),
        "size": "x".join(map(str, info.size)) if info.size else "any",
        "network": info.network.network,
        "data": info.data,
        "preset": info.preset,
        "versions": json.dumps(info.versions),
        "sha256": info.sha256,
        **void,
    }


def _sealed(content: bytes) -> bytes:
    """Append a model's digest to it. Protobuf merges what is concatenated: it is one more line of metadata."""
    entry = onnx.StringStringEntryProto(key="digest", value=hashlib.sha256(content).hexdigest())
    tail: bytes = onnx.ModelProto(metadata_props=[entry]).SerializeToString()
    return content + tail


def read_graph(path: Path) -> tuple[bytes, dict[str, str]]:
    """Return the bytes of anybody's graph and its metadata, once it is sure that it reads no other file.

    Raises:
        ModelError: if it does, or is damaged.
    """
    content, model = _parsed(path)
    if any(isinstance(message, onnx.TensorProto) and _lies_elsewhere(message) for message in _messages(model)):
        raise ModelError(
            f"{path} holds a tensor that lies in another file. It was not opened.",
            "Save it as one file: onnx.save(onnx.load(OLD), NEW).",
        )
    return content, _metadata_of(model)


def _parsed(path: Path) -> tuple[bytes, onnx.ModelProto]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ModelError(f"{path} has more than {MAX_BYTES} bytes: it is no ONNX file.")
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from None
    try:
        model: onnx.ModelProto = onnx.load_model_from_string(content)
    except Exception:  # protobuf's DecodeError, whose package has no types
        raise ModelError(f"{path} is damaged, or no ONNX file.", "Export the model again.") from None
    return content, model


def _metadata_of(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


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
    if _sealed(content[: -len(_sealed(b""))]) != content:
        raise ModelError(f"{path} is damaged or was changed: its content does not have the digest it names.", again)
    try:
        info = ModelInfo.model_validate_json(metadata["segdistill"])
        info.check_labels()
    except ValueError as error:  # pydantic's are
        raise ModelError(f"The header of {path} is not one this version reads: {error}", again) from None
    ends = [{end.name: _shape(end) for end in ends} for ends in (model.graph.input, model.graph.output)]
    if ends != [{"image": [None, 3, None, None]}, {"logits": [None, info.outputs, None, None]}]:
        raise ModelError(f"{path} does not go from an image to {info.outputs} logits for each of its pixels.", again)
    return content, info


def _stranger(model: onnx.ModelProto) -> str:
    """Return what would make onnxruntime read other files or need other code; nothing where all is well."""
    for message in _messages(model):
        if isinstance(message, onnx.TensorProto) and _lies_elsewhere(message):
            return "a tensor that lies in another file"
        if isinstance(message, onnx.NodeProto) and message.domain not in ("", "ai.onnx"):
            return f"an operator of the domain {message.domain[:80]!r}"
    return ""


def _lies_elsewhere(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.external_data or tensor.data_location)


def _messages(message: Any) -> Iterator[Any]:
    """Yield a protobuf message and all inside it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for child in [value] if hasattr(value, "ListFields") else value:
                yield from _messages(child)


def _shape(end: onnx.ValueInfoProto) -> list[int | None]:
    """Return the sizes of an input or output, None for those that vary."""
    return [dim.dim_value if dim.HasField("dim_value") else None for dim in end.type.tensor_type.shape.dim]


def _array(image: Tensor) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(image.cpu().numpy(), dtype=np.float32)


def _at_checked_shapes(image: Tensor) -> Iterator[Tensor]:
    for count, *size in CHECKED_SHAPES:
        yield F.interpolate(image[:1], size=size, mode="bilinear", align_corners=False).repeat(count, 1, 1, 1)


def _both(predict: Callable[[Tensor], Tensor], exported: OnnxModel, image: Tensor) -> tuple[Tensor, Tensor]:
    try:
        return predict(image).float().cpu(), exported(image)
    except ModelError as error:
        raise CheckError(error.what) from None
