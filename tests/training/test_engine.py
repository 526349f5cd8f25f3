"""The engine trains what it should and nothing else, repeats itself bit for bit, and keeps bad numbers out."""

import math
import time
from collections.abc import Iterator
from itertools import chain, pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.tiny import (
    BF16,
    CLASSES,
    CPU,
    SKD,
    StillNorm,
    copied,
    differing,
    distillation,
    one_batch,
    optim,
    plain,
    pspnet,
    repeated,
    scenes,
    tiny,
    train,
    with_sgd_critic,
)
from segdistill.config.schema import OptimConfig
from segdistill.errors import CheckError, ModelError, UsageError
from segdistill.evaluation.evaluate import evaluate, predict_labels
from segdistill.networks import InferenceWrapper
from segdistill.runtime.precision import Precision, resolve_device, resolve_precision
from segdistill.training.engine import Report, fit
from segdistill.training.non_finite import MAX_BAD_STEPS
from segdistill.training.optim import scheduled_rate
from segdistill.training.probe import probe
from segdistill.training.state import Training, TrainModule
from segdistill.types import IGNORE, Batch, Frozen, Stage, Step


def skd_stage(steps: int, weights: dict[str, float] | None = None, **options: object) -> Stage:
    student, teacher = tiny(0, dropout=0.2), tiny(1, width=10)
    return Stage("student", student, distillation(student, teacher, weights), optim(steps, **options))


def everything(stage: Stage) -> dict[str, Tensor]:
    return copied(TrainModule(stage.model, stage.objective))


def without_labels(batch: Batch) -> Batch:
    label = torch.full_like(batch.label, IGNORE)
    return batch._replace(label=label, valid=torch.ones_like(label, dtype=torch.bool))


def void(batch: Batch) -> Batch:
    """Return the images as if all of them had been labeled void."""
    unlabeled = without_labels(batch)
    return unlabeled._replace(valid=torch.zeros_like(unlabeled.label, dtype=torch.bool))


def not_finite(batch: Batch) -> Batch:
    return batch._replace(image=batch.image / 0)


# What is trained


def test_network_overfits_one_batch_of_four_images() -> None:
    student, batch = pspnet(0), one_batch(4)
    reports = train(Stage("student", student, plain(student), optim(30, lr=0.03)), repeated(batch, 30))
    with torch.no_grad():
        labels = predict_labels(InferenceWrapper(student), batch.image, batch.label.shape[-2:])
    right = (labels == batch.label)[batch.label != IGNORE].double().mean()
    assert right > 0.97
    assert reports[-1].terms["cross_entropy"] < 0.1 * reports[0].terms["cross_entropy"]


@pytest.mark.promise("T2")
def test_teacher_is_unchanged_and_gets_no_gradient() -> None:
    stage = skd_stage(3)
    teacher = stage.objective.teacher
    assert isinstance(teacher, Frozen)
    before, modes = copied(teacher), set[bool]()
    teacher.network.register_forward_pre_hook(lambda network, _: modes.update(m.training for m in network.modules()))
    stage.objective.train()
    train(stage, scenes(3))
    teacher.train()
    assert not differing(before, copied(teacher))
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())
    assert modes == {False}
    assert not any(module.training for module in teacher.modules())


@pytest.mark.parametrize("name", ["cross_entropy", "aux", *SKD])
def test_each_term_moves_the_student_alone(name: str) -> None:
    stage = skd_stage(1)
    Training(stage, CPU)
    stage.objective.train()
    step: Step = stage.objective(stage.model, one_batch(2))
    step.terms[name].backward()
    first = next(stage.model.parameters())
    assert first.grad is not None
    assert first.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in stage.objective.parameters())


def test_terms_of_weight_zero_equal_the_baseline() -> None:
    zero, baseline = skd_stage(4, dict.fromkeys(SKD, 0.0)), tiny(0, dropout=0.2)
    train(zero, scenes(4))
    train(Stage("student", baseline, plain(baseline), optim(4)), scenes(4))
    assert not differing(copied(zero.model), copied(baseline))


