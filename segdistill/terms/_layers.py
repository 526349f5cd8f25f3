"""Which feature maps of student and teacher a term compares: the deepest, or two of one stride."""

import math
from itertools import product
from typing import NamedTuple, Self

import torch
from pydantic import model_validator
from torch import nn

from segdistill.config import Strict
from segdistill.errors import UsageError

FAR = 2
"""How many times one stride may be the other where the deepest maps are compared."""
SIDE = 128
"""Of the image that a network is asked for its maps with: 4 positions at stride 32."""


class Layers(Strict):
    """Keys of all terms that compare feature maps."""

    student_layer: int | None = None
    """Which of the student's maps: 0 is the shallowest, -1 the deepest. Without both keys these are the deepest ones,
    unless their strides are far apart; then, as where one key is left out, two of one stride, or nearly."""
    teacher_layer: int | None = None
    """The same of the teacher's."""

    @property
    def compares_features(self) -> bool:
        """Whether feature maps are compared at all: some terms can do otherwise."""
        return True

    @model_validator(mode="after")
    def _of_use(self) -> Self:
        if not self.compares_features and self.model_fields_set & Layers.model_fields.keys():
            raise ValueError("student_layer and teacher_layer choose feature maps, and here none are compared")
        return self


class Layer(NamedTuple):
    """A feature map of a network."""

    number: int
    """From 0."""
    maps: int
    """How many the network has."""
    channels: int
    stride: int

    def __str__(self) -> str:
        """Return it in words."""
        return f"map {self.number} of 0-{self.maps - 1} ({self.channels} channels, stride {self.stride})"


class Pairing(NamedTuple):
    """Two maps that are compared."""

    student: Layer
    teacher: Layer


def feature_layers(network: nn.Module) -> list[Layer]:
    """Return the feature maps of a network, shallow to deep, found by asking it for those of a small image.

    Raises:
        UsageError: if it has none: some networks show nothing but their logits.
    """
    mean, training = network.get_buffer("mean"), network.training
    with torch.no_grad():
        maps = network.eval()(mean.new_zeros(1, mean.shape[1], SIDE, SIDE)).features
    network.train(training)
    if not maps:
        what = f"{network._get_name()} has no feature maps to compare."
        raise UsageError(what, "Terms on logits, such as pixel or channel, need none.")
    return [Layer(i, len(maps), x.shape[1], round(SIDE / x.shape[-1])) for i, x in enumerate(maps)]


def paired(student: list[Layer], teacher: list[Layer], wanted: Layers) -> Pairing:
    """Return the two maps that the keys name; without keys both last ones, unless these are more than `FAR` in stride.

    What feeds the classifiers means most alike; terms resize it. Otherwise the two are those nearest in stride, of
    these the deepest, with depth counted from the end of each network.

    Raises:
        UsageError: if there is no such map.
    """
    own = _chosen(student, wanted.student_layer, "student")
    target = _chosen(teacher, wanted.teacher_layer, "teacher")
    strides = student[-1].stride, teacher[-1].stride
    if wanted.student_layer is wanted.teacher_layer is None and max(strides) <= FAR * min(strides):
        return Pairing(student[-1], teacher[-1])

    def distance(pair: tuple[Layer, Layer]) -> tuple[float, int]:
        one, other = pair
        return abs(math.log2(one.stride / other.stride)), one.maps - one.number + other.maps - other.number

    return Pairing(*min(product(own, target), key=distance))


def _chosen(layers: list[Layer], index: int | None, role: str) -> list[Layer]:
    if index is None:
        return layers
    if not -len(layers) <= index < len(layers):
        named = ", ".join(f"{layer.number}: stride {layer.stride}" for layer in layers)
        raise UsageError(f"The {role} has no feature map {index}.", f"It has {named}.")
    return [layers[index]]
