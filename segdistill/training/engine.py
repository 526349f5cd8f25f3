"""The engine: minimize an objective, step by step. It does not know what distillation is.

A step takes `optim.accumulate` micro-batches through these parts, all of them in `fit`:
    1. the random generators are set from the seed and the step's number, the learning rates from the schedule;
    2. each micro-batch goes forward through the objective, which returns named, weighted terms;
    3. the sum of the terms goes backward, and where there is a critic its own loss on the same outputs;
    4. the optimizers step, unless a gradient is not finite: then the step is skipped and leaves nothing behind;
    5. the caller is told, who logs, validates, saves, and may stop.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from segdistill.runtime.distributed import all_reduce_mean, rank, world_size
from segdistill.runtime.precision import Precision
from segdistill.training.non_finite import non_finite_error, too_many_skipped
from segdistill.training.state import Training
from segdistill.types import Batch, Objective, Stage, Step


class Report(NamedTuple):
    """The losses of one step, and the state behind it."""

    step: int
    """Number of steps done so far, this one included."""
    terms: dict[str, Tensor]
    """Values of the terms, weighted and detached; the critic's loss under "critic"."""
    lr: float
    """Learning rate of the student."""
    gradient_norm: float
    """Norm of the student's gradient over all parameters, before it is clipped; NaN or infinite of a skipped step."""
    training: Training
    """State after the step."""


def fit(
    stage: Stage,
    batches: Iterable[Batch],
    *,
    precision: Precision,
    seed: int,
    on_step: Callable[[Report], None],
    resume: dict[str, Any] | None = None,
    on_resume: Callable[[Training], None] | None = None,
) -> Training:
    """Minimize the stage's objective; `on_step` logs, evaluates and saves. Return the state after the last step.

    Args:
        stage: model, objective and optimizer.
        batches: micro-batches, `optim.accumulate` per step, beginning with the first step not yet done.
        precision: device and autocast type.
        seed: whatever is random in the networks is drawn from it and the step's number.
        on_step: called after each step, on every process; may raise to stop, or set `ended` of the state to make it the
            last one.
        resume: what `Training.state` returned; None starts at step 0.
        on_resume: called once that is loaded, on every process; may do the same.

    Raises:
        CheckError: if the gradient is not finite for several steps in a row, or in too many of all. Such a step leaves
            the weights and the statistics of batch norm as they were.
    """
    optim = stage.optim
    training = Training(stage, precision)
    if resume is not None:
        training.load(resume)
        if on_resume is not None:
            on_resume(training)
    forward = data_parallel(training, precision.device)
    stream = iter(batches)  # one, of which each step takes what it needs
    while training.step < optim.steps and not training.ended:
        training.remember_buffers()
        # Each step has a seed of its own, so one that is resumed draws what it would have drawn.
        torch.manual_seed(step_seed(seed, training.step, rank()))
        learning_rate = training.set_learning_rates()
        training.train_module.train()  # a validation may have left the network in eval mode
        terms: dict[str, Tensor] = {}
        names: tuple[str, ...] = ()
        for batch, is_last in _micro_batches(stream, optim.accumulate, precision.device):
            with _averaged_gradients(forward, enabled=is_last):
                with precision.training():
                    step = forward(batch)
                parts = backward(training, step, batch)
            del step  # its maps would lie in memory beside the next ones
            for name, value in parts.items():
                terms[name] = terms.get(name, torch.zeros_like(value)) + value.detach() / optim.accumulate
            names += batch.names
        gradient_norm = apply_gradients(training)
        is_finite = math.isfinite(gradient_norm)
        training.count_skipped(finite=is_finite)
        if is_finite:
            # Each process has seen other images. Integers among the buffers count batches: alike everywhere.
            all_reduce_mean([buffer for buffer in training.buffers if buffer.is_floating_point()])
            training.update_average()
        else:
            training.restore_buffers()  # what batch norm saw may not be finite either
        problem = too_many_skipped(
            skipped=training.skipped,
            in_a_row=training.skipped_in_a_row,
            steps=training.step + 1,
            is_fp16=training.scaler.is_enabled(),
        )
        if problem:
            raise non_finite_error(
                problem,
                step=training.step + 1,
                learning_rate=learning_rate,
                terms=terms,
                names=names,
                precision=precision.name,
                finite_in_float32=_is_finite_in_float32(training, forward, batch, precision),
            )
        training.step += 1
        on_step(Report(training.step, terms, learning_rate, gradient_norm, training))
    return training


