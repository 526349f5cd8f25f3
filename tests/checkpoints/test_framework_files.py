"""Checkpoints of mmsegmentation, Lightning and segmentation_models.pytorch: read where the network is one of ours.

Names and shapes are compared by a digest with those of mmsegmentation 1.2.2's own networks, built as its configs say.
Outputs were compared with it and with segmentation_models.pytorch 0.6.0, on random weights in float32: they were equal,
but for PSPNet, whose largest difference was 2e-6 of 1.9.
"""

import hashlib
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.imported import TOLD, imported, not_imported, state_of
from segdistill.checkpoints import key_maps
from segdistill.checkpoints.key_maps import KeyMap, as_published
from segdistill.networks import network_names

pytestmark = pytest.mark.usefixtures("elsewhere")

PSPNET = {"stem": "deep-narrow"}
MMSEG: dict[str, tuple[str, KeyMap, dict[str, Any], str]] = {
    "pspnet_r50-d8": (
        "pspnet-resnet50",
        key_maps.MMSEG_PSPNET,
        PSPNET,
        "f2ac6ce3e73487be808f01772ab496b63c984e6abb457da9df98837603fda0a8",
    ),
    "pspnet_r101-d8": (
        "pspnet-resnet101",
        key_maps.MMSEG_PSPNET,
        PSPNET,
        "ad32fa45933e983b52ba8301f6fa46ad641a927c891056a8c5ac4afec1f730d8",
    ),
    "pspnet_r50b-d8": (
        "pspnet-resnet50",
        key_maps.MMSEG_PSPNET,
        {},
        "72e6cdfe120a3625575da7525cc7983e9ad3302e54ca56a4d2aec9a1cdfd00df",
    ),
    "ddrnet_23-slim": (
        "ddrnet-23-slim",
        key_maps.MMSEG_DDRNET,
        {"aux": False},
        "4122e386406edf6381e0c93db2407628835ff6f6bfc86e7e3e3322bd9b872030",
    ),
    "pidnet-s": (
        "pidnet-s",
        key_maps.MMSEG_PIDNET,
        {"aux": False},
        "ff3f93258aac99471848d9574b1dc65c426b08d08dcaac8d074a5623c280448c",
    ),
    "stdc1": (
        "stdcseg-stdc1",
        key_maps.MMSEG_STDC1,
        {"aux": False, "classifier_bias": True},
        "2bcb9799f8874bef34f46ea0da139bab4636bd2261957d37662f40d25c06b7eb",
    ),
    "stdc2": (
        "stdcseg-stdc2",
        key_maps.MMSEG_STDC2,
        {"aux": False, "classifier_bias": True},
        "2f62a3256ab9e250a2f44881c906c358b7a88b59c3a65268cdf59a902f2c3e99",
    ),
}
"""By the name of the config: our network, its key map, choices, and the digest of the names and shapes there."""


def mmseg_state(config: str) -> dict[str, Tensor]:
    """Return our weights by mmsegmentation's names, without the biases that its network does not have."""
    network, key_map, choices, _ = MMSEG[config]
    state = state_of(network, 19, **choices)
    for bias in key_map.zeros:
        state[bias] = torch.zeros_like(state[bias])
    published = as_published(state, key_map)
    if network.startswith("pspnet") and not choices:  # a plain stem has our names there
        stems = {"backbone.stem.0.": "backbone.conv1.", "backbone.stem.1.": "backbone.bn1."}
        published = key_maps.renamed(published, KeyMap("", stems))
    return {name: tensor for name, tensor in published.items() if name not in as_published(_zeros(key_map), key_map)}


def _zeros(key_map: KeyMap) -> dict[str, Tensor]:
    return {name: torch.zeros(1) for name in key_map.zeros}


@pytest.mark.parametrize("config", MMSEG)
def test_names_and_shapes_are_those_of_mmsegmentation(config: str) -> None:
    state = mmseg_state(config)
    lines = sorted(f"{name} {tuple(t.shape)}" for name, t in state.items() if not name.endswith("num_batches_tracked"))
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == MMSEG[config][3]


@pytest.mark.parametrize("config", ["pspnet_r50-d8", "ddrnet_23-slim", "pidnet-s", "stdc1"])
def test_checkpoints_of_mmsegmentation_are_imported(config: str) -> None:
    network, key_map, choices, _ = MMSEG[config]
    extra = {"decode_head.aux_cls_seg.bias": torch.ones(19)} if config.startswith("ddrnet") else {}
    file = {"state_dict": mmseg_state(config) | extra, "meta": {"epoch": 1}}
    loaded, info, said = imported(file, f"--network {network}")
    expected = state_of(network, 19, **choices)
    for bias in key_map.zeros:
        expected[bias] = torch.zeros_like(expected[bias])
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
    assert info.network.align_corners is (config in ("pidnet-s", "stdc1"))
    assert info.network.input is not None
    assert info.network.input.mean == (123.675, 116.28, 103.53)
    assert key_map.source in " ".join(said.split())
    if key_map.zeros:
        assert "conv1.0.bias, conv1.3.bias, to 0" in said
    if extra:
        assert "decode_head.aux_cls_seg.bias: the auxiliary head" in said


