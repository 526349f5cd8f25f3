"""Headers of model files."""

from helpers.tiny import CLASSES
from segdistill.checkpoints.model_file import ModelInfo
from segdistill.config.schema import InputConfig, NetworkConfig

INFO = ModelInfo(
    network=NetworkConfig(
        network="pspnet-resnet18-half", input=InputConfig(mean=(1.5, 2.5, 3.5), std=(50.0, 60.0, 70.0))
    ),
    classes=CLASSES,
    palette=((0, 0, 0), (1, 2, 3), (255, 255, 255)),
    role="student",
    teacher=NetworkConfig(network="pspnet-resnet50", dropout=0.3),
    size=(48, 64),
    data="tiny",
    preset="skd",
    steps=7,
    metrics={"miou": 1 / 3},
    versions={"torch": "2"},
)
