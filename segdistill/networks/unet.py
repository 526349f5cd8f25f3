"""U-Net (Ronneberger et al., MICCAI 2015) on a ResNet, as segmentation-models-pytorch has it.

The encoder is the ResNet with its strides, the decoder doubles the size in five steps: nearest neighbors, the encoder's
map of that size beside it, and two 3x3 convolutions with batch norm. The paper's own network has an encoder of plain
convolutions, no padding and no batch norm. Of `resnet18-half` the decoder has half the channels, too. There is no
auxiliary head.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segdistill.config.schema import NetworkConfig
from segdistill.networks import _resnet
from segdistill.networks._base import SegNetwork
from segdistill.networks._layers import conv_bn_relu
from segdistill.types import SegOutput

BACKBONES = tuple(_resnet.VARIANTS)
STRIDES = (32,)
OPTIONS = ("stem", "stem_pool")  # a ResNet of stride 32 has nothing to dilate
DECODER_CHANNELS = (256, 128, 64, 32, 16)
"""Channels from 1/16 to 1/1, for ResNets of full width."""


def build(config: NetworkConfig, num_classes: int, in_channels: int) -> SegNetwork:
    """Build the network that `config.network` names in full, such as unet-resnet18."""
    return UNet(config, num_classes, in_channels)


class UNet(SegNetwork):
    """A ResNet downwards, and a decoder that comes back to the image's size beside it."""

    backbone: _resnet.ResNet

    def __init__(self, config: NetworkConfig, num_classes: int, in_channels: int) -> None:
        super().__init__(num_classes, in_channels)
        self.backbone = _resnet.resnet(config, in_channels)
        is_half = config.network.endswith("-half")
        channels = [width // 2 if is_half else width for width in DECODER_CHANNELS]
        *skipped, inputs = (self.backbone.stem_channels, *self.backbone.channels)
        self.decoder = nn.ModuleList()
        # The last step has no map of the encoder beside it: none has the image's size.
        for skip, outputs in zip([*reversed(skipped), 0], channels, strict=True):
            first = conv_bn_relu(inputs + skip, outputs, 3)
            self.decoder.append(nn.Sequential(first, conv_bn_relu(outputs, outputs, 3)))
            inputs = outputs
        self.classifier = nn.Conv2d(inputs, num_classes, 3, padding=1)

    def segment(self, image: Tensor) -> SegOutput:
        """Return logits at the image's size; the features are at 1/2 to 1/32, and back to 1/1."""
        half = self.backbone.stem(image)
        encoded = (half, *self.backbone.stages(half))
        x = encoded[-1]
        decoded = []
        for step, skip in zip(self.decoder, (*encoded[-2::-1], None), strict=True):
            if skip is None:
                x = F.interpolate(x, size=image.shape[-2:])
            else:
                x = torch.cat([F.interpolate(x, size=skip.shape[-2:]), skip], dim=1)
            x = step(x)
            decoded.append(x)
        return SegOutput(self.classifier(x), (*encoded, *decoded), None)
