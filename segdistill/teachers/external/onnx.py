"""An ONNX graph, onnx:FILE or the path of a .onnx file. It has logits and nothing else, so terms on features refuse it.

Files that `segdistill export` wrote say everything about themselves. Others take images (B, 3, H, W), of fixed sizes or
not, one at a time or not, and return logits (B, C, h, w). Where several outputs could be these, onnx:FILE:OUTPUT says
which, unless one is called as exporters call them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from segdistill.checkpoints.model_file import ModelInfo
from segdistill.config.schema import InputConfig
from segdistill.deployment.graph_file import read_graph
from segdistill.deployment.session import ORT_ERRORS, OnnxModel, computes_on, open_session
from segdistill.errors import ModelError, UsageError, out_of_memory
from segdistill.networks import SegNetwork
from segdistill.runtime.signals import in_thread
from segdistill.storage.files import sha256_of
from segdistill.teachers.external._base import (
    PROBE_SIDE,
    LoadedTeacher,
    dry_forward,
    numbered_classes,
    set_normalization,
)
from segdistill.types import SegOutput

LOCATION = "FILE.onnx"
LOGITS_NAMES = ("logits", "out", "output")
"""Names that exporters give the logits that are meant, beside those of auxiliary heads; the first one counts."""
AS_THEY_ARE = InputConfig(mean=(0, 0, 0), std=(1, 1, 1))
"""Images of a graph that normalizes them itself."""


class End(NamedTuple):
    """An input or output of a graph."""

    name: str
    type: str
    """ONNX type, such as tensor(float)."""
    shape: list[int | None]
    """None of a size that varies."""

    @property
    def is_map(self) -> bool:
        """Whether it is a float32 tensor of four dimensions."""
        return self.type == "tensor(float)" and len(self.shape) == 4

    @property
    def takes_images(self) -> bool:
        """Whether it takes images (B, 3, H, W): any number of them, or one."""
        if not self.is_map:
            return False
        batch, channels, _, last = self.shape
        # a last size of 3 is that of images with their channels behind, as TensorFlow has them
        return batch in (1, None) and channels in (3, None) and last != 3

    def __str__(self) -> str:
        return f"{self.name} {self.type} {self.shape}"


class OnnxGraph(SegNetwork):
    """A graph in onnxruntime: its tensors are not PyTorch's, so it has no parameters and its MACs are not counted."""

    def __init__(self, session: Any, path: Path, output: str = "") -> None:
        """Find the input and the logits of a graph.

        Args:
            session: onnxruntime's.
            path: of the file, for messages.
            output: name of the output that has the logits; empty where that is to be found.
        """
        super().__init__(0)
        self.session = session
        self.path = path
        self.input = _find_input(session, path)
        self.logits = _choose_logits(_possible_logits(session), path, output)
        _, _, height, width = self.input.shape
        self.only_size = None if height is None or width is None else (height, width)

    def segment(self, image: Tensor) -> SegOutput:
        """Segment normalized images, brought to the sizes of the graph where these are fixed."""
        batch_size, _, height, width = self.input.shape
        size = (height or image.shape[2], width or image.shape[3])
        if size != tuple(image.shape[2:]):
            # antialiased: a smaller image would lose what is thin
            image = F.interpolate(image, size=size, mode="bilinear", align_corners=False, antialias=True)
        # a fixed number of images is 1: see `End.takes_images`
        parts = image.split(batch_size or len(image))
        try:
            arrays = [np.ascontiguousarray(part.float().cpu().numpy()) for part in parts]
            logits = in_thread(lambda: [self._run(array) for array in arrays])
        except ORT_ERRORS as error:
            if out_of_memory(error):
                raise
            raise ModelError(f"{self.path} fails on images of shape {tuple(image.shape)}: {error}") from None
        return SegOutput(torch.from_numpy(np.concatenate(logits)).to(image.device), (), None)

    def _run(self, array: Any) -> Any:
        return self.session.run([self.logits], {self.input.name: array})[0]


