"""Another package adds a term, a network and a data set by entry points; names that clash and broken ones are told."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import segdistill as sd
from helpers.commands import SMALL, process, read_back, refused, segdistill, succeeds
from segdistill.checkpoints.model_file import read_info
from segdistill.config import plugins
from segdistill.config.registry import components

TERM = '''
from typing import Annotated
from pydantic import Field
from segdistill import losses
from segdistill.config.schema import Strict
from segdistill.terms import TermContext, valid_mask_at
from segdistill.types import Batch, SegOutput, Term


class Options(Strict):
    """Keys of [terms.sharpness] beside `weight`."""

    temperature: Annotated[float, Field(gt=0)] = 0.5


class Sharpness(Term):
    def __init__(self, temperature):
        super().__init__()
        self.temperature = temperature

    def forward(self, student, teacher, batch):
        valid, weight = valid_mask_at(batch, student.logits.shape[-2:])
        return losses.pixel_kl(student.logits, teacher.logits, temperature=self.temperature, valid=valid) * weight


def build(options: Options, context: TermContext) -> Term:
    return Sharpness(options.temperature)
'''
NETWORK = """
from torch import nn
from segdistill.networks import SegNetwork
from segdistill.types import SegOutput

BACKBONES = ("s", "m")
STRIDES = (4,)
OPTIONS = ()


