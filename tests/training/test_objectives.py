"""A distillation is cross entropy, the auxiliary head's share of it, and each term times its weight."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.tiny import SKD, distillation, one_batch, plain, tiny
from segdistill import losses
from segdistill.config.schema import InputConfig
from segdistill.errors import UsageError
from segdistill.terms import Weighted
from segdistill.terms.holistic import Holistic, Options
from segdistill.training.objectives import Distillation
from segdistill.types import IGNORE, Frozen, SegOutput


def test_each_term_is_its_loss_times_its_weight() -> None:
    student, teacher, batch = tiny(0), tiny(1, width=10), one_batch(2)
    objective = distillation(student, teacher, {"pixel": 3.0, "pairwise": 0.5, "holistic": 0.0}, aux_weight=0.25)
    terms = objective(student, batch).terms
    own: SegOutput = student(batch.image)
    target: SegOutput = teacher(batch.image)
    assert own.aux is not None
    valid = losses.resize_mask(batch.label != IGNORE, (12, 16))
    expected = {
        "cross_entropy": losses.cross_entropy(own.logits, batch.label),
        "aux": 0.25 * losses.cross_entropy(own.aux, batch.label),
        "pixel": 3 * losses.pixel_kl(own.logits, target.logits, valid=valid),
        "pairwise": 0.5 * losses.pairwise(own.features[-1], target.features[-1], 2),
    }
    assert list(terms) == list(expected)
    torch.testing.assert_close(terms, expected)


def test_bgr_teacher_teaches_like_the_equal_rgb_teacher() -> None:
    student, straight, turned, batch = tiny(0), tiny(1, width=10), tiny(1, width=10), one_batch(2)
    with torch.no_grad():
        weight = turned.get_parameter("first.0.weight")
        weight.copy_(weight.flip(1) * 255)
    turned.set_preprocessing(InputConfig(order="bgr", divide=255), align_corners=False)
    terms = [distillation(student, teacher, {"pixel": 3.0})(student, batch).terms for teacher in (straight, turned)]
    torch.testing.assert_close(terms[0], terms[1])
    unturned = distillation(student, tiny(1, width=10), {"pixel": 3.0})(student, batch).terms["pixel"]
    student.set_preprocessing(InputConfig(order="bgr"), align_corners=False)
    assert not torch.isclose(distillation(student, turned, {"pixel": 3.0})(student, batch).terms["pixel"], unturned)


def test_cross_entropy_follows_align_corners_of_the_network() -> None:
    student, batch = tiny(0), one_batch(2)
    student.set_preprocessing(InputConfig(), align_corners=True)
    full = F.interpolate(student(batch.image).logits, (48, 64), mode="bilinear", align_corners=True)
    found = plain(student)(student, batch).terms["cross_entropy"]
    torch.testing.assert_close(found, F.cross_entropy(full, batch.label, ignore_index=IGNORE))
    student.set_preprocessing(InputConfig(), align_corners=False)
    assert not torch.isclose(found, plain(student)(student, batch).terms["cross_entropy"], rtol=1e-4)


def test_objective_without_terms_keeps_no_teacher() -> None:
    student, batch = tiny(0), one_batch(2)
    step = Distillation(0.4, Frozen(tiny(1)), {})(student, batch)
    assert step.teacher is None
    assert list(step.terms) == ["cross_entropy", "aux"]
    torch.testing.assert_close(step.terms, plain(student)(student, batch).terms)
    assert not list(Distillation(0.4, Frozen(tiny(1)), {}).parameters())


def test_auxiliary_head_of_weight_zero_gets_a_zero_gradient() -> None:
    student = tiny(0)
    terms = plain(student, aux_weight=0)(student, one_batch(2)).terms
    assert terms["aux"] == 0
    sum(terms.values()).backward()
    gradient = student.get_parameter("auxiliary.weight").grad
    assert gradient is not None
    assert not gradient.any()


def test_in_evaluation_there_is_no_auxiliary_term() -> None:
    student = tiny(0).eval()
    assert list(plain(student)(student, one_batch(2)).terms) == ["cross_entropy"]


def test_the_critic_is_that_of_the_one_term_that_has_one() -> None:
    student = tiny(0)
    objective = distillation(student, tiny(1), SKD)
    term = objective.terms["holistic"]
    assert isinstance(term, Holistic)
    assert objective.critic is term.critic
    assert objective.critic_optim is term.critic_optim
    names = [name for name, _ in objective.named_parameters() if "critic" in name]
    assert len(names) == len(set(names)) == len(list(nn.Module.parameters(term)))
    without = distillation(student, tiny(1), {"pixel": 1.0})
    assert (without.critic, without.critic_optim) == (None, None)


def test_two_terms_with_a_critic_are_refused() -> None:
    terms = {name: Weighted(1.0, Holistic(3, Options())) for name in ("holistic", "another")}
    with pytest.raises(UsageError, match="holistic and another each train a critic"):
        Distillation(0.4, Frozen(tiny(0)), terms)
