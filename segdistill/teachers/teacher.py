"""A teacher: a network that can teach, with what its file says of it, whatever kind it is.

There are plain teachers, label-assisted ones, external ones, and ones whose classes are mapped to the data's. Callers
ask this object; only this package knows the classes behind it.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from segdistill.checkpoints.model_file import ModelInfo, identity, identity_parts
from segdistill.config.schema import NetworkConfig
from segdistill.errors import UsageError
from segdistill.networks import SegNetwork
from segdistill.teachers.external_spec import is_external
from segdistill.teachers.label_assisted import LabeledFrozen, with_labels
from segdistill.teachers.remapped import RemappedNetwork
from segdistill.teachers.selective import Following, SelectiveFrozen
from segdistill.teachers.views import ViewedNetwork, Views, with_views
from segdistill.types import Batch, Frozen


@dataclass(frozen=True, eq=False)
class Teacher:
    """A network that can teach."""

    network: SegNetwork
    """Segments in the classes of the data: a `RemappedNetwork` where the teacher's own outputs mean other ones."""
    info: ModelInfo
    """Header of the teacher's file, in the teacher's own classes; of an external teacher, what stands for one."""
    class_map: Mapping[str, str] | None = None
    """Class map as it was resolved for the data; None where the teacher's classes are the data's."""

    @property
    def name(self) -> str:
        """Name of the network, as configurations have it: pspnet-resnet101, or hf:NAME of an external one."""
        return self.info.network.network

    @property
    def is_trained(self) -> bool:
        """Whether the weights are those of a file; a dry run may have a teacher with weights as they were drawn."""
        return bool(self.info.sha256)

    @property
    def is_label_assisted(self) -> bool:
        """Whether the network sees the labels beside the images: its scores are agreement, no accuracy."""
        return self.info.label_assisted

    @property
    def is_external(self) -> bool:
        """Whether the network was loaded from another library's file or code, so that no header can build it again."""
        return is_external(self.name)

    @property
    def num_outputs(self) -> int:
        """Number of logits that the teacher itself has for each pixel, a void output included."""
        return self.info.outputs

    @property
    def missing_classes(self) -> tuple[int, ...]:
        """Ids of the data's classes that no output of the teacher means: terms leave out their logits and pixels."""
        if isinstance(self.network, RemappedNetwork):
            return self.network.mapping.missing_classes
        return ()

    @property
    def source_network(self) -> SegNetwork:
        """Network that sees the images, without the mapping of its classes: it has the size and statistics it wants."""
        network = self.network
        while isinstance(network, RemappedNetwork | ViewedNetwork):
            network = network.network
        return network

    @property
    def rebuildable_network(self) -> NetworkConfig | None:
        """Network whose speed a student's can be compared with: one that can be built again and sees images alone."""
        # `export` builds it with random weights, and times both on images.
        if self.is_label_assisted or self.is_external:
            return None
        return self.info.network

    def shown(self, views: Views) -> "Teacher":
        """Return the teacher as it answers where it is shown these views of each image; see `ViewedNetwork`.

        Raises:
            UsageError: if it sees labels, which are not enlarged, or brings all images to one size.
        """
        if views.is_plain:
            return self
        if self.is_label_assisted:
            refuse_views_of_labels(views)
        # What it says depends on them, so that they are a part of what it is known by.
        details = {**self.info.details, "views": str(views)}
        return replace(
            self, network=with_views(self.network, views), info=self.info.model_copy(update={"details": details})
        )

    @property
    def identity(self) -> str:
        """Sha256 of all that changes what the teacher says of an image: two teachers that share it say the same."""
        return identity(self.info, self.class_map)

    def identity_parts(self) -> dict[str, Any]:
        """Return what `identity` is taken of, by name, as JSON has it."""
        return identity_parts(self.info, self.class_map)

    def frozen(self, following: Following | None = None) -> Frozen:
        """Return the teacher as an objective asks it: in eval mode, without gradients, given whole batches.

        Args:
            following: what is taken from it; default all of its probabilities.
        """
        # No teacher is of both kinds: one that reads labels reads the data's, so its classes are these.
        if self.info.label_embedding is not None:
            return LabeledFrozen(self.network, self.info.label_embedding)
        following = following or Following()
        takes_all = following == Following()
        if takes_all and not isinstance(self.network, RemappedNetwork):
            return Frozen(self.network)
        return SelectiveFrozen(self.network, following)

    def evaluation_batches(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches to score the teacher by: with what it needs to see, without what it cannot know.

        A label-assisted teacher sees the labels; labels of classes that a teacher lacks are ignored.
        """
        for batch in with_labels(batches, self.info.label_embedding, len(self.info.classes)):
            if isinstance(self.network, RemappedNetwork):
                yield self.network.without_missing_classes(batch)
            else:
                yield batch


def refuse_views_of_labels(views: Views) -> None:
    """Refuse views of an image whose labels the teacher sees too.

    Raises:
        UsageError: if there are more than the image as it is.
    """
    if not views.is_plain:
        raise UsageError(
            "A label-assisted teacher sees the labels of each pixel: it is not shown enlarged or mirrored images.",
            "Leave out teacher.scale, teacher.scales and teacher.flip.",
        )
