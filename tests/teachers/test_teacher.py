"""A teacher of any kind answers the same questions, so that callers need not know which kind it is."""

import pytest

from helpers.class_maps import info
from helpers.tiny import tiny
from segdistill.checkpoints.model_file import ModelInfo, identity, identity_parts
from segdistill.config.schema import LabelEmbedding
from segdistill.teachers.class_map import ClassMapping
from segdistill.teachers.label_assisted import LabeledFrozen
from segdistill.teachers.remapped import RemappedNetwork
from segdistill.teachers.selective import SelectiveFrozen
from segdistill.teachers.teacher import Teacher
from segdistill.types import Frozen

PLAIN = info("road", "car", "sky")


def test_ordinary_teacher_is_of_no_special_kind() -> None:
    network = tiny(0)
    teacher = Teacher(network, PLAIN)
    assert (teacher.is_label_assisted, teacher.is_external, teacher.missing_classes) == (False, False, ())
    assert teacher.source_network is network
    assert teacher.rebuildable_network is PLAIN.network
    assert type(teacher.frozen()) is Frozen


def test_remapped_teacher_knows_missing_classes_and_its_network() -> None:
    network = tiny(0)
    teacher = Teacher(RemappedNetwork(network, ClassMapping(((0,), (), (2,)), (1,))), info("a", "b", void=2))
    assert teacher.missing_classes == (1,)
    assert teacher.source_network is network
    assert teacher.num_outputs == 3
    assert isinstance(teacher.frozen(), SelectiveFrozen)


@pytest.mark.parametrize(
    "special",
    [
        PLAIN.model_copy(update={"label_embedding": LabelEmbedding()}),
        PLAIN.model_copy(update={"network": PLAIN.network.model_copy(update={"network": "hf:segformer"})}),
    ],
    ids=["label-assisted", "external"],
)
def test_speed_is_not_compared_with_special_teachers(special: ModelInfo) -> None:
    teacher = Teacher(tiny(0), special)
    assert teacher.rebuildable_network is None
    assert (teacher.is_label_assisted, teacher.is_external) == (special.label_assisted, not special.label_assisted)
    assert isinstance(teacher.frozen(), LabeledFrozen) == special.label_assisted


def test_teacher_identity_covers_its_file_and_class_map() -> None:
    class_map = {"road": "road"}
    teacher = Teacher(tiny(0), PLAIN, class_map)
    assert teacher.identity == identity(PLAIN, class_map) != Teacher(tiny(0), PLAIN).identity
    assert teacher.identity_parts() == identity_parts(PLAIN, class_map)


def test_a_teacher_without_the_digest_of_a_file_is_not_trained() -> None:
    assert not Teacher(tiny(0), PLAIN).is_trained
    assert Teacher(tiny(0), PLAIN.model_copy(update={"sha256": "0" * 64})).is_trained
