"""Every loss by hand, against a slow obvious version, against published code's values, and by its properties."""

import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from segdistill import losses
from segdistill.errors import ShapeError
from segdistill.types import IGNORE

Array = NDArray[np.float64]
Loss = Callable[[Tensor, Tensor], Tensor]

LABEL = (torch.arange(2 * 10 * 14) * 5 % 23 % 4).reshape(2, 10, 14)
LABEL[LABEL == 3] = IGNORE
NOTHING = torch.full_like(LABEL, IGNORE)


def residual(student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
    """Compare how the attention of all channels differs from that of the first alone."""
    return losses.residual_attention(student, student[:, :1], teacher, teacher[:, :1], valid)


MASKABLE: dict[str, Callable[..., Tensor]] = {
    "pixel_kl": losses.pixel_kl,
    "pixel_l2": losses.pixel_l2,
    "consistency": losses.consistency,
    "channel_kl": losses.channel_kl,
    "feature_l2": losses.feature_l2,
    "adaptation": losses.adaptation,
    "attention_transfer": losses.attention_transfer,
    "residual_attention": residual,
}


def masked(valid: Tensor) -> dict[str, Loss]:
    return {f"{name}, masked": partial(loss, valid=valid) for name, loss in MASKABLE.items()}


def labelled(label: Tensor) -> dict[str, Loss]:
    """Return the losses that compare maps of 5 x 7 where this label counts."""
    valid = losses.at_size(label != IGNORE, (5, 7))
    return masked(valid) | {
        "intra_class_variation": partial(losses.intra_class_variation, label=label, num_classes=3),
    }


SAME_CHANNELS: dict[str, Loss] = {
    "pixel_kl": losses.pixel_kl,
    "pixel_kl at T = 4": partial(losses.pixel_kl, temperature=4.0),
    "pixel_l2": losses.pixel_l2,
    "consistency": losses.consistency,
    "consistency, summed": partial(losses.consistency, neighbours="sum"),
    "adaptation": losses.adaptation,
    "adaptation, p = 1, per element": partial(losses.adaptation, p=1, per_element=True),
    "adaptation, q = 1": partial(losses.adaptation, q=1),
    "channel_kl": losses.channel_kl,
    "channel_correlation": losses.channel_correlation,
    "feature_l2": losses.feature_l2,
}
RELATIONS: dict[str, Loss] = {
    "pairwise": losses.pairwise,
    "pairwise of maxima": partial(losses.pairwise, pool=2),
    "pairwise of averages": partial(losses.pairwise, pool=(2, 3), kind="avg"),
    "affinity": losses.affinity,
    "attention_transfer": losses.attention_transfer,
    "residual_attention": residual,
}
UNLABELLED = SAME_CHANNELS | RELATIONS
ALL = UNLABELLED | labelled(LABEL)


def over(named: dict[str, Loss]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("loss", named.values(), ids=named.keys())


each = over(ALL)


def det(shape: tuple[int, ...], a: int, b: int, m: int) -> Tensor:
    """Return the deterministic tensor behind the values that were computed with published code."""
    n = torch.arange(math.prod(shape), dtype=torch.float64)
    return ((n * a + b) % m / m * 4 - 2).reshape(shape)


S, T = det((2, 3, 4, 4), 7, 3, 11), det((2, 3, 4, 4), 5, 1, 13)  # logits
FS, FT = det((2, 4, 4, 4), 7, 3, 11), det((2, 6, 4, 4), 5, 1, 13)  # features
AS, AT = det((2, 3, 4, 4), 3, 2, 7), det((2, 3, 4, 4), 4, 3, 9)  # auxiliary logits
LABEL_16 = (torch.arange(2 * 16 * 16) % 3).reshape(2, 16, 16)


def maps(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def pair(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Return maps of odd size: a student that wants a gradient, and a teacher."""
    return maps(1, 2, 3, 5, 7, dtype=dtype).requires_grad_(), maps(2, 2, 3, 5, 7, dtype=dtype)


def gradient(value: Tensor, of: Tensor) -> Tensor:
    (result,) = torch.autograd.grad(value, of)
    return result


# ---- values worked out by hand -------------------------------------------------------------------------------------


def pixels(*vectors: tuple[float, ...]) -> Tensor:
    """Return one image, one row high, whose pixels are these vectors: (1, D, 1, N)."""
    return torch.tensor(vectors, dtype=torch.float64).T[None, :, None]


QUARTER = (0.0, math.log(3))  # probabilities 1/4 and 3/4
HALF = (0.0, 0.0)

BY_HAND: dict[str, tuple[Callable[[], Tensor], float]] = {
    "cross entropy of 1/4 and 3/4, the third pixel ignored": (
        lambda: losses.cross_entropy(pixels(QUARTER, QUARTER, HALF), torch.tensor([[[0, 1, IGNORE]]])),
        (math.log(4) + math.log(4 / 3)) / 2,
    ),
    "kl of 1/2 against 1/4": (lambda: losses.pixel_kl(pixels(QUARTER), pixels(HALF)), math.log(4 / 3) / 2),
    "kl at T = 2 of doubled logits": (
        lambda: losses.pixel_kl(2 * pixels(QUARTER), pixels(HALF), temperature=2),
        4 * math.log(4 / 3) / 2,
    ),
    "kl of one pixel in two": (
        lambda: losses.pixel_kl(pixels(QUARTER, (9, 0)), pixels(HALF, (0, 9)), valid=torch.tensor([[[True, False]]])),
        math.log(4 / 3) / 2,
    ),
    "l2 of 1/2 against 1/4": (lambda: losses.pixel_l2(pixels(QUARTER), pixels(HALF)), 2 / 16),
    "l2 of one pixel in two": (
        lambda: losses.pixel_l2(pixels(QUARTER, (9, 0)), pixels(HALF, (0, 9)), torch.tensor([[[True, False]]])),
        2 / 16,
    ),
    "consistency of a spike: C = 1": (lambda: losses.consistency(spike(), torch.zeros(1, 1, 3, 3)), 1),
    "consistency of a spike: C = 8": (lambda: losses.consistency(spike(), torch.zeros(1, 1, 3, 3), "sum"), 64),
    "pairwise of a right angle against none": (
        lambda: losses.pairwise(pixels((1, 0), (0, 2)), pixels((1, 1, 0), (3, 3, 0))),
        2 / 4,
    ),
    "affinity of a right angle against none": (
        lambda: losses.affinity(pixels((1, 0), (0, 2)), pixels((1, 1, 0), (3, 3, 0))),
        (1 / 2) + (1 / 2),
    ),
    "adaptation of a right angle": (lambda: losses.adaptation(pixels((5, 0)), pixels((0, 2))), math.sqrt(2)),
    "adaptation, p = 1": (lambda: losses.adaptation(pixels((5, 0)), pixels((0, 2)), p=1), 2),
    "adaptation per element": (lambda: losses.adaptation(pixels((5, 0)), pixels((0, 2)), p=1, per_element=True), 1),
    "adaptation, q = 1": (lambda: losses.adaptation(pixels((1, 3)), pixels((1, 1)), p=1, q=1), 1 / 4 + 1 / 4),
    "adaptation of one pixel in two": (
        lambda: losses.adaptation(
            pixels((5, 0), (1, 0)), pixels((0, 2), (3, 4)), valid=torch.tensor([[[True, False]]])
        ),
        math.sqrt(2),
    ),
    "channel kl at T = 4": (
        lambda: losses.channel_kl(4 * pixels((0,), (math.log(3),)), pixels((0,), (0,))),
        16 * math.log(4 / 3) / 2,
    ),
    "attention on one pixel against the other": (
        lambda: losses.attention_transfer(pixels((-3, 1), (0, 0)), pixels((0,), (2,))),
        (1 + 1) / 2,
    ),
    "a right angle inside a class against none, the third pixel ignored": (
        lambda: losses.intra_class_variation(
            pixels((1, 0), (0, 1), (7, 9)), pixels((2, 0), (3, 0), (0, 5)), torch.tensor([[[1, 1, IGNORE]]]), 2
        ),
        (1 - math.sqrt(1 / 2)) ** 2,
    ),
    "attention on one pixel against half of two, the third pixel ignored": (
        lambda: losses.attention_transfer(
            pixels((1,), (0,), (5,)), pixels((3,), (3,), (0,)), torch.tensor([[[True, True, False]]])
        ),
        ((1 - math.sqrt(1 / 2)) ** 2 + 1 / 2) / 3,
    ),
    # the student's attention moves from the first pixel to the second, the teacher's does not move
    "residual attention against none": (
        lambda: losses.residual_attention(
            pixels((1,), (0,)), pixels((0,), (4,)), pixels((1, 0), (0, 0)), pixels((2,), (0,))
        ),
        (1 / 2 + 1 / 2) / 2,
    ),
    # two classes: the student's lie on both pixels by halves, the teacher's by 1/4 and 3/4 and the other way round
    "correlation of halves against quarters": (
        lambda: losses.channel_correlation(
            pixels((0, 0), (0, 0)), pixels((0, math.log(3)), (math.log(3), 0)), temperature=1, pool=1
        ),
        (2 * (1 / 2 - 10 / 16) ** 2 + 2 * (1 / 2 - 6 / 16) ** 2) / 4,
    ),
    "channel kl, the third pixel ignored": (
        lambda: losses.channel_kl(
            pixels((0,), (math.log(3),), (9,)),
            pixels((0,), (0,), (-9,)),
            temperature=1,
            valid=torch.tensor([[[True, True, False]]]),
        ),
        math.log(4 / 3) / 2,
    ),
    "consistency where one of two spikes is void": (
        lambda: losses.consistency(
            torch.cat([spike(), 3 * spike()], dim=3), torch.zeros(1, 1, 3, 6), valid=torch.arange(18).view(1, 3, 6) != 5
        ),
        # the spikes stand at columns 1 and 4; around column 4 lies the void, columns 2 and 3 see one spike each
        (1 + (1 / 8) ** 2 + (9 / 8) ** 2) / 3,
    ),
    "features one and two apart": (lambda: losses.feature_l2(pixels((1, 0)), pixels((0, 2))), (1 + 4) / 2),
    "features of one pixel in two": (
        lambda: losses.feature_l2(pixels((1, 0), (9, 9)), pixels((0, 2), (0, 0)), torch.tensor([[[True, False]]])),
        (1 + 4) / 2,
    ),
    "the Wasserstein critic": (
        lambda: losses.wasserstein_critic(torch.tensor([2.0, 4.0]), torch.tensor([-1.0, 0.0])),
        -0.5 - 3,
    ),
    "the hinge critic": (
        lambda: losses.hinge_critic(torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 1.0])),
        (0 + 0.5) / 2 + (0 + 2) / 2,
    ),
}


def spike() -> Tensor:
    return F.pad(torch.ones(1, 1, 1, 1), (1, 1, 1, 1))


@pytest.mark.promise("T6")
@pytest.mark.parametrize(("compute", "expected"), BY_HAND.values(), ids=BY_HAND.keys())
def test_the_value_is_the_one_worked_out_by_hand(compute: Callable[[], Tensor], expected: float) -> None:
    assert compute().item() == pytest.approx(expected, rel=1e-6)


# ---- values computed with published code ---------------------------------------------------------------------------


def residual_of_three(s: Tensor, t: Tensor, fs: Tensor, ft: Tensor) -> Tensor:
    pairs = itertools.combinations(((AS.to(s), AT.to(t)), (fs, ft), (s, t)), 2)
    return torch.stack([losses.residual_attention(a[0], b[0], a[1], b[1]) for a, b in pairs]).mean()


PUBLISHED: dict[str, tuple[Callable[[Tensor, Tensor, Tensor, Tensor], Tensor], float]] = {
    "KL(t || s), mean over pixels": (lambda s, t, fs, ft: losses.pixel_kl(s, t), 0.462924918),
    "KL(s || t), mean over pixels": (lambda s, t, fs, ft: losses.pixel_kl(t, s), 0.483110883),
    "CIRKD, pixels at T = 4": (lambda s, t, fs, ft: losses.pixel_kl(s, t, 4.0), 0.608641706),
    "SKD, CriterionLS": (lambda s, t, fs, ft: losses.consistency(s, t, "sum"), 170.9979036),
    "SKD, pairs, half the size": (lambda s, t, fs, ft: losses.pairwise(fs, ft, 2), 0.003671636805),
    "SKD, pairs without pooling": (lambda s, t, fs, ft: losses.pairwise(fs, ft), 0.3293377161),
    "SKD, pairs of averages": (lambda s, t, fs, ft: losses.pairwise(fs, ft, (2, 2), "avg"), 0.1190586239),
    "KA, adaptation p1 q2": (lambda s, t, fs, ft: losses.adaptation(fs, ft[:, :4], 1, 2), 2.120380932),
    "KA, adaptation p2 q2": (lambda s, t, fs, ft: losses.adaptation(fs, ft[:, :4]), 1.163170402),
    "KA, affinity": (lambda s, t, fs, ft: losses.affinity(fs, ft), 2.247591411),
    "KA, affinity, mean of squares": (lambda s, t, fs, ft: losses.pairwise(fs, ft) / 16**2, 0.001286475525),
    "CWD at T = 4": (lambda s, t, fs, ft: losses.channel_kl(s, t), 1.285786815),
    "LAD, both directions": (lambda s, t, fs, ft: losses.channel_kl(s, t) + losses.channel_kl(t, s), 2.565209103),
    "CWD at T = 1": (lambda s, t, fs, ft: losses.channel_kl(s, t, 1.0), 1.070266845),
    "CIRKD, AT": (lambda s, t, fs, ft: losses.attention_transfer(fs, ft), 0.00541465273522),
    "CIRKD, PSD of two maps": (lambda s, t, fs, ft: losses.residual_attention(fs, s, ft, t), 0.119578851851),
    "CIRKD, PSD of three maps": (lambda s, t, fs, ft: residual_of_three(s, t, fs, ft), 0.128774725202),
    "CIRKD, CSD": (lambda s, t, fs, ft: losses.channel_correlation(s, t), 2.63602295e-06),
    "CIRKD, IFV": (lambda s, t, fs, ft: losses.intra_class_variation(fs, ft, LABEL_16, 3), 0.178205136837),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("compute", "expected"), PUBLISHED.values(), ids=PUBLISHED.keys())
def test_the_value_is_the_one_of_the_published_code(
    compute: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor], expected: float, dtype: torch.dtype
) -> None:
    value = compute(*(x.to(dtype) for x in (S, T, FS, FT))).item()
    assert value == pytest.approx(expected, rel=2e-6, abs=2e-11)  # float32 rounds CSD's products of 1e-1 to 1e-8


def test_cross_entropy_with_soft_targets_has_the_gradient_of_our_kl() -> None:
    student = S.clone().requires_grad_()
    soft = -(T.softmax(1) * student.log_softmax(1)).sum(1).mean()  # the authors' loss; 2.595605495 summed over 2 images
    assert 2 * soft.item() == pytest.approx(2.595605495, rel=2e-6)
    torch.testing.assert_close(gradient(losses.pixel_kl(student, T), student), gradient(soft, student))


# ---- slow versions -------------------------------------------------------------------------------------------------


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max())
    return np.asarray(e / e.sum())


def cosine(a: Array, b: Array) -> float:
    return float(a @ b / math.sqrt((a @ a) * (b @ b)))


def positions(x: Array) -> Iterator[tuple[int, int, int]]:
    return itertools.product(range(x.shape[0]), range(x.shape[2]), range(x.shape[3]))


def slow_pixel_kl(s: Array, t: Array, temperature: float) -> float:
    values = []
    for b, i, j in positions(s):
        p, q = softmax(t[b, :, i, j] / temperature), softmax(s[b, :, i, j] / temperature)
        values.append(sum(p[c] * math.log(p[c] / q[c]) for c in range(len(p))))
    return float(np.mean(values)) * temperature**2


def slow_pixel_l2(s: Array, t: Array) -> float:
    return float(np.mean([((softmax(s[b, :, i, j]) - softmax(t[b, :, i, j])) ** 2).sum() for b, i, j in positions(s)]))


def slow_consistency(s: Array, t: Array) -> float:
    def contrast(x: Array, b: int, i: int, j: int) -> float:
        window = itertools.product((i - 1, i, i + 1), (j - 1, j, j + 1))
        return sum(float(((x[b, :, i, j] - x[b, :, k, n]) ** 2).sum()) for k, n in window if (k, n) != (i, j)) / 8

    inner = [(b, i, j) for b, i, j in positions(s) if 0 < i < s.shape[2] - 1 and 0 < j < s.shape[3] - 1]
    return float(np.mean([(contrast(s, *at) - contrast(t, *at)) ** 2 for at in inner]))


def slow_cosines(x: Array, b: int) -> Array:
    vectors = x[b].reshape(x.shape[1], -1).T
    return np.array([[cosine(u, v) for v in vectors] for u in vectors])


def slow_pool(x: Array, kernel: tuple[int, int], reduce: Callable[[Array], float]) -> Array:
    (kh, kw), (h, w) = kernel, x.shape[2:]
    corners = [[(i, j) for j in range(0, w, kw)] for i in range(0, h, kh)]
    pooled = [
        [[[reduce(channel[i : i + kh, j : j + kw]) for i, j in row] for row in corners] for channel in image]
        for image in x
    ]
    return np.array(pooled)


def slow_pairwise(s: Array, t: Array) -> float:
    return float(np.mean([(slow_cosines(s, b) - slow_cosines(t, b)) ** 2 for b in range(len(s))]))


def slow_affinity(s: Array, t: Array) -> float:
    difference = [(slow_cosines(s, b) - slow_cosines(t, b)) / (s.shape[2] * s.shape[3]) for b in range(len(s))]
    return float(np.mean([sum(math.sqrt((row**2).sum()) for row in matrix) for matrix in difference]))


def slow_adaptation(s: Array, t: Array, p: float, q: float) -> float:
    def norm(v: Array, p: float) -> float:
        return float((np.abs(v) ** p).sum() ** (1 / p))

    vectors = [(s[b, :, i, j], t[b, :, i, j]) for b, i, j in positions(s)]
    return float(np.mean([norm(u / norm(u, q) - v / norm(v, q), p) for u, v in vectors]))


def slow_channel_kl(s: Array, t: Array, temperature: float) -> float:
    total = 0.0
    for b, c in np.ndindex(s.shape[:2]):
        p, q = softmax(t[b, c] / temperature).ravel(), softmax(s[b, c] / temperature).ravel()
        total += float(sum(p[i] * math.log(p[i] / q[i]) for i in range(len(p))))
    return total / s[:, :, 0, 0].size * temperature**2


def unit(x: Array) -> Array:
    return np.asarray(x / math.sqrt((x**2).sum()))


def slow_attention(image: Array) -> Array:
    return unit((image**2).mean(axis=0))


def slow_attention_transfer(s: Array, t: Array) -> float:
    return float(np.mean([(slow_attention(s[b]) - slow_attention(t[b])) ** 2 for b in range(len(s))]))


def slow_residual_attention(s: Array, t: Array) -> float:
    def change(image: Array) -> Array:
        return unit(slow_attention(image[:1]) - slow_attention(image))

    return float(np.mean([(change(s[b]) - change(t[b])) ** 2 for b in range(len(s))]))


def slow_channel_correlation(s: Array, t: Array) -> float:
    def products(image: Array) -> Array:
        maps = [softmax(channel / 4).ravel() for channel in image]
        return np.array([[sum(p[i] * q[i] for i in range(len(p))) for q in maps] for p in maps])

    s, t = (slow_pool(x, (2, 2), np.mean) for x in (s, t))
    return float(np.mean([(products(s[b]) - products(t[b])) ** 2 for b in range(len(s))]))


def slow_intra_class_variation(s: Array, t: Array) -> float:
    ids = LABEL[:, ::2, ::2].numpy()  # the pixel nearest to each position of a map half the size, as PyTorch counts

    def similarity(x: Array, b: int, i: int, j: int) -> float:
        return cosine(x[b, :, i, j], x[b][:, ids[b] == ids[b, i, j]].mean(axis=1))

    valid = [(b, i, j) for b, i, j in positions(s) if ids[b, i, j] != IGNORE]
    return float(np.mean([(similarity(s, *at) - similarity(t, *at)) ** 2 for at in valid]))


SLOW: dict[str, tuple[Loss, Callable[[Array, Array], float]]] = {
    "pixel_kl": (losses.pixel_kl, partial(slow_pixel_kl, temperature=1)),
    "pixel_kl at T = 3": (partial(losses.pixel_kl, temperature=3), partial(slow_pixel_kl, temperature=3)),
    "pixel_l2": (losses.pixel_l2, slow_pixel_l2),
    "consistency": (losses.consistency, slow_consistency),
    "pairwise": (losses.pairwise, slow_pairwise),
    "pairwise of maxima": (
        partial(losses.pairwise, pool=2),
        lambda s, t: slow_pairwise(*(slow_pool(x, (2, 2), np.max) for x in (s, t))),
    ),
    "pairwise of averages": (
        partial(losses.pairwise, pool=(2, 3), kind="avg"),
        lambda s, t: slow_pairwise(*(slow_pool(x, (2, 3), np.mean) for x in (s, t))),
    ),
    "affinity": (losses.affinity, slow_affinity),
    "adaptation": (losses.adaptation, partial(slow_adaptation, p=2, q=2)),
    "adaptation, p = 1, q = 3": (partial(losses.adaptation, p=1, q=3), partial(slow_adaptation, p=1, q=3)),
    "channel_kl": (losses.channel_kl, partial(slow_channel_kl, temperature=4)),
    "attention_transfer": (losses.attention_transfer, slow_attention_transfer),
    "residual_attention": (residual, slow_residual_attention),
    "channel_correlation": (losses.channel_correlation, slow_channel_correlation),
    "feature_l2": (
        losses.feature_l2,
        lambda s, t: float(np.mean([(s[at] - t[at]) ** 2 for at in np.ndindex(s.shape)])),
    ),
    "intra_class_variation": (ALL["intra_class_variation"], slow_intra_class_variation),
}


@pytest.mark.promise("T6")
@pytest.mark.parametrize(("loss", "slow"), SLOW.values(), ids=SLOW.keys())
def test_a_slow_version_in_loops_agrees(loss: Loss, slow: Callable[[Array, Array], float]) -> None:
    student, teacher = pair()
    assert loss(student, teacher).item() == pytest.approx(slow(student.detach().numpy(), teacher.numpy()), rel=1e-10)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("size", [(5, 7), (9, 6), (3, 3)])
def test_cross_entropy_is_that_of_the_resized_logits_pixel_by_pixel(size: tuple[int, int], aligned: bool) -> None:
    logits, label = maps(3, 2, 3, *size), LABEL
    resized = F.interpolate(logits, size=label.shape[1:], mode="bilinear", align_corners=aligned).numpy()
    valid = [at for at in positions(resized) if label[at] != IGNORE]
    expected = np.mean([-math.log(softmax(resized[b, :, i, j])[label[b, i, j]]) for b, i, j in valid])
    assert losses.cross_entropy(logits, label, align_corners=aligned).item() == pytest.approx(expected, rel=1e-10)


# ---- properties ----------------------------------------------------------------------------------------------------


@pytest.mark.promise("T5")
@each
def test_equal_maps_cost_nothing_and_move_nothing(loss: Loss) -> None:
    student, _ = pair(torch.float32)
    value = loss(student, student)  # the teacher's side is detached, even where it is the same tensor
    assert value.item() == 0
    assert not gradient(value, student).any()


@each
def test_different_maps_cost_something(loss: Loss) -> None:
    assert loss(*pair()).item() > 1e-7


@each
def test_the_gradient_is_that_of_finite_differences(loss: Loss) -> None:
    student, teacher = pair()
    scale = loss(
        student, teacher
    ).detach()  # gradcheck takes differences below 1e-5 for none, and some losses are small
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher) / scale, student)


def test_the_gradient_of_cross_entropy_is_that_of_finite_differences() -> None:
    assert torch.autograd.gradcheck(lambda s: losses.cross_entropy(s, LABEL), pair()[0])


@each
def test_the_teacher_gets_no_gradient(loss: Loss) -> None:
    student, teacher = pair()
    value = loss(student, teacher.requires_grad_())
    of_student, of_teacher = torch.autograd.grad(value, [student, teacher], allow_unused=True)
    assert of_student.any()
    assert of_teacher is None


@pytest.mark.promise("T5")
@each
@pytest.mark.parametrize("size", [(3, 4), (10, 13)])
def test_a_teacher_of_another_size_is_resized_to_the_student(loss: Loss, size: tuple[int, int]) -> None:
    student, teacher = maps(1, 2, 3, 5, 7), maps(2, 2, 3, *size)
    resized = F.interpolate(teacher, size=(5, 7), mode="bilinear", align_corners=False)
    assert torch.equal(loss(student, teacher), loss(student, resized))


@over(UNLABELLED)
def test_a_batch_costs_the_mean_of_its_images(loss: Loss) -> None:
    student, teacher = pair()
    first, second = (loss(student[i : i + 1], teacher[i : i + 1]) for i in range(2))
    torch.testing.assert_close(loss(student, teacher), (first + second) / 2)


@over(RELATIONS | {"intra_class_variation": ALL["intra_class_variation"]})
@pytest.mark.parametrize(("own", "other"), [(10, 0.1), (1e-5, 1e-6)])
def test_relations_see_neither_the_scale_nor_the_channels_of_the_teacher(loss: Loss, own: float, other: float) -> None:
    student, teacher = pair()
    torch.testing.assert_close(loss(own * student, other * torch.cat([teacher, teacher], 1)), loss(student, teacher))


@pytest.mark.parametrize("loss", [losses.pairwise, losses.affinity], ids=["pairwise", "affinity"])
def test_cosines_have_no_gradient_along_the_feature(loss: Loss) -> None:
    student = FS.clone().requires_grad_()
    radial = (student * gradient(loss(student, FT), student)).sum(1)
    assert radial.abs().max() < 1e-12


@pytest.mark.parametrize(
    "loss",
    [losses.pixel_kl, losses.pixel_l2, losses.consistency, losses.channel_kl, losses.channel_correlation],
    ids=["pixel_kl", "pixel_l2", "consistency", "channel_kl", "channel_correlation"],
)
def test_a_constant_added_to_all_logits_changes_nothing(loss: Loss) -> None:
    student, teacher = pair()
    torch.testing.assert_close(loss(student + 3, teacher - 2), loss(student, teacher))


@pytest.mark.promise("T5")
@pytest.mark.parametrize("loss", MASKABLE.values(), ids=MASKABLE.keys())
def test_ignored_pixels_change_neither_value_nor_gradient(loss: Callable[..., Tensor]) -> None:
    student, teacher = pair()
    valid = losses.at_size(LABEL != IGNORE, (5, 7))
    disturbed = (teacher + 5 * maps(4, *teacher.shape)).where(~valid[:, None], teacher)
    value = loss(student, teacher, valid=valid)
    assert torch.equal(loss(student, disturbed, valid=valid), value)
    assert not gradient(value, student).masked_select(~valid[:, None]).any()


def test_ignored_pixels_are_no_part_of_a_class() -> None:
    student, teacher = pair()
    ignored = ~losses.at_size(LABEL != IGNORE, (5, 7))[:, None]
    disturbed = student.where(~ignored, 100 * maps(4, *student.shape))
    value = losses.intra_class_variation(student, teacher, LABEL, 3)
    assert torch.equal(losses.intra_class_variation(disturbed, teacher, LABEL, 3), value)


# ---- where nothing counts ------------------------------------------------------------------------------------------


@pytest.mark.promise("R6")
@over(labelled(NOTHING) | {"cross_entropy": lambda student, _: losses.cross_entropy(student, NOTHING)})
def test_nothing_but_ignored_pixels_costs_nothing_and_moves_nothing(loss: Loss) -> None:
    student, teacher = pair()
    value = loss(student, teacher)
    assert value.item() == 0
    assert torch.equal(gradient(value, student), torch.zeros_like(student))


def test_unlabelled_images_add_nothing_to_cross_entropy() -> None:
    logits, label = maps(1, 2, 3, 5, 7), LABEL.clone()
    label[1] = IGNORE
    torch.testing.assert_close(losses.cross_entropy(logits, label), losses.cross_entropy(logits[:1], label[:1]))


@each
def test_positions_of_zeros_have_a_finite_value_and_no_blown_up_gradient(loss: Loss) -> None:
    student, teacher = pair(torch.float32)
    zeros = torch.arange(7) < 4
    dead = student.detach().masked_fill(zeros, 0).requires_grad_()
    for target in (teacher, teacher.masked_fill(zeros, 0), torch.zeros_like(teacher)):
        value = loss(dead, target)
        assert value.isfinite()
        assert gradient(value, dead).abs().max() < 1000  # a clamped norm gives 1e8 where a position is zero


def test_valid_positions_are_those_of_the_nearest_label() -> None:
    label = torch.tensor([[[0, IGNORE, 1, 1], [2, 2, 2, 2], [IGNORE, 0, 0, IGNORE], [1, 1, 1, 1]]])
    assert losses.at_size(label != IGNORE, (2, 2)).tolist() == [[[True, True], [False, True]]]
    assert torch.equal(losses.at_size(label != IGNORE, (4, 4)), label != IGNORE)


# ---- precision -----------------------------------------------------------------------------------------------------


@each
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_autocast_compute_in_float32(loss: Loss, dtype: torch.dtype) -> None:
    student, teacher = (x.to(dtype) for x in pair())
    expected = loss(student.float(), teacher.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for value in (loss(student, teacher), loss(student.float(), teacher.float())):
            assert value.dtype == torch.float32
            assert torch.equal(value, expected)
    assert gradient(expected, student).isfinite().all()


@each
def test_double_precision_stays_double(loss: Loss) -> None:
    student, teacher = pair()
    assert loss(student, teacher.float()).dtype == torch.float64


def test_cross_entropy_computes_in_float32() -> None:
    logits = maps(1, 2, 3, 5, 7, dtype=torch.bfloat16).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = losses.cross_entropy(logits, LABEL)
    assert torch.equal(value, losses.cross_entropy(logits.float(), LABEL))
    assert gradient(value, logits).isfinite().all()


@pytest.mark.parametrize("loss", [losses.pixel_kl, losses.channel_kl], ids=["pixel_kl", "channel_kl"])
def test_logits_far_apart_give_a_finite_divergence(loss: Loss) -> None:
    student = 300 * torch.eye(3).reshape(1, 3, 3, 1)
    assert loss(student, -student).isfinite()
    assert loss(student, -student).item() > 100


# ---- the critic ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [0.5, 1.0, 3.0])
def test_a_linear_critic_of_length_k_is_penalised_by_k_minus_1_squared(k: float) -> None:
    weight = maps(1, 3, 5, 7)
    weight *= k / weight.norm()
    penalty = losses.gradient_penalty(lambda x: (x * weight).sum((1, 2, 3)), maps(2, 4, 3, 5, 7), maps(3, 4, 3, 5, 7))
    assert penalty.item() == pytest.approx((k - 1) ** 2, abs=1e-12)


def test_the_penalty_looks_between_the_two_maps_once_per_sample() -> None:
    real, fake = pixels((1.0,), (0.0,)).repeat(2, 1, 1, 1), pixels((0.0,), (2.0,)).repeat(2, 1, 1, 1)

    def critic(x: Tensor) -> Tensor:
        return x.square().sum((1, 2, 3)) / 2  # its gradient is the point itself

    # alpha 1 looks at the real map, of length 1; alpha 1/2 at (1/2, 1)
    penalty = losses.gradient_penalty(critic, real, fake, alpha=torch.tensor([1.0, 0.5]))
    assert penalty.item() == pytest.approx((0 + (math.sqrt(5 / 4) - 1) ** 2) / 2, rel=1e-12)


def test_the_penalty_repeats_with_its_generator_and_draws_for_each_sample() -> None:
    seen: list[Tensor] = []

    def critic(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return x.sum((1, 2, 3))

    real, fake = torch.ones(3, 2, 4, 4), torch.zeros(3, 2, 4, 4)
    for _ in range(2):
        losses.gradient_penalty(critic, real, fake, torch.Generator().manual_seed(7))
    assert torch.equal(seen[0], seen[1])
    shares = seen[0].flatten(1)
    assert torch.equal(shares, shares[:, :1].expand_as(shares))  # one alpha for all of a sample
    assert len(set(shares[:, 0].tolist())) == 3
    assert ((shares >= 0) & (shares < 1)).all()


def test_the_penalty_trains_the_critic_and_neither_map() -> None:
    weight = maps(1, 2).requires_grad_()
    real, fake = maps(2, 3, 2, 4, 4).requires_grad_(), maps(3, 3, 2, 4, 4).requires_grad_()

    def penalty(w: Tensor) -> Tensor:
        return losses.gradient_penalty(
            lambda x: (w.view(1, 2, 1, 1) * x.square()).sum((1, 2, 3)), real, fake, alpha=torch.tensor([0.1, 0.5, 0.9])
        )

    assert torch.autograd.gradcheck(penalty, weight)
    of_maps = torch.autograd.grad(penalty(weight), [real, fake], allow_unused=True)
    assert all(given is None for given in of_maps)


def test_a_critic_without_slope_has_a_finite_gradient() -> None:
    weight = torch.zeros(2, requires_grad=True)
    value = losses.gradient_penalty(
        lambda x: (weight.view(1, 2, 1, 1) * x).sum((1, 2, 3)), torch.ones(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)
    )
    assert value.item() == 1
    assert gradient(value, weight).isfinite().all()


def test_the_critics_losses_compute_in_float32() -> None:
    convolution = torch.nn.Conv2d(2, 1, 3)
    real, fake = maps(1, 2, 2, 5, 5, dtype=torch.bfloat16), maps(2, 2, 2, 5, 5, dtype=torch.bfloat16)
    alpha = torch.tensor([0.3, 0.6])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        penalty = losses.gradient_penalty(convolution, real, fake, alpha=alpha)
        scores = losses.wasserstein_critic(real, fake), losses.hinge_critic(real, fake)
    assert torch.equal(penalty, losses.gradient_penalty(convolution, real.float(), fake.float(), alpha=alpha))
    assert torch.equal(scores[0], losses.wasserstein_critic(real.float(), fake.float()))
    assert torch.equal(scores[1], losses.hinge_critic(real.float(), fake.float()))


# ---- what does not fit ---------------------------------------------------------------------------------------------


@pytest.mark.promise("T1")
@over(SAME_CHANNELS)
def test_a_teacher_of_one_class_is_refused_and_not_repeated(loss: Loss) -> None:
    student, teacher = pair()
    with pytest.raises(ShapeError, match=r"\(2, 3, 5, 7\) and the teacher's \(2, 1, 5, 7\)"):
        loss(student, teacher[:, :1])


@each
def test_a_teacher_of_another_batch_is_refused(loss: Loss) -> None:
    student, teacher = pair()
    with pytest.raises(ShapeError, match="same B"):
        loss(student, teacher[:1])


@pytest.mark.parametrize("loss", MASKABLE.values(), ids=MASKABLE.keys())
def test_a_mask_where_all_is_valid_changes_nothing(loss: Callable[..., Tensor]) -> None:
    student, teacher = pair()
    torch.testing.assert_close(
        loss(student, teacher, valid=torch.ones(2, 5, 7, dtype=torch.bool)), loss(student, teacher)
    )


@pytest.mark.parametrize("loss", MASKABLE.values(), ids=MASKABLE.keys())
def test_a_mask_of_another_size_is_refused(loss: Callable[..., Tensor]) -> None:
    with pytest.raises(ShapeError, match=r"mask of valid pixels has shape \(1, 5, 7\)"):
        loss(*pair(), valid=torch.ones(1, 5, 7, dtype=torch.bool))


def test_labels_of_other_images_are_refused() -> None:
    student, teacher = pair()
    with pytest.raises(ShapeError, match=r"the label \(1, 10, 14\)"):
        losses.cross_entropy(student, LABEL[:1])
    with pytest.raises(ShapeError, match=r"the label \(1, 10, 14\)"):
        losses.intra_class_variation(student, teacher, LABEL[:1], 3)


def test_a_correlation_is_of_the_same_classes_in_another_order_and_at_other_places() -> None:
    student, teacher = (maps(seed, 1, 3, 6, 8) for seed in (1, 2))
    value = losses.channel_correlation(student, teacher)
    torch.testing.assert_close(losses.channel_correlation(student[:, [2, 0, 1]], teacher[:, [2, 0, 1]]), value)
    torch.testing.assert_close(losses.channel_correlation(student.roll((2, 4), (2, 3)), teacher.flip(3)), value)


def test_residual_attention_is_the_same_seen_from_the_deeper_layer() -> None:
    student, teacher = pair()
    back = losses.residual_attention(student[:, :1], student, teacher[:, :1], teacher)
    torch.testing.assert_close(residual(student, teacher), back)


def test_layers_of_other_sizes_are_compared_on_the_deeper_one_s_grid() -> None:
    shallow, deep = maps(1, 2, 3, 10, 14), maps(2, 2, 4, 5, 7)
    energy = shallow.square().mean(1, keepdim=True)
    small = F.interpolate(energy, size=(5, 7), mode="bilinear", align_corners=False).sqrt()
    target = maps(3, 2, 3, 5, 7), maps(4, 2, 4, 5, 7)
    # the map whose square is the resized energy has the same attention
    value = losses.residual_attention(shallow, deep, F.interpolate(target[0], size=(10, 14)), target[1])
    teacher = F.interpolate(target[0], size=(10, 14)).square().mean(1, keepdim=True)
    teacher = F.interpolate(teacher, size=(5, 7), mode="bilinear", align_corners=False).sqrt()
    torch.testing.assert_close(losses.residual_attention(small, deep, teacher, target[1]), value)


def test_a_position_is_surrounded_where_it_and_its_eight_neighbours_are_valid() -> None:
    valid = torch.ones(1, 4, 5, dtype=torch.bool)
    valid[0, 0, 0] = valid[0, 3, 4] = False
    assert losses.surrounded(valid).tolist() == [[[False, True, True], [True, True, False]]]


def test_maps_without_an_inner_position_have_no_consistency() -> None:
    with pytest.raises(ShapeError, match="eight neighbours"):
        losses.consistency(torch.zeros(1, 2, 2, 5), torch.zeros(1, 2, 2, 5))


def test_maps_of_two_shapes_have_nothing_between_them() -> None:
    with pytest.raises(ShapeError, match="Expected: the same"):
        losses.gradient_penalty(torch.sum, torch.zeros(2, 3, 4, 4), torch.zeros(1, 3, 4, 4))
