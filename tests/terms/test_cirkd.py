"""Cross-image relations: the memory slot by slot, both terms, and trainings that use them."""

import math
import multiprocessing
import os
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from helpers.cross_image import maps, pixels, slow_key_similarity
from helpers.ports import free_port
from helpers.tiny import (
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
from segdistill import losses
from segdistill.config.presets import load_preset
from segdistill.config.schema import TermConfig
from segdistill.runtime import distributed
from segdistill.terms import TermContext, build_terms, cross_image, memory
from segdistill.terms._embeddings import Queue, embeddings
from segdistill.terms._pooling import pool_mask_to_limit, pool_to_limit
from segdistill.terms.cross_image import CrossImage
from segdistill.terms.memory import Memory
from segdistill.training.engine import fit
from segdistill.training.objectives import Distillation
from segdistill.training.probe import probe
from segdistill.training.state import TrainModule
from segdistill.types import IGNORE, Batch, Frozen, SegOutput, Stage, Term

# The term across images


def output(features: Tensor) -> SegOutput:
    return SegOutput(features.new_zeros(len(features), len(CLASSES), *features.shape[-2:]), (features,), None)


def batch_of(label: Tensor) -> Batch:
    images, height, width = label.shape
    return Batch(torch.zeros(images, 3, height, width), label, ("a",) * images, torch.arange(images) + 5)


def test_maps_above_the_limit_are_pooled_with_a_message() -> None:
    student, teacher = maps(1, 2, 4, 5, 7, dtype=torch.float32), maps(2, 2, 6, 5, 7, dtype=torch.float32)
    batch = batch_of((torch.arange(2 * 20 * 28) % 5 % 3).reshape(2, 20, 28))
    whole, pooled = (CrossImage(cross_image.Options(max_positions=most)) for most in (35, 34))
    torch.testing.assert_close(whole(output(student), output(teacher), batch), losses.cross_image(student, teacher))
    own, target = (F.avg_pool2d(x, 2, ceil_mode=True) for x in (student, teacher))
    torch.testing.assert_close(pooled(output(student), output(teacher), batch), losses.cross_image(own, target))
    assert (whole.messages, len(pooled.messages)) == ((), 1)
    assert "5x7 positions are averaged to 3x4" in pooled.messages[0]


def test_pooling_averages_valid_positions_only() -> None:
    features = torch.tensor([[[[1.0, 3.0, 10.0], [5.0, 7.0, 20.0], [2.0, 4.0, 9.0]]]])
    valid = torch.tensor([[[1, 0, 0], [1, 1, 0], [0, 1, 1]]]).bool()
    assert pool_mask_to_limit(valid, 4).tolist() == [[[True, False], [True, True]]]
    torch.testing.assert_close(pool_to_limit(features, 4, valid), torch.tensor([[[[13 / 3, 0.0], [4.0, 9.0]]]]))
    assert pool_to_limit(features, 9, valid) is features
    assert pool_mask_to_limit(valid, 9) is valid


def test_cross_image_skips_void_and_keeps_unlabeled_images() -> None:
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


def test_queue_overwrites_its_oldest_vectors_in_order() -> None:
    queue = Queue(num_classes=2, size=3, channels=1)
    queue.keys.zero_()
    queue.push(vectors([0, 1, 0, 2], [0, 0, 0, 0]))
    assert (queue.keys.squeeze(2).tolist(), queue.next.tolist()) == ([[1, 2, 0], [0, 0, 0]], [2, 0])
    queue.push(vectors([3, 4], [0, 9]))
    assert (queue.keys.squeeze(2).tolist(), queue.next.tolist()) == ([[4, 2, 3], [9, 0, 0]], [1, 1])


def test_queue_keeps_the_last_vectors_that_fit() -> None:
    queue = Queue(num_classes=1, size=3, channels=1)
    queue.push(vectors([1, 2, 0, 3, 4, 5, 6, 7]))
    # one after the other, 7 would lie where 1 and 4 did
    assert (queue.keys.flatten().tolist(), queue.next.tolist()) == ([7, 5, 6], [1])


def test_new_memory_holds_random_directions() -> None:
    keys = Queue(num_classes=4, size=50, channels=8).keys
    torch.testing.assert_close(keys.norm(dim=2), torch.ones(4, 50))
    assert keys.mean((0, 1)).abs().max() < 0.15


def test_sampled_keys_share_slots_and_follow_the_seed() -> None:
    queue = Queue(num_classes=2, size=100, channels=1)
    queue.keys.copy_(torch.arange(200.0).view(2, 100, 1))
    drawn = queue.sample_keys(40, seed=3).view(2, -1)
    assert drawn.shape == (2, 21)
    assert torch.equal(drawn[1], drawn[0] + 100)
    assert len(drawn[0].unique()) == 21
    assert torch.equal(drawn.view(-1, 1), queue.sample_keys(40, seed=3))
    assert not torch.equal(drawn.view(-1, 1), queue.sample_keys(40, seed=4))
    assert len(queue.sample_keys(1000, seed=3)) == 200


def test_embeddings_hold_some_pixels_and_a_mean_per_class() -> None:
    # a row of 5 positions: classes 0 1 0 void 0
    features = pixels((2, 0), (0, 3), (0, 5), (7, 7), (1, 0)).float()
    batch = batch_of(torch.tensor([[[0, 1, 0, IGNORE, 0]]]))
    some, regions = embeddings(features, batch, num_classes=3, max_pixels=2)
    assert some.shape == (1, 3, 2, 2)
    assert some[0, 1].tolist() == [[0, 1], [0, 0]]  # a single pixel, and none
    assert not some[0, 2].any()
    torch.testing.assert_close(some[0, 0].norm(dim=1), torch.ones(2))
    assert all(pixel in ([1, 0], [0, 1]) for pixel in some[0, 0].tolist())
    # unit vectors (1, 0), (0, 1), (1, 0): their mean points to (2, 1)
    torch.testing.assert_close(regions[0], torch.tensor([[2, 1], [0, math.sqrt(5)], [0, 0]]) / math.sqrt(5))
    all_of_them, _ = embeddings(features, batch, num_classes=3, max_pixels=100)
    assert sorted(all_of_them[0, 0].tolist()) == [[0, 0], [0, 0], [0, 1], [1, 0], [1, 0]]


def test_embedded_pixels_depend_on_the_sample_seed_alone() -> None:
    features, label = maps(1, 2, 4, 9, 9, dtype=torch.float32), torch.zeros(2, 9, 9, dtype=torch.int64)
    batch = batch_of(label)

    def added(batch: Batch, features: Tensor) -> Tensor:
        torch.rand(3)
        return embeddings(features, batch, num_classes=1, max_pixels=4)[0]

    both = added(batch, features)
    second = Batch(batch.image[1:], label[1:], ("b",), batch.seeds[1:])
    assert torch.equal(both[1:], added(second, features[1:]))
    assert not torch.equal(both, added(batch._replace(seeds=batch.seeds + 1), features))


def test_memory_stays_float32_under_autocast() -> None:
    features, batch = maps(1, 2, 8, 9, 9).bfloat16(), batch_of((torch.arange(162) % 3).reshape(2, 9, 9))
    with BF16.autocast():
        found = embeddings(features, batch, num_classes=3, max_pixels=4)
    for one, other in zip(found, embeddings(features.float(), batch, num_classes=3, max_pixels=4), strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other)


# The term with a memory


SMALL = {"pixel_memory": 24, "region_memory": 6, "pixel_keys": 30, "region_keys": 9, "new_pixels": 5}


def a_memory(**options: Any) -> Memory:
    torch.manual_seed(2)
    term = memory.build(
        memory.Options.model_validate(SMALL | options), TermContext(tiny(0), tiny(1, width=10), len(CLASSES))
    )
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


def test_memory_term_weighs_pixels_and_regions_after_the_write() -> None:
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
        for keys in (term.pixels.sample_keys(30, seed), term.regions.sample_keys(9, seed))
    )
    assert value.item() == pytest.approx(0.5 * pixel + 2 * region, rel=1e-4)


