"""A network of some hundred weights: `files of version 0.1` are of it, so that they can be kept in the repository."""

from torch import Tensor, nn

from segdistill.config.schema import NetworkConfig
from segdistill.networks import SegNetwork
from segdistill.types import SegOutput

BACKBONES = ("",)
STRIDES = (4,)
OPTIONS = ()


def build(config: NetworkConfig, num_classes: int, in_channels: int) -> SegNetwork:
    """Build the network."""
    return Minimal(num_classes, in_channels)


class Minimal(SegNetwork):
    """Two strided convolutions with batch norm, and a classifier at stride 4."""

    def __init__(self, num_classes: int, in_channels: int = 3) -> None:
        super().__init__(num_classes, in_channels)
        self.first = nn.Sequential(nn.Conv2d(in_channels, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.classifier = nn.Conv2d(8, num_classes, 1)

    def segment(self, image: Tensor) -> SegOutput:
        """Return logits at stride 4."""
        first = self.first(image)
        second = self.second(first)
        return SegOutput(self.classifier(second), (first, second), None)
