"""An ONNX graph, onnx:FILE or the path of a .onnx file. It has logits and nothing else, so terms on features refuse it.

Files that `segdistill export` wrote say everything about themselves. Others take images (B, 3, H, W), of fixed sizes or
not, one at a time or not, and return logits (B, C, h, w). Where several outputs could be these, onnx:FILE:OUTPUT says
which, unless one is called as exporters call them.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from segdistill.checkpoint import ModelInfo
from segdistill.config import InputConfig
from segdistill.errors import ModelError, UsageError, out_of_memory
from segdistill.foreign._base import TRIAL, Loaded, normalised_by, numbered, tried
from segdistill.graph import ORT_ERRORS, OnnxModel, computes_on, open_session, read_graph
from segdistill.networks import SegNetwork
from segdistill.signals import in_thread
from segdistill.store import sha256_of
from segdistill.types import SegOutput

WHERE = "FILE.onnx"
NAMES = ("logits", "out", "output")
"""What exporters call the logits that are meant, beside those of auxiliary heads."""


class OnnxGraph(SegNetwork):
    """A graph in onnxruntime: its tensors are not PyTorch's, so it has no parameters and its MACs are not counted."""

    def __init__(self, session: Any, path: Path, output: str = "") -> None:
        super().__init__(0)
        self.session = session
        self.path = path
        self.image, self.logits, self.shape = _ends(session, path, output)
        height, width = self.shape[2:]
        self.only_size = None if height is None or width is None else (height, width)

    def segment(self, image: Tensor) -> SegOutput:
        """Segment normalised images, brought to the sizes of the graph where these are fixed."""
        size = [own if fixed is None else fixed for fixed, own in zip(self.shape[2:], image.shape[2:], strict=True)]
        if size != list(image.shape[2:]):
            image = F.interpolate(image, size=size, mode="bilinear", align_corners=False, antialias=True)
        parts = image.split(self.shape[0] or len(image))
        try:
            arrays = [np.ascontiguousarray(part.float().cpu().numpy()) for part in parts]
            logits = in_thread(lambda: [self.session.run([self.logits], {self.image: array})[0] for array in arrays])
        except ORT_ERRORS as error:
            if out_of_memory(error):
                raise
            raise ModelError(f"{self.path} fails on images of shape {tuple(image.shape)}: {error}") from None
        return SegOutput(torch.from_numpy(np.concatenate(logits)).to(image.device), (), None)


def load(where: str, wanted: InputConfig | None, device: torch.device) -> Loaded:
    """Open a graph on the device if onnxruntime can, else on the CPU."""
    path, output = Path(where), ""
    if not path.exists() and ".onnx:" in where:
        file, _, output = where.rpartition(":")
        path = Path(file)
    if not path.is_file():
        raise UsageError(f"There is no file {where}.", f"A graph is given as onnx:{WHERE}.")
    notes: tuple[str, ...] = ()
    if device.type == "cuda" and not computes_on(device):
        device = torch.device("cpu")
        notes = ("this onnxruntime knows no CUDA: the teacher computes on the CPU. onnxruntime-gpu is faster.",)
    content, metadata = read_graph(path)
    if "segdistill" in metadata:
        if output:
            raise UsageError(f"{path} has one output: it is one that segdistill wrote.", f"Leave out :{output}.")
        exported = OnnxModel(path, device)
        if wanted is not None:
            notes += ("teacher.input changes nothing: the graph normalises its images itself.",)
        return _loaded(
            OnnxGraph(exported.session, path), exported.info, InputConfig(mean=(0, 0, 0), std=(1, 1, 1)), notes
        )
    graph = OnnxGraph(open_session(content, path, device), path, output)
    return _loaded(graph, None, wanted, notes)


def _loaded(graph: OnnxGraph, info: ModelInfo | None, wanted: InputConfig | None, notes: tuple[str, ...]) -> Loaded:
    notes += normalised_by(graph, wanted)
    height, width = (side or TRIAL for side in graph.shape[2:])
    outputs = graph.num_classes = tried(graph, str(graph.path), height, width).logits.shape[1]
    name, sha256, details = graph.path.name, sha256_of(graph.path), {"output": graph.logits}
    if info is None:
        return Loaded(graph, name, numbered(outputs), sha256, details=details, notes=notes)
    void = None if info.void_output is None else len(info.classes)  # the graph has it last, wherever the network does
    return Loaded(graph, name, info.classes, sha256, info.size, void, details, notes)


def _ends(session: Any, path: Path, output: str) -> tuple[str, str, list[int | None]]:
    """Return the names of a graph's input and of its logits, and the input's sizes, None where they vary.

    Raises:
        UsageError: if several outputs could be the logits, or none has the name that is given.
        ModelError: if there are no such ends.
    """
    inputs = [(end.name, end.type, _shape(end)) for end in session.get_inputs()]
    outputs = [(end.name, end.type, _shape(end)) for end in session.get_outputs()]
    logits = [name for name, kind, shape in outputs if kind == "tensor(float)" and len(shape) == 4]
    images = [
        (name, shape)
        for name, kind, shape in inputs
        if kind == "tensor(float)"
        and len(shape) == 4
        and shape[0] in (1, None)
        and shape[1] in (3, None)
        and shape[3] != 3
    ]
    if len(inputs) != 1 or not images or not logits:
        found = "; ".join(
            f"{what} " + ", ".join(f"{name} {kind} {shape}" for name, kind, shape in ends)
            for what, ends in (("takes", inputs), ("returns", outputs))
        )
        raise ModelError(
            f"{path} {found}.",
            "Expected is one float32 input (B, 3, H, W), with any B or 1, and float32 logits (B, C, h, w).",
        )
    chosen = [name for name in (output,) if name in logits] if output else logits
    if len(chosen) > 1:
        chosen = [name for name in NAMES if name in logits][:1]
    if not chosen:
        raise UsageError(
            f"{path} has {'no output ' + repr(output) if output else 'several outputs'} that could be logits.",
            f"Say which, {' or '.join(f'onnx:{path}:{name}' for name in logits)}.",
        )
    return images[0][0], chosen[0], images[0][1]


def _shape(end: Any) -> list[int | None]:
    return [size if isinstance(size, int) else None for size in end.shape]
