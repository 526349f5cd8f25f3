"""The holistic term: what its critic sees, its losses, and how it is trained."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.term_cases import batch_of, largest, noise, outputs, pair
from helpers.tiny import BF16, CLASSES, distillation, optim, scenes, tiny, train
from segdistill import losses
from segdistill.terms._critic import Critic, critic_input
from segdistill.terms.holistic import Holistic, Options
from segdistill.training.optim import build_optimizer
from segdistill.types import Batch, Stage

LOSSES = ["wgan-gp-spectral", "wgan-gp", "hinge"]


def holistic(loss: str = "wgan-gp", seed: int = 2, **options: float) -> Holistic:
    torch.manual_seed(seed)
    return Holistic(len(CLASSES), Options.model_validate({"loss": loss, **options}))


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
def test_critic_input_keeps_proportions_at_any_size(height: int, width: int) -> None:
    seen = critic_input(torch.zeros(1, 3, 8, 8), torch.zeros(1, 2, height, width))
    grown = seen.shape[-2:]
    assert min(grown) == max(64, min(height, width))
    assert abs(grown[0] * width - grown[1] * height) <= max(height, width)


def test_critic_input_has_scaled_images_beside_probabilities() -> None:
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


def test_student_and_critic_losses_match_the_paper() -> None:
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


def test_gradient_penalty_depends_on_sample_seeds_alone() -> None:
    term, batch = holistic(), batch_of(2)
    student, teacher = outputs(noise(2, 3, 5, 7, seed=1)), outputs(noise(2, 3, 5, 7, seed=2))

    def loss(batch: Batch, global_seed: int) -> Tensor:
        torch.manual_seed(global_seed)
        return term.critic_loss(student, teacher, batch)

    assert loss(batch, 0) == loss(batch, 1)
    assert loss(batch, 0) != loss(batch._replace(seeds=batch.seeds + 1), 0)


@pytest.mark.parametrize("loss", LOSSES)
def test_critic_learns_to_tell_teacher_from_student(loss: str) -> None:
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


def test_spectral_critic_has_four_norms_and_its_own_sgd() -> None:
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


def test_saved_wgan_gp_setting_keeps_its_meaning() -> None:
    term = holistic("wgan-gp")
    assert term.critic is not None
    assert term.critic_optim is not None
    assert "parametrizations" not in " ".join(name for name, _ in term.critic.named_parameters())
    assert (term.critic_optim.algorithm, term.critic_optim.beta2) == ("adam", 0.99)
    assert term.options.critic_weight == 1


@pytest.mark.slow
def test_spectral_critic_stays_bounded_where_the_free_one_grows() -> None:
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
