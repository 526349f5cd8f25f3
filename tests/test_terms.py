"""Whatever lies in terms/ keeps one contract; most terms vanish for equal networks; the critic is sound."""

from importlib import import_module
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import BF16, CLASSES, copied, differing, distillation, one_batch, optim, scenes, tiny, train
from torch import Tensor, nn
from torch.nn import functional as F

from segdistill import losses
from segdistill.config import NetworkConfig, TermConfig, components, find
from segdistill.engine import build_optimizer
from segdistill.errors import ShapeError, UsageError
from segdistill.networks import SegNetwork, build_network
from segdistill.objectives import Distillation
from segdistill.terms import Pair, build_terms, check_terms
from segdistill.terms._layers import Layer, Layers, feature_layers, paired
from segdistill.terms.holistic import Critic, Holistic, Options, critic_input
from segdistill.types import IGNORE, Batch, Frozen, SegOutput, Stage, Term

TERMS = components("terms")
VANISHING = (
    *("pairwise", "pixel", "probability", "consistency", "channel", "attention", "variation"),
    *("residual-attention", "channel-correlation", "cross-image"),
)
"""Zero where student and teacher are the same network."""
OF_FEATURES = ("pairwise", "feature", "attention", "variation", "residual-attention")
MASKED: dict[str, dict[str, Any]] = {
    "pixel": {},
    "probability": {},
    "consistency": {"on": "logits"},
    "channel": {},
    "channel of features": {"term": "channel", "on": "features"},
    "feature": {},
    "attention": {},
    "variation": {},
    "residual-attention": {},
    "cross-image": {},
    "cross-image of averages": {"term": "cross-image", "max_positions": 9},
}
"""Terms in which ignored pixels do not count, with options."""

each = pytest.mark.parametrize("name", TERMS)


def network(name: str, seed: int) -> SegNetwork:
    torch.manual_seed(seed)
    return build_network(NetworkConfig(network=name), len(CLASSES)).eval()


def pair() -> Pair:
    """Return two real networks with different channels; both want gradients."""
    return Pair(network("pspnet-resnet18-half", 0), network("pspnet-resnet18", 1), len(CLASSES))


def make(name: str, networks: Pair, **options: Any) -> Term:
    module = import_module(find("terms", name, "term"))
    torch.manual_seed(2)
    term: Term = module.build(module.Options(**options), networks)
    return term.eval()


def masked(name: str) -> tuple[Term, Pair]:
    networks, options = pair(), dict(MASKED[name])
    return make(options.pop("term", name), networks, **options), networks


def value(term: Term, networks: Pair, batch: Batch) -> Tensor:
    result: Tensor = term(networks.student(batch.image), networks.teacher(batch.image), batch)
    return result


def batch_of(images: int) -> Batch:
    return one_batch(images, crop=(40, 56))


def relabelled(batch: Batch, label: Tensor) -> Batch:
    return batch._replace(label=label, valid=None)


def largest(module: nn.Module) -> float:
    return max((float(p.grad.abs().max()) for p in module.parameters() if p.grad is not None), default=0.0)


# The contract


@each
def test_a_term_is_a_finite_scalar_under_bf16_and_moves_the_student_alone(name: str) -> None:
    networks = pair()
    term = make(name, networks)
    with BF16.autocast():
        result = value(term, networks, batch_of(2))
    assert result.shape == ()
    assert result.dtype == torch.float32
    assert result.isfinite()
    result.backward()
    assert largest(networks.student) > 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in networks.student.parameters())
    assert all(p.grad is None for p in networks.teacher.parameters())
    for own, parameter in term.named_parameters():
        critics = own.startswith("critic.")
        assert (parameter.grad is None) == critics, f"{own}: a critic gets no gradient, an adapter gets one"


