"""Cross-image relations: both losses by hand and in loops, the memory slot by slot, and trainings that use it."""

import math
import multiprocessing
import os
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from test_distributed import free_port
from tiny import (
    BF16,
    CLASSES,
    CPU,
    StillNorm,
    copied,
    differing,
    one_batch,
    optim,
    repeated,
    scenes,
    tiny,
    train,
)
from torch import Tensor
from torch.nn import functional as F

from segdistill import distributed, losses
from segdistill.config import TermConfig, load_preset
from segdistill.engine import Trainee, fit, probe
from segdistill.errors import ShapeError
from segdistill.objectives import Distillation
from segdistill.terms import Pair, bounded, bounded_mask, build_terms, cross_image, memory
from segdistill.terms.cross_image import CrossImage
from segdistill.terms.memory import Memory, Queue, embeddings
from segdistill.types import IGNORE, Batch, Frozen, SegOutput, Stage, Term

Array = NDArray[np.float64]
LN3 = 1 / math.log(3)
"""The temperature at which cosines of 1 and 0 have probabilities 3/4 and 1/4."""
HALF_AGAINST_THREE_QUARTERS = math.log(4 / 3) / 2


def maps(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def pixels(*vectors: tuple[float, ...]) -> Tensor:
    """Return one image, one row high, whose pixels are these vectors: (1, D, 1, N)."""
    return torch.tensor(vectors, dtype=torch.float64).T[None, :, None]


def gradient(value: Tensor, of: Tensor) -> Tensor:
    (result,) = torch.autograd.grad(value, of)
    return result


S, T = maps(1, 3, 4, 2, 3), maps(2, 3, 5, 2, 3)  # features of three images of 2 x 3 positions
PROJECTED = maps(3, 3, 5, 2, 3)
KEYS = F.normalize(maps(4, 7, 5), dim=1)
VALID = torch.tensor([[[1, 1, 0], [0, 1, 1]], [[0, 0, 0], [0, 0, 0]], [[1, 0, 0], [1, 1, 1]]]).bool()

Loss = Callable[[Tensor, Tensor], Tensor]
LOSSES: dict[str, tuple[Loss, Tensor]] = {
    "cross_image": (losses.cross_image, S),
    "cross_image, masked": (partial(losses.cross_image, temperature=0.3, valid=VALID), S),
    "key_similarity": (partial(losses.key_similarity, keys=KEYS), PROJECTED),
    "key_similarity, masked": (partial(losses.key_similarity, keys=KEYS, temperature=0.3, valid=VALID), PROJECTED),
}
each = pytest.mark.parametrize(("loss", "student"), LOSSES.values(), ids=LOSSES.keys())


# The losses


def test_a_right_angle_against_none_inside_an_image() -> None:
    # the student's similarities to the two positions are 1 and 0, the teacher's 1 and 1
    value = losses.cross_image(pixels((1, 0), (0, 2)), pixels((1, 1, 0), (3, 3, 0)), temperature=LN3)
    assert value.item() == pytest.approx(HALF_AGAINST_THREE_QUARTERS)


def test_each_image_is_a_distribution_of_its_own() -> None:
    one_each = torch.cat([pixels((1, 0)), pixels((0, 1))])
    assert losses.cross_image(one_each, one_each.roll(1, 0) + 1).item() == 0
    # seen from a or b in image 0: image 0 as above, image 1 (twice a, and twice a for the teacher) is equal for both;
    # from image 1, image 0 as above for both positions, and image 1 is equal
    student = torch.cat([pixels((1, 0), (0, 1)), pixels((1, 0), (1, 0))])
    teacher = torch.cat([pixels((1, 0), (1, 0)), pixels((1, 0), (1, 0))])
    value = losses.cross_image(student, teacher, temperature=LN3)
    assert value.item() == pytest.approx(HALF_AGAINST_THREE_QUARTERS / 2)


def test_a_right_angle_between_keys_against_none() -> None:
    keys = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    value = losses.key_similarity(pixels((5, 0)), pixels((1, 1)), keys, temperature=LN3)
    assert value.item() == pytest.approx(HALF_AGAINST_THREE_QUARTERS)


def slow_kl(student: list[float], teacher: list[float], temperature: float) -> float:
    q, p = (np.exp(np.array(x) / temperature) for x in (student, teacher))
    return float(sum(p / p.sum() * np.log((p / p.sum()) / (q / q.sum()))))


def cosine(a: Array, b: Array) -> float:
    return float(a @ b / math.sqrt((a @ a) * (b @ b)))


def slow_cross_image(s: Array, t: Array, valid: NDArray[np.bool_], temperature: float) -> float:
    positions = [[(i, j) for i, j in np.ndindex(*image.shape) if image[i, j]] for image in valid]
    rows = []
    for a, anchors in enumerate(positions):
        for i, j in anchors:
            divergences = []
            for b, others in enumerate(positions):
                if others:
                    near, target = ([cosine(x[a, :, i, j], x[b, :, k, n]) for k, n in others] for x in (s, t))
                    divergences.append(slow_kl(near, target, temperature))
            rows.append(np.mean(divergences))
    return float(np.mean(rows))


def slow_key_similarity(s: Array, t: Array, keys: Array, valid: NDArray[np.bool_], temperature: float) -> float:
    rows = []
    for b, i, j in np.argwhere(valid):
        near, target = ([cosine(x[b, :, i, j], key) for key in keys] for x in (s, t))
        rows.append(slow_kl(near, target, temperature))
    return float(np.mean(rows))


@pytest.mark.parametrize("valid", [VALID, torch.ones_like(VALID)], ids=["masked", "whole"])
def test_slow_versions_in_loops_agree(valid: Tensor) -> None:
    mask = valid.numpy()
    expected = slow_cross_image(S.numpy(), T.numpy(), mask, 0.3)
    assert losses.cross_image(S, T, 0.3, valid).item() == pytest.approx(expected, rel=1e-10)
    expected = slow_key_similarity(PROJECTED.numpy(), T.numpy(), KEYS.numpy(), mask, 0.3)
    assert losses.key_similarity(PROJECTED, T, KEYS, 0.3, valid).item() == pytest.approx(expected, rel=1e-10)


@each
def test_equal_features_cost_nothing_and_move_nothing(loss: Loss, student: Tensor) -> None:
    own = T.clone().requires_grad_()
    value = loss(own, own)
    assert value.item() == 0
    assert not gradient(value, own).any()
    assert loss(student, T).item() > 1e-3


@each
def test_the_gradient_is_that_of_finite_differences(loss: Loss, student: Tensor) -> None:
    assert torch.autograd.gradcheck(lambda s: loss(s, T), student.clone().requires_grad_())


@each
def test_the_teacher_gets_no_gradient(loss: Loss, student: Tensor) -> None:
    own, teacher = student.clone().requires_grad_(), T.clone().requires_grad_()
    of_own, of_teacher = torch.autograd.grad(loss(own, teacher), [own, teacher], allow_unused=True)
    assert of_own.any()
    assert of_teacher is None


@each
def test_the_length_of_a_feature_does_not_count(loss: Loss, student: Tensor) -> None:
    torch.testing.assert_close(loss(student * maps(5, 3, 1, 2, 3).exp(), 0.1 * T), loss(student, T))


@each
def test_a_teacher_of_another_size_is_resized_to_the_student(loss: Loss, student: Tensor) -> None:
    teacher = maps(6, 3, 5, 4, 4)
    resized = F.interpolate(teacher, size=(2, 3), mode="bilinear", align_corners=False)
    assert torch.equal(loss(student, teacher), loss(student, resized))


def test_how_the_teacher_turns_its_features_does_not_count_across_images() -> None:
    turn = torch.linalg.qr(maps(7, 5, 5)).Q
    turned = torch.einsum("dc,bchw->bdhw", turn, T)
    torch.testing.assert_close(losses.cross_image(S, turned), losses.cross_image(S, T))


def test_an_image_without_valid_positions_is_not_there() -> None:
    there = [0, 2]
    torch.testing.assert_close(
        losses.cross_image(S, T, 0.1, VALID), losses.cross_image(S[there], T[there], 0.1, VALID[there])
    )


@pytest.mark.parametrize("loss", [losses.cross_image, partial(losses.key_similarity, keys=KEYS)])
def test_nothing_valid_is_zero_with_gradient_zero(loss: Callable[..., Tensor]) -> None:
    student = PROJECTED.clone().requires_grad_()
    value = loss(student, T, valid=torch.zeros_like(VALID))
    assert value.item() == 0
    assert torch.equal(gradient(value, student), torch.zeros_like(student))


@each
def test_positions_without_a_direction_give_finite_gradients(loss: Loss, student: Tensor) -> None:
    own = student.clone()
    own[:, :, 0, 0] = 0
    own.requires_grad_()
    assert gradient(loss(own, T), own).isfinite().all()


@each
def test_bfloat16_features_under_autocast_are_compared_in_float32(loss: Loss, student: Tensor) -> None:
    half = [x.bfloat16() for x in (student, T)]
    with BF16.autocast():
        value = loss(*half)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(*(x.float() for x in half)))


