"""Knowledge adaptation: the auto-encoder comes first and then stays as it is; both terms compare with its latent."""

import math
from collections.abc import Iterator
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.adaptation import KA, ka
from helpers.tiny import BF16, CLASSES, CPU, copied, differing, one_batch, optim, scenes, tiny, train
from segdistill import losses
from segdistill.config.presets import load_preset, preset_folder
from segdistill.networks import SegNetwork
from segdistill.runtime.precision import Precision
from segdistill.terms import TermContext
from segdistill.terms._autoencoder import AutoEncoder, AutoEncoderSettings, LatentTerm, Reconstruction
from segdistill.terms._pooling import pool_to_limit
from segdistill.terms.adaptation import Adaptation
from segdistill.terms.adaptation import Options as AdaptationOptions
from segdistill.terms.affinity import Affinity
from segdistill.terms.affinity import Options as AffinityOptions
from segdistill.training.objectives import Distillation
from segdistill.training.state import Training
from segdistill.types import IGNORE, Batch, Frozen, SegOutput, Stage

STEPS = AutoEncoderSettings(steps=3)


def ka_terms(teacher: SegNetwork) -> list[LatentTerm]:
    context = TermContext(tiny(0), teacher, len(CLASSES))
    return [
        Adaptation(AdaptationOptions(autoencoder=STEPS), context),
        Affinity(AffinityOptions(autoencoder=STEPS), context),
    ]


def stages(terms: list[LatentTerm], teacher: nn.Module) -> Iterator[Stage]:
    frozen = teacher if isinstance(teacher, Frozen) else Frozen(teacher)
    for term in terms:
        yield from term.pretraining_stages(frozen)


def trained(student: SegNetwork, teacher: SegNetwork) -> tuple[Distillation, list[LatentTerm]]:
    """Return objective and terms after the auto-encoder's stage."""
    objective, terms = ka(student, teacher)
    for stage in stages(terms, teacher):
        train(stage, scenes(3))
    return objective, terms


def alone(options: AdaptationOptions | AffinityOptions, width: int = 2) -> LatentTerm:
    """Return a term between maps of `width` channels that compares them as they are."""
    student, teacher = tiny(0), tiny(1, width=width)
    context = TermContext(student, teacher, len(CLASSES))
    term = Adaptation(options, context) if isinstance(options, AdaptationOptions) else Affinity(options, context)
    term.set_submodule("adapter", nn.Identity())
    term.latent.encoder = nn.Sequential()
    return term


def maps(features: Tensor) -> SegOutput:
    return SegOutput(features, (features,), None)


def labeled(label: Tensor) -> Batch:
    return Batch(torch.zeros(len(label), 3, *label.shape[1:]), label, ("",) * len(label), torch.arange(len(label)))


def value(term: LatentTerm, student: Tensor, teacher: Tensor, batch: Batch | None = None) -> Tensor:
    batch = batch or labeled(torch.zeros_like(student[:, 0], dtype=torch.int64))
    result: Tensor = term(maps(student), maps(teacher), batch)
    return result


# The auto-encoder


def test_autoencoder_has_three_convolutions_and_deconvolutions() -> None:
    layers = list(AutoEncoder(8, 4).modules())
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    assert [type(layer) for layer in convolutions] == 3 * [nn.Conv2d] + 3 * [nn.ConvTranspose2d]
    assert [layer.stride[0] for layer in convolutions] == [2, 1, 1, 2, 1, 1]
    assert {(layer.kernel_size, layer.padding) for layer in convolutions} == {((3, 3), (1, 1))}
    assert [layer.out_channels for layer in convolutions] == [8, 4, 4, 4, 8, 8]
    assert [type(layer) for layer in layers].count(nn.BatchNorm2d) == [type(x) for x in layers].count(nn.ReLU) == 6


@pytest.mark.parametrize("size", [*product((1, 2, 7, 12), (1, 5, 16)), (65, 65)])
def test_maps_of_any_size_are_rebuilt_at_their_own(size: tuple[int, int]) -> None:
    features = torch.rand(2, 6, *size)
    latent, rebuilt = AutoEncoder(6, 3).eval()(features)
    assert latent.shape == (2, 3, math.ceil(size[0] / 2), math.ceil(size[1] / 2))
    assert rebuilt.shape == features.shape
    assert min(latent.min(), rebuilt.min()) >= 0


class Echo(nn.Module):
    """A teacher whose features are the image."""

    def forward(self, image: Tensor) -> SegOutput:
        return maps(image)


class Off(nn.Module):
    """An auto-encoder whose latent is a corner, and which rebuilds everything twice as large."""

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return -features[:, :1, :1, :1], 2 * features


