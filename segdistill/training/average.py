"""The exponential moving average of a network's weights, kept beside them while they are trained."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class WeightAverage:
    """The average of a network's weights and statistics of batch norm over the steps of its training.

    After each step `average = share * average + (1 - share) * weights`, with `share = min(decay, (1 + n) / (10 + n))`
    after n steps, as `tf.train.ExponentialMovingAverage` has it: a constant share near 1 would leave a short training
    with the weights of its start. Whole numbers, such as batch norm's count of batches, stay the network's own.

    The statistics of batch norm are averaged like the weights. So they follow them without another pass over the
    images; Izmailov et al. 2018, whose average is of few and distant weights, need one.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        """Begin with the network's weights as they are, on its device."""
        self.decay = decay
        self.updates = 0
        """Number of steps that are in the average."""
        self._live = {name: tensor for name, tensor in network.state_dict().items() if tensor.is_floating_point()}
        """The network's own tensors, which an optimizer changes in place."""
        self._average = {name: tensor.clone() for name, tensor in self._live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        share = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(list(self._average.values()), list(self._live.values()), 1 - share)
        self.updates += 1

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the network the average while the context lasts, and then its own weights back, bit for bit."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def adopt(self) -> None:
        """Give the network the average for good."""
        for name, live in self._live.items():
            live.copy_(self._average[name])

    def state(self) -> dict[str, Any]:
        """Return what the average goes on with: references, no copies."""
        return {"updates": self.updates, "weights": dict(self._average)}

    def load(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken.

        Raises:
            ValueError: if it was taken of another network.
        """
        weights, updates = state["weights"], state["updates"]
        shapes = {name: tensor.shape for name, tensor in self._average.items()}
        if {name: tensor.shape for name, tensor in weights.items()} != shapes:
            raise ValueError("the average is of another network")
        # True is an int to Python, and no count
        if type(updates) is not int or updates < 0:
            raise ValueError(f"an average of {updates!r} steps")
        for name, tensor in self._average.items():
            tensor.copy_(weights[name])
        self.updates = updates

    @torch.no_grad()
    def _exchange(self) -> None:
        """Swap the numbers of the network and of the average: the tensors themselves are known to others."""
        for name, live in self._live.items():
            kept: Tensor = live.clone()
            live.copy_(self._average[name])
            self._average[name].copy_(kept)
