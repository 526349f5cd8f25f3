"""Recipes of networks: what they lie beneath, what they take the place of, and what they leave alone."""

from pathlib import Path
from typing import Any

import pytest
import tomli_w

from segdistill.commands.show_preset import resolved_preset_text
from segdistill.config.network_recipes import RequestedNetworks, read_recipe, recipe_of
from segdistill.config.presets import ResolvedPreset, load_preset, preset_folder, preset_names, resolve_preset
from segdistill.config.schema import LossConfig
from segdistill.errors import UsageError
from segdistill.networks import network_names, resolve_name

FOLDER = preset_folder() / "networks"
RECIPES = sorted(path.stem for path in FOLDER.glob("*.toml"))


def resolved(
    preset: str | Path = "skd", *overrides: str, data: str | None = "camvid", **networks: Any
) -> ResolvedPreset:
    return resolve_preset(preset, overrides, data=data, networks=RequestedNetworks(**networks, resolve=resolve_name))


def own_preset(folder: Path, **tables: Any) -> Path:
    """Write a preset of one's own for espnet, with little in it."""
    table: dict[str, Any] = {
        "network_recipes": True,
        "teacher": {"network": "pspnet-resnet18"},
        "student": {"network": "espnet"},
        "data": {"crop": [32, 32], "batch_size": 2},
        "optim": {"steps": 9},
        "checkpoint": {"every": 2},
        "validate": {"every": 3},
    }
    path = folder / "mine.toml"
    path.write_text(tomli_w.dumps(table | tables))
    return path


# The files


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_names_its_source_beside_every_value(name: str) -> None:
    text = (FOLDER / f"{name}.toml").read_text()
    assert "et al." in text
    assert "github.com/" in text
    for line in text.splitlines():
        if " = " in line and not line.startswith("#"):
            assert line.partition("#")[2].strip() or name == "espnetv2", line
    assert read_recipe(FOLDER / f"{name}.toml")["optim"]["algorithm"] in ("sgd", "adam", "adamw")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_that_of_a_network(name: str) -> None:
    assert any(recipe_of(network, FOLDER) == name for network in network_names())


def test_recipe_of_an_architecture_is_that_of_its_variants() -> None:
    names = {"espnet": "espnet", "espnet-c-q3": "espnet", "espnetv2-0.5": "espnetv2", "pspnet-resnet18": "pspnet"}
    assert {network: recipe_of(network, FOLDER) for network in names} == names
    assert recipe_of("timm:resnet18", FOLDER) == recipe_of("espnetwork", FOLDER) == ""


def test_a_recipe_says_nothing_of_data_or_length(tmp_path: Path) -> None:
    file = tmp_path / "net.toml"
    for text in ("[data]\ncrop = [1, 1]", "[optim]\nsteps = 5", "[optim]\nlr = 0"):
        file.write_text(text)
        with pytest.raises(UsageError):
            read_recipe.__wrapped__(file)


# Over and beneath


def test_another_algorithm_takes_the_place_of_the_presets() -> None:
    preset = load_preset("skd", data="camvid")
    found = resolved(student="espnet")
    optim = found.config.optim
    assert (optim.algorithm, optim.lr, optim.beta2, optim.weight_decay) == ("adam", 5e-4, 0.999, 5e-4)
    assert (optim.schedule, optim.drops, optim.drop) == ("stairs", 2, 0.5)
    assert (optim.steps, optim.warmup) == (preset.optim.steps, preset.optim.warmup) == (1150, 50)
    assert found.config.loss == LossConfig(class_weights="inverse-log", log_offset=1.1)
    assert found.replaced == {"student": "espnet"}


@pytest.mark.parametrize("student", ["mobilenetv2", "stdcseg-stdc1", "pidnet-s", "ddrnet-23-slim", "pspnet-resnet50"])
def test_the_same_algorithm_keeps_what_the_preset_says(student: str) -> None:
    found = resolved(student=student)
    assert found.config.optim == load_preset("skd", data="camvid").optim
    assert not found.replaced


def test_losses_and_heads_of_the_authors_come_with_the_network() -> None:
    config = resolved(student="stdcseg-stdc1").config
    assert (config.loss.ohem_threshold, config.loss.ohem_kept, config.aux_weight) == (0.7, 0.0625, 1.0)
    # the teacher's training is as it was
    assert config.teacher_loss() == LossConfig()
    assert config.teacher_aux_weight() == 0.4


