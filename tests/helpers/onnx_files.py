"""ONNX files with the digest that we append."""

import hashlib

import onnx
from onnx import ModelProto

from segdistill.evaluation.latency import Latency


def append_digest(model: ModelProto) -> bytes:
    """The bytes of a file with a digest that is right, as someone who means harm would write them."""
    kept = [entry for entry in model.metadata_props if entry.key != "digest"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    content: bytes = model.SerializeToString()
    entry = onnx.StringStringEntryProto(key="digest", value=hashlib.sha256(content).hexdigest())
    tail: bytes = ModelProto(metadata_props=[entry]).SerializeToString()
    return content + tail


def latency(p50: float) -> Latency:
    return Latency(first=50.0, p50=p50, p90=30.0, p99=None, n=12, threads=2, provider="CPUExecutionProvider")
