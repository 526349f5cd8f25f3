"""Every reader of files that others may have written: what it may answer, in which time and memory, and good files.

test_hostile_files.py damages them with hypothesis, search.py with libFuzzer.
"""

import hashlib
import io
import json
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import safetensors.torch
import scipy.io
import torch
from onnx import TensorProto, helper
from PIL import Image

from segdistill.checkpoints.model_file import ModelInfo, load_model, save_model
from segdistill.checkpoints.tensors import weights_digest
from segdistill.checkpoints.training_state import load_state, save_state
from segdistill.config.presets import load_preset, preset_folder, read_class_map
from segdistill.config.schema import NetworkConfig
from segdistill.data import load_data, read_image, read_label
from segdistill.data.datasets.coco_stuff_10k import read_map
from segdistill.deployment.session import OnnxModel
from segdistill.errors import SegdistillError
from segdistill.networks import build_network
from segdistill.storage.weights import read_weights
from segdistill.teachers.external import ExternalSpec, load_external

CPU = torch.device("cpu")
SECONDS = 5.0
"""Of a processor, for any file of at most a megabyte."""
MEBIBYTES = 500
"""Of memory, likewise."""
NETWORK = NetworkConfig(network="enet")
"""The smallest."""
INFO = ModelInfo(
    network=NETWORK,
    classes=("road", "sky"),
    palette=((1, 2, 3), (4, 5, 6)),
    role="student",
    size=None,
    data="streets",
    preset="skd",
    steps=1,
)


@dataclass(frozen=True)
class Reader:
    """What reads a kind of file."""

    suffix: str
    read: Callable[[Path], object]
    codes: frozenset[int]
    """The exit codes that a file may earn that is not as it should be."""
    seeds: Callable[[], list[bytes]]
    """Good files."""

    def try_(self, content: bytes, folder: Path) -> str:
        """Read a file with this content; return what was said of it, or nothing where it was taken.

        Raises:
            AssertionError: if it took too long, or is refused in another way than it should be.
            Exception: whatever else came of it.
        """
        path = folder / f"file{self.suffix}"
        path.write_bytes(content)
        before, error = time.process_time(), None
        with starved(MEBIBYTES):
            try:
                self.read(path)
            except SegdistillError as refusal:
                error = refusal
        assert time.process_time() - before < SECONDS
        assert error is None or (error.exit_code in self.codes and len(error.what) < 10_000), repr(error)
        return "" if error is None else error.what


