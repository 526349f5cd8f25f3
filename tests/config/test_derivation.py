"""Settings that follow from the images: values by hand, and what holds of any images."""

from typing import Any

import numpy as np
import pytest

from segdistill.config.derivation import (
    CPU,
    GPU,
    Derivation,
    Derived,
    Images,
    Limits,
    batch_setting,
    image_settings,
    interval_settings,
    length_setting,
    stage_settings,
    with_derived,
)
from segdistill.config.presets import load_preset

SCALE = frozenset({"data.size", "data.crop", "data.scale"})
ALL = frozenset({"data.size", "data.crop", "data.batch_size", "optim.steps", "optim.warmup", "teacher.steps"})
INTERVALS = frozenset({"optim.warmup", "validate.every", "checkpoint.every"})
CAMVID = Images({(360, 480): 367}, training=367, validation=101)


def values(derived: list[Derived]) -> dict[str, Any]:
    return {setting.key: setting.value for setting in derived}


def images(*sizes: tuple[int, int], count: int = 100) -> Images:
    return Images(dict.fromkeys(sizes, count // len(sizes)), training=count, validation=count // 4)


def image_values(found: Images, limits: Limits = CPU, preset: str = "skd", stride: int = 8) -> dict[str, Any]:
    return values(image_settings(load_preset(preset), ALL, found, stride, limits))


def test_camvid_s_images_get_the_sizes_of_its_recipe_on_a_cpu() -> None:
    recipe = load_preset("skd", data="camvid").data
    assert image_values(CAMVID) == {"data.size": list(recipe.size or ()), "data.crop": list(recipe.crop)}


def test_cityscapes_images_get_the_preset_s_crop_on_a_gpu() -> None:
    found = image_values(images((1024, 2048)), GPU, "canonical")
    assert found == {"data.crop": list(load_preset("canonical").data.crop)}, "and stay as large as they are"


def test_images_are_not_scaled_far_below_their_crop() -> None:
    def scale(found: Images, limits: Limits = CPU) -> Any:
        return values(image_settings(load_preset("skd"), SCALE, found, 8, limits)).get("data.scale")

    assert scale(CAMVID) == [0.67, 2.1]  # 120x160 of 180x240
    assert scale(images((96, 128))) == [0.75, 2.1], "crops of whole images"
    assert scale(images((1024, 2048)), GPU) is None, "0.5 is enough for 360x720"
    own = load_preset("skd").changed(**{"data.scale": [0.9, 1.1]})
    assert "data.scale" not in values(image_settings(own, SCALE, CAMVID, 8, CPU))


def test_images_below_the_limits_are_cropped_whole() -> None:
    assert image_values(images((96, 128))) == {"data.crop": [96, 128]}
    assert image_values(images((100, 130))) == {"data.crop": [96, 128]}
    assert image_values(images((100, 130)), stride=32) == {"data.crop": [96, 128]}
    assert image_values(images((60, 90)), stride=32) == {"data.crop": [32, 64]}
    assert image_values(images((7, 300))) == {"data.crop": [4, 296]}


def test_images_of_many_sizes_are_cropped_to_the_smallest() -> None:
    assert image_values(images((100, 130), (90, 150)), CPU) == {"data.crop": [88, 128]}


def test_one_tiny_image_does_not_shrink_all_crops() -> None:
    found = Images({(96, 128): 99, (16, 16): 1}, training=100, validation=10)
    assert image_values(found) == {"data.size": [96, 128], "data.crop": [96, 128]}


@pytest.mark.parametrize("limits", [CPU, GPU])
def test_crops_fit_into_all_images_and_limits(limits: Limits, rng: np.random.Generator) -> None:
    for _ in range(300):
        sizes = [(int(rng.integers(1, 3000)), int(rng.integers(1, 3000))) for _ in range(rng.integers(1, 4))]
        stride = int(rng.choice([8, 16, 32]))
        found = image_values(images(*sizes), limits, stride=stride)
        height, width = found["data.crop"]
        size = found.get("data.size") or (min(h for h, _ in sizes), min(w for _, w in sizes))
        assert height <= size[0]
        assert width <= size[1]
        assert height * width <= limits.crop_pixels
        assert size[0] * size[1] <= max(limits.image_pixels, 1)
        for side, whole in ((height, size[0]), (width, size[1])):
            assert side >= 1, whole
            assert side % stride == 0 or side < stride, whole


def test_a_batch_is_halved_for_few_images_and_the_device() -> None:
    preset = load_preset("canonical")  # of 16

    def batch(training: int, limits: Limits = GPU, parts: int = 1) -> Any:
        found = Images({(96, 128): training}, training, 4)
        return values(batch_setting(preset, ALL, found, parts, limits))["data.batch_size"]

    assert [batch(count) for count in (2, 4, 9, 31, 32, 3000)] == [2, 2, 4, 8, 16, 16]
    assert batch(3000, CPU) == 8
    assert batch(2, parts=4) == 8, "each of 4 processes needs two images"


def steps(training: int, limits: Limits = CPU, batch: int = 8, **asked: Any) -> dict[str, Any]:
    derivation = Derivation(keys=ALL, **asked)
    found = Images({(96, 128): training}, training, 4)
    return values(length_setting(load_preset("skd"), derivation, found, batch, limits))


def test_a_length_is_50_epochs_within_bounds() -> None:
    assert steps(367) == {"optim.steps": 2294}  # 50 * 367 / 8 = 2293.75
    assert steps(40) == {"optim.steps": 500}
    assert steps(4, batch=2) == {"optim.steps": 500}, "500 epochs would be 1000"
    assert steps(2, batch=8) == {"optim.steps": 125}, "500 epochs"
    assert steps(60_000) == {"optim.steps": 10_000}
    assert steps(60_000, GPU) == {"optim.steps": 40_000}


def test_epochs_and_steps_of_the_user_count() -> None:
    assert steps(60_000, epochs=2) == {"optim.steps": 15_000}, "no bound holds"
    assert steps(20, epochs=0.1) == {"optim.steps": 1}
    assert steps(367, epochs=10, max_steps=100) == {"optim.steps": 100}
    assert steps(367, max_steps=100) == {"optim.steps": 100}
    assert length_setting(load_preset("skd"), Derivation(), CAMVID, 8, CPU) == []


def test_a_teacher_s_own_length_is_derived_too() -> None:
    preset = load_preset("skd").changed(**{"teacher.steps": 77})
    found = values(length_setting(preset, Derivation(keys=ALL), CAMVID, 8, CPU))
    assert found == {"optim.steps": 2294, "teacher.steps": 2294}
    of_student = Derivation(keys=frozenset({"optim.steps"}))
    assert values(length_setting(preset, of_student, CAMVID, 8, CPU)) == {"optim.steps": 2294}


def test_intervals_are_tenths_of_the_steps() -> None:
    preset = load_preset("skd").changed(**{"optim.steps": 2294})
    found = values(list(interval_settings(preset, INTERVALS, CAMVID)))
    assert found == {"optim.warmup": 115, "validate.every": 229, "checkpoint.every": 229}
    many = CAMVID._replace(validation=5000)  # 4 * 5000 / 8
    assert values(list(interval_settings(preset, INTERVALS, many)))["validate.every"] == 2294
    long = preset.changed(**{"optim.steps": 40_000})
    found = values(list(interval_settings(long, INTERVALS, CAMVID)))
    assert found == {"optim.warmup": 500, "validate.every": 4000, "checkpoint.every": 1000}


def test_stages_of_terms_keep_their_share() -> None:
    stages = {"terms.affinity.autoencoder.steps": 661}
    found = list(stage_settings(30_000, stages, frozenset(stages), steps=2294))
    assert values(found) == {"terms.affinity.autoencoder.steps": 51}  # 661 / 30000 * 2294 = 50.5
    assert list(stage_settings(30_000, stages, frozenset(), steps=2294)) == []


def test_nothing_is_derived_of_what_the_user_says() -> None:
    preset = load_preset("skd")
    assert image_settings(preset, frozenset(), CAMVID, 8, CPU) == []
    assert batch_setting(preset, frozenset(), CAMVID, 1, CPU) == []
    assert list(interval_settings(preset, frozenset(), CAMVID)) == []
    assert with_derived(preset, []) == preset
