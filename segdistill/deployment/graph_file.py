"""The bytes of an ONNX file: sealed by a digest where they are ours, and read with suspicion, whosever they are.

A graph may name other files, loop for ever, or ask for terabytes while it is opened. It reaches onnxruntime once it is
known to do none of this.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx

from segdistill.checkpoints.model_file import MAX_REASON_CHARACTERS, ModelInfo, check_length
from segdistill.deployment.form import GraphForm
from segdistill.deployment.graph_limits import GraphTooLargeError, check_functions, check_size
from segdistill.errors import ModelError, out_of_memory

MAX_FILE_BYTES = 2**31 - 1
"""Bytes of the largest protobuf message."""
LOOPS = frozenset({"Loop", "Scan"})
CONTROL_FLOW = LOOPS | {"If", "SequenceMap"}
"""Operators with graphs of their own; no network of ours has any."""
ONNX_DOMAINS = frozenset({"", "ai.onnx"})
"""Names of ONNX's own operators; those of other domains need code that another package brings."""
MAX_DOMAIN_CHARACTERS = 80
"""Characters of a domain in a message: a forged file's may be of any length."""
EXPORT_AGAIN = "Export the model again: segdistill export RUN"
NOT_OPENED = "The file was not opened."


class Exported(NamedTuple):
    """A graph that `export_onnx` wrote."""

    content: bytes
    info: ModelInfo
    """Header of the model file it was made from."""
    form: GraphForm
    """What goes in and comes out."""


def read_exported(path: Path) -> Exported:
    """Return a graph that `export_onnx` wrote, once it is sure that it is whole and does nothing else.

    Raises:
        ModelError: if it is not one of ours, damaged, or could make onnxruntime read or run something else.
    """
    content, model = _parse(path)
    metadata = _metadata_of(model)
    if "segdistill" not in metadata:
        raise ModelError(
            f"{path} has no segdistill header, which says how to use the graph.",
            "Give a file that `segdistill export` wrote.",
        )
    forbidden = _forbidden_content(model)
    if forbidden:
        raise ModelError(f"{path}: {forbidden} is not allowed in an exported graph. {NOT_OPENED}", EXPORT_AGAIN)
    if not _has_own_digest(content):
        raise ModelError(f"{path} is damaged or was changed: its content does not match its digest.", EXPORT_AGAIN)
    info = _parse_header(path, metadata["segdistill"])
    form = _parse_form(path, metadata.get("form"))
    _check_ends(path, model, info, form)
    return Exported(content, info, form)


def is_exported(path: Path) -> bool:
    """Whether a graph says that `export_onnx` wrote it; one that is damaged may say so and be refused later.

    Raises:
        ModelError: if it is no ONNX file, or one that is too large.
    """
    _, model = _parse(path)
    # either of the two, so that a graph of ours whose header is damaged is not taken for somebody else's
    return not _metadata_of(model).keys().isdisjoint({"segdistill", "digest"})


def read_graph(path: Path) -> tuple[bytes, dict[str, str]]:
    """Return the bytes of anybody's graph and its metadata, once it is sure that the graph reads no other file.

    Raises:
        ModelError: if it does, may never end, or is damaged.
    """
    content, model = _parse(path)
    for message in messages(model):
        if isinstance(message, onnx.TensorProto) and _is_external(message):
            raise ModelError(
                f"{path}: external tensor data is not allowed. {NOT_OPENED}",
                "Save the graph as one file: onnx.save(onnx.load(OLD), NEW)",
            )
    for message in messages(model):
        if isinstance(message, onnx.SparseTensorProto):
            raise ModelError(
                f"{path}: a sparse tensor is not allowed, as it may be of any size once it is opened. {NOT_OPENED}",
                "Export the network with dense weights.",
            )
    for node in nodes_of(model):
        if node.op_type in LOOPS:
            raise ModelError(
                f"{path}: the operator {node.op_type} is not allowed, as it may never end. {NOT_OPENED}",
                "Export the network without control flow: a segmentation network needs none.",
            )
    return content, _metadata_of(model)


def append_digest(content: bytes) -> bytes:
    """Append a model's sha256 to it, as one more entry of its metadata: protobuf merges what is concatenated."""
    entry = onnx.StringStringEntryProto(key="digest", value=hashlib.sha256(content).hexdigest())
    tail: bytes = onnx.ModelProto(metadata_props=[entry]).SerializeToString()
    return content + tail