def test_the_backward_pass_under_autocast_is_that_of_float32() -> None:
    student = S.float().requires_grad_()
    with BF16.autocast():
        value = losses.cross_image(student, T.float())
    torch.testing.assert_close(gradient(value, student), gradient(losses.cross_image(student, T.float()), student))


def test_similarities_are_not_kept_for_the_backward_pass() -> None:
    student, teacher, kept = maps(1, 2, 4, 16, 16).requires_grad_(), maps(2, 2, 4, 16, 16), list[int]()

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        losses.cross_image(student, teacher)
    assert 0 < max(kept) < 256 * 256 / 8


def test_features_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeError, match="mask"):
        losses.cross_image(S, T, valid=VALID[:, :1])
    with pytest.raises(ShapeError, match="maps"):
        losses.cross_image(S[:2], T)
    with pytest.raises(ShapeError, match="maps"):
        losses.key_similarity(S, T, KEYS)
    with pytest.raises(ShapeError, match="keys"):
        losses.key_similarity(PROJECTED, T, KEYS[:, :4])


def test_labels_keep_their_numbers_on_another_grid() -> None:
    label = torch.tensor([[[0, 1, 7, 200], [2, 3, 8, 9], [IGNORE, 4, 170, 5], [1, 1, 1, 1]]])
    assert losses.label_at_size(label, (2, 2)).tolist() == [[[0, 7], [IGNORE, 170]]]


