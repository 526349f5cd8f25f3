"""A teacher that is fed wrongly, or calls classes by each other's names, is found out; a sound or a poor one is not."""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from helpers.commands import refused, segdistill, succeeds
from helpers.tiny import CLASSES as SCENE_CLASSES
from helpers.tiny import Scenes, model_info, tiny
from segdistill.checkpoints.model_file import ModelInfo, load_model, save_model
from segdistill.commands import _first_step, _student
from segdistill.config.schema import DataConfig, InputConfig, LabelEmbedding, TeacherConfig
from segdistill.data import DataSource, Sample
from segdistill.errors import Stopped
from segdistill.evaluation.metrics import Scores
from segdistill.networks import SegNetwork
from segdistill.runtime.precision import Precision
from segdistill.teachers import check as teacher_check
from segdistill.teachers.check import TeacherCheck, check_teacher, other_sizes
from segdistill.teachers.exchanged_classes import exchanged_classes
from segdistill.teachers.label_assisted import build_teacher
from segdistill.teachers.preprocessing_variants import preprocessing_variants
from segdistill.teachers.teacher import Teacher
from segdistill.training import recorder
from segdistill.training.engine import Report
from segdistill.types import SegOutput

CPU = Precision("fp32", torch.device("cpu"), torch.float32)
COLORS = torch.tensor([[110.0, 50, 50], [50, 110, 50], [50, 50, 110], [115, 115, 40]])
CLASSES = ("red", "green", "blue", "yellow")


@dataclass(frozen=True)
class Patches:
    """Images of four colors, each a class."""

    count: int = 6
    fingerprint: str = "patches"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{i}.png" for i in range(self.count))

    def read(self, index: int) -> Sample:
        rng = np.random.default_rng(index)
        label = rng.integers(len(CLASSES), size=(8, 8)).repeat(6, 0).repeat(6, 1).astype(np.uint8)
        image = COLORS.numpy()[label] + rng.normal(0, 10, (48, 48, 3))
        return Sample(image.clip(0, 255).astype(np.uint8), label, self.names[index])

    def digest(self, index: int) -> bytes:
        return b"%d" % index


class Nearest(SegNetwork):
    """Answers with the class whose color is nearest."""

    def __init__(self) -> None:
        super().__init__(len(CLASSES))
        color = (COLORS - self.mean.flatten()) / self.std.flatten()
        self.classifier = nn.Conv2d(3, len(CLASSES), 1)
        with torch.no_grad():
            self.classifier.weight.copy_(2 * color[:, :, None, None])
            self.classifier.get_parameter("bias").copy_(-color.square().sum(1))

    def segment(self, image: Tensor) -> SegOutput:
        return SegOutput(self.classifier(image), (), None)


DATA = DataSource("patches", CLASSES, ((0, 0, 0),) * 4, {"val": Patches()})
INFO = model_info("nearest", CLASSES, role="teacher", data="patches", metrics={"miou": 0.98})


def check(network: SegNetwork, info: ModelInfo = INFO, data: DataSource = DATA) -> TeacherCheck:
    return check_teacher(Teacher(network, info), data, CPU)


def test_a_sound_teacher_passes_and_stays_as_it_is() -> None:
    network = Nearest()
    before, images = network.state_dict()["classifier.weight"].clone(), network.images
    found = check(network)
    assert found.problems == ()
    assert found.scores.miou > 0.95
    assert found.scores.images == 6
    assert torch.equal(network.classifier.weight, before)
    assert network.images == images
    assert dict(found.rows())["mIoU"].endswith("on 6 validation images; its file says 98.00 % of all")


@pytest.mark.parametrize("ring", [(0, 1), (2, 3), (0, 1, 2)])
def test_classes_that_are_exchanged_are_named(ring: tuple[int, ...]) -> None:
    network, order = Nearest(), list(range(4))
    for here, there in zip(ring, (*ring[1:], ring[0]), strict=True):
        order[here] = there
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter[order].clone())
    (problem,) = [text for text in check(network).problems if "exchanged:" in text]
    assert problem.startswith("Classes look exchanged")
    for index, name in enumerate(CLASSES):
        assert (f"{name} is answered as" in problem) == (index in ring)


@pytest.mark.parametrize(("way", "other"), list(preprocessing_variants(InputConfig())))
def test_wrong_preprocessing_is_noticed_and_the_right_one_named(way: str, other: InputConfig) -> None:
    network = Nearest()
    network.set_preprocessing(other, align_corners=False)
    right = next(name for name, config in preprocessing_variants(other) if config == InputConfig())
    assert any(f"does better on images {right}" in problem for problem in check(network).problems), way
    assert network.images == other


