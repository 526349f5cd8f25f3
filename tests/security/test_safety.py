"""What others may have written is never run, and nothing is written where it was not asked for."""

import ast
import hashlib
import io
import json
import os
import pickle
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import safetensors.torch
import torch
from onnx import TensorProto
from PIL import Image
from torch import nn

import segdistill as package
from helpers.commands import DISTILL, NETWORK, SMALL, contents, files, halve, process, refused, segdistill, succeeds
from helpers.fuzz import append_digest, graph
from helpers.models import model_of
from segdistill.checkpoints.model_file import ModelInfo, save_model
from segdistill.checkpoints.tensors import weights_digest
from segdistill.checkpoints.training_state import STATE_MAGIC
from segdistill.cli.console import printable
from segdistill.commands import _pretraining
from segdistill.config.schema import NetworkConfig, OptimConfig
from segdistill.data import load_data
from segdistill.networks import build_network
from segdistill.storage.folder_checks import check_folder
from segdistill.storage.run_folder import RunFolder
from segdistill.types import Stage

pytestmark = pytest.mark.usefixtures("elsewhere")
TEACH = f"distill --student {NETWORK} --data streets {SMALL} --out run"
TRAIN = f"train-teacher --teacher {NETWORK} --data streets {SMALL} --out run"
CAMVID = f"train-teacher --teacher {NETWORK} --data camvid:data {SMALL}"


# Code in files


class Payload:
    """Leaves a folder behind where it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("hacked",)


def archived() -> bytes:
    content = io.BytesIO()
    torch.save({"state_dict": {"a": torch.zeros(2)}, "args": Payload()}, content)
    return content.getvalue()


@pytest.mark.promise("S1", "S4")
def test_a_pickle_with_code_in_it_is_run_by_no_command(own_camvid: Path, camvid: Path) -> None:
    model, data = model_of(f"camvid:{camvid}"), f"--data camvid:{camvid}"
    teach = f"distill --student {NETWORK} {data} {SMALL} --out run"
    train = f"train-teacher --teacher {NETWORK} {data} {SMALL} --out run"
    Path("gallery").mkdir()
    for content in (pickle.dumps(Payload()), archived()):
        for name in ("evil.pt", "evil.safetensors", "evil.onnx", "evil.toml", "gallery/evil.png"):
            Path(name).write_bytes(content)
        (own_camvid / "train/0.png").write_bytes(content)
        for code, line in (
            *((5, f"evaluate evil.{ending} {data}") for ending in ("pt", "safetensors", "onnx")),
            *((5, f"export evil.{ending} {data} --output a.onnx") for ending in ("pt", "safetensors")),
            *((5, f"infer evil.{ending} gallery --out labels") for ending in ("pt", "safetensors", "onnx")),
            *((5, f"{teach} --teacher ./evil.{ending}") for ending in ("pt", "safetensors", "onnx")),
            (5, f"{teach} --teacher tv:fcn_resnet50:evil.pt"),
            (5, f"{teach} --teacher {model} --init-weights evil.pt"),
            *((5, f"{train} --backbone-weights evil.{ending}") for ending in ("pt", "safetensors")),
            *((5, f"import-weights evil.{end} --network espnet --out run") for end in ("pt", "safetensors")),
            (2, f"{train} --preset evil.toml"),
            (2, f"{teach} --teacher {model} --class-map evil.toml"),
            (2, f"{teach} --teacher {model} --unlabeled evil.pt"),
            *((2, f"{command} evil.toml") for command in ("data check", f"evaluate {model} --data")),
            (3, "data check camvid:data"),
            (3, f"{CAMVID} --out run"),
        ):
            refused(line, code=code)
        result = segdistill(f"infer {model} gallery --out labels")
        assert (result.code, files(Path("labels"))) == (3, set())
    assert not Path("hacked").exists()
    assert not Path("run").exists()
    pickle.loads(pickle.dumps(Payload()))  # the same pickle does what it is accused of
    assert Path("hacked").exists()


@pytest.fixture(scope="module")
def trained(camvid: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that can be continued, on `camvid`."""
    run = tmp_path_factory.mktemp("trained") / "run"
    succeeds(f"train-teacher --teacher {NETWORK} --data camvid:{camvid} {SMALL} --out {run}")
    for name in ("manifest.json", "model.safetensors"):
        (run / name).unlink()
    return run


