"""What a run is trained by, what it ships and keeps, and what --weights chooses, through the command line."""

import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.commands import SMALL, read_back, refused, succeeds, write_camvid

pytestmark = pytest.mark.usefixtures("elsewhere")
AVERAGED = "--set optim.ema=0.9 --set validate.every=1 --precision fp32"  # as models are scored


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with a data set and a run on it that keeps an average."""
    folder = tmp_path_factory.mktemp("place")
    write_camvid(folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train = f"train-teacher --teacher resnet18-half --data camvid:data {SMALL}"
        succeeds(f"{train} {AVERAGED} --out averaged")
        succeeds(f"{train} --out plain")
    return folder


@pytest.fixture
def here(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let a test work in a copy of that folder."""
    shutil.copytree(place, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def evaluated(words: str) -> dict[str, object]:
    result: dict[str, object] = json.loads(succeeds(f"evaluate {words} --data camvid:data --json").out)
    return result


def test_weights_of_a_run_are_chosen_by_name(here: Path) -> None:
    by_default = evaluated("averaged")
    scores = {kind: evaluated(f"averaged --weights {kind}") for kind in ("last", "ema", "best")}
    assert scores["ema"] == by_default
    files = {kind: Path(str(score["model"])).name for kind, score in scores.items()}
    assert files == {"last": "final", "ema": "model.safetensors", "best": "best"}
    recorded = json.loads((here / "averaged/scores.json").read_text())["teacher"]
    assert recorded["weights"] == "ema"
    assert recorded["miou"] == pytest.approx(by_default["miou"])
    assert scores["best"]["miou"] == pytest.approx(recorded["best_miou"])
    shutil.copytree("data/val", "images")
    succeeds("infer averaged images --weights last --out labels")
    assert len(list((here / "labels").iterdir())) == len(list((here / "images").iterdir()))


def test_every_weights_file_is_in_the_manifest(here: Path) -> None:
    Path("averaged/checkpoints/final").write_bytes(b"other")
    refused("evaluate averaged --weights last --data camvid:data", "checkpoints/final", code=5)


def test_weights_that_a_run_does_not_have_are_refused(here: Path) -> None:
    refused("evaluate plain --weights ema --data camvid:data", "It has: last, best.", "optim.ema")
    assert evaluated("plain --weights last")["model"] == "plain/model.safetensors"
    Path("plain/checkpoints/best").unlink()
    refused("evaluate plain --weights best --data camvid:data", "It has: last.", "Leave out --weights")
    refused("evaluate plain/model.safetensors --weights best --data camvid:data", "Give the run's folder")


def test_other_weights_are_exported_under_a_name_of_their_own(here: Path) -> None:
    refused("export averaged --weights best --data camvid:data", "--output best.onnx")
    assert not list(here.glob("averaged/*.onnx*"))


def test_mistakes_in_the_loss_are_refused_before_a_folder_exists(here: Path) -> None:
    train = f"train-teacher --teacher resnet18-half --data camvid:data {SMALL} --out new"
    for setting, words in (
        ("loss.class_weights={lamp=2}", "no class of the data: 'lamp'"),
        ("loss.class_weights=[1,2]", "2 numbers, expected one for each of 11"),
        ("loss.class_weights=rare", "loss.class_weights"),
        ("loss.ohem_threshold=1", "loss.ohem_threshold"),
        ("optim.ema=1", "optim.ema"),
        ("optim.schedule=step", "optim.schedule"),
        ("validate.ship=ema", "optim.ema is 0"),
    ):
        refused(f"{train} --set {setting}", words)
    assert not (here / "new").exists()


def test_a_student_of_another_algorithm_leaves_its_teacher_alone(here: Path) -> None:
    settings = f"{SMALL} --set validate.patience=9"
    train = f"distill --preset skd --teacher resnet18-half --data camvid:data {settings} --accept-teacher"
    succeeds(f"{train} --set terms.holistic.weight=0 --student resnet18-half --out first")
    out = succeeds(f"{train} --set terms.holistic.weight=0 --student espnet-q3 --baseline steps --out second")
    assert "trained as the authors of espnet did, by adam" in out.err
    config = tomllib.loads(Path("second/config.toml").read_text())
    assert config["optim"]["algorithm"] == "adam"
    assert config["loss"]["class_weights"] == "inverse-log"
    baseline = tomllib.loads(Path("second/baseline/config.toml").read_text())
    assert (baseline["optim"], baseline["loss"]) == (config["optim"], config["loss"])
    # equal steps are not promised where validations may end a training
    assert "with the same patience" in json.loads(Path("second/gain.json").read_text())["sentence"]
    # one run of a teacher serves both
    assert len(list(here.glob("train-teacher-*")) + list(here.glob("runs/train-teacher-*"))) == 1
    teachers = [json.loads(Path(run, "teacher.json").read_text())["sha256"] for run in ("first", "second")]
    assert teachers[0] == teachers[1]
    assert succeeds(f"{train} --set terms.holistic.weight=0 --student espnet-q3 --baseline steps --out second --resume")


def test_what_is_set_reaches_a_teacher_that_is_trained_alone(here: Path) -> None:
    for words, rates, algorithm in (
        ("train-teacher --teacher espnet --set optim.lr=0.003", (None, 0.003), "adam"),
        ("distill --teacher espnet --student resnet18 --set optim.lr=0.003", (0.003, 5e-4), "adam"),
        ("train-teacher --teacher espnet --set optim.algorithm=sgd --set optim.lr=0.1", (None, 0.1), "sgd"),
    ):
        config = read_back(succeeds(f"{words} --data streets --print-config").out)
        optim = config.teacher_optim()
        assert (rates[0] or config.optim.lr, optim.lr, optim.algorithm) == (config.optim.lr, rates[1], algorithm)


def test_message_on_a_recipe_says_what_was_set(here: Path) -> None:
    line = "distill --teacher resnet18 --student espnet --data streets --print-config"
    assert "as the authors of espnet did, by adam at a rate of 0.0005" in succeeds(line).err
    changed = succeeds(f"{line} --set optim.algorithm=adamw").err
    assert "as the authors of espnet did, but for what --set says, by adamw" in changed
    assert "authors of espnet" not in succeeds(f"{line} --set optim.algorithm=sgd").err


def test_presets_show_tells_the_source_of_each_value(here: Path) -> None:
    lines = succeeds("presets show skd --student espnet --data camvid").out.splitlines()
    assert any(line.startswith('algorithm = "adam"') and line.endswith("# network espnet") for line in lines)
    refused("presets show skd --student espnte", "Did you mean")


def lamps(folder: Path) -> Path:
    """Write a data set of two classes, of which CamVid has one, and return its file."""
    label = np.zeros((32, 48), np.uint8)
    label[:10] = 1
    for split in ("train", "val"):
        (folder / "lamps" / split).mkdir(parents=True)
        for number in range(2):
            Image.fromarray(np.full((32, 48, 3), 90 + 9 * number, np.uint8)).save(f"lamps/{split}/{split}{number}.jpg")
            Image.fromarray(label).save(folder / f"lamps/{split}/{split}{number}.png")
    file = folder / "lamps.toml"
    lines = ['name = "lamps"', 'classes = ["Road", "lamp"]']
    for split in ("train", "val"):
        images = [f"lamps/{split}/{split}{number}" for number in range(2)]
        lines += [
            f"[{split}]",
            f"images = {json.dumps([f'{name}.jpg' for name in images])}",
            f"labels = {json.dumps([f'{name}.png' for name in images])}",
        ]
    file.write_text("\n".join(lines))
    return file


def test_a_teacher_starts_from_weights_of_other_classes(here: Path) -> None:
    data = lamps(here)
    start = f"train-teacher --teacher resnet18-half --data {data} {SMALL} --init-weights"
    out = succeeds(f"{start} plain --out tuned")
    assert "--init-weights plain: the outputs of 1 class are kept by name, drawn anew: lamp." in out.err
    assert "random weights" not in out.err
    recorded = json.loads(Path("tuned/environment.json").read_text())
    assert recorded["init_weights"] != "none"
    refused(f"{start} averaged --out tuned --resume", "--init-weights")
    # a network that is named is one that was trained from its own beginning
    succeeds(f"distill --preset tsl --teacher resnet18-half --student resnet18-half --data {data} {SMALL} "
             "--accept-teacher --out student")  # fmt: skip
    sha = json.loads(Path("student/teacher.json").read_text())["sha256"]
    assert sha != json.loads(Path("tuned/manifest.json").read_text())["files"]["model.safetensors"]["sha256"]


def test_initial_weights_that_cannot_be_meant_are_refused(here: Path) -> None:
    start = f"train-teacher --data camvid:data {SMALL} --out new --init-weights"
    refused(f"{start} plain --teacher mobilenetv2", "holds a pspnet-resnet18-half", code=5)
    refused(f"{start} hf:plain --teacher resnet18-half", "other tensors", "distill --teacher hf:plain")
    refused(f"{start} tv:no_such --teacher resnet18-half", "torchvision has no segmentation network")
    refused(f"{start} nowhere --teacher resnet18-half", "There is no nowhere")
    assert not (here / "new").exists()
