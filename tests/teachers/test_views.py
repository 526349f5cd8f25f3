"""A network that is shown several views of each image: the mean of its probabilities, by hand and by a slow version."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from helpers.tiny import copied, differing, model_info, tiny
from segdistill.config.schema import TeacherConfig
from segdistill.errors import UsageError
from segdistill.networks import InferenceWrapper, SegNetwork
from segdistill.teachers.teacher import Teacher
from segdistill.teachers.views import ViewedNetwork, Views, mean_of_views, views_of, with_views
from segdistill.types import SegOutput


def images(count: int = 2, height: int = 24, width: int = 40) -> Tensor:
    return 255 * torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_mean_of_two_views_is_that_of_probabilities() -> None:
    # softmax of (0, log 3) is (1/4, 3/4), of (log 9, 0) it is (9/10, 1/10): the mean is (0.575, 0.425)
    first = torch.tensor([0.0, np.log(3)]).view(1, 2, 1, 1)
    second = torch.tensor([np.log(9), 0.0]).view(1, 2, 1, 1)
    mean = mean_of_views([first.float(), second.float()], align_corners=False)
    assert mean.softmax(1).flatten().tolist() == pytest.approx([0.575, 0.425])
    # the normalizers are log 4 and log 10
    assert mean.logsumexp(1).item() == pytest.approx((np.log(4) + np.log(10)) / 2)


def test_one_view_keeps_its_logits_to_the_last_bit() -> None:
    logits = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    assert mean_of_views([logits], align_corners=False) is logits
    assert torch.equal(mean_of_views([logits.float()] * 2, align_corners=False).softmax(1).argmax(1), logits.argmax(1))


def test_viewed_network_matches_a_slow_version() -> None:
    network, image = tiny(0).eval(), images()
    with torch.no_grad():
        output = ViewedNetwork(network, Views((1.0, 1.5), flip=True)).eval()(image)
        larger = F.interpolate(image, size=(36, 60), mode="bilinear", align_corners=False)
        probabilities = []
        for seen in (image, larger):
            for mirrored in (False, True):
                logits = network(seen.flip(-1) if mirrored else seen).logits
                logits = logits.flip(-1) if mirrored else logits
                at_grid = F.interpolate(logits, size=(9, 15), mode="bilinear", align_corners=False)
                probabilities.append(at_grid.double().softmax(1))
    assert output.logits.shape == (2, 3, 9, 15)  # the grid of the larger view
    torch.testing.assert_close(output.logits.double().softmax(1), sum(probabilities) / 4, atol=1e-6, rtol=0)


def test_features_are_those_of_the_first_scale_unmirrored() -> None:
    network, image = tiny(0).eval(), images()
    with torch.no_grad():
        output = ViewedNetwork(network, Views((1.5, 1.0), flip=True)).eval()(image)
        first = network(F.interpolate(image, size=(36, 60), mode="bilinear", align_corners=False))
    assert [tuple(one.shape) for one in output.features] == [tuple(one.shape) for one in first.features]
    assert all(torch.equal(one, other) for one, other in zip(output.features, first.features, strict=True))


class Bright(SegNetwork):
    """Answers by the color of each pixel alone, so that enlarging and mirroring change nothing in flat images."""

    def __init__(self) -> None:
        super().__init__(2)

    def segment(self, image: Tensor) -> SegOutput:
        return SegOutput(torch.stack([image[:, 0], image[:, 1]], 1), (), None)


def test_views_of_a_symmetric_image_change_no_answer() -> None:
    image = torch.tensor([200.0, 90.0, 40.0]).view(1, 3, 1, 1).expand(1, 3, 16, 24)
    plain = InferenceWrapper(Bright())(image)
    viewed = InferenceWrapper(ViewedNetwork(Bright(), Views((1.0, 2.0, 0.5), flip=True)))(image)
    torch.testing.assert_close(viewed, plain)


def test_a_teacher_with_views_is_another_one() -> None:
    teacher = Teacher(tiny(0).eval(), model_info("any", role="teacher"))
    before = copied(teacher.network)
    viewed = teacher.shown(Views((1.5,)))
    viewed.network(images())
    assert differing(before, copied(teacher.network)) == []
    assert viewed.source_network is teacher.network
    assert viewed.identity != teacher.identity
    assert viewed.identity_parts()["views"] == "1.5x"
    assert teacher.shown(Views()) is teacher  # the identity of runs before is kept


def test_views_follow_from_the_table_of_the_teacher() -> None:
    assert views_of(TeacherConfig(network="a")).is_plain
    assert views_of(TeacherConfig(network="a", scale=1.5)) == Views((1.5,))
    assert views_of(TeacherConfig(network="a", scales=(1, 1.5), flip=True)) == Views((1.0, 1.5), flip=True)
    mistakes: list[dict[str, object]] = [{"scale": 2, "scales": [1, 2]}, {"scales": []}, {"scale": 0}]
    for wrong in mistakes:
        with pytest.raises(ValueError, match="scale"):
            TeacherConfig.model_validate({"network": "a"} | wrong)


def test_network_of_one_size_is_mirrored_but_not_enlarged() -> None:
    network = tiny(0)
    network.only_size = (24, 40)
    assert isinstance(with_views(network, Views(flip=True)), ViewedNetwork)
    with pytest.raises(UsageError, match="24x40 alone"):
        with_views(network, Views((1.5,)))