def test_memory_term_moves_student_and_projection_only() -> None:
    batch, term = one_batch(2), a_memory()
    student, teacher = features_of(batch)
    term(student, teacher, batch).backward()
    own, target = student.features[-1].grad, teacher.features[-1].grad
    assert own is not None
    assert own.abs().max() > 0
    assert target is None
    assert all(p.grad is not None and p.grad.any() for p in term.parameters())


def test_memory_is_written_in_training_only() -> None:
    batch, term = one_batch(2), a_memory().eval()
    before = copied(term)
    assert term(*features_of(batch), batch) > 0
    assert not differing(before, copied(term))


def test_sampling_does_not_use_the_global_generator() -> None:
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
def test_micro_batch_is_weighted_by_its_share_of_positions(term: Term) -> None:
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
    built = build_terms(tables, TermContext(student, teacher, len(CLASSES)))
    return Stage("student", student, Distillation(0.4, Frozen(teacher), built), optim(steps, **options))


def everything(stage: Stage) -> dict[str, Tensor]:
    return copied(TrainModule(stage.model, stage.objective))


def memories(stage: Stage) -> dict[str, Tensor]:
    return {name: x for name, x in everything(stage).items() if ".pixels." in name or ".regions." in name}


def test_cirkd_resumed_training_is_bit_identical() -> None:
    whole, states = a_stage(4), list[dict[str, Any]]()
    train(whole, scenes(4), lambda report: states.append(deepcopy(report.training.state())))
    again = a_stage(4)
    fit(again, scenes(4, start_step=2), precision=CPU, seed=3, on_step=lambda report: None, resume=states[1])
    assert not differing(everything(whole), everything(again))
    assert len(memories(whole)) == 4


