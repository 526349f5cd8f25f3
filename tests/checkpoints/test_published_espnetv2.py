"""ESPNetv2's published files: known by their names, imported whole, and computing what they compute there."""

from pathlib import Path

import pytest
import torch

from helpers.commands import refused, succeeds
from helpers.espnetv2 import GOLDEN, as_its_authors_publish, golden_logits
from helpers.imported import imported, network
from helpers.published_weights import published_weights
from segdistill.checkpoints.model_file import load_model
from segdistill.checkpoints.published_files import published_file
from segdistill.commands._initial_weights import load_initial, start_from
from segdistill.config.schema import InputConfig, NetworkConfig
from segdistill.data.datasets import cityscapes
from segdistill.networks import build_network
from segdistill.networks.espnetv2 import ESPNetv2

pytestmark = pytest.mark.usefixtures("elsewhere")
FILE = "espnetv2_s_{}_city_1024x512.pth"


def state(scale: str = "0.5", outputs: int = 20) -> dict[str, torch.Tensor]:
    found = network(GOLDEN[scale].network, outputs)
    assert isinstance(found, ESPNetv2)
    return as_its_authors_publish(found)


@pytest.mark.parametrize("scale", GOLDEN)
def test_published_weights_compute_here_what_they_do_there(scale: str) -> None:
    file = published_weights(FILE.format(scale))
    said = succeeds(f"import-weights {file} --out model").err
    found, info = load_model(Path("model/model.safetensors"))
    assert golden_logits(found) == pytest.approx(GOLDEN[scale].published.flat(), rel=1e-9, abs=0)
    assert (info.network.network, info.network.input) == (GOLDEN[scale].network, InputConfig())
    assert (info.classes, info.palette) == (cityscapes.CLASSES, cityscapes.PALETTE)
    assert (info.void_output, info.network.align_corners) == (19, True)
    assert "used       523 tensors" in said
    assert said.count("eesp.module_act.weight: an activation that their code does not compute with") == 3


def test_published_file_name_tells_network_classes_and_void() -> None:
    torch.save(state(), FILE.format("0.5"))
    said = succeeds(f"import-weights {FILE.format('0.5')} --out model").err
    _, info = load_model(Path("model/model.safetensors"))
    assert (info.network.network, info.classes, info.void_output) == ("espnetv2-0.5", cityscapes.CLASSES, 19)
    assert "19 classes and void, which is output 19" in said


def test_training_starts_with_the_outputs_of_published_classes() -> None:
    file = Path(FILE.format("0.5"))
    torch.save(state(), file)
    # pyramids as wide as for 19 classes and void
    config = NetworkConfig(network="espnetv2-0.5", head_width=10)
    assert load_initial(file, config).classes == (*cityscapes.CLASSES, None)
    fitted = start_from(build_network(config, 2), file, config, ("Traffic_Sign", "lamp"))
    assert (fitted.kept, fitted.drawn, fitted.left_as_drawn) == (("Traffic_Sign",), ("lamp",), ())


def test_outputs_of_other_weights_have_no_published_classes() -> None:
    torch.save(state(outputs=7), FILE.format("0.5"))
    config = NetworkConfig(network="espnetv2-0.5")
    assert load_initial(Path(FILE.format("0.5")), config).classes == tuple("0123456")


def test_other_weights_under_a_published_name_stay_unnamed() -> None:
    torch.save(state(outputs=7), FILE.format("0.5"))
    succeeds(f"import-weights {FILE.format('0.5')} --out model")
    _, info = load_model(Path("model/model.safetensors"))
    assert (info.classes, info.void_output) == (tuple("0123456"), None)


def test_given_options_come_before_those_of_the_name() -> None:
    torch.save(state(), FILE.format("0.5"))
    succeeds(f"import-weights {FILE.format('0.5')} --network espnetv2 --void-output 3 --out model")
    _, info = load_model(Path("model/model.safetensors"))
    assert (info.void_output, info.classes[:4]) == (3, ("0", "1", "2", "4"))


def test_file_of_another_name_needs_its_network() -> None:
    torch.save(state(), "file.pth")
    refused("import-weights file.pth --out model", "No network given for file.pth", "--network NET", code=2)
    assert not Path("model").exists()
    assert published_file("espnetv2_s_0.7_city_1024x512.pth") is None


@pytest.mark.parametrize("scale", GOLDEN)
def test_the_scale_is_read_off_the_tensors(scale: str) -> None:
    _, info, said = imported(state(scale), "--network espnetv2")
    assert info.network.network == GOLDEN[scale].network
    assert "output 19 is void in what ESPNetv2's authors, Cityscapes, publish: --void-output 19" in said


def test_pascal_files_have_no_void_and_the_same_images() -> None:
    _, info, said = imported(state(outputs=21), "--network espnetv2-0.5")
    assert (len(info.classes), info.void_output, info.network.input) == (21, None, InputConfig())
    assert "as ESPNetv2's authors; at their own size" in said
