"""The loss of a network with the labels: cross entropies, weighted and of hard pixels where wanted, and overlap."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn, stack

from segdistill import losses
from segdistill.config.schema import LossConfig
from segdistill.networks import SegNetwork
from segdistill.runtime.distributed import global_mean_weight
from segdistill.types import IGNORE, Batch, SegOutput


class Supervision(nn.Module):
    """What a network learns from the labels, as [loss] and the auxiliary head's weight say."""

    class_weights: Tensor | None

    def __init__(
        self, aux_weight: float, config: LossConfig | None = None, class_weights: Sequence[float] | None = None
    ) -> None:
        """Take the settings.

        Args:
            aux_weight: weight of the auxiliary head's cross entropy.
            config: table of the loss; default cross entropy alone.
            class_weights: weight of each class; default all alike.
        """
        super().__init__()
        self.aux_weight = aux_weight
        self.config = config or LossConfig()
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        # not part of the state: the configuration says what they are
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, model: nn.Module, outputs: list[SegOutput], batch: Batch) -> dict[str, Tensor]:
        """Return the terms of outputs for one batch: each is its share of the step's mean, summed over the outputs.

        Cross entropy is the mean over all labeled pixels of the step, over all micro-batches and processes. Which
        pixels are hard, and which regions overlap, is seen in this batch alone.
        """
        align_corners = isinstance(model, SegNetwork) and model.align_corners
        # a mean over this batch alone would weigh its pixels by how few of them have labels
        share = global_mean_weight(batch, self._labeled)
        values = [self._cross_entropy(output.logits, batch.label, align_corners=align_corners) for output in outputs]
        terms = {"cross_entropy": stack(values).sum() * share}
        aux_values = [
            losses.cross_entropy(output.aux, batch.label, align_corners=align_corners, class_weights=self.class_weights)
            for output in outputs
            if output.aux is not None
        ]
        if aux_values:
            # with weight 0 too: DistributedDataParallel waits for every gradient
            terms["aux"] = self.aux_weight * (stack(aux_values).sum() * share)
        if self.config.dice > 0:
            overlaps = [losses.soft_dice(output.logits, batch.label, align_corners=align_corners) for output in outputs]
            terms["dice"] = self.config.dice * (stack(overlaps).sum() * share)
        return terms

    def _cross_entropy(self, logits: Tensor, label: Tensor, *, align_corners: bool) -> Tensor:
        if self.config.ohem_threshold > 0:
            return losses.hard_cross_entropy(
                logits,
                label,
                threshold=self.config.ohem_threshold,
                kept=self.config.ohem_kept,
                align_corners=align_corners,
                class_weights=self.class_weights,
            )
        return losses.cross_entropy(logits, label, align_corners=align_corners, class_weights=self.class_weights)

    def _labeled(self, batch: Batch) -> Tensor:
        """Return the number of labeled pixels, each by its class's weight."""
        is_labeled = batch.label != IGNORE
        if self.class_weights is None:
            return is_labeled.sum()
        return self.class_weights[batch.label.masked_fill(~is_labeled, 0)].masked_fill(~is_labeled, 0).sum()
