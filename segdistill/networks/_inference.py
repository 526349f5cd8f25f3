"""A network as it is shipped."""

from torch import Tensor, nn

from segdistill.networks._base import SegNetwork
from segdistill.networks._layers import resize_like


class InferenceWrapper(nn.Module):
    """A network as it is shipped: images (B, 3, H, W) in, logits (B, C, H, W) at the same size out, nothing else.

    A void output comes last: logits (B, C + 1, H, W).
    """

    def __init__(self, network: SegNetwork) -> None:
        super().__init__()
        self.network = network
        # No dropout, no auxiliary head, and batch norm by its running statistics.
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        """Return logits at the images' size."""
        logits = self.network.void_last(self.network(image).logits)
        return resize_like(logits, image, align_corners=self.network.align_corners)
