"""The engine: minimise an objective, evaluate a network. It does not know what distillation is."""

import math
import re
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from segdistill.config import OptimConfig
from segdistill.convolutions import CheckedConvolutions, Kind, is_right, replaced
from segdistill.distributed import average, gather, rank, sum_across, world_size
from segdistill.errors import CheckError, ModelError, UsageError, out_of_memory
from segdistill.metrics import Scores
from segdistill.types import Batch, Frozen, Objective, Stage, Step

MAX_BAD_STEPS = 3
"""Steps in a row that may have a non-finite gradient; each is left out. fp16 finds its loss scale that way."""
MAX_BAD_STEPS_FP16 = 20
MAX_SKIPPED = 0.1
"""Share of the steps so far that may be left out in all, beyond as many as may be in a row. A tenth fewer steps is less
than what runs differ by that are meant to differ; a healthy run leaves out none, and in fp16 one in 2000."""
AT_ONCE = 2048 * 1024
"""Pixels of an image whose logits are enlarged in one piece: a frame of Cityscapes."""
MAX_LOGITS_BYTES = 4 * 19 * AT_ONCE
"""Logits in float32 that are computed or enlarged at once, unless those of one image or one class are more: 160 MB, the
19 classes of a frame of Cityscapes."""
PROBE_PASSES, PROBE_SECONDS = 3, 5.0
"""A probe ends after so many passes, or with the one in which so much time is spent."""


class Precision(NamedTuple):
    """How the forward passes compute; weights, losses and optimiser stay float32."""

    name: str
    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which networks run."""
        return torch.autocast(self.device.type, self.dtype) if self.dtype != torch.float32 else nullcontext()

    @contextmanager
    def training(self) -> Iterator[None]:
        """Give the context in which networks are trained: a CPU's convolutions in bf16 are checked."""
        checked = CheckedConvolutions() if self.device.type == "cpu" else nullcontext()
        with self.autocast(), checked:
            yield


class Report(NamedTuple):
    """What happened in one step."""

    step: int
    """Steps done so far, this one included."""
    terms: dict[str, Tensor]
    """Weighted, detached; the critic's loss under "critic"."""
    lr: float
    gradient_norm: float
    training: "Training"


def resolve_device(name: str) -> torch.device:
    """Return the device that `--device` names; what is asked for and missing is an error."""
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32, in scores and in the critic
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not re.fullmatch("[0-9]{1,4}", index)) or (kind == "cpu" and index):
        raise UsageError(f"Unknown device {name!r}.", "Use auto, cpu, cuda or cuda:N.")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: this PyTorch sees no CUDA GPU.", "`segdistill doctor` says what it sees.")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise UsageError(f"--device {name}: there are {torch.cuda.device_count()} CUDA GPUs, counted from 0.")
    return torch.device(name)


def has_bf16(device: torch.device) -> bool:
    """Whether bf16 is fast here: recent GPUs, CPUs with AMX or AVX512-BF16."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able = torch.cpu.get_capabilities()
    return bool(able.get("amx_bf16") or able.get("avx512_bf16"))


def resolve_precision(name: str, device: torch.device) -> Precision:
    """Return the precision of a training: auto is bf16 where the hardware has it, else fp32."""
    if name == "auto":
        name = "bf16" if has_bf16(device) else "fp32"
    if name == "fp16" and device.type != "cuda":
        raise UsageError("--precision fp16 needs a GPU.", "Use auto, bf16 or fp32 on a CPU.")
    if name == "bf16" and device.type == "cuda" and not has_bf16(device):
        raise UsageError("--precision bf16: this GPU has none.", "Use fp16 or fp32.")
    return Precision(name, device, {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name])


class Trainee(nn.Module):
    """The student together with what the objective trains beside it, so that DistributedDataParallel sees both."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, batch: Batch) -> Step:
        """Return the objective's terms."""
        step: Step = self.objective(self.model, batch)
        return step


