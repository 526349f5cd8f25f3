"""The optimizers and the schedule of the learning rate."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from segdistill.config.schema import OptimConfig


def build_optimizer(config: OptimConfig, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Build SGD with momentum, Adam, or AdamW (Loshchilov and Hutter 2019)."""
    betas = (config.momentum, config.beta2)
    if config.algorithm == "adam":
        return torch.optim.Adam(parameters, lr=config.lr, betas=betas, weight_decay=config.weight_decay)
    if config.algorithm == "adamw":
        return torch.optim.AdamW(parameters, lr=config.lr, betas=betas, weight_decay=config.weight_decay)
    return torch.optim.SGD(parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load an optimizer's state.

    Raises:
        ValueError: if an average in it has another shape than its parameter, which PyTorch does not compare: it would
            be broadcast at the next step, or fail there.
    """
    optimizer.load_state_dict(state)
    for parameter, averages in optimizer.state.items():
        for name, value in averages.items():
            # Adam's step count is a scalar, whatever the parameter's shape
            if isinstance(value, Tensor) and value.ndim and value.shape != parameter.shape:
                raise ValueError(f"{name} of shape {tuple(value.shape)} for a parameter of {tuple(parameter.shape)}")


def scheduled_rate(config: OptimConfig, step: int, steps: int) -> float:
    """Return the rate of a step by the configuration's schedule, with a linear rise over the first `warmup` steps.

    Args:
        config: of the optimizer.
        step: number of steps done.
        steps: length of the schedule.
    """
    warmup = min(1.0, (step + 1) / (config.warmup + 1))
    return config.lr * warmup * _share_of_rate(config, step, steps)


def _share_of_rate(config: OptimConfig, step: int, steps: int) -> float:
    """Return what a schedule leaves of the rate behind the warm-up, 0..1."""
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * step / steps))
    if config.schedule == "stairs":
        # whole numbers: a quotient of floats may fall just short of a stair
        stair = step * (config.drops + 1) // steps
        return math.pow(config.drop, stair)
    return math.pow(1 - step / steps, config.power)


def set_learning_rate(optimizer: torch.optim.Optimizer, config: OptimConfig, step: int, steps: int) -> float:
    """Set the learning rate of all parameters for a step of a schedule, and return it.

    Args:
        optimizer: whose rate is set.
        config: of that optimizer.
        step: number of steps done.
        steps: length of the schedule: a critic's has the length of the student's training, not `config.steps`.
    """
    rate = scheduled_rate(config, step, steps)
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate
