"""A network with other classes, seen in those of the data, and the pixels that it can speak of."""

import torch
from torch import Tensor

from segdistill.losses import MASKED_LOGIT
from segdistill.networks import SegNetwork, resize_like
from segdistill.teachers.class_map import ClassMapping
from segdistill.types import IGNORE, Batch, SegOutput


class RemappedNetwork(SegNetwork):
    """A network with other classes, seen in those of the data.

    Its logits are (B, C, h, w), or (B, C + 1, h, w) where some outputs mean none of the classes: that is the last.
    """

    def __init__(self, network: SegNetwork, mapping: ClassMapping) -> None:
        super().__init__(len(mapping.groups) + bool(mapping.unmapped))
        # Images go to the network within as they are, and it normalizes them; its maps are enlarged out here.
        self.set_preprocessing(self.images, align_corners=network.align_corners)
        self.network = network
        self.mapping = mapping
        self.training_only = tuple(f"network.{prefix}" for prefix in network.training_only)

    def forward(self, image: Tensor) -> SegOutput:
        """Segment images (B, 3, H, W), RGB in 0..255; the network within normalizes them."""
        output: SegOutput = self.network(image)
        return SegOutput(remap_logits(output.logits, self.mapping), output.features, None)

    def _get_name(self) -> str:
        return type(self.network).__name__  # what messages call it

    def without_unknown_pixels(self, batch: Batch, logits: Tensor) -> Batch:
        """Return the batch with pixels left out that this teacher cannot speak of, and their labels ignored.

        These are the ones of a class that it lacks, and those where more than half of its probability means none.

        Args:
            batch: labels in the data's classes.
            logits: this network's for its images.
        """
        valid = batch.valid_mask() & ~self._is_missing(batch.label)
        if self.mapping.unmapped:
            classes, none = logits[:, :-1].float(), logits[:, -1:].float()
            # the logarithm of the odds that a pixel is of none of the classes: above 0 that is more likely than not
            log_odds = none - classes.logsumexp(1, keepdim=True)
            log_odds = resize_like(log_odds, batch.image, align_corners=self.align_corners)
            valid = valid & (log_odds.squeeze(1) <= 0)
        return batch._replace(valid=valid, label=batch.label.masked_fill(~valid, IGNORE))

    def without_missing_classes(self, batch: Batch) -> Batch:
        """Return the batch with the labels of classes that this teacher lacks ignored."""
        return batch._replace(label=batch.label.masked_fill(self._is_missing(batch.label), IGNORE))

    def _is_missing(self, label: Tensor) -> Tensor:
        return torch.isin(label, label.new_tensor(self.mapping.missing_classes))


def remap_logits(logits: Tensor, mapping: ClassMapping) -> Tensor:
    """Return logits of the data's classes: the softmax of each is the sum of its outputs' softmax.

    Args:
        logits: (B, outputs, h, w).
        mapping: of the outputs, for C classes.

    Returns:
        (B, C, h, w) float32, MASKED_LOGIT where no output means the class. Where outputs mean none of the classes there
        is one channel more, the last, of these together.
    """
    logits = logits.float()  # float16 cannot hold MASKED_LOGIT
    groups = list(mapping.groups)
    if mapping.unmapped:
        groups.append(mapping.unmapped)
    impossible = torch.full_like(logits[:, 0], MASKED_LOGIT)
    # the sum of exponentials is what a softmax adds up, before it divides by the sum of all
    channels = [logits[:, list(group)].logsumexp(1) if group else impossible for group in groups]
    return torch.stack(channels, dim=1)


def remap_network(network: SegNetwork, mapping: ClassMapping) -> SegNetwork:
    """Return a network in the data's classes: itself where its outputs are these, in this order."""
    identity = tuple((index,) for index in range(len(mapping.groups)))
    if mapping.groups == identity and not mapping.unmapped:
        return network
    return RemappedNetwork(network, mapping)
