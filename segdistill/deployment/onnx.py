"""The network as one ONNX file that describes itself.

It carries the header of the model file it was made from, and ends in a digest of all that stands before.
"""

import copy
import json
import warnings
from pathlib import Path

import onnx
import torch

from segdistill.checkpoints.model_file import ModelInfo
from segdistill.deployment.graph_file import append_digest, messages
from segdistill.errors import UsageError
from segdistill.networks import InferenceWrapper, SegNetwork
from segdistill.storage.atomic import write_atomic
from segdistill.types import IGNORE

OPSET, IR_VERSION = 20, 9
"""Versions that onnxruntime 1.17 of January 2024 reads: it refuses IR 10, which 1.18 of May 2024 brought. No operator
or type in our graphs needs more."""
EXAMPLE_SHAPE = (2, 3, 65, 97)
"""Shape of the images that the graph is traced with: an axis of length 1, or two of one length, could be taken for
constants."""
IMAGE_CHANNELS = 3
"""Channels of an image; a network that is trained with labels sees more."""
TRACES = ("doc_string", "metadata_props")
"""Fields in which the exporter keeps stack traces with paths of this machine, and names of weights that are gone."""


def export_onnx(network: SegNetwork, info: ModelInfo, path: Path) -> None:
    """Write the network as it is shipped, without its auxiliary head, as one self-describing file.

    Args:
        network: stays as it is.
        info: the header of its model file.
        path: is replaced atomically.

    Raises:
        UsageError: if the network sees more than the image.
    """
    if network.mean.shape[1] != IMAGE_CHANNELS:
        raise UsageError(
            f"{info.network.network} cannot be exported: it sees more than images, labels for example.",
            "Export a student.",
        )
    model = _trace(network)
    model.ir_version = min(model.ir_version, IR_VERSION)
    _remove_traces(model)
    for key, value in _metadata(info).items():
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model, full_check=True)
    write_atomic(path, append_digest(model.SerializeToString()))


def _trace(network: SegNetwork) -> onnx.ModelProto:
    """Return the graph of a network, with batch, height and width left open."""
    # In float32 on the CPU, whatever the network is in: that is what the graph is compared with.
    shipped = copy.deepcopy(network).to("cpu", torch.float32)
    shipped.prepare_for_export()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, about its own internals
        program = torch.onnx.export(
            InferenceWrapper(shipped),
            (torch.zeros(EXAMPLE_SHAPE),),
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes={"image": {0: "batch", 2: "height", 3: "width"}},
            verbose=False,
        )
    assert program is not None, "the dynamo exporter returns the program"
    return program.model_proto


def _remove_traces(model: onnx.ModelProto) -> None:
    """Remove what the exporter notes for its own debugging."""
    for message in messages(model):
        known_fields = message.DESCRIPTOR.fields_by_name
        for field in TRACES:
            if field in known_fields:
                message.ClearField(field)
    # Shapes of intermediate results: onnxruntime infers them again.
    del model.graph.value_info[:]


def _metadata(info: ModelInfo) -> dict[str, str]:
    """Return the header as a whole, for ourselves, and piece by piece what others need to use the graph."""
    if info.void_output is not None:
        # `InferenceWrapper` brings the void output to the end, wherever the network has it.
        info = info.model_copy(update={"void_output": info.outputs - 1})
    metadata = {
        "segdistill": info.model_dump_json(),
        "input": "image: float32 RGB 0..255 (B, 3, H, W)",
        "output": f"logits: float32 (B, {info.outputs}, H, W) before softmax, at the input's size",
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
    }
    if info.void_output is not None:
        metadata["void_output"] = str(info.void_output)
    return metadata
