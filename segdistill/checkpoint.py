"""Two kinds of file: the model to ship (safetensors, self-describing) and the exact state of a training.

The model file's header says everything needed to use the weights: network, classes, palette, input conventions, size.
The training state is read as tensors and plain values alone. Its own digest tells damage before anything is used.
"""

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Annotated, Any, BinaryIO, Literal, Self, cast

import torch
from pydantic import Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open

from segdistill.config import LabelCodes, NetworkConfig, Size, Strict
from segdistill.errors import CheckError, ModelError, UsageError, out_of_memory
from segdistill.networks import SegNetwork, blank_network, build_network
from segdistill.networks._pickle import read_pickle
from segdistill.networks._weights import check_header, mismatch
from segdistill.reading import check_utf8, open_file
from segdistill.store import verify_file, write_atomic
from segdistill.types import MOST_CLASSES

FORMAT = 1
"""Of both kinds of file."""
STATE_KIND = b"segdistill state "
STATE_MAGIC = STATE_KIND + b"%d " % FORMAT
PART = 1 << 20
"""Numbers of a tensor that are looked at, or written, at once."""
MAX_HEAD = 128
"""Bytes of a state's first line, at most."""
DTYPES = {
    **{torch.int64: "I64", torch.float64: "F64", torch.float32: "F32", torch.int32: "I32"},
    **{torch.bfloat16: "BF16", torch.float16: "F16", torch.uint8: "U8", torch.bool: "BOOL"},
}
"""The types that networks have, as safetensors calls them, in the order in which it lays them out."""
MAX_INFO = 1 << 17
"""Characters of our header, at most: it has some thousands, and what does not fit it is told piece by piece."""
MAX_SAID = 1000
"""Characters of what is wrong with it that are told."""
MAX_SIZE = 1 << 25
"""Pixels that images are brought to, 8192x4096: a header that asks for more would fill the memory."""
RESTORE = "Restore the file, or train again."
IMPORT = "A published checkpoint becomes a model by: segdistill import-weights FILE --network NETWORK --out FOLDER"
Color = tuple[int, int, int]


class ModelInfo(Strict):
    """The header of a model file."""

    format: Literal[1] = 1
    network: NetworkConfig
    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    role: Literal["teacher", "student"]
    teacher: NetworkConfig | None = None
    """Of a student: the network whose speed it is compared with."""
    terms: tuple[str, ...] = ()
    """What a student was distilled by; none of a plain one and of a teacher."""
    label_codes: LabelCodes | None = None
    """Of a label-assisted teacher: how it sees the label beside the image."""
    void_output: Annotated[int, Field(ge=0)] | None = None
    """Of a network with one output more than classes: which of them says that a pixel is of none."""
    size: Size | None
    """Images are brought to this size (height, width) before the network; None leaves them at their own."""
    data: str
    """The data set's name."""
    preset: str
    steps: int
    metrics: dict[str, float] = Field(default={})
    versions: dict[str, str] = Field(default={})
    sha256: str = ""
    """Of the weights, in the order of their sorted names."""
    header_sha256: str = ""
    """Of this header's text without it; empty where nobody took it."""
    details: dict[str, str] = Field(default={}, exclude=True)
    """What else an external teacher depends on, by name: its file's output, its code. No header has it."""

    @model_validator(mode="before")
    @classmethod
    def _older(cls, header: Any) -> Any:
        """Understand what older headers say otherwise.

        They have mean and deviation beside the network's table, and the dropout that was everybody's default, 0.1, in
        the tables of networks without.
        """
        if not (isinstance(header, dict) and isinstance(header.get("network"), dict)):
            return header
        header = dict(header)
        for role in ("network", "teacher"):
            if isinstance(header.get(role), dict) and header[role].get("dropout") == 0.1:
                header[role] = {key: value for key, value in header[role].items() if key != "dropout"}
        if "mean" in header:
            own = {key: header.pop(key) for key in ("mean", "std") if key in header}
            header["network"] = header["network"] | {"input": own}
        return header

    @model_validator(mode="after")
    def _void_is_an_output(self) -> Self:
        if self.void_output is not None and self.void_output >= self.outputs:
            raise ValueError(f"there is no output {self.void_output}")
        return self

    def check_labels(self) -> None:
        """Refuse what has no place in a label map, and sizes of images that no network is shown.

        Raises:
            ValueError: if there are more classes than numbers for them, not one colour for each, or more than
                `MAX_SIZE` pixels.
        """
        if self.size is not None and self.size[0] * self.size[1] > MAX_SIZE:
            raise ValueError(f"images of {self.size[0]}x{self.size[1]}, of which a network sees {MAX_SIZE} pixels")
        if len(self.classes) > MOST_CLASSES:
            raise ValueError(f"{len(self.classes)} classes, of which a label map can tell {MOST_CLASSES}")
        channels = [channel for color in self.palette for channel in color]
        if len(self.palette) != len(self.classes) or not all(channel in range(256) for channel in channels):
            raise ValueError("its palette is not a colour, three numbers from 0 to 255, for each class")

    @property
    def outputs(self) -> int:
        """How many logits the network has for each pixel."""
        return len(self.classes) + (self.void_output is not None)

    @property
    def label_assisted(self) -> bool:
        """Whether the network sees the label: its scores say how well it reads it, not how well it segments."""
        return self.label_codes is not None

    def measured(self, miou: float, pixel_accuracy: float, classes_scored: int) -> dict[str, float]:
        """Return scores by the names that they may have: a network that sees the labels has no accuracy."""
        if self.label_assisted:
            return {"agreement_with_seen_labels": pixel_accuracy}
        return {"miou": miou, "pixel_accuracy": pixel_accuracy, "classes_scored": float(classes_scored)}


