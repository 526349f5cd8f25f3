"""A network as it predicts: as it is exported, on a device, in the precision and the memory format it is fast in."""

from collections.abc import Callable

import torch
from torch import Tensor

from segdistill.networks import InferenceWrapper, SegNetwork
from segdistill.runtime.precision import Precision


def predictor(network: SegNetwork, precision: Precision) -> Callable[[Tensor], Tensor]:
    """Return what maps images (B, 3, H, W) in 0..255, wherever they are, to logits (B, C, H, W) in float32 or less.

    Args:
        network: is moved to the device, into eval mode, to channels_last and to float32.
        precision: device and autocast type.
    """
    deployed = InferenceWrapper(network).to(precision.device, torch.float32)
    deployed.to(memory_format=torch.channels_last)

    def predict(image: Tensor) -> Tensor:
        with precision.autocast():
            logits: Tensor = deployed(image.to(precision.device, memory_format=torch.channels_last))
        return logits

    return predict
