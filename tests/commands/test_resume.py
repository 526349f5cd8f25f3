"""`segdistill resume`: a run goes on by its folder alone, from any folder; a finished one is trained for longer."""

import json
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from helpers.commands import SMALL, assert_same_run, contents, refused, segdistill, succeeds, write_camvid
from segdistill.checkpoints.model_file import read_info
from segdistill.commands._lengthening import lengthenings
from segdistill.commands._local_record import LocalRecord, read_local
from segdistill.config.schema import OptimConfig
from segdistill.storage.manifest import MANIFEST
from segdistill.training.optim import scheduled_rate
from segdistill.training.recorder import Recorder

pytestmark = pytest.mark.usefixtures("elsewhere")
EVERY = "--set checkpoint.every=1"
TEACH = f"train-teacher --teacher resnet18-half --data camvid:data {SMALL} {EVERY}"
STUDENT = f"distill --preset tsl --teacher teacher --student resnet18-half --data camvid:data {SMALL} {EVERY}"
PAIRS = f"{STUDENT} --baseline steps --seeds 2 --accept-teacher"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a data set, a teacher on it, two students with their baselines, and one run without labels."""
    folder = tmp_path_factory.mktemp("made")
    write_camvid(folder / "data")
    shutil.copytree(folder / "data/train", folder / "frames")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        succeeds(f"{TEACH} --out teacher")
        succeeds(f"{PAIRS} --out student")
        succeeds(f"{without_labels('frames')} --out by-teacher")
    return folder


def without_labels(frames: str) -> str:
    line = f"distill --preset tsl --teacher teacher --images {frames} --student resnet18-half --accept-teacher"
    return f"{line} {SMALL} {EVERY}"


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a copy of the folder."""
    shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def away(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder beside that copy, and return the copy."""
    (here.parent / "away").mkdir()
    for path in here.rglob("local.json"):  # the copy is where these runs were made
        path.write_text(path.read_text().replace(str(Path(read_folder(path))), str(here)))
    monkeypatch.chdir(here.parent / "away")
    return here


def read_folder(path: Path) -> str:
    return str(json.loads(path.read_text())["folder"])


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let a command end behind a number of steps, all of its trainings together."""
    step = Recorder.__call__

    def run_and_cut(line: str, steps: int) -> None:
        done: list[int] = []

        def stop(recorder: Recorder, report: Any) -> None:
            step(recorder, report)
            done.append(report.step)
            if len(done) == steps:
                raise RuntimeError("the power is off")

        with monkeypatch.context() as patch:
            patch.setattr(Recorder, "__call__", stop)
            result = segdistill(line)
        assert "the power is off" in result.err, result.err
        assert len(done) == steps

    return run_and_cut


# Going on


@pytest.mark.promise("C4")
@pytest.mark.parametrize(  # in the first student, its baseline, the second student
    "steps", [pytest.param(1, marks=pytest.mark.slow), 3, pytest.param(6, marks=pytest.mark.slow)]
)
def test_students_and_baselines_go_on_from_any_folder(
    steps: int, here: Path, cut: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(f"{PAIRS} --out cut", steps)
    (here.parent / "far").mkdir()
    monkeypatch.chdir(here.parent / "far")
    said = succeeds("resume ../here/cut")
    assert "resume     segdistill resume ../here/cut" in said.err
    assert "Next: segdistill export ../here/cut" in said.err
    for part in ("", "baseline", "seed-1", "seed-1/baseline"):
        assert_same_run(here / "student" / part, here / "cut" / part)
    mious = [
        [entry["miou"] for entry in json.loads((here / run / "scores.json").read_text()).values()]
        for run in ("student", "cut")
    ]
    assert mious[0] == mious[1]
    assert len(mious[0]) == 5


def test_teacher_goes_on_with_the_options_that_it_was_given(here: Path, cut: Any) -> None:
    cut(f"{TEACH} --set validate.batch_size=1 --out cut", 1)
    assert "batch_size = 1" not in Path("cut/config.toml").read_text()
    record = read_local(Path("cut"))
    assert record is not None
    assert (record.workers, record.validation_batch, record.data) == (0, 1, f"camvid:{here / 'data'}")
    said = succeeds("resume cut").err
    assert "0 loader workers" in said
    assert_same_run(Path("teacher"), Path("cut"))


def test_run_without_labels_goes_on_with_its_images(here: Path, cut: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(f"{without_labels('frames')} --out cut", 1)
    monkeypatch.chdir("/")
    succeeds(f"resume {here / 'cut'}")
    assert_same_run(here / "by-teacher", here / "cut")


def test_preset_that_has_changed_does_not_change_the_run(here: Path, cut: Any) -> None:
    succeeds("presets copy tsl mine.toml")
    line = STUDENT.replace("--preset tsl", "--preset mine.toml")
    succeeds(f"{line} --out whole")
    cut(f"{line} --out cut", 1)
    Path("mine.toml").write_text("preset = 'other'\n")
    succeeds("resume cut")
    assert_same_run(Path("whole"), Path("cut"))


@pytest.mark.promise("C7")
def test_finished_run_is_shown_and_not_touched(here: Path) -> None:
    before = contents(here)
    said = succeeds("resume student")
    assert "Already finished: student. For more steps: segdistill resume student --steps N" in said.err
    assert "Gain" in said.out
    assert contents(here) == before


def test_data_and_teacher_may_lie_elsewhere_by_now(here: Path, cut: Any) -> None:
    cut(f"{STUDENT} --out cut", 1)
    Path("data").rename("moved")
    refused("resume cut", "gone from where cut/local.json has it", "segdistill resume cut --data camvid:PATH")
    Path("teacher").rename("elder")
    refused("resume cut --data camvid:moved", "There is no")
    succeeds("resume cut --data camvid:moved --teacher elder")
    record = read_local(Path("cut"))
    assert record is not None
    assert (record.data, record.teacher) == (f"camvid:{here / 'moved'}", str(here / "elder"))
    assert record.command[:2] == ("distill", "--preset"), "the command that began it stays"
    assert Path("cut/model.safetensors").read_bytes() == Path("student/model.safetensors").read_bytes()


def test_run_that_was_given_away_says_what_it_needs(here: Path) -> None:
    for name in ("student", "teacher"):
        Path(name, "local.json").unlink()
        Path(name, MANIFEST).unlink()
    refused("resume student", "has no local.json", "segdistill resume student --data camvid:PATH --teacher TEACHER")
    refused("resume teacher", "has no local.json", "segdistill resume teacher --data camvid:PATH")
    Path("by-teacher/local.json").unlink()
    refused("resume by-teacher", "--images", "--preset by-teacher/config.toml --out by-teacher --resume")
    succeeds("resume student --data camvid:data --teacher teacher")
    assert read_local(Path("student")) is not None


@pytest.mark.promise("S1")
def test_code_runs_only_where_a_command_line_names_it(here: Path) -> None:
    table = json.loads(Path("student/local.json").read_text())
    Path("student/local.json").write_text(json.dumps(table | {"teacher": "py:evil:build"}))
    Path("evil.py").write_text("open('ran', 'w')\ndef build(): pass\n")
    again = "distill --preset student/config.toml --out new"
    for line in ("resume student", again, f"{again} --student resnet18-half"):
        refused(line, "is code, py:evil:build", "--teacher py:evil:build")
    assert not Path("ran").exists()
    assert not Path("new").exists()


def test_resume_refuses_what_is_no_run_of_its_own(here: Path) -> None:
    before = contents(here)
    refused("resume nowhere", "There is no run to continue in nowhere: there is no such folder")
    refused("resume data", "it has no config.toml")
    refused(
        "resume teacher/model.safetensors", "There is no run to continue in teacher/model.safetensors: it is a file"
    )
    refused("resume student/seed-1", "is of a further seed of another run", "segdistill resume ", "student")
    refused("resume student/baseline", "is the baseline of another run", "segdistill resume ", "student")
    refused("resume teacher --seeds 2", "--seeds is of a distillation")
    refused("resume student --set optim.lr=1", "these settings differ", "optim.lr")
    refused("resume student --seeds 1", "--seeds: 2 -> 1")
    assert contents(here) == before


def test_resume_refuses_lengths_that_would_be_ignored(here: Path) -> None:
    before = contents(here)
    for flag, value in (("--epochs", 3), ("--max-minutes", 5)):
        refused(f"{TEACH} --out teacher --resume {flag} {value}", "these flags differ", f"{flag}: not given -> {value}")
    assert contents(here) == before


@pytest.mark.parametrize(
    "damage", ["[]", "{", '{"data": 5}', '{"images": [1]}', '{"baseline": "no"}', '{"workers": "a"}', '{"seeds": true}']
)
def test_damaged_record_is_named(damage: str, here: Path) -> None:
    Path("student/local.json").write_text(damage)
    refused("resume student", "student/local.json", code=5)


# More steps


@pytest.mark.parametrize("name", ["teacher", "student"])
def test_lengthened_run_goes_on_from_its_last_step(name: str, here: Path) -> None:
    edited = Path("edited")
    shutil.copytree(name, edited)
    for part in {edited, *(path.parent for path in edited.rglob("config.toml"))}:  # as if it had been cut off at step 2
        table = tomllib.loads((part / "config.toml").read_text())
        table["optim"]["steps"] = 5
        if name == "student":
            table["teacher"]["steps"] = 2
        (part / "config.toml").write_text(tomli_w.dumps(table))
        (part / MANIFEST).unlink()
        (part / "model.safetensors").unlink()
    if name == "teacher":
        Path("edited/config.toml").write_text(
            Path("edited/config.toml").read_text().replace("[teacher]", "[teacher]\nsteps = 5", 1)
        )
    succeeds("resume edited")

    said = succeeds(f"resume {name} --steps 5").err
    assert "Lengthened from 2 to 5 steps" in said
    assert "the schedule is a new one" in said
    for part in (path.parent.relative_to(edited) for path in edited.rglob("config.toml")):
        assert_same_run(edited / part, Path(name) / part)
        assert lengthenings(Path(name) / part) == [(2, 5)]
    lines = [json.loads(line) for line in Path(name, "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [2, 5]
    optim = OptimConfig.model_validate(tomllib.loads(Path(name, "config.toml").read_text())["optim"])
    assert lines[-2]["lr"] == pytest.approx(scheduled_rate(optim, 4, 5))
    assert read_info(Path(name, "model.safetensors")).steps == 5
    assert "Lengthened from 2 to 5 steps" in Path(name, "README.md").read_text()
    assert "Already finished" in succeeds(f"resume {name}").err
    assert "Already finished" in succeeds(f"resume {name} --steps 5").err


@pytest.mark.promise("C4")
@pytest.mark.parametrize(  # of the first student, its baseline, the second baseline
    "steps", [pytest.param(1, marks=pytest.mark.slow), 4, pytest.param(7, marks=pytest.mark.slow)]
)
def test_lengthening_that_is_cut_goes_on_to_the_same_end(steps: int, here: Path, cut: Any) -> None:
    shutil.copytree("student", "cut")
    succeeds("resume student --steps 4")
    before = Path("cut/seed-1/model.safetensors").read_bytes()
    cut("resume cut --steps 4", steps)
    if steps < 5:
        assert Path("cut/seed-1/model.safetensors").read_bytes() == before, "the old model is there until the new one"
        assert succeeds("evaluate cut --json").out
    succeeds("resume cut")
    for part in ("", "baseline", "seed-1", "seed-1/baseline"):
        assert_same_run(Path("student", part), Path("cut", part))


def test_baseline_of_equal_time_is_lengthened_too(here: Path) -> None:
    succeeds(f"{STUDENT} --baseline time --accept-teacher --out timed")
    steps = read_info(Path("timed/baseline/model.safetensors")).steps
    succeeds("resume timed --steps 6")
    assert read_info(Path("timed/model.safetensors")).steps == 6
    assert read_info(Path("timed/baseline/model.safetensors")).steps >= steps
    assert "Already finished" in succeeds("resume timed").err


def test_lengthening_is_refused_where_it_means_nothing(here: Path) -> None:
    refused("resume student --steps 1", "--steps 1 is less than the 2 steps", "--init-weights student")
    refused("resume student --steps 4 --seeds 3", "--seeds 3 would be trained by another schedule")
    Path("student/seed-1", MANIFEST).unlink()
    refused("resume student --steps 4", "student/seed-1 is not finished", "First: segdistill resume student")
    succeeds(f"{TEACH} --set validate.patience=3 --out patient")
    refused("resume patient --steps 4", "validate.patience=3", "--init-weights patient")
    refused(f"{TEACH} --out teacher --resume --steps 4", "optim.steps: 2 -> 4", "segdistill resume teacher --steps 4")
    assert not Path("student/environment.json").read_text().count("lengthened")


def test_lengthened_run_tells_what_is_changed_from_what_is_added(here: Path) -> None:
    succeeds("resume student --steps 3")
    refused("resume student --seeds 3", "--seeds 3 would be trained by another schedule")
    refused("resume student --seeds 1", "--seeds: 2 -> 1")
    refused("resume student --baseline time", "--baseline: steps -> time")


def test_lengthened_teacher_is_no_teacher_of_so_many_steps(here: Path) -> None:
    line = f"distill --preset tsl --teacher resnet18-half --student resnet18-half --data camvid:data {SMALL} --dry-run"
    named = f"train-teacher --preset tsl --teacher resnet18-half --data camvid:data {SMALL} --out runs/t"
    succeeds(named)
    assert "Teacher: runs/t, trained before" in segdistill(f"{line} --accept-teacher").err
    succeeds("resume runs/t --steps 4")
    said = segdistill(f"{line} --accept-teacher".replace("--steps 2", "--steps 4")).err
    assert "is trained first" in said


# What is kept of this machine


@pytest.mark.promise("S10")
def test_local_json_alone_names_paths_and_is_in_no_manifest(here: Path) -> None:
    succeeds("export student")
    named = {path.name for path in here.rglob("*") if path.is_file() and bytes(here.parent) in path.read_bytes()}
    assert named <= {"local.json"}
    made = json.loads(Path("student/local.json").read_text())["folder"]
    named = {path.name for path in Path("student").rglob("*") if path.is_file() and made.encode() in path.read_bytes()}
    assert named == {"local.json"}
    assert "local.json" not in json.loads(Path("student", MANIFEST).read_text())["files"]
    Path("student/local.json").unlink()  # whoever gives the folder away may delete it
    succeeds("evaluate student --data camvid:data")


def test_model_commands_find_the_data_of_a_run(away: Path) -> None:
    student = away / "student"
    evaluated = json.loads(succeeds(f"evaluate {student} --json").out)
    assert evaluated["miou"] == json.loads((student / "scores.json").read_text())["distilled"]["miou"]
    said = succeeds(f"export {student / 'seed-1'}")
    assert "checked on 2 images" in said.out
    assert f"Data: camvid:{away / 'data'}" in said.err
    succeeds(f"infer {student} --out labels")
    assert sorted(path.name for path in Path("labels").rglob("*.png")) == ["0.png", "1.png"]
    (away / "data").rename(away / "gone")
    refused(f"evaluate {student}", "gone from where", "--data camvid:PATH")
    refused(f"infer {student} --out more", "gone from where", "--data camvid:PATH")


def test_model_commands_find_images_and_teacher_of_a_run_without_labels(away: Path) -> None:
    run = away / "by-teacher"
    entry = json.loads((run / "scores.json").read_text())["distilled"]
    evaluated = json.loads(succeeds(f"evaluate {run} --json").out)
    assert (evaluated["agreement_miou"], evaluated["images"]) == (entry["agreement_miou"], entry["images"])
    assert "checked on 1 image" in succeeds(f"export {run}").out
    succeeds(f"infer {run} --out labels")
    assert len(list(Path("labels").rglob("*.png"))) == 1


def test_generated_data_has_no_files_to_label(here: Path) -> None:
    succeeds(f"train-teacher --teacher resnet18-half --data streets {SMALL} --out drawn")
    refused("infer drawn --out labels", "No INPUT given, and the images of streets are no files")


@pytest.mark.parametrize("name", ["teacher", "student", "by-teacher"])
def test_two_files_repeat_a_run_alone(name: str, away: Path) -> None:
    Path("kept").mkdir()
    for file in ("config.toml", "local.json"):
        shutil.copy(away / name / file, "kept")
    succeeds(f"{'train-teacher' if name == 'teacher' else 'distill'} --preset kept/config.toml --workers 0 --out again")
    for part in (path.parent.relative_to(away / name) for path in (away / name).rglob("config.toml")):
        assert_same_run(away / name / part, Path("again") / part)
        assert (away / name / part / "config.toml").read_bytes() == (Path("again") / part / "config.toml").read_bytes()


def test_config_of_a_run_finds_its_data_for_another_student(away: Path) -> None:
    line = f"distill --preset {away / 'student/config.toml'} --teacher {away / 'teacher'} --student resnet18-half"
    succeeds(f"{line} --workers 0 --accept-teacher --out other")
    assert json.loads(Path("other/environment.json").read_text())["seeds"] == 1, "the data alone is the run's"
    (away / "data").rename(away / "gone")
    refused(f"{line} --out more", "is gone from where", "--data camvid:PATH")
    refused("distill --preset tsl --student resnet18-half", "No --teacher given", "--preset runs/NAME/config.toml")


def test_data_named_by_the_environment_is_found_without_it(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("sets").mkdir()
    Path("data").rename("sets/camvid")
    with monkeypatch.context() as patch:
        patch.setenv("SEGDISTILL_DATA", "sets")
        succeeds(f"{TEACH} --out named".replace("camvid:data", "camvid"))
    monkeypatch.chdir(tmp_path)
    assert succeeds(f"evaluate {here / 'named'} --json").out


def test_commit_of_the_data_is_recorded(here: Path) -> None:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]

    def run(*words: str) -> str:
        return subprocess.run([*git, *words], check=True, capture_output=True, text=True).stdout.strip()

    run("init", "--quiet")
    Path(".gitignore").write_text("frames\n")
    run("add", ".gitignore", "data")
    run("commit", "--quiet", "--message", "data")
    succeeds(f"{TEACH} --out tracked")
    recorded = json.loads(Path("tracked/environment.json").read_text())
    head = run("rev-parse", "HEAD")
    assert recorded["data_commit"] == head
    run("pack-refs", "--all")
    succeeds(f"{TEACH} --out packed")
    assert json.loads(Path("packed/environment.json").read_text())["data_commit"] == head
    run("worktree", "add", "--quiet", "--detach", "tree")
    succeeds(f"{TEACH.replace('camvid:data', 'camvid:tree/data')} --out worktree")
    assert json.loads(Path("worktree/environment.json").read_text())["data_commit"] == head
    assert recorded["versions"]["segdistill"]
    shutil.copytree("data", "frames/data")  # which that repository ignores
    succeeds(f"{TEACH.replace('camvid:data', 'camvid:frames/data')} --out ignored")
    assert "data_commit" not in json.loads(Path("ignored/environment.json").read_text())


def test_record_keeps_paths_from_the_root(tmp_path: Path) -> None:
    assert LocalRecord(data="camvid:/nowhere").data_is_there() is False
    assert LocalRecord(data=f"camvid:{tmp_path}").data_is_there() is True
    assert LocalRecord(data="streets").data_is_there() is True
    assert LocalRecord(data="images").data_is_there() is False


def test_commands_that_are_printed_quote_folders_with_blanks(here: Path) -> None:
    succeeds(f"{TEACH} --out 'my run'")
    again = segdistill("", *shlex.split(f"{TEACH} --out 'my run'"))
    assert "`segdistill resume 'my run'`" in " ".join(again.err.split())
    assert "segdistill resume 'my run' --steps N" in " ".join(succeeds("resume 'my run'").err.split())
