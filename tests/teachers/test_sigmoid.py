"""Teachers with one output, as a sigmoid is trained on: z is taken for two outputs, (0, z)."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image

from helpers.commands import SMALL, refused, succeeds
from segdistill.config.schema import IMAGENET_MEAN, IMAGENET_STD
from segdistill.errors import ModelError
from segdistill.teachers.external import load_external, parse_external

MODULE = """
import torch
from torch import nn

class Dark(nn.Module):
    def forward(self, image):
        return 2 * image.mean(1, keepdim=True) + 0.1

class Probable(nn.Module):
    def forward(self, image):
        return torch.sigmoid(image.mean(1, keepdim=True))

class Named(Dark):
    classes = ["Crack"]
"""


@pytest.fixture(autouse=True)
def _here(elsewhere: None) -> Iterator[None]:
    Path("one.py").write_text(MODULE)
    yield
    sys.modules.pop("one", None)


def two_classes(names: str = '["background", "crack"]') -> str:
    """Write images whose bright part is a crack, and the data file; return its path."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for folder in ("images", "labels"):
            Path("yard", folder, split).mkdir(parents=True)
        for index in range(4):
            label = np.kron(rng.integers(0, 2, (4, 6)), np.ones((8, 8))).astype(np.uint8)
            image = np.repeat((40 + 180 * label)[..., None], 3, axis=2) + rng.integers(0, 9, (32, 48, 3))
            Image.fromarray(image.astype(np.uint8)).save(f"yard/images/{split}/{index}.png")
            Image.fromarray(label if names.endswith('crack"]') else 1 - label).save(f"yard/labels/{split}/{index}.png")
    splits = "".join(f'[{split}]\nimages = "images/{split}"\nlabels = "labels/{split}"\n' for split in ("train", "val"))
    Path("yard/data.toml").write_text(f'name = "yard"\nclasses = {names}\n{splits}')
    return "yard/data.toml"


def write_graph(path: str) -> None:
    """Write a graph that returns twice the mean of the channels of a normalized image, of one output."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1, 3, 1, 1], [2 / 3] * 3)
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", channels, "h", "w_"])
        for name, channels in (("image", 3), ("z", 1))
    ]
    node = helper.make_node("Conv", ["image", "w"], ["z"])
    graph = helper.make_graph([node], "one", [ends[0]], [ends[1]], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, path)


def test_softmax_of_the_two_outputs_is_the_sigmoid_of_the_one() -> None:
    spec = parse_external("py:one:Dark")
    assert spec is not None
    teacher, notes = load_external(spec, None, torch.device("cpu"))
    image = torch.rand(2, 3, 8, 8) * 255
    logits = teacher.network(image).logits
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    z = 2 * ((image - mean) / std).mean(1) + 0.1
    assert torch.equal(logits[:, 0], torch.zeros(2, 8, 8))
    assert torch.allclose(logits.softmax(1)[:, 1], torch.sigmoid(z), atol=1e-6)
    assert teacher.info.classes == ("0", "1")
    assert any("one output z" in note for note in notes)


@pytest.mark.parametrize("teacher", ["py:one:Dark", "onnx:one.onnx", "py:one:Named"])
def test_teacher_with_one_output_is_scored_and_followed(teacher: str) -> None:
    data = two_classes()
    write_graph("one.onnx")
    scored = succeeds(f"evaluate {teacher} --data {data} --json --workers 0")
    assert json.loads(scored.out)["miou"] == 1
    assert "it has one output z, as a sigmoid is trained on" in " ".join(scored.err.split())
    said = succeeds(f"distill --preset tsl --teacher {teacher} --student resnet18-half --data {data} {SMALL} --out run")
    assert "taken for two, (0, z)" in " ".join(said.err.split())
    assert Path("run/model.safetensors").exists()


def test_named_output_finds_its_class_wherever_it_stands() -> None:
    data = two_classes('["crack", "background"]')
    scored = succeeds(f"evaluate py:one:Named --data {data} --json --workers 0")
    assert json.loads(scored.out)["miou"] == 1


def test_class_map_says_which_class_the_output_is() -> None:
    data = two_classes('["crack", "background"]')
    Path("map.toml").write_text('[classes]\n"0" = "background"\n"1" = "crack"\n')
    scored = succeeds(f"evaluate py:one:Dark --data {data} --class-map map.toml --json --workers 0")
    assert json.loads(scored.out)["miou"] == 1


def test_probabilities_and_other_classes_are_refused() -> None:
    data = two_classes()
    refused(f"evaluate py:one:Probable --data {data}", "one output, between 0 and 1", "before the sigmoid", code=5)
    refused(
        "evaluate py:one:Dark --data streets", "The teacher's classes are not those of the data", "teacher (2): 0, 1"
    )
    spec = parse_external("py:one:Probable")
    assert spec is not None
    with pytest.raises(ModelError, match="probabilities"):
        load_external(spec, None, torch.device("cpu"))
