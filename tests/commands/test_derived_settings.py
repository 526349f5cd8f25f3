"""Settings that fit the data, from the command line: what is derived, what a user says, what a resumed run keeps."""

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.commands import assert_same_run, refused, segdistill, succeeds
from helpers.own_data import CLASSES, SPLITS, write
from segdistill.errors import Stopped
from segdistill.training import recorder
from segdistill.training.engine import Report

pytestmark = pytest.mark.usefixtures("elsewhere")
NETWORKS = "--teacher resnet18-half --student resnet18-half"
FROM_RUN = "distill --preset canonical --student resnet18-half --accept-teacher --workers 0"
DISTILL = f"distill --preset skd {NETWORKS} --data {{data}}"


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write 12 and 4 images of 48x64 with a data.toml; return its path."""
    return own_data(tmp_path_factory.mktemp("yard"), 48, 64, training=12)


@pytest.fixture(scope="module")
def teacher(yard: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a teacher on them for two steps; return its run."""
    run = tmp_path_factory.mktemp("teacher") / "run"
    succeeds(f"train-teacher --teacher resnet18-half --data {yard} --steps 2 --workers 0 --out {run}")
    return run


def own_data(root: Path, height: int, width: int, training: int, validation: int = 4) -> str:
    rng = np.random.default_rng(0)
    for split, count in (("train", training), ("val", validation)):
        for index in range(count):
            label = np.zeros((height, width), np.uint8)
            label[height // 2 :] = 1
            label[:, rng.integers(4, width - 4) :] = 2
            image = np.array([(90, 90, 200), (40, 160, 60), (160, 80, 60)])[label] + rng.integers(
                -30, 30, (*label.shape, 3)
            )
            write(root / "images" / split / f"{index}.png", image.astype(np.uint8))
            write(root / "labels" / split / f"{index}.png", label)
    (root / "data.toml").write_text(CLASSES + SPLITS)
    return str(root / "data.toml")


def banner(text: str) -> str:
    return " ".join(text.split())


def config_of(run: Path) -> dict[str, Any]:
    return tomllib.loads((run / "config.toml").read_text())


def record_of(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "environment.json").read_text()))