@each
def test_equal_images_give_the_term_of_one_of_them(name: str) -> None:
    networks, one = pair(), batch_of(1)
    four = Batch(one.image.repeat(4, 1, 1, 1), one.label.repeat(4, 1, 1), one.names * 4, one.seeds.repeat(4))
    term = make(name, networks)
    with torch.no_grad():
        torch.testing.assert_close(value(term, networks, four), value(term, networks, one), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", VANISHING)
def test_nothing_is_left_to_learn_from_oneself(name: str) -> None:
    student = network("pspnet-resnet18-half", 0)
    networks = Pair(student, student, len(CLASSES))
    with torch.no_grad():
        own = abs(value(make(name, networks), networks, batch_of(2)).item())
        other = value(make(name, pair()), pair(), batch_of(2)).item()
    assert own < 1e-9
    assert other > max(1e-12, 1000 * own)


@each
def test_every_option_has_a_default_and_unknown_ones_are_refused(name: str) -> None:
    check_terms({name: TermConfig(weight=1)})
    with pytest.raises(UsageError, match=rf"\[terms\.{name}\]") as caught:
        check_terms({name: TermConfig.model_validate({"weight": 1, "no_such_key": 3})})
    assert "no_such_key: unknown key" in caught.value.what


@each
def test_a_term_of_weight_zero_is_not_built(name: str) -> None:
    assert build_terms({name: TermConfig(weight=0)}, pair()) == {}
    built = build_terms({name: TermConfig(weight=0.5)}, pair())
    assert (list(built), built[name].weight) == ([name], 0.5)


def test_unknown_terms_are_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match=r"Unknown term 'pairwize'.*\n.*pairwise"):
        check_terms({"pairwize": TermConfig(weight=1)})


def test_a_term_may_be_listed_again_under_a_name_of_its_own() -> None:
    tables = {
        "channel": TermConfig(weight=3),
        "channel-feature": TermConfig.model_validate({"term": "channel", "weight": 50, "on": "features"}),
    }
    check_terms(tables)
    built = build_terms(tables, pair())
    assert {name: weighted.weight for name, weighted in built.items()} == {"channel": 3, "channel-feature": 50}
    assert [len(list(weighted.term.parameters())) for weighted in built.values()] == [0, 1]
    with pytest.raises(UsageError, match=r"\[terms\.channel-feature\]"):
        check_terms({"channel-feature": TermConfig.model_validate({"term": "channel", "weight": 1, "no": 1})})