class Training:
    """The state of one stage: parameters, optimisers, loss scale, steps done."""

    def __init__(self, stage: Stage, precision: Precision) -> None:
        self.stage = stage
        self.step = 0
        self.skipped = 0
        """Steps that were left out so far, because their gradient was not finite."""
        self.trainee = Trainee(stage.model, stage.objective).to(precision.device)
        self.trainee.to(memory_format=torch.channels_last)
        self.critic = stage.objective.critic
        if self.critic is not None:
            self.critic.requires_grad_(False)
        self.parameters = [p for p in self.trainee.parameters() if p.requires_grad]
        self.frozen = tuple(f"{name}." for name, child in self.trainee.named_modules() if isinstance(child, Frozen))
        self.buffers = [b for name, b in self.trainee.named_buffers() if not name.startswith(self.frozen)]
        self.optimizer = build_optimizer(stage.optim, self.parameters)
        self.scaler = torch.amp.GradScaler(precision.device.type, enabled=precision.name == "fp16")
        self.critic_optimizer: torch.optim.Optimizer | None = None
        if self.critic is not None and stage.objective.critic_optim is not None:
            self.critic_optimizer = build_optimizer(stage.objective.critic_optim, list(self.critic.parameters()))

    def state(self) -> dict[str, Any]:
        """Return all that the next step depends on, the frozen teacher aside."""
        weights = {k: v for k, v in self.trainee.state_dict().items() if not k.startswith(self.frozen)}
        return {
            "stage": self.stage.name,
            "step": self.step,
            "skipped": self.skipped,
            "weights": weights,
            "optimizer": self.optimizer.state_dict(),
            "critic_optimizer": self.critic_optimizer.state_dict() if self.critic_optimizer else None,
            "scaler": self.scaler.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state` was taken.

        Raises:
            ModelError: if it was not taken of such a training.
        """
        teacher = {k: v for k, v in self.trainee.state_dict().items() if k.startswith(self.frozen)}
        try:
            self.trainee.load_state_dict(state["weights"] | teacher)
            _load_optimizer(self.optimizer, state["optimizer"])
            if self.critic_optimizer is not None:
                _load_optimizer(self.critic_optimizer, state["critic_optimizer"])
            self.scaler.load_state_dict(state["scaler"])
        except Exception as error:  # whatever a forged state leads to; a damaged one does not come this far
            if out_of_memory(error):
                raise
            what = " ".join(str(error).split())[:300]
            raise ModelError(
                f"The last checkpoint is not of this training ({type(error).__name__}: {what}).", "Start a new run."
            ) from None
        self.step, self.skipped = state["step"], skipped_in(state)


def fit(
    stage: Stage,
    batches: Iterable[Batch],
    *,
    precision: Precision,
    seed: int,
    on_step: Callable[[Report], None],
    resume: dict[str, Any] | None = None,
    on_resume: Callable[["Training"], None] | None = None,
) -> None:
    """Minimise the stage's objective; `on_step` logs, evaluates and saves.

    Args:
        stage: model, objective and optimiser.
        batches: micro-batches, `optim.accumulate` per step, beginning with the first step not yet done.
        precision: device and autocast type.
        seed: whatever is random in the networks is drawn from it and the step's number.
        on_step: called after each step, on every process; may raise to stop.
        resume: what `Training.state` returned; None starts at step 0.
        on_resume: called once that is loaded, on every process; may raise to stop.

    Raises:
        CheckError: if the gradient is not finite for several steps in a row, or in too many of all. Such a step leaves
            the weights and the statistics of batch norm as they were.
    """
    optim, device = stage.optim, precision.device
    training = Training(stage, precision)
    if resume is not None:
        training.load(resume)
        if on_resume is not None:
            on_resume(training)
    trainee: nn.Module = training.trainee
    if world_size() > 1:
        if device.type == "cuda":
            trainee = nn.SyncBatchNorm.convert_sync_batchnorm(trainee)
        devices = [device.index] if device.type == "cuda" else None
        trainee = DistributedDataParallel(trainee, devices, broadcast_buffers=False)  # they are averaged below
    before = [buffer.clone() for buffer in training.buffers]
    stream, bad = iter(batches), 0
    while training.step < optim.steps:
        torch._foreach_copy_(before, training.buffers)
        torch.manual_seed(_mix(seed, training.step, rank()))
        lr = set_rate(training, optim)
        trainee.train()
        terms: dict[str, Tensor] = {}
        names: tuple[str, ...] = ()
        for batch, last in _micro_batches(stream, optim.accumulate, device):
            with nullcontext() if last or not isinstance(trainee, DistributedDataParallel) else trainee.no_sync():
                parts = _backward(trainee, training, batch, precision)
            for name, value in parts.items():
                terms[name] = terms.get(name, torch.zeros_like(value)) + value.detach() / optim.accumulate
            names += batch.names
        norm = _apply(training)
        if math.isfinite(norm):
            bad = 0
            average([buffer for buffer in training.buffers if buffer.is_floating_point()])
        else:  # neither may what batch norm saw reach its statistics
            bad += 1
            training.skipped += 1
            torch._foreach_copy_(training.buffers, before)
        if found := _too_many_skipped(training, bad):
            exact = precision.dtype == torch.float32
            finite = not exact and _finite_in_float32(trainee, training, batch, device)
            torch._foreach_copy_(training.buffers, before)
            raise _non_finite(training.step, terms, names, lr, found, "" if exact else precision.name, finite=finite)
        training.step += 1
        on_step(Report(training.step, terms, lr, norm, training))


class Probe(NamedTuple):
    """What one step costs."""

    seconds: float
    peak_bytes: int
    in_float32: frozenset[Kind]
    """The convolutions whose bf16 kernels are wrong or unsafe here."""


def probe(stage: Stage, crop: tuple[int, int], num_classes: int, images: int, precision: Precision) -> Probe:
    """Run forward and backward passes on noise and leave everything as it was.

    The first pass of a process sets things up and can take ten times as long, so the fastest counts; one in which
    convolutions were checked does not.

    Args:
        stage: what is going to be trained.
        crop: (H, W) of the images.
        num_classes: C.
        images: images of one step in this process, over all its micro-batches.
        precision: device and autocast type.
    """
    device = precision.device
    training = Training(stage, precision)
    mode = training.stage.model.training
    training.trainee.train()
    before = [buffer.clone() for buffer in training.buffers]
    times: list[float] = []
    micro = images // stage.optim.accumulate
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), replaced() as in_float32:
        image, label = torch.rand(micro, 3, *crop) * 255, torch.randint(num_classes, (micro, *crop))
        batch = to_device(Batch(image, label, ("noise",) * micro, torch.arange(micro)), device)
        while len(times) < PROBE_PASSES and (world_size() > 1 or sum(times) < PROBE_SECONDS):  # all processes alike
            start, checks = time.perf_counter(), is_right.cache_info().misses
            _backward(training.trainee, training, batch, precision)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if is_right.cache_info().misses == checks:
                times.append(time.perf_counter() - start)
            training.trainee.zero_grad()
    torch._foreach_copy_(training.buffers, before)
    training.trainee.train(mode)
    return Probe(min(times) * stage.optim.accumulate, peak_bytes(device), frozenset(in_float32))


def peak_bytes(device: torch.device) -> int:
    """Return the most memory used so far: of the GPU, or of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@torch.no_grad()
def evaluate(
    predict: Callable[[Tensor], Tensor],
    batches: Iterable[Batch],
    num_classes: int,
    on_batch: Callable[[int], None] | None = None,
) -> Scores:
    """Score predictions at the labels' own size over a whole data set, by one confusion matrix.

    Args:
        predict: images (B, 3, h, w) in 0..255 to logits (B, C, h', w'), or C + 1 where the last stands for none of the
            classes: a network or an exported graph.
        batches: labels may be of another size than the images; the logits are brought to theirs.
        num_classes: C.
        on_batch: called with the number of images done.
    """
    scores = Scores.empty(num_classes)
    for batch in batches:
        prediction = predict_labels(predict, batch.image, batch.label.shape[-2:])
        scores += Scores.of(prediction, batch.label, num_classes)
        if on_batch is not None:
            on_batch(len(batch.label))
    return scores


def predict_labels(
    predict: Callable[[Tensor], Tensor], image: Tensor, size: Iterable[int], at_once: int = AT_ONCE
) -> Tensor:
    """Return class ids (B, H, W) at `size`, on the CPU.

    Args:
        predict: the network.
        image: (B, 3, h, w).
        size: (H, W).
        at_once: pixels of an image whose logits are enlarged at once; more are enlarged in bands of rows. As many
            classes are enlarged together as have `MAX_LOGITS_BYTES`, which changes no bit.
    """
    height, width = size
    # Image by image: what is chosen in one depends on no other, and memory not on how many there are.
    return torch.stack([_choose(logits, (height, width), at_once) for logits in predict(image)])


def pixels_at_once(num_classes: int) -> int:
    """Return the pixels, over all images of a batch, whose logits have `MAX_LOGITS_BYTES`."""
    return MAX_LOGITS_BYTES // (4 * num_classes)


def _choose(logits: Tensor, size: tuple[int, int], at_once: int) -> Tensor:
    """Return class ids (H, W) at `size`, on the CPU, by the logits (C, h, w) of an image."""
    height, width = size
    if logits.shape[-2:] == size:
        return logits.max(dim=0).indices.cpu()
    if height * width <= at_once:
        return _argmax(logits, height * width, lambda some: _enlarged(some, size)).cpu()
    rows = max(1, at_once // width)
    bands = []
    for top in range(0, height, rows):
        band = partial(_band, top=top, count=min(rows, height - top), size=size)
        bands.append(_argmax(logits, rows * width, band).cpu())
    return torch.cat(bands)


def _argmax(logits: Tensor, pixels: int, enlarge: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the ids of the largest of the enlarged logits, of which no more exist at once than have room.

    Args:
        logits: (C, h, w).
        pixels: of each class once it is enlarged.
        enlarge: from the logits of some classes (c, h, w) in float32 to (c, H, W).
    """
    group = max(1, MAX_LOGITS_BYTES // (4 * pixels))
    best, ids = enlarge(logits[:group].float()).max(dim=0)
    for start in range(group, len(logits), group):
        value, index = enlarge(logits[start : start + group].float()).max(dim=0)
        larger = (value > best) | (
            value.isnan() & ~best.isnan()
        )  # as `max` has it: the first NaN, or the first of equals
        best, ids = torch.where(larger, value, best), torch.where(larger, index + start, ids)
    return ids


def _enlarged(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Return logits (c, h, w) at `size`, (c, H, W), in the same bits however many classes there are.

    Each class is an image of its own: PyTorch has other kernels, which round otherwise, for other numbers of channels.
    """
    maps = logits.contiguous().unsqueeze(1)
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False).squeeze(1)


def _band(logits: Tensor, top: int, count: int, size: tuple[int, int]) -> Tensor:
    """Return some rows (c, count, W) of logits (c, h, w) that are enlarged to `size`."""
    height, width = size
    # The centres of the band's pixels, with the whole going from -1 to 1.
    y = (torch.arange(top, top + count, device=logits.device) + 0.5) * 2 / height - 1
    x = (torch.arange(width, device=logits.device) + 0.5) * 2 / width - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).unsqueeze(0)  # (1, count, W, 2)
    rows = F.grid_sample(logits.unsqueeze(0), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return rows.squeeze(0)


def gather_scores(scores: Scores, device: torch.device) -> Scores:
    """Add the scores of all processes, of which process `rank` of `world` saw every `world`-th image."""
    images = int(sum_across(torch.tensor(scores.images, device=device)))
    parts = gather(torch.stack(scores.each) if scores.each else None)  # each alone would be sent with its whole batch
    each = tuple(parts[i % len(parts)][i // len(parts)] for i in range(images))
    return Scores(sum_across(scores.pixels.to(device)).cpu(), images, each)


def _load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load an optimiser's state, whose shapes PyTorch does not compare."""
    optimizer.load_state_dict(state)
    for parameter, own in optimizer.state.items():
        for name, value in own.items():
            if isinstance(value, Tensor) and value.ndim and value.shape != parameter.shape:
                raise ValueError(f"{name} of shape {tuple(value.shape)} for a parameter of {tuple(parameter.shape)}")


def build_optimizer(config: OptimConfig, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Build SGD with momentum, or Adam."""
    if config.algorithm == "adam":
        betas = (config.momentum, config.beta2)
        return torch.optim.Adam(parameters, lr=config.lr, betas=betas, weight_decay=config.weight_decay)
    return torch.optim.SGD(parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)


def poly_rate(config: OptimConfig, step: int, steps: int) -> float:
    """Return lr * (1 - step / steps) ** power, risen to linearly over the warm-up."""
    rise = min(1.0, (step + 1) / (config.warmup + 1))
    return config.lr * rise * math.pow(1 - step / steps, config.power)


def set_rate(training: Training, optim: OptimConfig) -> float:
    """Set this step's learning rates and return the student's; the critic's schedule has the same length."""
    lr = poly_rate(optim, training.step, optim.steps)
    for group in training.optimizer.param_groups:
        group["lr"] = lr
    critic_optim = training.stage.objective.critic_optim
    if training.critic_optimizer is not None and critic_optim is not None:
        for group in training.critic_optimizer.param_groups:
            group["lr"] = poly_rate(critic_optim, training.step, optim.steps)
    return lr


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move what the networks read to the device; images in channels_last."""
    image = batch.image.to(device, non_blocking=True).contiguous(memory_format=torch.channels_last)
    label = batch.label.to(device, non_blocking=True)
    return batch._replace(image=image, label=label, valid=batch.compared().to(device, non_blocking=True))


def _micro_batches(stream: Iterator[Batch], count: int, device: torch.device) -> Iterator[tuple[Batch, bool]]:
    batches = [to_device(batch, device) for batch in islice(stream, count)]
    assert len(batches) == count, "the batches ended before the schedule did"
    parts = tuple(batches) if count > 1 else ()
    for position, batch in enumerate(batches, start=1):
        yield batch._replace(parts=parts), position == count


def _backward(trainee: nn.Module, training: Training, batch: Batch, precision: Precision) -> dict[str, Tensor]:
    """Run a micro-batch forward and backward, then the critic on its outputs; return the terms."""
    with precision.training():
        step: Step = trainee(batch)
        loss = torch.stack(list(step.terms.values())).sum() / training.stage.optim.accumulate
    training.scaler.scale(loss).backward()
    critic = {} if training.critic is None else {"critic": _critic_backward(training, step, batch)}
    return step.terms | critic


def _critic_backward(training: Training, step: Step, batch: Batch) -> Tensor:
    assert training.critic is not None
    training.critic.requires_grad_(True)
    loss = training.stage.objective.critic_loss(step, batch)
    (loss / training.stage.optim.accumulate).backward()
    training.critic.requires_grad_(False)
    return loss


def _apply(training: Training) -> float:
    """Step both optimisers if every gradient is finite; return the norm of the student's."""
    training.scaler.unscale_(training.optimizer)
    norm = torch.nn.utils.get_total_norm([p.grad for p in training.parameters if p.grad is not None])
    check = norm
    if training.critic is not None:
        gradients = [p.grad for p in training.critic.parameters() if p.grad is not None]
        average(gradients)  # DistributedDataParallel leaves out what the student's step does not train
        check = norm + torch.nn.utils.get_total_norm(gradients)
    if math.isfinite(check.item()):
        training.scaler.step(training.optimizer)
        if training.critic_optimizer is not None:
            training.critic_optimizer.step()
    training.scaler.update()
    training.optimizer.zero_grad()
    if training.critic_optimizer is not None:
        training.critic_optimizer.zero_grad()
    return norm.item() if math.isfinite(check.item()) else check.item()


def skipped_in(state: dict[str, Any]) -> int:
    """Return how many steps had been left out when a state was taken; earlier versions did not count them.

    Raises:
        ModelError: if that is no number of steps.
    """
    skipped = state.get("skipped", 0)
    if type(skipped) is not int or not 0 <= skipped <= state["step"]:
        raise ModelError("The last checkpoint does not say how many steps were left out.", "Start a new run.")
    return skipped


def _too_many_skipped(training: Training, bad: int) -> str:
    """Say what is wrong where too many steps were left out; nothing to say means that the training may go on.

    Args:
        training: before its step is counted.
        bad: steps left out in a row.
    """
    in_a_row, done = MAX_BAD_STEPS_FP16 if training.scaler.is_enabled() else MAX_BAD_STEPS, training.step + 1
    if bad > in_a_row:
        return f"The gradient was not finite {bad} steps in a row ({training.skipped} of {done} in all)"
    if bad and training.skipped > max(in_a_row, MAX_SKIPPED * done):
        return f"The gradient was not finite in {training.skipped} of {done} steps, more than {100 * MAX_SKIPPED:.0f} %"
    return ""


def _finite_in_float32(trainee: nn.Module, training: Training, batch: Batch, device: torch.device) -> bool:
    """Whether a batch has a finite gradient in float32: one more pass, whose gradients are dropped.

    Every process calls it at the same step. Batch norm sees the batch once more.
    """
    training.optimizer.zero_grad()
    _backward(trainee, training, batch, Precision("fp32", device, torch.float32))
    norm = torch.nn.utils.get_total_norm([p.grad for p in training.parameters if p.grad is not None])
    training.optimizer.zero_grad()
    return math.isfinite(norm.item())


def _non_finite(
    step: int, terms: dict[str, Tensor], names: tuple[str, ...], lr: float, found: str, precision: str, *, finite: bool
) -> CheckError:
    """Return the error that ends a training.

    Args:
        step: steps done before the last bad one.
        terms: of that step.
        names: its images.
        lr: its rate.
        found: what is wrong, as `_too_many_skipped` says it.
        precision: its name, where it is lower than float32; else empty.
        finite: whether float32 has a finite gradient.
    """
    values = ", ".join(f"{name} {float(value):.4g}" for name, value in terms.items())
    what = f"{found}, the last being step {step + 1} (lr {lr:.3g}): {values}.\nIts images: {', '.join(names)}"
    advice = "The weights are those from before. Lower optim.lr or the weight of the term that is not finite."
    if precision and not finite:
        what += f"\nIn float32 the gradient of the last ones is not finite either: the precision, {precision}, is the "
        what += "last suspect."
    if precision and finite:
        what += (
            f"\nIn float32 the gradient of the last ones is finite: the first suspect is the precision, {precision}."
        )
        advice = f"Train with --precision fp32. {advice}"
    return CheckError(what, advice)


def _mix(*numbers: int) -> int:
    """Return one seed from several numbers, far apart for near ones."""
    value = 0
    for number in numbers:
        value = (value ^ number) * 0x9E3779B97F4A7C15 % 2**63
        value ^= value >> 29
    return value
