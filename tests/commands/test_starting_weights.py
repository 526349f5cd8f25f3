"""A training says which weights its backbone starts from, and takes its images as these want them."""

from pathlib import Path

import pytest
import torch

from helpers.commands import succeeds
from segdistill.commands._context import Options
from segdistill.commands._networks import with_pretrained_preprocessing
from segdistill.config.presets import load_preset
from segdistill.config.schema import InputConfig, NetworkConfig
from segdistill.networks import build_network

SMALL = (
    "--data streets --workers 0 --dry-run --set data.size=[48,64] --set data.crop=[48,64] --set data.batch_size=2 "
    "--set optim.steps=2"
)


@pytest.mark.usefixtures("elsewhere")
def test_banner_says_where_the_backbone_starts_from(tmp_path: Path) -> None:
    line = f"train-teacher --preset skd --teacher pspnet18-half {SMALL}"
    wanted = "starts from random weights; preset skd wants ImageNet's: "
    nobody = "nobody published any for resnet18-half; --backbone-weights FILE takes your own"
    assert wanted + nobody in " ".join(succeeds(line).err.split())
    published = " ".join(succeeds(line.replace("18-half", "18")).err.split())
    assert f"{wanted}give --pretrained or --backbone-weights FILE" in published
    backbone = build_network(NetworkConfig(network="pspnet-resnet18-half"), 5).backbone
    assert backbone is not None
    torch.save(backbone.state_dict(), "weights.pth")
    assert "backbone starts from weights.pth" in " ".join(
        succeeds(f"{line} --backbone-weights weights.pth").err.split()
    )
    said = succeeds(f"train-teacher --preset skd --teacher enet {SMALL}").err
    assert "starts from" not in said  # it has no backbone


def test_networks_take_images_as_their_weights_unless_told(tmp_path: Path) -> None:
    pytest.importorskip("timm", reason="the extra segdistill[timm] is not installed")
    inception = InputConfig(mean=(127.5,) * 3, std=(127.5,) * 3)
    own = InputConfig(order="bgr")
    config = load_preset("skd").changed(
        **{"student.network": "pspnet-timm:test_resnet", "teacher.network": "pspnet-timm:test_resnet"}
    )

    def images(options: Options, *, trains_teacher: bool = True) -> list[InputConfig | None]:
        found = with_pretrained_preprocessing(config, options, trains_teacher=trains_teacher)
        return [found.student.input, found.teacher.input]

    assert images(Options()) == [None, None]
    assert images(Options(pretrained=True)) == [inception, inception]
    assert images(Options(backbone_weights=tmp_path), trains_teacher=False) == [inception, None]
    config = config.changed(**{"student.input": own.model_dump()})
    assert images(Options(pretrained=True)) == [own, inception]
