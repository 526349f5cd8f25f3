"""The commands that the README shows, run as written there, with fewer steps and smaller images."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import segdistill, write_camvid
from PIL import Image

from segdistill.config import NetworkConfig, load_preset, preset_folder, read_class_map
from segdistill.data import load_data
from segdistill.networks import build_network
from segdistill.terms import check_terms
from segdistill.types import IGNORE

README = Path(__file__).parent.parent / "README.md"
SMALLER = "--steps 2 --workers 0 --set data.size=[32,48] --set data.crop=[32,48] --set data.batch_size=2"


def shown() -> list[str]:
    """Return the commands in the README's code blocks, continued lines joined."""
    blocks = re.findall(r"^```sh\n(.*?)^```", README.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def test_the_readme_begins_with_the_two_commands_that_install_and_run() -> None:
    run, test = shown()[:2]
    assert run == "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/segdistill quickstart"
    assert test == "python3 -m venv .venv && .venv/bin/pip install -e '.[dev]' && .venv/bin/pytest"


def test_the_readme_shows_its_parts_in_the_order_a_newcomer_reads() -> None:
    text = README.read_text(encoding="utf-8")
    parts = ["# segdistill", "![", "## Two commands", "## Tour", "## Measured", "## What it does not do"]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert (README.parent / "docs" / "quickstart.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_tour_runs_as_it_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_camvid(tmp_path / "PATH/TO/CamVid")
    torch.manual_seed(0)
    espnet = build_network(NetworkConfig(network="espnet"), 12)  # as its authors' checkpoint is made
    torch.save(espnet.state_dict(), "espnet_p_2_q_8_camvid.pth")
    tour = [line for line in shown() if line.startswith("segdistill ")]
    verbs = [shlex.split(line)[1] for line in tour]
    assert verbs[:4] == ["train-teacher", "distill", "export", "infer"]
    assert "evaluate" in verbs
    for line in tour:
        words = shlex.split(line)[1:]
        smaller = shlex.split(SMALLER) if words[0] in ("train-teacher", "distill") else []
        result = segdistill("", *words, *smaller)
        assert result.code == 0, f"{line}\n{result.err}"
    assert (tmp_path / "runs/camvid-student/model.onnx").exists()
    assert sorted(path.name for path in (tmp_path / "labels").iterdir()) == [
        *("0.png", "0_overlay.png", "1.png", "1_overlay.png"),
    ]


def test_the_tables_it_shows_are_a_recipe_a_class_map_and_a_data_set(tmp_path: Path) -> None:
    text = README.read_text(encoding="utf-8")
    mix, classes, own = re.findall(r"^```toml\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    (tmp_path / "map.toml").write_text(classes)
    assert read_class_map(tmp_path / "map.toml") == {
        **{"car": "vehicle", "truck": "vehicle"},
        **{"12": "road", "sea": "ignore"},
    }
    preset = (preset_folder() / "canonical.toml").read_text(encoding="utf-8")
    (tmp_path / "mine.toml").write_text(re.sub(r"^\[terms\..*?(?=^\[(?!terms))", mix + "\n", preset, flags=re.M | re.S))
    config = load_preset(tmp_path / "mine.toml")
    check_terms(config.terms)
    assert list(config.terms) == ["pixel", "pairwise", "channel-features"]
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / split / kind).mkdir(parents=True)
        Image.new("RGB", (4, 2)).save(tmp_path / split / "images" / "a.png")
        Image.fromarray(np.array([[10, 20, 21, 30], [255, 10, 10, 10]], np.uint8)).save(
            tmp_path / split / "labels/a.png"
        )
    (tmp_path / "data.toml").write_text(own)
    assert load_data(str(tmp_path / "data.toml")).split("val").read(0).label.tolist() == [
        [0, 1, 1, 2],
        [IGNORE, 0, 0, 0],
    ]
