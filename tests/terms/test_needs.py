"""What terms say that they need is what they need: on images without labels they are silent, or they are not."""

import pytest
import torch

from helpers.tiny import CLASSES, one_batch, tiny
from segdistill.config.registry import components
from segdistill.config.schema import TermConfig
from segdistill.terms import TermContext, build_terms, term_needs
from segdistill.types import IGNORE


@pytest.mark.parametrize("name", components("terms"))
def test_terms_need_no_labels_unless_they_say_so(name: str) -> None:
    student, teacher = tiny(0), tiny(1, width=10).eval()
    tables = {name: TermConfig(weight=1.0)}
    torch.manual_seed(0)
    (weighted,) = build_terms(tables, TermContext(student, teacher, len(CLASSES))).values()
    batch = one_batch()
    batch = batch._replace(label=torch.full_like(batch.label, IGNORE), valid=torch.ones_like(batch.label).bool())
    output = student(batch.image)
    with torch.no_grad():
        answers = teacher(batch.image)
    value = weighted.term(output, answers, batch)
    parameters = list(student.parameters())
    gradients: tuple[torch.Tensor | None, ...] = (None,)
    if value.requires_grad:
        gradients = torch.autograd.grad(value, parameters, allow_unused=True)
    learns = any(gradient is not None and bool(gradient.any()) for gradient in gradients)
    assert learns is not term_needs(tables)[name].labels


def test_terms_on_feature_maps_are_told_from_those_on_logits() -> None:
    tables = {
        "pixel": TermConfig(weight=1.0),
        "feature": TermConfig(weight=1.0),
        "channel-logits": TermConfig.model_validate({"weight": 1.0, "term": "channel", "on": "logits"}),
        "channel-feature": TermConfig.model_validate({"weight": 1.0, "term": "channel", "on": "features"}),
    }
    assert {name: needs.maps for name, needs in term_needs(tables).items()} == {
        "pixel": False,
        "feature": True,
        "channel-logits": False,
        "channel-feature": True,
    }
