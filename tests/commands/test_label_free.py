"""A teacher and folders of images, without a label: what is learned, what scores it, and what is refused at once."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.class_maps import info
from helpers.commands import assert_same_run, refused, succeeds
from segdistill.checkpoints.model_file import load_model, read_info, save_model
from segdistill.config.presets import load_preset
from segdistill.config.schema import NetworkConfig
from segdistill.errors import Stopped
from segdistill.networks import build_network
from segdistill.training import recorder
from segdistill.training.engine import Report

pytestmark = pytest.mark.usefixtures("elsewhere")
MODULE = """
import torch
from torch import nn
from segdistill.types import SegOutput


class Colors(nn.Module):
    classes = ["Red", "green", "blue", "never"]

    def forward(self, image):
        # a class for each channel, as sure as it is larger than the others
        never = torch.full_like(image[:, :1], -9.0)
        return torch.cat([2 * image[:, :, ::4, ::4], never[:, :, ::4, ::4]], 1)


class WithMaps(Colors):
    def forward(self, image):
        logits = super().forward(image)
        return SegOutput(logits, (image[:, :, ::2, ::2], logits), None)


class Constant(Colors):
    def forward(self, image):
        return super().forward(image) * 0 + torch.tensor([9.0, 0, 0, 0]).view(1, 4, 1, 1)
"""
FURTHER = """

class Twice(Colors):
    classes = ["a", "b", "a", "c"]


class OneSize(Colors):
    def forward(self, image):
        assert image.shape[3] % 64 == 0, "sides of 64 alone"
        return super().forward(image)


class NoNumbers(Colors):
    def forward(self, image):
        return super().forward(image) * float("nan")
"""
SMALL = "--set data.crop=[32,48] --set data.batch_size=2 --workers 0 --set student.aux=false"
IMAGES = 12


@pytest.fixture(autouse=True)
def _own_code(elsewhere: None, frames: Path) -> Iterator[None]:
    Path("colors.py").write_text(MODULE + FURTHER)
    yield
    sys.modules.pop("colors", None)


@pytest.fixture(scope="session")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write images of red, green and blue blocks with noise; the last two are in a folder below."""
    folder = tmp_path_factory.mktemp("frames")
    (folder / "more").mkdir()
    rng = np.random.default_rng(0)
    for index in range(IMAGES):
        blocks = np.kron(rng.integers(0, 3, (6, 8)), np.ones((8, 8), int))
        image = 60 + 120 * np.eye(3, dtype=int)[blocks] + rng.integers(-20, 20, (48, 64, 3))
        name = f"more/{index:02d}.png" if index > IMAGES - 3 else f"{index:02d}.png"
        Image.fromarray(image.astype(np.uint8)).save(folder / name)
    return folder


def line(frames: Path, words: str = "", teacher: str = "py:colors:Colors") -> str:
    return f"distill --teacher {teacher} --images {frames} --student resnet18-half {SMALL} --steps 2 --out run {words}"


def distill(frames: Path, words: str = "", teacher: str = "py:colors:Colors") -> dict[str, Any]:
    result: dict[str, Any] = json.loads(succeeds(f"{line(frames, words, teacher)} --json").out)
    return result


def steps(run: Path = Path("run")) -> list[dict[str, Any]]:
    return [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines() if "loss" in json.loads(text)]


# What is learned, and what scores it


def test_student_without_labels_is_scored_by_agreement(frames: Path) -> None:
    done = succeeds(line(frames))
    for part in (
        "Term feature is left out: it compares feature maps, and this teacher shows none but its logits",
        "11 images without labels, 1 held back, 4 classes",
        "agreement with the teacher: mIoU",
        "this is no accuracy",
        "Next: segdistill export run\n",
    ):
        assert part in done.err, part
    assert "agreement, mIoU %" in done.out.replace("\n", " ")
    scores = json.loads(Path("run/scores.json").read_text())
    entry = scores["distilled"]
    assert (entry["miou"], entry["pixel_accuracy"], entry["best_miou"]) == (None, None, None)
    assert 0 <= entry["agreement_miou"] <= 1
    assert entry["images"] == 1
    assert scores["teacher"]["agreement_miou"] is None
    model = read_info(Path("run/model.safetensors"))
    assert (model.classes, model.scored_by_teacher, model.terms) == (
        ("Red", "green", "blue", "never"),
        True,
        ("pixel",),
    )
    assert {"agreement_miou", "agreement_pixels", "best_agreement_miou"} <= model.metrics.keys()
    assert not {"miou", "pixel_accuracy", "best_miou"} & model.metrics.keys()
    card = Path("run/README.md").read_text()
    assert "no accuracy" in card
    assert "pixel accuracy" not in card
    assert all(step["cross_entropy"] == 0 for step in steps())