def data_parallel(training: Training, device: torch.device) -> Callable[[Batch], Step]:
    """Return the forward pass of a batch; of several processes, one whose backward pass averages their gradients."""
    if world_size() == 1:
        return partial(training.stage.objective, training.stage.model)
    module: nn.Module = training.train_module
    if device.type == "cuda":
        module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
    devices = [device.index] if device.type == "cuda" else None
    # Buffers are averaged after each step; a broadcast would drop what the other processes saw.
    return DistributedDataParallel(module, devices, broadcast_buffers=False)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return the batch with what the networks read on the device; images in channels_last."""
    image = batch.image.to(device, non_blocking=True).contiguous(memory_format=torch.channels_last)
    label = batch.label.to(device, non_blocking=True)
    return batch._replace(image=image, label=label, valid=batch.valid_mask().to(device, non_blocking=True))


def backward(training: Training, step: Step, batch: Batch) -> dict[str, Tensor]:
    """Add a micro-batch's gradients to the student's, and to the critic's; return the terms, the critic's included.

    Args:
        training: its parameters get the gradients, divided by the number of micro-batches.
        step: the objective's forward pass of the batch, whose graph is freed.
        batch: on the device.
    """
    count = training.stage.optim.accumulate
    loss = torch.stack(list(step.terms.values())).sum() / count
    training.scaler.scale(loss).backward()
    if training.critic is None:
        return step.terms
    return step.terms | {"critic": critic_backward(training.stage.objective, step, batch, count)}


def critic_backward(objective: Objective, step: Step, batch: Batch, count: int = 1) -> Tensor:
    """Add the gradients of a step's outputs to the critic's, which wants none but here; return its loss.

    Args:
        objective: has a critic.
        step: what the objective returned for the batch.
        batch: on the device.
        count: number of micro-batches, by which the gradients are divided.
    """
    critic = objective.critic
    assert critic is not None, "asked for where there is one"
    critic.requires_grad_(True)
    loss = objective.critic_loss(step, batch)
    # The loss scale is the student's: the critic computes in float32.
    (loss / count).backward()
    critic.requires_grad_(False)
    return loss


def apply_gradients(training: Training) -> float:
    """Step both optimizers if every gradient is finite, and drop the gradients.

    Returns:
        The norm of the student's gradient; where one is not finite, the critic's included, a number that is not.
    """
    training.scaler.unscale_(training.optimizer)
    norm = _gradient_norm(training.parameters)
    total = norm
    if training.critic is not None:
        critic_parameters = list(training.critic.parameters())
        # DistributedDataParallel leaves out what the student's loss gives no gradient.
        all_reduce_mean([p.grad for p in critic_parameters if p.grad is not None])
        total = norm + _gradient_norm(critic_parameters)
    is_finite = math.isfinite(total.item())
    if is_finite:
        _clip_gradients(training, norm)
        training.scaler.step(training.optimizer)
        if training.critic_optimizer is not None:
            training.critic_optimizer.step()
    training.scaler.update()
    for optimizer in training.optimizers:
        optimizer.zero_grad()
    return norm.item() if is_finite else total.item()


def _clip_gradients(training: Training, norm: Tensor) -> None:
    """Scale the student's gradient down to the largest norm that is allowed; the critic's stays as it is."""
    limit = training.stage.optim.clip
    if limit > 0:
        # the norm is that of what is minimized: the scaler's factor has been taken off
        torch.nn.utils.clip_grads_with_norm_(training.parameters, limit, norm)


def _gradient_norm(parameters: list[nn.Parameter]) -> Tensor:
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def _micro_batches(stream: Iterator[Batch], count: int, device: torch.device) -> Iterator[tuple[Batch, bool]]:
    """Yield a step's micro-batches on the device, and whether each is the last: the one after which gradients are done.

    Each knows all of them where there are several: means are over the whole step.
    """
    # All at once, for the micro-batches to know each other; their images are small beside what networks make of them.
    batches = [to_device(batch, device) for batch in islice(stream, count)]
    assert len(batches) == count, "the batches ended before the schedule did"
    parts = tuple(batches) if count > 1 else ()
    for position, batch in enumerate(batches, start=1):
        yield batch._replace(parts=parts), position == count


def _averaged_gradients(forward: Callable[[Batch], Step], *, enabled: bool) -> AbstractContextManager[None]:
    """Return the context of a forward and backward pass: processes average their sums once, after the last one."""
    if enabled or not isinstance(forward, DistributedDataParallel):
        return nullcontext()
    return forward.no_sync()


def _is_finite_in_float32(
    training: Training, forward: Callable[[Batch], Step], batch: Batch, precision: Precision
) -> bool | None:
    """Whether a batch has a finite gradient in float32: one more pass, of which nothing stays; None if it was float32.

    Every process calls it at the same step.
    """
    if precision.dtype == torch.float32:
        return None
    training.optimizer.zero_grad()
    with Precision("fp32", precision.device, torch.float32).training():
        step = forward(batch)
    backward(training, step, batch)
    norm = _gradient_norm(training.parameters)
    for optimizer in training.optimizers:
        optimizer.zero_grad()
    training.restore_buffers()
    return math.isfinite(norm.item())


def step_seed(*numbers: int) -> int:
    """Return one seed from several numbers, far apart for near ones.

    Each round multiplies by 2^64 over the golden ratio, which spreads near numbers over the whole range, and folds the
    high bits onto the low ones.
    """
    value = 0
    for number in numbers:
        value = (value ^ number) * 0x9E3779B97F4A7C15 % 2**63
        value ^= value >> 29
    return value