def test_term_weight_scales_its_effect_on_the_student() -> None:
    def moved(weight: float) -> Tensor:
        student = tiny(0)
        objective = distillation(student, tiny(1), {"pixel": weight})
        before = student.classifier.weight.detach().clone()
        train(Stage("student", student, objective, optim(1, weight_decay=0, momentum=0)), scenes(1))
        return student.classifier.weight.detach() - before

    torch.testing.assert_close(moved(3) - moved(0), 3 * (moved(1) - moved(0)), rtol=1e-4, atol=1e-7)


# The same numbers


@pytest.mark.promise("R8")
def test_two_runs_are_equal_bit_for_bit() -> None:
    first, second = skd_stage(3), skd_stage(3)
    reports = [train(stage, scenes(3)) for stage in (first, second)]
    assert not differing(everything(first), everything(second))
    assert [r.terms for r in reports[0]] == [r.terms for r in reports[1]]


def test_random_numbers_change_from_step_to_step() -> None:
    student, drawn = tiny(0), []
    student.register_forward_pre_hook(lambda *_: drawn.append(torch.rand(()).item()))
    train(Stage("student", student, plain(student), optim(5)), scenes(5))
    assert len(set(drawn)) == 5


def test_accumulated_micro_batches_equal_one_large_batch() -> None:
    def run(accumulate: int) -> tuple[dict[str, Tensor], list[Report]]:
        student = tiny(0, norm=StillNorm)
        objective = distillation(student, tiny(1, norm=StillNorm))
        with_sgd_critic(objective)
        stage = Stage("student", student, objective, optim(3, accumulate=accumulate))
        reports = train(stage, scenes(3, 4, accumulate=accumulate))
        return everything(stage), reports

    (whole, reports), (parts, sums) = run(1), run(2)
    for one, other in zip(reports, sums, strict=True):
        assert one.terms.keys() == other.terms.keys() == {"cross_entropy", "aux", "critic", *SKD}
        for name in one.terms:
            torch.testing.assert_close(other.terms[name], one.terms[name], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)


# Bad numbers


@pytest.mark.promise("R5")
def test_nonfinite_step_leaves_the_whole_state_unchanged() -> None:
    good, stage = one_batch(4), skd_stage(3, lr=0.01)
    states: list[dict[str, Tensor]] = []

    def keep(report: Report) -> None:
        momenta = (report.training.state()[key]["state"] for key in ("optimizer", "critic_optimizer"))
        flat = {f"{i}.{n}.{k}": v.clone() for i, m in enumerate(momenta) for n, s in m.items() for k, v in s.items()}
        states.append(everything(stage) | flat)

    reports = train(stage, iter([good, not_finite(good), good]), keep)
    assert not differing(states[0], states[1])
    assert "model.first.0.weight" in differing(states[1], states[2])
    assert [math.isfinite(report.gradient_norm) for report in reports] == [True, False, True]
    assert [report.step for report in reports] == [1, 2, 3]


@pytest.mark.promise("R5")
def test_repeated_nonfinite_steps_stop_and_name_their_images() -> None:
    stage, bad = skd_stage(10), not_finite(one_batch(2))
    before = everything(stage)
    with pytest.raises(CheckError) as caught:
        train(stage, repeated(bad, 10))
    text = str(caught.value)
    assert f"step {MAX_BAD_STEPS + 1} " in text
    assert all(f"{name} " in text for name in ("cross_entropy", "aux", "critic", *SKD))
    assert "cross_entropy nan" in text
    assert all(name in text for name in bad.names)
    assert not differing(before, everything(stage))


@pytest.mark.promise("R5")
def test_precision_is_the_last_suspect_if_float32_fails_too() -> None:
    with pytest.raises(CheckError) as caught:
        train(skd_stage(10), repeated(not_finite(one_batch(2)), 10), precision=BF16)
    assert "not finite either: the precision, bf16, is the last suspect" in caught.value.what
    assert "--precision" not in caught.value.fix


class NotInBf16(nn.Module):
    """Stands for a layer whose bf16 kernel returns NaN."""

    def forward(self, x: Tensor) -> Tensor:
        return x * math.nan if x.dtype == torch.bfloat16 else x


