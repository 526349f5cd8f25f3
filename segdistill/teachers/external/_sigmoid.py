"""A network with one output, as its sigmoid is trained on, seen as one of two classes."""

import torch
from torch import Tensor

from segdistill.networks import SegNetwork
from segdistill.types import SegOutput

NOTE = (
    "it has one output z, as a sigmoid is trained on: it is taken for two, (0, z), whose softmax is that sigmoid. "
    "Class 1 is where z is above 0; --class-map says otherwise."
)


class SigmoidNetwork(SegNetwork):
    """A network of one output z, with the two outputs (0, z): softmax makes 1 - sigmoid(z) and sigmoid(z) of them."""

    def __init__(self, network: SegNetwork) -> None:
        super().__init__(2)
        # Images go to the network within as they are, and it normalizes them; its maps are enlarged out here.
        self.images, self.align_corners = network.images, network.align_corners
        self.only_size = network.only_size
        self.network = network

    def forward(self, image: Tensor) -> SegOutput:
        """Segment images (B, 3, H, W), RGB in 0..255; the network within normalizes them."""
        output: SegOutput = self.network(image)
        return output._replace(logits=torch.cat([torch.zeros_like(output.logits), output.logits], dim=1))

    def _get_name(self) -> str:
        return type(self.network).__name__  # what messages call it


def classes_of_one(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the classes of the two outputs: numbers where the one has no name, else that and what is not that."""
    (name,) = classes
    return ("0", "1") if name.isdecimal() else (f"not {name}", name)