# The term across images


def output(features: Tensor) -> SegOutput:
    return SegOutput(features.new_zeros(len(features), len(CLASSES), *features.shape[-2:]), (features,), None)


def batch_of(label: Tensor) -> Batch:
    images, height, width = label.shape
    return Batch(torch.zeros(images, 3, height, width), label, ("a",) * images, torch.arange(images) + 5)


def test_larger_maps_are_averaged_and_the_term_says_so() -> None:
    student, teacher = maps(1, 2, 4, 5, 7, dtype=torch.float32), maps(2, 2, 6, 5, 7, dtype=torch.float32)
    batch = batch_of((torch.arange(2 * 20 * 28) % 5 % 3).reshape(2, 20, 28))
    whole, pooled = (CrossImage(cross_image.Options(max_positions=most)) for most in (35, 34))
    torch.testing.assert_close(whole(output(student), output(teacher), batch), losses.cross_image(student, teacher))
    own, target = (F.avg_pool2d(x, 2, ceil_mode=True) for x in (student, teacher))
    torch.testing.assert_close(pooled(output(student), output(teacher), batch), losses.cross_image(own, target))
    assert (whole.notes, len(pooled.notes)) == ((), 1)
    assert "5x7 positions are averaged to 3x4" in pooled.notes[0]


