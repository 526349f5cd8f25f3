"""Open a model of any kind, a run, a model file or an exported graph, and the data to use it on."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from segdistill.checkpoints.model_file import ModelInfo, load_model, weights_path
from segdistill.commands._run_data import recorded_data
from segdistill.config.registry import components, data_example
from segdistill.config.schema import Weights
from segdistill.data import DataSource, load_data
from segdistill.data.unlabeled import NAME
from segdistill.deployment.session import OnnxModel
from segdistill.errors import UsageError
from segdistill.evaluation.predictor import predictor
from segdistill.networks import SegNetwork
from segdistill.runtime.precision import resolve_device, resolve_precision
from segdistill.runtime.reporter import Reporter
from segdistill.teachers.class_map import match_classes, same_classes
from segdistill.teachers.remapped import remap_logits

MAX_BATCH_IMAGES = 4
"""Images of a batch in evaluation and checks; fewer where they are large. The result does not depend on it."""


@dataclass(frozen=True)
class LoadedModel:
    """A model of any kind, ready to predict."""

    path: Path
    """The model file or graph; of a run, the file in its folder."""
    info: ModelInfo
    predict: Callable[[Tensor], Tensor]
    """Images (B, 3, H, W) in 0..255 to logits (B, C, H, W)."""
    device: torch.device
    precision: str
    network: SegNetwork | None = None
    """The network behind `predict`; None of a graph."""


def open_model(model: Path, device: str, precision: str, weights: Weights | None = None) -> LoadedModel:
    """Open a run's folder, a model file or an exported graph.

    Args:
        model: its path.
        device: as `--device` takes it; auto is the CPU for a graph.
        precision: as `--precision` takes it; a graph computes in fp32 alone.
        weights: of a run, as `--weights` takes them; None stands for those that it ships.

    Raises:
        UsageError: if there is no such model, or it cannot compute like that.
        ModelError: if it is damaged.
    """
    path = weights_path(model, weights)
    if path.suffix == ".onnx":
        return _open_graph(path, device, precision)
    resolved_device = resolve_device(device)
    resolved_precision = resolve_precision(precision, resolved_device)
    network, info = load_model(path)
    return LoadedModel(
        path=path,
        info=info,
        predict=predictor(network, resolved_precision),
        device=resolved_device,
        precision=resolved_precision.name,
        network=network,
    )


def _open_graph(path: Path, device: str, precision: str) -> LoadedModel:
    if precision != "fp32":
        raise UsageError(
            f"--precision {precision} is not available for {path}: an exported graph computes in fp32.",
            "Leave --precision out.",
        )
    # The usual onnxruntime has no CUDA: "auto" must not fail where PyTorch sees a GPU.
    resolved_device = torch.device("cpu") if device == "auto" else resolve_device(device)
    exported = OnnxModel(path, resolved_device)
    return LoadedModel(path=path, info=exported.info, predict=exported, device=resolved_device, precision="fp32")


def data_of(model: Path, info: ModelInfo, *, spec: str | None, reporter: Reporter) -> DataSource:
    """Return the data to use a model on, after telling of its warnings; see `find_data_of`.

    Raises:
        UsageError: for a bare file without data, and for data of other classes.
        DataError: if the data set cannot be used.
    """
    data = find_data_of(model, info, spec=spec, reporter=reporter)
    if data.classes != info.classes:  # also in another order: scores would be of other classes than names say
        raise _other_classes(info, data, spec, "Give the data set that the model was trained on.")
    return data


def in_classes_of(data: DataSource, loaded: LoadedModel, spec: str | None, reporter: Reporter) -> LoadedModel:
    """Return a model whose outputs are in the order of the data's classes, where these are its own in another order.

    Args:
        data: what it is scored on.
        loaded: the model.
        spec: the data as `--data` named it, for the message.
        reporter: is told of another order.

    Raises:
        UsageError: if the classes are others, or the model reads labels, which then would mean others.
    """
    info = loaded.info
    if data.classes == info.classes:
        return loaded
    if not same_classes(info.classes, data.classes) or info.label_assisted:
        advice = "Give the data set that the model was trained on"
        if not info.label_assisted:
            advice += ", or say with --class-map FILE.toml what its classes mean here"
        raise _other_classes(info, data, spec, f"{advice}.")
    mapping, _ = match_classes(info, None, data.classes)
    reporter.info(
        f"The classes of {data.name} are the model's in another order or spelling: outputs go by their names."
    )
    void_output = None if info.void_output is None else len(data.classes)
    mapped = {"classes": data.classes, "palette": data.palette, "void_output": void_output}
    return replace(
        loaded,
        info=info.model_copy(update=mapped),
        predict=lambda images: remap_logits(loaded.predict(images), mapping),
        network=None,
    )


def find_data_of(model: Path, info: ModelInfo, *, spec: str | None, reporter: Reporter) -> DataSource:
    """Return the data that is given or that a run was trained on, whatever its classes, after telling of its warnings.

    Args:
        model: as it was named on the command line.
        info: the model's header.
        spec: as `--data` takes it; None stands for the data that a run was trained on, where its folder says that it
            lies, or found by its name.
        reporter: takes the data set's warnings.

    Raises:
        UsageError: for a bare file without data.
        DataError: if the data set cannot be used.
    """
    if spec is None:
        spec = recorded_data(model, reporter)
    # A folder that was given away keeps the name of its data, but no path. A bare file may come from anywhere.
    if spec is None and (model.is_file() or info.data not in components("data.datasets")):
        data_name = f" ({info.data})" if info.data else ""
        if info.data == NAME:
            raise UsageError(
                f"No --data given: {model} was distilled from images without labels.",
                "Add --images DIR, a folder of such images (evaluate: with --teacher T), or --data with labels of "
                "its classes.",
            )
        raise UsageError(
            f"No --data given: {model} does not say where its data set{data_name} lies.",
            f"Add --data, for example --data {data_example(info.data)}.",
        )
    data = load_data(spec or info.data)
    for warning in data.warnings:
        reporter.warning(warning)
    return data


def _other_classes(info: ModelInfo, data: DataSource, spec: str | None, advice: str) -> UsageError:
    """Return the error for data whose classes the model does not know, with what helps a model that names its own."""
    if not info.data:
        advice = f"It was imported without --data: import it again with --data {spec}, which names its classes."
    return UsageError(
        f"The model's classes are not those of {data.name}.\n"
        f"  model ({len(info.classes)}): {', '.join(info.classes)}\n"
        f"  {data.name} ({len(data.classes)}): {', '.join(data.classes)}",
        advice,
    )


def refuse_label_assisted(path: Path, info: ModelInfo) -> None:
    """Refuse a model that cannot predict from an image alone.

    Raises:
        UsageError: if it sees labels.
    """
    if info.label_assisted:
        raise UsageError(
            f"{path} is a label-assisted teacher: without the labels of an image it cannot segment it.",
            "It is there to teach. Give a student that was distilled from it.",
        )
