"""ESPNetv2 for segmentation (Mehta et al., CVPR 2019), at scales 0.5, 1, 1.5 and 2.

"ESPNetv2: A Light-weight, Power Efficient, and General Purpose Convolutional Neural Network", section 3. Structure and
tensor names are those of the authors' code, sacmehta/EdgeNets, but for the encoder, which they call base_net and which
is `backbone` here. Its decoder is not the one of the paper but the later one of that code, whose networks for
Cityscapes and Pascal VOC are published: four efficient pyramids, from 1/16 to 1/2, each of which but the first sees the
encoder's map of its size too.

Logits are at 1/2; the authors enlarge them, and all maps on the way, with corners aligned. There is neither dropout
nor an auxiliary head, and the strides are fixed.
"""

from torch import Tensor, nn

from segdistill.config.schema import NetworkConfig
from segdistill.networks._backbone import Backbone
from segdistill.networks._base import SegNetwork
from segdistill.networks._eesp import EESP, Downsampling, conv_norm_act, halving
from segdistill.networks._layers import initialize_convolutions, resize_like
from segdistill.networks._pyramid_scales import GatedConvolution, PyramidOfScales, norm_act
from segdistill.types import SegOutput

WIDTHS = {
    "0.5": (16, 32, 64, 128),
    "": (32, 64, 128, 256),
    "1.5": (32, 96, 192, 384),
    "2.0": (32, 128, 256, 512),
}
"""Channels at 1/2, 1/4, 1/8 and 1/16 by scale; 1 has no name."""
BACKBONES = ("", "0.5", "1.5", "2.0")
STRIDES = (2,)
OPTIONS = ("head_width",)
BLOCKS = (3, 7)
"""Blocks that refine 1/8 and 1/16, behind the one that halves the size."""
LAST_DILATION = 3
"""Largest dilation of the blocks that refine 1/16; all others have 4. The authors limit the receptive field at 1/16,
2 * dilation + 1, to 7."""
DECODER_WIDTHS = (64, 48, 32)
"""Channels of the decoder's maps at 1/8, 1/4 and 1/2."""
MAX_PYRAMID_WIDTH = 16
"""Channels of the pyramids' reduced maps are half as many as classes, and at most so many."""


def build(config: NetworkConfig, num_classes: int, in_channels: int) -> SegNetwork:
    """Build the network that `config.network` names in full, such as espnetv2-2.0."""
    scale = config.network.partition("-")[2]
    return ESPNetv2(scale, num_classes, in_channels, pyramid_width=config.head_width)


class ESPNetv2(SegNetwork):
    """An encoder to 1/16 and four efficient pyramids back to 1/2, of which the last is the classifier.

    Args:
        scale: key of `WIDTHS`.
        num_classes: C.
        in_channels: of the images.
        pyramid_width: channels of the pyramids' reduced maps; None for as many as the authors have.
    """

    backbone: "Encoder"

    def __init__(self, scale: str, num_classes: int, in_channels: int = 3, *, pyramid_width: int | None = None) -> None:
        super().__init__(num_classes, in_channels)
        self.backbone = Encoder(scale, in_channels)
        half, quarter, eighth, sixteenth = self.backbone.channels
        at8, at4, at2 = DECODER_WIDTHS
        width = pyramid_width or max(1, min(num_classes // 2, MAX_PYRAMID_WIDTH))
        self.bu_dec_l1 = PyramidOfScales(sixteenth, width, at8)
        self.bu_dec_l2 = PyramidOfScales(at8, width, at4)
        self.bu_dec_l3 = PyramidOfScales(at4, width, at2)
        self.bu_dec_l4 = PyramidOfScales(at2, width, num_classes, is_last=True)
        self.merge_enc_dec_l2 = GatedConvolution(eighth, at8)
        self.merge_enc_dec_l3 = GatedConvolution(quarter, at4)
        self.merge_enc_dec_l4 = GatedConvolution(half, at2)
        self.bu_br_l2 = norm_act(at8)
        self.bu_br_l3 = norm_act(at4)
        self.bu_br_l4 = norm_act(at2)
        initialize_convolutions(self)

    def prepare_for_export(self) -> None:
        """Have the pyramids average by matrices."""
        super().prepare_for_export()
        for module in self.modules():
            if isinstance(module, PyramidOfScales):
                module.prepare_for_export()

    def segment(self, image: Tensor) -> SegOutput:
        """Return logits at 1/2; the features are the encoder's four maps and the decoder's that is classified."""
        levels = self.backbone(image)
        half, quarter, eighth, sixteenth = levels
        corners = self.align_corners
        decoded16 = self.bu_dec_l1(sixteenth, align_corners=corners)
        map8 = self.bu_br_l2(self._enlarged(decoded16, self.merge_enc_dec_l2(eighth)))
        decoded8 = self.bu_dec_l2(map8, align_corners=corners)
        map4 = self.bu_br_l3(self._enlarged(decoded8, self.merge_enc_dec_l3(quarter)))
        decoded4 = self.bu_dec_l3(map4, align_corners=corners)
        map2 = self.bu_br_l4(self._enlarged(decoded4, self.merge_enc_dec_l4(half)))
        logits = self.bu_dec_l4(map2, align_corners=corners)
        return SegOutput(logits, (*levels, map2), None)

    def _enlarged(self, x: Tensor, skip: Tensor) -> Tensor:
        """Return a map at the size of the encoder's, with that added."""
        return skip + resize_like(x, skip, align_corners=self.align_corners)


class Encoder(Backbone):
    """ESPNetv2 as a classifier without its last level; each halving of the size sees the image again.

    Its authors publish ImageNet weights for each scale (model/classification/model_zoo/espnetv2).
    """

    imagenet = None
    classifier_prefixes = (
        "level5_0.",
        "level5.",
        "classifier.",
        # Not computed with; see `EESP`.
        "level2_0.eesp.module_act.",
        "level3_0.eesp.module_act.",
        "level4_0.eesp.module_act.",
    )

    def __init__(self, scale: str, in_channels: int = 3) -> None:
        super().__init__()
        self.name = f"espnetv2 of scale {scale or '1.0'}"
        self.channels = WIDTHS[scale]
        half, quarter, eighth, sixteenth = self.channels
        at8, at16 = BLOCKS
        self.level1 = conv_norm_act(in_channels, half, stride=2)
        self.level2_0 = Downsampling(half, quarter, in_channels=in_channels)
        self.level3_0 = Downsampling(quarter, eighth, in_channels=in_channels)
        self.level3 = nn.Sequential(*(EESP(eighth, eighth) for _ in range(at8)))
        self.level4_0 = Downsampling(eighth, sixteenth, in_channels=in_channels)
        self.level4 = nn.Sequential(*(EESP(sixteenth, sixteenth, last_dilation=LAST_DILATION) for _ in range(at16)))
        self.halved = halving()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the maps at 1/2, 1/4, 1/8 and 1/16 of normalized images (B, in_channels, H, W)."""
        image4 = self.halved(self.halved(image))
        image8 = self.halved(image4)
        image16 = self.halved(image8)
        half = self.level1(image)
        quarter = self.level2_0(half, image4)
        eighth = self.level3(self.level3_0(quarter, image8))
        sixteenth = self.level4(self.level4_0(eighth, image16))
        return half, quarter, eighth, sixteenth
