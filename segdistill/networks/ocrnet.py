"""OCRNet (Yuan et al., "Object-Contextual Representations for Semantic Segmentation", ECCV 2020) on HRNet.

Structure and tensor names are those of the authors' code, HRNet/HRNet-Semantic-Segmentation, branch HRNet-OCR. Its
first logits say where each class is, so they are computed when it is deployed too; in training they are the auxiliary
ones. The authors' dropout is 0.05; the strides are fixed.
"""

import torch
from torch import Tensor, nn

from segdistill.config.schema import NetworkConfig
from segdistill.networks._base import SegNetwork
from segdistill.networks._hrnet import HRNet
from segdistill.networks._layers import initialize_convolutions, resize_like
from segdistill.types import SegOutput

WIDTHS = {"hrnetw18": 18}
BACKBONES = tuple(WIDTHS)
STRIDES = (4,)
OPTIONS = ("dropout",)
PIXEL_WIDTH = 512
"""Channels of the pixels' and the regions' representations."""
KEY_WIDTH = 256
"""Channels in which pixels and regions are compared."""


def build(config: NetworkConfig, num_classes: int, in_channels: int) -> SegNetwork:
    """Build the network that `config.network` names in full, such as ocrnet-hrnetw18."""
    width = WIDTHS[config.network.removeprefix("ocrnet-")]
    return OCRNet(width, num_classes, in_channels, aux=config.aux, dropout=config.dropout_or(0.05))


class OCRNet(HRNet):
    """HRNet's branches at 1/4, first logits, what each class looks like in this image, and logits that know it."""

    training_only = ()

    def __init__(self, width: int, num_classes: int, in_channels: int, *, aux: bool, dropout: float) -> None:
        super().__init__(width, num_classes, in_channels)
        concatenated = sum(self.channels)
        self.aux = aux
        reduce = nn.Conv2d(concatenated, PIXEL_WIDTH, 3, padding=1)
        self.conv3x3_ocr = nn.Sequential(reduce, *_norm_relu(PIXEL_WIDTH))
        self.ocr_distri_head = ObjectContext(PIXEL_WIDTH, KEY_WIDTH, dropout)
        self.cls_head = nn.Conv2d(PIXEL_WIDTH, num_classes, 1)
        self.aux_head = nn.Sequential(
            nn.Conv2d(concatenated, concatenated, 1),
            *_norm_relu(concatenated),
            nn.Conv2d(concatenated, num_classes, 1),
        )
        initialize_convolutions(self)

    def segment(self, image: Tensor) -> SegOutput:
        """Return logits at 1/4; the features are the four branches, and what the classifier reads at 1/4."""
        maps = self.branches(image)
        finest, *deeper = maps
        enlarged = [resize_like(x, finest, align_corners=True) for x in deeper]
        together = torch.cat([finest, *enlarged], dim=1)
        first_logits = self.aux_head(together)
        pixels = self.conv3x3_ocr(together)
        last = self.ocr_distri_head(pixels, regions(pixels, first_logits))
        logits = self.cls_head(last)
        aux = first_logits if self.training and self.aux else None
        return SegOutput(logits, (*maps, last), aux)


def regions(pixels: Tensor, logits: Tensor) -> Tensor:
    """Return what each class looks like: the mean of its pixels, weighted by a softmax over all positions.

    Args:
        pixels: (B, D, h, w).
        logits: (B, C, h, w).

    Returns:
        (B, D, C, 1), as an image of one pixel for each class.
    """
    share = _softmax(logits.flatten(2))  # (B, C, h * w)
    means = pixels.flatten(2) @ share.mT
    return means.unsqueeze(3)


class ObjectContext(nn.Module):
    """Each pixel takes from the regions what is like it, and is fused with that."""

    def __init__(self, channels: int, key_channels: int, dropout: float) -> None:
        super().__init__()
        self.object_context_block = ObjectAttention(channels, key_channels)
        fuse = _conv_norm_relu(2 * channels, channels)
        self.conv_bn_dropout = nn.Sequential(*fuse, nn.Dropout2d(dropout))

    def forward(self, pixels: Tensor, regions: Tensor) -> Tensor:
        """Return (B, D, h, w) of pixels (B, D, h, w) and regions (B, D, C, 1)."""
        context = self.object_context_block(pixels, regions)
        out: Tensor = self.conv_bn_dropout(torch.cat([context, pixels], dim=1))
        return out


class ObjectAttention(nn.Module):
    """Attention from pixels to regions."""

    def __init__(self, channels: int, key_channels: int) -> None:
        super().__init__()
        # Flat rows, as the published tensors are numbered.
        self.f_pixel = nn.Sequential(
            *_conv_norm_relu(channels, key_channels), *_conv_norm_relu(key_channels, key_channels)
        )
        self.f_object = nn.Sequential(
            *_conv_norm_relu(channels, key_channels), *_conv_norm_relu(key_channels, key_channels)
        )
        self.f_down = _conv_norm_relu(channels, key_channels)
        self.f_up = _conv_norm_relu(key_channels, channels)

    def forward(self, pixels: Tensor, regions: Tensor) -> Tensor:
        """Return the context (B, D, h, w) of pixels (B, D, h, w) from regions (B, D, C, 1)."""
        query = self.f_pixel(pixels)  # (B, K, h, w)
        key = self.f_object(regions).flatten(2)  # (B, K, C)
        value = self.f_down(regions).flatten(2)  # (B, K, C)
        scale = query.shape[1] ** -0.5  # as in all attention: a sum of K products grows with the root of K
        similarity = query.flatten(2).mT @ key * scale  # (B, h * w, C)
        attended = value @ _softmax(similarity).mT  # (B, K, h * w)
        context: Tensor = self.f_up(attended.unflatten(2, query.shape[2:]))
        return context


def _softmax(x: Tensor) -> Tensor:
    """Return the softmax over the last axis, computed in float32 or better."""
    # Over all positions of an image: half precision would lose most of the sum.
    probabilities = x.softmax(dim=-1, dtype=torch.promote_types(x.dtype, torch.float32))
    return probabilities.to(x.dtype)


def _conv_norm_relu(inputs: int, outputs: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 1, bias=False)
    return nn.Sequential(conv, nn.Sequential(*_norm_relu(outputs)))


def _norm_relu(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
