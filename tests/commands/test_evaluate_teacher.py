"""A teacher of any kind is scored by `evaluate` as `distill` would score it, before a student is trained."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from helpers.class_maps import info
from helpers.commands import NETWORK, SMALL, UNTRAINED, refused, segdistill, succeeds
from helpers.own_data import CLASSES, LABEL, SPLITS, own, write
from segdistill.checkpoints.model_file import save_model
from segdistill.config.schema import NetworkConfig
from segdistill.deployment.onnx import export_onnx
from segdistill.networks import build_network

pytestmark = pytest.mark.usefixtures("elsewhere")
MODULE = """
import torch
from torch import nn


def build():
    torch.manual_seed(0)
    network = nn.Conv2d(3, 4, 3, stride=4, padding=1, bias=False)  # which answers by the colors
    network.classes = ["Road", "sky", "whale", "car"]
    return network
"""
MAP = '[classes]\nroad = "road"\nsky = "sky"\n3 = "car"\n'


@pytest.fixture(autouse=True)
def _own_code(elsewhere: None) -> Iterator[None]:
    Path("own_teacher.py").write_text(MODULE)
    Path("map.toml").write_text(MAP)
    yield
    sys.modules.pop("own_teacher", None)


def scores(line: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(succeeds(f"evaluate {line} --workers 0 --json").out)
    return result


def test_python_teacher_scores_as_distill_says_of_it(camvid: Path) -> None:
    words = f"--data camvid:{camvid} --class-map map.toml"
    teaching = "--set terms.feature.weight=0 --set teacher.scales=[1,1.5] --set teacher.flip=true"
    line = f"distill --teacher py:own_teacher:build --student resnet18-half {words} {UNTRAINED} {teaching} --json"
    expected = json.loads(succeeds(f"{line} --out run").out)["results"]["teacher"]
    found = scores(f"py:own_teacher:build {words} --size 32x48 --scales 1,1.5 --flip")
    assert found["iou"] == expected["iou"]
    assert (found["miou"], found["size"]) == (expected["miou"], [32, 48])
    assert (found["scales"], found["flip"]) == ([1.0, 1.5], True)
    assert found["class_map"] == {"road": "road", "sky": "sky", "3": "car"}
    plain = scores(f"py:own_teacher:build {words} --size 32x48")
    assert plain["iou"] != found["iou"]
    assert "scales" not in plain


def test_model_file_of_other_classes_is_scored_through_a_map(camvid: Path) -> None:
    torch.manual_seed(0)
    network = build_network(NetworkConfig(network=NETWORK), 5)
    save_model(Path("m.safetensors"), network, info("Road", "sky", "building", "car", void=2))
    refused(f"evaluate m.safetensors --data camvid:{camvid}", "classes are not those of camvid", "--class-map")
    exporting = segdistill(f"export m.safetensors --data camvid:{camvid}")
    assert exporting.code == 2
    assert "classes are not those of camvid" in exporting.err
    assert "--class-map" not in exporting.err, "export has no such flag"
    found = scores(f"m.safetensors --data camvid:{camvid} --class-map map.toml")
    assert found["iou"].keys() >= {"road", "sky", "building"}
    # of CamVid's other classes it answers none
    assert not any(found["iou"][name] for name in ("fence", "pole", "bicyclist"))


ORDERS = (["ground", "plant", "tool"], ["Tool", "ground", "plant"])


@pytest.mark.parametrize("model", ["m.safetensors", "m.onnx"])
@pytest.mark.parametrize("void", [None, 1])
def test_same_classes_in_another_order_are_scored_by_name(model: str, void: int | None) -> None:
    torch.manual_seed(0)
    network = build_network(NetworkConfig(network=NETWORK), 3 + (void is not None))
    header = info(*ORDERS[0], void=void)
    save_model(Path("m.safetensors"), network, header)
    if model == "m.onnx":
        export_onnx(network, header, Path(model))
    found = []
    for number, order in enumerate(ORDERS):
        classes = f'name = "yard"\nclasses = {json.dumps(order)}\n'
        data = own(classes + SPLITS, root=Path(f"yard{number}"))
        for path in sorted(Path(f"yard{number}/labels").rglob("*.png")):
            size = (32, 48)
            names = [ORDERS[0][index] for index in np.random.default_rng(1).integers(0, 3, size).ravel()]
            ids = np.array([[name.casefold() for name in order].index(name) for name in names], np.uint8)
            write(path, ids.reshape(size))
            picture = np.random.default_rng(2).integers(0, 256, (*size, 3), np.uint8)
            write(Path(str(path).replace("labels", "images")), picture)
        found.append(scores(f"{model} --data {data}"))
    by_name = [{name.casefold(): value for name, value in one["iou"].items()} for one in found]
    assert by_name[0] == by_name[1]
    assert found[0]["miou"] == pytest.approx(found[1]["miou"])
    Path("names.toml").write_text('[classes]\nground = "tool"\nplant = "plant"\ntool = "ground"\n')
    mapped = scores(f"{model} --data yard0/data.toml --class-map names.toml")
    assert mapped["iou"].keys() == by_name[0].keys()
    assert mapped["miou"] != found[0]["miou"]


def test_graph_of_somebody_else_is_scored(camvid: Path) -> None:
    weight = torch.randn(11, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, "h", "w"])
        for name, channels in (("x", 3), ("y", 11))
    ]
    convolution = helper.make_node("Conv", ["x", "w"], ["y"])
    graph = helper.make_graph([convolution], "own", ends[:1], ends[1:], [numpy_helper.from_array(weight.numpy(), "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), "own.onnx")
    words = f"--data camvid:{camvid}"
    assert scores(f"own.onnx {words}")["iou"] == scores(f"onnx:own.onnx {words}")["iou"]
    other = scores(f"own.onnx {words} --set teacher.input.mean=[0,0,0] --set teacher.input.std=[255,255,255]")
    assert other["iou"] != scores(f"own.onnx {words}")["iou"]


def test_weights_of_a_run_are_chosen_for_several_views_too(camvid: Path) -> None:
    longer = SMALL.replace("--steps 2", "--steps 4")
    succeeds(f"train-teacher --teacher {NETWORK} --data camvid:{camvid} {longer} --set validate.every=1 --out run")
    words = f"--data camvid:{camvid} --flip"
    assert scores(f"run {words} --weights best")["iou"] == scores(f"run/checkpoints/best {words}")["iou"]
    assert scores(f"run {words} --weights last")["iou"] == scores(f"run {words}")["iou"]
    refused(f"evaluate py:own_teacher:build {words} --weights best", "--weights chooses among those of a run")


def test_wrong_teachers_to_evaluate_are_refused(camvid: Path) -> None:
    words = f"--data camvid:{camvid}"
    refused(f"evaluate py:own_teacher:build {words}", "teacher's classes are not those of the data", "--class-map")
    refused("evaluate py:own_teacher:build", "No --data given")
    refused(f"evaluate py:own_teacher:gone {words}", "no function 'gone'")
    refused(f"evaluate pz:own_teacher:build {words}", "Unknown kind of teacher 'pz'")
    Path("none.toml").write_text('[classes]\nwhale = "ignore"\n')
    refused(f"evaluate py:own_teacher:build {words} --class-map none.toml", "no class of the teacher is one of")
    refused(f"evaluate py:own_teacher:build {words} --class-map gone.toml", "no class map gone.toml")
    refused(f"evaluate py:own_teacher:build {words} --scales 1,x", "--scales 1,x", "--scales 1,1.5")
    refused(f"evaluate py:own_teacher:build {words} --scales 0", "--scales", "0.01")
    refused(f"evaluate py:own_teacher:build {words} --set optim.lr=1", "teacher.input.*")
    refused(f"evaluate gone.safetensors {words}", "There is no gone.safetensors")


def test_views_are_refused_with_a_label_assisted_teacher() -> None:
    line = f"distill --preset lad --teacher pspnet18 --student resnet18-half --data streets {SMALL} --out run"
    refused(f"{line} --set teacher.scale=1.5", "label-assisted", "teacher.scale")
    assert not Path("run").exists()


def test_same_classes_in_another_order_need_no_map() -> None:
    yard = own()
    line = "--set data.crop=[32,32] --set data.size=[32,32] --set data.batch_size=2 --steps 2 --workers 0"
    succeeds(f"train-teacher --teacher resnet18-half --data {yard} {line} --out run")
    succeeds(f"export run --data {yard} --workers 0")
    exchanged = LABEL.copy()
    exchanged[LABEL == 0], exchanged[LABEL == 1] = 1, 0
    other = own(CLASSES.replace('"ground", "plant"', '"plant", "ground"') + SPLITS, exchanged, Path("other"))
    for model in ("run", "run/model.safetensors", "run/model.onnx"):
        plain, reordered = (
            json.loads(succeeds(f"evaluate {model} --data {data} --json").out) for data in (yard, other)
        )
        assert reordered["iou"] == plain["iou"], model
        assert list(reordered["iou"]) == ["plant", "ground", "tool"]
    third = own(CLASSES.replace("plant", "tree") + SPLITS, LABEL, Path("third"))
    refused(f"evaluate run --data {third}", "classes are not those of yard", "--class-map")
