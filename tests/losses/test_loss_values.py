"""Every loss by hand, against published code's values and against a slow obvious version."""

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

from helpers.loss_cases import ALL, FS, FT, LABEL, STRIPES, Loss, det, gradient, maps, pair, pixels, residual
from segdistill import losses
from segdistill.types import IGNORE

Array = NDArray[np.float64]

S, T = det((2, 3, 4, 4), 7, 3, 11), det((2, 3, 4, 4), 5, 1, 13)  # logits

AS, AT = det((2, 3, 4, 4), 3, 2, 7), det((2, 3, 4, 4), 4, 3, 9)  # auxiliary logits
LABEL_16 = (torch.arange(2 * 16 * 16) % 3).reshape(2, 16, 16)


# ---- values worked out by hand -------------------------------------------------------------------------------------


QUARTER = (0.0, math.log(3))  # probabilities 1/4 and 3/4
HALF = (0.0, 0.0)
FIRST_HALF, SECOND_HALF = (math.log(2), 0.0, 0.0), (0.0, math.log(2), 0.0)  # probabilities 1/2, 1/4 and 1/4

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
    # deviations from the mean are (2, -1, -1) and (-1, 2, -1) twelfths: their correlation is -3 / 6
    "dist of two classes exchanged among three": (
        lambda: losses.dist(pixels(FIRST_HALF), pixels(SECOND_HALF), gamma=0),
        3 / 2,
    ),
    # the same at both positions; from one to the other two classes move against the teacher's, the third not at all
    "dist of two such positions, the third pixel ignored": (
        lambda: losses.dist(
            pixels(FIRST_HALF, SECOND_HALF, (9, 0, 0)),
            pixels(SECOND_HALF, FIRST_HALF, (0, 9, 0)),
            valid=torch.tensor([[[True, True, False]]]),
        ),
        3 / 2 + (2 + 2 + 1) / 3,
    ),
    "normalized features, 3 and 4 against the first alone": (
        lambda: losses.normalized_feature(pixels((3, 0), (0, 4)), pixels((7, 0), (0, 0))),
        (1 - 3 / 5) ** 2 + (4 / 5) ** 2,
    ),
    "normalized features at a right angle, the third pixel ignored": (
        lambda: losses.normalized_feature(
            pixels((5,), (0,), (9,)), pixels((0,), (-2,), (3,)), torch.tensor([[[True, True, False]]])
        ),
        1 + 1,
    ),
    # columns 2 and 3 lie on the edge, 0 and 1 inside a class
    "boundary of one position in two on either side": (
        lambda: losses.boundary(
            pixels(HALF, (math.log(3), 0), QUARTER, (1, 2), (9, 9)),
            pixels(HALF, HALF, HALF, (1, 2), (-9, 5)),
            torch.tensor([[[0, 0, 0, 1, IGNORE]]]),
            width=3,
            edge=2,
            body=3,
            body_temperature=1,
        ),
        2 * math.log(4 / 3) / 4 + 3 * math.log(4 / 3) / 4,
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
    "DIST, over classes": (lambda s, t, fs, ft: losses.dist(s, t, gamma=0), 0.490002936370),
    "DIST, over classes and positions": (lambda s, t, fs, ft: losses.dist(s, t), 1.29596441473),
    "CIRKD, IFV": (lambda s, t, fs, ft: losses.intra_class_variation(fs, ft, LABEL_16, 3), 0.178205136837),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("compute", "expected"), PUBLISHED.values(), ids=PUBLISHED.keys())
def test_the_value_is_the_one_of_the_published_code(
    compute: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor], expected: float, dtype: torch.dtype
) -> None:
    value = compute(*(x.to(dtype) for x in (S, T, FS, FT))).item()
    assert value == pytest.approx(expected, rel=2e-6, abs=2e-11)  # float32 rounds CSD's products of 1e-1 to 1e-8


def test_soft_cross_entropy_has_the_gradient_of_pixel_kl() -> None:
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


def slow_correlation(x: list[float], y: list[float]) -> float:
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return covariance / math.sqrt(sum((a - mean_x) ** 2 for a in x) * sum((b - mean_y) ** 2 for b in y))


