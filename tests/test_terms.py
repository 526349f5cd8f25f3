"""Whatever lies in terms/ keeps one contract; pixel and pairwise vanish for equal networks; the critic is sound."""

from importlib import import_module

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import BF16, CLASSES, distillation, one_batch, optim, scenes, tiny, train
from torch import Tensor, nn
from torch.nn import functional as F

from segdistill import losses
from segdistill.config import NetworkConfig, TermConfig, components, find
from segdistill.errors import UsageError
from segdistill.networks import SegNetwork, build_network
from segdistill.terms import Pair, build_terms, check_terms
from segdistill.terms.holistic import Critic, Holistic, Options, critic_input
from segdistill.types import IGNORE, Batch, SegOutput, Stage, Term

TERMS = components("terms")
VANISHING = ("pairwise", "pixel")
"""Zero where student and teacher are the same network."""

each = pytest.mark.parametrize("name", TERMS)


def network(name: str, seed: int) -> SegNetwork:
    torch.manual_seed(seed)
    return build_network(NetworkConfig(network=name), len(CLASSES)).eval()


def pair() -> Pair:
    """Return two real networks with different channels; both want gradients."""
    return Pair(network("pspnet-resnet18-half", 0), network("pspnet-resnet18", 1), len(CLASSES))


def make(name: str, networks: Pair) -> Term:
    module = import_module(find("terms", name, "term"))
    torch.manual_seed(2)
    term: Term = module.build(module.Options(), networks)
    return term.eval()


def value(term: Term, networks: Pair, batch: Batch) -> Tensor:
    result: Tensor = term(networks.student(batch.image), networks.teacher(batch.image), batch)
    return result


def batch_of(images: int) -> Batch:
    return one_batch(images, crop=(40, 56))


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
        assert abs(value(make(name, networks), networks, batch_of(2)).item()) < 1e-9
        assert value(make(name, pair()), pair(), batch_of(2)) > 1e-5


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


# Pixel-wise


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


def holistic(loss: str = "wgan-gp", seed: int = 2) -> Holistic:
    torch.manual_seed(seed)
    return Holistic(len(CLASSES), Options.model_validate({"loss": loss}))


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


@pytest.mark.parametrize("loss", ["wgan-gp", "hinge"])
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


@pytest.mark.parametrize("loss", ["wgan-gp", "hinge"])
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


@pytest.mark.parametrize("loss", ["wgan-gp", "hinge"])
def test_thirty_steps_at_batch_two_under_bf16_stay_finite(loss: str) -> None:
    student, teacher = tiny(0), tiny(1)
    objective = distillation(student, teacher, {"holistic": 0.1}, loss)
    stage = Stage("student", student, objective, optim(30))
    reports = train(stage, scenes(30, images=2, crop=(24, 32)), precision=BF16)
    assert all(value.isfinite() for report in reports for value in report.terms.values())
    assert all(tensor.isfinite().all() for tensor in (*student.parameters(), *objective.parameters()))
