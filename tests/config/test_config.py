"""Where a value comes from, and that every mistake is named, all at once and with what was meant."""

import json
import tomllib
from pathlib import Path

import pytest
import tomli_w
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from segdistill.config.preset_text import preset_text
from segdistill.config.presets import load_preset, preset_folder
from segdistill.config.registry import components, find, find_data
from segdistill.config.schema import OptimConfig, RunConfig, TermConfig
from segdistill.config.toml import MAX_PRESET_BYTES
from segdistill.errors import UsageError, nearest
from segdistill.terms import check_terms
from segdistill.training.optim import build_optimizer, set_learning_rate


def preset(folder: Path, extra: str = "", name: str = "mine.toml", **tables: str) -> Path:
    """Write a small preset; `tables` replace what is under a heading, `extra` follows."""
    parts = {
        "teacher": 'network = "pspnet-resnet50"',
        "student": 'network = "pspnet-resnet18"',
        "data": 'name = "camvid"\ncrop = [32, 48]\nbatch_size = 4',
        "optim": "lr = 0.1\nsteps = 100",
        "checkpoint": "every = 10",
        "validate": "every = 10",
    }
    text = "\n".join(f"[{heading}]\n{body}" for heading, body in (parts | tables).items())
    file = folder / name
    file.write_text(f"{text}\n{extra}\n")
    return file


def recipes_of(file: Path, listed: object) -> Path:
    """Let a preset list these recipes."""
    file.write_text(f"recipes = {json.dumps(listed)}\n{file.read_text()}")
    return file


