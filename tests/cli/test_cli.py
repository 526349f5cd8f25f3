"""The commands before anything is trained: help, exit codes, messages read aloud, and that nothing is written."""

import ast
import json
import os
import shlex
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image

from helpers.commands import (
    DISTILL,
    NETWORK,
    SMALL,
    Result,
    files,
    halve,
    process,
    read_back,
    refused,
    segdistill,
    succeeds,
)
from segdistill import __version__, cli
from segdistill.commands import doctor
from segdistill.config.presets import load_preset

pytestmark = pytest.mark.usefixtures("elsewhere")

TRAINING = {
    *("--preset", "--data", "--out", "--steps", "--set", "--pretrained", "--backbone-weights", "--device"),
    *("--precision", "--seed", "--workers", "--resume", "--overwrite", "--print-config", "--dry-run", "--json"),
    *("--quiet", "-q", "--verbose", "-v", "--teacher", "--help"),
}
CONTRACT = {
    "quickstart": {"--out", "--device", "--workers", "--overwrite", "-q"},
    "train-teacher": TRAINING,
    "distill": TRAINING | {"--student", "--baseline", "--init-weights"},
    "resume": {
        *("--steps", "--data", "--teacher", "--baseline", "--seeds", "--set", "--accept-teacher", "--device"),
        *("--workers", "--json", "-q", "-v"),
    },
    "evaluate": {
        "--weights",
        "--data",
        "--split",
        "--count-void",
        "--json",
        "--device",
        "--precision",
        "--workers",
        "-q",
    },
    "import-weights": {
        *(
            "--network",
            "--data",
            "--classes",
            "--void-output",
            "--mean",
            "--std",
            "--bgr",
            "--divide",
            "--size",
            "--set",
            "--drop-label-channel",
            "--out",
        ),
        *("--overwrite", "-q"),
    },
    "export": {
        "--weights",
        "--output",
        "--size",
        "--data",
        "--min-fps",
        "--max-ms",
        "--json",
        "--device",
        "--workers",
        "-q",
    },
    "infer": {"--weights", "--out", "--overlay", "--device", "--precision", "--overwrite", "--json", "-q"},
    "presets list": {"--json"},
    "presets show": {"--student", "--teacher", "--data"},
    "presets copy": set(),
    "networks": {"--json", "--latency", "--max-ms", "--device"},
    "data init": {"--out", "--overwrite", "--json", "-q"},
    "data check": {"--preview", "--overwrite", "--json"},
    "doctor": {"--json"},
}


def commands() -> dict[str, Any]:
    """Return the commands that help shows, by the words that call them."""
    found: dict[str, Any] = {}
    for name, command in typer.main.get_command(cli.app).commands.items():  # type: ignore[attr-defined]  # it is a group
        inner = getattr(command, "commands", None)
        if inner is None and not command.hidden:
            found[name] = command
        for word, leaf in (inner or {}).items():
            found[f"{name} {word}"] = leaf
    return found


# Help


def test_help_does_not_wait_for_what_only_commands_need() -> None:
    program = (
        "import sys\nfrom segdistill import cli\ntry:\n    cli.main()\nfinally:\n    print('imported:', *sys.modules)\n"
    )
    shown = process(sys.executable, "-c", program, "--help")
    assert shown.code == 0, shown.err
    imported = set(shown.out.rpartition("imported: ")[2].split())
    assert "typer" in imported
    assert not imported & {"torch", "numpy", "pydantic", "rich", "tomli_w", "cv2", "PIL", "onnx"}


def test_the_script_and_the_module_are_the_same_program() -> None:
    script = process(Path(sys.executable).with_name("segdistill"), "--version")
    module = process(sys.executable, "-m", "segdistill", "--version")
    assert script.out == module.out == f"segdistill {__version__}\n"


def test_help_lists_every_command_in_whole_sentences() -> None:
    shown = succeeds("--help")
    for name in {words.split()[0] for words in CONTRACT}:
        (line,) = (line for line in shown.out.splitlines() if line.startswith(f"  {name} "))
        assert line.endswith("."), line
        assert "..." not in line


