"""What an imported network needs to know: its classes, how it sees images, and its void output."""

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from helpers.commands import UNTRAINED, refused, succeeds
from helpers.imported import HALF, LIU, TOLD, imported, not_imported, state_of
from segdistill.checkpoints.model_file import load_model
from segdistill.config.presets import parse_network
from segdistill.config.schema import InputConfig
from segdistill.data.datasets.camvid import CLASSES
from segdistill.deployment.session import OnnxModel
from segdistill.networks import InferenceWrapper

pytestmark = pytest.mark.usefixtures("elsewhere")


# Classes


def test_class_count_must_match_the_outputs(camvid: Path) -> None:
    state, data = state_of("espnet-c", 12), f"--data {shlex.quote(f'camvid:{camvid}')}"
    not_imported(state, f"--network espnet-c {data}", "12 outputs; camvid has 11 classes", "--void-output 11", code=2)
    not_imported(state, "--network espnet-c --classes 9", "12 outputs; --classes has 9 classes", code=2)
    line = "--network espnet-c --classes 12 --void-output 11"
    not_imported(state, line, "12 outputs, 11 classes and void; --classes has 12 classes", "without void", code=2)
    not_imported(state, "--network espnet-c --void-output 12", "--void-output 12", "outputs 0 to 11", code=2)
    _, info, _ = imported(state, f"--network espnet-c {data} --classes 11 --void-output 3")
    assert (info.classes, info.data, info.void_output) == (CLASSES, "camvid", 3)


def test_network_with_too_many_outputs_is_refused() -> None:
    imported(state_of("espnet-c", 251), f"--network espnet-c {TOLD} --divide 1 --void-output 0")
    shutil.rmtree("model")
    not_imported(state_of("espnet-c", 251), "--network espnet-c", "has 251 outputs; label maps tell 250 classes")


def test_without_data_classes_are_the_numbers_of_their_outputs() -> None:
    _, info, _ = imported(state_of(HALF, 4), f"--network {HALF} {TOLD} --void-output 1")
    assert info.classes == ("0", "2", "3")
    assert len({*info.palette, (0, 0, 0)}) == 4, "black is for what counts nowhere"
    refused("evaluate model", "model does not say where its data set lies", "--data")
    refused("evaluate model --data streets", "classes are not those of streets", "import it again with --data streets")


# What the network expects of images


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "--mean 1,2,3 --std 4,5,6 --bgr --divide 255",
            InputConfig(mean=(3, 2, 1), std=(6, 5, 4), order="bgr", divide=255),
        ),
        ("--mean 1,2,3 --std 4,5,6 --divide 1", InputConfig(mean=(3, 2, 1), std=(6, 5, 4), order="bgr")),
        ("--mean 1,2,3 --std 4,5,6 --rgb --divide 2", InputConfig(mean=(1, 2, 3), std=(4, 5, 6), divide=2)),
        (
            "--set input.divide=3 --set input.mean=[1,2,3] --set input.std=[4,5,6]",
            InputConfig(mean=(1, 2, 3), std=(4, 5, 6), order="bgr", divide=3),
        ),
    ],
)
def test_mean_and_std_follow_the_channel_order_of_the_network(line: str, expected: InputConfig) -> None:
    network, info, said = imported(state_of("espnet-c", 9), f"--network espnet-c {line}")
    assert info.network.input == network.images == expected
    assert "warning" not in said