def printed(line: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a printed configuration, and the source of each of its values."""
    out = succeeds(f"{line} --print-config").out
    sources: dict[str, str] = {}
    table = ""
    for text in out.splitlines():
        if heading := re.fullmatch(r"\[(.*)\]", text):
            table = f"{heading[1]}."
        elif " # " in text:
            sources[table + text.partition(" = ")[0]] = text.rpartition(" # ")[2]
    return tomllib.loads(out), sources


# What is derived


def test_two_dozen_photos_are_not_planned_as_cityscapes(tmp_path: Path) -> None:
    data = own_data(tmp_path / "own", 240, 320, training=18, validation=6)
    done = succeeds(f"distill --data {data} {NETWORKS} --dry-run --workers 0")
    for part in (
        "settings for yard, from its images",
        "data.size 180x240: 18 images, 240x320; at most 43200 pixels on a CPU",
        "data.crop 120x160: images at 180x240",
        "data.batch_size 8: 16 of preset canonical, halved for 18 images on a CPU",
        "optim.steps 500: 50 epochs of 18 images would be 113",
        "crops 120x160 of images at 180x240, 8 per step, 500 steps (222.2 epochs)",
    ):
        assert part in banner(done.err), part
    assert "warning" not in done.err.replace("warning: No pixel", "")


def test_a_run_records_what_was_derived_and_from_what(teacher: Path) -> None:
    config, record = config_of(teacher), record_of(teacher)
    assert config["data"]["crop"] == [48, 64]
    assert "size" not in config["data"]
    assert (config["data"]["batch_size"], config["optim"]["steps"], config["validate"]["every"]) == (4, 2, 2)
    assert record["derived"]["data.crop"].startswith("12 images, 48x64")
    assert record["derived"]["optim.steps"] == "--steps 2"
    assert record["schedule_flags"] == {"--steps": 2}


def test_a_teacher_by_name_is_found_again_with_derived_settings(yard: str) -> None:
    line = f"{DISTILL.format(data=yard)} --steps 2 --workers 0 --accept-teacher"
    assert "is trained first" in banner(succeeds(f"{line} --out one").err)
    assert "trained before, with these settings on this data" in banner(succeeds(f"{line} --out two --dry-run").err)


def test_recorded_configurations_derive_nothing(yard: str, teacher: Path) -> None:
    line = f"train-teacher --preset {teacher / 'config.toml'} --teacher resnet18-half --data {yard}"
    config, sources = printed(line)
    assert config == config_of(teacher) | {"data": config_of(teacher)["data"] | {"name": yard}}
    assert not [path for path, source in sources.items() if source.startswith("derived")]


# What a user says


def test_print_config_names_the_source_of_each_value(yard: str) -> None:
    line = f"{DISTILL.format(data=yard)} --lr 0.003 --set data.flip=0 --epochs 10 --batch-size 6 --seed 4"
    config, sources = printed(line)
    assert config["optim"]["steps"] == 20
    assert sources["optim.steps"] == "derived: --epochs 10 of 12 images"
    assert sources["data.crop"].startswith("derived: 12 images, 48x64; at most")
    assert sources["terms.pixel.gradient_ratio"] == "derived: the weight is for other data"
    expected = {
        "optim.lr": "--lr",
        "data.flip": "--set",
        "data.batch_size": "--batch-size",
        "data.name": "--data",
        "seed": "--seed",
        "student.network": "--student",
        "terms.pixel.weight": "preset skd",
        "optim.schedule": "network pspnet",
        "optim.clip": "default",
    }
    assert {path: sources[path] for path in expected} == expected
    assert (config["optim"]["lr"], config["data"]["batch_size"], config["seed"]) == (0.003, 6, 4)
    _, sources = printed(f"{DISTILL.format(data='streets')} --precision fp32 --steps 9")
    expected = {"data.crop": "[on.streets]", "optim.steps": "--steps", "precision": "--precision"}
    assert {path: sources[path] for path in expected} == expected


def test_print_config_without_the_data_says_what_will_be_derived() -> None:
    done = succeeds(f"{DISTILL.format(data='voc:nowhere')} --print-config")
    assert "nowhere" in done.err
    assert "So values that follow from the images are the preset's here." in banner(done.err)
    assert re.search(r"crop = .* # preset skd, and derived from the images when the run begins", done.out)
    assert tomllib.loads(done.out)["data"]["crop"] == [512, 512]


def test_print_config_of_a_teacher_balances_no_terms() -> None:
    config, _ = printed("train-teacher --preset skd --teacher resnet18-half --data streets")
    assert not any("gradient_ratio" in term for term in config["terms"].values())


def test_presets_show_tells_that_a_run_derives_what_is_other_data_s() -> None:
    said = "but derived from the images in a run"
    assert re.search(rf"crop = .* # preset skd, {said}", succeeds("presets show skd --data voc").out)
    assert said not in succeeds("presets show skd --data cityscapes").out
    assert said not in succeeds("presets show skd --data camvid").out


def test_what_a_user_says_is_not_derived(yard: str, tmp_path: Path) -> None:
    said = "--set data.crop=[32,32] --set optim.steps=7 --set validate.every=3 --set optim.warmup=2"
    config, sources = printed(f"{DISTILL.format(data=yard)} {said}")
    assert config["data"]["crop"] == [32, 32]
    assert (config["optim"]["steps"], config["validate"]["every"], config["optim"]["warmup"]) == (7, 3, 2)
    assert sources["data.crop"] == "--set"
    succeeds("presets copy skd mine.toml")
    config, sources = printed(f"distill --preset mine.toml {NETWORKS} --data {yard}")
    assert (config["data"]["crop"], config["optim"]["steps"]) == ([512, 512], 40_000)
    assert "gradient_ratio" not in config["terms"]["pixel"], "nor are the weights of one's own file scaled"


@pytest.mark.parametrize("data", ["streets", "cityscapes:nowhere"])
def test_a_preset_s_own_data_keeps_its_numbers(data: str) -> None:
    networks = "--teacher pspnet101 --student pspnet18"
    if data == "streets":
        networks = "--teacher pspnet50 --student pspnet18"
    _, sources = printed(f"distill --preset skd {networks} --data {data}")
    assert not [path for path, source in sources.items() if source.startswith("derived")]


def test_image_size_makes_the_crop_of_own_data_fit() -> None:
    config, sources = printed(f"{DISTILL.format(data='streets')} --image-size 64x80")
    assert (config["data"]["size"], config["data"]["crop"]) == ([64, 80], [64, 80])
    assert sources["data.size"] == "--image-size"
    assert sources["data.crop"].startswith("derived: images at 64x80")


@pytest.mark.parametrize(
    ("flag", "parts"),
    [
        ("--epochs 0", ["--epochs 0: expected a number above 0", "--epochs 50"]),
        ("--epochs nan", ["--epochs nan: expected a number above 0"]),
        ("--epochs many", ["--epochs"]),
        ("--epochs 1e12", ["optim.steps: a whole number below 2147483648"]),
        ("--epochs 1e12 --print-config", ["optim.steps: a whole number below 2147483648"]),
        ("--epochs 3 --set optim.steps=7", ["--epochs and --set optim.steps both say", "Leave one of them out."]),
        ("--batch-size 0", ["--batch-size 0: expected a whole number of at least 1, or auto"]),
        ("--batch-size some", ["--batch-size some: expected a whole number"]),
        ("--batch-size 1", ["Batch norm needs at least 2 images at a time"]),
        ("--lr -0.1", ["--lr -0.1: expected a number above 0"]),
        ("--image-size 64", ["'64' is not a size"]),
        ("--image-size 70000x64", ["data.size", "65536"]),
        ("--max-minutes inf", ["--max-minutes inf: expected a number above 0"]),
        ("--device mps", ["--device mps: Apple's GPUs are not supported", "Use --device cpu."]),
    ],
)
def test_bad_values_of_flags_are_refused(yard: str, flag: str, parts: list[str]) -> None:
    refused(f"{DISTILL.format(data=yard)} --workers 0 --out run {flag}", *parts)
    assert not Path("run").exists()


# What is measured


def test_minutes_that_leave_no_step_are_refused_with_more_that_do(yard: str, teacher: Path) -> None:
    line = f"{FROM_RUN} --teacher {teacher} --data {yard}"
    done = segdistill(f"{line} --max-minutes 0.0001 --dry-run")
    assert done.code == 2
    assert "--max-minutes 0.0001 leaves no step" in banner(done.err)
    advised = re.search(r"Give at least --max-minutes ([\d.]+)", banner(done.err))
    assert advised is not None
    done = succeeds(f"{line} --max-minutes {advised[1]} --out run")
    config, record = config_of(Path("run")), record_of(Path("run"))
    assert 1 <= config["optim"]["steps"] < 500
    assert record["derived"]["optim.steps"].startswith(f"--max-minutes {advised[1]}, at ")
    # Measured again it would be another number: a resumed run keeps its own.
    assert "Already finished" in succeeds(f"{line} --max-minutes {advised[1]} --out run --resume").err
    refused(f"{line} --max-minutes 50 --out run --resume", "these flags differ", f"--max-minutes: {advised[1]} -> 50")


def test_a_batch_is_halved_until_it_fits_into_memory(yard: str, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = f"{FROM_RUN} --teacher {teacher} --data {yard}"
    line += " --batch-size auto --set optim.steps=2 --dry-run --set data.crop=[48,64] --precision fp32"
    assert " 4 per step, 2 steps" in banner(succeeds(line).err), "of 12 images"
    # In float32 the maps of an image take 1.6 MiB.
    monkeypatch.setattr("segdistill.training.step_memory.COPIES", 0)
    monkeypatch.setattr("segdistill.training.step_memory.usable_memory", lambda: 10 << 20)
    done = banner(succeeds(line).err)
    assert "data.batch_size 2: 4 do not fit into memory, estimated" in done
    assert " 2 per step, 2 steps" in done
    monkeypatch.setattr("segdistill.training.step_memory.usable_memory", lambda: 1 << 20)
    refused(line, "A step of 2 images at crops of 48x64 does not fit into memory", "--image-size")


# Weights of terms


def test_weights_of_other_data_are_balanced_and_recorded(yard: str, teacher: Path) -> None:
    line = f"{FROM_RUN} --teacher {teacher} --data {yard}"
    done = succeeds(f"{line} --steps 2 --seeds 2 --out run")
    row = r"pixel [\d.e+-]+, gradient [\d.]+ with weight [\d.]+, scaled from 1 \(gradient [\d.]+\)"
    assert re.search(row, banner(done.err))
    assert config_of(Path("run"))["terms"]["feature"]["gradient_ratio"] == 1
    weights = [
        json.loads((Path("run") / seed / "teacher.json").read_text())["checks"]["first step"]["weights"]
        for seed in ("", "seed-1")
    ]
    assert weights[0] == weights[1], "students of all seeds are trained alike"
    assert weights[0].keys() == {"pixel", "feature"}


def test_balancing_can_be_switched_off_by_flag_key_and_weight(yard: str) -> None:
    line = DISTILL.format(data=yard)
    for words in ("--keep-weights", "--set balance_terms=false"):
        config, _ = printed(f"{line} {words}")
        assert not [name for name, term in config["terms"].items() if "gradient_ratio" in term], words
    config, _ = printed(f"{line} --set terms.pixel.weight=3")
    assert {name for name, term in config["terms"].items() if "gradient_ratio" in term} == {"pairwise", "holistic"}
    config, _ = printed(f"{line} --set terms.pixel.gradient_ratio=2")
    assert config["terms"]["pixel"]["gradient_ratio"] == 2.0
    config, _ = printed("distill --preset skd --teacher pspnet50 --student pspnet18 --data streets")
    assert "gradient_ratio" not in config["terms"]["pixel"]
    config, sources = printed("distill --preset skd --teacher pspnet50 --student espnet --data streets")
    assert sources["terms.pixel.gradient_ratio"] == "derived: the weight is for other networks"


def test_a_run_stopped_and_resumed_is_the_run_uninterrupted(
    yard: str, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = f"{FROM_RUN} --teacher {teacher} --data {yard}"
    line += " --steps 4 --set checkpoint.every=1"
    succeeds(f"{line} --out whole")
    with monkeypatch.context() as patch:
        patch.setattr(recorder.Recorder, "__call__", stopping_after(2, recorder.Recorder.__call__))
        assert segdistill(f"{line} --out cut").code == 130
    # What is derived and measured is not derived and measured again, whatever it would be now.
    monkeypatch.setattr("segdistill.config.derivation.EPOCHS", 1)
    monkeypatch.setattr("segdistill.config.derivation.WARMUP_SHARE", 0.9)
    monkeypatch.setattr("segdistill.commands._first_step.balanced_weights", None)
    succeeds(f"{line} --out cut --resume")
    assert_same_run(Path("whole"), Path("cut"))
    for name in ("config.toml", "teacher.json"):
        assert (Path("whole") / name).read_text() == (Path("cut") / name).read_text()
    refused(f"{line} --steps 5 --out cut --resume", "these flags differ", "--steps: 4 -> 5")


def stopping_after(step: int, record: Callable[[Any, Report], None]) -> Callable[[Any, Report], None]:
    def record_and_stop(self: Any, report: Report) -> None:
        record(self, report)
        if report.step == step:
            raise Stopped("stopped", "", 2)

    return record_and_stop


# Warnings


def test_lengths_and_crops_that_nobody_wants_are_warned_of(yard: str, teacher: Path) -> None:
    line = f"{FROM_RUN} --teacher {teacher} --data {yard}"
    done = banner(succeeds(f"{line} --epochs 600 --set data.crop=[64,64] --keep-weights --dry-run").err)
    assert "1800 steps show each of 12 training images 600 times: --epochs 50 is usual." in done
    assert "The crop of 64x64 is larger than most images (12 images, 48x64): the rest is filled up." in done
    done = banner(succeeds(f"{line} --epochs 10000000 --dry-run").err)
    assert re.search(r"The training of the student takes \d+h\d\dm here: --max-minutes, --epochs", done)
    fitting = banner(succeeds(f"{line} --epochs 10 --dry-run").err)
    for word in ("is usual", "larger than", "The training of"):
        assert word not in fitting
