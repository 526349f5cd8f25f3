"""Networks of any origin, made to answer as ours do: with a `SegOutput`."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from segdistill.errors import UsageError
from segdistill.networks import SegNetwork
from segdistill.types import SegOutput

FeatureMaps = Callable[[nn.Module, Tensor], SegOutput]
"""From a network and its images to logits, feature maps and, where there is one, the auxiliary head's logits."""
LOGITS_KEYS = ("out", "logits")
"""Names of the logits in what torchvision's and transformers' networks return."""


class AnyNetwork(nn.Module):
    """A network and the function that reads it."""

    def __init__(self, network: nn.Module, feature_maps: FeatureMaps | None) -> None:
        super().__init__()
        self.network = network
        self.feature_maps = feature_maps or logits_alone

    def forward(self, image: Tensor) -> SegOutput:
        """Return what the network says of images, as it takes them."""
        output = self.feature_maps(self.network, image)
        if not isinstance(output, SegOutput):
            raise UsageError(
                f"feature_maps returns a {type(output).__name__} for {self._get_name()}.",
                "Expected: segdistill.SegOutput(logits, features, aux).",
            )
        return output

    def _get_name(self) -> str:
        """Return the network's own name, for messages."""
        return type(self.network).__name__


def as_network(network: nn.Module, feature_maps: FeatureMaps | None) -> nn.Module:
    """Return a network that returns a `SegOutput`; ours do, whatever `feature_maps` is."""
    return network if isinstance(network, SegNetwork) else AnyNetwork(network, feature_maps)


def logits_alone(network: nn.Module, image: Tensor) -> SegOutput:
    """Return a network's logits, and its auxiliary head's, without feature maps.

    Raises:
        UsageError: if it returns neither a tensor nor a mapping that has them.
    """
    output: Any = network(image)
    if isinstance(output, SegOutput):
        return output
    if isinstance(output, Tensor):
        return SegOutput(output, (), None)
    if isinstance(output, Mapping):
        for key in LOGITS_KEYS:
            if key in output:
                return SegOutput(output[key], (), output.get("aux"))
    raise UsageError(
        f"{type(network).__name__} returns a {type(output).__name__}.",
        'Expected: logits (B, C, h, w), or a dictionary with "out". Else give feature_maps, a function that takes '
        "network and images and returns a segdistill.SegOutput.",
    )
