"""Every preset's terms let a student learn a handful of images by heart, as a plain student does."""

import pytest
import torch

from helpers.tiny import CLASSES, one_batch, optim, pspnet, repeated, train
from segdistill.config.presets import load_preset, preset_names
from segdistill.config.schema import LabelEmbedding
from segdistill.networks import SegNetwork
from segdistill.teachers.label_assisted import LabeledFrozen, build_teacher
from segdistill.terms import TermContext, build_terms
from segdistill.training.objectives import Distillation, LabelAssisted
from segdistill.types import IGNORE, Batch, Frozen, Objective, Stage

STEPS = 60


def images() -> Batch:
    return one_batch(4, (48, 64))


def learn(network: SegNetwork, objective: Objective) -> None:
    train(Stage("student", network, objective, optim(STEPS, lr=0.05)), repeated(images(), STEPS))


def accuracy(network: SegNetwork) -> float:
    batch = images()
    with torch.no_grad():
        logits = network.eval()(batch.image).logits
    guess = torch.nn.functional.interpolate(logits, batch.label.shape[-2:], mode="bilinear").argmax(1)
    valid = batch.label != IGNORE
    return (guess == batch.label)[valid].double().mean().item()


@pytest.fixture(scope="module")
def teacher() -> SegNetwork:
    network = pspnet(1)
    learn(network, Distillation(0.4))
    assert accuracy(network) > 0.95
    return network


@pytest.fixture(scope="module")
def assisted() -> tuple[SegNetwork, LabelEmbedding]:
    config = load_preset("lad").changed(**{"teacher.network": "pspnet-resnet18-half"}).teacher
    assert config.label_embedding is not None
    torch.manual_seed(1)
    network = build_teacher(config, len(CLASSES))
    learn(network, LabelAssisted(0.4, config.label_embedding, len(CLASSES)))
    return network, config.label_embedding


@pytest.mark.slow
@pytest.mark.parametrize("name", preset_names())
def test_every_preset_overfits_four_images(
    name: str, teacher: SegNetwork, assisted: tuple[SegNetwork, LabelEmbedding]
) -> None:
    config = load_preset(name, data="camvid")
    frozen = Frozen(teacher) if config.teacher.label_embedding is None else LabeledFrozen(*assisted)
    student = pspnet(2)
    terms = build_terms(config.terms, TermContext(student, frozen.network, len(CLASSES)))
    for weighted in terms.values():
        for stage in weighted.term.pretraining_stages(frozen):
            short = Stage(stage.name, stage.model, stage.objective, stage.optim.model_copy(update={"steps": 10}))
            train(short, repeated(images(), 10))
    learn(student, Distillation(config.aux_weight, frozen, terms))
    assert accuracy(student) > 0.9