@pytest.mark.promise("T3")
def test_teacher_below_recorded_score_or_minimum_is_refused() -> None:
    network = Nearest()
    nn.init.zeros_(network.classifier.weight)
    (problem,) = check(network).problems
    assert "less than half of the 98.00 % that its file names" in problem
    (problem,) = check(network, INFO.model_copy(update={"metrics": {}})).problems
    assert problem.endswith("below 20 %.")


def test_poor_teacher_with_an_honest_record_is_accepted() -> None:
    network = Nearest()
    nn.init.zeros_(network.classifier.weight)
    assert check(network, INFO.model_copy(update={"metrics": {"miou": 0.06}})).problems == ()


def test_label_assisted_teacher_is_checked_by_agreement() -> None:
    torch.manual_seed(0)
    config = TeacherConfig(network="pspnet-resnet18-half", label_embedding=LabelEmbedding())
    for recorded, refused_ in ((0.05, False), (0.99, True)):
        metrics = {"agreement_with_seen_labels": recorded}
        info = INFO.model_copy(update={"label_embedding": LabelEmbedding(), "metrics": metrics})
        found = check(build_teacher(config, len(CLASSES)).eval(), info)
        assert any("Its agreement with the labels it sees is" in text for text in found.problems) == refused_


def test_a_hardly_trained_teacher_raises_no_false_alarm() -> None:
    data = DataSource("scenes", SCENE_CLASSES, ((0, 0, 0),) * len(SCENE_CLASSES), {"val": Scenes(12)})
    info = INFO.model_copy(update={"classes": SCENE_CLASSES, "data": "scenes", "metrics": {"miou": 0.05}})
    for seed in range(5):
        assert check(tiny(seed), info, data).problems == ()


def test_chance_answers_of_a_hardly_trained_teacher_are_accepted() -> None:
    network = Nearest()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter[[1, 0, 2, 3]].clone())
    assert check(network, INFO.model_copy(update={"metrics": {"miou": 0.006}})).problems == ()


def test_score_on_another_data_set_is_not_compared() -> None:
    found = check(Nearest(), INFO, replace(DATA, name="other"))
    assert found.recorded is None


def test_a_small_gain_on_a_few_images_is_taken_for_chance() -> None:
    label = torch.tensor([[[0] * 60 + [1] * 40]])
    as_it_is = torch.tensor([[[0] * 50 + [1] * 10 + [0] * 10 + [1] * 30]])
    prepared = torch.tensor([[[0] * 53 + [1] * 7 + [0] * 8 + [1] * 32]])

    def is_better(images: int) -> bool:
        scores = (
            Scores.of(answer.repeat(images, 1, 1), label.repeat(images, 1, 1), 2) for answer in (as_it_is, prepared)
        )
        mine, other = scores
        assert 0.05 < other.miou - mine.miou < 0.08
        return teacher_check._is_better(other, mine)

    assert (is_better(2), is_better(9), is_better(10)) == (False, False, True)


def test_often_missed_weak_class_is_not_an_exchange() -> None:
    label = torch.tensor([[[0] * 50 + [1] * 10 + [2] * 40]])
    prediction = torch.tensor([[[0] * 45 + [1] * 5 + [0] * 9 + [1] + [2] * 38 + [1] * 2]])
    assert list(exchanged_classes(Scores.of(prediction, label, 3), ("a", "b", "c"))) == []


def test_rare_class_taken_for_an_unseen_one_is_not_an_exchange() -> None:
    label = torch.tensor([[[0] * 80 + [1] * 8 + [2] * 12]])
    prediction = torch.tensor([[[0] * 80 + [0] * 8 + [0] * 9 + [1] * 3]])
    assert list(exchanged_classes(Scores.of(prediction, label, 3), ("road", "pedestrian", "cyclist"))) == []


def test_exchange_with_a_hardly_found_class_is_detected() -> None:
    # sky is answered as pole; the few pixels of pole are mostly taken for road, and one for sky
    label = torch.tensor([[[0] * 50 + [1] * 40 + [2] * 10]])
    prediction = torch.tensor([[[0] * 50 + [2] * 38 + [0] * 2 + [0] * 9 + [1]]])
    (problem,) = exchanged_classes(Scores.of(prediction, label, 3), ("road", "sky", "pole"))
    assert problem == (
        "Classes look exchanged: sky is answered as pole (IoU 95 %, as itself 0 %); "
        "pole is answered as sky (IoU 10 %, as itself 0 %)."
    )


def test_classes_that_a_sample_lacks_do_not_lower_its_mean() -> None:
    label = torch.tensor([[[0] * 60 + [1] * 40]])
    prediction = torch.tensor([[[0] * 57 + [2] * 3 + [1] * 38 + [0] * 2]])
    found = TeacherCheck(Scores.of(prediction, label, 4), None, (), (), 1, label_assisted=False)
    assert found.value == pytest.approx((57 / 62 + 38 / 40) / 2)


