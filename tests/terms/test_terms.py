"""Whatever lies in terms/ keeps one contract; most terms vanish for equal networks."""

from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.term_cases import batch_of, largest, network, noise, outputs, pair
from helpers.tiny import BF16, CLASSES, copied, differing
from segdistill import losses, terms
from segdistill.config.presets import load_preset
from segdistill.config.registry import components, find
from segdistill.config.schema import RunConfig, Strict, TermConfig
from segdistill.errors import ShapeError, UsageError
from segdistill.terms import TermContext, build_terms, cap_stages, check_terms
from segdistill.terms._layers import Layer, LayerOptions, feature_layers, match_layers
from segdistill.training.objectives import Distillation
from segdistill.types import IGNORE, Batch, Frozen, SegOutput, StageSettings, Term

TERMS = components("terms")
VANISHING = (
    *("pairwise", "pixel", "probability", "consistency", "channel", "attention", "variation"),
    *("residual-attention", "channel-correlation", "cross-image", "dist", "boundary"),
)
"""Zero where student and teacher are the same network."""
OF_FEATURES = ("pairwise", "feature", "attention", "variation", "residual-attention", "normalized-feature")
MASKED: dict[str, dict[str, Any]] = {
    "pixel": {},
    "probability": {},
    "consistency": {"on": "logits"},
    "channel": {},
    "channel of features": {"term": "channel", "on": "features"},
    "feature": {},
    "attention": {},
    "variation": {},
    "residual-attention": {},
    "boundary": {"width": 3},
    "dist": {},
    "normalized-feature": {},
    "cross-image": {},
    "cross-image of averages": {"term": "cross-image", "max_positions": 9},
}
"""Terms in which ignored pixels do not count, with options."""
OF_LABELS = ("variation", "boundary")
"""Those that have nothing to compare in an image without a label."""
OVER_THE_BATCH = ("cross-image", "cross-image of averages", "dist")
"""Those that compare positions with all others of a micro-batch: its division matters."""

each = pytest.mark.parametrize("name", TERMS)


def make(name: str, networks: TermContext, **options: Any) -> Term:
    module = import_module(find("terms", name, "term"))
    torch.manual_seed(2)
    term: Term = module.build(module.Options(**options), networks)
    return term.eval()


def masked(name: str) -> tuple[Term, TermContext]:
    networks, options = pair(), dict(MASKED[name])
    return make(options.pop("term", name), networks, **options), networks


def value(term: Term, networks: TermContext, batch: Batch) -> Tensor:
    result: Tensor = term(networks.student(batch.image), networks.teacher(batch.image), batch)
    return result


def relabeled(batch: Batch, label: Tensor) -> Batch:
    return batch._replace(label=label, valid=None)


# The contract


@each
def test_term_is_finite_under_bf16_and_moves_the_student(name: str) -> None:
    networks = pair()
    term = make(name, networks)
    with BF16.autocast():
        result = value(term, networks, batch_of(2))
    assert result.shape == ()
    assert result.dtype == torch.float32
    assert result.isfinite()
    result.backward()
    assert largest(networks.student) > 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in networks.student.parameters())
    assert all(p.grad is None for p in networks.teacher.parameters())
    for own, parameter in term.named_parameters():
        critics = own.startswith("critic.")
        assert (parameter.grad is None) == critics, f"{own}: a critic gets no gradient, an adapter gets one"