@pytest.mark.promise("S1")
def test_a_run_that_is_continued_runs_no_code_from_its_folder(trained: Path, camvid: Path) -> None:
    line, evil = f"train-teacher --teacher {NETWORK} --data camvid:{camvid} {SMALL} --out run", archived()
    shutil.copytree(trained, "run")
    Path("run/checkpoints/last").write_bytes(STATE_MAGIC + hashlib.sha256(evil).hexdigest().encode() + b"\n" + evil)
    refused(f"{line} --resume", "holds something else than a training's state", code=5)
    for name, expected in (("data.json", "cannot be read"), ("environment.json", "cannot be read")):
        whole = Path("run", name).read_bytes()
        Path("run", name).write_bytes(evil)
        refused(f"{line} --resume", expected, code=5)
        Path("run", name).write_bytes(whole)
    Path("run/config.toml").write_bytes(b"a." * 30_000 + b"a = 1")
    refused(f"{line} --resume", "cannot be continued", code=5)
    assert not Path("hacked").exists()


@pytest.mark.promise("S3", "S5")
def test_damaged_folders_under_runs_are_no_teachers() -> None:
    evil = {
        "config.toml": (b"a." * 30_000 + b"a = 1", b"a = " + b"[" * 50_000, b"\xff", b"preset = 1", b""),
        "environment.json": (b"[" * 100_000, b"[]", b"{}", b"\xff"),
        "data.json": (b"[" * 100_000, b"[]", b"1"),
    }
    good = {
        "config.toml": succeeds(f"{DISTILL} --print-config").out.encode(),
        "environment.json": b'{"kind": "teacher"}',
    }
    for number, (name, content) in enumerate((name, own) for name, several in evil.items() for own in several):
        folder = Path("runs", str(number))
        folder.mkdir(parents=True)
        for file, other in (good | {name: content}).items():
            (folder / file).write_bytes(other)
    for number, name in enumerate(good, start=100):
        for kind, make in (("pipe", os.mkfifo), ("zeros", lambda path: path.symlink_to("/dev/zero"))):
            folder = Path("runs", f"{number}-{kind}")
            folder.mkdir()
            for file, other in good.items():
                make(folder / file) if file == name else (folder / file).write_bytes(other)
    assert "no finished pspnet18" in succeeds(f"{DISTILL} --dry-run").err


@pytest.mark.promise("S3")
def test_forged_pretraining_file_is_not_used() -> None:
    tensors = {"a": torch.zeros(2)}

    def written(header: str) -> bytes:
        return safetensors.torch.save(tensors, {"segdistill-stage": header})

    class Model(nn.Module):
        def __init__(self, numbers: int) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.zeros(numbers))

    stage = Stage("autoencoder", Model(2), cast(Any, None), OptimConfig(lr=1, steps=1))
    named = {"key": "k", "sha256": weights_digest(tensors), "seconds": "1"}
    right = json.dumps(named)
    strange = ({"seconds": "abc"}, {"seconds": [1]}, {"seconds": "nan"}, {"seconds": "-1"}, {"key": 1}, {"sha256": 2})
    for content in (
        *(
            written(header)
            for header in (
                *("[]", "1", "[" * 100_000, '{"key": "k"}', right.replace('"sha256": "', '"sha256": "0')),
                *(json.dumps(named | part) for part in strange),
            )
        ),
        *(b"", b"\xff" * 8, b"\xff\xff\xff\0\0\0\0\0" + b"{" * 100, written(right)[:-1]),
    ):
        Path("autoencoder.safetensors").write_bytes(content)
        assert _pretraining.find(stage, "k", [Path.cwd(), Path("gone")]) is None
    Path("autoencoder.safetensors").write_bytes(written(right))
    assert _pretraining.find(stage, "k", [Path.cwd()]) == Path.cwd() / "autoencoder.safetensors"
    assert _pretraining.find(stage, "other", [Path.cwd()]) is None
    assert _pretraining.find(replace(stage, model=Model(3)), "k", [Path.cwd()]) is None
    tensors["a"][0] = torch.nan
    Path("autoencoder.safetensors").write_bytes(written(json.dumps(named | {"sha256": weights_digest(tensors)})))
    assert _pretraining.find(stage, "k", [Path.cwd()]) is None