def nodes_of(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph, of the graphs in it and of its functions."""
    for message in messages(model):
        if isinstance(message, onnx.NodeProto):
            yield message


def messages(message: Any) -> Iterator[Any]:
    """Yield a protobuf message and all messages in it."""
    # A list instead of recursion: the depth of a forged file would exhaust Python's stack.
    pending = [message]
    while pending:
        current = pending.pop()
        yield current
        for field, value in current.ListFields():
            if field.message_type is None:
                continue
            if hasattr(value, "ListFields"):
                pending.append(value)
            else:
                pending.extend(value)


def _parse(path: Path) -> tuple[bytes, onnx.ModelProto]:
    """Return a file's bytes and the message in them, whose size was bounded before it was built."""
    content = _read_bytes(path)
    try:
        check_size(content)
        model: onnx.ModelProto = onnx.load_model_from_string(content)
        check_functions(model)
    except GraphTooLargeError as error:
        raise ModelError(
            f"{path} has {error}. {NOT_OPENED}", "A segmentation network has far fewer: export it again."
        ) from None
    except Exception as error:  # ValueError, or protobuf's DecodeError, whose package has no types
        if out_of_memory(error):
            raise
        raise ModelError(f"{path} is damaged, or not an ONNX file.", EXPORT_AGAIN) from None
    return content, model


def _read_bytes(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ModelError(f"{path} has {size:,} bytes; an ONNX file has at most {MAX_FILE_BYTES:,}.", EXPORT_AGAIN)
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.", "Check that path.") from None


def _metadata_of(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def _forbidden_content(model: onnx.ModelProto) -> str:
    """Return what would make onnxruntime read other files or need other code; empty where all is well."""
    for message in messages(model):
        forbidden = _forbidden_message(message)
        if forbidden:
            return forbidden
    # Control flow is named last: what is hidden in the graph of a loop says more of the file than the loop does.
    for node in nodes_of(model):
        if node.op_type in CONTROL_FLOW:
            return f"control flow ({node.op_type})"
    return ""


def _forbidden_message(message: Any) -> str:
    """Return what is forbidden in one message alone; empty where nothing is."""
    if isinstance(message, onnx.SparseTensorProto):
        return "a sparse tensor"
    if isinstance(message, onnx.NodeProto) and message.domain not in ONNX_DOMAINS:
        return f"an operator of the domain {message.domain[:MAX_DOMAIN_CHARACTERS]!r}"
    if isinstance(message, onnx.TensorProto):
        if _is_external(message):
            return "external tensor data"
        if not _is_finite(message):
            return "a tensor with NaN or infinity"
    return ""


def _is_external(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor's numbers lie in another file, whose path the graph chooses."""
    return bool(tensor.external_data or tensor.data_location)


def _is_finite(tensor: onnx.TensorProto) -> bool:
    """Whether a float32 tensor has neither NaN nor infinity; those of other types are no weights of ours."""
    if tensor.data_type != onnx.TensorProto.FLOAT:
        return True
    # The bytes behind the last whole number are for onnxruntime to refuse.
    whole_bytes = len(tensor.raw_data) // 4 * 4
    raw_values = np.frombuffer(tensor.raw_data[:whole_bytes], "<f4")
    listed_values = np.array(tensor.float_data, np.float32)
    return bool(np.isfinite(raw_values).all() and np.isfinite(listed_values).all())


def _has_own_digest(content: bytes) -> bool:
    """Whether the digest at the end is that of all that stands before."""
    digest_bytes = len(append_digest(b""))
    return append_digest(content[:-digest_bytes]) == content


def _parse_header(path: Path, header: str) -> ModelInfo:
    """Return the header of the model file that a graph was made from."""
    try:
        check_length(header)
        info = ModelInfo.model_validate_json(header)
        info.check_labels()
    except ValueError as error:  # pydantic's errors are
        raise ModelError(
            f"The header of {path} is not one this version reads: {str(error)[:MAX_REASON_CHARACTERS]}", EXPORT_AGAIN
        ) from None
    return info


def _parse_form(path: Path, text: str | None) -> GraphForm:
    """Return a graph's form; files of version 0.1 name none and have the usual one."""
    if text is None:
        return GraphForm()
    try:
        check_length(text)
        return GraphForm.model_validate_json(text)
    except ValueError as error:  # pydantic's errors are
        raise ModelError(
            f"The form of {path} is not one this version reads: {str(error)[:MAX_REASON_CHARACTERS]}", EXPORT_AGAIN
        ) from None


def _check_ends(path: Path, model: onnx.ModelProto, info: ModelInfo, form: GraphForm) -> None:
    """Refuse a graph whose input and outputs are not those that its header promises."""
    inputs = {end.name: _shape_of(end) for end in model.graph.input}
    outputs = {end.name: _shape_of(end) for end in model.graph.output}
    if inputs != {"image": form.input_shape()} or outputs != form.output_shapes(info.outputs):
        raise ModelError(
            f"{path} does not map {form.describe_input()} to {form.describe_output(info.outputs)}, as its header says.",
            EXPORT_AGAIN,
        )


def _shape_of(end: onnx.ValueInfoProto) -> list[int | None]:
    """Return the sizes of an input or output, None for those that vary."""
    return [dim.dim_value if dim.HasField("dim_value") else None for dim in end.type.tensor_type.shape.dim]
