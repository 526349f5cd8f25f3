"""Every preset, whatever it is called: complete, valid for every data set it has a table for, printed as one file."""

import hashlib
import json
import re
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch

from segdistill.checkpoints.key_maps import CIRKD_PSPNET
from segdistill.config.preset_text import preset_text
from segdistill.config.presets import load_preset, preset_folder, preset_names, recipe_names
from segdistill.config.registry import components, find
from segdistill.config.schema import LossConfig, NetworkConfig, RunConfig
from segdistill.losses import channel_kl
from segdistill.networks import count_macs, meta_network
from segdistill.terms._layers import feature_layers

DATA = sorted({*components("data.datasets"), "cityscapes"})
"""The data sets that presets have tables for; NAME:PATH of any of them is the user's own."""
ONE_TEACHER = ("at", "canonical", "cirkd", "cwd", "dsd", "fitnet", "ifvd", "ka", "skd", "tsl")
"""Presets that differ in nothing but their terms on the data sets with a short schedule."""
ASKED = {"scale": 1.0, "flip": False, "targets": "soft", "threshold": 0.0}
"""What a teacher is asked unless somebody says otherwise: all of its answers, on the image as it is."""
PINNED_DATA = ("ade20k", "camvid", "cityscapes", "pascal-context", "streets", "voc")
PINNED = {
    "at": "6716866a 9c4e52fe f076c777 b6162d82 e338c596 82ef7075",
    "canonical": "94b7602f 1df2aa36 c02780ac 2d46d837 5d711d83 d8f37349",
    "cirkd": "3af33be6 5e08ca4e 75969c6b 9bb3ff36 9a83945a 2b7cc463",
    "cwd": "a2b9e47a b797a7d5 f337666a 8fc31325 839552b3 ba81abba",
    "dsd": "492376f2 171a4561 3c50c6f2 4ade792a 295c538c 1c450883",
    "fitnet": "10448d18 919421d1 5d13b496 c116f099 642bbdb2 a2174948",
    "ifvd": "515f9cd1 4b6706a6 965f798e 318e67f0 235c5eb0 1d170d85",
    "ka": "aef9e1a2 9ff1afd8 19ca95d8 c837c7c8 e228fbf8 d6a0d5d1",
    "lad": "0e1e1b4d db8e7768 ad4e917c 397e3665 d5678b33 f5f5aa7f",
    "skd": "b5f2d672 137e039e 57297d42 9c8ad1ea 891303ea 337737e3",
    "tsl": "adf9dbc2 cdc81e03 f6bd7280 5540153d ac71e699 ced7c259",
}
"""The SHA-256 of the resolved configuration, its first digits, for each of `PINNED_DATA`.

Published results were measured with these values. A new key of `RunConfig` changes all digests: then compare
`to_dict()` before and after, without that key, and copy the new digests from the message of the failing test.
"""


def file_text(name: str) -> str:
    """Return what stands in a file of the folder of presets, such as "skd" or "recipes/camvid"."""
    return (preset_folder() / f"{name}.toml").read_text(encoding="utf-8")


def table(name: str) -> dict[str, Any]:
    return tomllib.loads(preset_text(name))