@pytest.fixture
def recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of recipes, which has none yet."""
    monkeypatch.setattr("segdistill.config.presets.preset_folder", lambda: tmp_path)
    folder = tmp_path / "recipes"
    folder.mkdir()
    return folder


def mistakes(file: Path, *overrides: str) -> str:
    with pytest.raises(UsageError) as caught:
        load_preset(file, overrides)
    return str(caught.value)


def test_set_overrides_the_data_table_and_flags_override_set(tmp_path: Path) -> None:
    file = preset(tmp_path, "[on.streets.optim]\nlr = 0.2\nsteps = 50\npower = 0.5")
    assert load_preset(file).optim.lr == 0.1
    on_streets = load_preset(file, data="streets").optim
    assert (on_streets.lr, on_streets.steps, on_streets.power) == (0.2, 50, 0.5)
    assert load_preset(file, ["optim.lr=0.3"], data="streets").optim.lr == 0.3
    last = load_preset(file, ["optim.lr=0.3", "optim.steps=7"], data="streets", flags={"optim.lr": 0.4}).optim
    assert (last.lr, last.steps) == (0.4, 7)


def test_later_of_two_overrides_wins(tmp_path: Path) -> None:
    assert load_preset(preset(tmp_path), ["optim.lr=0.3", "optim.lr=0.5"]).optim.lr == 0.5


def test_a_data_set_chosen_by_an_override_brings_its_table(tmp_path: Path) -> None:
    file = preset(tmp_path, "[on.streets.optim]\nlr = 0.2")
    assert load_preset(file, ["data.name=streets"]).optim.lr == 0.2


def test_a_path_behind_the_name_of_a_data_set_keeps_its_table(tmp_path: Path) -> None:
    config = load_preset(preset(tmp_path, "[on.camvid.optim]\nlr = 0.2"), data="camvid:D:/some where")
    assert (config.optim.lr, config.data.name) == (0.2, "camvid:D:/some where")


def test_preset_without_a_name_is_named_after_its_file(tmp_path: Path) -> None:
    assert load_preset(preset(tmp_path, name="quick.toml")).preset == "quick"


def test_user_preset_overrides_its_recipes(tmp_path: Path) -> None:
    extra = "[on.camvid.optim]\nlr = 0.3\n[on.voc.optim]\npower = 0.5"
    file = recipes_of(preset(tmp_path, extra, teacher='network = "pspnet-resnet101"'), ["cirkd-training", "camvid"])
    on_camvid, on_voc = load_preset(file), load_preset(file, data="voc")
    assert (on_camvid.optim.lr, on_camvid.optim.steps, on_camvid.optim.power) == (0.3, 1150, 0.9)
    assert (on_camvid.teacher.network, on_camvid.teacher.output_stride) == ("pspnet-resnet50", 8)
    assert (on_voc.optim.lr, on_voc.optim.steps, on_voc.optim.power, on_voc.data.crop) == (0.1, 100, 0.5, (512, 512))
    assert on_voc.teacher.network == "pspnet-resnet101"


def test_a_later_recipe_overrides_an_earlier_one(tmp_path: Path, recipes: Path) -> None:
    (recipes / "first.toml").write_text("aux_weight = 0.1\nseed = 1\n[data]\nflip = 0.1\ncolor = 0.1")
    (recipes / "second.toml").write_text("seed = 2\n[data]\ncolor = 0.2\nscale = [1, 2]")
    for listed, seed, color in ((["first", "second"], 2, 0.2), (["second", "first"], 1, 0.1)):
        config = load_preset(recipes_of(preset(tmp_path), listed))
        assert (config.seed, config.aux_weight) == (seed, 0.1)
        assert (config.data.color, config.data.flip, config.data.scale) == (color, 0.1, (1, 2))


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        (["camvit"], "recipes: unknown recipe 'camvit'. Did you mean camvid? (found ['camvit'])"),
        (["camvid", "stretes", "x"], "'stretes'. Did you mean streets? unknown recipe 'x'. Known are: camvid, "),
        (["../skd"], "unknown recipe '../skd'. Known are: "),
        (["camvid.toml"], "unknown recipe 'camvid.toml'. Did you mean camvid?"),
        (["x" * 65], "recipes.0: String should have at most 64 characters (found 'xxx"),
        (["camvid"] * 17, "recipes: Tuple should have at most 16 items"),
        ("camvid", "recipes: Input should be a list (found 'camvid')"),
        ([3], "recipes.0: Input should be a valid string (found 3)"),
    ],
)
def test_a_mistaken_recipe_is_named(listed: object, expected: str, tmp_path: Path) -> None:
    text = mistakes(recipes_of(preset(tmp_path), listed))
    assert "1 mistake in preset" in text
    assert expected in text


def test_a_recipe_is_read_within_the_bounds_of_a_preset(tmp_path: Path, recipes: Path) -> None:
    (recipes / "large.toml").write_bytes(b"#" * (MAX_PRESET_BYTES + 1))
    (recipes / "deep.toml").write_bytes(b"a." * 1000 + b"a = 1")
    assert "large.toml is larger than" in mistakes(recipes_of(preset(tmp_path), ["large"]))
    assert "deep.toml cannot be read: a key of more than" in mistakes(recipes_of(preset(tmp_path), ["deep"]))


def test_recipes_cannot_be_set_by_an_override(tmp_path: Path) -> None:
    assert "recipes: unknown key." in mistakes(preset(tmp_path), 'recipes=["camvid"]')


def test_overrides_are_toml_values_or_bare_words(tmp_path: Path) -> None:
    overrides = [
        *("optim.lr=1e-3", "data.crop=[64, 96]", "teacher.aux=false", "precision=fp32", 'about="a = b"'),
        *("terms.holistic.weight=1", "terms.holistic.loss=hinge"),
    ]
    config = load_preset(preset(tmp_path), overrides)
    assert (config.optim.lr, config.data.crop, config.teacher.aux) == (0.001, (64, 96), False)
    assert (config.precision, config.about) == ("fp32", "a = b")
    assert config.terms["holistic"].options() == {"loss": "hinge"}


def test_all_preset_mistakes_are_reported_with_suggestions(tmp_path: Path) -> None:
    file = preset(
        tmp_path,
        "[terms.pixle]\nweight = 1\n[optm]\nlr = 1",
        data='name = "camvid"\ncrop = [32]\nbatch_sise = 4\nflip = 1.5',
        optim='lr = "fast"\nsteps = 0',
    )
    text = mistakes(file)
    assert "8 mistakes in preset" in text
    for line in (
        "data.crop.1: missing",
        "data.batch_size: missing",
        "data.batch_sise: unknown key. Did you mean batch_size?",
        "data.flip: Input should be less than or equal to 1 (found 1.5)",
        "optim.lr: Input should be a valid number, unable to parse string as a number (found 'fast')",
        "optim.steps: Input should be greater than or equal to 1 (found 0)",
        "optm: unknown key. Did you mean optim",
        "terms: unknown term 'pixle'. Did you mean pixel?",
    ):
        assert line in text


def test_term_table_may_have_its_own_name_with_a_term_key(tmp_path: Path) -> None:
    text = '[terms.channel]\nweight = 3\n[terms.channel-feature]\nterm = "channel"\nweight = 50\non = "features"'
    config = load_preset(preset(tmp_path, text), ["terms.channel-feature.weight=5"])
    assert {name: (term.term, term.weight) for name, term in config.terms.items()} == {
        "channel": (None, 3),
        "channel-feature": ("channel", 5),
    }
    assert config.terms["channel-feature"].options() == {"on": "features"}
    assert RunConfig.model_validate(tomllib.loads(tomli_w.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    "name", ["aux", "loss", "channel_feature", "channel-", "channel-Big", '"channel-a.b"', "channels"]
)
def test_term_table_name_must_begin_with_the_term(name: str, tmp_path: Path) -> None:
    text = mistakes(preset(tmp_path, f'[terms.{name}]\nterm = "channel"\nweight = 1'))
    assert "must begin with its term's and a hyphen: channel-a." in text


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optm.lr=1", "optm: unknown key. Did you mean optim?"),
        ("optim.learning_rate=1", "optim.learning_rate: unknown key. Known are: accumulate, algorithm"),
        ("optim.lr=abc", "optim.lr: Input should be a valid number"),
        ("optim.lr=nan", "optim.lr: Input should be a finite number"),
        ("optim=3", "optim: Input should be a table of keys (found 3)"),
        ("optim.lr.x=3", "--set optim.lr.x: lr is a value, not a table."),
        ("data=3", "data: Input should be a table of keys (found 3)"),
        ("data.crop=48", "data.crop: Input should be a list (found 48)"),
        ("student.input.ordr='bgr'", "student.input.ordr: unknown key. Did you mean order?"),
        ("student.input.order='bgra'", "student.input.order: Input should be 'rgb' or 'bgr' (found 'bgra')"),
        (
            "student.input.std=[1, 0, 1]",
            "student.input.std.1: Input should be greater than or equal to 0.000001 (found 0)",
        ),
        ("student.output_stride=3", "student.output_stride: Input should be 1, 2, 4, 8, 16 or 32 (found 3)"),
        ("terms.pixle.weight=1", "terms: unknown term 'pixle'. Did you mean pixel?"),
        ("terms.pixel.temperature=1", "terms.pixel.weight: missing"),
        ("terms.pixel-a={weight=1, term='pixle'}", "terms: unknown term 'pixle'. Did you mean pixel?"),
        ("seed=4294967296", "seed: Input should be less than 2147483648"),
        ("optim.lr", "--set optim.lr: expected KEY=VALUE."),
        ("=1", "--set =1: expected KEY=VALUE."),
    ],
)
def test_a_mistaken_override_is_named(override: str, expected: str, tmp_path: Path) -> None:
    assert expected in mistakes(preset(tmp_path), override)


def test_mistake_in_an_override_is_blamed_on_the_override() -> None:
    with pytest.raises(UsageError, match=r"in preset skd with --set optm\.lr:"):
        load_preset("skd", ["optm.lr=1"])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"lr = ", "not valid TOML"),
        (b"lr = 1\nlr = 2", "not valid TOML"),
        (b"\xff\xfe", "not valid TOML"),
        (b"a = " + b"[" * 100_000, "not valid TOML"),
        (b"#" * (MAX_PRESET_BYTES + 1), "larger than"),
        (b"data = 3", "data: Input should be a table of keys (found 3)"),
        (b"on = 3", "one table per data set"),
        (b"[on]\ncamvid = 3", "one table per data set"),
        (b"", "teacher: missing"),
        (b'command = "rm -rf /"', "command: unknown key"),
    ],
)
def test_file_that_is_not_a_preset_is_refused(content: bytes, expected: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_bytes(content)
    assert expected in mistakes(file)


def test_missing_preset_is_reported_by_name_or_path(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Unknown preset 'sdk'") as caught:
        load_preset("sdk")
    assert caught.value.fix.startswith("Did you mean skd")
    for file in (tmp_path / "nowhere.toml", tmp_path):
        with pytest.raises(UsageError, match=r"no preset file|Unknown preset"):
            load_preset(file)


def test_a_cap_shortens_every_stage_and_lengthens_none(tmp_path: Path) -> None:
    config = load_preset(preset(tmp_path), ["teacher.steps=40"])
    assert config.capped(None) == config
    capped = config.capped(60)
    assert (capped.optim.steps, capped.teacher.steps, capped.teacher_optim().steps) == (60, 40, 40)
    assert config.capped(20).teacher_optim().steps == 20
    assert config.capped(1000) == config


def test_teacher_trained_on_the_way_inherits_the_student_recipe(tmp_path: Path) -> None:
    config = load_preset(preset(tmp_path), ["optim.momentum=0.5"])
    assert config.teacher_optim() == config.optim
    changed = config.changed(**{"teacher.lr": 0.7})
    assert (changed.teacher_optim().lr, changed.teacher_optim().momentum, changed.optim.lr) == (0.7, 0.5, 0.1)


def test_a_change_is_checked_like_a_preset(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"optim\.steps"):
        load_preset(preset(tmp_path)).changed(**{"optim.steps": 0})


@settings(max_examples=30, deadline=None)
@given(
    lr=st.floats(min_value=1e-12, max_value=1e6, allow_nan=False, exclude_min=True),
    seed=st.integers(0, 2**31 - 1),
    crop=st.tuples(st.integers(1, 65536), st.integers(1, 65536)),
    about=st.text(),
    weight=st.just(0.0) | st.floats(min_value=1e-30, max_value=1e9),
)
def test_a_configuration_survives_being_written(
    lr: float, seed: int, crop: tuple[int, int], about: str, weight: float
) -> None:
    flags = {"optim.lr": lr, "seed": seed, "data.crop": list(crop), "about": about, "terms.pixel.weight": weight}
    config = load_preset("skd", flags=flags)
    assert RunConfig.model_validate(tomllib.loads(tomli_w.dumps(config.to_dict()))) == config


def test_the_presets_lie_beside_the_package_or_in_it() -> None:
    assert (preset_folder() / "skd.toml").is_file()


def test_component_is_found_by_name_and_a_typo_gets_a_suggestion() -> None:
    assert find("terms", "pairwise", "term") == "segdistill.terms.pairwise"
    assert "_base" not in components("networks")
    with pytest.raises(UsageError, match="Unknown term 'pairwize'") as caught:
        find("terms", "pairwize", "term")
    assert caught.value.fix == "Did you mean pairwise?"


def test_data_path_without_a_name_is_answered_with_the_syntax() -> None:
    assert find_data("camvid:/a:b") == "segdistill.data.datasets.camvid"
    with pytest.raises(UsageError) as caught:
        find_data("/data/CamVid")
    assert "NAME:PATH" in caught.value.fix


def test_nearest_lists_close_names_first_or_all_of_them() -> None:
    assert nearest("pspnet-resnet81", ["pspnet-resnet18", "pspnet-resnet50", "other"]).startswith(
        "Did you mean pspnet-resnet18"
    )
    assert nearest("xyz", ["b", "a", "b"]) == "Known are: a, b."


def works(table: dict[str, object]) -> bool:
    """Whether PyTorch builds the optimizer and makes steps with it, whose weights are finite."""
    weight = torch.nn.Parameter(torch.ones(3))
    try:
        config = OptimConfig.model_validate(table)
    except ValidationError:
        return True  # refused at the start
    optimizer = build_optimizer(config, [weight])
    for step in range(min(3, config.steps)):
        set_learning_rate(optimizer, config, step, config.steps)
        weight.grad = torch.full((3,), 1e-3)
        optimizer.step()
    return True


BORDERS = (-1.0, -1e-9, 0.0, 1e-320, 1e-45, 1e-30, 0.5, 1.0, 1.0 + 1e-9, 100.0, 1e30, 1e38, 1e39, 1e300)


@pytest.mark.parametrize("algorithm", ["sgd", "adam"])
@pytest.mark.parametrize("key", ["lr", "momentum", "beta2", "weight_decay", "power", "warmup", "steps"])
def test_accepted_optimizer_settings_are_accepted_by_pytorch(algorithm: str, key: str) -> None:
    values = (-1, 0, 1, 2**31 - 1, 2**31, 2**63, 10**400) if key in ("warmup", "steps") else BORDERS
    for value in values:
        assert works({"algorithm": algorithm, "lr": 0.1, "steps": 100} | {key: value}), value


@pytest.mark.parametrize(
    "override",
    [
        *("optim.momentum=1", "optim.beta2=1.0", "optim.momentum=-0.1", "optim.weight_decay=-1", "optim.lr=0"),
        *("optim.lr=1e39", "optim.lr=nan", "optim.lr=inf", "optim.power=-1", f"optim.steps={10**400}"),
        *("optim.accumulate=0", f"checkpoint.every={2**63}", "aux_weight=1e300", "teacher.lr=1e39"),
        *("terms.pixel.weight=1e39", "teacher.dropout=1", "student.dropout=-0.1", "data.scale=[0, 1]"),
    ],
)
def test_settings_that_cannot_be_computed_are_refused_at_load(override: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=override.partition("=")[0].replace(".", r"\.")):
        load_preset(preset(tmp_path), [override])


@pytest.mark.parametrize(
    ("term", "key", "value"),
    [
        ("holistic", "lr", 1e39),
        ("pixel", "temperature", 1e300),
        ("channel", "temperature", 1e-300),
        ("pairwise", "pool", 2**63),
        ("memory", "pixel_memory", 10**30),
        ("adaptation", "autoencoder", {"lr": 1e39}),
    ],
)
def test_term_options_that_cannot_be_computed_are_refused(term: str, key: str, value: object) -> None:
    with pytest.raises(UsageError, match=key):
        check_terms({term: TermConfig.model_validate({"weight": 1.0, key: value})})


def test_keys_of_version_0_1_are_read_and_written_renamed(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    text = preset_text("lad").replace("[teacher.label_embedding]", "[teacher.label_codes]")
    assert "label_codes" in text
    file.write_text(text)
    assert load_preset(file).teacher == load_preset("lad").teacher
    assert "label_codes" not in str(load_preset(file).to_dict())
    file.write_text(preset_text("tsl").replace('neighbors = "mean"', 'neighbours = "sum"'))
    assert check_terms(load_preset(file).terms)["consistency"]["neighbors"] == "sum"