@each
def test_equal_images_give_the_term_of_one_of_them(name: str) -> None:
    networks, one = pair(), batch_of(1)
    four = Batch(one.image.repeat(4, 1, 1, 1), one.label.repeat(4, 1, 1), one.names * 4, one.seeds.repeat(4))
    term = make(name, networks)
    with torch.no_grad():
        torch.testing.assert_close(value(term, networks, four), value(term, networks, one), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", VANISHING)
def test_term_of_a_network_with_itself_is_zero(name: str) -> None:
    student = network("pspnet-resnet18-half", 0)
    networks = TermContext(student, student, len(CLASSES))
    with torch.no_grad():
        own = abs(value(make(name, networks), networks, batch_of(2)).item())
        other = value(make(name, pair()), pair(), batch_of(2)).item()
    assert own < 1e-9
    assert other > max(1e-12, 1000 * own)


@each
def test_every_option_has_a_default_and_unknown_ones_are_refused(name: str) -> None:
    check_terms({name: TermConfig(weight=1)})
    with pytest.raises(UsageError, match=rf"\[terms\.{name}\]") as caught:
        check_terms({name: TermConfig.model_validate({"weight": 1, "no_such_key": 3})})
    assert "no_such_key: unknown key" in caught.value.what


@each
def test_a_term_of_weight_zero_is_not_built(name: str) -> None:
    assert build_terms({name: TermConfig(weight=0)}, pair()) == {}
    built = build_terms({name: TermConfig(weight=0.5)}, pair())
    assert (list(built), built[name].weight) == ([name], 0.5)


def test_unknown_terms_are_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match=r"Unknown term 'pairwize'.*\n.*pairwise"):
        check_terms({"pairwize": TermConfig(weight=1)})


def test_a_term_may_be_listed_again_under_a_name_of_its_own() -> None:
    tables = {
        "channel": TermConfig(weight=3),
        "channel-feature": TermConfig.model_validate({"term": "channel", "weight": 50, "on": "features"}),
    }
    check_terms(tables)
    built = build_terms(tables, pair())
    assert {name: weighted.weight for name, weighted in built.items()} == {"channel": 3, "channel-feature": 50}
    assert [len(list(weighted.term.parameters())) for weighted in built.values()] == [0, 1]
    with pytest.raises(UsageError, match=r"\[terms\.channel-feature\]"):
        check_terms({"channel-feature": TermConfig.model_validate({"term": "channel", "weight": 1, "no": 1})})