def values(table: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Return a table's values by dotted path."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= values(value, f"{path}{key}.") if isinstance(value, dict) else {f"{path}{key}": value}
    return found


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


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_s_values_are_those_of_its_published_results(name: str) -> None:
    configs = [load_preset(name, data=data).to_dict() for data in PINNED_DATA]
    for config in configs:
        config.pop("starts_from", None)  # a word on the publication, which changes no training
        assert {key: config["teacher"].pop(key) for key in ASKED} == ASKED
        assert (config["data"].pop("images"), config["data"].pop("held_back")) == ([], 0.1)
        assert config["data"].pop("cutmix") == 0
    digests = [hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest() for config in configs]
    assert " ".join(digest[:8] for digest in digests) == PINNED.get(name)


@pytest.mark.parametrize("name", preset_names())
def test_a_printed_preset_is_the_preset_on_all_data(name: str, tmp_path: Path) -> None:
    assert "recipes" not in table(name), "it needs none"
    file = tmp_path / "copy.toml"
    file.write_text(preset_text(name))
    for data in (None, *DATA, "camvid:some/where", "own/data.toml"):
        printed, named = (load_preset(each, data=data).to_dict() for each in (file, name))
        assert json.dumps(printed) == json.dumps(named), "also the order of its terms"


@pytest.mark.parametrize("name", preset_names())
def test_a_printed_preset_has_the_comments_of_all_its_files(name: str) -> None:
    printed = preset_text(name)
    for line in file_text(name).splitlines():
        assert line in printed or line.startswith("recipes = ")
    assert "network_recipes = true" in printed, "a copy is for other networks too"
    for recipe in tomllib.loads(file_text(name))["recipes"]:
        about, *others = file_text(f"recipes/{recipe}").split("\n\n")
        assert about not in printed
        for line in "\n".join(others).splitlines():
            assert line in printed or not line.startswith("#")


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_says_nothing_that_its_recipes_say(name: str) -> None:
    preset = tomllib.loads(file_text(name))
    for recipe in preset["recipes"]:
        beneath = values(tomllib.loads(file_text(f"recipes/{recipe}")))
        for key, value in values(preset).items():
            assert beneath.get(key) != value, f"{key} stands in recipes/{recipe}.toml too"


@pytest.mark.parametrize("recipe", recipe_names())
def test_a_recipe_is_shared_and_lists_no_others(recipe: str) -> None:
    assert sum(recipe in tomllib.loads(file_text(name))["recipes"] for name in preset_names()) > 1
    assert "recipes" not in tomllib.loads(file_text(f"recipes/{recipe}"))


@pytest.mark.parametrize("name", ["at", "canonical", "cirkd", "cwd", "dsd", "fitnet", "ifvd"])
def test_cirkd_recipe_presets_crop_pascal_voc_to_squares(name: str) -> None:
    assert load_preset(name, data="voc").data.crop == (512, 512)
    assert load_preset(name).data.crop == (512, 1024)


@pytest.mark.parametrize("name", preset_names())
def test_a_printed_preset_states_every_value_itself(name: str) -> None:
    written = {key: value for key, value in table(name).items() if key not in ("on", "network_recipes")}
    resolved = RunConfig.model_validate(written).to_dict()
    if resolved["optim"]["algorithm"] == "sgd":
        del resolved["optim"]["beta2"]  # Adam's
    # what no paper of these says, and nothing that is left out does
    for path in ("optim.schedule", "optim.drops", "optim.drop", "optim.clip", "optim.ema", "validate.patience"):
        outer, key = path.split(".")
        assert resolved[outer].pop(key) in ("poly", 2, 0.5, 0.0, 0)
    assert resolved["validate"].pop("ship") == "auto"
    assert LossConfig.model_validate(resolved.pop("loss")) == LossConfig()
    assert {key: resolved["teacher"].pop(key) for key in ASKED} == ASKED
    for key in ("labeled", "unlabeled", "auxiliary", "auxiliary_share", "images", "held_back", "cutmix"):
        if key not in written["data"]:
            del resolved["data"][key]  # for those who have such images, or want it
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
def test_methods_share_one_recipe_and_teacher(data: str) -> None:
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


def test_cwd_feature_weight_equals_cirkd_except_where_measured() -> None:
    config = load_preset("cwd")
    student, teacher = (feature_layers(meta_network(each, 19))[-1] for each in (config.student, config.teacher))
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
        macs = count_macs(meta_network(network.model_copy(update=changed), 21), (513, 513))
        return round(2 * macs / 1e9, 1)

    config, text = load_preset("ka"), file_text("ka")
    found = [gigaflops(config.teacher, stem="deep", output_stride=stride) for stride in (16, 8)]
    assert [*found, gigaflops(config.student)] == [93.4, 246.2, 5.5]
    for number in ("90.24", "93.4", "246.2", "5.50"):
        assert number in text


@pytest.mark.parametrize("name", preset_names())
def test_presets_name_published_weights_and_their_preprocessing(name: str) -> None:
    text = preset_text(name)
    for word in ("`--pretrained`", "57.5 mIoU", "69.1", "align_corners", "ImageNet's RGB"):
        assert word in text, word


@pytest.mark.parametrize("name", sorted(set(preset_names()) - {"ka", "tsl"}))
def test_preset_hints_for_published_networks_can_be_set(name: str) -> None:
    said = " ".join(line.lstrip("# ") for line in preset_text(name).splitlines() if line.startswith("#"))
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
    lines = file_text("skd").splitlines()
    for term, paper in (("pixel", "paper 10"), ("pairwise", "paper 10"), ("holistic", "paper and code 0.1")):
        weight = lines[lines.index(f"[terms.{term}]") + 1]
        assert weight.startswith("weight = ")
        assert paper in weight.partition("#")[2], term
