"""A Distiller is the trainer's objective for any two networks: same losses, same critic, same adapters."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import segmentation

import segdistill
from helpers.tiny import CLASSES, CPU, copied, differing, distillation, one_batch, optim, tiny
from segdistill import Distiller, SegOutput
from segdistill.config.registry import components
from segdistill.errors import ShapeError, UsageError
from segdistill.networks import SegNetwork
from segdistill.training.engine import apply_gradients, backward, to_device
from segdistill.training.state import Training
from segdistill.types import IGNORE, Batch, Stage

EVERY_TERM: dict[str, float | dict[str, Any]] = {
    "adaptation": {"weight": 50.0, "autoencoder": {"steps": 2}},
    "affinity": {"weight": 1.0, "autoencoder": {"steps": 2}},
    "attention": 1000.0,
    "boundary": 1.0,
    "channel": 3.0,
    "channel-correlation": 5.0,
    "consistency": 0.1,
    "cross-image": 0.1,
    "dist": 1.0,
    "feature": 10.0,
    "holistic": 0.001,
    "memory": {"weight": 0.1, "pixel_memory": 20, "region_memory": 4, "pixel_keys": 8, "region_keys": 4},
    "normalized-feature": 1.0,
    "pairwise": 10.0,
    "pixel": 10.0,
    "probability": 1.0,
    "residual-attention": 1000.0,
    "variation": 1.0,
}
NAMES = ("cross_entropy", "aux")
"""Terms that every loss has, of a student with an auxiliary head."""


def on_batch(kd: Distiller, batch: Batch) -> Tensor:
    loss: Tensor = kd(batch.image, batch.label, seeds=batch.seeds)
    return loss


def critic_of(kd: Distiller) -> nn.Module:
    assert kd.objective.critic is not None
    return kd.objective.critic


def distiller(terms: dict[str, Any], **options: Any) -> Distiller:
    student, teacher = tiny(0), tiny(1, width=10)
    torch.manual_seed(7)
    return Distiller(student, teacher, terms, **options)


# ---- the same as the trainer ---------------------------------------------------------------------------------------


def test_distiller_step_equals_that_of_the_trainer() -> None:
    batch = to_device(one_batch(4), CPU.device)
    weights = {"pixel": 10.0, "pairwise": 10.0, "feature": 5.0, "holistic": 0.1}
    student = tiny(0)
    training = Training(Stage("student", student, distillation(student, tiny(1, width=10), weights), optim(1)), CPU)
    training.train_module.train()
    step = training.stage.objective(student, batch)
    parts = backward(training, step, batch)

    kd = distiller(weights).train()
    kd.to(memory_format=torch.channels_last)  # as the trainer has it: other kernels round otherwise
    loss = on_batch(kd, batch)
    loss.backward()
    assert torch.equal(loss, torch.stack(list(step.terms.values())).sum())
    for mine, theirs in zip(kd.parameters(), training.parameters, strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        assert torch.equal(mine.grad, theirs.grad)

    apply_gradients(training)
    critic_loss = kd.critic_step()
    assert critic_loss is not None
    assert torch.equal(critic_loss, parts["critic"])
    assert kd.last_terms.keys() == parts.keys()
    assert all(torch.equal(kd.last_terms[name], parts[name]) for name in parts)
    assert training.critic is not None
    assert not differing(critic_of(kd).state_dict(), training.critic.state_dict())


def test_distiller_loss_is_the_sum_of_its_terms() -> None:
    kd, batch = (
        distiller({"pixel": 2.0, "channel-a": {"term": "channel", "weight": 3.0, "temperature": 2.0}}),
        one_batch(2),
    )
    loss = on_batch(kd, batch)
    assert list(kd.last_terms) == [*NAMES, "pixel", "channel-a"]
    assert loss.item() == pytest.approx(sum(value.item() for value in kd.last_terms.values()))
    other = distiller({"pixel": 4.0, "channel-a": {"term": "channel", "weight": 3.0}})
    on_batch(other, batch)
    assert torch.equal(other.last_terms["pixel"], 2 * kd.last_terms["pixel"])
    assert not torch.equal(other.last_terms["channel-a"], kd.last_terms["channel-a"])


def test_every_term_is_tested_with_the_distiller() -> None:
    assert components("terms") == sorted(EVERY_TERM)


@pytest.mark.parametrize("name", EVERY_TERM)
def test_each_term_trains_a_student(name: str) -> None:
    batch = one_batch(2)
    kd = distiller({name: EVERY_TERM[name]}).train()
    kd.pretrain([batch.image])
    optimizer = torch.optim.SGD(kd.parameters(), lr=1e-3)
    before = [parameter.clone() for parameter in kd.parameters()]
    for _ in range(2):
        loss = on_batch(kd, batch)
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None or "classifier" in name for name, parameter in kd.named_parameters())
        optimizer.step()
        kd.critic_step()
        assert loss.isfinite()
        assert kd.last_terms[name].item() != 0
    assert not all(torch.equal(one, other) for one, other in zip(before, kd.parameters(), strict=True))


def test_all_terms_together_train_a_student() -> None:
    batch = one_batch(2)
    kd = distiller(EVERY_TERM).train()
    kd.pretrain([batch.image])
    loss = on_batch(kd, batch)
    loss.backward()
    assert kd.last_terms.keys() == {*NAMES, *EVERY_TERM}
    assert loss.item() == pytest.approx(sum(value.item() for value in kd.last_terms.values()))
    # The critic has a gradient of its own, in its own step.
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in kd.parameters())


@pytest.mark.parametrize("name", ["dist", "normalized-feature", "boundary"])
def test_a_batch_of_void_alone_gives_these_terms_nothing(name: str) -> None:
    batch = one_batch(2)
    kd = distiller({name: 1.0}).train()
    nothing = torch.zeros_like(batch.label, dtype=torch.bool)
    loss = kd(batch.image, torch.full_like(batch.label, IGNORE), valid=nothing)
    loss.backward()
    assert kd.last_terms[name].item() == 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in kd.parameters())


# ---- what is trained, and what is not ------------------------------------------------------------------------------


def test_distiller_parameters_are_student_and_adapters() -> None:
    kd = distiller({"feature": 1.0, "holistic": 0.1})
    names = {name for name, _ in kd.named_parameters()}
    adapter = {name for name in names if name.startswith("objective.terms.feature.adapter.")}
    assert names == adapter | {f"student.{name}" for name, _ in tiny(0).named_parameters()}
    assert adapter
    assert len(list(kd.parameters())) == len(names)


def test_distiller_leaves_the_teacher_unchanged() -> None:
    teacher = tiny(1, width=10)
    before = copied(teacher)
    kd = Distiller(tiny(0), teacher, {"pixel": 1.0}).train()
    on_batch(kd, one_batch(2)).backward()
    assert not teacher.training
    assert not differing(teacher.state_dict(), before)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_modules_kept_in_eval_mode_stay_in_it() -> None:
    student = tiny(0).train()
    student.first.eval()
    Distiller(student, tiny(1), {"pixel": 1.0, "feature": 1.0})
    assert [student.training, student.first.training, student.second.training] == [True, False, True]


def test_critic_takes_one_step_per_loss() -> None:
    kd, batch = distiller({"holistic": 0.1}).train(), one_batch(2)
    with pytest.raises(UsageError, match="no loss of a batch"):
        kd.critic_step()
    on_batch(kd, batch).backward()
    before = copied(critic_of(kd))
    assert kd.critic_step() is not None
    assert differing(critic_of(kd).state_dict(), before)
    with pytest.raises(UsageError, match="no loss of a batch"):
        kd.critic_step()
    assert distiller({"pixel": 1.0}).critic_step() is None


def test_critic_with_a_nonfinite_gradient_is_unchanged() -> None:
    kd, batch = distiller({"holistic": {"weight": 0.1, "loss": "hinge"}}).train(), one_batch(2)
    on_batch(kd, batch).backward()
    assert kd._last is not None
    step = kd._last.step
    assert step.teacher is not None
    damaged = step.teacher._replace(logits=step.teacher.logits * torch.nan)
    kd._last = kd._last._replace(step=step._replace(teacher=damaged))
    before = [parameter.clone() for parameter in critic_of(kd).parameters()]
    kd.critic_step()
    assert all(torch.equal(one, other) for one, other in zip(critic_of(kd).parameters(), before, strict=True))


# ---- labels --------------------------------------------------------------------------------------------------------


def test_ignore_index_may_be_another_number() -> None:
    batch = one_batch(2)
    assert (batch.label == IGNORE).any()
    expected = on_batch(distiller({"pixel": 1.0}), batch)
    label = batch.label.masked_fill(batch.label == IGNORE, -1)
    assert torch.equal(distiller({"pixel": 1.0}, ignore_index=-1)(batch.image, label), expected)


def test_unlabeled_images_are_compared_as_a_whole() -> None:
    kd, batch = distiller({"pixel": 1.0}), one_batch(2)
    kd(batch.image)
    assert kd.last_terms["cross_entropy"] == 0
    whole = kd.last_terms["pixel"]
    kd(batch.image, batch.label, valid=torch.ones_like(batch.label, dtype=torch.bool))
    assert torch.equal(kd.last_terms["pixel"], whole)
    on_batch(kd, batch)
    assert not torch.equal(kd.last_terms["pixel"], whole)


def test_seeds_are_drawn_from_torch_s_generator() -> None:
    losses = []
    for seed in (1, 1, 2):
        kd, batch = distiller({"holistic": 0.1}).train(), one_batch(2)
        torch.manual_seed(seed)
        kd(batch.image, batch.label).backward()
        loss = kd.critic_step()
        assert loss is not None
        losses.append(loss.item())
    assert losses[0] == losses[1] != losses[2]


# ---- networks of others --------------------------------------------------------------------------------------------


class Plain(nn.Module):
    """A network that returns what it is told to, of images in 0..1."""

    def __init__(self, channels: int, kind: str = "tensor", classes: int = len(CLASSES)) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, channels, 3, stride=4, padding=1)
        self.head = nn.Conv2d(channels, classes, 1)
        self.kind = kind

    def forward(self, image: Tensor) -> Any:
        logits = self.head(self.body(image))
        returned = {"tensor": logits, "out": {"out": logits}, "logits": {"logits": logits}, "tuple": (logits,)}
        return returned[self.kind]


def maps(model: nn.Module, image: Tensor) -> SegOutput:
    assert isinstance(model, Plain)
    features = model.body(image)
    return SegOutput(model.head(features), (features,), None)


@pytest.mark.parametrize("kind", ["tensor", "out", "logits"])
def test_networks_may_return_logits_dicts_or_objects(kind: str) -> None:
    batch = one_batch(2)
    torch.manual_seed(0)
    student, teacher = Plain(4, kind), Plain(6)
    kd = Distiller(student, teacher, {"pixel": 1.0})
    loss = kd(batch.image / 255, batch.label)
    own, target = student.head(student.body(batch.image / 255)), teacher(batch.image / 255)
    expected = segdistill.losses.cross_entropy(own, batch.label)
    expected = expected + segdistill.losses.pixel_kl(own, target, valid=batch.label != IGNORE)
    torch.testing.assert_close(loss, expected)


def test_feature_maps_function_reads_foreign_networks_only() -> None:
    batch = one_batch(2)
    kd = Distiller(Plain(4), tiny(1), {"feature": 1.0}, feature_maps=maps)
    on_batch(kd, batch)
    assert kd.objective.terms.get_parameter("feature.adapter.weight").shape == (12, 4, 1, 1)


def test_example_input_shows_what_networks_take() -> None:
    student, teacher = (Plain(channels) for channels in (4, 6))
    for model in (student, teacher):
        model.body = nn.Conv2d(5, model.body.out_channels, 3, stride=4, padding=1)
    kd = Distiller(student, teacher, {"feature": 1.0}, feature_maps=maps, example=torch.zeros(1, 5, 32, 48))
    label = torch.zeros(2, 32, 48, dtype=torch.long)
    assert kd(torch.rand(2, 5, 32, 48), label).isfinite()


def test_to_pixels_gives_the_critic_its_images() -> None:
    batch = one_batch(2)
    with pytest.raises(UsageError, match=r"values of .* to 1, expected: RGB in 0..255") as raised:
        Distiller(Plain(4), Plain(6), {"holistic": 0.1})(batch.image / 255, batch.label)
    assert "to_pixels" in raised.value.fix
    seen: list[Tensor] = []
    kd = Distiller(Plain(4), Plain(6), {"holistic": 0.1}, to_pixels=lambda image: 255 * image)
    critic_of(kd).register_forward_pre_hook(lambda critic, args: seen.append(args[0][:, :3]))
    kd(batch.image / 255, batch.label).backward()
    kd.critic_step()
    assert len(seen) >= 2  # in the student's loss and in the critic's
    assert all(-1 <= images.min() < 0 < images.max() <= 1 for images in seen)


def test_torchvision_teaches_torchvision() -> None:
    def read(model: nn.Module, image: Tensor) -> SegOutput:
        stages: dict[str, Tensor] = model.get_submodule("backbone")(image)
        logits = model.get_submodule("classifier")(stages if "low" in stages else stages["out"])
        return SegOutput(logits, tuple(stages.values()), None)

    torch.manual_seed(0)
    student, teacher = (
        segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3) for _ in range(2)
    )
    kd = Distiller(student, teacher, {"feature": 1.0, "pixel": 1.0, "variation": 1.0}, feature_maps=read).train()
    batch = one_batch(2)
    on_batch(kd, batch).backward()
    assert all(parameter.grad is not None for parameter in kd.parameters())


# ---- what is refused -----------------------------------------------------------------------------------------------


def refusals() -> Iterator[tuple[Any, str]]:
    yield lambda: distiller({"pixle": 1.0}), "Unknown term 'pixle'"
    yield lambda: distiller({"pixel": -1.0}), r"weight"
    yield lambda: distiller({"pixel": {"weight": 1, "temprature": 2}}), "temprature: unknown key"
    yield lambda: Distiller(Plain(4), Plain(6), {"feature": 1.0}), "Plain has no feature maps"
    yield lambda: Distiller(Plain(4), Plain(6, classes=9), {"pixel": 1.0}), "3 classes and the teacher 9"
    yield lambda: Distiller(Plain(4, "tuple"), Plain(6), {"pixel": 1.0}), "Plain returns a tuple"
    yield lambda: distiller({"holistic": 1.0, "holistic-b": {"weight": 1, "term": "holistic"}}), "each train a critic"
    yield lambda: distiller({"adaptation": 1.0})(one_batch(2).image), "Pretraining of adaptation has not run"
    yield lambda: distiller({"adaptation": 1.0}).pretrain([]), "the images have come to their end"
    yield lambda: Distiller(Plain(4), Plain(6), {"pixel": 1.0}, feature_maps=lambda m, x: m(x)), "feature_maps returns"


@pytest.mark.parametrize(("build", "message"), list(refusals()))
def test_impossible_distillers_are_refused(build: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build()


def test_network_cannot_teach_itself() -> None:
    network = tiny(0)
    with pytest.raises(UsageError, match="one network"):
        Distiller(network, network, {"pixel": 1.0})


def test_label_assisted_teacher_is_refused() -> None:
    from segdistill.config.schema import NetworkConfig
    from segdistill.networks import build_network

    teacher: SegNetwork = build_network(NetworkConfig(network="espnet"), 3, in_channels=4)
    with pytest.raises(UsageError, match="label-assisted"):
        Distiller(tiny(0), teacher, {"pixel": 1.0})


def test_labels_of_other_images_are_refused() -> None:
    batch = one_batch(2)
    with pytest.raises(ShapeError, match=r"\(2, 3, 48, 64\) and the label \(1, 48, 64\)"):
        distiller({"pixel": 1.0})(batch.image, batch.label[:1])


# ---- pretraining ---------------------------------------------------------------------------------------------------


def test_pretraining_changes_only_what_it_trains() -> None:
    batch = one_batch(2)
    kd = distiller({"adaptation": EVERY_TERM["adaptation"]}).train()
    before = copied(kd)
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    kd.pretrain([(batch.image, batch.label)])
    assert torch.equal(torch.rand(3), expected)
    assert not differing(kd.state_dict(), before)
    assert kd.messages == ()
    twin = distiller({"adaptation": EVERY_TERM["adaptation"]}).train()
    twin.pretrain([(batch.image, batch.label)])
    assert torch.equal(on_batch(kd, batch), on_batch(twin, batch))


def test_too_short_pretraining_data_is_reported() -> None:
    kd = distiller({"adaptation": {"weight": 1.0, "autoencoder": {"steps": 3}}})
    with pytest.raises(UsageError, match="come to their end"):
        kd.pretrain(one_batch(2).image for _ in range(2))
