"""Published checkpoints fit our networks by the name, shape and number of their tensors, or are refused."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor

from helpers.commands import contents, files, halve, refused, succeeds
from helpers.imported import HALF, TOLD, imported, not_imported, state_of
from segdistill.checkpoints.key_maps import CIRKD_PSPNET, SKD_ESPNET, as_published, renamed
from segdistill.checkpoints.model_file import load_model

pytestmark = pytest.mark.usefixtures("elsewhere")


# Names


def test_tensor_outside_the_key_map_keeps_its_name() -> None:
    tensors = {"pretrained.bn1.bias": torch.zeros(1), "head.other.bias": torch.ones(1)}
    assert renamed(tensors, CIRKD_PSPNET).keys() == {"backbone.bn1.bias", "head.other.bias"}


@pytest.mark.parametrize(
    ("wrap", "beside"),
    [
        (lambda state: {f"module.{name}": tensor for name, tensor in state.items()}, "nothing"),
        (
            lambda state: {"state_dict": {f"module.model.{n}": t for n, t in state.items()}, "epoch": 3},
            "epoch: no weights",
        ),
        (lambda state: {"model": state, "optimizer": {"lr": 0.1}, "step": 7}, "optimizer, step: no weights"),
        (lambda state: {"net": {"state_dict": {f"_orig_mod.{n}": t for n, t in state.items()}}}, "nothing"),
        (lambda state: {"state_dict": state, "ema": {"weight": torch.ones(1)}}, "ema: other weights (1 tensor)"),
        (lambda state: {"model_state": state}, "nothing"),
    ],
)
def test_names_and_files_are_unwrapped(wrap: Callable[[dict[str, Tensor]], object], beside: str) -> None:
    state = state_of("espnet-c", 20)
    network, info, said = imported(wrap(state), "--network espnet-c")
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert info.classes == tuple(map(str, range(20)))
    assert f"left out   {beside}\n" in said


def test_old_pytorch_checkpoints_lack_batch_counts() -> None:
    state = {name: t for name, t in state_of("espnet-c", 20).items() if not name.endswith("num_batches_tracked")}
    torch.save(state, "file.pth", _use_new_zipfile_serialization=False)
    said = succeeds("import-weights file.pth --network espnet-c --out model").err
    network, _ = load_model(Path("model/model.safetensors"))
    counts = network.state_dict().keys() - state.keys()
    assert f"used       {len(state)} tensors\n  filled in  {len(counts)} *.num_batches_tracked with 0" in said
    assert not any(network.state_dict()[name].any() for name in counts)


def test_half_precision_weights_become_float32() -> None:
    state = {name: t.half() if t.is_floating_point() else t for name, t in state_of("espnet-c", 20).items()}
    network, _, _ = imported(state, "--network espnet-c")
    assert all(torch.equal(tensor, state[name].to(tensor.dtype)) for name, tensor in network.state_dict().items())
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


def test_unused_tensors_are_named_with_the_reason() -> None:
    stdc = state_of("stdcseg-stdc1", 3)
    extra = {"cp.backbone.fc.weight": torch.ones(2), "conv_out_sp8.conv_out.weight": torch.ones(2)}
    extra |= {f"cp.backbone.x2.0.{part}": torch.ones(2) for part in ("conv.weight", "bn.weight", "bn.bias", "bn.other")}
    network, info, said = imported(stdc | extra, "--network stdcseg-stdc1")
    kept = {name for name in stdc if torch.equal(network.state_dict()[name], stdc[name])}
    assert all(re.search(r"bn(_atten)?\.weight$", name) for name in stdc.keys() - kept)
    assert info.network.align_corners
    told = [line.partition("left out")[2].strip() for line in said.splitlines() if "left out" in line]
    assert told == [
        "cp.backbone.x2.* (4 tensors): a second name of the same weights",
        "cp.backbone.fc.weight: the backbone as a classifier",
        "conv_out_sp8.conv_out.weight: a head for details, in training only",
    ]


def test_a_network_that_was_saved_with_its_loss_is_unwrapped() -> None:
    state = {f"model.{name}": tensor for name, tensor in state_of("pidnet-s", 3).items()}
    edges = {"model.seghead_d.conv2.bias": torch.ones(1), "loss.criterion.weight": torch.ones(3)}
    _, _, said = imported(state | edges, "--network pidnet-s")
    assert "seghead_d.conv2.bias: a head for edges, in training only" in said
    assert "loss.criterion.weight: weights of the classes in the loss" in said


def test_auxiliary_head_follows_the_checkpoint_unless_disabled() -> None:
    _, info, said = imported(state_of(HALF, 3, aux=False), f"--network {HALF} {TOLD}")
    assert (info.network.aux, "left out   nothing" in said) == (False, True)
    _, info, said = imported(state_of(HALF, 3), f"--network {HALF} {TOLD}")
    assert (info.network.aux, "left out   nothing" in said) == (True, True)
    _, info, said = imported(state_of(HALF, 3), f"--network {HALF} {TOLD} --set aux=false")
    assert not info.network.aux
    assert "left out   aux* (8 tensors): the auxiliary head, in training only" in said


def test_unset_options_are_read_from_tensor_shapes() -> None:
    choices: dict[str, Any] = {"stem": "deep", "head_width": 24, "aspp": False}
    _, info, _ = imported(
        state_of("deeplabv3-resnet18-half", 3, **choices), f"--network deeplabv3-resnet18-half {TOLD}"
    )
    assert info.network.model_dump(include=set(choices)) == choices
    line = f"--network deeplabv3-resnet18-half {TOLD} --set output_stride=16 --set dropout=0.3"
    _, info, _ = imported(state_of("deeplabv3-resnet18-half", 3), line)
    assert (info.network.output_stride, info.network.dropout, info.network.head_width) == (16, 0.3, None)


# What is not that network


def test_every_tensor_must_be_there_and_nothing_else() -> None:
    state = state_of("espnet-c", 20)
    weight = state.pop("classifier.conv.weight")
    not_imported(
        state, "--network espnet-c", "does not hold the tensors of espnet-c: 1 tensor missing, classifier.conv.weight"
    )
    state["classifier.conv.weight"] = weight
    not_imported(state | {"extra.bias": weight}, "--network espnet-c", "1 tensor unexpected, extra.bias")
    state["level1.conv.weight"] = torch.zeros(16, 4, 3, 3)
    not_imported(state, "--network espnet-c", "1 tensor misshaped, level1.conv.weight (16x4x3x3 instead of 16x3x3x3)")


def test_checkpoint_of_another_network_is_refused() -> None:
    not_imported(state_of("espnet-c", 20), "--network espnet", "does not hold the tensors of espnet: ")
    not_imported(
        state_of("espnet-c", 20),
        "--network pspnet18",
        "does not hold the tensors of pspnet-resnet18: ",
        "tensors missing",
    )


@pytest.mark.parametrize(
    ("held", "asked"),
    [
        (lambda: state_of("espnet-c", 20), "espnet"),
        (lambda: as_published(state_of("espnet", 11), SKD_ESPNET), "espnet-c"),
        (lambda: state_of("deeplabv3-resnet18", 5, aux=False), "pspnet-resnet18"),
        (lambda: state_of("stdcseg-stdc2", 19), "stdcseg-stdc1"),
    ],
    ids=["espnet-c", "espnet", "deeplabv3-resnet18", "stdcseg-stdc2"],
)
def test_the_network_that_a_checkpoint_holds_is_named(
    held: Callable[[], dict[str, Tensor]], asked: str, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.id
    not_imported(held(), f"--network {asked}", f"Its tensors have names and shapes of {name}: give --network {name}.")


def test_checkpoint_of_an_unknown_network_is_reported_as_such() -> None:
    strange = {"base_net.level1.conv.weight": torch.ones(32, 3, 3, 3), "bu_dec_l4.weight": torch.ones(1)}
    not_imported(strange, "--network espnet", "No network of `segdistill networks`, as published, has tensors of these")


def test_tensors_are_named_as_in_the_file() -> None:
    state = torchvision.models.segmentation.fcn_resnet50(
        weights=None, weights_backbone=None, num_classes=9
    ).state_dict()
    del state["classifier.1.weight"]
    state["classifier.1.bias"] = torch.zeros(3)
    told = ("1 tensor missing, classifier.1.weight", "1 tensor misshaped, classifier.1.bias (3 instead of 512)")
    not_imported(state, "--network fcn50", *told)


def test_unknown_networks_and_choices_are_usage() -> None:
    state = state_of("espnet-c", 20)
    torch.save(state, "file.pth")
    refused("import-weights file.pth --out model --network espnett", "Unknown network 'espnett'", "espnet")
    refused("import-weights file.pth --out model --network espnet-c --set stem=deep", "stem: it has none to choose")
    refused("import-weights file.pth --out model --network espnet-c --set steam=deep", "steam: unknown key", "stem")
    refused(
        "import-weights file.pth --out model --network espnet-c --set stem", "--set stem: expected KEY=VALUE", "output_"
    )
    refused("import-weights file.pth --out model --network espnet-c --mean 1,2", "--mean 1,2: expected three numbers")
    refused(
        "import-weights file.pth --out model --network espnet-c --std 1,0,1",
        "std.1: Input should be greater than or equal to 0.000001",
    )
    refused(
        "import-weights file.pth --out model --network espnet-c --rgb --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225",
        "in 0..1; here they are in 0..255: mean [123.675, 116.28, 103.53] and std [58.395, 57.12, 57.375], divide 1",
    )
    refused("import-weights gone.pth --out model --network espnet-c", "no weights file gone.pth")


def test_duplicate_tensor_names_are_refused() -> None:
    state = state_of("espnet-c", 20)
    not_imported(
        state | {"module.b1.bn.bias": torch.ones(19)}, "--network espnet-c", "duplicate tensor name, b1.bn.bias"
    )
    state = state_of(HALF, 3)
    own = {"backbone.conv1.weight": state["backbone.conv1.weight"]}
    theirs = {name.replace("backbone.", "pretrained."): tensor for name, tensor in state.items()}
    not_imported(theirs | own, f"--network {HALF} {TOLD}", "1 tensor unexpected, backbone.conv1.weight")


def test_nonfinite_tensors_are_refused() -> None:
    state = state_of("espnet-c", 20)
    state["b1.bn.bias"] = torch.full((19,), torch.nan)
    not_imported(state, "--network espnet-c", "1 tensor with NaN or infinity, b1.bn.bias")


class Payload:
    """What runs code where it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("ran",)