@pytest.mark.parametrize("name", preset_names())
def test_a_presets_own_networks_have_its_own_values(name: str) -> None:
    for data in ("camvid", "streets", "cityscapes"):
        config = load_preset(name, data=data)
        own = RequestedNetworks(student=config.student.network, teacher=config.teacher.network)
        assert resolve_preset(name, data=data, networks=own).config == config
        assert config.loss == LossConfig()
        assert config.teacher.optim is None
        assert config.teacher.loss is None


@pytest.mark.parametrize("student", ["espnet", "enet", "stdcseg-stdc1"])
def test_students_share_one_teacher_whatever_they_are(student: str) -> None:
    preset, config = load_preset("skd", data="streets"), resolved(student=student, data="streets").config
    assert config.teacher_optim() == preset.teacher_optim()
    assert config.teacher_loss() == preset.teacher_loss()
    assert config.teacher_aux_weight() == preset.teacher_aux_weight()
    assert config.teacher.steps == 300


def test_a_teacher_has_its_own_recipe() -> None:
    config = resolved(teacher="espnet").config
    assert config.optim == load_preset("skd", data="camvid").optim
    assert (config.teacher_optim().algorithm, config.teacher_optim().lr) == ("adam", 5e-4)
    assert config.teacher_optim().steps == 1150
    assert config.teacher_loss().class_weights == "inverse-log"
    assert config.loss == LossConfig()
    given = resolved(teacher="espnet", trains_teacher=False).config
    assert given.teacher.optim is None


def test_what_is_set_wins_over_the_recipe() -> None:
    config = resolved("skd", "optim.lr=0.002", "loss.class_weights=none", student="espnet").config
    assert (config.optim.lr, config.optim.algorithm) == (0.002, "adam")
    assert config.loss.class_weights == "none"
    named = resolved("skd", "student.network=espnet").config
    assert named.optim.algorithm == "adam"


def test_algorithm_of_the_preset_brings_back_its_rate() -> None:
    preset = load_preset("skd", data="camvid").optim
    found = resolved("skd", "optim.algorithm=sgd", student="espnet")
    assert found.config.optim == preset
    assert not found.replaced
    teacher = resolved("skd", "teacher.optim.algorithm=sgd", teacher="espnet").config
    assert teacher.teacher_optim() == preset


def test_what_is_set_beside_a_teacher_alone_is_its() -> None:
    settings = ("optim.lr=0.002", "loss.class_weights=none", "optim.ema=0.9")
    alone = resolved("skd", *settings, teacher="espnet", trains_student=False).config
    assert (alone.teacher_optim().algorithm, alone.teacher_optim().lr, alone.teacher_optim().ema) == (
        "adam",
        0.002,
        0.9,
    )
    assert alone.teacher_loss().class_weights == "none"
    assert resolved("skd", *settings, teacher="espnet").config.teacher_optim().lr == 5e-4
    # by its own name before, in any order
    both = resolved("skd", "teacher.optim.lr=0.1", "optim.lr=0.2", teacher="espnet", trains_student=False).config
    assert both.teacher_optim().lr == 0.1
    by_sgd = resolved("skd", "optim.algorithm=sgd", teacher="espnet", trains_student=False).config
    assert by_sgd.teacher_optim() == load_preset("skd", data="camvid").optim


def test_a_key_of_the_teachers_loss_changes_no_other() -> None:
    for student in ("espnet", "pspnet-resnet18"):
        config = resolved("skd", "teacher.loss.dice=0.5", teacher="espnet", student=student).config
        expected = LossConfig(class_weights="inverse-log", log_offset=1.1, dice=0.5)
        assert config.teacher_loss() == expected
        assert config.changed(seed=1).teacher_loss() == expected


# A preset of one's own


def test_a_preset_leaves_to_the_authors_what_it_does_not_say(tmp_path: Path) -> None:
    config = load_preset(own_preset(tmp_path, optim={"steps": 9, "lr": 0.002}))
    assert (config.optim.algorithm, config.optim.lr, config.optim.beta2) == ("adam", 0.002, 0.999)
    assert config.teacher_optim().algorithm == "sgd"  # PSPNet's
    assert config.teacher_optim().weight_decay == 1e-4
    changed = load_preset(own_preset(tmp_path, loss={"log_offset": 1.5}))
    assert changed.loss == LossConfig(class_weights="inverse-log", log_offset=1.5)


