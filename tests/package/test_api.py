"""`import segdistill`: lazy names, the commands as functions, models, networks by name, a confusion matrix."""

import inspect
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import segdistill as sd
from helpers.commands import NETWORK, process, segdistill
from helpers.tiny import differing, model_info, source
from segdistill.api.reporter import LOGGER, LibraryReporter
from segdistill.checkpoints.model_file import save_model
from segdistill.cli import _models, _resume, _training
from segdistill.config.schema import LabelEmbedding
from segdistill.data import read_image
from segdistill.data.base import Pixels
from segdistill.errors import CheckError, DataError, ModelError, ShapeError, Stopped, UsageError
from segdistill.evaluation.metrics import confusion_matrix
from segdistill.networks import build_network
from segdistill.runtime.reporter import Advance

SMALL: dict[str, Any] = {
    "set": {"data.size": [32, 48], "data.crop": [32, 48], "data.batch_size": 2},
    "device": "cpu",
    "steps": 2,
    "workers": 0,
}
"""What makes a training a matter of seconds."""


@pytest.fixture(scope="module")
def data(camvid: Path) -> str:
    return f"camvid:{camvid}"


@pytest.fixture(scope="module")
def run(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run of a student that was distilled by the functions."""
    folder = tmp_path_factory.mktemp("runs")
    sd.train_teacher(teacher=NETWORK, data=data, out=folder / "teacher", **SMALL)
    outcome = sd.distill(
        teacher=folder / "teacher",
        student=NETWORK,
        preset="skd",
        data=data,
        out=folder / "student",
        accept_teacher=True,
        **SMALL,
    )
    assert outcome.folder == folder / "student"
    assert outcome.results.keys() == {"teacher", "distilled"}
    return outcome.folder


@pytest.fixture
def image() -> Pixels:
    return source(1).split("train").read(0).image


# ---- names ---------------------------------------------------------------------------------------------------------


def test_the_package_is_imported_without_torch() -> None:
    program = (
        "import sys, segdistill; assert dir(segdistill) == segdistill.__all__; "
        "print({'torch', 'pydantic', 'numpy', 'rich'} & sys.modules.keys())"
    )
    done = process(sys.executable, "-c", program, PYTHONPATH=str(Path(sd.__file__).parents[1]))
    assert (done.code, done.out) == (0, "set()\n"), done.err


def test_every_public_name_exists() -> None:
    for name in sd.__all__:
        value = getattr(sd, name)
        assert value is not None
        assert getattr(sd, name) is value
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(sd, "nothing")  # noqa: B009  # mypy knows that there is none


def test_all_public_names_can_be_imported_at_once() -> None:
    names: dict[str, Any] = {}
    exec("from segdistill import *", names)
    assert set(sd.__all__) <= names.keys()


PRINTING = {"print_config", "json_", "quiet", "verbose"}
"""Flags on what a command prints."""


@pytest.mark.parametrize("name", ["train_teacher", "distill", "resume", "evaluate", "export", "infer"])
def test_functions_have_the_flags_and_defaults_of_commands(name: str) -> None:
    module = {"train_teacher": _training, "distill": _training, "resume": _resume}.get(name, _models)
    command = getattr(module, name)
    flags = {
        flag.removesuffix("_"): parameter.default
        for flag, parameter in inspect.signature(command).parameters.items()
        if flag not in PRINTING
    }
    keywords = {key: parameter.default for key, parameter in inspect.signature(getattr(sd, name)).parameters.items()}
    assert keywords.pop("reporter") is None
    assert keywords == flags


# ---- commands ------------------------------------------------------------------------------------------------------


def test_distill_function_equals_the_command(run: Path, data: str, tmp_path: Path) -> None:
    line = (
        f"distill --teacher {run.parent / 'teacher'} --student {NETWORK} --preset skd --out {tmp_path / 'run'} "
        "--accept-teacher --set data.size=[32,48] --set data.crop=[32,48] --set data.batch_size=2 "
        f"--data {data} --device cpu --steps 2 --workers 0"
    )
    assert segdistill(line).code == 0
    by_command, by_function = (sd.load(folder).network.state_dict() for folder in (tmp_path / "run", run))
    assert all(torch.equal(tensor, by_command[name]) for name, tensor in by_function.items())


def test_dry_run_of_a_function_writes_nothing(data: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    outcome = sd.train_teacher(teacher=NETWORK, data=data, out=tmp_path / "run", dry_run=True, **SMALL)
    assert not [record for record in caplog.records if record.name == LOGGER and record.levelno < logging.WARNING]
    assert outcome.dry_run
    assert not (tmp_path / "run").exists()


def test_functions_restore_torch_settings(run: Path, data: str, tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    before = torch.backends.cudnn.allow_tf32
    try:
        for switch in (True, False):
            torch.backends.cudnn.allow_tf32 = switch
            torch.manual_seed(5)
            sd.train_teacher(teacher=NETWORK, data=data, out=tmp_path / "run", dry_run=True, **SMALL)
            sd.evaluate(run, data=data, workers=0, device="cpu")
            sd.load(run).predict(np.zeros((32, 48, 3), np.uint8))
            assert torch.equal(torch.rand(3), expected)
            assert torch.backends.cudnn.allow_tf32 == switch
    finally:
        torch.backends.cudnn.allow_tf32 = before


def test_evaluate_function_returns_scores(run: Path, data: str) -> None:
    evaluation = sd.evaluate(run, data=data, device="cpu", workers=0)
    assert 0 <= evaluation.scores.miou <= 1
    assert evaluation.to_json()["data"] == "camvid"


def test_infer_function_labels_images_and_reports_others(run: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "in/a.png")
    inference = sd.infer(run, tmp_path / "in", out=tmp_path / "out", device="cpu")
    assert inference.summary.done == 1
    (tmp_path / "in/b.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="1 of 2 images were not labeled"):
        sd.infer(run, tmp_path / "in", out=tmp_path / "out", overwrite=True, device="cpu")


@pytest.mark.parametrize("values", [["optim.lr=0"], {"optim.lr": 0.0}])
def test_overrides_are_texts_or_values(values: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"optim\.lr: .*greater than 0"):
        sd.train_teacher(set=values, out=tmp_path / "run", data="streets")


def test_mistakes_raise_errors_of_the_package(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Unknown preset 'cannonical'"):
        sd.distill(teacher="pspnet18", student=NETWORK, preset="cannonical")
    with pytest.raises(UsageError, match="There is no"):
        sd.evaluate(tmp_path / "nothing")
    for batch in (0, 1025):
        with pytest.raises(UsageError, match=f"--batch {batch}: expected 1 to 1024"):
            sd.export(tmp_path / "nothing", static=True, batch=batch)
    (tmp_path / "model.safetensors").write_bytes(b"no model")
    with pytest.raises(ModelError):
        sd.load(tmp_path / "model.safetensors")


def test_info_messages_are_logged_on_request(data: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, LOGGER):
        sd.train_teacher(teacher=NETWORK, data=data, out=tmp_path / "run", dry_run=True, **SMALL)
    told = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    assert any(NETWORK in message for message in told)


class Interrupting(LibraryReporter):
    """Presses Ctrl-C in the midst of a training, once."""

    pressed = False

    @contextmanager
    def progress(self, title: str, total: int, done: int = 0) -> Iterator[Advance]:
        def advance(count: int, text: str) -> None:
            if not self.pressed and title.startswith("teacher"):
                self.pressed = True
                os.kill(os.getpid(), signal.SIGINT)

        yield advance


def test_a_training_that_is_stopped_goes_on(data: str, tmp_path: Path) -> None:
    options = SMALL | {"teacher": NETWORK, "data": data, "out": tmp_path / "run", "steps": 3}
    with pytest.raises(Stopped, match="after step 1 of 3") as stopped:
        sd.train_teacher(reporter=Interrupting(), **options)
    assert f"the same call with out={str(tmp_path / 'run')!r} and resume=True" in stopped.value.fix
    resumed = sd.train_teacher(resume=True, **options)
    whole = sd.train_teacher(**options | {"out": tmp_path / "whole"})
    one, other = (sd.load(outcome.folder, device="cpu").network.state_dict() for outcome in (resumed, whole))
    assert not differing(one, other)


# ---- models --------------------------------------------------------------------------------------------------------


def test_model_predicts_the_label_maps_of_infer(run: Path, tmp_path: Path, image: Pixels) -> None:
    Image.fromarray(image).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), image)
    sd.infer(run, tmp_path / "a.png", out=tmp_path / "out", device="cpu")
    with Image.open(tmp_path / "out/a.png") as label_map:
        expected = np.asarray(label_map)
    model = sd.load(run, device="cpu")
    ids = model.predict(image)
    assert ids.dtype == np.uint8
    assert np.array_equal(ids, expected)
    assert np.array_equal(model.predict(Image.fromarray(image)), expected)


def test_model_has_classes_palette_network_and_device(run: Path) -> None:
    for path in (run, str(run / "model.safetensors")):
        model = sd.load(path, device="cpu")
        assert len(model.classes) == len(model.palette) == model.network.num_classes
        assert repr(model) == f"Model({str(path)!r}, network={NETWORK!r}, classes={len(model.classes)})"
        assert model.device == torch.device("cpu")


def test_too_slow_export_is_an_error_and_the_file_is_kept(run: Path, data: str, tmp_path: Path, image: Pixels) -> None:
    model, file = sd.load(run, device="cpu"), tmp_path / "model.onnx"
    with pytest.raises(CheckError, match="did not pass: the speed gate"):
        model.export(file, data=data, max_ms=1e-9, workers=0)
    graph = sd.load(file)
    assert graph.classes == model.classes
    assert (graph.predict(image) == model.predict(image)).mean() > 0.99
    with pytest.raises(UsageError, match="holds no PyTorch network"):
        _ = graph.network
    with pytest.raises(UsageError, match="is exported already"):
        graph.export(tmp_path / "again.onnx")


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
    ],
    ids=["gray", "channels first", "fractions", "empty"],
)
def test_predict_refuses_images_of_another_kind(run: Path, image: np.ndarray[Any, Any]) -> None:
    with pytest.raises(ShapeError, match=r"Expected: \(H, W, 3\) uint8, RGB"):
        sd.load(run, device="cpu").predict(image)


def test_label_assisted_model_does_not_predict(tmp_path: Path) -> None:
    info = model_info("espnet", label_embedding=LabelEmbedding(), role="teacher")
    save_model(tmp_path / "model.safetensors", build_network(info.network, 3, in_channels=4), info)
    model = sd.load(tmp_path / "model.safetensors", device="cpu")
    with pytest.raises(UsageError, match="label-assisted"):
        model.predict(np.zeros((32, 32, 3), np.uint8))


def test_void_answer_is_predicted_as_255(tmp_path: Path) -> None:
    info = model_info("espnet", void_output=0)
    network = build_network(info.network, 4)
    network.void_output = 0
    save_model(tmp_path / "model.safetensors", network, info)
    model = sd.load(tmp_path / "model.safetensors", device="cpu")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    with torch.no_grad():
        logits = model._loaded.predict(torch.tensor(noise).permute(2, 0, 1)[None].float())
    expected = logits[0].argmax(0).numpy()
    assert (expected == 3).any()
    assert np.array_equal(model.predict(noise), np.where(expected == 3, 255, expected))


# ---- networks ------------------------------------------------------------------------------------------------------


def test_networks_are_listed_and_created_by_name() -> None:
    names = sd.list_networks()
    assert "pspnet-resnet18" in names
    assert sd.list_networks("resnet18-half") == [name for name in names if "resnet18-half" in name]
    torch.manual_seed(0)
    network = sd.create_network(NETWORK, num_classes=7, output_stride=16, aux=False).eval()
    with torch.no_grad():
        output = network(torch.zeros(1, 3, 64, 64))
    assert output.logits.shape == (1, 7, 4, 4)
    assert isinstance(output, sd.SegOutput)


def test_unknown_networks_and_options_are_refused() -> None:
    with pytest.raises(UsageError, match="Unknown network 'pspnt'"):
        sd.create_network("pspnt", num_classes=7)
    with pytest.raises(UsageError, match="output_strid: unknown key"):
        sd.create_network(NETWORK, num_classes=7, output_strid=16)
    with pytest.raises(UsageError, match="stem"):
        sd.create_network("espnet", num_classes=7, stem="deep")


# ---- confusion matrix ----------------------------------------------------------------------------------------------


def test_a_confusion_matrix_counts_pixels_over_batches() -> None:
    matrix = sd.metrics.ConfusionMatrix(3, ignore_index=7)
    label = np.array([[0, 0, 1], [2, 7, 1]])
    prediction = np.array([[0, 1, 1], [2, 0, 1]])
    matrix.update(prediction, label)
    matrix.update(torch.tensor(prediction)[None], torch.tensor(label)[None])
    assert matrix.matrix.tolist() == [[2, 2, 0], [0, 4, 0], [0, 0, 2]]
    assert matrix.iou == pytest.approx((2 / 4, 4 / 6, 1))
    assert matrix.miou == pytest.approx((0.5 + 2 / 3 + 1) / 3)
    assert matrix.pixel_accuracy == pytest.approx(8 / 10)
    assert repr(matrix) == "ConfusionMatrix(images=2, miou=72.22 %, pixel_accuracy=80.00 %)"
    matrix.reset()
    assert matrix.miou == 0


def test_confusion_matrix_names_the_number_of_scored_classes() -> None:
    matrix = sd.metrics.ConfusionMatrix(5).update(np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8))
    assert repr(matrix) == "ConfusionMatrix(images=1, miou=100.00 % (over 1 of 5 classes), pixel_accuracy=100.00 %)"


def test_confusion_matrix_may_ignore_a_class() -> None:
    label, prediction = torch.arange(12).reshape(1, 3, 4) % 3, torch.arange(12).reshape(1, 3, 4) % 2
    matrix = sd.metrics.ConfusionMatrix(3, ignore_index=2).update(prediction, label)
    expected = confusion_matrix(prediction, label.masked_fill(label == 2, 255), 3)
    assert np.array_equal(matrix.matrix, expected.numpy())


@pytest.mark.parametrize(
    ("prediction", "label", "message"),
    [
        ([[3]], [[0]], r"prediction has the ids \[3\]"),
        ([[-1]], [[0]], r"prediction has the ids \[-1\]"),
        ([[0]], [[4]], r"label has the ids \[4\]"),
        ([[0]], [[255]], r"label has the ids \[255\]"),
    ],
)
def test_confusion_matrix_refuses_unknown_ids(
    prediction: list[list[int]], label: list[list[int]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        sd.metrics.ConfusionMatrix(3, ignore_index=-1).update(np.array(prediction), np.array(label))


def test_confusion_matrix_refuses_other_shapes_and_sizes() -> None:
    with pytest.raises(ShapeError):
        sd.metrics.ConfusionMatrix(3).update(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8))
    for number in (0, 251):
        with pytest.raises(UsageError, match=f"num_classes is {number}"):
            sd.metrics.ConfusionMatrix(number)
