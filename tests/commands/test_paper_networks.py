"""The pair of networks that each paper has runs with its preset: teacher, student and terms suit one another."""

import os
import shutil
from pathlib import Path

import pytest

from helpers.commands import succeeds, write_camvid
from segdistill.checkpoints.model_file import read_info
from segdistill.config.presets import load_preset, preset_names

TINY = "--steps 2 --workers 0 --set data.size=[45,60] --set data.crop=[48,48] --set data.batch_size=2"
PAIRS = {
    "at": ("deeplabv3-resnet101", "deeplabv3-resnet18"),
    "canonical": ("pspnet-resnet101", "pspnet-resnet18"),
    "cirkd": ("deeplabv3-resnet101", "deeplabv3-resnet18"),
    "cwd": ("pspnet-resnet101", "pspnet-resnet18"),
    "dsd": ("deeplabv3-resnet101", "deeplabv3-resnet18"),
    "fitnet": ("deeplabv3-resnet101", "deeplabv3-resnet18"),
    "ifvd": ("deeplabv3-resnet101", "deeplabv3-resnet18"),
    "ka": ("deeplabv3plus-resnet50", "mobilenetv2"),
    "lad": ("pspnet-resnet18", "pspnet-resnet18"),
    "skd": ("pspnet-resnet101", "pspnet-resnet18"),
    "tsl": ("deeplabv2-resnet101", "largefov-mobilenetv1"),
}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a few images of CamVid, real ones where there are, in which teachers are found again."""
    folder, real = tmp_path_factory.mktemp("pairs"), os.environ.get("SEGDISTILL_TEST_CAMVID")
    if real is None:
        write_camvid(folder / "CamVid", train=4, val=2)
        return folder
    for split, count in (("train", 4), ("val", 2)):
        for name in (split, f"{split}annot"):
            (folder / "CamVid" / name).mkdir(parents=True)
            for file in sorted(Path(real, name).iterdir())[:count]:
                shutil.copy(file, folder / "CamVid" / name)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", preset_names())
def test_a_preset_runs_with_the_networks_of_its_paper(
    name: str, workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workshop)
    monkeypatch.delenv("SEGDISTILL_DATA", raising=False)
    config = load_preset(name)
    assert (config.teacher.network, config.student.network) == PAIRS[name]
    pair = f"--teacher {config.teacher.network} --student {config.student.network}"
    succeeds(f"distill --preset {name} {pair} --data camvid:CamVid {TINY} --out {name}")
    info = read_info(workshop / name / "model.safetensors")
    assert info.network.network == PAIRS[name][1]
    assert set(info.terms) == set(config.terms)
    shutil.rmtree(workshop / name)  # the teachers stay, for presets that have the same
