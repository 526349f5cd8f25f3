"""The whole path through the commands, tiny and without network: what is written and what is refused."""

import json
import shlex
import shutil
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers.commands import (
    DISTILL,
    NETWORK,
    SMALL,
    UNTRAINED,
    Result,
    contents,
    files,
    halve,
    process,
    read_back,
    refused,
    segdistill,
    succeeds,
)
from helpers.onnx_files import append_digest
from helpers.runs import RUN_FILES
from segdistill.checkpoints.model_file import load_model, read_info, save_model
from segdistill.commands import export
from segdistill.config.presets import load_preset
from segdistill.config.schema import InputConfig
from segdistill.config.toml import read_toml
from segdistill.storage.files import sha256_of
from segdistill.storage.manifest import add_to_manifest

pytestmark = pytest.mark.usefixtures("elsewhere")


@dataclass(frozen=True)
class Workshop:
    """A folder with a teacher, a student distilled from it beside a plain one, and its graph."""

    folder: Path
    distilled: dict[str, Any]
    exported: dict[str, Any]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Distill and export where the network is cut, for a user whose name must not turn up in what is written."""
    folder = tmp_path_factory.mktemp("secretuser")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        patch.setenv("SECRET_TOKEN", "secretuser-1234")
        patch.setattr(socket.socket, "connect", _no_network)
        patch.chdir(folder)
        distilled = succeeds(f"{DISTILL} --baseline steps --json --out {folder}/student")
        exported = segdistill(f"export {folder}/student --max-ms 0.0001 --json --workers 0")
        assert exported.code == 4, exported.err
    return Workshop(folder, json.loads(distilled.out), json.loads(exported.out))


def _no_network(self: socket.socket, address: object) -> None:
    raise AssertionError(f"no command may reach out for {address}")


@pytest.fixture
def student(workshop: Workshop) -> Path:
    return workshop.folder / "student"


# What the path leaves behind


def test_every_command_names_the_next_one(camvid: Path, tmp_path: Path) -> None:
    data = f"camvid:{camvid}"
    result = succeeds(f"train-teacher --preset tsl --teacher pspnet18 --data {data} {SMALL} --out teacher")
    line = following(result)
    assert line == f"distill --preset tsl --teacher teacher --student pspnet-resnet18 --data {data}"
    result = succeeds(f"{line} {UNTRAINED} --out student")
    line = following(result)
    assert line == "export student"
    result = succeeds(f"{line} --workers 0")
    line = following(result)
    assert line == "infer student/model.onnx IMAGES --out DIR"
    succeeds(line.replace("IMAGES", f"{camvid}/val").replace("DIR", "labels"))
    assert files(tmp_path / "labels") == {"0.png", "1.png"}


def following(result: Result) -> str:
    """Return the command that was named, without the program's name."""
    (line,) = (line for line in result.err.splitlines() if line.startswith("Next: segdistill "))
    return line.removeprefix("Next: segdistill ")


def test_run_folders_hold_the_documented_files(workshop: Workshop) -> None:
    baseline = {f"baseline/{name}" for name in RUN_FILES}
    more = {"teacher.json", "gain.json", "picture.png", "model.onnx"}
    assert files(workshop.folder / "student") == RUN_FILES | baseline | more
    assert files(workshop.folder / "runs" / "train-teacher-skd-pspnet-resnet18-001") == RUN_FILES


@pytest.mark.promise("S10", "S11")
def test_written_files_name_no_local_folder_and_no_user(workshop: Workshop) -> None:
    for path in workshop.folder.rglob("*"):
        if path.is_file() and path.name != "local.json":
            assert b"secretuser" not in path.read_bytes(), path


def test_a_run_s_configuration_is_a_preset_that_repeats_it(student: Path) -> None:
    config = load_preset(student / "config.toml")
    assert config == read_back(segdistill(f"{DISTILL} --print-config").out)
    assert load_preset(student / "baseline" / "config.toml") == config.changed(terms={})


def test_baseline_has_the_data_of_the_student_without_terms(student: Path) -> None:
    def terms(folder: Path) -> set[str]:
        entry = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
        return set(entry) - {"stage", "step", "lr", "gradient_norm", "loss"}

    assert terms(student / "baseline") == {"cross_entropy", "aux"}
    assert terms(student) == {"cross_entropy", "aux", "pixel", "pairwise", "holistic", "critic"}
    assert (student / "data.json").read_text() == (student / "baseline" / "data.json").read_text()