@pytest.mark.promise("R5")
@pytest.mark.parametrize("precision", [BF16, CPU], ids=["bf16", "fp32"])
def test_precision_is_the_suspect_if_float32_is_finite(precision: Precision) -> None:
    stage, batch = skd_stage(10), one_batch(2)
    assert isinstance(stage.model.first, nn.Sequential)
    stage.model.first.append(NotInBf16())
    if precision is CPU:
        batch = not_finite(batch)
    before = everything(stage)
    with pytest.raises(CheckError) as caught:
        train(stage, repeated(batch, 10), precision=precision)
    assert ("the first suspect is the precision, bf16" in caught.value.what) == (precision is BF16)
    assert caught.value.fix.startswith("Train with --precision fp32.") == (precision is BF16)
    assert not differing(before, everything(stage))
    assert all(parameter.grad is None for parameter in stage.model.parameters())


@pytest.mark.promise("R5")
def test_single_nonfinite_steps_are_counted_without_stopping() -> None:
    good, student, every = one_batch(2), tiny(0), 12
    steps = every * (MAX_BAD_STEPS + 2)
    stage = Stage("student", student, plain(student), optim(steps))
    batches = (not_finite(good) if step % every == every - 1 else good for step in range(steps))
    reports = train(stage, batches)
    assert [r.step for r in reports if not math.isfinite(r.gradient_norm)] == list(range(every, steps + 1, every))
    assert reports[-1].training.skipped == MAX_BAD_STEPS + 2
    assert all(value.isfinite().all() for value in everything(stage).values())


@pytest.mark.promise("R5")
def test_more_than_a_tenth_of_skipped_steps_stops_the_run() -> None:
    good, stage = one_batch(2), skd_stage(200, {"pixel": 1.0})
    three_quarters = (good if step % 4 == 0 else not_finite(good) for step in range(200))
    seen: list[int] = []
    with pytest.raises(CheckError) as caught:
        train(stage, three_quarters, lambda report: seen.append(report.step))
    assert caught.value.exit_code == 4
    assert seen[-1] == 5, "the second bad step after the first good ones is the fourth of six"
    assert "The gradient was not finite in 4 of 6 steps, more than 10 %, the last being step 6 (lr " in str(
        caught.value
    )
    assert "cross_entropy nan" in str(caught.value)
    assert all(name in str(caught.value) for name in good.names)


def test_count_of_skipped_steps_is_resumed_with_the_state() -> None:
    good, student = one_batch(2), tiny(0)

    def stage() -> Stage:
        return Stage("student", student, plain(student), optim(10))

    states: list[dict[str, Any]] = []
    train(stage(), iter([good, not_finite(good), good] + [good] * 7), lambda r: states.append(r.training.state()))
    assert [state["skipped"] for state in states] == [0] + [1] * 9
    skipped: list[int] = []

    def go_on(state: dict[str, Any], *batches: Batch) -> None:
        on_step = lambda report: skipped.append(report.training.skipped)  # noqa: E731
        fit(stage(), iter(batches), precision=CPU, seed=3, on_step=on_step, resume=state)

    go_on(states[7], not_finite(good), good)
    go_on({name: value for name, value in states[7].items() if name != "skipped"}, good, good)
    assert skipped == [2, 2, 0, 0]
    for forged in (-1, 9, True, "1", None):
        with pytest.raises(ModelError, match="how many steps were skipped"):
            Training(stage(), CPU).load(states[7] | {"skipped": forged})


def test_a_batch_without_labels_gives_cross_entropy_no_gradient() -> None:
    student, batch = tiny(0, norm=StillNorm), without_labels(one_batch(4))
    before = copied(student)
    stage = Stage("student", student, plain(student), optim(2, weight_decay=0))
    reports = train(stage, repeated(batch, 2))
    assert not differing(before, copied(student))
    assert [(r.terms["cross_entropy"].item(), r.gradient_norm) for r in reports] == [(0, 0), (0, 0)]


def test_a_batch_without_labels_follows_the_teacher_alone() -> None:
    for report in train(skd_stage(2), repeated(without_labels(one_batch(4)), 2)):
        assert report.terms["cross_entropy"] == report.terms["aux"] == 0
        assert all(report.terms[name].abs() > 0 for name in ("pixel", "pairwise", "holistic"))