class Bare(nn.Module):
    """A network that shows nothing but its logits, as a graph made elsewhere may."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, 3, 1, 1))
        self.maps = maps

    def forward(self, image: Tensor) -> SegOutput:
        logits = F.avg_pool2d(image, 8)
        return SegOutput(logits, (logits,) * self.maps, None)


@pytest.mark.parametrize("name", [*OF_FEATURES, "channel-a"])
def test_a_term_of_features_is_refused_for_a_teacher_without_any(name: str) -> None:
    tables = {name: TermConfig.model_validate({"weight": 1})}
    if name == "channel-a":
        tables = {name: TermConfig.model_validate({"term": "channel", "weight": 1, "on": "features"})}
    networks = TermContext(network("pspnet-resnet18-half", 0), Bare(0), len(CLASSES))
    with pytest.raises(UsageError, match=rf"\[terms\.{name}\] Bare has no feature maps") as caught:
        build_terms(tables, networks)
    assert "pixel" in caught.value.fix


def test_residual_attention_requires_the_layers_it_compares() -> None:
    networks = TermContext(Bare(2), Bare(1), 3)
    assert make("residual-attention", networks, layers=1)
    with pytest.raises(UsageError, match=r"2 maps are compared, and map 0 of 0-0 \(3 channels, stride 8\)"):
        make("residual-attention", networks)


def test_probing_feature_channels_leaves_a_network_unchanged() -> None:
    student = network("pspnet-resnet18-half", 0).train()
    before = copied(student)
    maps = feature_layers(student)
    assert [(layer.channels, layer.stride) for layer in maps] == [(32, 4), (64, 8), (128, 8), (256, 8), (64, 8)]
    assert student.training
    assert not differing(before, copied(student))


# Which feature maps are compared


def maps(*strides: int) -> list[Layer]:
    return [Layer(number, len(strides), 8, stride) for number, stride in enumerate(strides)]


@pytest.mark.parametrize(
    ("student", "teacher", "keys", "expected"),
    [
        ((4, 8, 8), (4, 8, 8, 8), {}, (2, 3)),  # the last of both
        ((2, 4, 8, 4, 2), (4, 8, 8), {}, (2, 2)),  # the student's middle, at the stride of the teacher's last
        ((4, 8, 8), (4, 8, 16, 32, 4), {}, (2, 4)),  # the last of both, though the stride of map 1 is nearer
        ((4, 8, 16), (4, 8, 8), {}, (2, 2)),
        ((4, 8, 8), (4, 8, 16, 32), {}, (2, 1)),  # further apart
        ((16, 32), (4, 8), {}, (0, 1)),  # no stride in common: the nearest
        ((4, 8, 8), (4, 8, 16, 32), {"teacher_layer": -1}, (2, 3)),
        ((4, 8, 16), (4, 8, 8), {"student_layer": 0}, (0, 0)),
        ((4, 8, 16), (4, 8, 8), {"student_layer": 0, "teacher_layer": 2}, (0, 2)),
    ],
)
def test_match_layers_pairs_the_last_maps_or_a_common_stride(
    student: tuple[int, ...], teacher: tuple[int, ...], keys: dict[str, int], expected: tuple[int, int]
) -> None:
    found = match_layers(maps(*student), maps(*teacher), LayerOptions(**keys))
    assert (found.student.number, found.teacher.number) == expected


@pytest.mark.parametrize("index", [-4, 3])
def test_missing_feature_map_is_refused_with_the_existing_ones(index: int) -> None:
    with pytest.raises(UsageError, match=f"The teacher has no feature map {index}") as caught:
        match_layers(maps(4), maps(4, 8, 8), LayerOptions(teacher_layer=index))
    assert "2: stride 8" in caught.value.fix


def test_a_distillation_compares_the_maps_that_are_named() -> None:
    networks, batch = pair(), batch_of(2)
    table = {"pairwise": TermConfig.model_validate({"weight": 1, "student_layer": 1, "teacher_layer": 2})}
    objective = Distillation(0.4, Frozen(networks.teacher), build_terms(table, networks))
    step = objective(networks.student, batch)
    assert step.student is not None
    assert step.teacher is not None
    expected = losses.pairwise(step.student.features[1], step.teacher.features[2], 2, "max")
    torch.testing.assert_close(step.terms["pairwise"], expected)


def test_a_term_of_logits_has_no_layers_to_name() -> None:
    with pytest.raises(UsageError, match="student_layer"):
        check_terms({"pixel": TermConfig.model_validate({"weight": 1, "student_layer": 1})})
    with pytest.raises(UsageError, match="here none are compared"):
        check_terms({"channel": TermConfig.model_validate({"weight": 1, "student_layer": 1})})
    check_terms({"channel": TermConfig.model_validate({"weight": 1, "on": "features", "student_layer": 1})})


def test_autoencoder_is_built_for_the_chosen_feature_map() -> None:
    networks, batch = pair(), batch_of(2)
    table = {"affinity": TermConfig.model_validate({"weight": 1, "teacher_layer": 1})}
    term = build_terms(table, networks)["affinity"].term
    stage = next(term.pretraining_stages(Frozen(networks.teacher)))
    assert stage.name == "autoencoder-of-map-1"
    assert stage.model.get_parameter("encoder.0.weight").shape[1] == networks.teacher(batch.image).features[1].shape[1]
    assert all(value.isfinite() for value in stage.objective(stage.model, batch).terms.values())


# The length of what is trained beforehand


def stage_steps(config: RunConfig) -> list[int]:
    """Return the steps of student, teacher and auto-encoders."""
    tables = check_terms(config.terms)
    autoencoders = [tables[name]["autoencoder"]["steps"] for name in ("adaptation", "affinity")]
    return [config.optim.steps, config.teacher_optim().steps, *autoencoders]


def test_cap_shortens_stages_of_terms_and_lengthens_none() -> None:
    config = load_preset("ka", ["terms.affinity.autoencoder.steps=5"], data="streets")
    student, teacher, autoencoder, short = stage_steps(config)
    assert short == 5 < autoencoder < student
    assert stage_steps(cap_stages(config, 9)) == [9, 9, 9, 5]
    assert stage_steps(cap_stages(config, student + teacher)) == [student, teacher, autoencoder, short]
    assert cap_stages(config, None) is config


def test_cap_shortens_a_stage_that_has_the_default_length() -> None:
    config = load_preset("tsl", data="streets")
    table = {"term": "affinity", "weight": 1.0}
    config = config.changed(**{"terms.affinity": table})
    capped = check_terms(cap_stages(config, 9).terms)
    assert check_terms(config.terms)["affinity"]["autoencoder"]["steps"] == 200
    assert capped["affinity"]["autoencoder"] == {"steps": 9, "latent": 0.5, "lr": 0.1}


class Warmup(StageSettings):
    """The settings of a stage."""

    steps: int = 80


class Rhythm(Strict):
    """Something else that is counted in steps."""

    steps: int = 80


class Foreign(Strict):
    """The options of a term that nothing here knows."""

    warmup: Warmup = Warmup()
    rhythm: Rhythm = Rhythm()


def test_cap_knows_a_stage_by_the_type_of_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    def module_and_options(name: str, config: TermConfig) -> tuple[None, Foreign]:
        return None, Foreign.model_validate(config.options())

    monkeypatch.setattr(terms, "_module_and_options", module_and_options)
    table = {"weight": 1.0, "warmup": {"steps": 70}, "rhythm": {"steps": 60}}
    config = load_preset("tsl", data="streets").changed(terms={"pixel": table})
    assert cap_stages(config, 9).terms["pixel"].options() == {"warmup": {"steps": 9}, "rhythm": {"steps": 60}}


# Void and unlabeled images


def disturbed(output: SegOutput, where: Tensor) -> SegOutput:
    """Return an output with other numbers at these positions (B, h, w) of the logits and of features of their size."""

    def disturb(x: Tensor) -> Tensor:
        return x + 5 * noise(*x.shape, seed=9) * where[:, None] if x.shape[-2:] == where.shape[-2:] else x

    return SegOutput(disturb(output.logits), tuple(disturb(x) for x in output.features), None)


@pytest.mark.promise("T5")
@pytest.mark.parametrize("name", MASKED)
def test_ignored_pixels_do_not_count(name: str) -> None:
    (term, networks), batch = masked(name), batch_of(2)
    with torch.no_grad():
        student, teacher = networks.student(batch.image), networks.teacher(batch.image)
        valid = losses.resize_mask(batch.valid_mask(), student.logits.shape[-2:])
        assert 0 < valid.sum() < valid.numel()
        expected = term(student, teacher, batch)
        for where, changes in ((~valid, False), (valid, True)):
            result = term(disturbed(student, where), disturbed(teacher, where), batch)
            assert torch.equal(result, expected) != changes


@each
def test_unlabeled_batch_has_a_finite_value_and_gradient(name: str) -> None:
    networks, batch = pair(), batch_of(2)
    result = value(make(name, networks), networks, relabeled(batch, torch.full_like(batch.label, IGNORE)))
    assert result.isfinite()
    result.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in networks.student.parameters())


@pytest.mark.parametrize("name", [name for name in MASKED if name not in OF_LABELS])
def test_unlabeled_image_counts_as_a_whole(name: str) -> None:
    (term, networks), batch = masked(name), batch_of(2)
    unlabeled = relabeled(batch, torch.full_like(batch.label, IGNORE))
    whole = relabeled(batch, torch.zeros_like(batch.label))
    with torch.no_grad():
        assert value(term, networks, unlabeled) == value(term, networks, whole) != value(term, networks, batch)


@pytest.mark.parametrize("name", OF_LABELS)
def test_images_without_labels_add_nothing(name: str) -> None:
    networks, batch = pair(), batch_of(2)
    term = make(name, networks)
    mixed = relabeled(batch, torch.stack([batch.label[0], torch.full_like(batch.label[1], IGNORE)]))
    first = Batch(batch.image[:1], batch.label[:1], batch.names[:1], batch.seeds[:1])
    none = relabeled(batch, torch.full_like(batch.label, IGNORE))
    with torch.no_grad():
        torch.testing.assert_close(value(term, networks, mixed), value(term, networks, first))
        assert value(term, networks, mixed) > 0
        assert value(term, networks, none) == 0


@pytest.mark.parametrize("name", [name for name in MASKED if name not in OVER_THE_BATCH])
def test_micro_batches_average_to_the_whole_batch(name: str) -> None:
    term, networks = masked(name)
    whole = batch_of(4)  # with more void in one half than in the other
    halves = (slice(0, 2), slice(2, 4))
    parts = tuple(Batch(whole.image[i], whole.label[i], whole.names[i], whole.seeds[i]) for i in halves)
    assert len({int(part.valid_mask().sum()) for part in parts}) == 2
    with torch.no_grad():
        first, second = (value(term, networks, part._replace(parts=parts)) for part in parts)
        torch.testing.assert_close((first + second) / 2, value(term, networks, whole), rtol=1e-4, atol=1e-7)


# The terms between the outputs


LOGITS, FEATURES = (2, 3, 4, 4), (2, 4, 4, 4)


def det(shape: tuple[int, ...], a: int, b: int, m: int) -> Tensor:
    """Return the deterministic tensor behind the values that were computed with published code."""
    n = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return ((n * a + b) % m / m * 4 - 2).reshape(shape)


def student_and_teacher() -> tuple[SegOutput, SegOutput]:
    """Return the outputs whose terms were computed with published code."""
    auxiliary = det(LOGITS, 3, 2, 7), det(LOGITS, 4, 3, 9)
    student = SegOutput(det(LOGITS, 7, 3, 11), (auxiliary[0], det(FEATURES, 7, 3, 11)), None)
    teacher = SegOutput(det(LOGITS, 5, 1, 13), (auxiliary[1], det((2, 6, 4, 4), 5, 1, 13)), None)
    return student, teacher


def labeled(label: Tensor) -> Batch:
    return Batch(torch.zeros(len(label), 3, *label.shape[1:]), label, ("",) * len(label), torch.arange(len(label)))


GOLDEN: dict[str, tuple[str, dict[str, Any], float]] = {
    "SKD's CriterionLS": ("consistency", {"neighbors": "sum", "on": "logits"}, 170.9979036),
    "CWD of logits": ("channel", {}, 1.285786815),
    "CWD at T = 1": ("channel", {"temperature": 1.0}, 1.070266845),
    "CIRKD's AT": ("attention", {}, 0.00541465273522),
    "CIRKD's IFV": ("variation", {}, 0.178205136837),
    "CIRKD's PSD of three maps": ("residual-attention", {}, 0.128774725202),
    "CIRKD's PSD of two maps": ("residual-attention", {"layers": 1}, 0.119578851851),
    "DIST": ("dist", {}, 1.29596441473),
    "DIST, over classes": ("dist", {"gamma": 0.0}, 0.490002936370),
    "CIRKD's CSD": ("channel-correlation", {}, 2.63602295e-06),
}


@pytest.mark.parametrize(("name", "options", "expected"), GOLDEN.values(), ids=GOLDEN.keys())
def test_a_term_has_the_value_of_the_published_code(name: str, options: dict[str, Any], expected: float) -> None:
    batch = labeled((torch.arange(2 * 16 * 16) % 3).reshape(2, 16, 16))
    term = make(name, pair(), **options)
    assert float(term(*student_and_teacher(), batch)) == pytest.approx(expected, rel=2e-6)


def test_features_are_compared_behind_an_adapter_that_is_trained() -> None:
    student, teacher = student_and_teacher()
    batch = labeled(torch.zeros(2, 16, 16, dtype=torch.int64))
    networks = pair()  # of 64 and 128 channels; here 4 and 6 are wanted
    for name, options in (("feature", {}), ("channel", {"on": "features"})):
        term = make(name, networks, **options)
        assert [tuple(p.shape) for p in term.parameters()] == [(128, 64, 1, 1)]
        adapter = nn.Conv2d(4, 6, 1, bias=False, dtype=torch.float64)
        term.adapter = adapter
        adapted, target = adapter(student.features[-1]), teacher.features[-1]
        expected = F.mse_loss(adapted, target) if name == "feature" else losses.channel_kl(adapted, target)
        torch.testing.assert_close(term(student, teacher, batch).double(), expected, rtol=1e-6, atol=0)


def test_normalized_features_have_an_adapter_with_batch_norm() -> None:
    term = make("normalized-feature", pair())
    assert [name for name, _ in term.named_parameters()] == ["adapter.0.weight", "adapter.1.weight", "adapter.1.bias"]
    student, teacher = student_and_teacher()
    adapter = nn.Sequential(nn.Conv2d(4, 6, 1, bias=False), nn.BatchNorm2d(6)).double()
    term.adapter = adapter
    adapted = adapter(student.features[-1])
    unit, target = (F.normalize(x.flatten(1)) for x in (adapted, teacher.features[-1]))
    batch = labeled(torch.zeros(2, 16, 16, dtype=torch.int64))
    expected = (unit - target).square().sum(1).mean()
    torch.testing.assert_close(term(student, teacher, batch).double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("classes", [3, 2])
def test_dist_warns_where_only_two_classes_are_compared(classes: int) -> None:
    networks = pair()
    with_missing = TermContext(networks.student, networks.teacher, len(CLASSES), missing_classes=3 - classes)
    messages = make("dist", with_missing).messages
    assert len(messages) == (classes == 2)
    assert all("2 classes are compared" in message for message in messages)


@pytest.mark.parametrize(
    ("name", "table", "expected"),
    [
        ("boundary", {"width": 6}, "5 or 7"),
        ("boundary", {"width": 1}, "width"),
        ("boundary", {"edge": 0, "body": 0}, "edge and body are both 0"),
        ("dist", {"beta": 0, "gamma": 0}, "beta and gamma are both 0"),
        ("dist", {"temperature": 0}, "temperature"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(name: str, table: dict[str, Any], expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        check_terms({name: TermConfig.model_validate({"weight": 1, **table})})


def test_boundary_weighs_its_parts_over_what_is_valid() -> None:
    student, teacher = student_and_teacher()
    halves = torch.zeros(2, 16, 16, dtype=torch.int64)
    halves[:, :, 8:] = 1
    batch = labeled(halves)
    both, edge, body = (
        float(make("boundary", pair(), width=3, **options)(student, teacher, batch))
        for options in ({"edge": 2.0, "body": 3.0}, {"body": 0.0}, {"edge": 0.0})
    )
    assert both == pytest.approx(2 * edge + 3 * body)
    # without the right half there is no edge
    valid = halves == 0
    seen = float(make("boundary", pair(), width=3)(student, teacher, batch._replace(valid=valid)))
    assert seen == pytest.approx(float(losses.channel_kl(student.logits, teacher.logits, valid=valid)))


def test_consistency_uses_probabilities_unless_logits_are_chosen() -> None:
    student, teacher = student_and_teacher()
    batch, networks = labeled(torch.zeros(2, 16, 16, dtype=torch.int64)), pair()
    expected = losses.consistency(student.logits.softmax(1), teacher.logits.softmax(1))
    torch.testing.assert_close(make("consistency", networks)(student, teacher, batch).double(), expected)


def test_maps_without_an_inner_position_have_no_consistency() -> None:
    maps, batch = outputs(torch.zeros(1, 3, 2, 5)), labeled(torch.zeros(1, 16, 40, dtype=torch.int64))
    with pytest.raises(ShapeError, match="eight neighbors"):
        make("consistency", pair())(maps, maps, batch)


# Pixel-wise


@pytest.mark.promise("T5")
def test_void_pixels_do_not_count_in_the_pixel_term() -> None:
    networks, batch = pair(), batch_of(2)
    term = make("pixel", networks)
    student, teacher = networks.student(batch.image), networks.teacher(batch.image)
    height, width = student.logits.shape[-2:]
    valid = losses.resize_mask(batch.label != IGNORE, (height, width))
    assert 0 < valid.sum() < valid.numel()
    log_p, log_q = (output.logits.log_softmax(1) for output in (student, teacher))
    divergence = (log_q.exp() * (log_q - log_p)).sum(1)[valid].mean()
    torch.testing.assert_close(term(student, teacher, batch), divergence)
