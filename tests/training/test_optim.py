"""Optimizers, schedules and clipping, against PyTorch's own, a formula by hand, or what must not change."""

import math

import pytest
import torch
from torch import Tensor, nn

from helpers.tiny import copied, distillation, one_batch, optim, plain, repeated, scenes, tiny, train
from segdistill.config.schema import OptimConfig
from segdistill.training.optim import build_optimizer, scheduled_rate
from segdistill.types import Stage


def adamw_by_hand(weight: Tensor, gradients: list[Tensor], lr: float, betas: tuple[float, float], decay: float) -> None:
    """Update a weight in place as the paper on decoupled weight decay has it (algorithm 2, schedule multiplier 1)."""
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    for step, gradient in enumerate(gradients, start=1):
        weight -= lr * decay * weight
        first = betas[0] * first + (1 - betas[0]) * gradient
        second = betas[1] * second + (1 - betas[1]) * gradient**2
        corrected = second / (1 - betas[1] ** step)
        weight -= lr * first / (1 - betas[0] ** step) / (corrected.sqrt() + 1e-8)


def test_adamw_decays_weights_beside_its_averages() -> None:
    config = OptimConfig(algorithm="adamw", lr=0.1, momentum=0.8, beta2=0.95, weight_decay=0.3, steps=4)
    weight = nn.Parameter(torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64))
    expected = weight.detach().clone()
    gradients = [torch.tensor([1.0, 0.5, -2.0], dtype=torch.float64) * factor for factor in (1, -2, 0.25, 3)]
    optimizer = build_optimizer(config, [weight])
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    adamw_by_hand(expected, gradients, 0.1, (0.8, 0.95), 0.3)
    torch.testing.assert_close(weight.detach(), expected)


@pytest.mark.parametrize("algorithm", ["adam", "adamw"])
def test_training_takes_the_steps_of_pytorchs_optimizer(algorithm: str) -> None:
    options = {"algorithm": algorithm, "lr": 0.01, "momentum": 0.9, "beta2": 0.999, "weight_decay": 0.1}
    student, expected, batch = tiny(0), tiny(0), one_batch(2)
    train(Stage("student", student, plain(student), optim(3, schedule="cosine", **options)), repeated(batch, 3))
    classes = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    optimizer = classes[algorithm](expected.parameters(), lr=0.01, betas=(0.9, 0.999), weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=3)
    objective = plain(expected)
    expected.train()
    for _ in range(3):
        optimizer.zero_grad()
        torch.stack(list(objective(expected, batch).terms.values())).sum().backward()
        optimizer.step()
        scheduler.step()
    for found, wanted in zip(student.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(found, wanted)


def test_cosine_rate_falls_by_half_a_wave() -> None:
    config = OptimConfig(lr=2.0, schedule="cosine", steps=4)
    # 1 + cos of 0, 45, 90, 135 degrees
    expected = [2.0, 1 + math.sqrt(0.5), 1.0, 1 - math.sqrt(0.5)]
    assert [scheduled_rate(config, step, 4) for step in range(4)] == pytest.approx(expected)


def test_stairs_halve_the_rate_at_equal_distances() -> None:
    config = OptimConfig(lr=8.0, schedule="stairs", drops=2, drop=0.5, steps=7)
    # thirds of 7 steps end behind 2.33 and 4.67: the first step at or behind each has the lower rate
    assert [scheduled_rate(config, step, 7) for step in range(7)] == [8, 8, 8, 4, 4, 2, 2]
    unchanged = config.model_copy(update={"drops": 0})
    assert {scheduled_rate(unchanged, step, 7) for step in range(7)} == {8.0}


@pytest.mark.parametrize("schedule", ["poly", "cosine", "stairs"])
def test_every_schedule_warms_up_and_never_rises_after(schedule: str) -> None:
    config = OptimConfig.model_validate({"lr": 1.0, "schedule": schedule, "warmup": 3, "steps": 20})
    without = config.model_copy(update={"warmup": 0})
    rates = [scheduled_rate(config, step, 20) for step in range(20)]
    plain_rates = [scheduled_rate(without, step, 20) for step in range(20)]
    assert rates[:3] == pytest.approx([plain_rates[step] * (step + 1) / 4 for step in range(3)])
    assert rates[3:] == plain_rates[3:]
    assert rates[3:] == sorted(rates[3:], reverse=True)


def test_clipped_step_is_the_gradient_at_the_limit() -> None:
    limit, lr = 1e-3, 0.5
    student, batch = tiny(0), one_batch(2)
    before = copied(student)
    stage = Stage("student", student, plain(student), optim(1, lr=lr, momentum=0, weight_decay=0, clip=limit))
    report = train(stage, repeated(batch, 1))[0]
    moved = torch.cat([(p.detach() - before[name]).flatten() for name, p in student.named_parameters()])
    assert report.gradient_norm > limit  # told before it is clipped
    assert moved.norm().item() == pytest.approx(lr * limit, rel=1e-4)


def test_gradient_below_the_limit_is_not_clipped() -> None:
    free, limited = tiny(0), tiny(0)
    for student, clip in ((free, 0.0), (limited, 1e6)):
        train(Stage("student", student, plain(student), optim(2, clip=clip)), scenes(2))
    assert all(torch.equal(a, b) for a, b in zip(free.parameters(), limited.parameters(), strict=True))


def test_clipping_leaves_the_critic_alone() -> None:
    critics = []
    for clip in (0.0, 1e-6):
        student, teacher = tiny(0), tiny(1, width=10)
        objective = distillation(student, teacher, {"holistic": 0.1})
        train(Stage("student", student, objective, optim(1, clip=clip)), scenes(1))
        assert objective.critic is not None
        critics.append(copied(objective.critic))
    assert all(torch.equal(critics[0][name], critics[1][name]) for name in critics[0])