def slow_dist(s: Array, t: Array, temperature: float, beta: float, gamma: float) -> float:
    own = [softmax(s[b, :, i, j] / temperature).tolist() for b, i, j in positions(s)]
    target = [softmax(t[b, :, i, j] / temperature).tolist() for b, i, j in positions(t)]
    over_classes = [1 - slow_correlation(p, q) for p, q in zip(own, target, strict=True)]
    over_positions = [1 - slow_correlation([p[c] for p in own], [q[c] for q in target]) for c in range(s.shape[1])]
    return float(beta * np.mean(over_classes) + gamma * np.mean(over_positions))


def slow_normalized_feature(s: Array, t: Array) -> float:
    def norm(image: Array) -> float:
        return math.sqrt(sum(float(image[at]) ** 2 for at in np.ndindex(image.shape)))

    images = []
    for b in range(len(s)):
        own, target = norm(s[b]), norm(t[b])
        images.append(sum((s[b][at] / own - t[b][at] / target) ** 2 for at in np.ndindex(s[b].shape)))
    return float(np.mean(images))


def slow_boundary(s: Array, t: Array, label: Tensor, width: int) -> float:
    ids, reach = label.numpy(), width // 2

    def is_edge(b: int, i: int, j: int) -> bool:
        window = ids[b, max(i - reach, 0) : i + reach + 1, max(j - reach, 0) : j + reach + 1]
        dilated = {int(c) for c in window.ravel() if c != IGNORE}
        eroded = {c for c in dilated if all(d in (c, IGNORE) for d in window.ravel())}
        return ids[b, i, j] != IGNORE and dilated != eroded

    on_edge, bodies = [], []
    for b in range(len(s)):
        # the pixel nearest to each position of a map half the size, as PyTorch counts
        grid = [(i, j) for i in range(s.shape[2]) for j in range(s.shape[3]) if ids[b, 2 * i, 2 * j] != IGNORE]
        inside = [(i, j) for i, j in grid if not is_edge(b, 2 * i, 2 * j)]
        for i, j in set(grid) - set(inside):
            p, q = softmax(t[b, :, i, j]), softmax(s[b, :, i, j])
            on_edge.append(sum(p[c] * math.log(p[c] / q[c]) for c in range(len(p))))
        if inside:
            for c in range(s.shape[1]):
                p, q = (softmax(np.array([x[b, c, i, j] for i, j in inside]) / 4) for x in (t, s))
                bodies.append(16 * sum(p[n] * math.log(p[n] / q[n]) for n in range(len(p))))
    assert len(on_edge) > 5
    assert len(bodies) > s.shape[1]
    return float(np.mean(on_edge) + np.mean(bodies))


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
    "dist": (losses.dist, partial(slow_dist, temperature=1, beta=1, gamma=1)),
    "dist at T = 3": (ALL["dist at T = 3"], partial(slow_dist, temperature=3, beta=0.5, gamma=2)),
    "normalized_feature": (losses.normalized_feature, slow_normalized_feature),
    "boundary": (partial(losses.boundary, label=STRIPES, width=3), partial(slow_boundary, label=STRIPES, width=3)),
    "boundary with void": (
        ALL["boundary"],
        partial(slow_boundary, label=STRIPES.where(LABEL != IGNORE, IGNORE), width=3),
    ),
}


@pytest.mark.promise("T6")
@pytest.mark.parametrize(("loss", "slow"), SLOW.values(), ids=SLOW.keys())
def test_a_slow_version_in_loops_agrees(loss: Loss, slow: Callable[[Array, Array], float]) -> None:
    student, teacher = pair()
    assert loss(student, teacher).item() == pytest.approx(slow(student.detach().numpy(), teacher.numpy()), rel=1e-10)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("size", [(5, 7), (9, 6), (3, 3)])
def test_cross_entropy_is_that_of_the_resized_logits(size: tuple[int, int], aligned: bool) -> None:
    logits, label = maps(3, 2, 3, *size), LABEL
    resized = F.interpolate(logits, size=label.shape[1:], mode="bilinear", align_corners=aligned).numpy()
    valid = [at for at in positions(resized) if label[at] != IGNORE]
    expected = np.mean([-math.log(softmax(resized[b, :, i, j])[label[b, i, j]]) for b, i, j in valid])
    assert losses.cross_entropy(logits, label, align_corners=aligned).item() == pytest.approx(expected, rel=1e-10)
