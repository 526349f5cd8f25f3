"""Where a label has edges, and which part of the loss each side of them goes into."""

import pytest
import torch
from scipy import ndimage
from torch import Tensor

from helpers.loss_cases import LABEL, STRIPES, maps, pair
from segdistill import losses
from segdistill.errors import ShapeError
from segdistill.types import IGNORE


def edges(text: str, width: int) -> str:
    """Return the edges of one row, drawn with x; a dot is void."""
    label = torch.tensor([[[IGNORE if sign == "." else int(sign) for sign in text]]])
    return "".join("x" if is_edge else "-" for is_edge in losses.label_edges(label, width)[0, 0].tolist())


@pytest.mark.parametrize(
    ("row", "width", "expected"),
    [
        ("00000000", 7, "--------"),
        ("00001111", 3, "---xx---"),
        ("00001111", 5, "--xxxx--"),
        ("00001111", 7, "-xxxxxx-"),
        ("00002220", 3, "---xx-xx"),  # the border of the image makes no edge
        ("0000.111", 3, "--------"),  # a line of void is no class
        ("0000.111", 5, "---x-x--"),  # and is no edge itself, but is seen across
        ("000.....", 7, "--------"),
        (".......", 7, "-------"),
        ("01", 3, "xx"),
        ("0", 3, "-"),
    ],
)
def test_an_edge_is_where_a_window_has_two_classes(row: str, width: int, expected: str) -> None:
    assert edges(row, width) == expected


@pytest.mark.parametrize("width", [3, 5, 7])
def test_edges_are_dilation_minus_erosion_of_each_class(width: int) -> None:
    generator = torch.Generator().manual_seed(3)
    coarse = torch.randint(0, 4, (2, 5, 6), generator=generator)
    label = coarse.repeat_interleave(5, 1).repeat_interleave(7, 2)
    window = torch.ones(width, width).numpy()
    expected = torch.zeros_like(label, dtype=torch.bool)
    for image, image_label in enumerate(label.numpy()):
        for class_id in range(4):
            mask = image_label == class_id
            dilated = ndimage.binary_dilation(mask, window)
            eroded = ndimage.binary_erosion(mask, window, border_value=1)
            expected[image] |= torch.from_numpy(dilated & ~eroded)
    found = losses.label_edges(label, width)
    assert torch.equal(found, expected)
    assert 0 < found.sum() < found.numel()


@pytest.mark.parametrize("width", [-3, 1, 2, 6])
def test_a_window_without_a_middle_is_refused(width: int) -> None:
    with pytest.raises(ShapeError, match=f"The width of edges is {width}") as caught:
        losses.label_edges(LABEL, width)
    assert "odd number, 3 at least" in caught.value.fix


def test_a_region_is_that_of_the_nearest_pixel() -> None:
    on_edge, inside = losses.boundary_regions(STRIPES, (5, 7), 3)
    # of columns 0, 2 .. 12 the edges at 4 | 5 and 9 | 10 have 4 and 10
    assert on_edge[0].tolist() == [[False, False, True, False, False, True, False]] * 5
    assert torch.equal(inside, ~on_edge)
    void = STRIPES.where(LABEL != IGNORE, IGNORE)
    on_edge, inside = losses.boundary_regions(void, (5, 7), 3)
    assert not (on_edge & inside).any()
    assert torch.equal(on_edge | inside, losses.resize_mask(void != IGNORE, (5, 7)))


@pytest.mark.parametrize("size", [(10, 14), (7, 9), (5, 7), (1, 3)])
def test_maps_of_odd_sizes_are_compared(size: tuple[int, int]) -> None:
    student, teacher = maps(1, 2, 3, *size).requires_grad_(), maps(2, 2, 3, 4, 6)
    value = losses.boundary(student, teacher, STRIPES)
    assert value.item() > 0
    assert torch.autograd.grad(value, student)[0].isfinite().all()


def test_a_label_of_one_class_is_all_body() -> None:
    student, teacher = pair()
    expected = losses.channel_kl(student, teacher)
    assert torch.equal(losses.boundary(student, teacher, torch.ones_like(STRIPES), edge=9), expected)


def test_a_label_that_is_all_edges_is_compared_pixel_by_pixel() -> None:
    student, teacher = pair()
    checkered = (torch.arange(10)[:, None] + torch.arange(14)).remainder(2).expand(2, 10, 14)
    assert torch.equal(losses.boundary(student, teacher, checkered, body=9), losses.pixel_kl(student, teacher))


def moved(logits: Tensor, where: Tensor, over: int) -> Tensor:
    """Return logits with a constant added in some positions: to all classes (1) or to all positions alike (2)."""
    shift = maps(5, 2, 1, 5, 7) if over == 1 else maps(5, 2, 3, 1, 1)
    return torch.where(where[:, None], logits + shift, logits)


def test_each_side_of_an_edge_has_a_softmax_of_its_own() -> None:
    student, teacher = pair()
    on_edge, inside = losses.boundary_regions(STRIPES, (5, 7), 3)
    expected = losses.boundary(student, teacher, STRIPES, width=3)
    # on edges the softmax is over the classes, inside over the positions: a constant added along it changes nothing
    for where, over, changes in ((on_edge, 1, False), (inside, 2, False), (on_edge, 2, True), (inside, 1, True)):
        value = losses.boundary(moved(student, where, over), teacher, STRIPES, width=3)
        assert torch.allclose(value, expected) != changes


def test_an_image_without_a_body_does_not_count_in_its_mean() -> None:
    student, teacher = pair()
    label = torch.ones_like(STRIPES)
    label[1] = IGNORE
    expected = losses.channel_kl(student[:1], teacher[:1])
    torch.testing.assert_close(losses.boundary(student, teacher, label), expected)


def test_labels_of_other_images_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"the label \(1, 10, 14\)"):
        losses.boundary(*pair(), STRIPES[:1])