FORBIDDEN = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
CODE_READERS = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml", "subprocess"}


@pytest.mark.promise("S1", "S4")
def test_package_has_no_call_that_runs_what_it_reads() -> None:
    for path in Path(package.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [name.name for name in node.names] + [getattr(node, "module", None) or ""]
                assert not CODE_READERS & {name.partition(".")[0] for name in names}, path
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            options = {word.arg: ast.unparse(word.value) for word in node.keywords}
            assert called not in FORBIDDEN, path
            assert options.get("shell") is None, path
            assert options.get("allow_pickle") is None, path
            assert options.get("weights_only", "True") == "True", path
            assert options.get("trust_remote_code", "False") == "False", path
            if called == "torch.load":
                assert options["weights_only"] == "True", path


@pytest.mark.promise("S4")
def test_text_in_data_files_and_presets_is_never_executed() -> None:
    yard = 'name = "yard"\nclasses = ["{image.__class__}", "$(touch hacked)"]\n'
    splits = '[train]\nimages = "$(touch hacked)"\nlabels = "{image_path.__class__}"\n'
    Path("data.toml").write_text(yard + splits)
    refused("data check data.toml", "$(touch hacked) cannot be read", code=3)
    for more, unknown in (
        ('download = "__import__(\\"os\\").system(\\"touch hacked\\")"\n', "download: unknown key"),
        ('script = "touch hacked"\n', "script: unknown key"),
    ):
        Path("data.toml").write_text(yard + more + splits)
        refused("data check data.toml", unknown)
    for override in (
        *(
            "teacher.network=py:evil:build",
            "student.network=py:evil:build",
            "data.name='py:evil'",
            "hook='touch hacked'",
        ),
        "terms.pixel.term='__import__'",
    ):
        Path("evil.py").write_text("import pathlib\npathlib.Path('hacked').touch()\n")
        refused(f"train-teacher --preset skd {SMALL} --set {shlex.quote(override)} --out run")
    assert files(Path.cwd()) == {"data.toml", "evil.py"}


# Places that were not asked for


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A folder of somebody else's, which must stay as it is."""
    folder = tmp_path / "victim"
    folder.mkdir()
    (folder / "file").write_text("mine")
    before = contents(folder)
    yield folder
    assert contents(folder) == before


@pytest.mark.promise("S6")
def test_names_that_lead_out_of_a_folder_write_nothing_outside(victim: Path, own_camvid: Path, tmp_path: Path) -> None:
    model = model_of("streets")
    image = Image.fromarray(np.zeros((32, 48, 3), np.uint8))
    (tmp_path / "in/sub").mkdir(parents=True)
    image.save(tmp_path / "in/a.png")
    before = files(tmp_path)
    refused(f"infer {model} 'in/*/../../in/*.png' --out labels", "outside")
    for name in ("../../victim/x", "/etc/x", "..", ".hidden", "a/../../victim", "a\\b", "x" * 65, "a\nb", ""):
        refused(f"train-teacher --data streets --set preset={json.dumps(name)!r} {SMALL}", "preset: ")
    Path("term.toml").write_text(succeeds("presets show skd").out + '[terms."../x"]\nterm = "pixel"\nweight = 1\n')
    refused(f"{TRAIN} --preset term.toml", "must begin with")
    assert files(tmp_path) == before | {"term.toml"}
    toml = [f'images = ["{own_camvid}/train/0.png", "data/train/1.png"]', 'labels = ["data/trainannot/0.png", "{}"]']
    labels = toml[1].format("victim/../data/trainannot/1.png")
    classes = ", ".join(f'"{number}"' for number in range(12))
    Path("own.toml").write_text(
        f'name = "own"\nclasses = [{classes}]\n[train]\n{toml[0]}\n{labels}\n[val]\n{toml[0]}\n{labels}\n'
    )
    before = files(tmp_path)
    succeeds(f"train-teacher --teacher {NETWORK} --data own.toml {SMALL} --out run")
    assert {name for name in files(tmp_path) - before if not name.startswith("run/")} == set()


@pytest.mark.promise("S6")
def test_file_list_cannot_name_files_outside_the_data(victim: Path) -> None:
    root = Path("voc")
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for split, names in (("train", f"../../victim/file\n/etc/passwd\n{victim}/file\n"), ("val", "0\n")):
        (root / f"ImageSets/Segmentation/{split}.txt").write_text(names)
    refused(f"data check voc:{root}", "without a partner", "file", "passwd", code=3)


@pytest.mark.promise("S7")
def test_links_in_the_way_are_replaced_and_never_followed(victim: Path, camvid: Path) -> None:
    there = victim / "file"
    for name in ("mine.toml", "preview.png"):
        Path(name).symlink_to(there)
    succeeds("presets copy skd mine.toml --overwrite")
    succeeds(f"data check camvid:{camvid} --preview preview.png --overwrite")
    assert not Path("mine.toml").is_symlink()
    assert not Path("preview.png").is_symlink()
    for part in ("teacher", "student", "images", "labels"):
        Path("quick").mkdir(exist_ok=True)
        (Path("quick") / part).symlink_to(victim)
        refused("quickstart --out quick --overwrite", f"quick/{part} is a link")
        (Path("quick") / part).unlink()


@pytest.mark.promise("S7")
def test_a_run_does_not_go_on_into_folders_that_are_links(victim: Path, camvid: Path) -> None:
    line = f"{CAMVID.replace('camvid:data', f'camvid:{camvid}')} --out run"
    succeeds(line)
    for own in ("manifest.json", "model.safetensors"):
        Path("run", own).unlink()
    shutil.move("run/checkpoints", "kept")
    before = contents(victim)
    Path("run/checkpoints").symlink_to(victim)
    refused(f"{line} --resume", "run/checkpoints is a link")
    assert contents(victim) == before


@pytest.mark.promise("S7")
def test_a_log_that_is_a_link_is_not_written_to(victim: Path, tmp_path: Path) -> None:
    (tmp_path / "train.log").symlink_to(victim / "file")
    folder = RunFolder(tmp_path)
    with pytest.raises(package.errors.UsageError, match=r"train\.log cannot be written"):
        folder.append("train.log", "line")
    folder.close()


@pytest.mark.promise("S8")
def test_a_folder_without_a_run_is_never_overwritten(victim: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(victim))
    for place in ("victim", "/", "~", "."):
        line = f"{TRAIN} --overwrite".replace("--out run", f"--out {os.path.expanduser(place)}")
        refused(line, "holds files, but no run")
        refused(f"import-weights gone.pth --network espnet --overwrite --out {place}")


# ONNX files


@pytest.mark.promise("S9")
def test_a_graph_that_names_another_file_does_not_touch_it(tmp_path: Path) -> None:
    os.mkfifo("canary")
    Image.fromarray(np.zeros((32, 48, 3), np.uint8)).save("a.png")
    canary = os.open("canary", os.O_RDWR | os.O_NONBLOCK)  # who opened it to read would get this byte, or wait for ever
    os.write(canary, b"!")
    for location in ("canary", "../../etc/passwd", "/etc/passwd", "file:///etc/passwd"):
        model = graph()
        weight = model.graph.initializer[0]
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=location)
        Path("evil.onnx").write_bytes(append_digest(model.SerializeToString()))
        for line in (
            "infer evil.onnx a.png --out labels",
            "evaluate evil.onnx --data streets",
            f"{TEACH} --teacher ./evil.onnx",
        ):
            refused(line, "external tensor data", code=5)
    assert os.read(canary, 2) == b"!"
    os.close(canary)
    assert files(tmp_path) == {"a.png", "evil.onnx"}