def test_probe_and_nonfinite_step_leave_memories_unchanged() -> None:
    stage, batch, states = a_stage(2), one_batch(4), list[dict[str, Tensor]]()
    before = memories(stage)
    probe(stage, (40, 72), len(CLASSES), 4, CPU)
    assert not differing(before, memories(stage))
    train(stage, iter([batch._replace(image=batch.image / 0), batch]), lambda report: states.append(memories(stage)))
    assert not differing(before, states[0])
    assert len(differing(before, states[1])) == 4
    assert all(x.isfinite().all() for x in states[1].values())


def test_bf16_training_stays_finite_and_reduces_the_cirkd_terms() -> None:
    stage, batch = a_stage(30), one_batch(2, crop=(24, 32))
    reports = train(stage, repeated(batch, 30), precision=BF16)
    assert all(value.isfinite() for report in reports for value in report.terms.values())
    assert all(x.isfinite().all() for x in everything(stage).values())
    for name in TERMS:
        first, last = (float(sum(r.terms[name] for r in part)) for part in (reports[:5], reports[-5:]))
        assert last < 0.8 * first, name


def test_unlabeled_batch_uses_cross_image_and_skips_the_memory() -> None:
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


def test_two_processes_share_bits_and_the_memories_of_one(both: list[dict[str, Tensor]]) -> None:
    assert not differing(*both)
    alone = two_steps()
    kept = [name for name in alone if ".pixels." in name or ".regions." in name]
    assert len(kept) == 4
    for name in kept:
        torch.testing.assert_close(both[0][name], alone[name], rtol=1e-5, atol=1e-6)


# The preset


@pytest.mark.parametrize(("data", "memory_weight"), [("cityscapes", 0.1), ("camvid", 0.1), ("voc", 0.01)])
def test_cirkd_preset_has_the_published_weights(data: str, memory_weight: float) -> None:
    terms = load_preset("cirkd", data=data).terms
    weights = {name: config.weight for name, config in terms.items()}
    assert weights == {"pixel": 1, "cross-image": 1, "memory": memory_weight}
    assert [terms[name].options()["temperature"] for name in terms] == [1, 0.1, 0.1]


def test_cirkd_preset_trains_a_student() -> None:
    config = load_preset("cirkd", data="streets")
    stage = a_stage(2, {name: {"weight": table.weight, **table.options()} for name, table in config.terms.items()})
    reports = train(stage, scenes(2))
    assert all(report.terms[name] > 0 for report in reports for name in config.terms)


def test_memory_writes_match_with_gradient_accumulation() -> None:
    def written(batches: Iterator[Batch], accumulate: int) -> dict[str, Tensor]:
        stage = a_stage(1, accumulate=accumulate)
        train(stage, batches)
        return memories(stage)

    torch.testing.assert_close(written(scenes(1, 4, accumulate=2), 2), written(scenes(1, 4), 1), rtol=1e-5, atol=1e-6)
