"""Label maps for the benchmark's server: ids, names, sizes, and what is refused."""

import json
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from helpers.commands import NETWORK, SMALL, contents, files, refused, succeeds
from helpers.tiny import model_info
from segdistill.checkpoints.model_file import save_model
from segdistill.config.schema import NetworkConfig
from segdistill.data.datasets.cityscapes import CLASSES, PALETTE
from segdistill.errors import DataError, UsageError
from segdistill.evaluation.cityscapes_server import plan_submission, write_submission
from segdistill.networks import build_network
from segdistill.types import IGNORE, Batch

pytestmark = pytest.mark.usefixtures("elsewhere")

OFFICIAL = {
    **{"road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17, "traffic light": 19},
    **{"traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23, "person": 24, "rider": 25, "car": 26},
    **{"truck": 27, "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33},
}
"""Names and ids of the 19 classes that are evaluated, as cityscapesScripts' helpers/labels.py lists them."""
VAL = ("frankfurt_000000_000294", "munster_000007_000019")
TEST = ("berlin_000000_000019",)


@pytest.fixture(scope="module")
def cityscapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write two images with labels for val and one without for test, of the real size, in a few flat colors."""
    root = tmp_path_factory.mktemp("data") / "cityscapes"
    rng = np.random.default_rng(0)
    for split, names in (("val", VAL), ("test", TEST)):
        for name in names:
            blocks = rng.integers(0, 34, (4, 8)).astype(np.uint8)
            label = blocks.repeat(256, 0).repeat(256, 1)
            city = name.partition("_")[0]
            for kind in ("leftImg8bit", "gtFine"):
                (root / kind / split / city).mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(np.stack([label * 7, 255 - label, label], 2))
            image.save(root / f"leftImg8bit/{split}/{city}/{name}_leftImg8bit.png")
            if split == "val":
                Image.fromarray(label).save(root / f"gtFine/{split}/{city}/{name}_gtFine_labelIds.png")
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    torch.manual_seed(0)
    network = build_network(NetworkConfig(network=NETWORK), len(CLASSES))
    save_model(path, network, model_info(NETWORK, CLASSES, palette=PALETTE, size=(64, 128), data="cityscapes"))
    return path


def batches(names: Sequence[str], size: tuple[int, int] = (1024, 2048)) -> Iterator[Batch]:
    label = torch.full((len(names), *size), IGNORE)
    yield Batch(torch.zeros(len(names), 3, 4, 8), label, tuple(names), torch.zeros(len(names), dtype=torch.int64))


def stripes(image: Tensor) -> Tensor:
    """A network that sees class i in the i-th of 19 stripes, from left to right."""
    classes = torch.arange(2048) // 108
    one_hot = torch.eye(19)[classes].T[None, :, None].expand(len(image), 19, 1024, 2048)
    return one_hot.contiguous()


def test_submission_writes_class_ids_at_full_size(tmp_path: Path) -> None:
    image = "leftImg8bit/val/frankfurt/frankfurt_000000_000294_leftImg8bit.png"
    targets = plan_submission([image], tmp_path / "out", overwrite=False)
    assert not files(tmp_path)
    done: list[int] = []
    scores = write_submission(stripes, batches([image]), targets, done.append)
    with Image.open(tmp_path / "out/frankfurt_000000_000294_labelIds.png") as file:
        assert (file.mode, file.size, file.format) == ("L", (2048, 1024), "PNG")
        ids = np.asarray(file)
    assert (ids == ids[0]).all()
    assert list(dict.fromkeys(ids[0].tolist())) == list(OFFICIAL.values()), "from left to right, as the classes are"
    assert tuple(OFFICIAL) == CLASSES
    assert (done, scores.images, scores.ignored_pixels) == ([1], 1, 1024 * 2048)


def test_void_is_written_as_unlabeled(tmp_path: Path) -> None:
    image = "leftImg8bit/val/frankfurt/frankfurt_000000_000294_leftImg8bit.png"
    targets = plan_submission([image], tmp_path / "out", overwrite=False)

    def void(image: Tensor) -> Tensor:
        return torch.eye(20)[19].view(1, 20, 1, 1).expand(len(image), 20, 4, 8)

    write_submission(void, batches([image]), targets, lambda count: None)
    with Image.open(tmp_path / "out/frankfurt_000000_000294_labelIds.png") as file:
        assert not np.asarray(file).any()


def test_the_evaluation_script_finds_one_file_for_each_image(tmp_path: Path) -> None:
    names = ["frankfurt_000000_000294", "frankfurt_000000_002942", "bad-honnef_000001_000019"]
    targets = plan_submission([f"a/{name}_leftImg8bit.png" for name in names], tmp_path / "out", overwrite=False)
    for name in names:
        city, sequence, frame = name.split("_")
        assert sum(fnmatch(path.name, f"{city}_{sequence}_{frame}*.png") for path in targets.values()) == 1
    assert {path.parent for path in targets.values()} == {tmp_path / "out"}


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (
            ["a/berlin_000000_000019_leftImg8bit.png", "b/berlin_000000_000019_leftImg8bit.jpg"],
            "are both berlin_000000",
        ),
        (["a/0.png"], "a/0.png is not named as Cityscapes' images are"),
        (["a/berlin_000000_000019.png"], "is not named"),
        (["a/berlin_0_19_leftImg8bit.png"], "is not named"),
    ],
)
def test_images_with_the_same_server_name_are_refused(images: list[str], expected: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=expected):
        plan_submission(images, tmp_path / "out", overwrite=False)
    assert not (tmp_path / "out").exists()


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    image = "berlin_000000_000019_leftImg8bit.png"
    targets = plan_submission([image], tmp_path / "out", overwrite=False)
    with pytest.raises(DataError, match="has 1024x512 pixels") as caught:
        write_submission(stripes, batches([image], (512, 1024)), targets, lambda count: None)
    assert "2048x1024" in caught.value.fix
    assert not files(tmp_path)


@pytest.mark.promise("S8")
def test_submission_folder_keeps_other_files(tmp_path: Path) -> None:
    image, out = "berlin_000000_000019_leftImg8bit.png", tmp_path / "out"
    out.mkdir()
    (out / "berlin_000000_000019_labelIds.png").write_text("old")
    with pytest.raises(UsageError, match="is not empty"):
        plan_submission([image], out, overwrite=False)
    write_submission(stripes, batches([image]), plan_submission([image], out, overwrite=True), lambda count: None)
    assert files(out) == {"berlin_000000_000019_labelIds.png"}
    assert (out / "berlin_000000_000019_labelIds.png").read_bytes().startswith(b"\x89PNG")
    (out / "berlin_000000_000019_old.png").write_text("mine")
    before = contents(out)
    with pytest.raises(UsageError, match=r"no part of this submission: berlin_000000_000019_old\.png"):
        plan_submission([image], out, overwrite=True)
    assert contents(out) == before
    with pytest.raises(UsageError, match="cannot be made a folder"):
        plan_submission([image], out / "berlin_000000_000019_old.png", overwrite=False)


def test_val_is_written_and_scored_like_any_evaluation(cityscapes: Path, model: Path) -> None:
    line = f"evaluate {model} --data cityscapes:{cityscapes} --workers 0 --json"
    plain = json.loads(succeeds(line).out)
    result = succeeds(f"{line} --submission out")
    written = json.loads(result.out)
    assert written.pop("submission") == "out"
    assert written == plain
    assert plain["miou"] is not None
    assert files(Path("out")) == {f"{name}_labelIds.png" for name in VAL}
    assert "cityscapes's val split has 2 images here; it usually has 500." in result.err
    succeeds(f"infer {model} {cityscapes}/leftImg8bit/val --out labels")
    table = np.array(list(OFFICIAL.values()), np.uint8)
    for name in VAL:
        with Image.open(f"labels/{name.partition('_')[0]}/{name}_leftImg8bit.png") as file:
            classes = np.asarray(file)
        with Image.open(f"out/{name}_labelIds.png") as file:
            assert (np.asarray(file) == table[classes]).mean() > 0.9999, "as infer sees it"


def test_test_images_have_no_labels_and_so_no_scores(cityscapes: Path, model: Path) -> None:
    line = f"evaluate {model} --data cityscapes:{cityscapes} --split test --workers 0"
    result = succeeds(f"{line} --submission out")
    assert result.out == "No labels, no scores.\n"
    assert "Label maps: out. Cityscapes' server takes those of test, in one .zip file." in result.err
    assert "its server wants all of them." in result.err
    assert files(Path("out")) == {f"{name}_labelIds.png" for name in TEST}
    assert "cityscapes's test split has 1 image here; it usually has 1525." in result.err
    again = json.loads(succeeds(f"{line} --submission out --overwrite --json").out)
    assert (again["images"], again["miou"], again["pixel_accuracy"], set(again["iou"].values())) == (
        1,
        None,
        None,
        {None},
    )


def test_no_labels_of_other_splits_are_needed(cityscapes: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "leftImg8bit").symlink_to(cityscapes / "leftImg8bit")
    result = succeeds(f"evaluate {model} --data cityscapes:bare --split test --workers 0 --submission out")
    assert "cityscapes's val images are left out: there is no gtFine/val/ here." in result.err
    assert files(Path("out")) == {f"{name}_labelIds.png" for name in TEST}


def test_evaluation_without_labels_needs_a_submission(cityscapes: Path, model: Path) -> None:
    expected = ("The test images of cityscapes have no labels to score by.", "--submission DIR")
    refused(f"evaluate {model} --data cityscapes:{cityscapes} --split test --workers 0", *expected, code=3)


def test_a_submission_is_refused_before_anything_is_computed(cityscapes: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    before = contents(tmp_path)
    for extra, expected in (("", "mine is not empty"), ("--overwrite", "no part of this submission: notes.txt")):
        refused(f"evaluate {model} --data cityscapes:{cityscapes} --submission mine --workers 0 {extra}", expected)
    assert contents(tmp_path) == before


def test_the_training_images_are_no_submission(cityscapes: Path, model: Path) -> None:
    refused(f"evaluate {model} --data cityscapes:{cityscapes} --split train --submission out", "not train")
    assert not Path("out").exists()


def test_submission_supports_cityscapes_only(camvid: Path) -> None:
    succeeds(f"train-teacher --teacher {NETWORK} --data camvid:{camvid} --out run {SMALL}")
    expected = "--submission supports the data set cityscapes, not camvid."
    refused(f"evaluate run --data camvid:{camvid} --submission out --workers 0", expected)
    assert not Path("out").exists()