def two_images(first: list[int], second: list[int]) -> Batch:
    """Return two images of 1x2 positions and one channel, with these labels."""
    image = torch.tensor([[[[3.0, -1.0]]], [[[5.0, 2.0]]]])
    return labeled(torch.tensor([[first], [second]]))._replace(image=image)


@pytest.mark.parametrize(
    ("batch", "error", "length"),
    [
        (two_images([0, 1], [0, 0]), (9 + 1 + 25 + 4) / 4, (3 + 5) / 4),
        (two_images([IGNORE, IGNORE], [0, 0]), (9 + 1 + 25 + 4) / 4, (3 + 5) / 4),
        (two_images([IGNORE, 0], [0, 0]), (1 + 25 + 4) / 3, 5 / 3),
    ],
    ids=["labeled", "an image without label", "a void pixel"],
)
def test_reconstruction_is_squared_error_plus_scaled_latent_norm(batch: Batch, error: float, length: float) -> None:
    step = Reconstruction(Frozen(Echo()))(Off(), batch)
    assert list(step.terms) == ["reconstruction", "sparsity"]
    assert step.terms["reconstruction"].item() == pytest.approx(error)
    assert step.terms["sparsity"].item() == pytest.approx(1e-7 * length)


def halves(batch: Batch) -> list[Batch]:
    """Return the two images of a batch as the micro-batches of a step."""
    parts = tuple(
        Batch(batch.image[i : i + 1], batch.label[i : i + 1], batch.names[i : i + 1], batch.seeds[i : i + 1])
        for i in range(2)
    )
    return [part._replace(parts=parts) for part in parts]


def test_micro_batches_are_rebuilt_like_the_whole_batch() -> None:
    objective, batch = Reconstruction(Frozen(Echo())), two_images([0, IGNORE], [0, 0])
    whole, first, second = (objective(Off(), part).terms for part in (batch, *halves(batch)))
    for name, expected in whole.items():
        torch.testing.assert_close((first[name] + second[name]) / 2, expected)


@pytest.mark.parametrize("precision", [CPU, BF16], ids=["fp32", "bf16"])
def test_autoencoder_learns_the_features_of_an_unchanged_teacher(precision: Precision) -> None:
    teacher = tiny(1, width=10)
    _, (term,) = ka(tiny(0), teacher, {"affinity": 1.0}, affinity=25)
    before = copied(teacher)
    (stage,) = stages([term], teacher)
    assert (stage.name, stage.optim.steps, stage.optim.lr) == ("autoencoder", 25, 0.1)
    reports = train(stage, scenes(25), precision=precision)
    errors = [report.terms["reconstruction"].item() for report in reports]
    assert errors[-1] < 0.3 * errors[0]
    assert not differing(before, copied(teacher))
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_pretraining_stages_do_nothing_until_iterated() -> None:
    teacher = Frozen(tiny(1))
    terms, before = ka_terms(tiny(1)), copied(teacher)
    state = torch.get_rng_state()
    coming = [term.pretraining_stages(teacher) for term in terms]
    assert torch.equal(torch.get_rng_state(), state)
    assert [stage.name for one in coming for stage in one] == ["autoencoder"]
    assert not torch.equal(torch.get_rng_state(), state), "the first weights"
    assert not differing(before, copied(teacher))


class Curious(Frozen):
    """A teacher that reads more of the batch than its image."""

    def forward(self, batch: Batch) -> SegOutput:
        with torch.no_grad():
            output: SegOutput = self.network(batch.image + batch.label[:, None])
        return output


def test_pretraining_stage_keeps_a_teacher_that_needs_the_batch() -> None:
    teacher = Curious(tiny(1))
    (stage,) = stages(ka_terms(tiny(1)), teacher)
    assert isinstance(stage.objective, Reconstruction)
    assert stage.objective.teacher is teacher


# One auto-encoder for both terms


def test_both_terms_share_one_autoencoder_trained_once() -> None:
    teacher = tiny(1)
    _, terms = ka(tiny(0), teacher)
    assert terms[0].latent is terms[1].latent
    assert [stage.name for stage in stages(terms, teacher)] == ["autoencoder"]
    assert not list(stages(terms, teacher))


@pytest.mark.parametrize("name", KA)
def test_single_term_has_its_autoencoder_trained(name: str) -> None:
    teacher = tiny(1)
    _, terms = ka(tiny(0), teacher, dict.fromkeys(KA, 0.0) | {name: 1.0})
    assert len(terms) == 1
    assert [stage.name for stage in stages(terms, teacher)] == ["autoencoder"]
    assert not terms[0].messages


