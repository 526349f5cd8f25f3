"""The network as one ONNX file that describes itself.

It carries the header of the model file it was made from, and ends in a digest of all that stands before.
"""

import copy
import json
import warnings
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from segdistill.checkpoints.model_file import ModelInfo
from segdistill.deployment.form import OPSET, GraphForm
from segdistill.deployment.graph_file import append_digest, messages
from segdistill.deployment.opset import lower
from segdistill.errors import UsageError
from segdistill.networks import InferenceWrapper, SegNetwork
from segdistill.storage.atomic import write_atomic
from segdistill.types import IGNORE

EXAMPLE_SHAPE = (2, 3, 65, 97)
"""Shape of the images that the graph is traced with: an axis of length 1, or two of one length, could be taken for
constants."""
IMAGE_CHANNELS = 3
"""Channels of an image; a network that is trained with labels sees more."""
TRACES = ("doc_string", "metadata_props")
"""Fields in which the exporter keeps stack traces with paths of this machine, and names of weights that are gone."""


def export_onnx(network: SegNetwork, info: ModelInfo, path: Path, form: GraphForm | None = None) -> None:
    """Write the network as it is shipped, without its auxiliary head, as one self-describing file.

    Args:
        network: stays as it is.
        info: the header of its model file.
        path: is replaced atomically.
        form: what goes in and comes out; None stands for float images of any size, and logits.

    Raises:
        UsageError: if the network sees more than the image, or cannot be written in the form's opset.
    """
    form = form or GraphForm()
    if network.mean.shape[1] != IMAGE_CHANNELS:
        raise UsageError(
            f"{info.network.network} cannot be exported: it sees more than images, labels for example.",
            "Export a student.",
        )
    model = _trace(network, form)
    lower(model, form.opset)
    model.ir_version = form.ir_version
    _remove_traces(model)
    for key, value in _metadata(info, form).items():
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model, full_check=True)
    write_atomic(path, append_digest(model.SerializeToString()))


def _trace(network: SegNetwork, form: GraphForm) -> onnx.ModelProto:
    """Return the graph of a network, with batch, height and width left open where the form does not fix them."""
    # In float32 on the CPU, whatever the network is in: that is what the graph is compared with.
    shipped = copy.deepcopy(network).to("cpu", torch.float32)
    shipped.prepare_for_export()
    classes = network.num_classes - (network.void_output is not None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, about its own internals
        program = torch.onnx.export(
            Formed(InferenceWrapper(shipped), form, num_classes=classes),
            (_example(form),),
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            output_names=list(form.outputs),
            dynamic_shapes=None if form.is_static else {"image": _open_axes(form)},
            verbose=False,
        )
    assert program is not None, "the dynamo exporter returns the program"
    return program.model_proto


class Formed(nn.Module):
    """A network with the input and the outputs of a form."""

    def __init__(self, network: InferenceWrapper, form: GraphForm, *, num_classes: int) -> None:
        """Wrap a network.

        Args:
            network: images (B, 3, H, W) to logits (B, C, H, W), or (B, C + 1, H, W) with void behind the classes.
            form: what goes in and comes out.
            num_classes: C.
        """
        super().__init__()
        self.network = network
        self.form = form
        self.num_classes = num_classes

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return the form's outputs of images as the form has them."""
        if self.form.input == "uint8":
            image = image.permute(0, 3, 1, 2).to(torch.float32)
        logits: Tensor = self.network(image)
        if self.form.output == "logits":
            return logits
        labels = logits.argmax(1)
        if logits.shape[1] > self.num_classes:
            labels = torch.where(labels == self.num_classes, IGNORE, labels)
        labels = labels.to(torch.uint8)
        return labels if self.form.output == "labels" else (logits, labels)


def _example(form: GraphForm) -> Tensor:
    """Return images to trace with."""
    batch, channels, height, width = EXAMPLE_SHAPE
    if form.size is not None and form.batch is not None:
        batch, (height, width) = form.batch, form.size
    if form.input == "uint8":
        return torch.zeros((batch, height, width, channels), dtype=torch.uint8)
    return torch.zeros((batch, channels, height, width))


def _open_axes(form: GraphForm) -> dict[int, str]:
    if form.input == "uint8":
        return {0: "batch", 1: "height", 2: "width"}
    return {0: "batch", 2: "height", 3: "width"}


def _remove_traces(model: onnx.ModelProto) -> None:
    """Remove what the exporter notes for its own debugging."""
    for message in messages(model):
        known_fields = message.DESCRIPTOR.fields_by_name
        for field in TRACES:
            if field in known_fields:
                message.ClearField(field)
    # Shapes of intermediate results: onnxruntime infers them again.
    del model.graph.value_info[:]


def _metadata(info: ModelInfo, form: GraphForm) -> dict[str, str]:
    """Return the header as a whole, for ourselves, and piece by piece what others need to use the graph."""
    if info.void_output is not None:
        # `InferenceWrapper` brings the void output to the end, wherever the network has it.
        info = info.model_copy(update={"void_output": info.outputs - 1})
    metadata = {
        "segdistill": info.model_dump_json(),
        "form": form.model_dump_json(),
        "input": form.describe_input(),
        "output": form.describe_output(info.outputs),
        "normalization": "in_graph",
        "classes": json.dumps(info.classes),
        "palette": json.dumps(info.palette),
        "ignore_index": str(IGNORE),
        "size": "any" if info.size is None else f"{info.size[0]}x{info.size[1]}",
        "network": info.network.network,
        "data": info.data,
        "preset": info.preset,
        "versions": json.dumps(info.versions),
        "sha256": info.sha256,
    } | _for_other_tools(info, form)
    if info.void_output is not None:
        metadata["void_output"] = str(info.void_output)
    return metadata


def _for_other_tools(info: ModelInfo, form: GraphForm) -> dict[str, str]:
    """Return what Ultralytics' and other deployment tools look for, by their keys."""
    size = form.size or info.size
    found = {"task": "segment", "names": json.dumps(dict(enumerate(info.classes)))}
    if info.network.output_stride is not None:
        found["stride"] = str(info.network.output_stride)
    if size is not None:
        found["imgsz"] = json.dumps(list(size))
    if form.batch is not None:
        found["batch"] = str(form.batch)
    return found