class Bare(nn.Module):
    """A network that shows nothing but its logits, as a graph made elsewhere may."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, 3, 1, 1))
        self.maps = maps

    def forward(self, image: Tensor) -> SegOutput:
        logits = F.avg_pool2d(image, 8)
        return SegOutput(logits, (logits,) * self.maps, None)


@pytest.mark.parametrize("name", [*OF_FEATURES, "channel-a"])
def test_a_term_of_features_is_refused_for_a_teacher_without_any(name: str) -> None:
    tables = {name: TermConfig.model_validate({"weight": 1})}
    if name == "channel-a":
        tables = {name: TermConfig.model_validate({"term": "channel", "weight": 1, "on": "features"})}
    networks = Pair(network("pspnet-resnet18-half", 0), Bare(0), len(CLASSES))
    with pytest.raises(UsageError, match=rf"\[terms\.{name}\] Bare has no feature maps") as caught:
        build_terms(tables, networks)
    assert "pixel" in caught.value.fix


def test_residual_attention_asks_for_as_many_layers_as_it_compares() -> None:
    networks = Pair(Bare(2), Bare(1), 3)
    assert make("residual-attention", networks, layers=1)
    with pytest.raises(UsageError, match=r"2 maps are compared, and map 0 of 0-0 \(3 channels, stride 8\)"):
        make("residual-attention", networks)


def test_asking_a_network_for_its_channels_leaves_it_as_it_was() -> None:
    student = network("pspnet-resnet18-half", 0).train()
    before = copied(student)
    maps = feature_layers(student)
    assert [(layer.channels, layer.stride) for layer in maps] == [(32, 4), (64, 8), (128, 8), (256, 8), (64, 8)]
    assert student.training
    assert not differing(before, copied(student))


# Which feature maps are compared


def maps(*strides: int) -> list[Layer]:
    return [Layer(number, len(strides), 8, stride) for number, stride in enumerate(strides)]


@pytest.mark.parametrize(
    ("student", "teacher", "keys", "expected"),
    [
        ((4, 8, 8), (4, 8, 8, 8), {}, (2, 3)),  # the last of both
        ((2, 4, 8, 4, 2), (4, 8, 8), {}, (2, 2)),  # the student's middle, at the stride of the teacher's last
        ((4, 8, 8), (4, 8, 16, 32, 4), {}, (2, 4)),  # the last of both, though the stride of map 1 is nearer
        ((4, 8, 16), (4, 8, 8), {}, (2, 2)),
        ((4, 8, 8), (4, 8, 16, 32), {}, (2, 1)),  # further apart
        ((16, 32), (4, 8), {}, (0, 1)),  # no stride in common: the nearest
        ((4, 8, 8), (4, 8, 16, 32), {"teacher_layer": -1}, (2, 3)),
        ((4, 8, 16), (4, 8, 8), {"student_layer": 0}, (0, 0)),
        ((4, 8, 16), (4, 8, 8), {"student_layer": 0, "teacher_layer": 2}, (0, 2)),
    ],
)
def test_the_last_maps_are_compared_or_else_maps_of_one_stride_as_deep_as_they_come(
    student: tuple[int, ...], teacher: tuple[int, ...], keys: dict[str, int], expected: tuple[int, int]
) -> None:
    found = paired(maps(*student), maps(*teacher), Layers(**keys))
    assert (found.student.number, found.teacher.number) == expected


@pytest.mark.parametrize("index", [-4, 3])
def test_a_map_that_there_is_not_is_refused_with_those_there_are(index: int) -> None:
    with pytest.raises(UsageError, match=f"The teacher has no feature map {index}") as caught:
        paired(maps(4), maps(4, 8, 8), Layers(teacher_layer=index))
    assert "2: stride 8" in caught.value.fix


def test_a_distillation_compares_the_maps_that_are_named() -> None:
    networks, batch = pair(), batch_of(2)
    table = {"pairwise": TermConfig.model_validate({"weight": 1, "student_layer": 1, "teacher_layer": 2})}
    objective = Distillation(0.4, Frozen(networks.teacher), build_terms(table, networks))
    step = objective(networks.student, batch)
    assert step.student is not None
    assert step.teacher is not None
    expected = losses.pairwise(step.student.features[1], step.teacher.features[2], 2, "max")
    torch.testing.assert_close(step.terms["pairwise"], expected)


def test_a_term_of_logits_has_no_layers_to_name() -> None:
    with pytest.raises(UsageError, match="student_layer"):
        check_terms({"pixel": TermConfig.model_validate({"weight": 1, "student_layer": 1})})
    with pytest.raises(UsageError, match="here none are compared"):
        check_terms({"channel": TermConfig.model_validate({"weight": 1, "student_layer": 1})})
    check_terms({"channel": TermConfig.model_validate({"weight": 1, "on": "features", "student_layer": 1})})


def test_an_auto_encoder_is_of_the_map_that_is_named_and_goes_by_its_name() -> None:
    networks, batch = pair(), batch_of(2)
    table = {"affinity": TermConfig.model_validate({"weight": 1, "teacher_layer": 1})}
    term = build_terms(table, networks)["affinity"].term
    stage = next(term.before(networks.teacher))
    assert stage.name == "autoencoder-of-map-1"
    assert stage.model.get_parameter("encoder.0.weight").shape[1] == networks.teacher(batch.image).features[1].shape[1]
    assert all(value.isfinite() for value in stage.objective(stage.model, batch).terms.values())


# Void and unlabelled images


def disturbed(output: SegOutput, where: Tensor) -> SegOutput:
    """Return an output with other numbers at these positions (B, h, w) of the logits and of features of their size."""

    def disturb(x: Tensor) -> Tensor:
        return x + 5 * noise(*x.shape, seed=9) * where[:, None] if x.shape[-2:] == where.shape[-2:] else x

    return SegOutput(disturb(output.logits), tuple(disturb(x) for x in output.features), None)


@pytest.mark.promise("T5")
@pytest.mark.parametrize("name", MASKED)
def test_ignored_pixels_do_not_count(name: str) -> None:
    (term, networks), batch = masked(name), batch_of(2)
    with torch.no_grad():
        student, teacher = networks.student(batch.image), networks.teacher(batch.image)
        valid = losses.at_size(batch.compared(), student.logits.shape[-2:])
        assert 0 < valid.sum() < valid.numel()
        expected = term(student, teacher, batch)
        for where, changes in ((~valid, False), (valid, True)):
            result = term(disturbed(student, where), disturbed(teacher, where), batch)
            assert torch.equal(result, expected) != changes


@each
def test_a_batch_without_labels_gives_a_finite_value_and_gradient(name: str) -> None:
    networks, batch = pair(), batch_of(2)
    result = value(make(name, networks), networks, relabelled(batch, torch.full_like(batch.label, IGNORE)))
    assert result.isfinite()
    result.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in networks.student.parameters())


@pytest.mark.parametrize("name", [name for name in MASKED if name != "variation"])
def test_an_image_without_labels_counts_whole(name: str) -> None:
    (term, networks), batch = masked(name), batch_of(2)
    unlabelled = relabelled(batch, torch.full_like(batch.label, IGNORE))
    whole = relabelled(batch, torch.zeros_like(batch.label))
    with torch.no_grad():
        assert value(term, networks, unlabelled) == value(term, networks, whole) != value(term, networks, batch)


def test_images_without_labels_add_nothing_to_the_variation() -> None:
    networks, batch = pair(), batch_of(2)
    term = make("variation", networks)
    mixed = relabelled(batch, torch.stack([batch.label[0], torch.full_like(batch.label[1], IGNORE)]))
    first = Batch(batch.image[:1], batch.label[:1], batch.names[:1], batch.seeds[:1])
    none = relabelled(batch, torch.full_like(batch.label, IGNORE))
    with torch.no_grad():
        torch.testing.assert_close(value(term, networks, mixed), value(term, networks, first))
        assert value(term, networks, mixed) > 0
        assert value(term, networks, none) == 0


@pytest.mark.parametrize("name", [name for name in MASKED if not name.startswith("cross-image")])
def test_micro_batches_average_to_the_whole_batch(name: str) -> None:
    term, networks = masked(name)
    whole = batch_of(4)  # with more void in one half than in the other
    halves = (slice(0, 2), slice(2, 4))
    parts = tuple(Batch(whole.image[i], whole.label[i], whole.names[i], whole.seeds[i]) for i in halves)
    assert len({int(part.compared().sum()) for part in parts}) == 2
    with torch.no_grad():
        first, second = (value(term, networks, part._replace(parts=parts)) for part in parts)
        torch.testing.assert_close((first + second) / 2, value(term, networks, whole), rtol=1e-4, atol=1e-7)


# The terms between the outputs


LOGITS, FEATURES = (2, 3, 4, 4), (2, 4, 4, 4)


def det(shape: tuple[int, ...], a: int, b: int, m: int) -> Tensor:
    """Return the deterministic tensor behind the values that were computed with published code."""
    n = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return ((n * a + b) % m / m * 4 - 2).reshape(shape)


def student_and_teacher() -> tuple[SegOutput, SegOutput]:
    """Return the outputs whose terms were computed with published code."""
    auxiliary = det(LOGITS, 3, 2, 7), det(LOGITS, 4, 3, 9)
    student = SegOutput(det(LOGITS, 7, 3, 11), (auxiliary[0], det(FEATURES, 7, 3, 11)), None)
    teacher = SegOutput(det(LOGITS, 5, 1, 13), (auxiliary[1], det((2, 6, 4, 4), 5, 1, 13)), None)
    return student, teacher


def labelled(label: Tensor) -> Batch:
    return Batch(torch.zeros(len(label), 3, *label.shape[1:]), label, ("",) * len(label), torch.arange(len(label)))


GOLDEN: dict[str, tuple[str, dict[str, Any], float]] = {
    "SKD's CriterionLS": ("consistency", {"neighbours": "sum", "on": "logits"}, 170.9979036),
    "CWD of logits": ("channel", {}, 1.285786815),
    "CWD at T = 1": ("channel", {"temperature": 1.0}, 1.070266845),
    "CIRKD's AT": ("attention", {}, 0.00541465273522),
    "CIRKD's IFV": ("variation", {}, 0.178205136837),
    "CIRKD's PSD of three maps": ("residual-attention", {}, 0.128774725202),
    "CIRKD's PSD of two maps": ("residual-attention", {"layers": 1}, 0.119578851851),
    "CIRKD's CSD": ("channel-correlation", {}, 2.63602295e-06),
}


@pytest.mark.parametrize(("name", "options", "expected"), GOLDEN.values(), ids=GOLDEN.keys())
def test_a_term_has_the_value_of_the_published_code(name: str, options: dict[str, Any], expected: float) -> None:
    batch = labelled((torch.arange(2 * 16 * 16) % 3).reshape(2, 16, 16))
    term = make(name, pair(), **options)
    assert float(term(*student_and_teacher(), batch)) == pytest.approx(expected, rel=2e-6)


def test_features_are_compared_behind_an_adapter_that_is_trained() -> None:
    student, teacher = student_and_teacher()
    batch = labelled(torch.zeros(2, 16, 16, dtype=torch.int64))
    networks = pair()  # of 64 and 128 channels; here 4 and 6 are wanted
    for name, options in (("feature", {}), ("channel", {"on": "features"})):
        term = make(name, networks, **options)
        assert [tuple(p.shape) for p in term.parameters()] == [(128, 64, 1, 1)]
        adapter = nn.Conv2d(4, 6, 1, bias=False, dtype=torch.float64)
        term.adapter = adapter
        adapted, target = adapter(student.features[-1]), teacher.features[-1]
        expected = F.mse_loss(adapted, target) if name == "feature" else losses.channel_kl(adapted, target)
        torch.testing.assert_close(term(student, teacher, batch).double(), expected, rtol=1e-6, atol=0)


def test_consistency_is_of_probabilities_unless_logits_are_asked_for() -> None:
    student, teacher = student_and_teacher()
    batch, networks = labelled(torch.zeros(2, 16, 16, dtype=torch.int64)), pair()
    expected = losses.consistency(student.logits.softmax(1), teacher.logits.softmax(1))
    torch.testing.assert_close(make("consistency", networks)(student, teacher, batch).double(), expected)


def test_maps_without_an_inner_position_have_no_consistency() -> None:
    maps, batch = outputs(torch.zeros(1, 3, 2, 5)), labelled(torch.zeros(1, 16, 40, dtype=torch.int64))
    with pytest.raises(ShapeError, match="eight neighbours"):
        make("consistency", pair())(maps, maps, batch)


# Pixel-wise


@pytest.mark.promise("T5")
def test_void_pixels_do_not_count_in_the_pixel_term() -> None:
    networks, batch = pair(), batch_of(2)
    term = make("pixel", networks)
    student, teacher = networks.student(batch.image), networks.teacher(batch.image)
    height, width = student.logits.shape[-2:]
    valid = losses.at_size(batch.label != IGNORE, (height, width))
    assert 0 < valid.sum() < valid.numel()
    log_p, log_q = (output.logits.log_softmax(1) for output in (student, teacher))
    divergence = (log_q.exp() * (log_q - log_p)).sum(1)[valid].mean()
    torch.testing.assert_close(term(student, teacher, batch), divergence)


# Holistic


def outputs(logits: Tensor) -> SegOutput:
    return SegOutput(logits, (), None)


LOSSES = ["wgan-gp-spectral", "wgan-gp", "hinge"]


def holistic(loss: str = "wgan-gp", seed: int = 2, **options: float) -> Holistic:
    torch.manual_seed(seed)
    return Holistic(len(CLASSES), Options.model_validate({"loss": loss, **options}))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("size", "grown"),
    [
        ((12, 16), (64, 85)),
        ((45, 60), (64, 85)),
        ((23, 30), (64, 83)),
        ((30, 12), (160, 64)),
        ((64, 64), (64, 64)),
        ((65, 65), (65, 65)),
        ((64, 128), (64, 128)),
    ],
)
def test_the_critic_sees_maps_of_64_pixels_a_side_at_least(size: tuple[int, int], grown: tuple[int, int]) -> None:
    image = noise(2, 3, 8 * size[0], 8 * size[1]).sigmoid() * 255
    seen = critic_input(image, noise(2, len(CLASSES), *size))
    assert seen.shape == (2, 3 + len(CLASSES), *grown)
    assert Critic(len(CLASSES), spectral=False)(seen).shape == (2,)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 80), st.integers(1, 80))
def test_maps_of_any_size_keep_their_proportions_when_they_are_enlarged(height: int, width: int) -> None:
    seen = critic_input(torch.zeros(1, 3, 8, 8), torch.zeros(1, 2, height, width))
    grown = seen.shape[-2:]
    assert min(grown) == max(64, min(height, width))
    assert abs(grown[0] * width - grown[1] * height) <= max(height, width)


def test_the_critic_sees_the_image_between_minus_one_and_one_beside_probabilities() -> None:
    image = torch.stack([torch.zeros(3, 96, 128), torch.full((3, 96, 128), 255.0)])
    logits = 5 * noise(2, len(CLASSES), 12, 16).bfloat16()
    seen = critic_input(image, logits)
    assert seen.dtype == torch.float32
    torch.testing.assert_close(seen[0, :3], torch.full_like(seen[0, :3], -1))
    torch.testing.assert_close(seen[1, :3], torch.ones_like(seen[1, :3]))
    torch.testing.assert_close(seen[:, 3:].sum(1), torch.ones(2, 64, 85))
    assert seen[:, 3:].min() >= 0
    same = F.interpolate(logits.float().softmax(1), size=(64, 85), mode="bilinear", align_corners=False)
    torch.testing.assert_close(seen[:, 3:], same)


def test_a_teacher_of_another_size_is_seen_at_the_students() -> None:
    image = torch.zeros(1, 3, 96, 128)
    seen = critic_input(image, noise(1, 3, 24, 32), torch.Size((12, 16)))
    assert seen.shape == critic_input(image, noise(1, 3, 12, 16)).shape


@pytest.mark.parametrize("loss", LOSSES)
def test_the_critics_loss_moves_the_critic_and_not_the_student(loss: str) -> None:
    networks, batch, term = pair(), batch_of(2), holistic(loss)
    assert term.critic is not None
    term.critic.requires_grad_(True)
    with BF16.autocast():
        student, teacher = networks.student(batch.image), networks.teacher(batch.image)
    result = term.critic_loss(student, teacher, batch)
    assert result.dtype == torch.float32
    result.backward()
    assert largest(networks.student) == largest(networks.teacher) == 0
    gradients = {name: p.grad for name, p in term.critic.named_parameters() if p.grad is not None}
    # the factors of attention begin at 0, so what is inside gets its gradient once they have moved
    assert {name for name, _ in term.critic.named_parameters()} == set(gradients)
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert all(gradients[name].abs().max() > 0 for name in gradients if name.endswith("gamma"))


def test_the_students_term_is_minus_the_critics_mean_score_and_the_critics_loss_the_papers() -> None:
    term, batch = holistic(), batch_of(2)
    student, teacher = outputs(noise(2, 3, 5, 7, seed=1)), outputs(noise(2, 3, 5, 7, seed=2))
    assert term.critic is not None
    fake, real = (critic_input(batch.image, output.logits) for output in (student, teacher))
    torch.testing.assert_close(term(student, teacher, batch), -term.critic(fake).mean())
    penalty = torch.zeros(())
    for i in range(2):
        alpha = torch.rand((), generator=torch.Generator().manual_seed(int(batch.seeds[i])))
        point = (alpha * real[i : i + 1] + (1 - alpha) * fake[i : i + 1]).requires_grad_()
        (gradient,) = torch.autograd.grad(term.critic(point).sum(), point)
        penalty += (gradient.norm() - 1) ** 2 / 2
    expected = term.critic(fake).mean() - term.critic(real).mean() + 10 * penalty
    torch.testing.assert_close(term.critic_loss(student, teacher, batch), expected)


def test_the_penalty_depends_on_the_samples_seeds_and_on_no_other_generator() -> None:
    term, batch = holistic(), batch_of(2)
    student, teacher = outputs(noise(2, 3, 5, 7, seed=1)), outputs(noise(2, 3, 5, 7, seed=2))

    def loss(batch: Batch, global_seed: int) -> Tensor:
        torch.manual_seed(global_seed)
        return term.critic_loss(student, teacher, batch)

    assert loss(batch, 0) == loss(batch, 1)
    assert loss(batch, 0) != loss(batch._replace(seeds=batch.seeds + 1), 0)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_critic_learns_to_tell_a_fixed_teacher_from_a_fixed_student(loss: str) -> None:
    term, batch = holistic(loss).train(), batch_of(2)
    student, teacher = outputs(noise(2, 3, 5, 7, seed=1)), outputs(6 * noise(2, 3, 5, 7, seed=2))
    assert term.critic is not None
    assert term.critic_optim is not None
    term.critic.requires_grad_(True)
    optimizer = torch.optim.Adam(term.critic.parameters(), lr=term.critic_optim.lr, betas=(0.9, 0.99))
    for _ in range(30):
        with BF16.autocast():
            result = term.critic_loss(student, teacher, batch)
        assert result.isfinite()
        optimizer.zero_grad()
        result.backward()
        optimizer.step()
    with torch.no_grad():
        fake, real = (term.critic(critic_input(batch.image, output.logits)) for output in (student, teacher))
    assert real.min() > fake.max() + 0.5


def test_the_authors_critic_has_four_spectral_norms_and_is_trained_by_sgd_on_a_tenth_of_its_loss() -> None:
    term, batch = holistic("wgan-gp-spectral", critic_weight=0.1), batch_of(2)
    assert term.critic is not None
    assert term.critic_optim is not None
    for _ in range(20):  # each pass is one more power iteration
        term.critic(noise(2, 3 + len(CLASSES), 64, 64))
    strided = [layer for layer in term.critic.modules() if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2)]
    norms = [torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2).item() for layer in strided]
    assert norms == pytest.approx([1, 1, 1, 1], rel=0.05)
    optim = term.critic_optim
    assert (optim.algorithm, optim.lr, optim.momentum, optim.weight_decay) == ("sgd", 4e-4, 0.9, 5e-4)
    student, teacher = outputs(noise(2, 3, 5, 7, seed=1)), outputs(noise(2, 3, 5, 7, seed=2))
    whole = holistic("wgan-gp-spectral").eval()
    whole.load_state_dict(term.eval().state_dict())
    expected = 0.1 * whole.critic_loss(student, teacher, batch)
    torch.testing.assert_close(term.critic_loss(student, teacher, batch), expected)


def test_a_saved_wgan_gp_keeps_its_meaning() -> None:
    term = holistic("wgan-gp")
    assert term.critic is not None
    assert term.critic_optim is not None
    assert "parametrizations" not in " ".join(name for name, _ in term.critic.named_parameters())
    assert (term.critic_optim.algorithm, term.critic_optim.beta2) == ("adam", 0.99)
    assert term.options.critic_weight == 1


@pytest.mark.slow
def test_the_authors_critic_stays_beside_cross_entropy_where_the_free_one_outgrows_it() -> None:
    """With the maps held fixed: the gradient of the student's logits per unit weight, beside cross entropy's."""
    batch, own = batch_of(4), noise(4, 3, 12, 16, seed=1).requires_grad_()
    student, teacher = outputs(own), outputs(4 * noise(4, 3, 12, 16, seed=2))
    reference = torch.autograd.grad(losses.cross_entropy(own, batch.label), own)[0].norm()

    def ratio(loss: str, weight: float) -> float:
        term = holistic(loss, critic_weight=weight).train()
        assert term.critic is not None
        assert term.critic_optim is not None
        optimizer = build_optimizer(term.critic_optim, list(term.critic.requires_grad_(True).parameters()))
        for step in range(60):
            optimizer.zero_grad()
            term.critic_loss(student, teacher, batch._replace(seeds=batch.seeds + 10 * step)).backward()
            optimizer.step()
        (gradient,) = torch.autograd.grad(term(student, teacher, batch), own)
        return float(gradient.norm() / reference)

    assert ratio("wgan-gp-spectral", 0.1) < 1
    assert ratio("wgan-gp", 1.0) > 10


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_thirty_steps_at_batch_two_under_bf16_stay_finite(loss: str) -> None:
    student, teacher = tiny(0), tiny(1)
    objective = distillation(student, teacher, {"holistic": 0.1}, loss)
    stage = Stage("student", student, objective, optim(30))
    reports = train(stage, scenes(30, images=2, crop=(24, 32)), precision=BF16)
    assert all(value.isfinite() for report in reports for value in report.terms.values())
    assert all(tensor.isfinite().all() for tensor in (*student.parameters(), *objective.parameters()))
