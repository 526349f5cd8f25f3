"""The guides of docs/how-to/ are true: whoever types what one says, on images of streets, gets what it promises."""

import json
import shlex
import sys
from pathlib import Path

import pytest
from PIL import Image

from helpers.annotated import pairs
from helpers.commands import segdistill
from helpers.documents import GUIDES, ROOT, SMALLER, shown, snippet
from segdistill.checkpoints.model_file import read_info
from segdistill.data import load_data

DESCRIBE = ROOT / "docs/how-to/describe-your-data.md"
GUIDE = ROOT / "docs/how-to/distill-without-labels.md"
DATA = """name = "yard"
classes = ["sky", "ground"]
[val]
images = "images"
labels = "labels"
"""


def write_frames(folder: Path, count: int) -> None:
    """Write drawn streets as the frames of a film, without their labels; the first ones also as a labeled data set."""
    scenes = load_data("streets").split("train")
    for name in ("frames", "yard/images", "yard/labels"):
        (folder / name).mkdir(parents=True)
    for index in range(count):
        sample = scenes.read(index)
        image = Image.fromarray(sample.image)
        image.save(folder / "frames" / f"{index:03d}.jpg")
        if index < 2:
            image.save(folder / "yard/images" / f"{index}.png")
            sky = load_data("streets").classes.index("sky")
            Image.fromarray((sample.label != sky).astype("uint8")).save(folder / "yard/labels" / f"{index}.png")
    (folder / "yard/data.toml").write_text(DATA)


def test_every_guide_is_followed() -> None:
    assert [DESCRIBE, GUIDE] == GUIDES


def test_describing_data_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pairs(Path("photos"), "images/{}.jpg", "masks/{}_mask.png")
    for line in shown(DESCRIBE):
        words = shlex.split(line)[1:]
        if words[0] == "distill":
            words += shlex.split(SMALLER)
        result = segdistill("", *words)
        assert result.code == 0, f"{line}\n{result.err}"
    assert 'label_pattern = "*_mask"' in Path("data.toml").read_text()


@pytest.mark.slow
def test_distilling_without_labels_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_frames(tmp_path, 12)
    for name in ("my_teacher.py", "map.toml"):
        (tmp_path / name).write_text(snippet(GUIDE, name))
    try:
        for line in shown(GUIDE):
            words = shlex.split(line)[1:]
            if words[0] == "distill":
                words += shlex.split(SMALLER)  # the last value of a key counts
            elif words[0] != "infer":
                words += ["--workers", "0"]
            result = segdistill("", *words)
            assert result.code == 0, f"{line}\n{result.err}"
    finally:
        sys.modules.pop("my_teacher", None)
    info = read_info(Path("student/model.safetensors"))
    assert (info.classes, info.scored_by_teacher, info.terms) == (("sky", "ground"), True, ("pixel",))
    scores = json.loads(Path("student/scores.json").read_text())
    assert scores["distilled"]["miou"] is None
    assert 0 < scores["distilled"]["agreement_pixels"] <= 1
    assert len(list(Path("labels").glob("*.png"))) == 12
    assert Path("student/picture.png").is_file()