@pytest.mark.promise("S1")
def test_imported_pickle_code_is_not_run() -> None:
    state = state_of("espnet-c", 20)
    not_imported(
        {"state_dict": state, "args": Payload()}, "--network espnet-c", "would run code (", ".mkdir)", "torch.save("
    )
    assert not Path("ran").exists()


def test_file_that_is_not_a_checkpoint_is_refused() -> None:
    torch.save(state_of("espnet-c", 20), "file.pth")
    halve(Path("file.pth"))
    refused(
        "import-weights file.pth --network espnet-c --out model", "file.pth cannot be read", "download it again", code=5
    )
    not_imported([1, 2], "--network espnet-c", "is not a state dict")
    not_imported(
        {"state_dict": {"weight": "none"}}, "--network espnet-c", "not a state dict, but a dictionary with weight"
    )
    endless: dict[str, object] = {}
    endless["model"] = endless
    not_imported(endless, "--network espnet-c", "not a state dict, but a dictionary with model")
    Path("page.pth").write_text("<html>404</html>")
    refused("import-weights page.pth --network espnet-c --out model", "page.pth cannot be read as tensors", code=5)
    assert not Path("model").exists()


def test_model_file_is_not_imported_but_bare_safetensors_are() -> None:
    safetensors.torch.save_file(state_of("espnet-c", 20), "bare.safetensors")
    succeeds("import-weights bare.safetensors --network espnet-c --out model")
    refused("import-weights model/model.safetensors --network espnet-c --out again", "is a model file already")


# The folder


def test_output_folder_is_replaced_only_with_overwrite() -> None:
    imported(state_of("espnet-c", 20), "--network espnet-c")
    assert files(Path("model")) == {".lock", "manifest.json", "model.safetensors"}
    before = contents(Path("model"))
    refused("import-weights file.pth --network espnet-c --out model", "model is not empty", "--overwrite")
    torch.save(state_of("enet", 20), "other.pth")
    refused("import-weights other.pth --network espnet-c --out model --overwrite", "does not hold", code=5)
    assert contents(Path("model")) == before
    Path("mine").mkdir()
    Path("mine/notes.txt").touch()
    refused(
        "import-weights file.pth --network espnet-c --out mine --overwrite", "no run that --overwrite could replace"
    )
