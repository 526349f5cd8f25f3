"""Weights for other classes: by name, by hand, whatever the head is made of; another network is refused."""

import pytest
import torch
from torch import Tensor, nn

from segdistill.checkpoints.class_rows import fit_to_classes
from segdistill.config.schema import NetworkConfig
from segdistill.errors import ModelError
from segdistill.networks import SegNetwork, build_network, meta_network, network_names


class Head(nn.Module):
    """A backbone, class maps with batch norm that mix among themselves, and a map of classes and others."""

    def __init__(self, classes: int, width: int = 2) -> None:
        super().__init__()
        self.first = nn.Linear(3, width)
        self.scores = nn.Linear(width, classes)
        self.mixed = nn.Linear(classes, classes, bias=False)
        self.norm = nn.BatchNorm1d(classes)
        self.together = nn.Linear(classes + 4, 2)
        self.aux = nn.Linear(width, classes)


def numbered(module: nn.Module, start: float) -> None:
    """Fill a network with numbers that are all different."""
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.arange(tensor.numel()).reshape(tensor.shape) + start)
                start += tensor.numel()


def fitted(target: Head, source: Head, there: list[str | None], here: list[str]) -> tuple[dict[str, Tensor], list[str]]:
    result = fit_to_classes(
        target,
        Head(len(here) + 1, target.first.out_features),
        source.state_dict(),
        source_classes=there,
        classes=here,
        training_only=("aux",),
    )
    return result.weights, [*result.kept, "|", *result.drawn, "|", *result.left_as_drawn]


def test_outputs_are_kept_by_name_and_others_as_drawn() -> None:
    source, target = Head(3), Head(4)
    numbered(source, 0)
    numbered(target, 1000)
    drawn = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    # here: void's place is passed over, "Traffic_Sign" is the third there, "lamp" is new
    weights, said = fitted(target, source, ["road", None, "traffic sign"], ["sky", "Traffic_Sign", "road", "lamp"])
    assert said == ["Traffic_Sign", "road", "|", "sky", "lamp", "|", "together.weight"]
    theirs = source.state_dict()
    assert torch.equal(weights["first.weight"], theirs["first.weight"])
    assert torch.equal(weights["together.bias"], theirs["together.bias"])
    for name in ("scores.weight", "scores.bias", "norm.running_mean", "aux.weight"):
        assert torch.equal(weights[name][[1, 2]], theirs[name][[2, 0]])
        assert torch.equal(weights[name][[0, 3]], drawn[name][[0, 3]])
    mixed = drawn["mixed.weight"].clone()
    for row, there in ((1, 2), (2, 0)):
        for column, column_there in ((1, 2), (2, 0)):
            mixed[row, column] = theirs["mixed.weight"][there, column_there]
    assert torch.equal(weights["mixed.weight"], mixed)
    assert torch.equal(weights["together.weight"], drawn["together.weight"])  # classes among other channels


def test_the_same_number_of_classes_in_another_order_is_sorted() -> None:
    source, target = Head(3), Head(3)
    numbered(source, 0)
    weights, _ = fitted(target, source, ["a", "b", "c"], ["c", "a", "b"])
    assert torch.equal(weights["scores.weight"], source.scores.weight[[2, 0, 1]])


def test_without_a_common_class_the_head_is_drawn_anew() -> None:
    source, target = Head(3), Head(4)
    drawn = target.scores.weight.detach().clone()
    weights, said = fitted(target, source, ["0", "1", "2"], ["a", "b", "c", "d"])
    assert torch.equal(weights["scores.weight"], drawn)
    assert torch.equal(weights["first.weight"], source.first.weight)
    assert said[:2] == ["|", "a"]


def test_a_missing_auxiliary_head_is_drawn_anew() -> None:
    source, target = Head(3), Head(3)
    drawn = target.aux.weight.detach().clone()
    del source.aux
    weights, said = fitted(target, source, ["a", "b", "c"], ["a", "b", "c"])
    assert torch.equal(weights["aux.weight"], drawn)
    assert said[-2:] == ["aux.weight", "aux.bias"]


def test_another_architecture_is_refused_by_its_tensors() -> None:
    target = Head(3)
    with pytest.raises(ModelError, match=r"misshaped, first\.weight"):
        fitted(target, Head(3, width=5), ["a", "b", "c"], ["a", "b", "c"])
    source = Head(3)
    source.more = nn.Linear(1, 1)
    with pytest.raises(ModelError, match=r"2 tensors unexpected, more\.weight"):
        fitted(target, source, ["a", "b", "c"], ["a", "b", "c"])


@pytest.mark.parametrize("name", [name for name in network_names() if name.count("resnet") == 0 or "18-half" in name])
def test_every_network_can_start_from_other_classes(name: str) -> None:
    config = NetworkConfig(network=name)
    torch.manual_seed(0)
    source: SegNetwork = build_network(config, 5)
    target: SegNetwork = build_network(config, 3)
    fitted = fit_to_classes(
        target,
        meta_network(config, 4),
        source.state_dict(),
        source_classes=["a", "b", "c", "d", "e"],
        classes=["e", "new", "b"],
        training_only=target.training_only,
    )
    assert fitted.kept == ("e", "b")
    assert fitted.drawn == ("new",)
    target.load_state_dict(fitted.weights)
    same = [key for key, tensor in source.state_dict().items() if torch.equal(tensor, fitted.weights[key])]
    # all but the head
    assert len(same) > 0.8 * len(fitted.weights)