@pytest.mark.parametrize(
    ("name", "line", "flags"),
    [
        ("espnet-c", "", "Give --mean A,B,C --std A,B,C --divide F, of channels in 0..255"),
        ("espnet-c", "--mean 1,2,3 --std 4,5,6 --bgr", "Give --divide F, of"),
        ("espnet-c", "--divide 255 --std 4,5,6", "Give --mean A,B,C, of"),
        ("espnet-c", "--set input.mean=[1,2,3] --divide 255", "Give --std A,B,C, of"),
        ("espnet", "--bgr", "Give --mean A,B,C --std A,B,C, of"),
        (HALF, "", "Give --mean A,B,C --std A,B,C, of"),
        (HALF, "--mean 1,2,3", "Give --std A,B,C, of"),
        ("enet", "", "ImageNet's statistics, the default of our own: --rgb --mean 123.675,116.28,103.53"),
    ],
)
def test_unknown_image_statistics_must_be_given(name: str, line: str, flags: str) -> None:
    expected = ["the statistics of its images are not known", "has 9 outputs and the tensor names of", flags]
    not_imported(state_of(name, 9), f"--network {name} {line}", *expected, code=2)


def test_the_statistics_of_an_architecture_are_listed_as_flags() -> None:
    theirs = "ESPNet's authors, CamVid: --bgr --mean 110.33,108.41,105.03 --std 72.13,72.69,69.9 --divide 255"
    means, deviations = "73.18188461,82.93553322,72.41519599", "45.3199,46.1528,44.9148"
    liu = f"Liu et al. 2019, CamVid: --bgr --mean {means} --std {deviations} --set align_corners=true"
    not_imported(state_of("espnet-c", 9), "--network espnet-c", theirs, liu, code=2)
    _, info, said = imported(state_of("espnet-c", 9), f"--network espnet-c --divide 1 {liu.partition(': ')[2]}")
    assert info.network.input == LIU
    assert info.network.align_corners
    assert "as given" in said
    assert "align corners" not in said
    *_, said = imported(state_of("espnet-c", 9), f"--network espnet-c --divide 1 {TOLD}")
    assert "some publications of this network align corners, which no tensor tells: --set align_corners=true" in said


@pytest.mark.parametrize(
    ("name", "outputs", "known"),
    [
        ("espnet", 19, False),
        ("espnet-c", 19, True),
        ("espnet-c-q3", 19, False),
        ("espnet-q5", 20, True),
        ("pidnet-s", 9, True),
    ],
)
def test_published_statistics_are_recognized_by_tensors(name: str, outputs: int, known: bool) -> None:
    if known:
        imported(state_of(name, outputs), f"--network {name}")
    else:
        not_imported(state_of(name, outputs), f"--network {name}", "statistics of its images are not known", code=2)


def test_images_are_resized_only_with_a_given_size() -> None:
    _, info, said = imported(state_of("espnet", 20), "--network espnet")
    assert info.size is None
    assert "at their own size" in said
    assert "published scores are of images at 512x1024: give it as --size" in said
    assert "output 19 is void in what ESPNet's authors, Cityscapes, publish: --void-output 19" in said
    _, info, said = imported(state_of("espnet", 20), "--network espnet --size 512x1024 --void-output 19")
    assert info.size == (512, 1024)
    assert "at 512x1024" in said
    assert "hint" not in said


def test_preprocessing_override_keeps_the_other_published_values() -> None:
    _, published, _ = imported(state_of("espnet-c", 20), "--network espnet-c")
    _, info, said = imported(state_of("espnet-c", 20), "--network espnet-c --set input.order=rgb --overwrite")
    assert published.network.input is not None
    assert info.network.input == published.network.input.model_copy(update={"order": "rgb"})
    assert info.network.input.mean != InputConfig().mean
    assert "warning" not in said


# Void


def constant(answer: int) -> dict[str, Tensor]:
    """Return a checkpoint of 12 outputs that gives one answer to every pixel."""
    state = state_of(HALF, 12)
    state["classifier.weight"].zero_()
    state["classifier.bias"] = torch.arange(12) / 10 + 5 * torch.eye(12)[answer]
    return state


VOID = 3
"""The output that stands for void; the classes of CamVid are the other eleven."""