def test_command_and_option_names_are_stable() -> None:
    assert commands().keys() == CONTRACT.keys()
    for words, expected in CONTRACT.items():
        options = {option for parameter in commands()[words].params for option in parameter.opts}
        assert expected - {"--help"} <= options, words


@pytest.mark.parametrize("words", CONTRACT)
def test_every_command_s_help_ends_in_an_example_that_parses(words: str) -> None:
    shown = succeeds(f"{words} --help")
    lines = shown.out.rpartition("Examples:\n")[2].splitlines()
    assert len(lines) == 2
    for line in lines:
        assert len(line) <= 80
        example = shlex.split(line)
        assert example[: 1 + len(words.split())] == ["segdistill", *words.split()]
        context = commands()[words].make_context(words, example[1 + len(words.split()) :])
        assert context.params or words == "presets list", line


def test_help_shows_options_in_groups() -> None:
    shown = segdistill("distill --help").out
    positions = [shown.index(f"\n{title}:\n") for title in ("Model", "Loss", "Data", "Run", "Output")]
    assert positions == sorted(positions)


def test_val_and_predict_are_aliases() -> None:
    for alias, name in (("val", "evaluate"), ("predict", "infer")):
        full = segdistill(f"{name} --help").out.replace(name, alias, 1)
        assert full.startswith(segdistill(f"{alias} --help").out)


# Results


def test_networks_latency_sorts_and_max_ms_filters() -> None:
    line = "networks espnet --size 32x48 --json"
    plain = json.loads(segdistill(line).out)
    assert {entry["name"] for entry in plain} == {
        "espnet",
        "espnet-q3",
        "espnet-q5",
        "espnet-c",
        "espnet-c-q3",
        "espnet-c-q5",
        "espnetv2",
        "espnetv2-0.5",
        "espnetv2-1.5",
        "espnetv2-2.0",
    }
    timed = json.loads(segdistill(f"{line} --latency").out)
    times = [entry.pop("latency_ms") for entry in timed]
    assert times == sorted(times)
    assert times[0] > 0
    assert sorted(timed, key=str) == sorted(plain, key=str)
    assert json.loads(segdistill(f"{line} --max-ms 1e6").out) != []
    none = segdistill(f"{line} --max-ms 1e-6")
    assert json.loads(none.out) == []
    assert "No network takes 1e-06 ms or less at 32x48. The fastest, espnet" in none.err
    assert " fps " in segdistill("networks espnet-c --size 32x48 --latency").out


def test_json_results_are_alone_on_stdout(camvid: Path) -> None:
    keys = {
        "presets list --json": {"name", "about", "paper", "terms"},
        "networks espnet --json --size 32x48": {"name", "output_stride", "parameters", "macs", "flops"},
        "doctor --json": {"name", "value", "ok", "cure"},
    }
    for line, expected in keys.items():
        entries = json.loads(segdistill(line).out)
        assert entries
        assert all(entry.keys() == expected for entry in entries), line
        assert all(entry.get("flops") == 2 * entry.get("macs", 0) for entry in entries if "flops" in entry)
    result = segdistill(f"data check camvid:{camvid} --json")
    assert "warning: camvid has no test split" in result.err
    checked = json.loads(result.out)
    assert (checked["name"], checked["splits"].keys()) == ("camvid", {"train", "val"})
    for split, images in (("train", 4), ("val", 2)):
        entry = checked["splits"][split]
        assert entry["images"] == images
        assert sum(entry["pixels"].values()) + entry["ignored_pixels"] == images * 48 * 64


def test_tables_align_numbers_to_the_right_and_words_to_the_left(camvid: Path) -> None:
    shown = segdistill(f"data check camvid:{camvid}").out.splitlines()
    (road,) = (line for line in shown if "road" in line)
    columns = [[line.split("│")[split].strip() for line in shown if line.count("│") == 4] for split in (2, 3)]
    assert [abs(sum(map(float, column[:-1])) - 100) < 0.1 for column in columns] == [True, True], "with the ignored"
    assert [column[-1] for column in columns] == ["12,288", "6,144"], "pixels"
    assert all(cell.startswith(" ") and not cell.endswith("  ") for cell in road.split("│")[2:4])
    assert "│ Structured distillation" in segdistill("presets list").out