@pytest.mark.promise("R6")
def test_batch_of_void_is_harmless_and_adds_nothing() -> None:
    batch = one_batch(4)
    empty, together = skd_stage(2), skd_stage(1, {"pixel": 10.0}, accumulate=2)
    for report in train(empty, repeated(void(batch), 2)):
        assert all(value.isfinite() for value in report.terms.values())
        assert report.terms["pixel"] == 0
        assert report.terms["pairwise"] > 0
    alone = train(skd_stage(1, {"pixel": 10.0}), repeated(batch, 1))
    # the micro-batch of void comes last: dropout draws for the first one as it does for the batch alone
    both = train(together, iter([batch, void(batch)]))
    for name in ("cross_entropy", "aux", "pixel"):
        torch.testing.assert_close(both[0].terms[name], alone[0].terms[name])


# Schedule


def test_learning_rate_falls_polynomially() -> None:
    config = OptimConfig(lr=0.01, power=0.9, steps=4)
    rates = [scheduled_rate(config, step, 4) for step in range(4)]
    # (3/4) ** 0.9, (1/2) ** 0.9, (1/4) ** 0.9
    assert rates == pytest.approx([0.01, 0.0077190, 0.0053589, 0.0028717], rel=1e-4)


def test_learning_rate_rises_linearly_during_warmup() -> None:
    config = OptimConfig(lr=8.0, power=1.0, warmup=3, steps=8)
    assert [scheduled_rate(config, step, 8) for step in range(8)] == [2.0, 3.5, 4.5, 5.0, 4.0, 3.0, 2.0, 1.0]


def test_student_and_critic_follow_their_own_schedules() -> None:
    stage, critic_rates = skd_stage(2, power=1.0, lr=0.1), list[float]()

    def note(report: Report) -> None:
        assert report.training.critic_optimizer is not None
        critic_rates.append(report.training.critic_optimizer.param_groups[0]["lr"])

    reports = train(stage, scenes(2), note)
    assert [report.lr for report in reports] == pytest.approx([0.1, 0.05])
    assert critic_rates == pytest.approx([4e-4, 4e-4 * 0.5**0.9])


def test_momentum_and_weight_decay_follow_the_configuration() -> None:
    student, batch = tiny(0), without_labels(one_batch(2))
    weight = next(student.parameters())
    start = weight.detach().clone()
    stage = Stage("student", student, plain(student), optim(2, lr=0.5, power=0, momentum=0.5, weight_decay=0.1))
    train(stage, repeated(batch, 2))
    # the gradient is 0.1 w alone: w1 = w0 (1 - 0.05); velocity 0.5 * 0.1 w0 + 0.1 w1 = 0.145 w0
    torch.testing.assert_close(weight.detach(), start * (0.95 - 0.5 * 0.145))


# Device and precision


@pytest.mark.promise("E5")
@pytest.mark.parametrize(("name", "words"), [("tpu", "tpu"), ("cpu:1", "cpu:1"), ("cuda:x", "cuda:x"), ("", "''")])
def test_unknown_devices_are_refused(name: str, words: str) -> None:
    with pytest.raises(UsageError, match=f"Unknown device .*{words}"):
        resolve_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_asked_for_and_missing_is_an_error() -> None:
    assert resolve_device("auto") == torch.device("cpu")
    with pytest.raises(UsageError, match="sees no CUDA GPU"):
        resolve_device("cuda")


def test_precision_is_resolved_for_the_device() -> None:
    cpu = torch.device("cpu")
    assert resolve_precision("fp32", cpu) == CPU
    assert resolve_precision("bf16", cpu) == BF16
    assert resolve_precision("auto", cpu) in (CPU, BF16)
    with pytest.raises(UsageError, match="fp16 needs a GPU") as caught:
        resolve_precision("fp16", cpu)
    assert caught.value.exit_code == 2


