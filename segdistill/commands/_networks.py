"""Networks of a run: built with the weights that they start from, described for their files, scored."""

from pathlib import Path
from typing import Any, Literal

import torch

from segdistill.checkpoints.model_file import ModelInfo
from segdistill.commands._context import Options, RunContext
from segdistill.commands._initial_weights import load_initial, start_from
from segdistill.config.schema import NetworkConfig, RunConfig, TeacherConfig
from segdistill.evaluation.metrics import Scores
from segdistill.networks import SegNetwork, build_network, load_backbone, resolve, with_published_images
from segdistill.runtime.versions import versions
from segdistill.teachers.label_assisted import build_teacher
from segdistill.training.class_weights import class_weights
from segdistill.training.scoring import score
from segdistill.training.supervision import Supervision


def build_initialized(context: RunContext, config: NetworkConfig, init_weights: Path | None = None) -> SegNetwork:
    """Build a network with the weights that it starts from: drawn from the seed, its backbone's, or those of a model.

    Raises:
        UsageError, ModelError: if the weights are not such as the network's.
    """
    torch.manual_seed(context.config.seed)
    num_classes = len(context.data.classes)
    if isinstance(config, TeacherConfig):
        network = build_teacher(config, num_classes)
    else:
        network = build_network(config, num_classes)
    options = context.options
    load_backbone(network, pretrained=options.pretrained, weights_file=options.backbone_weights)
    if init_weights is not None:
        start_from(network, init_weights, config, context.data.classes)
    return network


def tell_of_initial_weights(context: RunContext, config: NetworkConfig) -> None:
    """Say what a network keeps of the weights that it starts from, where these were trained on other classes.

    Raises:
        UsageError, ModelError: if the weights are not such as the network's.
    """
    source = context.options.init_weights
    if source is None:
        return
    network = build_initialized(context, config)
    fitted = start_from(network, source, config, context.data.classes)
    context.reporter.info(f"--init-weights {source}: {fitted.sentence()}.")


def with_initial_preprocessing(
    config: RunConfig, init_weights: Path | None, role: Literal["teacher", "student"] = "student"
) -> RunConfig:
    """Return a configuration whose network takes images as the weights it starts from, unless it says otherwise."""
    if init_weights is None:
        return config
    network: NetworkConfig = getattr(config, role)
    initial = load_initial(init_weights, network).config.model_dump(include={"input", "align_corners"})
    unset = {f"{role}.{key}": value for key, value in initial.items() if getattr(network, key) is None}
    return config.changed(**unset)


def with_pretrained_preprocessing(config: RunConfig, options: Options, *, trains_teacher: bool) -> RunConfig:
    """Return a configuration whose networks take images as the ImageNet weights they start from.

    What the configuration says of images comes first, and so does a model file that the student starts from.

    Raises:
        UsageError: if there are no such weights.
    """
    if not options.pretrained and options.backbone_weights is None:
        return config
    values: dict[str, Any] = {}
    for role in ("student", "teacher") if trains_teacher else ("student",):
        network = with_published_images(getattr(config, role))
        if network.input is not None:
            values[f"{role}.input"] = network.input.model_dump()
    return config.changed(**values)


def supervision(context: RunContext, role: Literal["teacher", "student"]) -> Supervision:
    """Return what a network of the run learns from the labels.

    Raises:
        UsageError: if class weights are not those of the data's classes.
    """
    config = context.config
    if role == "teacher":
        loss, aux_weight = config.teacher_loss(), config.teacher_aux_weight()
    else:
        loss, aux_weight = config.loss, config.aux_weight
    return Supervision(aux_weight, loss, class_weights(loss, context.data))


def model_info(
    context: RunContext, network: NetworkConfig, role: Literal["teacher", "student"], steps: int
) -> ModelInfo:
    """Return the header of a network's model file."""
    # a TeacherConfig says more than what the network is: how it is trained
    architecture = NetworkConfig.model_validate(network.model_dump(include=set(NetworkConfig.model_fields)))
    return ModelInfo(
        network=resolve(architecture),
        classes=context.data.classes,
        palette=context.data.palette,
        role=role,
        label_embedding=network.label_embedding if isinstance(network, TeacherConfig) else None,
        scored_by_teacher="val" in context.data.unlabeled,
        size=context.config.data.size,
        data=context.data.name,
        preset=context.config.preset,
        steps=steps,
        versions=versions(),
    )


def exact_scores(context: RunContext, network: SegNetwork, info: ModelInfo) -> Scores:
    """Return a network's scores on the validation images in float32, which is what is reported."""
    return score(network, info, context.data, runtime=context.runtime, precision=context.runtime.exact())