def test_networks_that_compute_otherwise_are_refused_with_the_difference() -> None:
    state = as_published(state_of("pspnet-resnet18", 19), key_maps.MMSEG_PSPNET)
    not_imported(state, "--network pspnet18", "second convolution of a block does not dilate there", "py:MODULE")


@pytest.mark.parametrize(
    ("names", "network", "difference"),
    [
        (
            ["decode_head.aspp_modules.0.conv.weight"],
            "deeplabv3-resnet50",
            "DeepLabV3, which fuses",
        ),
        (
            ["decode_head.aspp_modules.0.conv.weight", "decode_head.sep_bottleneck.0.depthwise_conv.conv.weight"],
            "deeplabv3plus-resnet50",
            "DeepLabV3+, which fuses",
        ),
        (["decode_head.conv_cat.conv.weight", "decode_head.convs.0.conv.weight"], "fcn-resnet50", "FCN, which has two"),
        (["decode_head.linear_fuse.conv.weight"], "espnet", "mmsegmentation's, with a head that is not here"),
        (["net.segmentation_head.0.weight", "net.encoder.x.weight"], "unet-resnet18", "segmentation_models.pytorch's"),
        (["a.weight"], "unet-resnet18", "it may be one that is not here"),
    ],
)
def test_other_networks_are_told_by_their_names(names: list[str], network: str, difference: str) -> None:
    not_imported({name: torch.zeros(1) for name in names}, f"--network {network}", difference, "--teacher onnx:FILE")


# One beginning of all names


@pytest.mark.parametrize("prefix", ["net.", "segmentor.network.", "model.net.", ""])
@pytest.mark.parametrize("network", ["espnet-c", "unet-resnet18"])
def test_network_under_any_one_prefix_is_found(prefix: str, network: str) -> None:
    state = state_of(network, 20)
    wrapped = {f"{prefix}{name}": tensor for name, tensor in state.items()}
    beside = {"criterion.weight": torch.ones(5), "other.a": torch.ones(1), "other.b": torch.ones(1)} if prefix else {}
    line = f"--network {network} {'' if network == 'espnet-c' else TOLD}"
    loaded, _, said = imported({"state_dict": wrapped | beside, "epoch": 1}, line)
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())
    if beside:
        said = " ".join(said.split())
        assert f"criterion.weight: beside the network, whose names begin with {prefix}" in said
        assert "other.* (2 tensors): beside the network" in said


def test_loss_beside_a_model_is_left_out() -> None:
    state = {f"model.{name}": tensor for name, tensor in state_of("espnet-c", 20).items()}
    said = imported(state | {"criterion.weight": torch.ones(20)}, "--network espnet-c")[2]
    assert "criterion.weight: beside the network" in said


def test_two_networks_in_one_file_are_refused() -> None:
    state = state_of("espnet-c", 5)
    both = {f"{prefix}.{name}": tensor for prefix in ("student", "teacher") for name, tensor in state.items()}
    not_imported(both, f"--network espnet-c {TOLD}", "holds espnet-c 2 times, as student.* and teacher.*")


def test_prefixed_checkpoint_of_another_network_is_named() -> None:
    state = {f"net.{name}": tensor for name, tensor in state_of("espnet-c-q3", 5).items()}
    not_imported(state, "--network unet-resnet18", "give --network espnet-c-q3")


def test_unet_of_smp_is_ours() -> None:
    state = state_of("unet-resnet18", 3)
    published = as_published(state, key_maps.SMP_UNET)
    assert {
        "encoder.conv1.weight",
        "decoder.blocks.4.conv2.1.running_var",
        "segmentation_head.0.bias",
    } <= published.keys()
    not_imported(published, "--network unet-resnet18", "--mean", code=2)
    loaded, _, said = imported({f"model.{n}": t for n, t in published.items()}, f"--network unet-resnet18 {TOLD}")
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())
    assert "segmentation_models.pytorch" in said


def test_key_maps_lose_no_tensor() -> None:
    for name in network_names():
        if name.startswith(("pspnet", "ddrnet", "pidnet", "stdcseg", "unet")):
            state = state_of(name, 3)
            for key_map in key_maps.key_maps_of(name):
                there = as_published(state, key_map)
                assert len(there) == len(state), (name, key_map.source)
                assert key_maps.renamed(there, key_map).keys() == state.keys(), (name, key_map.source)