def test_a_manifest_holds_every_file_of_its_run(student: Path) -> None:
    for folder in (student, student / "baseline"):
        manifest = json.loads((folder / "manifest.json").read_text())
        own = {
            name for name in files(folder) if not name.startswith(("baseline/", ".lock", "manifest.json", "local.json"))
        }
        assert set(manifest["files"]) == own


def test_the_log_tells_the_run_as_its_user_saw_it(student: Path) -> None:
    log = (student / "train.log").read_text()
    for part in ("distilled: pspnet-resnet18-half", "terms: pixel ", "step 2: mIoU"):
        assert part in log


def test_json_results_have_the_documented_keys(workshop: Workshop, student: Path) -> None:
    assert workshop.distilled.keys() == {"run", "results", "spread", "gain", "weak_teacher"}
    assert list(workshop.distilled["results"]) == ["teacher", "baseline", "distilled"]
    scores = {"images", "miou", "classes_scored", "classes_declared", "pixel_accuracy", "iou", "ignored_pixels"}
    scores |= {"class_precision", "class_recall", "class_dice", "confusion_matrix"}
    for result in workshop.distilled["results"].values():
        assert result.keys() == scores | {
            *(
                "network",
                "weights",
                "best_miou",
                "best_classes_scored",
                "parameters",
                "macs",
                "training_seconds",
                "pretraining_seconds",
            )
        }
    keys = {"file", "sha256", "opset", "size", "size_from", "check", "latency_ms", "fps", "gate", "form"}
    assert workshop.exported.keys() == keys
    assert workshop.exported["check"].keys() == {
        *("max_abs_diff", "max_relative_diff", "label_agreement", "min_label_agreement", "unlike_images"),
        *("miou_torch", "miou_onnx", "images"),
        *("classes_scored", "classes_declared"),
    }
    for latency in workshop.exported["latency_ms"].values():
        assert latency.keys() == {"first", "p50", "p90", "p99", "n", "threads", "provider", "images"}
    evaluated = segdistill(f"evaluate {student} --json --workers 0 --quiet")
    assert json.loads(evaluated.out).keys() == scores | {"model", "data", "split", "size", "precision", "device"}
    assert evaluated.err == ""


def test_run_model_file_and_graph_score_alike(workshop: Workshop, student: Path) -> None:
    lines = (str(student), f"{student}/model.safetensors --data streets", f"{student}/model.onnx --data streets")
    run, model, graph = (json.loads(segdistill(f"evaluate {line} --json --workers 0").out) for line in lines)
    assert run == model
    reported = workshop.distilled["results"]["distilled"]
    assert reported.items() >= {key: value for key, value in run.items() if key in reported}.items()
    assert (graph["images"], graph["ignored_pixels"]) == (run["images"], run["ignored_pixels"])
    assert graph["miou"] == pytest.approx(run["miou"], abs=1e-4)
    assert graph["pixel_accuracy"] == pytest.approx(run["pixel_accuracy"], abs=1e-4)
    assert (run["precision"], run["device"], run["split"], run["data"]) == ("fp32", graph["device"], "val", "streets")


def test_requested_precision_is_used(student: Path) -> None:
    result = json.loads(segdistill(f"evaluate {student} --precision bf16 --json --workers 0").out)
    assert result["precision"] == "bf16"


@pytest.mark.promise("D12")
def test_run_and_graph_label_images_alike(student: Path, camvid: Path) -> None:
    for model, out in ((student, "by_run"), (student / "model.onnx", "by_graph")):
        told = json.loads(succeeds(f"infer {model} {camvid} --out {out} --overlay --json").out)
        assert told.keys() == {"out", "images", "failed", "images_per_second"}
        assert (told["out"], told["images"], told["failed"]) == (out, 12, [])
    names = {str(path.relative_to(camvid)) for path in camvid.rglob("*.png")}
    assert files(Path("by_run")) == names | {name.replace(".png", "_overlay.png") for name in names}
    for name in names:
        with Image.open(Path("by_run", name)) as one, Image.open(Path("by_graph", name)) as other:
            assert (one.mode, one.size) == ("P", (64, 48))
            assert (np.asarray(one) == np.asarray(other)).mean() > 0.999