@contextmanager
def starved(mebibytes: int) -> Iterator[None]:
    """Let this process have no more address space than so much beside what it has, where the system counts that."""
    counted = Path("/proc/self/statm")
    if not counted.exists():
        yield
        return
    used = int(counted.read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (mebibytes << 20), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def written(write: Callable[[Path], object]) -> bytes:
    """Return the bytes of what is written to a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        write(path)
        return path.read_bytes()


@cache
def model_file() -> list[bytes]:
    torch.manual_seed(0)
    return [written(lambda path: save_model(path, build_network(NETWORK, 2), INFO))]


def forged_model(**fields: object) -> bytes:
    """Return a model file with other fields in its header, and digests that are right."""
    header = json.loads(header_of(model_file()[0])) | fields | {"header_sha256": ""}
    text = json.dumps(header)
    digest = hashlib.sha256(text.encode()).hexdigest()
    text = text.replace('"header_sha256": ""', f'"header_sha256": "{digest}"')
    return safetensors.torch.save(safetensors.torch.load(model_file()[0]), {"segdistill": text})


def forged_weights(weights: dict[str, torch.Tensor]) -> bytes:
    """Return a model file with other weights, and digests that are right."""
    info = json.loads(header_of(model_file()[0])) | {"sha256": weights_digest(weights), "header_sha256": ""}
    text = json.dumps(info)
    digest = hashlib.sha256(text.encode()).hexdigest()
    text = text.replace('"header_sha256": ""', f'"header_sha256": "{digest}"')
    return safetensors.torch.save(weights, {"segdistill": text})


def header_of(content: bytes) -> str:
    """Return our own header of a model file."""
    table = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return str(table["__metadata__"]["segdistill"])


def weights() -> list[bytes]:
    return [safetensors.torch.save({"a": torch.arange(3.0), "b": torch.ones(2, 2, dtype=torch.int64)})]


def checkpoint() -> list[bytes]:
    def pickled(value: object, **options: Any) -> bytes:
        content = io.BytesIO()
        torch.save(value, content, **options)
        return content.getvalue()

    value = {"state_dict": {"a": torch.arange(3.0)}, "epoch": 3}
    return [pickled(value), pickled(value, _use_new_zipfile_serialization=False)]


def state() -> list[bytes]:
    return [written(lambda path: save_state(path, {"training": {"step": 1, "weights": {"a": torch.ones(2)}}}))]


def graph(classes: int = 2) -> onnx.ModelProto:
    """Return a small graph as ours are, with the header but without the digest."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, "height", "width"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes, "height", "width"])
    weight = onnx.numpy_helper.from_array(np.ones((classes, 3, 1, 1), np.float32), "weight")
    node = helper.make_node("Conv", ["image", "weight"], ["logits"])
    model = helper.make_model(
        helper.make_graph([node], "graph", [image], [logits], [weight]),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    names, palette = tuple(map(str, range(classes))), ((0, 0, 0),) * classes
    info = INFO.model_copy(update={"classes": names, "palette": palette})
    model.metadata_props.add(key="segdistill", value=info.model_dump_json())
    return model


def endless_graph() -> onnx.ModelProto:
    """Return a graph that computes for ages before its logits."""
    model = graph()
    body = helper.make_graph(
        [helper.make_node("Identity", [name], [f"{name}_out"]) for name in ("go_on", "state")],
        "body",
        [
            helper.make_tensor_value_info("count", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state_out", TensorProto.FLOAT, None),
        ],
    )
    often = onnx.numpy_helper.from_array(np.array(2**62, np.int64), "often")
    model.graph.initializer.append(often)
    model.graph.node.insert(0, helper.make_node("Loop", ["often", "", "image"], ["looped"], body=body))
    model.graph.node[1].input[0] = "looped"
    return model


def forged_graph(number: float) -> bytes:
    """Return a graph as ours are, one of whose weights is this number."""
    model = graph()
    weight = onnx.numpy_helper.to_array(model.graph.initializer[0]).copy()
    weight.flat[0] = number
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, "weight"))
    return append_digest(model.SerializeToString())


def append_digest(content: bytes) -> bytes:
    """Return a graph with a digest that is right, as somebody who means harm would write it."""
    entry = onnx.StringStringEntryProto(key="digest", value=hashlib.sha256(content).hexdigest())
    tail: bytes = onnx.ModelProto(metadata_props=[entry]).SerializeToString()
    return content + tail


def foreign_graph() -> list[bytes]:
    model = graph()
    del model.metadata_props[:]
    return [model.SerializeToString()]


def presets() -> list[bytes]:
    return [path.read_bytes() for path in sorted(preset_folder().glob("*.toml"))]


OWN_DATA = b"""name = "yard"
classes = [{name = "ground", color = [1, 2, 3]}, "plant"]
[train]
images = "images"
labels = ["labels/0.png"]
[val]
images = ["../a.png"]
labels = ["b.png"]
[ids]
7 = "ground"
21 = "plant"
0 = "ignore"
"""
COLORS = b"""name = "yard"
classes = ["ground", "plant"]
[train]
images = "images"
labels = "labels"
[colors]
"128,64,128" = "ground"
"1, 2, 3" = "plant"
"""


def pictures(mode: str, *kinds: str) -> Callable[[], list[bytes]]:
    """Return what draws small images of these kinds."""

    def draw() -> list[bytes]:
        image = Image.fromarray(np.random.default_rng(0).integers(0, 9, (9, 7, 3), np.uint8)).convert(mode)
        contents = [io.BytesIO() for _ in kinds]
        for content, kind in zip(contents, kinds, strict=True):
            image.save(content, kind)
        return [content.getvalue() for content in contents]

    return draw


def matlab() -> list[bytes]:
    label = np.arange(12, dtype=np.uint8).reshape(3, 4)

    def mat(path: Path, packed: bool) -> None:
        with path.open("wb") as file:
            scipy.io.savemat(file, {"S": label, "captions": ["a"]}, do_compression=packed)

    return [written(lambda path: mat(path, False)), written(lambda path: mat(path, True))]


READERS = {
    "model": Reader(".safetensors", load_model, frozenset({5}), model_file),
    "weights": Reader(".safetensors", read_weights, frozenset({5}), cache(weights)),
    "checkpoint": Reader(".pth", read_weights, frozenset({5}), cache(checkpoint)),
    "state": Reader("", load_state, frozenset({5}), cache(state)),
    "graph": Reader(
        ".onnx",
        lambda path: OnnxModel(path, CPU),
        frozenset({5}),
        cache(lambda: [append_digest(graph().SerializeToString())]),
    ),
    "teacher": Reader(
        ".onnx",
        lambda path: load_external(ExternalSpec("onnx", str(path)), None, CPU),
        frozenset({5}),
        cache(foreign_graph),
    ),
    "preset": Reader(".toml", load_preset, frozenset({2}), cache(presets)),
    "data": Reader(".toml", lambda path: load_data(str(path)), frozenset({2, 3}), lambda: [OWN_DATA, COLORS]),
    "classes": Reader(".toml", read_class_map, frozenset({2}), lambda: [b'[classes]\n"a b" = "c"\n1 = "ignore"\n']),
    "image": Reader(".png", read_image, frozenset({3}), pictures("RGB", "PNG", "JPEG", "TIFF", "BMP", "WEBP")),
    "label": Reader(".png", read_label, frozenset({3}), pictures("P", "PNG", "TIFF", "BMP")),
    "matlab": Reader(".mat", read_map, frozenset({3}), cache(matlab)),
}
