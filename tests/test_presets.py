"""Every preset, whatever it is called: complete, valid for every data set it has a table for, and a file of its own."""

import re
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch

from segdistill.config import NetworkConfig, RunConfig, components, find, load_preset, preset_folder, preset_names
from segdistill.layouts import CIRKD_PSPNET
from segdistill.losses import channel_kl
from segdistill.networks import blank_network
from segdistill.networks._base import count_macs
from segdistill.terms._layers import feature_layers

DATA = sorted({*components("data"), "cityscapes"})
"""The data sets that presets have tables for; NAME:PATH of any of them is the user's own."""
ONE_TEACHER = ("at", "canonical", "cirkd", "cwd", "dsd", "fitnet", "ifvd", "ka", "skd", "tsl")
"""Presets that differ in nothing but their terms on the data sets with a short schedule."""


def table(name: str) -> dict[str, Any]:
    return tomllib.loads((preset_folder() / f"{name}.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("data", [*DATA, "camvid:somewhere/else"])
@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_valid_for_every_data_set(name: str, data: str) -> None:
    config = load_preset(name, data=data)
    assert config.preset == name
    assert config.data.name == data


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_has_tables_for_known_data_sets_only(name: str) -> None:
    tables = table(name)["on"]
    assert isinstance(tables, dict)
    assert {"camvid", "streets"} <= tables.keys() <= set(DATA)


@pytest.mark.parametrize("name", preset_names())
def test_a_data_set_s_table_changes_something(name: str) -> None:
    tables, own = table(name)["on"], load_preset(name, data="ade20k").to_dict()
    assert "ade20k" not in tables
    for data in tables:
        config = load_preset(name, data=data).to_dict()
        config["data"]["name"] = "ade20k"
        assert config != own, data


@pytest.mark.parametrize("name", ["at", "canonical", "cirkd", "cwd", "dsd", "fitnet", "ifvd"])
def test_pascal_voc_has_square_crops_in_the_presets_of_cirkd_s_recipe(name: str) -> None:
    assert load_preset(name, data="voc").data.crop == (512, 512)
    assert load_preset(name).data.crop == (512, 1024)


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_s_file_states_every_value_itself(name: str) -> None:
    written = {key: value for key, value in table(name).items() if key != "on"}
    resolved = RunConfig.model_validate(written).to_dict()
    if resolved["optim"]["algorithm"] == "sgd":
        del resolved["optim"]["beta2"]  # Adam's
    for key in ("labeled", "unlabeled", "auxiliary", "auxiliary_share"):
        if key not in written["data"]:
            del resolved["data"][key]  # for those who have such images
    for key in ("teacher", "student", "data", "optim", "checkpoint", "validate", "terms"):
        assert written[key] == resolved[key], f"[{key}] leaves something to a default"
    assert written.keys() == resolved.keys()


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_states_every_option_of_its_terms(name: str) -> None:
    for term, config in load_preset(name).terms.items():
        module = import_module(find("terms", config.term or term, "term"))
        options = {key for key, field in module.Options.model_fields.items() if field.default is not None}
        assert set(config.options()) == options, term


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("name", preset_names())
def test_a_resolved_preset_is_a_preset_again(name: str, data: str, tmp_path: Path) -> None:
    config = load_preset(name, ["optim.lr=0.003"], data=data)
    file = tmp_path / "again.toml"
    file.write_text(tomli_w.dumps(config.to_dict()))
    assert load_preset(file) == config


@pytest.mark.parametrize("data", ["camvid", "streets"])
def test_methods_are_compared_at_one_recipe_and_can_share_a_teacher(data: str) -> None:
    configs = [load_preset(name, data=data) for name in ONE_TEACHER]
    skd = configs[ONE_TEACHER.index("skd")]
    for config in configs:
        assert (config.student, config.data, config.optim) == (skd.student, skd.data, skd.optim)
        assert (config.aux_weight, config.precision, config.seed) == (skd.aux_weight, skd.precision, skd.seed)
        assert config.teacher == skd.teacher
    lad = load_preset("lad", data=data)
    assert (lad.student, lad.data, lad.optim) == (skd.student, skd.data, skd.optim)


def test_a_preset_may_list_one_term_twice() -> None:
    terms = load_preset("cwd").terms
    assert (terms["channel"].term, terms["channel"].weight, terms["channel"].options()["on"]) == (None, 3, "logits")
    again = terms["channel-feature"]
    assert (again.term, again.weight, again.options()["on"]) == ("channel", 200, "features")


def test_cwd_weighs_features_as_cirkd_s_code_does_and_as_measured_where_it_was_measured() -> None:
    config = load_preset("cwd")
    student, teacher = (feature_layers(blank_network(each, 19))[-1] for each in (config.student, config.teacher))
    assert (student.channels, teacher.channels) == (128, 512)
    generator = torch.Generator().manual_seed(0)
    projected, target = (torch.randn(2, 512, 5, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    p, q = ((maps / 4).exp() for maps in (target, projected))
    p, q = (each / each.sum(dim=(2, 3), keepdim=True) for each in (p, q))
    divergence = 16 * float((p * (p / q).log()).sum())
    theirs = divergence / (2 * student.channels)  # it takes the number of channels before it projects the student's
    ours = float(channel_kl(projected, target, 4.0))
    assert theirs == pytest.approx(4 * ours, rel=1e-9)
    assert config.terms["channel-feature"].weight * ours == pytest.approx(50 * theirs, rel=1e-9)
    for data in ("camvid", "streets"):
        assert load_preset("cwd", data=data).terms["channel-feature"].weight == 50


def test_ka_states_the_flops_of_its_pair() -> None:
    def gigaflops(network: NetworkConfig, **changed: object) -> float:
        macs = count_macs(blank_network(network.model_copy(update=changed), 21), (513, 513))
        return round(2 * macs / 1e9, 1)

    config, text = load_preset("ka"), (preset_folder() / "ka.toml").read_text(encoding="utf-8")
    found = [gigaflops(config.teacher, stem="deep", output_stride=stride) for stride in (16, 8)]
    assert [*found, gigaflops(config.student)] == [93.4, 246.2, 5.5]
    for number in ("90.24", "93.4", "246.2", "5.50"):
        assert number in text


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_says_where_published_networks_start_and_how_they_see_images(name: str) -> None:
    text = (preset_folder() / f"{name}.toml").read_text(encoding="utf-8")
    for word in ("`--pretrained`", "57.5 mIoU", "69.1", "align_corners", "ImageNet's RGB"):
        assert word in text, word


@pytest.mark.parametrize("name", sorted(set(preset_names()) - {"ka", "tsl"}))
def test_what_a_preset_sets_for_the_published_networks_can_be_set(name: str) -> None:
    file = preset_folder() / f"{name}.toml"
    said = " ".join(line.lstrip("# ") for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
    keys = dict(re.findall(r"'?student\.(align_corners|input)=([^` ']+)", said))
    assert keys.keys() == {"align_corners", "input"}
    published = CIRKD_PSPNET.preprocessing
    assert published is not None
    config = load_preset(name, [f"{role}.{key}={keys[key]}" for role in ("student", "teacher") for key in keys])
    for network in (config.student, config.teacher):
        assert network.align_corners is True
        assert network.input is not None
        assert network.input.mean == pytest.approx(published.images.mean, abs=1e-3)
        assert (network.input.std, network.input.order) == (published.images.std, published.images.order)


def test_skd_states_the_paper_s_weights_beside_ours() -> None:
    lines = (preset_folder() / "skd.toml").read_text(encoding="utf-8").splitlines()
    for term, paper in (("pixel", "paper 10"), ("pairwise", "paper 10"), ("holistic", "paper and code 0.1")):
        weight = lines[lines.index(f"[terms.{term}]") + 1]
        assert weight.startswith("weight = ")
        assert paper in weight.partition("#")[2], term