def test_a_trained_teacher_is_found_and_not_trained_again(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workshop.folder)
    before = contents(workshop.folder / "runs")
    again = succeeds(f"{DISTILL} --json")
    assert "runs/train-teacher-skd-pspnet-resnet18-001, trained before" in again.err
    assert json.loads(again.out)["results"].keys() == {"teacher", "distilled"}
    after = contents(workshop.folder / "runs")
    assert {path: stamp for path, stamp in after.items() if path in before} == before
    assert all("/distill-skd-pspnet-resnet18-half-001/" in path for path in after.keys() - before)


def test_a_process_of_its_own_scores_alike(student: Path) -> None:
    words = ("evaluate", str(student), "--json", "--quiet", "--workers", "0")
    alone = process(Path(sys.executable).with_name("segdistill"), *words, OMP_NUM_THREADS="1")
    assert (alone.code, alone.err) == (0, "")
    assert alone.out == segdistill("", *words).out


def test_too_slow_graph_is_kept_and_fails_by_exit_code(workshop: Workshop, student: Path) -> None:
    assert workshop.exported["gate"] == {"limit": "at most 0.0001 ms", "passed": False}
    assert workshop.exported["file"] == str(student / "model.onnx")
    assert workshop.exported["size"] == [32, 48]
    assert workshop.exported["sha256"] == sha256_of(student / "model.onnx")


