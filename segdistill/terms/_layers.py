"""Which feature maps of student and teacher a term compares: the deepest, or two of one stride."""

import math
from itertools import product
from typing import NamedTuple, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from segdistill.config.schema import Strict
from segdistill.errors import UsageError
from segdistill.types import SegOutput

MAX_STRIDE_RATIO = 2
"""Largest ratio of the two strides at which the deepest maps are compared."""
PROBE_SIDE = 128
"""Side in pixels of the image that a network is asked for its maps with: 4 positions at stride 32."""


class LayerOptions(Strict):
    """Keys of all terms that compare feature maps."""

    student_layer: int | None = None
    """Number of the student's map: 0 is the shallowest, -1 the deepest. Without both keys these are the deepest ones,
    unless their strides are far apart; then, as where one key is left out, two of one stride, or nearly."""
    teacher_layer: int | None = None
    """Number of the teacher's map, likewise."""

    @property
    def compares_features(self) -> bool:
        """Whether feature maps are compared at all: some terms can do otherwise."""
        return True

    @model_validator(mode="after")
    def _has_use_for_its_layers(self) -> Self:
        chosen_layers = self.model_fields_set & LayerOptions.model_fields.keys()
        if chosen_layers and not self.compares_features:
            raise ValueError("student_layer and teacher_layer choose feature maps, and here none are compared")
        return self


class Layer(NamedTuple):
    """A feature map of a network."""

    number: int
    """Position among the network's maps, from 0."""
    maps: int
    """Number of maps that the network has."""
    channels: int
    stride: int

    def __str__(self) -> str:
        """Return it in words."""
        return f"map {self.number} of 0-{self.maps - 1} ({self.channels} channels, stride {self.stride})"


class LayerPair(NamedTuple):
    """Two maps that are compared."""

    student: Layer
    teacher: Layer


def feature_layers(network: nn.Module, image: Tensor | None = None) -> list[Layer]:
    """Return the feature maps of a network, shallow to deep, found by asking it for those of a small image.

    Args:
        network: returns a `SegOutput`.
        image: (1, channels, H, W) that it can take; by default a black one as a `SegNetwork` takes it.

    Raises:
        UsageError: if it has none: some networks show nothing but their logits.
    """
    if image is None:
        mean = network.get_buffer("mean")
        image = mean.new_zeros(1, mean.shape[1], PROBE_SIDE, PROBE_SIDE)
    maps = dry_output(network, image).features
    if not maps:
        raise UsageError(
            f"{network._get_name()} has no feature maps to compare.",
            "Terms on logits, such as pixel or channel, need none.",
        )
    layers = []
    for number, features in enumerate(maps):
        stride = round(image.shape[-1] / features.shape[-1])  # rounded: some maps have a position more
        layers.append(Layer(number, len(maps), features.shape[1], stride=stride))
    return layers


def dry_output(network: nn.Module, image: Tensor) -> SegOutput:
    """Return what a network makes of an image in eval mode, and leave it as it was: without a graph or new statistics.

    Args:
        network: returns a `SegOutput`.
        image: (1, channels, H, W).
    """
    # One by one: somebody may keep a part of a network in eval mode, such as its batch norm.
    training = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            output: SegOutput = network(image)
    finally:
        for module, was_training in training:
            module.training = was_training
    return output


def match_layers(student: list[Layer], teacher: list[Layer], options: LayerOptions) -> LayerPair:
    """Return the two maps that the keys name; without keys the last ones, unless their strides are far apart.

    What feeds the classifiers means most alike; terms resize it. Where the strides of these two differ by more than
    `MAX_STRIDE_RATIO`, the two are those nearest in stride, of these the deepest.

    Raises:
        UsageError: if there is no such map.
    """
    student_layers = _candidates(student, options.student_layer, "student")
    teacher_layers = _candidates(teacher, options.teacher_layer, "teacher")
    deepest = LayerPair(student[-1], teacher[-1])
    is_free = options.student_layer is None and options.teacher_layer is None
    if is_free and _stride_ratio(deepest) <= MAX_STRIDE_RATIO:
        return deepest
    pairs = [LayerPair(layer, teacher_layer) for layer, teacher_layer in product(student_layers, teacher_layers)]
    return min(pairs, key=_mismatch)


def _candidates(layers: list[Layer], index: int | None, role: str) -> list[Layer]:
    """Return the one map that a key names, or all of them where it is left out."""
    if index is None:
        return layers
    if not -len(layers) <= index < len(layers):
        known = ", ".join(f"{layer.number}: stride {layer.stride}" for layer in layers)
        raise UsageError(f"The {role} has no feature map {index}.", f"It has {known}.")
    return [layers[index]]


def _stride_ratio(pair: LayerPair) -> float:
    """Return how many times the smaller stride the larger one is."""
    student, teacher = pair.student.stride, pair.teacher.stride
    return max(student, teacher) / min(student, teacher)


def _mismatch(pair: LayerPair) -> tuple[float, int]:
    """Return how little two maps fit: by their strides, and among equals by how far they are from the classifiers.

    Depth is counted from the end of each network, because one may have more maps than the other.
    """
    stride_difference = math.log2(_stride_ratio(pair))
    student_distance = pair.student.maps - pair.student.number
    teacher_distance = pair.teacher.maps - pair.teacher.number
    return stride_difference, student_distance + teacher_distance