def test_closed_output_pipe_is_not_an_error() -> None:
    shown = process("bash", "-c", f"{shlex.quote(sys.executable)} -m segdistill presets show skd | head -1")
    assert shown.out.startswith("# Liu et al.")
    assert shown.err == ""


def test_full_disk_keeps_the_old_file_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("mine")
    line = f"ulimit -f 1; {shlex.quote(sys.executable)} -m segdistill presets copy skd mine.toml --overwrite"
    result = process("bash", "-c", line)
    assert result.code == 1
    assert "while writing mine.toml" in result.err
    assert "Traceback" not in result.err
    assert (tmp_path / "mine.toml").read_text() == "mine"
    assert files(tmp_path) == {"mine.toml"}


# Mistakes in what was typed: exit 2, before anything is written


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("distil", "Did you mean 'distill'?"),
        ("distill --student resnet18", "--teacher"),
        ("distill --teacher pspnet18 --student resnet18 --stpes 3", "--steps"),
        ("distill --teacher pspnet18 --student resnet18 --steps 0", "--steps"),
        ("distill --teacher pspnet18 --student resnet18 --precision fp8", "'fp8' is not one of"),
        ("distill --teacher pspnet18 --student resnet18 --preset sdk", "Did you mean skd"),
        ("distill --teacher pspnet18 --student resnet18 --preset gone.toml", "There is no preset file gone.toml"),
        ("distill --teacher pspnet18 --student resnt18", "Did you mean resnet18"),
        ("distill --teacher pspnt18 --student resnet18", "Did you mean pspnet18"),
        ("distill --teacher runs/none --student resnet18", "There is no runs/none"),
        ("distill --teacher pspnet18 --student resnet18 --set optm.lr=1", "Did you mean optim?"),
        ("distill --teacher pspnet18 --student resnet18 --set optim.lr=abc", "found 'abc'"),
        ("distill --teacher pspnet18 --student resnet18 --set terms.pixle.weight=1", "Did you mean pixel?"),
        ("distill --teacher pspnet18 --student resnet18 --set terms.pixel.temprature=1", "Did you mean temperature?"),
        ("distill --teacher pspnet18 --student resnet18 --set optim.lr", "expected KEY=VALUE"),
        ("distill --teacher pspnet18 --student resnet18 --data camvdi", "Did you mean camvid?"),
        ("distill --teacher pspnet18 --student resnet18 --data ./CamVid", "NAME:PATH"),
        ("distill --teacher pspnet18 --student resnet18 --data camvid", "No path given for data set 'camvid'."),
        ("distill --teacher pspnet18 --student resnet18 --data camvid:gone", "gone does not exist"),
        ("distill --teacher pspnet18 --student resnet18 --device cuda:x", "Unknown device 'cuda:x'"),
        ("distill --teacher pspnet18 --student resnet18 --resume", "--resume needs --out DIR"),
        ("distill --teacher pspnet18 --student resnet18 --resume --out none", "no run to resume in none"),
        ("distill --teacher pspnet18 --student resnet18 --resume --overwrite --out none", "give one of them"),
        ("train-teacher --teacher runs/none", "Unknown network 'runs/none'"),
        ("train-teacher --teacher pspnet18 --seed -1", "--seed"),
        ("train-teacher --teacher pspnet18 --backbone-weights gone.pth --workers 0", "no weights file gone.pth"),
        ("train-teacher --teacher resnet18-half --pretrained --workers 0", "no ImageNet weights for resnet18-half"),
        ("train-teacher --teacher pspnet18 --set data.batch_size=1", "Batch norm needs at least 2 images"),
        ("train-teacher --teacher pspnet18 --set optim.accumulate=3", "does not divide"),
        ("train-teacher --teacher pspnet18 --set data.scale=[2,0.5]", "the smaller factor comes first"),
        ("train-teacher --teacher pspnet18 --set data.scale=[1e-300,1]", "data.scale.0: Input should be greater"),
        ("train-teacher --teacher pspnet18 --set data.batch_size=1180591620717411303424", "data.batch_size"),
        ("train-teacher --teacher pspnet18 --set optim.weight_decay=1e308", "optim.weight_decay"),
        (f"train-teacher --teacher pspnet18 --set {'a.' * 3000}a=1", "more than 32 parts"),
        ("train-teacher --teacher pspnet18 --workers 99999999999", "'--workers'"),
        ("train-teacher --teacher pspnet18 --device cuda:²", "Unknown device"),
        ("evaluate gone", "There is no gone"),
        ("evaluate .", "holds no model.safetensors"),
        ("export gone", "There is no gone"),
        ("export gone --min-fps 1 --max-ms 1", "--min-fps and --max-ms both limit the speed"),
        ("export gone --size 32", "'32' is not a size"),
        ("infer gone images --out labels", "There is no gone"),
        ("infer gone images", "--out"),
        ("presets show sdk", "Did you mean skd"),
        ("presets copy skd mine.txt", "does not end in .toml"),
        ("presets copy skd gone/mine.toml", "gone/mine.toml cannot be written"),
        ("networks --size 0x4", "'0x4' is not a size"),
        ("networks enett", "No network's name has 'enett' in it"),
        ("data check camvdi", "Did you mean camvid?"),
        ("data check streets:somewhere", "Data set 'streets' is built in"),
    ],
)
def test_command_line_errors_are_named_and_nothing_is_written(line: str, expected: str, tmp_path: Path) -> None:
    refused(line, expected)
    assert not files(tmp_path)


