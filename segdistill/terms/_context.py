"""The networks that terms stand between, and what the terms of one training share."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from segdistill.terms._layers import Layer, LayerOptions, LayerPair, feature_layers, match_layers


@dataclass(frozen=True)
class TermContext:
    """The two networks that the terms of one training compare, and what these terms have in common."""

    student: nn.Module
    teacher: nn.Module
    num_classes: int
    missing_classes: int = 0
    """Number of classes that the teacher does not know: logits are compared without these."""
    image: Tensor | None = None
    """(1, channels, H, W), an image that both networks can take, to be asked for their feature maps with; None of a
    `SegNetwork`, which says itself what it takes."""
    shared: dict[str, Any] = field(default_factory=dict)
    """Objects that several terms use: the first that needs one puts it here, under a name that they know."""

    def layers(self, options: LayerOptions) -> LayerPair:
        """Return which feature maps a term compares, with their channels and strides.

        Raises:
            UsageError: if one of the networks has none, or not the one that is asked for.
        """
        student_layers = self._layers_of("student", self.student)
        teacher_layers = self._layers_of("teacher", self.teacher)
        return match_layers(student_layers, teacher_layers, options)

    def _layers_of(self, role: str, network: nn.Module) -> list[Layer]:
        # A forward pass finds them; one is enough for all terms.
        key = f"layers of the {role}"
        if key not in self.shared:
            self.shared[key] = feature_layers(network, self.image)
        layers: list[Layer] = self.shared[key]
        return layers
