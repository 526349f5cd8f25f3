"""A label-assisted teacher sees each class as a code; its student never sees a label."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from helpers.label_assistance import CODES, assisted
from helpers.model_files import INFO
from helpers.tiny import BF16, CLASSES, StillNorm, copied, differing, one_batch, optim, scenes, tiny, train
from segdistill import losses
from segdistill.checkpoints.model_file import load_model, read_info, save_model
from segdistill.config.presets import load_preset
from segdistill.config.schema import InputConfig, LabelEmbedding, TeacherConfig
from segdistill.errors import UsageError
from segdistill.evaluation.evaluate import evaluate
from segdistill.networks import InferenceWrapper, SegNetwork
from segdistill.teachers.label_assisted import LabeledFrozen, build_teacher, check_kind, with_labels
from segdistill.teachers.label_embedding import PATHS, fixed_embedding, with_fixed_embedding, with_random_embedding
from segdistill.teachers.teacher import Teacher
from segdistill.terms import Weighted
from segdistill.terms.channel import Channel
from segdistill.terms.pixel import Pixel
from segdistill.training.objectives import Distillation, LabelAssisted
from segdistill.types import IGNORE, Batch, Frozen, SegOutput, Stage

STILL = LabelEmbedding(noise=0, training_noise=0)


def labeled(label: Tensor, seed: int = 0) -> Batch:
    """Return black images with these labels (B, H, W)."""
    image = torch.zeros(len(label), 3, *label.shape[-2:])
    return Batch(image, label, ("black",) * len(label), torch.arange(len(label)) + seed)


def some_labels(num_classes: int, images: int = 2, size: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(num_classes + 1, (images, size, size), generator=generator)
    return label.masked_fill(label == num_classes, IGNORE)


# Codes


def test_embeddings_of_21_classes_are_the_published_ones() -> None:
    label = torch.tensor([[[0, 1, 20], [IGNORE, 5, 11]]])
    channel = with_fixed_embedding(labeled(label), LabelEmbedding(scale=100), 21, noisy=False)[:, 3]
    torch.testing.assert_close(channel, torch.tensor([[[-110.0, -100, 90], [100, -60, 0]]]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("num_classes", [1, 2, 11, 19, 150, 171])
def test_fixed_embeddings_are_evenly_spaced_for_any_class_count(num_classes: int) -> None:
    codes = fixed_embedding(num_classes)
    assert len(codes) == num_classes + 1
    assert codes[0].item() == pytest.approx(-1.1)
    assert codes[-1] < 1.1
    torch.testing.assert_close(codes.diff(), torch.full((num_classes,), 2.2 / (num_classes + 1)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("path", PATHS)
def test_random_embedding_is_constant_per_class_and_image(path: int) -> None:
    label = some_labels(4)
    channel = with_random_embedding(labeled(label), STILL, 4, path)[:, 3]
    codes = [channel[i][label[i] == k].unique() for i in range(2) for k in (*range(4), IGNORE)]
    assert all(len(code) == 1 for code in codes)
    assert len(torch.cat(codes).unique()) == 10  # neither two classes nor two images have the same one


def test_random_embeddings_are_redrawn_per_path_and_seed() -> None:
    label = some_labels(4)
    one, *others = (
        with_random_embedding(labeled(label, seed), CODES, 4, path)
        for seed, path in ((5, PATHS[0]), (5, PATHS[1]), (50, PATHS[0]))
    )
    assert torch.equal(one, with_random_embedding(labeled(label, 5), CODES, 4, PATHS[0]))
    for other in others:
        assert not torch.isclose(one[:, 3], other[:, 3]).any(dim=0).any()
        correlation = torch.corrcoef(torch.stack([_noise(one, label), _noise(other, label)]))[0, 1]
        assert abs(correlation) < 0.05  # 8192 pixels: four and a half deviations of independent noise


def _noise(image: Tensor, label: Tensor) -> Tensor:
    """Return what is left of the label channel without its mean over each class of each image."""
    channel = image[:, 3].clone()
    for i in range(len(label)):
        for k in label[i].unique():
            channel[i][label[i] == k] -= channel[i][label[i] == k].mean()
    return channel.flatten()


def test_random_embeddings_have_mean_0_and_the_scaled_std() -> None:
    label = torch.arange(100).view(1, 10, 10).expand(200, -1, -1)
    channel = with_random_embedding(labeled(label), STILL, 100, PATHS[0])[:, 3]
    assert channel.mean().item() == pytest.approx(0, abs=0.05)  # four deviations of the mean of 20000
    assert channel.std().item() == pytest.approx(1.75, rel=0.02)


def test_label_embedding_noise_ignores_batch_and_torch_seed() -> None:
    batch = one_batch(4)
    alone = Batch(batch.image[2:3], batch.label[2:3], batch.names[2:3], batch.seeds[2:3])
    torch.manual_seed(1)
    together = with_random_embedding(batch, CODES, 3, PATHS[1]), with_fixed_embedding(batch, CODES, 3, noisy=True)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.rand(1) == after
    assert torch.equal(with_random_embedding(alone, CODES, 3, PATHS[1]), together[0][2:3])
    assert torch.equal(with_fixed_embedding(alone, CODES, 3, noisy=True), together[1][2:3])


@pytest.mark.parametrize(
    ("num_classes", "teaching", "training"), [(21, 0.02, 0.03), (171, 0.2 * 2.2 / 172, 0.3 * 2.2 / 172)]
)
def test_embedding_noise_is_published_for_21_classes_and_scales(
    num_classes: int, teaching: float, training: float
) -> None:
    label = some_labels(num_classes)
    still = with_fixed_embedding(labeled(label), CODES, num_classes, noisy=False)
    noise = (with_fixed_embedding(labeled(label), CODES, num_classes, noisy=True) - still)[:, 3] / 1.75
    assert noise.std().item() == pytest.approx(teaching, rel=0.04)  # 8192 pixels: five deviations
    random = (with_random_embedding(labeled(label), options, num_classes, PATHS[0]) for options in (CODES, STILL))
    assert (next(random) - next(random))[:, 3].std().item() / 1.75 == pytest.approx(training, rel=0.04)


def test_classes_171_stay_distinct_despite_noise_and_bfloat16() -> None:
    label = some_labels(171)
    codes = CODES.scale * fixed_embedding(171)
    assert len(codes.bfloat16().unique()) == 172
    channel = with_fixed_embedding(labeled(label), CODES, 171, noisy=True)[:, 3]
    nearest = (channel.unsqueeze(-1) - codes).abs().argmin(-1)
    # half a distance is 2.5 deviations: 98.8 % of normal numbers are nearer
    assert (nearest == label.masked_fill(label == IGNORE, 171)).float().mean() > 0.98


def test_an_image_without_label_is_void_throughout() -> None:
    label = torch.full((1, 4, 6), IGNORE)
    channel = with_fixed_embedding(labeled(label), CODES, 11, noisy=False)[:, 3]
    assert torch.equal(channel, torch.full((1, 4, 6), CODES.scale * fixed_embedding(11)[-1].item()))


def test_labels_of_another_size_are_sampled_not_mixed() -> None:
    label = some_labels(3, images=1, size=12)
    batch = labeled(label)._replace(image=torch.zeros(1, 3, 5, 7))
    (found,) = with_labels([batch], CODES, 3)
    rows, columns = ([i * 12 // n for i in range(n)] for n in (5, 7))
    expected = with_fixed_embedding(labeled(label), CODES, 3, noisy=False)[:, 3:][:, :, rows][..., columns]
    assert torch.equal(found.image[:, 3:], expected)
    assert torch.equal(found.label, label)


def test_label_embedding_leaves_the_image_channels_unchanged() -> None:
    batch = one_batch(2)
    for image in (with_random_embedding(batch, CODES, 3, PATHS[0]), with_fixed_embedding(batch, CODES, 3, noisy=True)):
        assert torch.equal(image[:, :3], batch.image)


# The teacher's training


def written_out(logits: Tensor, fixed: Tensor, label: Tensor) -> Tensor:
    """Channel-wise divergence at temperature 4, softmax over labeled positions: mean over images and channels."""
    values = []
    for own, target, labels in zip(logits, fixed, label[:, ::4, ::4], strict=True):
        log_p, log_q = ((x[:, labels != IGNORE] / 4).log_softmax(1) for x in (own, target))
        values.append(16 * (log_q.exp() * (log_q - log_p)).sum(1).mean())
    return torch.stack(values).mean()


def test_label_assisted_loss_sums_both_paths_and_consistency() -> None:
    network, batch = assisted(0), one_batch(2)
    terms = LabelAssisted(0.4, CODES, 3)(network, batch).terms
    one, other = (network(with_random_embedding(batch, CODES, 3, path)) for path in PATHS)
    a, b = one.logits, other.logits
    expected = {
        "cross_entropy": sum(losses.cross_entropy(path.logits, batch.label) for path in (one, other)),
        "aux": 0.4 * sum(losses.cross_entropy(path.aux, batch.label) for path in (one, other)),
        "consistency": 5 * (written_out(a, b, batch.label) + written_out(b, a, batch.label)),
    }
    torch.testing.assert_close(terms, expected)
    assert terms["consistency"] > 1e-3


def test_consistency_treats_the_other_path_as_constant() -> None:
    network, batch = assisted(0).double(), one_batch(2)
    batch = batch._replace(image=batch.image.double())

    def gradient(loss: Tensor) -> Tensor:
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(network.first.parameters()))])

    found = gradient(LabelAssisted(0.4, CODES, 3)(network, batch).terms["consistency"])
    a, b = (network(with_random_embedding(batch, CODES, 3, path)).logits for path in PATHS)
    fixed = written_out(a, b.detach(), batch.label) + written_out(b, a.detach(), batch.label)
    torch.testing.assert_close(found, gradient(5 * fixed))
    assert found.abs().max() > 1e-4


def test_teacher_micro_batches_equal_one_large_batch() -> None:
    weights = []
    for accumulate in (1, 2):
        network = assisted(0)
        stage = Stage("teacher", network, LabelAssisted(0.4, CODES, 3), optim(2, accumulate=accumulate))
        reports = train(stage, scenes(2, accumulate=accumulate))
        assert list(reports[0].terms) == ["cross_entropy", "aux", "consistency"]
        weights.append(network.state_dict())
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-5)
    assert differing(weights[0], assisted(0).state_dict())


def test_label_assisted_terms_are_finite_in_bfloat16() -> None:
    network = assisted(0)
    with BF16.autocast():
        terms = LabelAssisted(0.4, CODES, 3)(network, one_batch(2)).terms
    sum(terms.values()).backward()
    assert all(value.isfinite() for value in terms.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_unlabeled_batches_cost_consistency_alone() -> None:
    batch = one_batch(2)
    terms = LabelAssisted(0.4, CODES, 3)(assisted(0), batch._replace(label=torch.full_like(batch.label, IGNORE))).terms
    assert (terms["cross_entropy"], terms["aux"]) == (0, 0)
    assert terms["consistency"].isfinite()


# The teacher in use


def test_student_of_a_label_assisted_teacher_sees_no_label() -> None:
    student, batch = tiny(1), one_batch(2)
    objective = Distillation(0.02, LabeledFrozen(assisted(0), CODES), {"pixel": Weighted(1.0, Pixel(1.0))})
    turned = batch._replace(label=torch.where(batch.label == IGNORE, IGNORE, (batch.label + 1) % 3))
    one, other = (objective(student, each) for each in (batch, turned))
    assert one.student is not None
    assert other.student is not None
    assert one.teacher is not None
    assert other.teacher is not None
    assert torch.equal(one.student.logits, other.student.logits)
    assert not torch.allclose(one.teacher.logits, other.teacher.logits)
    assert student.state_dict()["first.0.weight"].shape[1] == 3


@pytest.mark.parametrize("micro", [False, True], ids=["one batch", "two micro-batches"])
def test_unlabeled_images_teach_nothing_under_label_assistance(micro: bool) -> None:
    student, batch = tiny(1, norm=StillNorm), one_batch(2)
    batch.label[1] = IGNORE
    valid = batch.label != IGNORE
    valid[1] = True  # as images without labels come, padding aside
    batch = batch._replace(valid=valid)
    first, second = (
        Batch(batch.image[i : i + 1], batch.label[i : i + 1], batch.names[i : i + 1], batch.seeds[i : i + 1])
        for i in range(2)
    )
    terms = {"pixel": Weighted(1.0, Pixel(1.0)), "channel": Weighted(1.0, Channel(4.0))}
    objective = Distillation(0.02, LabeledFrozen(assisted(0), CODES), terms)
    alone = objective(student, first).terms
    batches = [part._replace(parts=(first, second)) for part in (first, second)] if micro else [batch]
    found = [objective(student, each).terms for each in batches]
    for name, images in (("pixel", 1), ("channel", 2)):  # means over the positions that count, and over images
        total = torch.stack([each[name] for each in found]).mean()
        torch.testing.assert_close(total, alone[name] / images)
        assert total > 0
    plain = Distillation(0.02, Frozen(tiny(0)), terms)(student, second).terms
    assert plain["pixel"] > 0


def test_label_assisted_teacher_is_frozen_in_student_training() -> None:
    teacher = assisted(0)
    before = copied(teacher)
    objective = Distillation(0.02, LabeledFrozen(teacher, CODES), {"pixel": Weighted(1.0, Pixel(1.0))})
    train(Stage("student", tiny(1), objective, optim(2)), scenes(2))
    assert not differing(before, teacher.state_dict())
    assert not any(module.training for module in teacher.modules())
    step = objective(tiny(1), one_batch(2))
    assert step.teacher is not None
    assert not step.teacher.logits.requires_grad


def test_teaching_noise_follows_the_sample_seeds() -> None:
    network, batch = assisted(0), one_batch(2)
    teacher, still = LabeledFrozen(network, CODES), LabeledFrozen(network, STILL)
    again = batch._replace(seeds=batch.seeds + 1)
    assert torch.equal(teacher(batch).logits, teacher(batch).logits)
    assert not torch.equal(teacher(batch).logits, teacher(again).logits)
    assert torch.equal(still(batch).logits, still(again).logits)


def test_each_kind_of_teacher_is_frozen_as_its_file_says() -> None:
    assert type(Teacher(tiny(0), INFO).frozen()) is Frozen
    teacher = Teacher(assisted(0), INFO.model_copy(update={"label_embedding": STILL})).frozen()
    assert isinstance(teacher, LabeledFrozen)
    assert teacher.options == STILL


def test_label_assisted_teacher_is_scored_with_labels() -> None:
    network, batch = assisted(0).eval(), one_batch(2)
    scores = evaluate(InferenceWrapper(network), with_labels([batch], CODES, 3), 3)
    logits = InferenceWrapper(network)(with_fixed_embedding(batch, CODES, 3, noisy=False))
    valid = batch.label != IGNORE
    right = (logits.argmax(1) == batch.label)[valid].float().mean().item()
    assert scores.pixel_accuracy == pytest.approx(right)


# Networks, files and presets


def lad_teacher(**options: object) -> TeacherConfig:
    return TeacherConfig.model_validate({"network": "pspnet-resnet18", "label_embedding": {}} | options)


def built(config: TeacherConfig, seed: int = 0) -> SegNetwork:
    torch.manual_seed(seed)
    return build_teacher(config, len(CLASSES))


def first_weights(network: SegNetwork) -> Tensor:
    return network.get_parameter("backbone.conv1.weight").detach()


def test_fourth_channel_is_initialized_with_the_configured_std() -> None:
    weight = first_weights(built(lad_teacher()))
    assert weight.shape[1] == 4
    # 64 * 49 draws each: 5 % are four deviations of their deviation; Kaiming, fan out: 2 / (64 * 49)
    assert weight[:, 3].std().item() == pytest.approx(0.1, rel=0.05)
    for channel in range(3):
        assert weight[:, channel].std().item() == pytest.approx((2 / (64 * 49)) ** 0.5, rel=0.05)
    wider = first_weights(built(lad_teacher(label_embedding={"init": 0.5})))
    torch.testing.assert_close(wider[:, 3], 5 * weight[:, 3])
    assert torch.equal(weight, first_weights(built(lad_teacher())))
    assert not torch.isclose(weight, first_weights(built(lad_teacher(), seed=1)))[:, 3].all()
    assert first_weights(built(lad_teacher(label_embedding=None))).shape[1] == 3


def test_a_label_assisted_teacher_comes_back_from_its_file(tmp_path: Path) -> None:
    network = built(lad_teacher(network="pspnet-resnet18-half")).eval()
    info = INFO.model_copy(update={"role": "teacher", "teacher": None, "label_embedding": LabelEmbedding(scale=2.5)})
    save_model(tmp_path / "model.safetensors", network, info)
    again, found = load_model(tmp_path / "model.safetensors")
    assert found.label_assisted
    assert found.label_embedding == LabelEmbedding(scale=2.5)
    assert not differing(network.state_dict(), again.state_dict())
    assert again.mean.flatten().tolist() == [1.5, 2.5, 3.5, 0]
    assert again.std.flatten()[:3].tolist() == [50, 60, 70]
    assert again.std.flatten()[3].item() == pytest.approx(60 / 57.63, rel=1e-4)


def test_header_without_label_embedding_is_a_plain_model(tmp_path: Path) -> None:
    header = json.loads(INFO.model_dump_json())
    del header["label_embedding"]
    file = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(1)}, file, {"segdistill": json.dumps(header)})
    assert read_info(file) == INFO
    assert not INFO.label_assisted


@pytest.mark.parametrize(
    "images",
    [InputConfig(), InputConfig(std=(1, 1, 1)), InputConfig(std=(0.5, 0.5, 0.5), divide=255), InputConfig(order="bgr")],
)
def test_label_channel_std_follows_any_image_normalization(images: InputConfig) -> None:
    seen: list[Tensor] = []

    class Looks(SegNetwork):
        def segment(self, image: Tensor) -> SegOutput:
            seen.append(image)
            return SegOutput(image, (), None)

    network = Looks(11, 4)
    network.set_preprocessing(images, align_corners=False)
    batch = labeled(some_labels(11))
    batch = batch._replace(image=torch.rand(batch.image.shape) * 255)
    network(with_fixed_embedding(batch, CODES, 11, noisy=False))
    image, label = seen[0][:, :3].std(), seen[0][:, 3].std()
    assert label / image == pytest.approx(0.9, abs=0.1)
    channel = with_fixed_embedding(batch, CODES, 11, noisy=False)[:, 3]
    factor = {1.0: 57.63, 0.5: 57.63 / 127.5}.get(images.std[0], 1.0)  # of the authors' 100 beside gray levels: 1.75
    assert torch.allclose(seen[0][:, 3], channel * factor, rtol=1e-4)


def test_teacher_of_the_wrong_kind_is_refused_with_advice() -> None:
    plain = load_preset("skd")
    lad = plain.changed(**{"preset": "lad", "teacher.label_embedding": {}})
    seeing = INFO.model_copy(update={"preset": "mine", "label_embedding": CODES})
    check_kind(INFO, plain)
    check_kind(seeing, lad)
    with pytest.raises(UsageError, match=r"This teacher is plain.*Preset lad has label-assisted") as caught:
        check_kind(INFO, lad)
    assert "train-teacher --preset lad" in caught.value.fix
    with pytest.raises(UsageError, match=r"This teacher is label-assisted.*Preset skd has plain") as caught:
        check_kind(seeing, plain)
    assert "it was trained with, mine" in caught.value.fix


def test_lad_preset_teacher_is_the_student_network() -> None:
    config = load_preset("lad")
    assert config.teacher.network == config.student.network
    assert (config.teacher_aux_weight(), config.aux_weight) == (0.4, 0.02)
    assert config.teacher.label_embedding == CODES
    assert load_preset("skd").teacher_aux_weight() == 0.4
    assert load_preset("skd").teacher.label_embedding is None


def test_misspelled_label_embedding_key_gets_a_suggestion() -> None:
    with pytest.raises(UsageError, match=r"teacher\.label_embedding\.scal: unknown key\. Did you mean scale\?"):
        load_preset("skd", ["teacher.label_embedding.scal=1"])
