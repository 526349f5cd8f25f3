"""The network as one ONNX file that describes itself.

It carries the header of the model file it was made from, and ends in a digest of all that stands before.
"""

import copy
import json
import warnings
from pathlib import Path

import onnx
import torch

from segdistill.checkpoint import ModelInfo
from segdistill.errors import UsageError
from segdistill.graph import messages, sealed
from segdistill.networks import Deployed, SegNetwork
from segdistill.store import write_atomic
from segdistill.types import IGNORE

OPSET, IR = 20, 9
"""What onnxruntime 1.17 of January 2024 reads: it refuses IR 10, which 1.18 of May 2024 brought. No operator or type in
our graphs needs more."""
EXAMPLE_SHAPE = (2, 3, 65, 97)
"""What the graph is traced with: an axis of length 1, or two of one length, could be taken for constants."""


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
    for message in messages(model):  # stack traces with paths of this machine, names of weights that are gone
        for field in {"doc_string", "metadata_props"}.intersection(message.DESCRIPTOR.fields_by_name):
            message.ClearField(field)
    del model.graph.value_info[:]
    for key, value in _metadata(info).items():
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model, full_check=True)
    write_atomic(path, sealed(model.SerializeToString()))


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