class Mininet(SegNetwork):
    def __init__(self, num_classes, in_channels, width):
        super().__init__(num_classes, in_channels)
        self.body = nn.Sequential(nn.Conv2d(in_channels, width, 3, 4, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def segment(self, image):
        features = self.body(image)
        return SegOutput(self.classifier(features), (features,), None)


def build(config, num_classes, in_channels):
    return Mininet(num_classes, in_channels, {"s": 4, "m": 8}[config.network.partition("-")[2]])
"""
DATA_SET = """
from dataclasses import dataclass
import numpy as np
from segdistill.data import DataSource, Sample


@dataclass(frozen=True)
class Checkers:
    count: int

    @property
    def names(self):
        return tuple(f"board-{index}" for index in range(self.count))

    @property
    def fingerprint(self):
        return str(self)

    def read(self, index):
        rows, columns = np.indices((32, 48)) // (8 + index)
        label = ((rows + columns) % 2).astype(np.uint8)
        image = np.stack([250 * label, 90 + label, 250 - 250 * label], axis=2).astype(np.uint8)
        return Sample(image, label, str(index))

    def digest(self, index):
        return b"%d" % index


def load(path):
    splits = {"train": Checkers(4), "val": Checkers(2)}
    return DataSource("checkers", ("black", "white"), ((0, 0, 0), (255, 255, 255)), splits, generated=True)
"""
MODULES = {"term.py": TERM, "network.py": NETWORK, "data.py": DATA_SET, "__init__.py": ""}
ENTRY_POINTS = """
[segdistill.terms]
sharpness = mini_package.term
[segdistill.networks]
mininet = mini_package.network
[segdistill.datasets]
checkers = mini_package.data
"""
Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put packages where Python finds them, as pip does it; they are gone after the test."""
    folder = tmp_path / "site"
    folder.mkdir()
    before = set(sys.modules)

    def install_package(
        entry_points: str = ENTRY_POINTS, modules: dict[str, str] = MODULES, name: str = "mini-package"
    ) -> Path:
        package = folder / name.replace("-", "_")
        package.mkdir()
        for file, text in modules.items():
            (package / file).write_text(text)
        about = folder / f"{package.name}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(entry_points)
        monkeypatch.syspath_prepend(folder)
        plugins._entry_points.cache_clear()
        return folder

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SEGDISTILL_DATA", raising=False)
    yield install_package
    plugins._entry_points.cache_clear()
    for module in set(sys.modules) - before:
        if module.startswith("mini_package"):
            del sys.modules[module]


def test_package_adds_term_network_and_data_set_that_train(install: Install, tmp_path: Path) -> None:
    install()
    line = f"--data checkers {SMALL} --device cpu --precision fp32"
    succeeds(f"train-teacher --teacher mininet-m {line} --out teacher")
    words = "--set terms.sharpness.weight=2.0 --set terms.sharpness.temperature=2.0 --accept-teacher"
    result = succeeds(
        f"distill --preset fitnet --teacher teacher --student mininet-s {line} {words} --out student --verbose"
    )
    assert "sharpness" in result.err
    info = read_info(tmp_path / "student/model.safetensors")
    assert (info.network.network, info.data, info.classes) == ("mininet-s", "checkers", ("black", "white"))
    assert set(info.terms) == {"feature", "pixel", "sharpness"}
    assert sd.load("student", device="cpu").predict(np.zeros((8, 9, 3), np.uint8)).shape == (8, 9)
    assert succeeds("evaluate student --workers 0 --device cpu --json").out
    kd = sd.Distiller(
        sd.create_network("mininet-s", num_classes=2),
        sd.create_network("mininet-m", num_classes=2),
        {"sharpness": {"weight": 1.0, "temperature": 3.0}},
    )
    assert kd.objective.terms["sharpness"].temperature == 3


def test_commands_and_messages_list_added_components(install: Install) -> None:
    assert "mininet" not in components("networks")
    install()
    assert {"mininet-m", "mininet-s"} <= set(sd.list_networks())
    assert "mininet-s" in succeeds("networks mininet --size 64x64").out
    refused("networks mininext", "Did you mean", "mininet-")
    refused("train-teacher --teacher mininet-l --data streets", "Unknown network 'mininet-l'", "mininet-m")
    refused("train-teacher --data chekers", "Unknown data set 'chekers'", "checkers")
    refused("distill --teacher pspnet18 --student resnet18 --set terms.sharpnes.weight=1", "Did you mean sharpness")
    printed = succeeds(
        "distill --teacher mininet-m --student mininet-s --data checkers --set terms.sharpness.weight=1 --print-config"
    )
    assert "temperature = 0.5" in printed.out
    assert read_back(printed.out).terms["sharpness"].weight == 1
    assert "canonical" in succeeds("presets list").out


@pytest.mark.parametrize(
    ("group", "entry", "module", "message"),
    [
        ("terms", "pixel", TERM, "adds 'pixel' to segdistill.terms, a name that segdistill itself has"),
        ("networks", "pspnet", NETWORK, "adds 'pspnet' to segdistill.networks, a name that segdistill itself has"),
        ("datasets", "camvid", DATA_SET, "adds 'camvid' to segdistill.datasets, a name that segdistill itself has"),
        ("networks", "mini-net", NETWORK, "names one of its networks 'mini-net'"),
        ("terms", "Sharp", TERM, "names one of its terms 'Sharp'"),
        ("networks", "mininet", "import nothing_of_that_name", "cannot be imported: ModuleNotFoundError"),
        ("networks", "mininet", "raise SystemExit(3)", "cannot be imported: SystemExit"),
        ("networks", "mininet", NETWORK.replace("STRIDES =", "STEPS ="), "has no STRIDES"),
        ("terms", "sharpness", TERM.replace("def build", "def make"), "has no build"),
        (
            "terms",
            "sharpness",
            TERM.replace("return Sharpness(options.temperature)", "return 5"),
            "returns int, not a Term",
        ),
        ("datasets", "checkers", "def load(path): return 5", "returns int, not a DataSource"),
    ],
)
def test_unsuitable_components_are_reported(
    group: str, entry: str, module: str, message: str, install: Install
) -> None:
    install(f"[segdistill.{group}]\n{entry} = mini_package.it\n", {"__init__.py": "", "it.py": module})
    lines = {
        "terms": "distill --teacher pspnet18 --student resnet18 --set terms.sharpness.weight=1 --dry-run",
        "networks": "networks",
        "datasets": "train-teacher --data checkers --dry-run",
    }
    result = segdistill(lines[group])
    assert result.code == 2, result.err
    assert message in " ".join(result.err.replace("│", " ").split())
    assert "Traceback" not in result.err


def test_two_packages_with_one_component_name_are_reported(install: Install) -> None:
    install()
    install("[segdistill.terms]\nsharpness = other.term\n", {"__init__.py": ""}, name="mini-other")
    refused("distill --teacher pspnet18 --student resnet18", "mini-package", "mini-other", "Uninstall one of them")


def test_added_package_is_imported_only_on_use(install: Install) -> None:
    folder = install()
    assert "sharpness" in components("terms")
    assert "mini_package.term" not in sys.modules
    done = process(sys.executable, "-m", "segdistill", "--help", PYTHONPATH=f"{folder}:{Path(sd.__file__).parents[1]}")
    assert done.code == 0, done.err
