"""The model file: weights in safetensors, and a header that says everything needed to use them.

That is the network, its classes and palette, its preprocessing and the size of its images. Digests tell damage before
anything is used.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from torch import Tensor

from segdistill.checkpoints._format import FORMAT, RESTORE, later_format_error
from segdistill.checkpoints.tensors import (
    check_finite,
    describe_not_finite,
    not_finite,
    weights_digest,
    widest_type,
    write_safetensors,
)
from segdistill.config.schema import LabelEmbedding, NetworkConfig, Size, Strict, Weights, with_new_key
from segdistill.errors import ModelError, UsageError, out_of_memory
from segdistill.networks import SegNetwork, build_network, meta_network
from segdistill.storage.atomic import write_atomic
from segdistill.storage.files import check_utf8
from segdistill.storage.manifest import verify_file
from segdistill.storage.run_files import WEIGHT_FILES
from segdistill.storage.weights import check_header, mismatch
from segdistill.types import MAX_CLASSES

MAX_HEADER_CHARACTERS = 1 << 17
"""Characters of our header: it has some thousands, and pydantic lists all that does not fit, piece by piece."""
MAX_REASON_CHARACTERS = 1000
"""Characters of the message on what is wrong with a header."""
MAX_PIXELS = 1 << 25
"""Pixels that images are brought to, 8192x4096: a header that asks for more would fill the memory."""
IMPORT = "A published checkpoint becomes a model by: segdistill import-weights FILE --network NETWORK --out FOLDER"
Color = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""


class ModelInfo(Strict):
    """The header of a model file."""

    format: Literal[1] = 1
    network: NetworkConfig
    classes: tuple[str, ...]
    """Names of the classes, by id."""
    palette: tuple[Color, ...]
    """Colors of the classes, by id."""
    role: Literal["teacher", "student"]
    teacher: NetworkConfig | None = None
    """Network whose speed a student's is compared with."""
    terms: tuple[str, ...] = ()
    """Terms that a student was distilled by; a baseline and a teacher have none."""
    label_embedding: LabelEmbedding | None = None
    """Table of a label-assisted teacher: how it sees the label beside the image."""
    void_output: Annotated[int, Field(ge=0)] | None = None
    """Output of a network with one more than classes that says that a pixel is of none."""
    scored_by_teacher: bool = False
    """Whether its scores are agreement with its teacher on images that nobody has labeled: no accuracy."""
    size: Size | None
    """Height and width that images are brought to before the network; None leaves them at their own."""
    data: str
    """Name of the data set."""
    preset: str
    """Name of the preset."""
    steps: int
    """Optimizer steps of its training."""
    weights: Weights = "last"
    """Choice among the weights of its training that these are."""
    metrics: dict[str, float] = Field(default={})
    """Scores on the validation images, by name, as fractions 0..1; see `measured`."""
    versions: dict[str, str] = Field(default={})
    """Versions of the libraries that it was trained with."""
    sha256: str = ""
    """Digest of the weights, in the order of their sorted names."""
    header_sha256: str = ""
    """Digest of this header's text without it; empty where nobody took it."""
    details: dict[str, str] = Field(default={}, exclude=True)
    """Further things that an external teacher depends on, by name: its file's output, its code. No header has them."""

    @model_validator(mode="before")
    @classmethod
    def _read_earlier_versions(cls, header: Any) -> Any:
        """Understand headers of earlier versions.

        Version 0.1 calls the label embedding `label_codes`. Those before it have mean and deviation beside the
        network's table, and the dropout that was everybody's default, 0.1, in the tables of networks without.
        """
        if not isinstance(header, dict) or not isinstance(header.get("network"), dict):
            return header
        header = with_new_key(header, "label_codes", "label_embedding").copy()
        for role in ("network", "teacher"):
            header = _without_old_dropout(header, role)
        if "mean" in header:
            preprocessing = {key: header.pop(key) for key in ("mean", "std") if key in header}
            header["network"] = header["network"] | {"input": preprocessing}
        return header

    @model_validator(mode="after")
    def _has_void_output(self) -> Self:
        if self.void_output is not None and self.void_output >= self.outputs:
            raise ValueError(f"there is no output {self.void_output}")
        return self

    def check_labels(self) -> None:
        """Refuse what has no place in a label map, and sizes of images that no network is shown.

        Raises:
            ValueError: if there are more classes than numbers for them, not one color for each, or more than
                `MAX_PIXELS`.
        """
        if self.size is not None and self.size[0] * self.size[1] > MAX_PIXELS:
            raise ValueError(f"images of {self.size[0]}x{self.size[1]}, of which a network sees {MAX_PIXELS} pixels")
        if len(self.classes) > MAX_CLASSES:
            raise ValueError(f"{len(self.classes)} classes, of which a label map can tell {MAX_CLASSES}")
        channels = [channel for color in self.palette for channel in color]
        if len(self.palette) != len(self.classes) or not all(channel in range(256) for channel in channels):
            raise ValueError("its palette is not a color, three numbers from 0 to 255, for each class")

    @property
    def outputs(self) -> int:
        """Number of logits that the network has for each pixel."""
        return len(self.classes) if self.void_output is None else len(self.classes) + 1

    @property
    def label_assisted(self) -> bool:
        """Whether the network sees the label: its scores say how well it reads it, not how well it segments."""
        return self.label_embedding is not None

    def measured(self, miou: float, pixel_accuracy: float, classes_scored: int) -> dict[str, float]:
        """Return scores by the names that they may have: what no label has measured is no accuracy."""
        if self.label_assisted:
            return {"agreement_with_seen_labels": pixel_accuracy}
        if self.scored_by_teacher:
            return {
                "agreement_miou": miou,
                "agreement_pixels": pixel_accuracy,
                "classes_scored": float(classes_scored),
            }
        return {"miou": miou, "pixel_accuracy": pixel_accuracy, "classes_scored": float(classes_scored)}