def test_averages_are_of_the_positions_that_count() -> None:
    features = torch.tensor([[[[1.0, 3.0, 10.0], [5.0, 7.0, 20.0], [2.0, 4.0, 9.0]]]])
    valid = torch.tensor([[[1, 0, 0], [1, 1, 0], [0, 1, 1]]]).bool()
    assert bounded_mask(valid, 4).tolist() == [[[True, False], [True, True]]]
    torch.testing.assert_close(bounded(features, 4, valid), torch.tensor([[[[13 / 3, 0.0], [4.0, 9.0]]]]))
    assert bounded(features, 9, valid) is features
    assert bounded_mask(valid, 9) is valid


def test_void_is_left_out_and_an_unlabelled_image_counts_whole_across_images() -> None:
    student, teacher = maps(1, 2, 4, 2, 3, dtype=torch.float32), maps(2, 2, 6, 2, 3, dtype=torch.float32)
    label = torch.zeros(2, 2, 3, dtype=torch.int64)
    label[0, 0, 1:] = IGNORE
    label[1] = IGNORE
    valid = torch.tensor([[[1, 0, 0], [1, 1, 1]], [[1, 1, 1], [1, 1, 1]]]).bool()
    value = CrossImage(cross_image.Options())(output(student), output(teacher), batch_of(label))
    torch.testing.assert_close(value, losses.cross_image(student, teacher, valid=valid))


# The memory


def vectors(*rows: list[int]) -> Tensor:
    """Return (C, K, 1): numbers in place of unit vectors, and 0 for none."""
    return torch.tensor(rows, dtype=torch.float32).unsqueeze(2)


def test_new_vectors_replace_the_oldest_in_their_order_and_go_round() -> None:
    queue = Queue(num_classes=2, size=3, channels=1)
    queue.keys.zero_()
    queue.push(vectors([0, 1, 0, 2], [0, 0, 0, 0]))
    assert (queue.keys.squeeze(2).tolist(), queue.next.tolist()) == ([[1, 2, 0], [0, 0, 0]], [2, 0])
    queue.push(vectors([3, 4], [0, 9]))
    assert (queue.keys.squeeze(2).tolist(), queue.next.tolist()) == ([[4, 2, 3], [9, 0, 0]], [1, 1])


def test_of_more_vectors_than_fit_the_last_ones_stay() -> None:
    queue = Queue(num_classes=1, size=3, channels=1)
    queue.push(vectors([1, 2, 0, 3, 4, 5, 6, 7]))
    # one after the other, 7 would lie where 1 and 4 did
    assert (queue.keys.flatten().tolist(), queue.next.tolist()) == ([7, 5, 6], [1])


def test_an_untouched_memory_holds_random_directions() -> None:
    keys = Queue(num_classes=4, size=50, channels=8).keys
    torch.testing.assert_close(keys.norm(dim=2), torch.ones(4, 50))
    assert keys.mean((0, 1)).abs().max() < 0.15


def test_keys_are_drawn_by_the_seed_from_the_same_slots_of_each_class() -> None:
    queue = Queue(num_classes=2, size=100, channels=1)
    queue.keys.copy_(torch.arange(200.0).view(2, 100, 1))
    drawn = queue.draw(40, seed=3).view(2, -1)
    assert drawn.shape == (2, 21)
    assert torch.equal(drawn[1], drawn[0] + 100)
    assert len(drawn[0].unique()) == 21
    assert torch.equal(drawn.view(-1, 1), queue.draw(40, seed=3))
    assert not torch.equal(drawn.view(-1, 1), queue.draw(40, seed=4))
    assert len(queue.draw(1000, seed=3)) == 200