def test_terms_with_other_settings_have_separate_autoencoders() -> None:
    teacher = tiny(1)
    _, terms = ka(tiny(0), teacher, affinity=5)
    found = [(stage.name, stage.optim.steps) for stage in stages(terms, teacher)]
    assert found == [("autoencoder", 3), ("autoencoder-2", 5)]
    assert not terms[0].messages
    (note,) = terms[1].messages
    assert note.startswith("autoencoder-2 is one more to train")


def test_loaded_autoencoder_weights_give_the_same_latent() -> None:
    teacher, features = tiny(1), torch.rand(2, 12, 5, 7)
    _, first = ka(tiny(0), teacher)
    for stage in stages(first, teacher):
        train(stage, scenes(3))
        kept = copied(stage.model)
    _, again = ka(tiny(5), teacher)
    for stage in stages(again, teacher):
        stage.model.load_state_dict(kept)
    assert torch.equal(again[1].latent(maps(features)), first[0].latent(maps(features)))


def test_untrained_autoencoder_is_reported_by_its_term() -> None:
    teacher = tiny(1)
    _, terms = ka(tiny(0), teacher)
    assert all("autoencoder is not trained" in term.messages[0] for term in terms)
    list(stages(terms, teacher))
    assert not any(term.messages for term in terms)


# The student's stage


def test_encoder_is_bit_identical_after_student_training() -> None:
    student, teacher = tiny(0), tiny(1)
    objective, terms = ka(student, teacher)
    for stage in stages(terms, teacher):
        train(stage, scenes(3))
        autoencoder = stage.model
    encoder = terms[0].latent.encoder
    before, features = copied(encoder), torch.rand(2, 12, 5, 7)
    latent = terms[0].latent(maps(features))
    assert not differing(before, copied(autoencoder.get_submodule("encoder")))
    train(Stage("student", student, objective, optim(3)), scenes(3))
    objective.train()
    autoencoder.train()(features)  # moves the statistics of its own batch norm
    assert not differing(before, copied(encoder))
    assert torch.equal(terms[0].latent(maps(features)), latent)
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_latent_terms_add_only_adapters_to_training_and_state() -> None:
    student, teacher = tiny(0), tiny(1)
    objective, _ = trained(student, teacher)
    own = [name for name, _ in objective.named_parameters() if not name.startswith("teacher.")]
    assert own
    assert all(name.startswith(("terms.adaptation.adapter.", "terms.affinity.adapter.")) for name in own)
    training = Training(Stage("student", student, objective, optim(1)), BF16)
    saved = {name for name in training.state()["weights"] if not name.startswith("model.")}
    assert {name.split(".")[3] for name in saved} == {"adapter"}
    assert len(training.parameters) == len(list(student.parameters())) + len(own)


@pytest.mark.parametrize("name", KA)
def test_each_latent_term_moves_student_and_its_adapter_only(name: str) -> None:
    student, teacher = tiny(0), tiny(1)
    objective, terms = trained(student, teacher)
    objective.train()
    objective(student, one_batch(2)).terms[name].backward()
    first = student.get_parameter("first.0.weight").grad
    assert first is not None
    assert first.abs().max() > 0
    for own, parameter in objective.named_parameters():
        assert (parameter.grad is not None) == own.startswith(f"terms.{name}.adapter."), own
    assert all(parameter.grad is None for parameter in terms[0].latent.encoder.parameters())


def test_training_brings_the_student_closer_to_the_latent() -> None:
    student, teacher = tiny(0), tiny(1)
    objective, _ = trained(student, teacher)
    reports = train(Stage("student", student, objective, optim(20, lr=0.02)), scenes(20))
    for name in KA:
        assert reports[-1].terms[name] < 0.8 * reports[0].terms[name]


def test_images_without_labels_count_in_both_terms() -> None:
    student, teacher, batch = tiny(0), tiny(1), one_batch(2)
    objective, _ = trained(student, teacher)
    without, whole = (batch._replace(label=torch.full_like(batch.label, label), valid=None) for label in (IGNORE, 0))
    unlabeled, everywhere = objective(student, without).terms, objective(student, whole).terms
    assert unlabeled["cross_entropy"] == 0
    for name in KA:
        assert unlabeled[name] > 0
        torch.testing.assert_close(unlabeled[name], everywhere[name])


# The terms


def det(shape: tuple[int, ...], a: int, b: int, m: int) -> Tensor:
    """Return the deterministic tensor behind the published values."""
    return ((torch.arange(math.prod(shape)) * a + b) % m / m * 4 - 2).reshape(shape)