# What is shown


def test_ascii_terminal_ends_no_command() -> None:
    Path("wörld").mkdir()
    Image.new("RGB", (48, 32)).save("wörld/a.png")
    words = ("-m", "segdistill", "infer", model_of("streets"), "wörld", "--out", "街")
    result = process(sys.executable, *words, PYTHONIOENCODING="ascii")
    assert result.code == 0, result.err
    assert "1 label map in \\u8857" in result.out
    assert files(Path("街")) == {"a.png"}


@pytest.mark.promise("S13")
def test_names_cannot_steer_a_terminal() -> None:
    name = "\x1b]0;title\x07\x1b[2Jclear\r\u202eback\udcff"
    shown = printable(name)
    assert shown.isprintable()
    assert shown.isascii()
    assert ast.literal_eval(f"'{shown}'") == name
    assert printable("wörld, 街 [bold]\nnext line") == "wörld, 街 [bold]\nnext line"
    Path("gallery").mkdir()
    Path("gallery/\x1b[2J.png").write_bytes(b"no image")
    result = segdistill(f"infer {model_of('streets')} gallery --out labels")
    assert result.code == 3
    assert "\x1b[2J.png" not in result.err
    assert "\\x1b[2J.png" in result.err


@pytest.mark.promise("D11")
def test_names_that_are_not_utf8_work_like_others(own_camvid: Path) -> None:
    odd = os.fsdecode(b"\xff\xfe odd.png")
    for split in ("train", "trainannot"):
        (own_camvid / split / "0.png").rename(own_camvid / split / odd)
    for split in ("val", "valannot"):  # so that the name is in a warning
        (own_camvid / split / "twin.png").write_bytes((own_camvid / split.replace("val", "train") / odd).read_bytes())
    told = succeeds("data check camvid:data")
    assert "\\udcff\\udcfe odd.png" in told.err
    succeeds(f"{CAMVID} --out run")
    succeeds(f"infer {model_of('camvid:data')} data/train --out labels --json")
    assert (Path("labels") / odd).is_file()
    assert len(files(Path("labels"))) == 4


