"""Networks by name: each file here without a leading underscore is an architecture.

Other packages can add to them, by an entry point of the group segdistill.networks.

An architecture's module has
    BACKBONES                                   its variants: a network is called ARCHITECTURE-VARIANT, so the
                                                architecture's own name has no dash, or ARCHITECTURE alone for ""
    STRIDES                                     the output strides it can have, that of its publication first
    OPTIONS                                     which fields of `NetworkConfig` it has, beside those that all have
    build(config, num_classes, in_channels)     of a configuration with the full name and an output stride
"""

from segdistill.networks._base import SegNetwork
from segdistill.networks._costs import count_macs, count_parameters, countable_macs
from segdistill.networks._download import download_weights
from segdistill.networks._inference import InferenceWrapper
from segdistill.networks._layers import conv_bn_relu, resize_like
from segdistill.networks._pretrained import load_backbone, with_published_images
from segdistill.networks._registry import (
    build_network,
    list_networks,
    meta_network,
    missing_options,
    network_names,
    resolve,
    resolve_name,
)

__all__ = [
    "InferenceWrapper",
    "SegNetwork",
    "build_network",
    "conv_bn_relu",
    "count_macs",
    "count_parameters",
    "countable_macs",
    "download_weights",
    "list_networks",
    "load_backbone",
    "meta_network",
    "missing_options",
    "network_names",
    "resize_like",
    "resolve",
    "resolve_name",
    "with_published_images",
]