def test_an_image_adds_some_pixels_of_each_class_and_the_mean_direction_of_them_all() -> None:
    # a row of 5 positions: classes 0 1 0 void 0
    features = pixels((2, 0), (0, 3), (0, 5), (7, 7), (1, 0)).float()
    batch = batch_of(torch.tensor([[[0, 1, 0, IGNORE, 0]]]))
    some, regions = embeddings(features, batch, num_classes=3, most=2)
    assert some.shape == (1, 3, 2, 2)
    assert some[0, 1].tolist() == [[0, 1], [0, 0]]  # a single pixel, and none
    assert not some[0, 2].any()
    torch.testing.assert_close(some[0, 0].norm(dim=1), torch.ones(2))
    assert all(pixel in ([1, 0], [0, 1]) for pixel in some[0, 0].tolist())
    # unit vectors (1, 0), (0, 1), (1, 0): their mean points to (2, 1)
    torch.testing.assert_close(regions[0], torch.tensor([[2, 1], [0, math.sqrt(5)], [0, 0]]) / math.sqrt(5))
    all_of_them, _ = embeddings(features, batch, num_classes=3, most=100)
    assert sorted(all_of_them[0, 0].tolist()) == [[0, 0], [0, 0], [0, 1], [1, 0], [1, 0]]


def test_which_pixels_are_added_depends_on_the_samples_seed_alone() -> None:
    features, label = maps(1, 2, 4, 9, 9, dtype=torch.float32), torch.zeros(2, 9, 9, dtype=torch.int64)
    batch = batch_of(label)

    def added(batch: Batch, features: Tensor) -> Tensor:
        torch.rand(3)
        return embeddings(features, batch, num_classes=1, most=4)[0]

    both = added(batch, features)
    second = Batch(batch.image[1:], label[1:], ("b",), batch.seeds[1:])
    assert torch.equal(both[1:], added(second, features[1:]))
    assert not torch.equal(both, added(batch._replace(seeds=batch.seeds + 1), features))


def test_what_is_remembered_is_float32_under_autocast() -> None:
    features, batch = maps(1, 2, 8, 9, 9).bfloat16(), batch_of((torch.arange(162) % 3).reshape(2, 9, 9))
    with BF16.autocast():
        found = embeddings(features, batch, num_classes=3, most=4)
    for one, other in zip(found, embeddings(features.float(), batch, num_classes=3, most=4), strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other)


# The term with a memory

SMALL = {"pixel_memory": 24, "region_memory": 6, "pixel_keys": 30, "region_keys": 9, "new_pixels": 5}


def a_memory(**options: Any) -> Memory:
    torch.manual_seed(2)
    term = memory.build(memory.Options.model_validate(SMALL | options), Pair(tiny(0), tiny(1, width=10), len(CLASSES)))
    assert isinstance(term, Memory)
    return term


def features_of(batch: Batch) -> tuple[SegOutput, SegOutput]:
    """Return the outputs of student and teacher, both wanting gradients."""
    outputs = tiny(0)(batch.image), tiny(1, width=10).eval()(batch.image)
    for found in outputs:
        found.features[-1].retain_grad()
    return outputs


def without_labels(batch: Batch) -> Batch:
    return batch._replace(label=torch.full_like(batch.label, IGNORE))


def test_both_comparisons_are_weighed_and_see_what_was_just_written() -> None:
    batch, term = one_batch(3), a_memory(pixel=0.5, region=2.0)
    student, teacher = features_of(batch)
    value = term(student, teacher, batch)
    assert term.regions.next.tolist() == [3, 3, 3]  # every class is in each of the three images
    assert term.pixels.next.tolist() == [15, 15, 15]
    label = F.interpolate(batch.label[:, None].float(), size=(12, 16)).squeeze(1)
    target = teacher.features[-1].detach()
    for image in range(3):
        for number in range(len(CLASSES)):
            inside = F.normalize(target[image], dim=0)[:, label[image] == number]
            torch.testing.assert_close(term.regions.keys[number, image], F.normalize(inside.mean(1), dim=0))
            added = term.pixels.keys[number, 5 * image : 5 * image + 5]
            assert (added @ inside).amax(1).min() > 1 - 1e-5
    projected, mask, seed = (
        term.projection(student.features[-1]).detach().double().numpy(),
        label != IGNORE,
        int(batch.seeds[0]),
    )
    pixel, region = (
        slow_key_similarity(projected, target.double().numpy(), keys.double().numpy(), mask.numpy(), 0.1)
        for keys in (term.pixels.draw(30, seed), term.regions.draw(9, seed))
    )
    assert value.item() == pytest.approx(0.5 * pixel + 2 * region, rel=1e-4)


