"""Label spaces: what a teacher's outputs mean in the classes of the data, and what the terms then see."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.class_maps import info
from helpers.commands import SMALL, UNTRAINED, refused, succeeds
from helpers.tiny import CLASSES, TinyNetwork, one_batch, optim, repeated, tiny, train
from segdistill.checkpoints.model_file import load_model, save_model
from segdistill.config.presets import load_preset
from segdistill.config.schema import NetworkConfig, TermConfig
from segdistill.errors import UsageError
from segdistill.evaluation.evaluate import evaluate
from segdistill.networks import InferenceWrapper, SegNetwork, build_network
from segdistill.teachers.class_map import ClassMapping, match_classes, resolve_class_map
from segdistill.teachers.remapped import RemappedNetwork, remap_logits, remap_network
from segdistill.teachers.selective import SelectiveFrozen
from segdistill.terms import TermContext, build_terms
from segdistill.training.objectives import Distillation
from segdistill.types import IGNORE, Batch, SegOutput, Stage

DATA = ("road", "car", "sky")
TEACHER = ("Sky", "traffic-light", "car", "truck", "__road__")


def logits_of(*probabilities: float) -> Tensor:
    """Return logits (1, C, 1, 1) with these probabilities, and an offset, which means nothing."""
    return torch.tensor(probabilities).log().view(1, -1, 1, 1) + 3


# Logits


def test_remap_sums_outputs_per_class_and_keeps_unmapped_last() -> None:
    found = remap_logits(logits_of(0.1, 0.2, 0.3, 0.4), ClassMapping(((0, 2), (1,)), (3,))).softmax(1).flatten()
    assert found.tolist() == pytest.approx([0.4, 0.2, 0.4])


def test_remap_without_the_last_channel_renormalizes() -> None:
    found = remap_logits(logits_of(0.1, 0.2, 0.3, 0.4), ClassMapping(((0, 2), (1,)), (3,)))[:, :-1].softmax(1).flatten()
    assert found.tolist() == pytest.approx([2 / 3, 1 / 3])


def test_class_without_an_output_has_zero_probability() -> None:
    found = remap_logits(logits_of(0.5, 0.25, 0.25), ClassMapping(((1, 2), (), (0,)), ()))
    assert found.softmax(1).flatten().tolist() == pytest.approx([0.5, 0, 0.5])
    assert torch.nn.functional.interpolate(found, size=(3, 5), mode="bilinear").isfinite().all()


def test_remap_logits_matches_numpy_logsumexp() -> None:
    logits = torch.randn(2, 7, 3, 4, generator=torch.Generator().manual_seed(0))
    mapping = ClassMapping(((6,), (0, 3, 5), (2,)), (1, 4))
    powers = np.exp(logits.double().numpy())
    slow = np.stack([np.log(sum(powers[:, i] for i in group)) for group in (*mapping.groups, mapping.unmapped)], axis=1)
    assert remap_logits(logits, mapping).numpy() == pytest.approx(slow, rel=1e-5)


def test_logits_in_half_precision_are_mapped_in_float32() -> None:
    found = remap_logits(logits_of(0.1, 0.9).bfloat16(), ClassMapping(((0,), (), (1,)), ()))
    assert found.dtype == torch.float32
    assert found.isfinite().all()


# What means what


def test_class_map_accepts_any_spelling_numbers_and_many_to_one() -> None:
    table = {"SKY": "sky", "traffic_light": "ignore", "2": "Car", "truck": "car", "road": "road"}
    expected = {"Sky": "sky", "traffic-light": "ignore", "car": "car", "truck": "car", "__road__": "road"}
    resolved = resolve_class_map(table, TEACHER, DATA)
    assert resolved == expected
    assert resolve_class_map(resolved, TEACHER, DATA) == resolved
    mapping, warning = match_classes(info(*TEACHER), resolved, DATA)
    assert mapping == ClassMapping(((4,), (2, 3), (0,)), (1,))
    assert warning == ""
    assert mapping.summary() == "4 of its outputs mean 3 of the 3 classes; the other output means none of them."


def test_class_named_like_a_number_is_found_by_name_first() -> None:
    assert resolve_class_map({"1": "road", "0": "car"}, ("1", "0"), DATA) == {"1": "road", "0": "car"}
    assert match_classes(info("1", "0"), {"1": "road"}, DATA)[0].groups == ((0,), (), ())
    with pytest.raises(UsageError, match="the teacher has no class '-1'"):  # which is no spelling of 1
        resolve_class_map({"-1": "road"}, ("1", "0"), DATA)


def test_class_map_errors_are_reported_together() -> None:
    table = {"trck": "car", "Sky": "ski", "9": "road", "car": "car", "2": "road"}
    with pytest.raises(UsageError) as error:
        resolve_class_map(table, TEACHER, DATA)
    lines = error.value.what.splitlines()
    assert lines[0] == "4 mistakes in the class map:"
    for line, parts in zip(
        lines[1:],
        (("'trck'", "mean truck"), ("'ski'", "mean sky"), ("'9'", "0 to 4"), ("'2' is both 'car' and 'road'",)),
        strict=True,
    ):
        assert all(part in line for part in parts), line


def test_ambiguous_output_name_must_be_given_as_a_number() -> None:
    with pytest.raises(UsageError, match="outputs 0 and 2: give the number"):
        resolve_class_map({"door": "car"}, ("door", "sky", "door"), DATA)
    assert resolve_class_map({"2": "car"}, ("door", "sky", "door"), DATA) == {"2": "car"}
    assert match_classes(info("door", "sky", "door"), {"2": "car"}, DATA)[0] == ClassMapping(((), (2,), ()), (0, 1))


@pytest.mark.parametrize("table", [{}, {"car": "ignore"}])
def test_class_map_without_shared_classes_is_refused(table: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="no class of the teacher"):
        resolve_class_map(table, TEACHER, DATA)


@pytest.mark.promise("T1")
def test_same_classes_in_other_spelling_and_order_need_no_map() -> None:
    assert match_classes(info("SKY", "_car", "Road"), None, DATA) == (ClassMapping(((2,), (1,), (0,)), ()), "")


def test_two_spellings_in_one_list_are_two_classes() -> None:
    mapping, _ = match_classes(info("car", "Road", "road"), None, ("road", "Road", "car"))
    assert mapping.groups == ((2,), (1,), (0,))


def test_unnamed_outputs_are_matched_in_order_with_a_warning() -> None:
    mapping, warning = match_classes(info("0", "1", "2"), None, DATA)
    assert mapping.groups == ((0,), (1,), (2,))
    assert "in order" in warning


@pytest.mark.promise("T1")
@pytest.mark.parametrize("classes", [("road", "car"), ("0", "1"), ("road", "car", "sea")])
def test_other_classes_without_a_map_are_refused_with_both_lists(classes: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as error:
        match_classes(info(*classes), None, DATA)
    for part in (", ".join(classes), "road, car, sky", "--class-map"):
        assert part in str(error.value)


def test_missing_teacher_classes_are_named() -> None:
    mapping, warning = match_classes(info(*TEACHER), {"car": "road"}, DATA)
    assert (mapping.missing_classes, mapping.known_classes) == ((1, 2), (0,))
    assert "nothing of car, sky" in warning


def test_void_output_is_unmapped_at_any_position() -> None:
    for void, groups in ((0, ((1,), (2,), (3,))), (1, ((0,), (2,), (3,))), (3, ((0,), (1,), (2,)))):
        assert match_classes(info(*DATA, void=void), None, DATA)[0] == ClassMapping(groups, (void,))


def test_network_with_the_same_classes_is_not_wrapped() -> None:
    network = tiny(0)
    assert remap_network(network, ClassMapping(((0,), (1,), (2,)), ())) is network
    assert isinstance(remap_network(network, ClassMapping(((0,), (2,), (1,)), ())), RemappedNetwork)


# What the terms see


class Saying(SegNetwork):
    """A network that says the same of every image: probabilities per column, (outputs, columns)."""

    def __init__(self, probabilities: list[list[float]]) -> None:
        super().__init__(len(probabilities))
        self.said = torch.tensor(probabilities)

    def segment(self, image: Tensor) -> SegOutput:
        return SegOutput(self.said.log()[None, :, None].repeat(len(image), 1, 1, 1), (), None)


def test_pixels_unknown_to_the_teacher_are_masked_out() -> None:
    network = RemappedNetwork(Saying([[0.6, 0.3, 0.5, 0.2], [0.4, 0.7, 0.5, 0.8]]), ClassMapping(((0,), ()), (1,)))
    image, label = torch.zeros(2, 3, 1, 4), torch.tensor([[[0, 0, 0, 0]], [[0, 0, 1, IGNORE]]])
    batch = Batch(image, label, ("a", "b"), torch.zeros(2, dtype=torch.int64))
    seen = network.without_unknown_pixels(batch, network(image).logits)
    assert seen.valid_mask().tolist() == [[[True, False, True, False]], [[True, False, False, False]]]
    assert seen.label.tolist() == [[[0, IGNORE, 0, IGNORE]], [[0, IGNORE, IGNORE, IGNORE]]]


def test_unlabeled_images_count_where_the_teacher_knows_them() -> None:
    network = RemappedNetwork(Saying([[0.6, 0.3], [0.4, 0.7]]), ClassMapping(((0,), ()), (1,)))
    image = torch.zeros(1, 3, 1, 2)
    batch = Batch(image, torch.full((1, 1, 2), IGNORE), ("a",), torch.zeros(1, dtype=torch.int64))
    assert network.without_unknown_pixels(batch, network(image).logits).valid_mask().tolist() == [[[True, False]]]


def five_outputs(seed: int) -> RemappedNetwork:
    """Return a teacher with a class too few, and two outputs too many that take some pixels."""
    torch.manual_seed(seed)
    network = TinyNetwork(6)
    network.classifier = torch.nn.Conv2d(12, 5, 1)
    torch.nn.init.normal_(network.classifier.weight, std=3)
    return RemappedNetwork(network.eval(), ClassMapping(((0, 3), (2,), ()), (1, 4)))


def distillation(terms: dict[str, float], teacher: RemappedNetwork) -> tuple[TinyNetwork, Distillation]:
    student = tiny(3)
    tables = {name: TermConfig(weight=weight) for name, weight in terms.items()}
    torch.manual_seed(7)
    pair = TermContext(student, teacher, len(CLASSES), missing_classes=1)
    return student, Distillation(0.4, SelectiveFrozen(teacher), build_terms(tables, pair))


def test_pixel_term_is_the_divergence_over_shared_classes() -> None:
    teacher, batch = five_outputs(0), one_batch()
    student, objective = distillation({"pixel": 2.0}, teacher)
    with torch.no_grad():
        step = objective(student.eval(), batch)
        own, target = (
            student(batch.image).logits[:, :2].log_softmax(1),
            teacher(batch.image).logits[:, :2].log_softmax(1),
        )
        valid = teacher.without_unknown_pixels(batch, teacher(batch.image).logits).valid_mask()[:, ::4, ::4]
        divergence = (target.exp() * (target - own)).sum(1)
    assert 0.1 < valid.float().mean() < 0.9
    assert float(step.terms["pixel"]) == pytest.approx(2 * float(divergence[valid].mean()), rel=1e-5)


def test_micro_batches_equal_a_large_batch_under_a_class_map() -> None:
    batch = one_batch()
    parts = tuple(
        Batch(batch.image[i : i + 2], batch.label[i : i + 2], batch.names[i : i + 2], batch.seeds[i : i + 2])
        for i in (0, 2)
    )
    student, objective = distillation({"pixel": 1.0}, five_outputs(0))
    student.eval()
    with torch.no_grad():
        whole = objective(student, batch).terms["pixel"]
        halves = [objective(student, part._replace(parts=parts)).terms["pixel"] for part in parts]
    assert float(sum(halves)) / 2 == pytest.approx(float(whole), rel=1e-5)
    assert float(halves[0]) != pytest.approx(float(halves[1]), rel=1e-2)


def test_all_skd_terms_train_under_a_remapped_frozen_teacher() -> None:
    teacher = five_outputs(0)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    student, objective = distillation({"pixel": 1.0, "pairwise": 1.0, "holistic": 0.1, "channel": 1.0}, teacher)
    reports = train(Stage("student", student, objective, optim(2)), repeated(one_batch(), 2))
    assert all(value.isfinite() for report in reports for value in report.terms.values())
    assert "critic" in reports[0].terms
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())


def test_prediction_outside_the_classes_counts_as_a_miss() -> None:
    network = RemappedNetwork(Saying([[0.6, 0.3], [0.4, 0.7]]), ClassMapping(((0,), ()), (1,)))
    image, label = torch.zeros(1, 3, 1, 2), torch.tensor([[[0, 0]]])
    batch = Batch(image, label, ("a",), torch.zeros(1, dtype=torch.int64))
    scores = evaluate(InferenceWrapper(network), [batch], 2)
    assert scores.pixels.tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert (scores.miou, scores.pixel_accuracy) == (0.5, 0.5)


# Files and commands


def test_model_file_keeps_its_void_output(tmp_path: Path) -> None:
    network = build_network(NetworkConfig(network="pspnet-resnet18-half"), 4)
    save_model(tmp_path / "model.safetensors", network, info(*DATA, void=1))
    loaded, found = load_model(tmp_path / "model.safetensors")
    assert (found.void_output, found.outputs, loaded.num_classes) == (1, 4, 4)
    with torch.no_grad():
        assert loaded(torch.zeros(1, 3, 33, 33)).logits.shape[1] == 4


@pytest.mark.usefixtures("elsewhere")
def test_teacher_of_other_classes_teaches_with_a_class_map(camvid: Path) -> None:
    network = build_network(NetworkConfig(network="pspnet-resnet18-half"), 5)
    model = info("Road", "sky", "building", "lane-marking", void=2).model_copy(update={"size": (32, 48)})
    save_model(Path("teacher.safetensors"), network, model)
    line = f"distill --teacher teacher.safetensors --student resnet18-half --data camvid:{camvid} {UNTRAINED} --out run"
    refused(line, "The teacher's classes", "lane-marking", "bicyclist", "--class-map")
    Path("wrong.toml").write_text('[classes]\nroad = "rode"\nsky = "sky"\nlane = "road"\n')
    refused(f"{line} --class-map wrong.toml", "2 mistakes", "'rode'", "'lane'", "mean lane-marking")
    Path("odd.toml").write_text('[class]\nroad = "road"\n')
    refused(f"{line} --class-map odd.toml", "unknown key", "classes")
    refused(f"{line} --class-map gone.toml", "no class map gone.toml")
    Path("map.toml").write_text('[classes]\nroad = "road"\nsky = "sky"\nBuilding = "building"\n3 = "road"\n')
    done = succeeds(f"{line} --class-map map.toml --json")
    for part in ("knows nothing of", "4 of its outputs mean 3 of the 11 classes; the other output"):
        assert part in done.err
    resolved = {"Road": "road", "sky": "sky", "building": "building", "lane-marking": "road"}
    assert load_preset("run/config.toml").teacher.class_map == resolved
    assert "Already finished" in succeeds(f"{line} --preset run/config.toml --resume").err
    Path("map.toml").write_text('[classes]\nroad = "road"\nsky = "sky"\nBuilding = "building"\n')
    refused(f"{line} --class-map map.toml --resume", "teacher.class_map.lane-marking: road -> None")
    succeeds(f"export run --data camvid:{camvid} --workers 0 --json")


@pytest.mark.usefixtures("elsewhere")
def test_class_map_for_a_teacher_trained_here_is_refused() -> None:
    Path("map.toml").write_text('[classes]\nroad = "road"\n')
    line = f"--data streets {SMALL} --out run"
    refused(f"distill --teacher pspnet18 --student resnet18-half --class-map map.toml {line}", "has the data's classes")
    refused(f"train-teacher --set teacher.class_map.road=road {line}", "has the data's classes")
    assert not Path("run").exists()