def identity_parts(info: ModelInfo, class_map: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return all that changes what a network says of an image in the classes of the data, by name, as JSON has it.

    Args:
        info: header of its file.
        class_map: as it was resolved for the data, where there is one.
    """
    network = info.network.model_dump(mode="json", exclude_defaults=True)
    embedding = None if info.label_embedding is None else info.label_embedding.model_dump(mode="json")
    parts = {
        "weights": info.sha256,
        "input": network.pop("input", None),
        "align_corners": network.pop("align_corners", None),
        "network": network,
        "classes": info.classes,
        "void output": info.void_output,
        "size": info.size,
        # by this name it is compared with what runs of version 0.1 have written down
        "label codes": embedding,
        "class map": None if class_map is None else dict(class_map),
        **info.details,
    }
    as_read: dict[str, Any] = json.loads(json.dumps(parts))  # lists for tuples, as those that it is compared with
    return as_read


def identity(info: ModelInfo, class_map: Mapping[str, str] | None = None) -> str:
    """Return a sha256 of `identity_parts`: two networks that share it say the same."""
    return _digest(json.dumps(identity_parts(info, class_map), sort_keys=True))


def save_model(path: Path, network: SegNetwork, info: ModelInfo) -> ModelInfo:
    """Write the weights and what is needed to use them; return the header as written.

    Raises:
        CheckError: if a tensor is not finite. Nothing is written then.
    """
    weights: dict[str, Tensor] = network.state_dict()
    check_finite(path, weights)
    # The header's digest is of its text while that digest is empty, and so can be checked again.
    info = info.model_copy(update={"sha256": weights_digest(weights), "header_sha256": ""})
    info = info.model_copy(update={"header_sha256": _digest(info.model_dump_json())})
    metadata = {"segdistill": info.model_dump_json()}
    write_atomic(path, lambda file: write_safetensors(file, weights, metadata))
    return info


def read_info(path: Path) -> ModelInfo:
    """Read a model file's header without its weights.

    Raises:
        ModelError: if it is not a model file of ours, or damaged.
    """
    return _info(path, _read(path, weights=False)[0])


def is_model_file(path: Path) -> bool:
    """Whether a file has our header; a file of another kind, or of none, has not."""
    try:
        return "segdistill" in _read(path, weights=False)[0]
    except ModelError:
        return False


def check_length(header: str) -> None:
    """Refuse a header that is too long to be read with all that may be wrong in it.

    Raises:
        ValueError: if it has more than `MAX_HEADER_CHARACTERS`.
    """
    if len(header) > MAX_HEADER_CHARACTERS:
        raise ValueError(f"it has {len(header)} characters, of which {MAX_HEADER_CHARACTERS} are read")


def load_model(path: Path) -> tuple[SegNetwork, ModelInfo]:
    """Build the network a model file describes and fill it, strictly.

    Its numbers are of the file's own type: an imported checkpoint may be in float64, all others are in float32.

    Raises:
        ModelError: if the file is damaged, or its tensors are not the network's or not finite.
    """
    metadata, weights = _read(path, weights=True)
    info = _info(path, metadata)
    try:
        network = _filled_network(path, info, weights)
    except (UsageError, RuntimeError) as error:
        if out_of_memory(error):
            raise
        raise ModelError(f"{path} does not hold the tensors of {info.network.network}: {error}") from None
    _check_weights(path, info, weights)
    return network.eval(), info


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a model file's weights by name, for a network that is there already.

    Raises:
        ModelError: if it is not a model file of ours, or damaged, or a tensor is not finite.
    """
    metadata, weights = _read(path, weights=True)
    _check_weights(path, _info(path, metadata), weights)
    return weights


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
    if not file.is_file():  # it is the last that a training writes
        raise UsageError(
            f"{model} holds no model.safetensors.",
            f"The run is not finished. Continue it: segdistill resume {quote(str(model))}",
        )
    verify_file(model, "model.safetensors")
    return file


def weights_path(model: Path, weights: Weights | None) -> Path:
    """Return the file that MODEL names, of the weights of a run that are asked for; None are those that it ships.

    Raises:
        UsageError: as `model_path`; if MODEL is no run's folder, or the run has no such weights.
        ModelError: as `model_path`.
    """
    shipped = model_path(model)
    if weights is None:
        return shipped
    if not model.is_dir():
        raise UsageError(
            f"--weights {weights} chooses among the weights of a run, and {model} is a file.", "Give the run's folder."
        )
    own = read_info(shipped).weights
    if own == weights:
        return shipped
    name = WEIGHT_FILES[weights]
    if not (model / name).is_file():
        others = [kind for kind, file in WEIGHT_FILES.items() if kind != own and (model / file).is_file()]
        advice = "Leave out --weights, or give one of these."
        if weights == "ema":
            advice = "An average is kept by --set optim.ema=0.999, in the training."
        raise UsageError(f"{model} has no weights {weights!r}. It has: {', '.join([own, *others])}.", advice)
    verify_file(model, name)
    return model / name


def _check_weights(path: Path, info: ModelInfo, weights: dict[str, Tensor]) -> None:
    """Refuse weights that are not those of the header, or not finite.

    Raises:
        ModelError: if they are.
    """
    if weights_digest(weights) != info.sha256:
        raise ModelError(f"{path} is damaged: its weights are not those its header names.", RESTORE)
    bad = not_finite(weights)
    if bad:
        raise ModelError(f"{path} holds {describe_not_finite(bad)}.", RESTORE)


def _filled_network(path: Path, info: ModelInfo, weights: dict[str, Tensor]) -> SegNetwork:
    """Return the network that a header describes, with these weights.

    Raises:
        ModelError: if the weights are another one's.
        UsageError: if there is no such network.
        RuntimeError: if PyTorch cannot build it.
    """
    channels = 4 if info.label_assisted else 3  # the label is one more
    # Without memory for its numbers at first: a header may ask for more than there is.
    expected = meta_network(info.network, info.outputs, channels).state_dict()
    problem = mismatch(expected, weights)
    if problem:
        raise ModelError(f"{path} does not hold the tensors of {info.network.network}: {problem}")
    network = build_network(info.network, info.outputs, channels)
    network.void_output = info.void_output
    network.to(widest_type(weights)).load_state_dict(weights)
    return network


def _info(path: Path, metadata: dict[str, str]) -> ModelInfo:
    """Return the header in a file's metadata.

    Raises:
        ModelError: if there is none, or it is damaged or of a later version.
    """
    if "segdistill" not in metadata:
        raise ModelError(
            f"{path} holds weights, but not the header that segdistill writes.",
            f"Give a run's folder or its model.safetensors. {IMPORT}",
        )
    header = metadata["segdistill"]
    try:
        check_length(header)
        table = json.loads(header)
        # Before all else: of a later format, any other key may be unknown.
        later = table.get("format") if isinstance(table, dict) else None
        if isinstance(later, int) and later > FORMAT:
            raise later_format_error(path, later)
        info = ModelInfo.model_validate(table)
        info.check_labels()
    except (ValidationError, ValueError, RecursionError) as error:
        reason = str(error)[:MAX_REASON_CHARACTERS]
        raise ModelError(f"The header of {path} is not one this version reads: {reason}") from None
    if info.header_sha256 and _digest(header.replace(info.header_sha256, "")) != info.header_sha256:
        raise ModelError(f"{path} is damaged: its header is not as it was written.", RESTORE)
    return info


def _without_old_dropout(header: dict[str, Any], role: str) -> dict[str, Any]:
    """Return a header whose network's table has no dropout of 0.1: earlier versions wrote it for all of them."""
    table = header.get(role)
    if not isinstance(table, dict) or table.get("dropout") != 0.1:
        return header
    return header | {role: {key: value for key, value in table.items() if key != "dropout"}}


def _read(path: Path, *, weights: bool) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return a file's metadata and, where asked for, its tensors: of one opening, as a run may replace it meanwhile."""
    try:
        check_header(path)
        with safe_open(path, framework="pt") as file:
            names = file.keys() if weights else ()  # a header alone is read at once, however large the file is
            return file.metadata() or {}, {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError) as error:
        if out_of_memory(error):  # the file may be right
            raise
        advice = RESTORE if path.suffix == ".safetensors" else IMPORT
        raise ModelError(f"{path} is not a readable safetensors file: {error}", advice) from None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