def test_student_and_projection_get_a_gradient_and_the_teacher_none() -> None:
    batch, term = one_batch(2), a_memory()
    student, teacher = features_of(batch)
    term(student, teacher, batch).backward()
    own, target = student.features[-1].grad, teacher.features[-1].grad
    assert own is not None
    assert own.abs().max() > 0
    assert target is None
    assert all(p.grad is not None and p.grad.any() for p in term.parameters())


def test_nothing_is_written_outside_of_training() -> None:
    batch, term = one_batch(2), a_memory().eval()
    before = copied(term)
    assert term(*features_of(batch), batch) > 0
    assert not differing(before, copied(term))


def test_the_draws_do_not_depend_on_the_global_generator() -> None:
    batch = one_batch(2)
    first, second = a_memory(), a_memory()
    values = []
    for seed, term in enumerate((first, second)):
        student, teacher = features_of(batch)
        torch.manual_seed(seed)
        values.append(term(student, teacher, batch))
    assert values[0] == values[1]
    assert not differing(copied(first), copied(second))


def test_images_without_labels_add_nothing_to_the_memory_term() -> None:
    batch, term = without_labels(one_batch(2)), a_memory()
    before = copied(term.pixels) | copied(term.regions)
    student, teacher = features_of(batch)
    value = term(student, teacher, batch)
    assert value.item() == 0
    value.backward()
    assert student.features[-1].grad is not None
    assert not student.features[-1].grad.any()
    assert all(p.grad is not None and not p.grad.any() for p in term.parameters())
    assert not differing(before, copied(term.pixels) | copied(term.regions))


@pytest.mark.parametrize("term", [a_memory().eval(), CrossImage(cross_image.Options())], ids=["memory", "cross-image"])
def test_a_micro_batch_has_the_share_of_its_positions_in_the_step(term: Term) -> None:
    student, teacher = output(maps(1, 1, 12, 2, 3, dtype=torch.float32)), output(maps(2, 1, 20, 2, 3))
    own, other = torch.zeros(1, 2, 3, dtype=torch.int64), torch.zeros(1, 2, 3, dtype=torch.int64)
    other[0, :, 1:] = IGNORE
    alone = batch_of(own)
    value = term(student, teacher, alone)
    # 6 of the step's 8 positions, and averaged over two micro-batches
    torch.testing.assert_close(term(student, teacher, alone._replace(parts=(alone, batch_of(other)))), 1.5 * value)


# In training

TERMS = {"cross-image": {"weight": 1.0}, "memory": {"weight": 0.1, **SMALL}}


def a_stage(steps: int, terms: dict[str, dict[str, float]] | None = None, **options: Any) -> Stage:
    student, teacher = tiny(0, norm=StillNorm, dropout=0.2), tiny(1, width=10, norm=StillNorm)
    tables = {name: TermConfig.model_validate(table) for name, table in (terms or TERMS).items()}
    torch.manual_seed(7)
    built = build_terms(tables, Pair(student, teacher, len(CLASSES)))
    return Stage("student", student, Distillation(0.4, Frozen(teacher), built), optim(steps, **options))


def everything(stage: Stage) -> dict[str, Tensor]:
    return copied(Trainee(stage.model, stage.objective))


def memories(stage: Stage) -> dict[str, Tensor]:
    return {name: x for name, x in everything(stage).items() if ".pixels." in name or ".regions." in name}


def test_a_resumed_training_equals_the_uninterrupted_one_bit_for_bit() -> None:
    whole, states = a_stage(4), list[dict[str, Any]]()
    train(whole, scenes(4), lambda report: states.append(deepcopy(report.training.state())))
    again = a_stage(4)
    fit(again, scenes(4, start_step=2), precision=CPU, seed=3, on_step=lambda report: None, resume=states[1])
    assert not differing(everything(whole), everything(again))
    assert len(memories(whole)) == 4