def test_skipped_checks_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_check, "MAX_SECONDS", 0.0)
    network = Nearest()
    found = check(network)
    assert (found.scores.images, found.problems) == (1, ())
    assert found.untried == tuple(way for way, _ in preprocessing_variants(network.images))
    assert "no time was left for images whose red and blue are exchanged; " in dict(found.rows())["classes, inputs"]


def test_teacher_seeing_other_sizes_in_training_is_reported() -> None:
    network, data = Nearest(), DataConfig(name="patches", crop=(48, 48), batch_size=2)
    assert list(other_sizes(Teacher(network, INFO), data)) == []
    (told,) = other_sizes(Teacher(network, INFO), data.model_copy(update={"size": (60, 80)}))
    assert told == "It is scored on images at their own size, and teaches on crops of images at 60x80."
    network.only_size = (64, 64)
    (told,) = other_sizes(Teacher(network, INFO), data)
    assert told == "It takes images of 64x64 alone: crops of 48x48 are stretched to that."
    network.only_size = (48, 48)
    assert list(other_sizes(Teacher(network, INFO), data)) == []


def distilling(teacher: Path) -> str:
    return f"distill --preset skd --teacher {teacher} --student resnet18-half {ON_PATCHES} --steps 2"


ON_PATCHES = "--data data.toml --workers 0 --set data.crop=[48,48] --set data.batch_size=4 --set data.scale=[1,1]"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a teacher that tells four colors apart, in a folder that has them on disk."""
    folder = tmp_path_factory.mktemp("patches")
    for split, first in (("train", 0), ("val", 8)):
        for kind in ("images", "labels"):
            (folder / split / kind).mkdir(parents=True)
        for index in range(first, first + 8):
            sample = Patches().read(index % 6)
            Image.fromarray(sample.image).save(folder / split / "images" / f"{index}.png")
            Image.fromarray(sample.label).save(folder / split / "labels" / f"{index}.png")
    splits = "".join(f'[{name}]\nimages = "{name}/images"\nlabels = "{name}/labels"\n' for name in ("train", "val"))
    (folder / "data.toml").write_text(f'name = "patches"\nclasses = {list(CLASSES)}\n{splits}')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        succeeds(f"train-teacher --preset skd --teacher resnet18-half {ON_PATCHES} --steps 30 --out teacher")
    return folder / "teacher"


def exchanged(teacher: Path) -> Path:
    """Return the file of a teacher like that, with two outputs exchanged by mistake."""
    network, info = load_model(teacher / "model.safetensors")
    with torch.no_grad():
        for name in ("classifier.weight", "classifier.bias"):
            parameter = network.get_parameter(name)
            parameter.copy_(parameter[[1, 0, 2, 3]].clone())
    path = teacher.parent / "exchanged.safetensors"
    save_model(path, network, info)
    return path


@pytest.mark.promise("T3")
def test_exchanged_classes_stop_the_run_unless_accepted(teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(teacher.parent)
    wrong = exchanged(teacher)
    for more in (" --dry-run", " --out wrong"):
        refused(
            distilling(wrong) + more, "Classes look exchanged", "red is answered as green", "--accept-teacher", code=4
        )
    assert not (teacher.parent / "wrong").exists()
    result = succeeds(f"{distilling(wrong)} --accept-teacher --dry-run")
    assert "Classes look exchanged" in result.err


@pytest.fixture
def mislabeled(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work on the same images where the validation labels call red green and green red: no teacher of these is good."""
    for name in ("train", "val", "data.toml"):
        source = teacher.parent / name
        shutil.copytree(source, tmp_path / name) if source.is_dir() else shutil.copy(source, tmp_path / name)
    for file in (tmp_path / "val/labels").iterdir():
        label = np.array(Image.open(file))
        Image.fromarray(np.array([1, 0, 2, 3], np.uint8)[label]).save(file)
    monkeypatch.chdir(tmp_path)
    return tmp_path


ON_THE_WAY = f"distill --preset skd --teacher resnet18-half --student resnet18-half {ON_PATCHES} --steps 30 --out run"


def passed_checks() -> dict[str, bool]:
    """Return which checks the run has passed, and whether they were overruled."""
    path = Path("run/teacher.json")
    checks = json.loads(path.read_text())["checks"] if path.exists() else {}
    return {name: check["overruled"] for name, check in checks.items()}


def killed_in_the_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the next training in its teacher's second step, where nothing is saved yet."""
    step = recorder.Recorder.__call__

    def call(self: recorder.Recorder, report: Report) -> None:
        if report.step == 2:
            raise Stopped("Killed.", "", 9)
        step(self, report)

    monkeypatch.setattr(recorder.Recorder, "__call__", call)