@pytest.mark.promise("D11")
def test_path_that_is_not_utf8_is_refused_before_a_run(tmp_path: Path) -> None:
    odd, model = os.fsdecode(b"\xff"), model_of("streets")
    Path(odd).mkdir()
    Image.new("RGB", (48, 32)).save(Path(odd, "a.png"))
    for name in ("model.safetensors", "model.onnx"):
        shutil.copy(model, Path(odd, name))
    before = contents(tmp_path)
    for line in (
        f"train-teacher --teacher {NETWORK} --data streets {SMALL} --out new{odd}",
        f"distill --teacher {model} --student {NETWORK} --data streets {SMALL} --out {odd}/new",
        f"distill --teacher {model} --student {NETWORK} --data streets {SMALL} --dry-run --out {odd}/new",
        f"quickstart --out new{odd}",
        f"import-weights {model} --network espnet --out new{odd}",
        f"{TEACH} --teacher {model} --unlabeled {odd}",
        f"{TEACH} --teacher {model} --init-weights {odd}/model.safetensors",
        f"{TEACH} --teacher {odd}/model.safetensors",
        f"{TEACH} --teacher onnx:{odd}/model.onnx --preset at",
        f"evaluate {odd} --data streets",
    ):
        refused(line, "is not UTF-8")
    with pytest.raises(package.errors.UsageError, match="is not UTF-8"):
        check_folder(Path(odd), resume=False, overwrite=False)
    assert contents(tmp_path) == before


