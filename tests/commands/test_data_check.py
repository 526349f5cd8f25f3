"""The commands on a user's own data, and `data check` with its preview."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.commands import NETWORK, SMALL, contents, halve, refused, segdistill, succeeds
from helpers.own_data import CLASSES, IDS, SPLITS, own, write
from segdistill.config.presets import load_preset
from segdistill.data import DataSource, check_files, load_data, scan_dataset

pytestmark = pytest.mark.usefixtures("elsewhere")


# Commands


def test_own_data_trains_and_scores_a_network() -> None:
    rng = np.random.default_rng(0)
    data = own(
        CLASSES + SPLITS + IDS, np.kron(rng.choice([0, 7, 21, 22, 26], (4, 6)), np.ones((8, 8))).astype(np.uint8)
    )
    succeeds(f"train-teacher --teacher {NETWORK} {SMALL} --out run --set data.name={data}")
    assert json.loads(Path("run/data.json").read_text())["name"] == "yard"
    scored = json.loads(succeeds(f"evaluate run --data {data} --json --workers 0").out)
    assert (scored["data"], scored["images"], list(scored["iou"])) == ("yard", 2, ["ground", "plant", "tool"])
    assert all("yard/" not in Path(path).read_text() for path in ("run/config.toml", "run/data.json"))
    succeeds("evaluate run --workers 0")
    Path("run/local.json").unlink()  # as of a run that was given away
    refused("evaluate run --workers 0", "run does not say where its data set (yard) lies", "--data FILE.toml")


@pytest.mark.promise("C5", "D13")
def test_changed_images_or_labels_refuse_to_resume() -> None:
    text = CLASSES + SPLITS.replace('labels = "labels/train"', 'labels = ["a.bmp", "b.bmp"]').replace(
        'images = "images/train"', 'images = ["images/train/0.png", "images/train/1.png"]'
    )
    label = np.kron([[0, 1], [2, 1]], np.ones((16, 24))).astype(np.uint8)
    data = own(text, label)
    for name in "ab":
        write(Path(f"yard/{name}.bmp"), label)
    image = Path("yard/images/train/0.png")
    shape = np.asarray(Image.open(image)).shape
    Image.fromarray(np.full(shape, 100, np.uint8)).save(image, format="BMP")  # known by its content, not its name
    line = f"train-teacher --teacher {NETWORK} {SMALL} --out run --data {data}"
    succeeds(line)
    for path, other, before in (
        (Path("yard/a.bmp"), label[::-1], label),
        (image, np.full(shape, 101, np.uint8), np.full(shape, 100, np.uint8)),
    ):
        assert "Already finished" in succeeds(f"{line} --resume").err
        Image.fromarray(other).save(path, format="BMP")
        refused(f"{line} --resume", "The data set has changed since this run began.")
        Image.fromarray(before).save(path, format="BMP")


def test_run_goes_on_with_data_under_other_names_and_finds_its_teacher() -> None:
    data = own(label=np.kron([[0, 1], [2, 1]], np.ones((16, 24))).astype(np.uint8))
    succeeds(f"train-teacher --teacher {NETWORK} {SMALL} --out runs/teacher --data {data}")
    before = json.loads(Path("runs/teacher/data.json").read_text())
    Path("yard").rename("garden")
    os.rename("garden/labels", "garden/masks")
    text = Path("garden/data.toml").read_text().replace('"labels/', '"masks/').replace('"images/', '"garden/images/')
    Path("data.toml").write_text(text.replace('"masks/', '"garden/masks/'))
    assert "Already finished" in succeeds("resume runs/teacher --data data.toml").err
    student = (
        f"distill --teacher {NETWORK} --student {NETWORK} {SMALL} --data data.toml --accept-teacher --out runs/run"
    )
    assert "Teacher: runs/teacher, trained before" in succeeds(student).err
    after = json.loads(Path("runs/run/data.json").read_text())
    assert (before.pop("sha256") != after.pop("sha256"), before) == (True, after)


def test_data_record_of_an_earlier_version_is_known_by_names_and_content() -> None:
    line = f"train-teacher --teacher {NETWORK} {SMALL} --out run --data {own()}"
    succeeds(line)
    record = Path("run/data.json")
    table = json.loads(record.read_text())
    del table["content_sha256"]
    record.write_text(json.dumps(table))
    for path in (Path("run/manifest.json"), Path("run/model.safetensors")):
        path.unlink()  # the run is unfinished, so that its files are not held against the manifest
    succeeds(f"{line} --resume")
    Path("run/manifest.json").unlink()
    record.write_text(json.dumps(table | {"sha256": "0" * 64}))
    refused(f"{line} --resume", "The data set has changed since this run began.")


def test_files_that_take_a_while_to_read_are_counted_on_the_way() -> None:
    pairs = {kind: json.dumps([f"{kind}/train/{i % 2}.png" for i in range(301)]) for kind in ("images", "labels")}
    many = f"[train]\nimages = {pairs['images']}\nlabels = {pairs['labels']}\n"
    line = f"train-teacher --teacher {NETWORK} {SMALL} --dry-run --data"
    validation = SPLITS.partition("[val]")[2]
    label = np.kron([[0, 1], [2, 1]], np.ones((16, 24))).astype(np.uint8)
    assert "reading yard 303/303" in succeeds(f"{line} {own(f'{CLASSES}{many}[val]{validation}', label)}").err
    assert "reading" not in succeeds(f"{line} {own(label=label)}").err


def test_preset_can_name_a_data_file() -> None:
    data = own()
    segdistill("presets copy skd mine.toml")
    mine = Path("mine.toml")
    mine.write_text(mine.read_text().replace('name = "cityscapes"', f'name = "{data}"'))
    assert load_data(load_preset(mine).data.name).name == "yard"


# The check


def test_data_check_counts_sizes_and_prints_json() -> None:
    data = own()
    write(Path("yard/images/train/2.png"), np.arange(6 * 5 * 3, dtype=np.uint8).reshape(6, 5, 3))
    write(Path("yard/labels/train/2.png"), np.full((6, 5), 1, np.uint8))
    entry = json.loads(succeeds(f"data check {data} --json").out)
    assert entry["splits"]["train"] == {
        "images": 3,
        "pixels": {"ground": 4, "plant": 4 + 30, "tool": 6},
        "ignored_pixels": 2,
        "sizes": [{"size": [2, 4], "images": 2}, {"size": [6, 5], "images": 1}],
    }
    assert entry["splits"]["val"]["sizes"] == [{"size": [2, 4], "images": 2}]
    assert (entry["duplicates"], entry["errors"], entry["warnings"]) == ([], [], [])
    assert "Sizes, height x width: 2x4 (4), 6x5 (1)\n" in succeeds(f"data check {data}").out


@pytest.mark.promise("D1")
def test_data_check_counts_sound_pairs_and_names_damaged_files() -> None:
    data = own()
    for split in ("train", "val"):
        halve(Path(f"yard/images/{split}/0.png"))
    result = segdistill(f"data check {data} --json")
    assert (result.code, "2 pairs cannot be used" in result.err) == (3, True)
    entry = json.loads(result.out)
    assert [Path(error.split()[0]).parts[-2:] for error in entry["errors"]] == [("train", "0.png"), ("val", "0.png")]
    assert entry["splits"]["val"]["pixels"] == {"ground": 2, "plant": 2, "tool": 3}
    shown = segdistill(f"data check {data}")
    assert (shown.code, "2 pairs cannot be used" in shown.err) == (3, True)
    assert "tool  " in shown.out
    assert "Sizes, height x width:" in shown.out


def test_every_kind_of_data_error_has_advice() -> None:
    data = own()
    halve(Path("yard/images/train/0.png"))
    write(Path("yard/labels/val/0.png"), np.full((2, 4), 200, np.uint8))
    write(Path("yard/labels/val/1.png"), np.full((2, 4, 3), (1, 2, 3), np.uint8))
    told = segdistill(f"data check {data}").err
    for part in ("under [ids], with a class", "a data.toml, whose [colors] says"):
        assert part in told


def test_held_out_duplicates_are_reported_shared_training_is_not() -> None:
    data = own()
    shutil.copy("yard/images/train/1.png", "yard/images/val/0.png")
    entry = json.loads(succeeds(f"data check {data} --json").out)
    assert entry["duplicates"] == [{"train": "images/train/1.png", "val": "images/val/0.png"}]
    assert "Images in two splits (1): images/train/1.png = images/val/0.png." in entry["warnings"]
    source = load_data(data)
    shared = DataSource("yard", source.classes, source.palette, {s: source.split("train") for s in ("train", "coarse")})
    assert not scan_dataset(shared, shared.splits).twins


def test_most_frequent_of_many_sizes_are_listed() -> None:
    data = own(CLASSES + SPLITS)
    for i in range(11):
        write(Path(f"yard/images/val/{i}.png"), np.full((3 + i, 5, 3), i, np.uint8))
        write(Path(f"yard/labels/val/{i}.png"), np.zeros((3 + i, 5), np.uint8))
    words = check_files(load_data(data), ["train", "val"]).sizes_text()
    assert words.startswith("2x4 (2), 3x5 (1), 4x5 (1), ")
    assert words.endswith(", 10x5 (1) and 2 more")


def test_a_preview_shows_image_labels_and_both_in_their_colors() -> None:
    text = "palette = [[10, 20, 30], [200, 100, 0], [0, 0, 250]]\nignore = [255]\n"
    text += 'absent = ["ground"]\n' + CLASSES + SPLITS
    label = np.repeat([[1, 2]], 48, 0).repeat(32, 1).astype(np.uint8)
    label[:, -8:] = 255
    data = own(text, label)
    write(Path("yard/images/train/0.png"), np.broadcast_to(np.array([250, 120, 10], np.uint8), (48, 64, 3)))
    result = succeeds(f"data check {data} --preview look.png")
    assert "Wrote look.png: images/train/0.png, images/train/1.png, images/val/0.png" in result.err
    with Image.open("look.png") as file:
        sheet = np.asarray(file.convert("RGB"))
    middle, width = 28 + 96, 256  # below the titles, half of a cell that is 192 high and, with these images, 256 wide
    image, labels, overlay = (
        [sheet[middle, 6 + column * (width + 6) + x].tolist() for x in (40, 160, 250)] for column in range(3)
    )
    assert image == [[250, 120, 10]] * 3
    assert labels == [[200, 100, 0], [0, 0, 250], [0, 0, 0]]
    assert np.allclose(overlay, (np.array(image) + labels) / 2, atol=1)
    legend = {tuple(pixel) for pixel in sheet[28 + 4 * 198 :].reshape(-1, 3).tolist()}
    assert {(10, 20, 30), (200, 100, 0), (0, 0, 250)} <= legend


def test_images_of_other_shapes_are_not_distorted_in_a_preview() -> None:
    data = own('absent = ["tool"]\n' + CLASSES + SPLITS, np.zeros((48, 96), np.uint8))
    write(Path("yard/images/train/1.png"), np.full((96, 48, 3), 77, np.uint8))
    write(Path("yard/labels/train/1.png"), np.ones((96, 48), np.uint8))
    succeeds(f"data check {data} --preview look.png")
    with Image.open("look.png") as file:
        row = np.asarray(file.convert("RGB"))[28 + 198 + 96, 6 : 6 + 384]
    assert (row == 77).all(1).nonzero()[0].tolist() == list(range(96)), "half as wide as its 192 rows are high"


def test_preview_replaces_nothing_and_checks_its_path_first(tmp_path: Path) -> None:
    data = own()
    (tmp_path / "mine.png").write_text("mine")
    before = contents(tmp_path)
    for name, expected in (
        ("mine.png", "mine.png exists"),
        ("a.jpg", "does not end in .png"),
        ("no/a.png", "The folder no does not exist"),
    ):
        refused(f"data check {data} --preview {name}", expected)
    assert contents(tmp_path) == before
    succeeds(f"data check {data} --preview mine.png --overwrite")
    with Image.open("mine.png") as file:
        assert file.format == "PNG"


def test_there_is_no_preview_of_damaged_data() -> None:
    data = own()
    halve(Path("yard/images/train/0.png"))
    refused(f"data check {data} --preview look.png", "images/train/0.png", code=3)
    assert not Path("look.png").exists()


def test_the_preview_of_many_classes_has_a_line_for_all_of_them() -> None:
    classes = [f"a rather long name {i}" for i in range(250)]
    data = own(
        f'name = "yard"\nclasses = {classes}\n' + SPLITS, np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) % 250
    )
    succeeds(f"data check {data} --preview look.png")
    with Image.open("look.png") as file:
        below = np.asarray(file.convert("RGB"))[28 + 4 * 198 :]
    colors = load_data(data).palette
    assert set(colors) <= {tuple(pixel) for pixel in below.reshape(-1, 3).tolist()}


def test_preview_of_real_camvid_shows_both_splits() -> None:
    path = os.environ.get("SEGDISTILL_TEST_CAMVID")
    if not path:
        pytest.skip("SEGDISTILL_TEST_CAMVID is not set to a CamVid folder")
    result = succeeds(f"data check camvid:{path} --preview camvid.png")
    (line,) = (line for line in result.err.splitlines() if line.startswith("Wrote camvid.png: "))
    assert line.count("train/") >= 5
    assert "val/" in line
