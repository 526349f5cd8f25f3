"""Every preset, whatever it is called: complete, valid for every data set it has a table for, and a file of its own."""

import tomllib
from importlib import import_module
from pathlib import Path

import pytest
import tomli_w

from segdistill.config import RunConfig, components, find, load_preset, preset_folder, preset_names

DATA = sorted({*components("data"), "cityscapes"})
"""The data sets that presets have tables for; NAME:PATH of any of them is the user's own."""


def table(name: str) -> dict[str, object]:
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
def test_a_preset_s_file_states_every_value_itself(name: str) -> None:
    written = {key: value for key, value in table(name).items() if key != "on"}
    resolved = RunConfig.model_validate(written).to_dict()
    if resolved["optim"]["algorithm"] == "sgd":
        del resolved["optim"]["beta2"]  # Adam's
    for key in ("teacher", "student", "data", "optim", "checkpoint", "validate", "terms"):
        assert written[key] == resolved[key], f"[{key}] leaves something to a default"
    assert written.keys() == resolved.keys()


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_states_every_option_of_its_terms(name: str) -> None:
    for term, config in load_preset(name).terms.items():
        module = import_module(find("terms", term, "term"))
        assert set(config.options()) == set(module.Options.model_fields), term


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("name", preset_names())
def test_a_resolved_preset_is_a_preset_again(name: str, data: str, tmp_path: Path) -> None:
    config = load_preset(name, ["optim.lr=0.003"], data=data)
    file = tmp_path / "again.toml"
    file.write_text(tomli_w.dumps(config.to_dict()))
    assert load_preset(file) == config


def test_skd_states_the_paper_s_weights_beside_ours() -> None:
    lines = (preset_folder() / "skd.toml").read_text(encoding="utf-8").splitlines()
    for term, paper in (("pixel", "paper 10"), ("pairwise", "paper 10"), ("holistic", "paper and code 0.1")):
        weight = lines[lines.index(f"[terms.{term}]") + 1]
        assert weight.startswith("weight = ")
        assert paper in weight.partition("#")[2], term