def test_pipe_in_place_of_a_model_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # who opened it would wait for ever
    for line in ("evaluate pipe", "export pipe", "infer pipe . --out labels"):
        refused(line, "pipe is neither a file nor a folder")


def test_a_preset_is_not_copied_over_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("mine")
    refused("presets copy skd mine.toml")
    assert (tmp_path / "mine.toml").read_text() == "mine"
    succeeds("presets copy skd mine.toml --overwrite")
    assert (tmp_path / "mine.toml").read_text() == segdistill("presets show skd").out


def train_with_preset_on(data: str) -> Result:
    """Return what a preset of the user's own, for this data set, comes to."""
    Path("mine.toml").write_text(succeeds("presets show skd").out.replace('name = "cityscapes"', f'name = "{data}"'))
    return succeeds("train-teacher --preset mine.toml --print-config")


def test_a_preset_file_with_data_of_its_own_uses_it(camvid: Path) -> None:
    resolved = train_with_preset_on(f"camvid:{camvid}").out
    assert read_back(resolved).data.name == f"camvid:{camvid}"


def test_preset_data_set_is_found_in_the_data_folder(camvid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = train_with_preset_on("camvid")
    assert 'name = "streets"' in missing.out
    assert "built-in scenes (streets) are used" in missing.err
    monkeypatch.setenv("SEGDISTILL_DATA", str(camvid.parent))
    (camvid.parent / "camvid").symlink_to(camvid)
    there = train_with_preset_on("camvid")
    (camvid.parent / "camvid").unlink()
    assert 'name = "camvid"' in there.out
    assert read_back(there.out).optim == load_preset("skd", data="camvid").optim, "its table [on.camvid] holds"


def test_a_printed_configuration_is_a_preset(tmp_path: Path) -> None:
    printed = succeeds(f"{DISTILL} --set optim.lr=0.003 --seed 5 --precision fp32 --print-config")
    config = read_back(printed.out)
    assert (config.seed, config.precision, config.optim.lr, config.optim.steps) == (5, "fp32", 0.003, 2)
    assert (config.teacher.network, config.student.network) == ("pspnet-resnet18", NETWORK)
    again = segdistill("distill --preset printed.toml --teacher pspnet18 --student resnet18-half --print-config")
    assert tomllib.loads(again.out) == tomllib.loads(printed.out)
    assert files(tmp_path) == {"printed.toml"}


def test_preset_network_options_do_not_apply_to_another_network() -> None:
    choices = 'network = "pspnet-resnet18"\nstem = "deep"\nhead_width = 64\ninput = { order = "bgr" }'
    text = succeeds("presets show ka").out
    assert text.count('network = "mobilenetv2"') == 1
    Path("mine.toml").write_text(text.replace('network = "mobilenetv2"', choices))
    line = "distill --preset mine.toml --data voc:somewhere --teacher pspnet18 --print-config"
    own = read_back(succeeds(f"{line} --student resnet34").out).student
    assert (own.network, own.stem, own.head_width, own.output_stride) == ("pspnet-resnet34", "deep", 64, 16)
    other = read_back(succeeds(f"{line} --student mobilenetv2plus").out).student
    assert (other.stem, other.head_width, other.output_stride, other.input) == (None, None, None, own.input)
    refused(f"{line} --student mobilenetv2plus --set student.stem=deep", "stem: it has none to choose")
    refused(f"{line} --student mobilenetv2plus --set student.output_stride=32", "it has 8, not 32")


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    result = succeeds(f"{DISTILL} --dry-run --baseline steps")
    assert "estimate" in result.err
    assert "nothing was written" in result.out
    assert not files(tmp_path)


# Mistakes in data: exit 3 with the file's name, before anything is written


def _strange_id(root: Path) -> None:
    label = np.asarray(Image.open(root / "valannot/1.png")).copy()
    label[:2] = 77
    Image.fromarray(label).save(root / "valannot/1.png")


def _half_a_file(root: Path) -> None:
    halve(root / "train/2.png")


def _another_size(root: Path) -> None:
    Image.fromarray(np.zeros((40, 64), np.uint8)).save(root / "trainannot/3.png")


def _no_partner(root: Path) -> None:
    (root / "trainannot/1.png").unlink()


def _another_layout(root: Path) -> None:
    for split in ("train", "val"):
        (root / split).rename(root / f"{split}_images")
        (root / f"{split}annot").rename(root / f"{split}_labels")


@pytest.mark.promise("D1", "D2", "D5", "D6")
@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (_strange_id, ("valannot/1.png", "77 (128 px)", "Allowed ids: 0-11")),
        (_half_a_file, ("train/2.png", "truncated")),
        (_another_size, ("trainannot/3.png", "64x48", "64x40")),
        (_no_partner, ("1.png", "trainannot", "without a partner")),
        (_another_layout, ("does not have the layout of camvid", "train_images", "trainannot/")),
    ],
)
def test_unusable_data_is_named_before_anything_is_written(
    damage: Any, expected: tuple[str, ...], own_camvid: Path, tmp_path: Path
) -> None:
    damage(own_camvid)
    before = files(tmp_path)
    for line in (
        f"train-teacher --teacher {NETWORK} --data camvid:data {SMALL} --out run",
        f"distill --teacher {NETWORK} --student {NETWORK} --data camvid:data {SMALL}",
        "data check camvid:data",
    ):
        refused(line, *expected, code=3)
    assert files(tmp_path) == before