def test_bf16_computes_networks_only_and_keeps_weights_float32() -> None:
    stage, seen = skd_stage(1), list[torch.dtype]()
    stage.model.register_forward_hook(lambda _, __, output: seen.append(output.logits.dtype))
    (report,) = train(stage, scenes(1), precision=BF16)
    assert seen == [torch.bfloat16]
    assert {value.dtype for value in report.terms.values()} == {torch.float32}
    assert {parameter.dtype for parameter in stage.model.parameters()} == {torch.float32}


# The probe and the scores


def test_probe_changes_nothing() -> None:
    stage = skd_stage(5)
    stage.model.eval()
    stage.objective.eval()
    before, random = everything(stage), torch.get_rng_state()
    probe(stage, (40, 72), len(CLASSES), 4, CPU)
    assert not differing(before, everything(stage))
    assert torch.equal(random, torch.get_rng_state())
    modules = list(chain(stage.model.modules(), stage.objective.modules()))
    assert not any(module.training for module in modules)
    assert all(parameter.grad is None for module in modules for parameter in module.parameters())


def test_probe_measures_the_time_and_memory_of_a_step() -> None:
    student = pspnet(0)
    stage = Stage("student", student, plain(student), optim(4))
    found = probe(stage, (56, 104), len(CLASSES), 4, CPU)  # a size that no other test has set up
    ends: list[float] = []
    train(stage, scenes(4, 4, (56, 104)), lambda _: ends.append(time.perf_counter()))
    step = min(later - earlier for earlier, later in pairwise(ends))
    assert 0.2 * step < found.seconds < 4 * step
    assert 50e6 < found.peak_bytes < 100e9


def test_probe_of_an_accumulating_stage_counts_all_micro_batches() -> None:
    def seconds(accumulate: int) -> float:
        student = tiny(0, width=24)
        stage = Stage("student", student, plain(student), optim(2, accumulate=accumulate))
        return probe(stage, (96, 96), len(CLASSES), 8, CPU).seconds

    assert seconds(4) > 0.3 * seconds(1)  # one micro-batch of the four would be a quarter or less


def test_scores_do_not_depend_on_how_the_images_are_batched() -> None:
    batch = one_batch(6)
    network = InferenceWrapper(tiny(0))

    def parts(size: int) -> Iterator[Batch]:
        for i in range(0, 6, size):
            yield Batch(batch.image[i : i + size], batch.label[i : i + size], batch.names, batch.seeds)

    done: list[int] = []
    scores = [evaluate(network, parts(size), len(CLASSES), done.append) for size in (1, 4, 6)]
    assert done == [1] * 6 + [4, 2] + [6]
    with torch.no_grad():
        guess = network(batch.image).argmax(1)
    right = (guess == batch.label) & (batch.label != IGNORE)
    for score in scores:
        assert torch.equal(score.confusion, scores[0].confusion)
        assert [int(counts[:, 0].sum()) for counts in score.per_image] == right.flatten(1).sum(1).tolist()
        assert int(score.confusion.trace()) == int(right.sum())
        assert (score.images, score.ignored_pixels) == (6, int((batch.label == IGNORE).sum()))


@pytest.mark.promise("D10")
def test_labels_of_a_large_size_are_predicted_in_bands() -> None:
    logits = torch.randn(2, 5, 9, 7, generator=torch.Generator().manual_seed(0))
    whole = predict_labels(lambda image: image, logits, (203, 150))
    for max_pixels in (203 * 150 - 1, 1000, 1):
        banded = predict_labels(lambda image: image, logits, (203, 150), max_pixels)
        assert banded.shape == whole.shape
        assert (banded == whole).float().mean() >= 0.9999


def test_logits_are_resized_to_the_label_before_the_argmax() -> None:
    image = torch.zeros(1, 3, 2, 2)
    logits = torch.tensor([[[[0.0, 4.0]], [[2.0, 1.0]]]]).repeat(1, 1, 2, 1)  # (1, 2, 2, 2): columns favor 1, then 0
    labels = predict_labels(lambda _: logits, image, (2, 4))
    # resized to half-pixel centers, class 0 is 0, 1, 3, 4 and class 1 is 2, 1.75, 1.25, 1
    assert labels.tolist() == [[[1, 1, 0, 0], [1, 1, 0, 0]]]
