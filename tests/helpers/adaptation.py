"""Trainings with the terms of knowledge adaptation."""

import torch

from helpers.tiny import CLASSES
from segdistill.config.schema import TermConfig
from segdistill.networks import SegNetwork
from segdistill.terms import TermContext, build_terms
from segdistill.terms._autoencoder import LatentTerm
from segdistill.training.objectives import Distillation
from segdistill.types import Frozen

KA = {"adaptation": 50.0, "affinity": 1.0}


def ka(
    student: SegNetwork, teacher: SegNetwork, weights: dict[str, float] = KA, **steps: int
) -> tuple[Distillation, list[LatentTerm]]:
    """Return the objective with the weighted terms, whose auto-encoders train for 3 steps or as `steps` has it."""
    tables = {
        name: TermConfig.model_validate({"weight": weight, "autoencoder": {"steps": steps.get(name, 3)}})
        for name, weight in weights.items()
    }
    torch.manual_seed(7)
    built = build_terms(tables, TermContext(student, teacher, len(CLASSES)))
    terms = [weighted.term for weighted in built.values() if isinstance(weighted.term, LatentTerm)]
    return Distillation(0.4, Frozen(teacher), built), terms