# Data and models that do not belong together


@pytest.mark.promise("D1")
def test_damaged_image_stops_an_evaluation(own_camvid: Path) -> None:
    model = model_of("camvid:data")
    halve(own_camvid / "val/1.png")
    refused(f"evaluate {model} --data camvid:data --workers 0", "val/1.png", code=3)


@pytest.mark.promise("D10")
def test_evaluation_says_what_tiling_changes(own_camvid: Path) -> None:
    free, sized = model_of("camvid:data", "free.safetensors", None), model_of("camvid:data")
    result = json.loads(succeeds(f"evaluate {free} --data camvid:data --tiled --json --workers 0").out)
    assert result["tiled"] == {"label_agreement": 1.0, "miou": result["miou"]}, "one tile is enough for such images"
    assert "mIoU tile by tile" in succeeds(f"evaluate {free} --data camvid:data --tiled --workers 0").out
    refused(f"evaluate {sized} --data camvid:data --tiled", "brings all images to 32x48, so none has tiles")


@pytest.mark.promise("D12")
def test_preprocessing_comes_from_the_model_file(own_camvid: Path) -> None:
    model = model_of("camvid:data")
    refused(f"evaluate {model} --data camvid:data --set data.mean=0", "takes the keys of teacher.input.* alone")
    scored = succeeds(f"evaluate {model} --data camvid:data --workers 0 --json")
    asked = succeeds(f"evaluate {model} --data camvid:data --workers 0 --json --set teacher.input.mean=[0,0,0]")
    assert "teacher.input changes nothing" in asked.err
    assert json.loads(asked.out)["iou"] == json.loads(scored.out)["iou"]
    content = model.read_bytes()
    model.write_bytes(content.replace(b'\\"size\\":[32,48]', b'\\"size\\":[48,32]'))
    assert model.read_bytes() != content
    refused(f"evaluate {model} --data camvid:data", "its header is not as it was written", code=5)


@pytest.mark.promise("T1")
def test_teacher_of_other_classes_is_refused_before_a_folder(own_camvid: Path) -> None:
    streets, three = load_data("streets").classes, ("sky", "road", "tree")
    torch.manual_seed(0)
    for classes in (three, three[:1], (*streets, "more")):
        info = ModelInfo(
            network=NetworkConfig(network=NETWORK),
            classes=classes,
            palette=((0, 0, 0),) * len(classes),
            role="teacher",
            size=None,
            data="other",
            preset="skd",
            steps=1,
        )
        save_model(Path("teacher.safetensors"), build_network(info.network, len(classes)), info)
        refused(
            f"{TEACH} --teacher teacher.safetensors",
            f"teacher ({len(classes)}): {', '.join(classes)}",
            f"data ({len(streets)}): {', '.join(streets)}",
        )
    assert not Path("run").exists()


@pytest.mark.promise("S2", "C4")
def test_all_that_a_checkpoint_holds_is_tensors_and_plain_values(trained: Path) -> None:
    content = (trained / "checkpoints/last").read_bytes().partition(b"\n")[2]
    state = torch.load(io.BytesIO(content), weights_only=True)
    kinds = set[type]()

    def walk(value: object) -> None:
        kinds.add(type(value))
        if isinstance(value, dict):
            for key, inner in value.items():
                kinds.add(type(key))
                walk(inner)
        elif isinstance(value, list | tuple):
            for inner in value:
                walk(inner)

    walk(state)
    assert kinds <= {dict, list, tuple, str, int, float, bool, type(None), torch.Tensor}
