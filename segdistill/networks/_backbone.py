"""The base of all backbones: feature maps, and ImageNet weights that somebody published."""

from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from segdistill.config.schema import InputConfig
from segdistill.errors import UsageError
from segdistill.networks._download import download_weights
from segdistill.storage.weights import read_weights


class PublishedWeights(NamedTuple):
    """ImageNet weights of a backbone, and where they come from."""

    source: str
    """File or hub, for messages."""
    tensors: dict[str, Tensor]
    """Tensors by the names that the backbone gives them, those of a classifier perhaps among them."""


class Backbone(nn.Module):
    """A classifier without its last layer; the tensors have the names of the published ImageNet weights."""

    name: str
    """Name of the backbone, for messages."""
    imagenet: str | None
    """torchvision's name of the weights, as `torchvision.models.get_weight` takes it; None where there are none."""
    channels: tuple[int, ...]
    """Channels of each feature map, shallow to deep."""
    classifier_prefixes: tuple[str, ...] = ("fc.",)
    """Beginnings of the names of published tensors that only the classifier has a use for."""
    weights_source: str = ""
    """File or hub of the weights that it started from; empty where they were drawn."""

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the feature maps of normalized images, shallow to deep."""
        raise NotImplementedError

    @property
    def has_published_weights(self) -> bool:
        """Whether somebody published ImageNet weights for it, whether or not they can be had here."""
        return self.imagenet is not None

    def weights_of_file(self, file: Path) -> PublishedWeights:
        """Return the weights in a file of the user's.

        Raises:
            UsageError: if there is no such file.
            ModelError: if it is damaged, or can be told not to be the backbone's.
        """
        return PublishedWeights(str(file), read_weights(file).tensors)

    def published_images(self) -> InputConfig:
        """Return what `published_weights` want of images, without reading or downloading them."""
        return InputConfig()

    def published_weights(self) -> PublishedWeights:
        """Return the ImageNet weights, torchvision's unless a backbone says otherwise.

        Raises:
            UsageError: if there are none, or they cannot be downloaded.
        """
        if self.imagenet is None:
            raise UsageError(
                f"There are no ImageNet weights for {self.name}.",
                "Leave --pretrained out, or give weights of your own with --backbone-weights FILE.",
            )
        from torchvision.models import get_weight  # late: a second of import time

        file = download_weights(
            get_weight(self.imagenet).url,
            f"The ImageNet weights of {self.name}",
            flag="--backbone-weights FILE",
        )
        return PublishedWeights(str(file), read_weights(file).tensors)
