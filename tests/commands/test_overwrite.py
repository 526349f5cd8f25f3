"""What is read is never written over, and a run is replaced only by one that has passed its checks."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image

from helpers.commands import NETWORK, SMALL, contents, refused, segdistill, succeeds, write_camvid
from helpers.tiny import CPU
from helpers.tiny import source as tiny_source
from helpers.trainings import configuration
from segdistill.checkpoints.model_file import identity, load_model, read_info, save_model
from segdistill.checkpoints.training_state import save_state
from segdistill.commands import _first_step
from segdistill.commands._context import Options, RunContext
from segdistill.commands._run_record import resume_or_restart
from segdistill.errors import Stopped
from segdistill.runtime.reporter import NullReporter
from segdistill.storage.run_folder import open_run
from segdistill.teachers.external import load_external, parse_external
from segdistill.training.jobs import Runtime

pytestmark = pytest.mark.usefixtures("elsewhere")
TEACH = f"train-teacher --teacher resnet18-half {SMALL} --overwrite"
STUDENT = f"distill --preset tsl --student resnet18-half {SMALL}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with a data set, a teacher's run on it, and a run that a student was distilled in."""
    folder = tmp_path_factory.mktemp("place")
    write_camvid(folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        succeeds(f"train-teacher --preset tsl --teacher resnet18-half --data camvid:data {SMALL} --out teacher")
        succeeds(f"{STUDENT} --teacher teacher --data camvid:data --seeds 2 --out student")
        (folder / "photos").mkdir()
        Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save("photos/picture.png")
        Path("own.toml").write_text(
            'name = "own"\nclasses = ["a", "b"]\n[train]\nimages = ["one/a.png"]\nlabels = ["student/picture.png"]\n'
            '[val]\nimages = ["one/a.png"]\nlabels = ["student/picture.png"]\n'
        )
        Path("one").mkdir()
        shutil.copy("photos/picture.png", "one/a.png")
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["b", 3, "h", "w"])
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", 3, "h", "w"])
        graph = helper.make_graph([helper.make_node("Neg", ["image"], ["logits"])], "g", [image], [logits])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "neg.onnx")
    return folder