@pytest.mark.parametrize(
    ("own", "requested", "algorithm", "rate"),
    [
        ("espnet", "pspnet-resnet50", "sgd", 0.01),
        ("mobilenetv2", "espnet", "adam", 5e-4),
        ("enet", "espnet", "adam", 3e-3),
    ],
)
def test_rate_without_an_algorithm_is_for_the_own_network(
    own: str, requested: str, algorithm: str, rate: float, tmp_path: Path
) -> None:
    path = own_preset(tmp_path, student={"network": own}, optim={"steps": 9, "lr": 3e-3})
    found = resolve_preset(path, networks=RequestedNetworks(requested, resolve=resolve_name))
    assert (found.config.optim.algorithm, found.config.optim.lr) == (algorithm, rate)
    assert bool(found.replaced) == (rate != 3e-3)
    assert load_preset(path).optim.lr == 3e-3


def test_another_teacher_keeps_what_holds_for_any(tmp_path: Path) -> None:
    teacher = {"network": "pspnet-resnet18", "lr": 0.5, "optim": {"ema": 0.9, "momentum": 0.5}}
    path = own_preset(tmp_path, optim={"steps": 9, "algorithm": "sgd", "lr": 0.1}, teacher=teacher)
    found = resolve_preset(path, networks=RequestedNetworks(teacher="enet", resolve=resolve_name)).config
    optim = found.teacher_optim()
    assert (optim.algorithm, optim.lr, optim.momentum, optim.ema) == ("adam", 5e-4, 0.9, 0.9)


def test_own_network_by_another_algorithm_is_the_presets(tmp_path: Path) -> None:
    config = load_preset(own_preset(tmp_path, optim={"steps": 9, "algorithm": "sgd", "lr": 0.1}))
    # nothing of Adam's is mixed in
    assert (config.optim.algorithm, config.optim.lr, config.optim.schedule) == ("sgd", 0.1, "poly")
    assert config.optim.beta2 == 0.99


def test_without_the_key_no_recipe_is_used(tmp_path: Path) -> None:
    path = own_preset(tmp_path, network_recipes=False, optim={"steps": 9, "lr": 0.1})
    config = load_preset(path)
    assert config.optim.algorithm == "sgd"
    assert config.loss == LossConfig()


@pytest.mark.parametrize("value", ["yes", 1, ["espnet"]])
def test_a_key_that_is_no_answer_is_refused(value: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="network_recipes"):
        load_preset(own_preset(tmp_path, network_recipes=value))


@pytest.mark.parametrize("table", ["optim", "loss"])
@pytest.mark.parametrize("value", [3, "sgd", ["sgd"], False])
def test_teacher_tables_that_are_none_are_refused(table: str, value: Any, tmp_path: Path) -> None:
    teacher = {"network": "pspnet-resnet18", table: value}
    with pytest.raises(UsageError, match=rf"teacher\.{table}"):
        load_preset(own_preset(tmp_path, teacher=teacher))


@pytest.mark.parametrize("student", ["espnet", "stdcseg-stdc1"])
def test_a_recorded_configuration_keeps_its_meaning(student: str, tmp_path: Path) -> None:
    config = resolved("skd", "optim.lr=0.003", student=student).config
    config = config.changed(**{"student.network": student})
    file = tmp_path / "config.toml"
    file.write_text(tomli_w.dumps(config.to_dict()))
    assert load_preset(file) == config
    other = resolve_preset(file, networks=RequestedNetworks(student="enet", resolve=resolve_name))
    assert other.config == config
    assert not other.replaced


def test_every_stated_value_has_a_source() -> None:
    origins = resolved("skd", "optim.lr=0.002", student="espnet").origins
    assert origins["optim.lr"] == "--set"
    assert origins["optim.algorithm"] == origins["loss.class_weights"] == "network espnet"
    assert origins["optim.steps"] == "[on.camvid]"
    assert origins["seed"] == "preset skd"
    assert origins["data.name"] == "--data"
    assert "optim.ema" not in origins


def test_shown_preset_is_what_a_run_gets_with_its_sources(tmp_path: Path) -> None:
    text = resolved_preset_text("skd", student="espnet", teacher="enet", data="camvid")
    file = tmp_path / "shown.toml"
    file.write_text(text)
    config = resolved(student="espnet", teacher="enet").config
    assert load_preset(file) == config.changed(**{"student.network": "espnet", "teacher.network": "enet"})
    lines = {line.partition(" = ")[0]: line.partition("#")[2].strip() for line in text.splitlines()}
    assert (lines["accumulate"], lines["clip"], lines["paper"]) == ("preset skd", "default", "preset skd")
    shown = resolved_preset_text("skd", student="espnet", teacher=None, data="camvid")
    teacher = shown.partition("[teacher.optim]")[2].partition("\n\n")[0]
    assert [line.partition("#")[2].strip() for line in teacher.strip().splitlines()] == [
        "preset skd",
        "[on.camvid]",
        "default",
        "network pspnet",
    ]
