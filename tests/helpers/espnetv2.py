"""What the code of ESPNetv2's authors (sacmehta/EdgeNets) computes, by scale, with 20 outputs.

For the image det((1, 3, 96, 128), 7, 3, 101): once filled by the rule of `golden.fill`, and with their published
weights.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from helpers.golden import det
from segdistill.checkpoints.key_maps import ESPNETV2, as_published
from segdistill.networks import SegNetwork
from segdistill.networks.espnetv2 import ESPNetv2


class Logits(NamedTuple):
    """Numbers of the logits."""

    mean: float
    std: float
    largest: float
    first_row: tuple[float, float, float, float]
    """Of class 0."""
    center: tuple[float, float, float, float]
    """Of classes 0, 1, 2 and 19, in the middle."""

    def flat(self) -> list[float]:
        return [self.mean, self.std, self.largest, *self.first_row, *self.center]


class Golden(NamedTuple):
    """A published network of 20 outputs."""

    network: str
    keys: str
    """Digest of the sorted names and shapes of its tensors."""
    parameters: int
    filled: Logits
    published: Logits


GOLDEN = {
    "0.5": Golden(
        *("espnetv2-0.5", "0d3b5246519df39e", 80_342),
        Logits(
            *(-0.0028736758600157453, 0.045850919377619946, 0.16676486367611454),
            (0.08442908221131883, 0.075439797047323, 0.06645051188332717, 0.05151715940131905),
            (0.041249087917911764, 0.06873879568525834, 0.027700586828278768, 0.004472440998015697),
        ),
        Logits(
            *(0.006353331524248536, 6.936365928536095, 22.258417872453055),
            (-6.02025821648905, -7.344981079197912, -8.669703941906775, -9.064067403688117),
            (-11.777180727222431, -17.677817104808312, -2.0849334074619077, -1.212403818332172),
        ),
    ),
    "1.0": Golden(
        *("espnetv2", "df64b7d12a6b3543", 234_010),
        Logits(
            *(-0.0028423453161590625, 0.04667621321165563, 0.1922018933620579),
            (0.08701847477070104, 0.07357590940566666, 0.06013334404063227, 0.0562666142449328),
            (0.047413186633530655, 0.07717232634052353, 0.024865837600994888, -0.004855267278128377),
        ),
        Logits(
            *(0.004252501437548576, 5.340629260647141, 18.513013621349096),
            (-7.622278829293307, -9.552508495149596, -11.482738161005885, -10.960902982262152),
            (-11.830038443498681, -9.317481377494898, 3.1868962961889644, -2.1280494643728254),
        ),
    ),
    "2.0": Golden(
        *("espnetv2-2.0", "dfd9762392e2636a", 789_242),
        Logits(
            *(-0.002846323812278064, 0.046675748122347684, 0.18900570229302113),
            (0.08655977102152987, 0.07347374829673785, 0.06038772557194583, 0.05659971217931618),
            (0.04731525942085434, 0.07716241647651934, 0.02406755366183611, -0.004620823254333374),
        ),
        Logits(
            *(0.024616009875031843, 5.670477001206995, 19.61930333500893),
            (-2.1771437273541934, -2.917808225578985, -3.6584727238037766, -3.076971127395019),
            (-7.85392212400927, -12.783161712601613, -4.775273810146743, 0.05460390276006175),
        ),
    ),
}


def as_its_authors_publish(network: ESPNetv2) -> dict[str, Tensor]:
    """Return the tensors by their published names, with the slopes that the authors' network does not compute with."""
    published = as_published(network.state_dict(), ESPNETV2)
    widths = network.backbone.channels
    for level, (inputs, outputs) in enumerate(pairwise(widths), start=2):
        slopes = torch.ones(outputs - inputs, dtype=network.mean.dtype)
        published[f"base_net.level{level}_0.eesp.module_act.weight"] = slopes
    return published


def golden_logits(network: SegNetwork) -> list[float]:
    """Return the numbers of a network's logits, below its normalization, in the order of `Logits.flat`."""
    with torch.no_grad():
        logits = network.double().segment(det((1, 3, 96, 128), 7, 3, 101)).logits
        logits = F.interpolate(logits, size=(96, 128), mode="bilinear", align_corners=True)
    center = logits[0, [0, 1, 2, 19], 48, 64].tolist()
    whole = [logits.mean().item(), logits.std().item(), logits.abs().max().item()]
    return [*whole, *logits[0, 0, 0, :4].tolist(), *center]