@pytest.fixture
def here(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let a test work in a copy of that folder."""
    shutil.copytree(place, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


DISTIL = f"{STUDENT} --data camvid:data --teacher teacher --overwrite"
OVER = f"{STUDENT} --data camvid:data --overwrite"
OVERLAPS = (
    (f"{DISTIL} --out teacher", "teacher", "--teacher teacher"),
    (f"{DISTIL} --out data/../teacher --dry-run", "data/../teacher", "--teacher teacher"),
    (f"{DISTIL} --out to-teacher", "to-teacher", "--teacher teacher"),
    (f"{DISTIL} --out teacher/baseline", "teacher/baseline", "--teacher teacher"),
    (f"{OVER} --teacher ./to-teacher --out teacher", "teacher", "--teacher to-teacher"),
    (f"{OVER} --teacher to-model.safetensors --out teacher", "teacher", "--teacher to-model.safetensors"),
    (f"{OVER} --teacher student/seed-1 --out student", "student", "--teacher student/seed-1"),
    (f"{OVER} --teacher student --out student/seed-1", "student/seed-1", "--teacher student"),
    (f"{OVER} --teacher onnx:student/model.onnx --out student", "student", "--teacher student/model.onnx"),
    (f"{DISTIL} --init-weights student/checkpoints/best --out student", "student", "--init-weights"),
    (f"{DISTIL} --backbone-weights student/model.safetensors --out student", "student", "--backbone-weights"),
    (f"{DISTIL} --preset student/config.toml --out student", "student", "--preset student/config.toml"),
    (f"{DISTIL} --unlabeled photos --out photos/run", "photos/run", "--unlabeled photos"),
    (f"{DISTIL} --unlabeled student/seed-1 --out student", "student", "--unlabeled student/seed-1"),
    (f"{OVER} --teacher resnet18-half --unlabeled runs --out new", f"runs/train-teacher-tsl-{NETWORK}", "--unlabeled"),
    (f"{DISTIL} --out data/train/run", "data/train/run", "--data data/train"),
    (f"{TEACH} --data own.toml --out student", "student", "--data student/picture.png"),
    (f"{TEACH} --data camvid:data --preset student/config.toml --out student", "student", "--preset"),
    (f"{TEACH} --data camvid:data --backbone-weights student/checkpoints/best --out student", "student", "--backbone"),
    (f"import-weights student/gain.json --network {NETWORK} --out student --overwrite", "student", "FILE"),
    ("infer teacher photos --out teacher --overwrite", "teacher/picture.png", "MODEL teacher"),
    ("export teacher --data camvid:data --output data/val/m.onnx", "data/val/m.onnx", "--data data/val"),
    ("export m.onnx.rejected --data camvid:data --output m.onnx", "m.onnx.rejected", "MODEL m.onnx.rejected"),
    ("data check camvid:data --preview data/train/0.png --overwrite", "data/train/0.png", "--data data/train/0.png"),
    ("data check camvid:data --preview data/valannot/new.png", "data/valannot/new.png", "--data data/valannot"),
)


@pytest.mark.promise("S8")
@pytest.mark.parametrize(("line", "output", "read"), OVERLAPS)
def test_input_is_never_an_output(line: str, output: str, read: str, here: Path) -> None:
    Path("to-teacher").symlink_to("teacher")
    Path("to-model.safetensors").symlink_to("teacher/model.safetensors")
    shutil.copytree("photos", "runs")
    for source, copy in (
        *(("neg.onnx", "student/model.onnx"), ("photos/picture.png", "student/seed-1/picture.png")),
        *(("teacher/model.safetensors", "m.onnx.rejected"), ("student/checkpoints/best", "student/gain.json")),
    ):
        shutil.copy(source, copy)
    before = contents(here)
    refused(line, f"Output {output} overlaps with an input", read)
    assert contents(here) == before


@pytest.mark.promise("S8")
def test_teacher_found_by_name_is_not_replaced_by_its_student(here: Path) -> None:
    shutil.move("teacher", "runs/teacher")
    before = contents(here)
    refused(f"{OVER} --teacher resnet18-half --out runs/teacher", "runs/teacher overlaps with an input, --teacher")
    assert contents(here) == before


@pytest.mark.promise("S8")
def test_folders_that_only_lie_in_one_another_are_no_overlap(here: Path) -> None:
    for line in (
        f"{STUDENT} --data camvid:data --teacher teacher --out teacher/student --dry-run",
        f"{STUDENT} --data camvid:data --teacher teacher --out data/runs/student --dry-run",
        f"{OVER} --teacher teacher --preset student/mine.toml --out student --dry-run".replace("--preset tsl", ""),
    ):
        shutil.copy("student/config.toml", "student/mine.toml")
        succeeds(line)
    succeeds("data check camvid:data --preview preview.png")


# The old run stays until the new one has passed its checks


@pytest.mark.promise("S8")
@pytest.mark.parametrize(
    "words",
    [
        "--preset tsl --set terms.probability.weight=1e30 --baseline steps",
        "--preset ka --set terms.affinity.weight=1e30",  # its auto-encoder is trained before that check
    ],
)
def test_run_refused_at_its_first_step_replaces_nothing(words: str, here: Path) -> None:
    before = contents(here / "student")
    line = f"distill {words} --student resnet18-half {SMALL} --data camvid:data"
    refused(f"{line} --teacher teacher --out student --overwrite", "is not finite", code=4)
    assert contents(here / "student") == before


@pytest.mark.promise("S8")
def test_a_run_that_replaces_another_leaves_nothing_of_it(here: Path) -> None:
    Path("student/notes.txt").write_text("mine")
    succeeds(f"{OVER} --teacher teacher --baseline steps --seed 3 --out student")
    assert json.loads(Path("student/environment.json").read_text())["baseline"] == "steps"
    left = {path.name for path in Path("student/seed-1").iterdir()}
    assert left <= {".lock", "checkpoints"}
    assert Path("student/notes.txt").read_text() == "mine"
    assert "baseline" in {path.name for path in Path("student").iterdir()}
    assert "/.next" not in Path("student/train.log").read_text()
    for finished in (Path("student"), Path("student/baseline")):
        assert (finished / "manifest.json").exists()


@pytest.mark.promise("S8", "C6")
def test_early_stopped_replacement_leaves_the_old_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, line = contents(here / "student"), f"{STUDENT} --data camvid:data --teacher teacher --seed 3 --out student"

    def killed(*words: Any) -> None:
        """Leave what SIGKILL would leave."""
        shutil.copytree("student/.next", "kept")
        raise Stopped("Stopped.", "", 9)

    with monkeypatch.context() as patch:
        patch.setattr(_first_step, "show_first_step", killed)
        assert segdistill(f"{line} --overwrite").code == 137
    shutil.move("kept", "student/.next")
    refused(f"{line} --resume", "had not reached its first checkpoint", "is untouched", "seed: 0 -> 3")
    assert contents(here / "student") == before
    succeeds(f"{line} --overwrite")


@pytest.mark.promise("S8", "C6")
def test_refused_command_keeps_a_new_run_with_a_checkpoint(here: Path) -> None:
    shutil.copytree("student", "kept")  # as one has that was killed behind what is trained before the student
    shutil.move("kept", "student/.next")
    before = contents(here)
    refused(f"{STUDENT} --data camvid:nowhere --teacher teacher --out student --overwrite", "nowhere")
    refused(f"{OVER} --teacher teacher --init-weights student/checkpoints/best --out student", "overlaps")
    assert contents(here) == before


@pytest.mark.promise("S8", "C6")
def test_new_run_is_resumed_or_restarted_by_its_progress(here: Path) -> None:
    runtime = Runtime(torch.device("cpu"), CPU, 0, NullReporter(), 1)
    context = RunContext(configuration(), Options(), tiny_source(2, 2), runtime, Path("student"), "continue", "restart")
    with open_run(Path("student"), resume=False, overwrite=True) as folder:
        assert resume_or_restart(folder, context) == "restart"
        save_state(folder / "checkpoints/last", {"training": 1})
        assert resume_or_restart(folder, context) == "continue"
        folder.promote()
        assert resume_or_restart(folder, context) == "continue"


# Which teacher, and which checks


@pytest.mark.promise("T4", "C5")
def test_run_of_an_earlier_version_resumes_with_its_checks(here: Path) -> None:
    line = f"{STUDENT} --data camvid:data --teacher teacher --out run"
    succeeds(line)
    whole = Path("run/model.safetensors").read_bytes()
    for name in ("manifest.json", "model.safetensors"):
        Path("run", name).unlink()
    table = json.loads(Path("run/teacher.json").read_text())
    assert table["identity"] == identity(read_info(Path("teacher/model.safetensors")))
    old = {key: table[key] for key in ("network", "sha256", "metrics")}
    Path("run/teacher.json").write_text(json.dumps(old))
    reporter = succeeds(f"{line} --resume").err
    assert "check: teacher" in reporter
    assert "check: the first" in reporter
    assert Path("run/model.safetensors").read_bytes() == whole, "a check changes nothing"
    assert json.loads(Path("run/teacher.json").read_text()) == table
    Path("run/manifest.json").unlink()
    Path("run/model.safetensors").unlink()
    assert "check:" not in succeeds(f"{line} --resume").err, "what was passed is not asked again"


@pytest.mark.promise("T4", "C5")
@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("classes", lambda info: {"classes": (*info.classes[1::-1], *info.classes[2:])}),
        ("size", lambda info: {"size": (64, 96)}),
        ("input", lambda info: {"network": _seen_as_bgr(info.network)}),
    ],
)
def test_teacher_identity_has_more_than_its_weights(
    part: str, change: Callable[[Any], dict[str, Any]], here: Path
) -> None:
    line = f"{STUDENT} --data camvid:data --teacher own.safetensors --accept-teacher --out run"
    shutil.copy("teacher/model.safetensors", "own.safetensors")
    succeeds(line)
    Path("run/manifest.json").unlink()
    network, info = load_model(Path("own.safetensors"))
    changed = save_model(Path("own.safetensors"), network, info.model_copy(update=change(info)))
    assert changed.sha256 == info.sha256
    refused(f"{line} --resume", "The teacher has changed", f"{part}: ")


def _seen_as_bgr(network: Any) -> Any:
    return network.model_copy(update={"input": network.input.model_copy(update={"order": "bgr"})})


@pytest.mark.promise("T4")
def test_external_teacher_identity_has_output_and_code(tmp_path: Path) -> None:
    shape: list[str | int | None] = ["b", 3, "h", "w"]
    image, *ends = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("image", "one", "other"))
    nodes = [helper.make_node(kind, ["image"], [name]) for kind, name in (("Neg", "one"), ("Abs", "other"))]
    graph = helper.make_graph(nodes, "g", [image], ends)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "g.onnx")

    def of(text: str) -> str:
        found = parse_external(text)
        assert found is not None
        return load_external(found, None, torch.device("cpu"))[0].identity

    assert of("onnx:g.onnx:one") == of("onnx:g.onnx:one") != of("onnx:g.onnx:other")
    code = "import torch\nclass Own(torch.nn.Module):\n    def forward(self, x): return {}\n"
    built = []
    for number, made in enumerate(("x[:, :3] * 2 - 300", "x[:, :3] * 3 - 300")):
        Path(f"made_{number}.py").write_text(code.format(made))
        Path(f"own_teacher_{number}.py").write_text(f"from made_{number} import Own\ndef build(): return Own()\n")
        built.append(of(f"py:own_teacher_{number}:build"))
    assert built[0] != built[1]