def test_agreement_is_that_of_the_answers_at_the_images_size(frames: Path) -> None:
    distill(frames)
    entry = json.loads(Path("run/scores.json").read_text())["distilled"]
    network, _ = load_model(Path("run/model.safetensors"))
    held_back = sorted(path for path in frames.rglob("*.png"))[-1]
    image = torch.from_numpy(np.array(Image.open(held_back))).permute(2, 0, 1)[None].float()
    normalized = (image - torch.tensor([123.675, 116.28, 103.53]).view(1, 3, 1, 1)) / torch.tensor(
        [58.395, 57.12, 57.375]
    ).view(1, 3, 1, 1)

    def enlarged(logits: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.interpolate(logits, (48, 64), mode="bilinear", align_corners=False).argmax(1)

    with torch.no_grad():
        student = enlarged(network(image).logits)
        teacher = enlarged(normalized[:, :, ::4, ::4])  # the fourth class is never answered
    assert entry["agreement_pixels"] == pytest.approx((student == teacher).float().mean().item(), abs=2e-3)
    found = json.loads(
        succeeds(f"evaluate run --images {frames / 'more'} --teacher py:colors:Colors --workers 0 --json").out
    )
    assert (found["images"], found["miou"], found["teacher"]) == (2, None, "py:colors:Colors")


def test_teacher_of_our_own_answers_at_the_size_in_its_file(frames: Path) -> None:
    torch.manual_seed(0)
    network = build_network(NetworkConfig(network="pspnet-resnet18-half"), 3)
    save_model(Path("m.safetensors"), network, info("a", "b", "c"))  # images at their own size
    words = f"evaluate m.safetensors --images {frames} --teacher m.safetensors --workers 0 --json"
    assert json.loads(succeeds(words).out)["agreement_pixels"] == 1
    # the student alone sees them smaller, as it would where its preset has a data.size
    assert json.loads(succeeds(f"{words} --size 24x32").out)["agreement_pixels"] < 1


def test_teacher_of_our_own_keeps_its_own_best_out_of_the_agreement(frames: Path) -> None:
    metrics = {"miou": 0.5, "best_miou": 0.5, "best_classes_scored": 3.0}
    network = build_network(NetworkConfig(network="pspnet-resnet18-half"), 3)
    save_model(Path("m.safetensors"), network, info("a", "b", "c").model_copy(update={"metrics": metrics}))
    words = f"distill --teacher m.safetensors --images {frames} --student espnet --accept-teacher"
    done = succeeds(f"{words} --steps 2 --batch-size 2 --set data.crop=[24,32] --workers 0 --out run")
    assert "1 held-back image, weights of the last step" in done.out
    assert "None" not in done.out
    assert json.loads(Path("run/scores.json").read_text())["teacher"]["best_classes_scored"] is None


def test_teacher_with_maps_teaches_features_too(frames: Path) -> None:
    distill(frames, teacher="py:colors:WithMaps")
    assert read_info(Path("run/model.safetensors")).terms == ("pixel", "feature")


def test_classes_are_those_of_the_map_in_order_of_mention(frames: Path) -> None:
    Path("map.toml").write_text('[classes]\nblue = "cold"\nred = "warm"\ngreen = "Cold"\nnever = "ignore"\n')
    distill(frames, "--class-map map.toml")
    assert read_info(Path("run/model.safetensors")).classes == ("cold", "warm")
    assert load_preset("run/config.toml").data.images == (frames.name,)
    # as a preset, it names no other data than these images, which lie elsewhere: local.json alone says where
    again = "distill --preset run/config.toml --teacher py:colors:Colors --student resnet18-half --out again"
    succeeds(f"{again} {SMALL}")
    assert read_info(Path("again/model.safetensors")).classes == ("cold", "warm")
    assert "Already finished" in succeeds("resume run --teacher py:colors:Colors").err
    Path("run/local.json").unlink()
    refused(f"{again} --overwrite", f"not found: {frames.name}", "--images takes a folder")


def test_labeled_val_split_scores_where_it_is_given(frames: Path, camvid: Path) -> None:
    Path("map.toml").write_text('[classes]\nred = "road"\ngreen = "sky"\nblue = "car"\n')
    words = f"--data camvid:{camvid} --class-map map.toml --accept-teacher"
    result = distill(frames, words)["results"]
    assert result["distilled"]["images"] == result["teacher"]["images"] == 2
    assert result["distilled"]["miou"] is not None
    model = read_info(Path("run/model.safetensors"))
    assert (model.scored_by_teacher, len(model.classes), model.data) == (False, 11, "camvid")
    assert all(step["cross_entropy"] == 0 for step in steps())


# Hard labels, confidence, several views


def test_hard_labels_teach_cross_entropy_and_leave_logits_out(frames: Path) -> None:
    distill(frames, "--set teacher.targets=hard")
    assert read_info(Path("run/model.safetensors")).terms == ("pseudo-labels",)
    assert all(step["cross_entropy"] > 0 and "pixel" not in step for step in steps())
    shutil.rmtree("run")
    distill(frames, "--set teacher.targets=both")
    assert read_info(Path("run/model.safetensors")).terms == ("pixel", "pseudo-labels")
    assert all(step["cross_entropy"] > 0 and step["pixel"] > 0 for step in steps())


def test_threshold_leaves_pixels_out_of_labels_and_agreement(frames: Path) -> None:
    words = "--set teacher.targets=hard"
    distill(frames, words)
    everywhere = json.loads(Path("run/scores.json").read_text())["distilled"]
    shutil.rmtree("run")
    done = succeeds(f"{line(frames, words)} --set teacher.threshold=0.95")
    assert "of probability 0.95 or more" in done.err
    sure = json.loads(Path("run/scores.json").read_text())["distilled"]
    assert everywhere["ignored_pixels"] == 0 < sure["ignored_pixels"] < 48 * 64


def test_unlabeled_images_beside_labels_get_hard_labels(frames: Path, camvid: Path) -> None:
    Path("map.toml").write_text('[classes]\nred = "road"\ngreen = "sky"\nblue = "car"\n')
    shared = f"distill --teacher py:colors:Colors --student resnet18-half {SMALL} --steps 1 --class-map map.toml"
    shared += " --keep-weights"  # which would be scaled by cross entropy's gradient
    words = f"{shared} --data camvid:{camvid} --unlabeled {frames} --accept-teacher --json"
    succeeds(f"{words} --out soft")
    succeeds(f"{words} --out hard --set teacher.targets=both")
    soft, hard = steps(Path("soft")), steps(Path("hard"))
    # the labeled half of the first batch is the same; the other half is in the sum only with labels
    assert soft[0]["cross_entropy"] != hard[0]["cross_entropy"]
    assert soft[0]["pixel"] == hard[0]["pixel"]


@pytest.mark.parametrize(
    "words",
    [
        "",
        "--set teacher.targets=both --set teacher.threshold=0.7 --set optim.accumulate=2 --set data.batch_size=4",
        "--set teacher.scales=[1,1.5] --set teacher.flip=true --set teacher.targets=hard",
        "--set optim.ema=0.5 --set validate.ship=best --set validate.patience=2",
    ],
)
def test_stopped_run_without_labels_resumes_bit_for_bit(
    frames: Path, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words += " --steps 4 --set checkpoint.every=1 --set validate.every=2"
    succeeds(line(frames, words).replace("--out run", "--out whole"))
    asked = recorder.Recorder.__call__

    def stopping(self: recorder.Recorder, report: Report) -> None:
        asked(self, report)
        if report.step == 3:
            raise Stopped("Stopped.", "Resume.", 15)

    with monkeypatch.context() as patched:
        patched.setattr(recorder.Recorder, "__call__", stopping)
        refused(line(frames, words), "Stopped", code=Stopped("", "", 15).exit_code)
    succeeds(f"{line(frames, words)} --resume")
    assert_same_run(Path("run"), Path("whole"))
    assert Path("run/scores.json").read_bytes() != b""
    for key in ("agreement_miou", "agreement_iou", "ignored_pixels"):
        one, other = (json.loads(Path(run, "scores.json").read_text())["distilled"] for run in ("run", "whole"))
        assert one[key] == other[key]
    assert "Already finished" in succeeds(f"{line(frames, words)} --resume").err


@pytest.mark.slow
def test_exported_student_is_checked_on_images_without_labels(frames: Path) -> None:
    distill(frames)
    assert "held back from the training" in succeeds("export run --output again.onnx").err
    Path("run/local.json").unlink()  # as of a run that was given away
    refused("export run", "distilled from images without labels", "--images DIR")
    refused("evaluate run", "distilled from images without labels", "--teacher T")
    found = json.loads(succeeds(f"export run --images {frames} --workers 0 --json").out)
    assert found["check"]["miou_torch"] is None
    assert found["check"]["label_agreement"] > 0.99


def test_weights_counted_from_labels_are_left_out_with_a_word(frames: Path) -> None:
    words = "--dry-run --set teacher.targets=hard --set loss.class_weights"
    done = succeeds(line(frames, f"{words}=inverse-log"))
    assert "Class weights inverse-log are left out: they count labels, and there are none." in done.err
    assert "class weights" not in done.err
    given = succeeds(line(frames, f"{words}='{{green=3}}'"))
    assert "class weights given" in given.err


def test_hard_targets_of_a_teacher_to_train_leave_logits_out(frames: Path) -> None:
    words = f"{SMALL} --steps 1 --dry-run --data streets --set teacher.targets=hard"
    shared = f"distill --preset canonical --teacher pspnet18 --student resnet18-half {words}"
    done = succeeds(f"{shared} --unlabeled {frames}")
    assert "Term pixel is left out: it compares probabilities" in done.err
    assert "its answers  hard targets\n" in done.err


# What is refused, before a folder exists


def test_hard_targets_without_images_to_label_are_refused(frames: Path, camvid: Path) -> None:
    Path("map.toml").write_text('[classes]\nred = "road"\ngreen = "sky"\nblue = "car"\n')
    shared = f"distill --teacher py:colors:Colors --student resnet18-half {SMALL} --steps 1 --class-map map.toml"
    shared += " --keep-weights"  # which would be scaled by cross entropy's gradient
    words = f"{shared} --data camvid:{camvid} --accept-teacher --out run --set teacher.targets"
    refused(f"{words}=hard", "teacher.targets = hard has the teacher label images", "Add --unlabeled DIR")
    assert not Path("run").exists()
    succeeds(f"{words}=both --dry-run")


def test_teacher_is_not_trained_on_images_without_labels(frames: Path) -> None:
    words = f"train-teacher --preset canonical --teacher pspnet18 {SMALL} --out run --set 'data.images=[\"{frames}\"]'"
    for data in ("--data streets", "--set data.name=images"):
        refused(f"{words} {data}", "a teacher is trained on labels", "--set data.images=[]")
    assert not Path("run").exists()


def test_comparisons_that_cannot_be_are_refused_by_evaluate(frames: Path) -> None:
    torch.manual_seed(0)
    plain = build_network(NetworkConfig(network="pspnet-resnet18-half"), 3)
    save_model(Path("student.safetensors"), plain, info("a", "b", "c"))
    embedded = info("a", "b", "c").model_copy(update={"label_embedding": load_preset("lad").teacher.label_embedding})
    save_model(Path("lad.safetensors"), build_network(NetworkConfig(network="pspnet-resnet18-half"), 3, 4), embedded)
    words = f"--images {frames} --teacher"
    refused(f"evaluate student.safetensors {words} lad.safetensors", "label-assisted", "--images has none")
    refused(f"evaluate student.safetensors {words} student.safetensors --split test", "--split test needs labels")
    refused(
        f"evaluate py:colors:Colors {words} student.safetensors", "of another library", "--teacher py:colors:Colors"
    )


def test_what_needs_labels_is_refused_at_once(frames: Path) -> None:
    refused(line(frames, "--baseline steps"), "--baseline trains the student on labels", "--unlabeled DIR --baseline")
    refused(line(frames, f"--unlabeled {frames}"), "--unlabeled mixes images into labeled ones")
    refused(line(frames, teacher="pspnet18"), "pspnet-resnet18 is a network to be trained", "train-teacher")
    refused(line(frames, "--preset lad"), "label-assisted")
    refused(line(frames, "--preset fitnet --set terms.pixel.weight=0"), "no term left", "teacher.targets=hard")
    refused(line(frames, "--preset ifvd --set terms.pixel.weight=0 --set terms.holistic.weight=0"), "no term left")
    assert not Path("run").exists()


def test_label_assisted_teacher_is_refused_without_labels(frames: Path) -> None:
    torch.manual_seed(0)
    network = build_network(NetworkConfig(network="pspnet-resnet18-half"), 3, 4)
    embedded = info("a", "b", "c").model_copy(update={"label_embedding": load_preset("lad").teacher.label_embedding})
    save_model(Path("teacher.safetensors"), network, embedded)
    refused(line(frames, "--preset lad", "teacher.safetensors"), "label-assisted", "--images has none")


def test_folders_without_images_are_refused(frames: Path) -> None:
    Path("empty").mkdir()
    refused(line(Path("empty")), "empty has no images", code=3)
    refused(line(Path("gone")), "not found: gone", "--images takes a folder")
    Path("one").mkdir()
    shutil.copy(frames / "00.png", "one")
    refused(line(Path("one")), "one has 1 image", "--images DIR --images DIR", code=3)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save("empty/a.png")
    Path("empty/b.png").write_bytes(b"no image")
    refused(line(Path("empty")), "b.png", code=3)
    assert not Path("run").exists()


def test_class_maps_that_leave_nothing_are_refused(frames: Path, camvid: Path) -> None:
    Path("map.toml").write_text('[classes]\nred = "ignore"\n')
    refused(line(frames, "--class-map map.toml"), "The class map leaves 0 classes (none)")
    Path("map.toml").write_text('[classes]\nred = "thing"\nblue = "Thing"\n')
    refused(line(frames, "--class-map map.toml"), "The class map leaves 1 class (thing)")
    Path("map.toml").write_text('[classes]\nrad = "thing"\nblue = "stuff"\n')
    refused(line(frames, "--class-map map.toml"), "the teacher has no class 'rad'", "Red")
    refused(line(frames, f"--data camvid:{camvid}"), "teacher's classes are not those of the data", "--class-map")
    assert not Path("run").exists()


def test_images_with_nothing_to_learn_are_refused(frames: Path) -> None:
    highest = "the teacher's highest probability"
    refused(line(frames, "--set teacher.threshold=0.9999999"), "leaves no pixel of 8 images", highest, "about half")
    Path("map.toml").write_text('[classes]\nnever = "a"\ngreen = "b"\nblue = "c"\n')
    Path("red").mkdir()
    for index in range(3):
        Image.fromarray(np.full((48, 64, 3), (250, 10 + index, 10), np.uint8)).save(f"red/{index}.png")
    refused(line(Path("red"), "--class-map map.toml"), "finds none of the 3 classes", "--class-map", code=3)
    refused(line(frames, teacher="py:colors:Constant"), "answers 'Red'", "and nothing else", code=4)
    assert not Path("run").exists()
    succeeds(line(frames, "--accept-teacher", teacher="py:colors:Constant"))


def test_teachers_that_cannot_teach_are_refused_without_traceback(frames: Path) -> None:
    twice = "py:colors:Twice"
    refused(line(frames, teacher=twice), "outputs 0, 2 are all named 'a'", "--class-map", '"0" = "a"')
    refused(line(frames, teacher="py:colors:NoNumbers"), "an image of 48x64 are no numbers (NaN)", code=5)
    assert not Path("run").exists()
    one_size = "fails on 2 images of 32x48: AssertionError: sides of 64 alone"
    refused(line(frames, teacher="py:colors:OneSize"), one_size, "data.crop", code=5)
    Path("map.toml").write_text('[classes]\n"0" = "a"\nb = "b"\n')
    succeeds(line(frames, "--class-map map.toml --overwrite", teacher=twice))
    assert read_info(Path("run/model.safetensors")).classes == ("a", "b")


def test_crop_of_a_preset_is_made_to_fit_small_images(frames: Path) -> None:
    words = line(frames, "--dry-run").replace("--set data.crop=[32,48]", "")
    assert "data.crop 48x64: 11 images, 48x64;" in " ".join(succeeds(words).err.split())