def load(location: str, wanted: InputConfig | None, device: torch.device) -> LoadedTeacher:
    """Open a graph on the device if onnxruntime can, else on the CPU."""
    path, output = _path_and_output(location)
    notes: tuple[str, ...] = ()
    if device.type == "cuda" and not computes_on(device):
        device = torch.device("cpu")
        notes = ("this onnxruntime knows no CUDA: the teacher computes on the CPU. onnxruntime-gpu is faster.",)
    content, metadata = read_graph(path)
    if "segdistill" not in metadata:  # it is somebody else's
        graph = OnnxGraph(open_session(content, path, device), path, output)
        notes += set_normalization(graph, wanted)
        outputs = _count_outputs(graph)
        return _loaded(graph, classes=numbered_classes(outputs), notes=notes)
    if output:
        raise UsageError(f"{path} has one output: it is one that segdistill wrote.", f"Leave out :{output}.")
    if wanted is not None:
        notes += ("teacher.input changes nothing: the graph normalizes its images itself.",)
    exported = OnnxModel(path, device)
    graph = OnnxGraph(exported.session, path)
    set_normalization(graph, AS_THEY_ARE)
    _count_outputs(graph)
    return _loaded(graph, classes=exported.info.classes, notes=notes, info=exported.info)


def _path_and_output(location: str) -> tuple[Path, str]:
    """Return the file of FILE or FILE:OUTPUT, and the output's name, empty where none is given.

    Raises:
        UsageError: if there is no such file.
    """
    path, output = Path(location), ""
    # The name of a file may have a colon in it: a file that is there is not taken apart.
    if not path.exists() and ".onnx:" in location:
        file, _, output = location.rpartition(":")
        path = Path(file)
    if not path.is_file():
        raise UsageError(f"There is no file {location}.", f"A graph is given as onnx:{LOCATION}.")
    return path, output


def _count_outputs(graph: OnnxGraph) -> int:
    """Run a graph on an image, and let it know how many classes it has; the shape in the file may leave that open."""
    _, _, height, width = graph.input.shape
    output = dry_forward(graph, str(graph.path), height or PROBE_SIDE, width or PROBE_SIDE)
    graph.num_classes = output.logits.shape[1]
    return graph.num_classes


def _loaded(
    graph: OnnxGraph, *, classes: tuple[str, ...], notes: tuple[str, ...], info: ModelInfo | None = None
) -> LoadedTeacher:
    """Return what is known of a graph; `info` is what segdistill wrote into it."""
    void_output = None
    if info is not None and info.void_output is not None:
        void_output = len(info.classes)  # the graph has it last, wherever the network does
    return LoadedTeacher(
        graph,
        name=graph.path.name,
        classes=classes,
        sha256=sha256_of(graph.path),
        size=None if info is None else info.size,
        void_output=void_output,
        details={"output": graph.logits},
        notes=notes,
    )


def _find_input(session: Any, path: Path) -> End:
    """Return the input of a graph, if it takes images and returns what may be logits.

    Raises:
        ModelError: if it takes or returns something else, with what that is.
    """
    inputs = [_end(node) for node in session.get_inputs()]
    if len(inputs) == 1 and inputs[0].takes_images and _possible_logits(session):
        return inputs[0]
    outputs = [_end(node) for node in session.get_outputs()]
    raise ModelError(
        f"{path} takes {', '.join(map(str, inputs))}; returns {', '.join(map(str, outputs))}.",
        "Expected: one float32 input (B, 3, H, W), with any B or 1, and float32 logits (B, C, h, w).",
    )


def _possible_logits(session: Any) -> list[str]:
    """Return the names of the outputs that could be logits."""
    outputs = [_end(node) for node in session.get_outputs()]
    return [output.name for output in outputs if output.is_map]


def _choose_logits(candidates: Sequence[str], path: Path, output: str) -> str:
    """Return the output that has the logits: the one that is named, the only one, or the one that is called so.

    Raises:
        UsageError: if several outputs could be the logits, or none has the name that is given.
    """
    if output in candidates:
        return output
    if not output:
        if len(candidates) == 1:
            return candidates[0]
        for name in LOGITS_NAMES:
            if name in candidates:
                return name
    found = f"no output {output!r}" if output else "several outputs"
    choices = " or ".join(f"onnx:{path}:{name}" for name in candidates)
    raise UsageError(f"{path} has {found} that could be logits.", f"Say which, {choices}.")


def _end(node: Any) -> End:
    """Return an input or output as onnxruntime describes it; sizes that vary have names there, or nothing."""
    return End(node.name, node.type, [size if isinstance(size, int) else None for size in node.shape])