def identity_parts(info: ModelInfo, class_map: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return all that changes what a network says of an image in the classes of the data, by name, as JSON has it.

    Args:
        info: header of its file.
        class_map: as it was resolved for the data, where there is one.
    """
    network = info.network.model_dump(mode="json", exclude_defaults=True)
    parts = {
        "weights": info.sha256,
        "input": network.pop("input", None),
        "align_corners": network.pop("align_corners", None),
        "network": network,
        "classes": info.classes,
        "void output": info.void_output,
        "size": info.size,
        "label codes": None if info.label_codes is None else info.label_codes.model_dump(mode="json"),
        "class map": None if class_map is None else dict(class_map),
        **info.details,
    }
    found: dict[str, Any] = json.loads(json.dumps(parts))
    return found


def identity(info: ModelInfo, class_map: Mapping[str, str] | None = None) -> str:
    """Return a sha256 of `identity_parts`: two networks that share it say the same."""
    return _digest(json.dumps(identity_parts(info, class_map), sort_keys=True))


def save_model(path: Path, network: SegNetwork, info: ModelInfo) -> ModelInfo:
    """Write the weights and what is needed to use them; return the header as written.

    Raises:
        CheckError: if a tensor is not finite. Nothing is written then.
    """
    weights: dict[str, torch.Tensor] = network.state_dict()
    _check_finite(path, weights)
    info = info.model_copy(update={"sha256": weights_digest(weights), "header_sha256": ""})
    info = info.model_copy(update={"header_sha256": _digest(info.model_dump_json())})
    metadata = {"segdistill": info.model_dump_json()}
    write_atomic(path, lambda file: write_safetensors(file, weights, metadata))
    return info


def write_safetensors(file: BinaryIO, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors, one after the other, in the bytes of `safetensors.torch.save` and little memory.

    The format is the header's length in 8 bytes, a JSON object of names with types, shapes and offsets, padded with
    spaces to a multiple of 8 bytes, and the numbers: the widest types first (github.com/huggingface/safetensors).
    """
    order = list(DTYPES)
    names = sorted(tensors, key=lambda name: (order.index(tensors[name].dtype), name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name in names:
        start, end = end, end + tensors[name].nbytes
        own = {"dtype": DTYPES[tensors[name].dtype], "shape": list(tensors[name].shape)}
        header[name] = own | {"data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    file.write(len(text).to_bytes(8, "little"))
    file.write(text)
    for name in names:
        for part in _parts(tensors[name]):
            file.write(_bytes_of(part))


def _parts(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the rows of a tensor some at a time, so that what is computed of them, or their copy, takes little."""
    rows = tensor.detach().reshape(1) if tensor.dim() == 0 else tensor.detach()
    yield from rows.split(max(1, PART * len(rows) // max(1, rows.numel())))


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    """Return the numbers of a tensor in their order."""
    return tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def read_info(path: Path) -> ModelInfo:
    """Read a model file's header without its weights.

    Raises:
        ModelError: if it is not a model file of ours, or damaged.
    """
    return _info(path, _read(path, weights=False)[0])


def _info(path: Path, metadata: dict[str, str]) -> ModelInfo:
    if "segdistill" not in metadata:
        raise ModelError(
            f"{path} holds weights, but not the header that segdistill writes.",
            f"Give a run's folder or its model.safetensors. {IMPORT}",
        )
    header = metadata["segdistill"]
    try:
        check_length(header)
        table = json.loads(header)
        later = table.get("format") if isinstance(table, dict) else None
        if isinstance(later, int) and later > FORMAT:
            raise _of_later_format(path, later)
        info = ModelInfo.model_validate(table)
        info.check_labels()
    except (ValidationError, ValueError, RecursionError) as error:
        raise ModelError(f"The header of {path} is not one this version reads: {str(error)[:MAX_SAID]}") from None
    if info.header_sha256 and _digest(header.replace(info.header_sha256, "")) != info.header_sha256:
        raise ModelError(f"{path} is damaged: its header is not as it was written.", RESTORE)
    return info


def check_length(header: str) -> None:
    """Refuse a header that is too long to be read with all that may be wrong in it.

    Raises:
        ValueError: if it has more than `MAX_INFO` characters.
    """
    if len(header) > MAX_INFO:
        raise ValueError(f"it has {len(header)} characters, of which {MAX_INFO} are read")


def load_model(path: Path) -> tuple[SegNetwork, ModelInfo]:
    """Build the network a model file describes and fill it, strictly.

    Its numbers are of the file's own type: an imported checkpoint may be in float64, all others are in float32.

    Raises:
        ModelError: if the file is damaged, or its tensors are not the network's or not finite.
    """
    metadata, weights = _read(path, weights=True)
    info = _info(path, metadata)
    try:
        channels = 4 if info.label_assisted else 3
        blank = blank_network(info.network, info.outputs, channels)  # a header may ask for more than there is memory
        if wrong := mismatch(blank.state_dict(), weights):
            raise ModelError(f"{path} does not hold the tensors of {info.network.network}: {wrong}")
        network = build_network(info.network, info.outputs, channels)
        network.void_output = info.void_output
        network.to(widest_type(weights)).load_state_dict(weights)
    except (UsageError, RuntimeError) as error:
        if out_of_memory(error):
            raise
        raise ModelError(f"{path} does not hold the tensors of {info.network.network}: {error}") from None
    if weights_digest(weights) != info.sha256:
        raise ModelError(f"{path} is damaged: its weights are not those its header names.", RESTORE)
    if names := not_finite(weights):
        raise ModelError(f"{path} holds {len(names)} tensors that are not finite, {names[0]} among them.", RESTORE)
    return network.eval(), info


def widest_type(weights: Mapping[str, torch.Tensor]) -> torch.dtype:
    """Return float64 where there are such tensors, else float32, in which half precision is computed too."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in weights.values()) else torch.float32


def model_path(model: Path) -> Path:
    """Return the file that MODEL names: a run's folder holds `model.safetensors`.

    Raises:
        UsageError: if there is no such path, it is not UTF-8, or the run is not finished.
        ModelError: if the file is not the one the run wrote.
    """
    if not model.exists():
        raise UsageError(
            f"There is no {model}.", "Give a run's folder, a .safetensors model file or an exported .onnx file."
        )
    if model.suffix != ".onnx":
        check_utf8(model)  # safetensors opens no other
    if model.is_file():
        return model
    if not model.is_dir():
        raise UsageError(f"{model} is neither a file nor a folder.", "Give a run's folder or a model file.")
    file = model / "model.safetensors"
    if not file.is_file():
        raise UsageError(f"{model} holds no model.safetensors.", "The run is not finished: continue it with --resume.")
    verify_file(model, "model.safetensors")
    return file


def weights_digest(weights: dict[str, torch.Tensor]) -> str:
    """Return one sha256 over names, shapes, types and values."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name]
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        for part in _parts(tensor):
            digest.update(_bytes_of(part))
    return digest.hexdigest()


def save_state(path: Path, state: dict[str, Any], *, keep_previous: bool = False) -> None:
    """Write a training's state behind its own digest; with `keep_previous` the one before stays as `NAME.prev`.

    Raises:
        CheckError: if a tensor is not finite. Nothing is written then.
    """
    _check_finite(path, dict(_tensors(state)))

    def write(file: BinaryIO) -> None:
        file.write(STATE_MAGIC + b"0" * 64 + b"\n")
        payload = _Digesting(file)
        torch.save(state, cast(IO[bytes], payload))
        if payload.error is not None:
            raise payload.error
        file.seek(len(STATE_MAGIC))
        file.write(payload.digest.hexdigest().encode())

    def keep() -> None:  # only now, so that a full disk costs neither old one
        if keep_previous and path.exists():
            path.replace(path.with_name(f"{path.name}.prev"))

    write_atomic(path, write, before=keep)


class _Digesting:
    """What `torch.save` writes to: a file, and on the way there a digest of it.

    An error is kept for afterwards: raised in PyTorch's writer, another one would take its place.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: memoryview) -> int:
        """Take the next bytes."""
        size = memoryview(data).nbytes
        if self.error is None:
            self.digest.update(data)
            try:
                self.file.write(data)
            except OSError as error:
                self.error = error
        return size

    def flush(self) -> None:
        """Do nothing: the file is flushed at its end."""


def load_state(path: Path) -> dict[str, Any]:
    """Read a training's state.

    Raises:
        ModelError: if it is damaged or something else.
    """
    try:
        with open_file(path) as file:
            if not zipfile.is_zipfile(file):  # a look at both ends: what was made longer may be longer than the memory
                raise zipfile.BadZipFile
            file.seek(0)
            head = file.readline(MAX_HEAD).rstrip(b"\n")
            payload = file.read()
    except zipfile.BadZipFile:
        raise ModelError(f"{path} is damaged: it does not end as it was written.") from None
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from None
    later = re.match(STATE_KIND + rb"(\d{1,9}) ", head)
    if later and int(later[1]) > FORMAT:
        raise _of_later_format(path, int(later[1]))
    digest = hashlib.sha256(payload).hexdigest()
    if not head.startswith(STATE_MAGIC) or head[len(STATE_MAGIC) :].decode(errors="replace") != digest:
        raise ModelError(f"{path} is damaged: its content has the sha256 {digest}, not the one it names.")
    try:
        state: dict[str, Any] = read_pickle(io.BytesIO(payload), path)
    except Exception as error:  # whatever a forged file leads to
        if out_of_memory(error) and not isinstance(error, MemoryError):  # which a length in a forged file leads to
            raise
        raise ModelError(f"{path} holds something else than a training's state ({type(error).__name__}).") from None
    return state


def _read(path: Path, *, weights: bool) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """Return a file's metadata and, where asked for, its tensors: of one opening, as a run may replace it meanwhile."""
    try:
        check_header(path)
        with safe_open(path, framework="pt") as file:
            names = file.keys() if weights else ()
            return file.metadata() or {}, {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError) as error:
        if out_of_memory(error):
            raise
        cure = RESTORE if path.suffix == ".safetensors" else IMPORT
        raise ModelError(f"{path} is not a readable safetensors file: {error}", cure) from None


def _of_later_format(path: Path, later: int) -> ModelError:
    return ModelError(
        f"{path} is of format {later}; this version of segdistill reads format {FORMAT}.", "Use a newer version."
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _check_finite(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    if bad := not_finite(tensors):
        raise CheckError(
            f"{len(bad)} tensors are not finite, {bad[0]} among them: {path} was not written.", "Lower optim.lr."
        )


def not_finite(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """Return the names of tensors that hold NaN or infinity."""
    floating = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    return [name for name, tensor in floating.items() if not all(part.isfinite().all() for part in _parts(tensor))]


def _tensors(value: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every tensor of nested dictionaries and lists, with its path."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, dict | list | tuple):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _tensors(inner, f"{name}.{key}" if name else str(key))