STUDENT, LATENT = det((2, 4, 4, 4), 7, 3, 11), det((2, 6, 4, 4), 5, 1, 13)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (AdaptationOptions(), 2.120380932 / 4),
        (AdaptationOptions(per_element=False), 2.120380932),
        (AdaptationOptions(p=2, per_element=False), 1.163170402),
    ],
)
def test_adaptation_has_the_value_of_the_paper_s_equation(options: AdaptationOptions, expected: float) -> None:
    assert value(alone(options), STUDENT, LATENT[:, :4]).item() == pytest.approx(expected, rel=2e-6)


def test_affinity_has_the_value_of_the_paper_s_equation() -> None:
    assert value(alone(AffinityOptions()), STUDENT, LATENT).item() == pytest.approx(2.247591411, rel=2e-6)


def test_ignored_positions_do_not_count_in_adaptation() -> None:
    code, label = LATENT[:, :4], torch.zeros(2, 4, 4, dtype=torch.int64)
    label[0, :, 1:] = label[1, 3] = IGNORE
    distances = (F.normalize(STUDENT) - F.normalize(code)).abs().mean(1)
    batch, term = labeled(label), alone(AdaptationOptions())
    expected = distances[label != IGNORE].mean()
    torch.testing.assert_close(value(term, STUDENT, code, batch), expected)
    first, second = (value(term, STUDENT[i : i + 1], code[i : i + 1], part) for i, part in enumerate(halves(batch)))
    torch.testing.assert_close((first + second) / 2, expected)


@pytest.mark.parametrize("options", [AdaptationOptions(), AffinityOptions()], ids=["adaptation", "affinity"])
def test_latent_is_resized_to_the_student(options: AdaptationOptions | AffinityOptions) -> None:
    code = LATENT[:, :4]
    larger = F.interpolate(STUDENT, size=(7, 9), mode="bilinear", align_corners=False)
    resized = F.interpolate(code, size=(7, 9), mode="bilinear", align_corners=False)
    torch.testing.assert_close(value(alone(options), larger, code), value(alone(options), larger, resized))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 300))
def test_pool_to_limit_pools_no_more_than_needed(height: int, width: int, most: int) -> None:
    features = torch.rand(1, 1, height, width)
    h, w = pool_to_limit(features, most).shape[-2:]
    assert h * w <= most
    if height * width <= most:
        assert (h, w) == (height, width)
    else:
        side = next(side for side in range(2, 71) if (math.ceil(height / side), math.ceil(width / side)) == (h, w))
        assert math.ceil(height / (side - 1)) * math.ceil(width / (side - 1)) > most


def test_pool_to_limit_averages_inside_the_map_only() -> None:
    pooling_note = pool_to_limit(torch.tensor([[[[1.0, 3.0, 10.0], [5.0, 7.0, 20.0], [2.0, 4.0, 9.0]]]]), 4)
    assert pooling_note.tolist() == [[[[4.0, 15.0], [3.0, 9.0]]]]


def test_affinity_pools_positions_above_its_limit_with_a_message() -> None:
    value(coarse := alone(AffinityOptions(max_positions=4)), STUDENT[..., ::2, ::2], LATENT)
    assert coarse.messages[-1] == "affinity: 4x4 positions are averaged to 2x2 to save memory", "those of the latent"
    term, free = alone(AffinityOptions(max_positions=4)), alone(AffinityOptions())
    halves = (F.avg_pool2d(STUDENT, 2), F.avg_pool2d(LATENT, 2))
    torch.testing.assert_close(value(term, STUDENT, LATENT), losses.affinity(*halves))
    assert term.messages[-1] == "affinity: 4x4 positions are averaged to 2x2 to save memory"
    value(free, STUDENT, LATENT)
    assert not any("averaged" in note for note in free.messages)


def test_the_preset_states_the_paper_s_weights() -> None:
    lines = (preset_folder() / "ka.toml").read_text(encoding="utf-8").splitlines()
    for term, weight in KA.items():
        line = lines[lines.index(f"[terms.{term}]") + 1]
        assert line.startswith(f"weight = {weight} ")
        assert line.endswith("# paper")


@pytest.mark.parametrize(
    ("data", "images"),
    [("voc", 10582), ("cityscapes", 2975), ("pascal-context", 4998), ("camvid", 367), ("streets", 500)],
)
def test_ka_terms_share_an_autoencoder_trained_for_one_epoch(data: str, images: int) -> None:
    config = load_preset("ka", data=data)
    settings = [config.terms[name].options()["autoencoder"] for name in KA]
    assert settings[0] == settings[1]
    assert abs(settings[0]["steps"] * config.data.batch_size - images) <= config.data.batch_size / 2