# What nobody expected


def break_doctor(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def broken() -> None:
        raise error

    monkeypatch.setattr(doctor, "examine", broken)


@pytest.mark.promise("R1")
@pytest.mark.parametrize("module", ["pydantic", "numpy.linalg", "torch.nn"])
def test_interrupt_during_imports_exits_130_without_a_traceback(module: str) -> None:
    code = f"""
import signal, sys
class Interrupt:
    def find_spec(self, name, *more):
        if name == {module!r}:
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
from segdistill import cli
sys.argv[1:] = ["networks", "enet"]
cli.main()
"""
    result = process(sys.executable, "-c", code)
    assert (result.code, result.err.strip()) == (130, "Stopped by SIGINT.")


def test_unexpected_error_is_one_panel_or_traceback_with_debug(monkeypatch: pytest.MonkeyPatch) -> None:
    break_doctor(monkeypatch, ValueError("the moon"))
    refused("doctor", "Internal error. ValueError: the moon", "--debug", code=1)
    with pytest.raises(ValueError, match="the moon"):
        segdistill("doctor --debug")


@pytest.mark.promise("R4")
@pytest.mark.parametrize(
    ("error", "code", "expected"),
    [
        (MemoryError(), 1, "Out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), 1, "batch_size"),
        (
            RuntimeError("Caught error in a worker.\n  cv2.error: (-4:Insufficient memory) Failed"),
            1,
            "Out of memory. cv2",
        ),
        (ValueError("Unable to allocate 9.1 GiB for an array"), 1, "Use a smaller data.batch_size, data.crop or"),
        (RuntimeError("could not create a primitive"), 1, "Out of memory. RuntimeError: could not create a primitive"),
        (PermissionError(13, "Permission denied", "some/file"), 2, "some/file: Permission denied"),
    ],
)
def test_system_errors_are_not_internal_errors(
    error: Exception, code: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_doctor(monkeypatch, error)
    result = segdistill("doctor")
    assert (result.code, expected in result.err, "Internal error" in result.err) == (code, True, False), result.err


def test_long_name_in_a_message_is_unwrapped_without_a_terminal() -> None:
    name = "gone-" * 40
    assert f"There is no {name}." in segdistill("evaluate", name).err


@pytest.mark.slow  # a training, and many commands
def test_tilde_is_expanded_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, camvid: Path) -> None:
    home = tmp_path / "at home"
    home.mkdir()
    (home / "CamVid").symlink_to(camvid)
    monkeypatch.setenv("HOME", str(home))
    succeeds("presets copy skd ~/mine.toml")
    assert (home / "mine.toml").is_file()
    succeeds("data check camvid:~/CamVid --preview=~/preview.png")
    assert (home / "preview.png").is_file()
    train = f"train-teacher --preset ~/mine.toml --teacher {NETWORK} --data camvid:~/CamVid {SMALL}"
    said = succeeds(f"{train} --out=~/run").err
    assert (home / "run/model.safetensors").is_file()
    assert f"segdistill resume '{home / 'run'}'" in said
    succeeds("infer ~/run '~/CamVid/val/*.png' --out ~/labels")
    assert len(files(home / "labels")) == 2
    succeeds("infer ~/run/model.safetensors ~/CamVid/val/0.png --out=~/labels --overwrite")
    monkeypatch.setenv("SEGDISTILL_DATA", "~")
    distill = f"distill --student {NETWORK} --data camvid:~/CamVid {SMALL} --out new"
    gone = str(home / "gone")
    for line, expected in (
        (f"{train} --out ~/run", f"{home / 'run'} is not empty"),
        (f"{train} --backbone-weights ~/gone --out new", gone),
        (f"{distill} --teacher ~/gone", gone),
        (f"{distill} --teacher tv:fcn_resnet50:~/gone", gone),
        (f"{distill} --teacher onnx:~/gone.onnx", f"{gone}.onnx"),
        (f"{distill} --teacher hf:~/gone", gone),
        (f"{distill} --teacher ~/run --class-map ~/gone", gone),
        (f"{distill} --teacher ~/run --init-weights ~/gone", gone),
        (f"{distill} --teacher ~/run --unlabeled ~/gone", gone),
        ("evaluate ~/gone", gone),
        ("export ~/run --data camvid --output ~/mine.toml", str(home / "mine.toml")),
        ("quickstart --out=~", f"{home} is not empty"),
        ("import-weights ~/gone --network espnet --out ~/espnet", gone),
    ):
        found = segdistill(line)
        assert found.code in (2, 3, 5), line
        assert expected in found.err, f"{line}\n{found.err}"
    assert not list(tmp_path.rglob("~*"))


def test_every_path_option_expands_a_tilde() -> None:
    paths = 0
    for file in Path(cli.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if not (isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Annotated"):
                continue
            kind, call = node.slice.elts if isinstance(node.slice, ast.Tuple) else (None, None)
            if isinstance(kind, ast.AST) and "Path" in ast.unparse(kind) and isinstance(call, ast.Call):
                paths += 1
                assert "parser" in {word.arg for word in call.keywords}, f"{file.name}, line {node.lineno}"
    assert paths >= 15