def test_void_output_is_exported_last() -> None:
    network, info, _ = imported(state_of(HALF, 12), f"--network {HALF} {TOLD} --void-output {VOID}")
    image = 255 * torch.rand(2, 3, 33, 47)
    with torch.no_grad():
        shipped, network.void_output = InferenceWrapper(network)(image), None
        as_it_was = InferenceWrapper(network)(image)
    torch.testing.assert_close(shipped, as_it_was[:, [0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11, VOID]])
    assert (info.outputs, len(info.classes)) == (12, 11)


@pytest.mark.parametrize(("answer", "taken_for"), [(7, 6), (VOID, None)])
def test_void_answer_is_a_miss_and_void_pixels_can_be_counted(answer: int, taken_for: int | None, camvid: Path) -> None:
    imported(constant(answer), f"--network {HALF} {TOLD} --data {shlex.quote(f'camvid:{camvid}')} --void-output {VOID}")
    line = f"evaluate model --data {shlex.quote(f'camvid:{camvid}')} --workers 0"
    scores = json.loads(succeeds(f"{line} --count-void --json").out)
    truth = np.stack([np.asarray(Image.open(file)) for file in (camvid / "valannot").iterdir()])
    pixels = np.bincount(truth.flatten(), minlength=12)  # the last are void
    hits = 0 if taken_for is None else pixels[taken_for]
    assert scores["pixel_accuracy"] == hits / pixels[:11].sum()
    classes = (pixels[:11] > 0).sum()
    assert scores["miou"] == pytest.approx(hits / pixels[:11].sum() / classes)
    assert scores["miou_counting_void"] == pytest.approx(hits / pixels.sum() / classes)
    assert "miou_counting_void" not in json.loads(succeeds(f"{line} --json").out)
    shown = succeeds(f"{line} --count-void").out
    assert f"{100 * scores['miou_counting_void']:.2f}" in shown.partition("mIoU counting void")[2]


def test_void_answers_are_black_in_label_maps(camvid: Path) -> None:
    for answer, expected in ((VOID, 255), (7, 6)):
        imported(constant(answer), f"--network {HALF} {TOLD} --void-output {VOID}")
        succeeds(f"infer model {shlex.quote(str(camvid / 'val'))} --out labels{answer}")
        for file in Path(f"labels{answer}").iterdir():
            with Image.open(file) as picture:
                assert np.unique(np.asarray(picture)).tolist() == [expected]
                assert (picture.convert("RGB").getextrema() == ((0, 0),) * 3) == (answer == VOID)


def test_exported_graph_has_void_last_in_its_metadata(camvid: Path) -> None:
    state, data = state_of(HALF, 12), f"--data {shlex.quote(f'camvid:{camvid}')}"
    network, _, _ = imported(
        {name: t.double() if t.is_floating_point() else t for name, t in state.items()},
        f"--network {HALF} {TOLD} {data} --void-output {VOID}",
    )
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float64}
    result = json.loads(succeeds(f"export model {data} --workers 0 --json").out)
    assert result["check"]["label_agreement"] >= 0.999
    info = OnnxModel(Path("model/model.onnx"), torch.device("cpu")).info
    assert (info.void_output, info.outputs, info.classes) == (11, 12, CLASSES)
    model, exported = (
        json.loads(succeeds(f"evaluate {path} {data} --workers 0 --json").out) for path in ("model", "model/model.onnx")
    )
    assert model["iou"] == pytest.approx(exported["iou"], abs=1e-3)


def test_an_imported_network_teaches_like_a_run(camvid: Path) -> None:
    data = f"--data {shlex.quote(f'camvid:{camvid}')}"
    imported(state_of(HALF, 11), f"--network {HALF} {data} --mean 1,2,3 --std 4,5,6 --bgr")
    line = f"distill --preset skd --teacher model --student resnet18-half {data} {UNTRAINED} --out run --json"
    results = json.loads(succeeds(line).out)["results"]
    assert results["teacher"]["network"] == HALF
    config = parse_network(HALF, ['input.order="bgr"', "input.mean=[3, 2, 1]", "input.std=[6, 5, 4]"])
    assert load_model(Path("model/model.safetensors"))[1].network.input == config.input