def test_a_probe_and_a_step_that_is_not_finite_leave_the_memories_as_they_were() -> None:
    stage, batch, states = a_stage(2), one_batch(4), list[dict[str, Tensor]]()
    before = memories(stage)
    probe(stage, (40, 72), len(CLASSES), 4, CPU)
    assert not differing(before, memories(stage))
    train(stage, iter([batch._replace(image=batch.image / 0), batch]), lambda report: states.append(memories(stage)))
    assert not differing(before, states[0])
    assert len(differing(before, states[1])) == 4
    assert all(x.isfinite().all() for x in states[1].values())


def test_thirty_steps_under_bf16_stay_finite_and_bring_the_student_nearer() -> None:
    stage, batch = a_stage(30), one_batch(2, crop=(24, 32))
    reports = train(stage, repeated(batch, 30), precision=BF16)
    assert all(value.isfinite() for report in reports for value in report.terms.values())
    assert all(x.isfinite().all() for x in everything(stage).values())
    for name in TERMS:
        first, last = (float(sum(r.terms[name] for r in part)) for part in (reports[:5], reports[-5:]))
        assert last < 0.8 * first, name


def test_a_batch_without_labels_moves_the_student_across_images_and_leaves_the_memory_alone() -> None:
    stage, batch = a_stage(1), without_labels(one_batch(4))
    before = everything(stage)
    (report,) = train(stage, iter([batch]))
    assert report.terms["cross-image"] > 0
    assert report.terms["memory"] == 0
    assert "model.first.0.weight" in differing(before, everything(stage))
    assert not [name for name in differing(before, everything(stage)) if name in memories(stage)]


# Two processes


def two_steps(**options: Any) -> dict[str, Tensor]:
    stage = a_stage(2)
    train(stage, scenes(2, 4, **options))
    return everything(stage)


def worker(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with distributed.process_group(CPU.device):
        found = two_steps(rank=rank, world=2)
    torch.save(found, Path(folder) / f"{rank}.pt")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    """Return what is in two processes after two steps of training."""
    folder, port = tmp_path_factory.mktemp("processes"), free_port()
    spawn = multiprocessing.get_context("spawn").Process
    processes = [spawn(target=worker, args=(rank, port, str(folder)), daemon=True) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=300)
        assert process.exitcode == 0
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def test_two_processes_hold_the_same_bits_and_the_memories_of_one(both: list[dict[str, Tensor]]) -> None:
    assert not differing(*both)
    alone = two_steps()
    kept = [name for name in alone if ".pixels." in name or ".regions." in name]
    assert len(kept) == 4
    for name in kept:
        torch.testing.assert_close(both[0][name], alone[name], rtol=1e-5, atol=1e-6)


# The preset


@pytest.mark.parametrize(("data", "memory_weight"), [("cityscapes", 0.1), ("camvid", 0.1), ("voc", 0.01)])
def test_the_preset_has_the_published_weights(data: str, memory_weight: float) -> None:
    terms = load_preset("cirkd", data=data).terms
    weights = {name: config.weight for name, config in terms.items()}
    assert weights == {"pixel": 1, "cross-image": 1, "memory": memory_weight}
    assert [terms[name].options()["temperature"] for name in terms] == [1, 0.1, 0.1]


def test_the_preset_s_terms_train_a_student() -> None:
    config = load_preset("cirkd", data="streets")
    stage = a_stage(2, {name: {"weight": table.weight, **table.options()} for name, table in config.terms.items()})
    reports = train(stage, scenes(2))
    assert all(report.terms[name] > 0 for report in reports for name in config.terms)


def test_accumulated_batches_write_as_much_as_one_large_batch() -> None:
    def written(batches: Iterator[Batch], accumulate: int) -> dict[str, Tensor]:
        stage = a_stage(1, accumulate=accumulate)
        train(stage, batches)
        return memories(stage)

    torch.testing.assert_close(written(scenes(1, 4, accumulate=2), 2), written(scenes(1, 4), 1), rtol=1e-5, atol=1e-6)