@pytest.mark.promise("E1")
def test_a_graph_that_differs_from_its_network_is_rejected(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def harm(network: object, info: object, path: Path, form: object) -> None:
        model = onnx.load(student / "model.onnx")
        largest = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        values = onnx.numpy_helper.to_array(largest) * np.float32(1.01)
        largest.CopyFrom(onnx.numpy_helper.from_array(values, largest.name))
        path.write_bytes(append_digest(model))

    monkeypatch.setattr(export, "export_onnx", harm)
    result = segdistill(f"export {student} --output bad.onnx --data streets --workers 0 --json")
    assert result.code == 4
    assert "bad.onnx.rejected did not pass: the logits of an image differ" in " ".join(result.err.split())
    assert json.loads(result.out)["file"] == "bad.onnx.rejected"
    assert files(tmp_path) == {"bad.onnx.rejected"}


@pytest.mark.promise("E5")
def test_missing_device_is_never_replaced(student: Path, camvid: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has the device")
    model = student / "model.safetensors"
    for line in (
        f"{DISTILL} --out run",
        f"train-teacher {SMALL} --data streets --out run",
        f"evaluate {model} --data streets",
        f"export {student} --output again.onnx",
        f"infer {student / 'model.onnx'} {camvid / 'val'} --out labels",
        "quickstart --out run",
    ):
        refused(f"{line} --device cuda", "sees no CUDA GPU")
    assert not files(Path.cwd())


@pytest.mark.promise("E8")
def test_a_damaged_image_is_left_out_of_inference_and_told(student: Path, own_camvid: Path, tmp_path: Path) -> None:
    halve(own_camvid / "train" / "2.png")
    result = segdistill(f"infer {student} data/train --out labels --json")
    assert result.code == 3
    assert files(tmp_path / "labels") == {"0.png", "1.png", "3.png"}
    told = json.loads(result.out)
    assert (told["images"], [entry["file"] for entry in told["failed"]]) == (3, ["data/train/2.png"])
    assert "data/train/2.png" in result.err


def test_infer_says_what_helps_and_that_helps(student: Path, tmp_path: Path) -> None:
    Image.new("L", (12_000, 9_000)).save(tmp_path / "ortho.png")
    told = segdistill(f"infer {student} ortho.png --out labels --json")
    assert told.code == 3
    assert "ortho.png is too large: it has 108,000,000 pixels." in told.err
    assert "Cut it into parts with an image program, and give the folder of the parts." in " ".join(told.err.split())
    (entry,) = json.loads(told.out)["failed"]
    assert "100,000,000" in entry["advice"]
    (tmp_path / "parts").mkdir()
    Image.new("L", (64, 48)).save(tmp_path / "parts" / "0.png")
    succeeds(f"infer {student} parts --out labels")


def test_infer_names_the_files_that_it_passes_over(student: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("a.heic", "b.heic", "c.mov"):
        (tmp_path / "photos" / name).write_bytes(b"x")
    expected = "photos holds no image. It has 2 .heic files, 1 .mov file, which are not read."
    refused(f"infer {student} photos --out labels", expected, code=3)


# Models


@pytest.mark.promise("T1")
def test_data_of_other_classes_are_refused_with_both_lists(student: Path, camvid: Path, tmp_path: Path) -> None:
    for line in (
        f"evaluate {student} --data camvid:{camvid}",
        f"export {student} --output a.onnx --data camvid:{camvid}",
        f"distill --teacher {student} --student {NETWORK} --data camvid:{camvid} {SMALL} --out run",
    ):
        refused(line, "sidewalk, building, pole, vegetation", "sky, building, pole, road, pavement")
    assert not files(tmp_path)


def test_bgr_model_is_used_like_the_equal_rgb_model(student: Path, tmp_path: Path) -> None:
    straight, turned = student / "model.safetensors", tmp_path / "turned.safetensors"
    network, info = load_model(straight)
    assert info.network.input == InputConfig()
    images = InputConfig(order="bgr", divide=255)
    weights = network.state_dict()
    weights["backbone.conv1.weight"] = weights["backbone.conv1.weight"].flip(1) * 255
    network.load_state_dict(weights)
    save_model(turned, network, info.model_copy(update={"network": info.network.model_copy(update={"input": images})}))

    def score(model: Path) -> float:
        miou: float = json.loads(succeeds(f"evaluate {model} --data streets --json --workers 0").out)["miou"]
        return miou

    expected = pytest.approx(score(straight), abs=1e-3)
    assert score(turned) == expected
    exported = json.loads(succeeds(f"export {turned} --data streets --json --workers 0").out)
    assert exported["check"]["label_agreement"] >= 0.999
    assert score(turned.with_suffix(".onnx")) == expected
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)).save("image.png")
    for model in (straight, turned, turned.with_suffix(".onnx")):
        succeeds(f"infer {model} image.png --out {model.stem}{model.suffix[:3]}")
    maps = [np.asarray(Image.open(f"{folder}/image.png")) for folder in ("model.sa", "turned.sa", "turned.on")]
    assert all((other == maps[0]).mean() > 0.99 for other in maps[1:])
    line = f"distill --preset skd --teacher {turned} --student {NETWORK} --data streets {SMALL} --steps 1"
    result = json.loads(succeeds(f"{line} --init-weights {turned} --out run --json").out)
    assert result["results"]["teacher"]["miou"] == expected
    config = load_preset("run/config.toml")
    assert config.teacher.input == config.student.input == read_info(Path("run/model.safetensors")).network.input
    assert config.student.input == images


def test_a_bare_file_needs_data(student: Path) -> None:
    for name in ("model.safetensors", "model.onnx"):
        refused(f"evaluate {student / name}", "--data streets")


@pytest.mark.promise("C3")
def test_a_damaged_model_is_refused(student: Path, tmp_path: Path) -> None:
    for name in ("model.safetensors", "model.onnx"):
        content = bytearray((student / name).read_bytes())
        content[len(content) // 2] ^= 1
        (tmp_path / name).write_bytes(content)
    (tmp_path / "notes.txt").write_text("no model")
    before = files(tmp_path)
    for line in (
        "evaluate model.safetensors --data streets",
        "evaluate model.onnx --data streets",
        "evaluate notes.txt",
        "export model.safetensors --data streets --output a.onnx",
        "infer notes.txt . --out labels",
        "infer model.onnx . --out labels",
        f"distill --teacher model.safetensors --student {NETWORK} --data streets {SMALL}",
        f"distill --teacher {student} --student {NETWORK} --data streets {SMALL} --init-weights notes.txt",
    ):
        refused(line, line.split()[-1 if "--init" in line else 2 if "--teacher" in line else 1], code=5)
    assert files(tmp_path) == before


@pytest.mark.promise("C3")
def test_damaged_file_of_a_finished_run_names_both_hashes(student: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(student, run)
    before = sha256_of(run / "model.safetensors")
    content = bytearray((run / "model.safetensors").read_bytes())
    content[len(content) // 2] ^= 1
    (run / "model.safetensors").write_bytes(content)
    after = sha256_of(run / "model.safetensors")
    refused("evaluate run --data streets", "run/model.safetensors is damaged", before, after, code=5)


@pytest.mark.promise("C7", "C3")
@pytest.mark.parametrize("name", ["model.safetensors", "scores.json"])
def test_a_file_that_a_finished_run_has_lost_is_named(name: str, student: Path, tmp_path: Path) -> None:
    aside = (student / name).rename(tmp_path / name)
    try:
        refused(f"{DISTILL} --baseline steps --resume --out {student}", f"{name} is missing, and", code=5)
    finally:
        aside.rename(student / name)


@pytest.mark.promise("C3")
def test_a_manifest_that_names_nothing_makes_no_run_finished(student: Path, tmp_path: Path) -> None:
    run = shutil.copytree(student, tmp_path / "run")
    (run / "manifest.json").write_text('{"schema": 1, "files": {}}')
    (run / "scores.json").write_text('{"distilled": {"miou": 0.99}}')
    refused(f"{DISTILL} --baseline steps --resume --out {run}", "is not listed in", code=5)
    refused(f"evaluate {run} --data streets", "model.safetensors is not listed in", code=5)


STRANGE: list[tuple[str, Any]] = [("miou", "abc"), ("parameters", "x"), ("network", 5), ("best_miou", {})]


@pytest.mark.promise("C3")
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("scores.json", '{"distilled": {"miou": 0.99}}', "holds no results"),
        ("scores.json", '{"distilled": 1}', "holds no results"),
        ("scores.json", "{}", "holds no results"),
        *(("scores.json", {key: value}, "holds no results") for key, value in STRANGE),
        ("scores.json", "[]", "a JSON object was expected"),
        ("gain.json", "{}", "holds no gain"),
        ("gain.json", '{"sentence": 5}', "holds no gain"),
    ],
)
def test_results_that_are_forged_with_their_digest_are_refused(
    name: str, content: str | dict[str, Any], said: str, student: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(student, tmp_path / "run")
    if isinstance(content, dict):
        scores = json.loads((run / name).read_text())
        content = json.dumps(scores | {"distilled": scores["distilled"] | content})
    (run / name).write_text(content)
    add_to_manifest(run, name)
    refused(f"{DISTILL} --baseline steps --resume --out {run}", f"{name} ", said, code=5)


def test_old_single_seed_run_is_shown_without_significance(student: Path, tmp_path: Path) -> None:
    run = shutil.copytree(student, tmp_path / "run")
    gain = json.loads((run / "gain.json").read_text())
    old = gain | {"images": 101, "low": 0.0171, "high": 0.0229, "holds": True, "sentence": "Gain +2.00: it holds."}
    (run / "gain.json").write_text(json.dumps(old))
    add_to_manifest(run, "gain.json")
    again = succeeds(f"{DISTILL} --baseline steps --resume --out {run}")
    assert "holds" not in again.out
    assert "the spread between seeds was not measured, so this is no verdict" in again.out


def test_export_ends_early_if_its_teacher_is_no_network(student: Path) -> None:
    network, info = load_model(student / "model.safetensors")
    teacher = info.network.model_copy(update={"network": "nonesuch-resnet18"})
    save_model(Path("model.safetensors"), network, info.model_copy(update={"teacher": teacher}))
    refused("export model.safetensors --data streets", "The teacher that model.safetensors names cannot be", code=5)
    assert not Path("model.onnx").exists()


def test_export_into_an_unwritable_folder_is_refused_early(student: Path) -> None:
    # where not even root makes files, on Linux and on macOS
    folder = next(path for path in ("/proc/self", "/System") if Path(path).is_dir())
    begun = time.monotonic()
    refused(f"export {student} --data streets --output {folder}/a.onnx", f"{folder} cannot be written")
    assert time.monotonic() - begun < 3


@pytest.mark.promise("C5")
def test_a_run_of_another_kind_is_not_taken_over(student: Path) -> None:
    before = contents(student)
    table = read_toml(student / "config.toml")
    line = f"train-teacher --preset {student / 'config.toml'} --data streets --resume --workers 0 --out {student}"
    refused(line, "holds a run of another kind: student, not teacher")
    assert (contents(student), table["preset"]) == (before, "skd")


@pytest.mark.promise("S1")
def test_a_pickle_with_code_in_it_is_never_run(tmp_path: Path, student: Path) -> None:
    evil = tmp_path / "evil.pt"
    evil.write_bytes(b"cos\nsystem\n(S'touch hacked'\ntR.")
    for line in (
        *("evaluate evil.pt --data streets", "export evil.pt --data streets", "infer evil.pt . --out labels"),
        f"train-teacher --teacher pspnet18 --data streets {SMALL} --backbone-weights evil.pt",
        f"distill --teacher evil.pt --student {NETWORK} --data streets {SMALL}",
        f"distill --teacher {student} --student {NETWORK} --data streets {SMALL} --init-weights evil.pt",
    ):
        refused(line, code=5)
    assert files(tmp_path) == {"evil.pt"}


def test_exported_graph_cannot_teach_features_or_be_exported(student: Path, tmp_path: Path) -> None:
    graph, model = student / "model.onnx", student / "model.safetensors"
    before = contents(student)
    for line, expected in (
        (
            f"distill --teacher {graph} --student {NETWORK} --data streets {SMALL} --set terms.pixel.weight=0",
            "feature compares feature maps",
        ),
        (f"export {graph} --data streets", "exported already"),
        (f"export {student}", "model.onnx exists"),
        (f"export {student} --output {model} --overwrite", "does not end in .onnx"),
        (f"export {student} --output gone/a.onnx", "The folder gone does not exist"),
        (f"evaluate {graph} --data streets --precision bf16", "an exported graph computes in fp32"),
    ):
        refused(line, expected)
    assert contents(student) == before


# A run's folder


@pytest.mark.promise("S8")
def test_a_folder_with_files_is_left_alone(student: Path, tmp_path: Path) -> None:
    before = contents(student)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("mine")
    for line, expected in (
        (f"{DISTILL} --out {student}", "is not empty"),
        (f"{DISTILL} --out mine", "is not empty"),
        (f"{DISTILL} --out mine --overwrite", "no run that --overwrite could replace"),
        (f"train-teacher --data streets {SMALL} --out {student / 'README.md'}", "is a file, not a folder"),
        (f"quickstart --out {student}", "is not empty"),
    ):
        refused(line, expected)
    assert contents(student) == before
    assert files(tmp_path) == {"mine/README.md"}


@pytest.mark.promise("C7")
def test_resume_of_a_finished_run_touches_nothing(workshop: Workshop, student: Path) -> None:
    before = contents(student)
    again = succeeds(f"{DISTILL} --baseline steps --json --resume --out {student}")
    assert "Already finished" in again.err
    assert json.loads(again.out) == workshop.distilled
    assert contents(student) == before


@pytest.mark.promise("C5")
def test_resuming_with_other_settings_shows_old_and_new(student: Path) -> None:
    before, rate = contents(student), load_preset(student / "config.toml").optim.lr
    line = f"{DISTILL} --set optim.lr=0.5 --seed 3 --resume --out {student}"
    refused(line, f"optim.lr: {rate} -> 0.5", "seed: 0 -> 3")
    assert contents(student) == before


@pytest.mark.promise("C5", "T4")
def test_resuming_with_another_teacher_is_refused(student: Path) -> None:
    line = DISTILL.replace("--teacher pspnet18", f"--teacher {student} --set teacher.network=pspnet18")
    refused(f"{line} --resume --out {student}", "The teacher has changed")


# Nonsense


WORDS = st.sampled_from(
    [
        *("", "-1", "0", "nan", "1e999", "é💥", "x" * 300, ".", "gone/at/all"),
        *("[1,", "{}", "=", "a=b", "--", "-", "camvid:."),
    ]
)
LINES = (
    "quickstart --out . --steps {} --device {}",
    f"train-teacher --data streets --set data.crop=[32,48] --set {{}} --teacher {NETWORK} --print-config",
    "train-teacher --preset {} --teacher {} --data {} --dry-run --steps 1 --workers 0",
    f"distill --teacher {{}} --student {{}} --data camvid:gone {SMALL}",
    f"distill --teacher {NETWORK} --student {NETWORK} --data camvid:gone --out {{}} --init-weights {{}} --seed {{}}",
    "evaluate {} --data {} --split {} --device {} --precision {}",
    "export {} --output {} --size {} --min-fps {} --data {}",
    "infer {} {} --out {} --device {}",
    "presets show {}",
    "presets copy {} {}",
    "presets {}",
    "networks --size {} --classes {}",
    "data check {}",
    "{} {}",
)


@given(line=st.sampled_from(LINES), data=st.data())
@settings(
    *(), max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_nonsense_arguments_are_refused_with_a_message(line: str, data: st.DataObject, student: Path) -> None:
    words = [data.draw(WORDS) if word == "{}" else word for word in shlex.split(line)]
    if data.draw(st.booleans()):
        words = [str(student) if word == "gone/at/all" else word for word in words]
    before = _times(student)
    result = segdistill("", *words)
    assert result.code in range(6), words
    assert result.out + result.err, words
    assert "Traceback" not in result.err, words
    assert "Internal error" not in result.err, words
    assert not list(Path.cwd().rglob("*.tmp"))
    assert _times(student) == before


def _times(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}
