"""Weights of a network for other classes: outputs are kept by the classes' names, the others as they were drawn."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from segdistill.errors import ModelError
from segdistill.wording import counted, listed

MAX_NAMES = 5
"""Classes, or tensors, that a sentence names."""


class Fitted(NamedTuple):
    """The weights of a network, and what of them is from elsewhere."""

    weights: dict[str, Tensor]
    kept: tuple[str, ...]
    """Classes whose outputs were kept."""
    drawn: tuple[str, ...]
    """Classes whose outputs are as they were drawn."""
    left_as_drawn: tuple[str, ...]
    """Whole tensors that are as they were drawn: of an auxiliary head, or of classes in an order nobody knows."""

    def sentence(self) -> str:
        """Return what was kept and what was not, in words."""
        if not self.drawn:
            text = "all outputs are kept"
        elif not self.kept:
            text = f"the head is drawn anew, as no class has the same name: {listed(self.drawn, MAX_NAMES)}"
        else:
            kept = counted(len(self.kept), "class", "classes")
            text = f"the outputs of {kept} are kept by name, drawn anew: {listed(self.drawn, MAX_NAMES)}"
        if self.left_as_drawn:
            text += (
                f"; {counted(len(self.left_as_drawn), 'tensor')} drawn anew: {listed(self.left_as_drawn, MAX_NAMES)}"
            )
        return text


def fit_to_classes(
    network: nn.Module,
    wider: nn.Module,
    source: Mapping[str, Tensor],
    *,
    source_classes: Sequence[str | None],
    classes: Sequence[str],
    training_only: tuple[str, ...],
) -> Fitted:
    """Return a network's weights with those of another of the same architecture in all places that both have.

    Which dimensions of which tensors are classes is seen in the same network with one class more: they are larger by
    one there, and as large as there are classes here. Where classes stand among other channels, as in a map that was
    put together of several, the tensor stays as it was drawn.

    Args:
        network: its weights are drawn.
        wider: the same network for one class more; its tensors may be on the meta device.
        source: weights of the other one.
        source_classes: its classes by output; None of an output that is no class.
        classes: the network's classes.
        training_only: beginnings of the names of an auxiliary head's tensors, which may be missing.

    Raises:
        ModelError: if the other network is of another architecture.
    """
    rows = _matching_rows(source_classes, classes)
    larger = wider.state_dict()
    weights, left_as_drawn, wrong = {}, [], []
    for name, drawn in network.state_dict().items():
        taken = source.get(name)
        of_classes = [dim for dim in range(drawn.dim()) if drawn.shape[dim] != larger[name].shape[dim]]
        weights[name] = drawn
        if taken is None or taken.dim() != drawn.dim():
            if taken is None and name.startswith(training_only):
                left_as_drawn.append(name)
            else:
                wrong.append(name)
        elif any(taken.shape[dim] != drawn.shape[dim] for dim in range(drawn.dim()) if dim not in of_classes):
            wrong.append(name)
        elif not of_classes:
            weights[name] = taken.to(drawn)
        elif _are_all_classes(taken, drawn, larger[name], counts=(len(source_classes), len(classes))):
            weights[name] = _with_rows(drawn, taken, rows, of_classes)
        else:
            left_as_drawn.append(name)
    unexpected = [name for name in source if name not in weights and not name.startswith(training_only)]
    if wrong or unexpected:
        problems = []
        if wrong:
            problems.append(f"{counted(len(wrong), 'tensor')} missing or misshaped, {listed(wrong, MAX_NAMES)}")
        if unexpected:
            problems.append(f"{counted(len(unexpected), 'tensor')} unexpected, {listed(unexpected, MAX_NAMES)}")
        raise ModelError("; ".join(problems))
    kept = [name for row, name in enumerate(classes) if row in rows]
    drawn_classes = [name for row, name in enumerate(classes) if row not in rows]
    return Fitted(weights, tuple(kept), tuple(drawn_classes), tuple(left_as_drawn))


def _matching_rows(source_classes: Sequence[str | None], classes: Sequence[str]) -> dict[int, int]:
    """Return the other network's output for each class that both have, by the class's number here."""
    numbers = {_plain(name): number for number, name in enumerate(source_classes) if name is not None}
    return {row: numbers[_plain(name)] for row, name in enumerate(classes) if _plain(name) in numbers}


def _plain(name: str) -> str:
    """Return a class's name as it is compared: "Traffic_Sign" and "traffic sign" are one."""
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _are_all_classes(taken: Tensor, drawn: Tensor, larger: Tensor, *, counts: tuple[int, int]) -> bool:
    """Whether the dimensions of a tensor that depend on the classes are the classes and nothing else.

    Args:
        taken: the other network's.
        drawn: this network's.
        larger: that of this network for one class more.
        counts: number of classes there and here.
    """
    there, here = counts
    sizes = zip(taken.shape, drawn.shape, larger.shape, strict=True)
    return all(size == (there, here, here + 1) for size in sizes if size[1] != size[2])


def _with_rows(drawn: Tensor, taken: Tensor, rows: Mapping[int, int], dims: Sequence[int]) -> Tensor:
    """Return a drawn tensor with another's numbers where all its dimensions of classes have a class of both."""
    here, there = list(rows), list(rows.values())
    result, values = drawn.clone(), taken.to(drawn)
    target: list[Tensor] = []
    for dim in range(drawn.dim()):
        index = torch.arange(drawn.shape[dim])
        if dim in dims:
            values = values.index_select(dim, torch.tensor(there, dtype=torch.int64))
            index = torch.tensor(here, dtype=torch.int64)
        target.append(index)
    if here:
        result[torch.meshgrid(*target, indexing="ij")] = values
    return result