@pytest.mark.slow  # trains a teacher until it can be told from chance
@pytest.mark.promise("T3")
def test_teacher_trained_on_the_way_is_checked_until_accepted(
    mislabeled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        killed_in_the_teacher(patch)
        assert segdistill(ON_THE_WAY).code == 137
    for _ in range(2):  # the kill skips no check, and neither does the refusal
        refused(f"{ON_THE_WAY} --resume", "Classes look exchanged", "--accept-teacher", code=4)
        assert passed_checks() == {}
    with monkeypatch.context() as patch:
        patch.setattr(_first_step, "show_first_step", dies)
        assert segdistill(f"{ON_THE_WAY} --resume --accept-teacher").code == 137
    assert passed_checks() == {"teacher": True}
    refused(f"{ON_THE_WAY} --resume", "Classes look exchanged", code=4)  # it was overruled, not passed
    reporter = succeeds(f"{ON_THE_WAY} --resume --accept-teacher").err
    assert "check: the first" in reporter
    assert passed_checks() == {"teacher": True, "first step": False}


def dies(*words: object) -> None:
    raise Stopped("Killed.", "", 9)


@pytest.mark.promise("T3")
def test_run_killed_between_checks_repeats_only_missing_checks(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(teacher.parent, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    line = f"{distilling(Path('teacher'))} --out run"
    with monkeypatch.context() as patch:
        patch.setattr(_first_step, "show_first_step", dies)
        assert segdistill(line).code == 137
    assert passed_checks() == {"teacher": False}
    forged = json.loads(Path("run/teacher.json").read_text())
    with monkeypatch.context() as patch:
        patch.setattr(_student, "train", dies)
        reporter = segdistill(f"{line} --resume").err
        assert "check: teacher" not in reporter
        assert "check: the first" in reporter
        assert passed_checks() == {"teacher": False, "first step": False}
        assert "check:" not in segdistill(f"{line} --resume").err
        forged["checks"] = {
            "teacher": {"identity": "another's", "overruled": False},
            "first step": {"identity": "other terms'", "overruled": False},
        }
        Path("run/teacher.json").write_text(json.dumps(forged))
        reporter = segdistill(f"{line} --resume").err
        assert "check: teacher" in reporter
        assert "check: the first" in reporter


@pytest.mark.promise("T3")
def test_check_is_shown_logged_and_not_repeated_on_resume(teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(teacher.parent)
    line = f"{distilling(teacher)} --out student"
    shown, log = succeeds(line).err, teacher.parent / "student" / "train.log"
    for text in ("check: teacher pspnet-resnet18-half", "tensors, all loaded"):
        assert text in shown  # before there is a folder
    for text in ("check: the first", "map 4 of 0-4"):
        assert text in shown
        assert text in log.read_text()
    resume_command = segdistill(f"{line} --resume")
    assert resume_command.code == 0
    assert "check:" not in resume_command.err


def test_size_that_costs_a_teacher_from_elsewhere_is_said() -> None:
    # 48x48 patches of 8 pixels: brought to 6x6, one pixel has the colors of all around it
    elsewhere = INFO.model_copy(update={"data": "", "metrics": {}, "size": (6, 6)})
    data = DataConfig(name="patches", size=(6, 6), crop=(6, 6), batch_size=2)
    found = check_teacher(Teacher(Nearest(), elsewhere), DATA, CPU, data)
    cost = found.size_cost
    assert cost is not None
    assert (cost.teaching, cost.own, cost.images) == ((6, 6), None, 6)
    assert cost.at_own == pytest.approx(check(Nearest()).value)
    assert cost.at_teaching == pytest.approx(found.value)
    (told,) = found.warnings
    points = 100 * (cost.at_own - cost.at_teaching)
    assert told.startswith(f"data.size costs this teacher {points:.1f} points of mIoU")
    assert "at 6x6, at which it teaches" in dict(found.rows())["sizes"]


@pytest.mark.parametrize(
    ("info", "size"),
    [
        (INFO.model_copy(update={"size": (24, 24)}), (24, 24)),  # it was trained at that size, on this data
        (INFO, None),
        (INFO.model_copy(update={"data": "", "size": None}), None),
        (INFO.model_copy(update={"data": "", "size": (48, 48)}), (48, 48)),  # the images' own
    ],
)
def test_teacher_at_its_own_size_is_scored_once(info: ModelInfo, size: tuple[int, int] | None) -> None:
    data = DataConfig(name="patches", size=size, crop=(24, 24), batch_size=2)
    found = check_teacher(Teacher(Nearest(), info), DATA, CPU, data)
    assert (found.size_cost, found.warnings) == (None, ())
