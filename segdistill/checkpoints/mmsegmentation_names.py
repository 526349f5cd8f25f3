"""The names that mmsegmentation (github.com/open-mmlab/mmsegmentation, 1.x) gives to tensors of networks that are here.

Each table has the beginnings of our names by those of its names. A convolution and its batch norm are one module there,
`conv` and `bn`, so that most names are longer than ours by that; places in a sequence count the activations between.
"""

from collections.abc import Mapping, Sequence

Names = dict[str, str]
BASIC, BOTTLENECK = (1, 2), (1, 2, 3)
"""Convolutions of a residual block."""


def _module(theirs: str, conv: str, norm: str) -> Names:
    """Return the names of a convolution and its batch norm."""
    return {f"{theirs}.conv.": f"{conv}.", f"{theirs}.bn.": f"{norm}."}


def _numbered(theirs: str, ours: str) -> Names:
    """Return the names of such a pair where it is a sequence here, the convolution first."""
    return _module(theirs, f"{ours}.0", f"{ours}.1")


def _norm_first(theirs: str, ours: str, first: int = 0) -> Names:
    """Return the names of a batch norm, a ReLU and a convolution, a part of a sequence here."""
    return _module(theirs, f"{ours}.{first + 2}", f"{ours}.{first}")


def _block(theirs: str, ours: str, convolutions: Sequence[int]) -> Names:
    """Return the names of a residual block; a shortcut that is a sequence there, too, has the same ones."""
    names: Names = {}
    for number in convolutions:
        names |= _module(f"{theirs}.conv{number}", f"{ours}.conv{number}", f"{ours}.bn{number}")
    return names | {f"{theirs}.": f"{ours}."}


def _blocks(stages: Mapping[str, str], count: int, convolutions: Sequence[int] = BASIC) -> Names:
    """Return the names of stages of so many blocks each."""
    names: Names = {}
    for theirs, ours in stages.items():
        for index in range(count):
            names |= _block(f"{theirs}.{index}", f"{ours}.{index}", convolutions)
    return names


def _with_paired_shortcuts(names: Names) -> Names:
    """Return names of blocks with those of their shortcuts, where each is a convolution and its batch norm there."""
    shortcuts: Names = {}
    for theirs, ours in names.items():
        if f"{theirs}conv1.conv." in names:  # a block as a whole
            shortcuts |= _numbered(f"{theirs}downsample", f"{ours}downsample")
    return shortcuts | names


def _average_pyramid() -> Names:
    """Return the names of the pyramid of averages that DDRNet and PIDNet share, but for what processes its scales."""
    names = _norm_first("backbone.spp.scales.0", "spp.scale0")
    for scale in (1, 2, 3, 4):
        names |= _norm_first(f"backbone.spp.scales.{scale}.1", f"spp.scale{scale}", 1)
    names |= _norm_first("backbone.spp.compression", "spp.compression")
    return names | _norm_first("backbone.spp.shortcut", "spp.shortcut")


def _dual_stem() -> Names:
    """Return the names of the two strided convolutions and two stages that DDRNet and PIDNet begin with."""
    names = _module("backbone.stem.0", "conv1.0", "conv1.1") | _module("backbone.stem.1", "conv1.3", "conv1.4")
    return names | _blocks({"backbone.stem.2": "layer1", "backbone.stem.4": "layer2"}, 2)


def _pspnet() -> Names:
    deep_stem = {0: "conv1", 1: "bn1", 3: "conv2", 4: "bn2", 6: "conv3", 7: "bn3"}
    names = {f"backbone.stem.{place}.": f"backbone.{ours}." for place, ours in deep_stem.items()}
    for grid in range(4):
        names |= _numbered(f"decode_head.psp_modules.{grid}.1", f"pyramid.branches.{grid}")
    names |= _numbered("decode_head.bottleneck", "pyramid.fuse") | {"decode_head.conv_seg.": "classifier."}
    names |= _numbered("auxiliary_head.convs.0", "auxiliary.0")
    return names | {"auxiliary_head.conv_seg.": "auxiliary.2."}


def _ddrnet() -> Names:
    context, spatial = "backbone.context_branch_layers", "backbone.spatial_branch_layers"
    stages = {f"{context}.0": "layer3", f"{context}.1": "layer4", f"{spatial}.0": "layer3_", f"{spatial}.1": "layer4_"}
    names = _dual_stem() | _blocks(stages, 2)
    names |= _blocks({f"{context}.2": "layer5", f"{spatial}.2": "layer5_"}, 1, BOTTLENECK)
    for number in (1, 2):
        names |= _numbered(f"backbone.compression_{number}", f"compression{number + 2}")
    names |= _numbered("backbone.down_1", "down3") | _numbered("backbone.down_2.0", "down4")
    names |= _module("backbone.down_2.1", "down4.3", "down4.4")
    names |= _average_pyramid()
    for index in range(4):
        names |= _norm_first(f"backbone.spp.processes.{index}", f"spp.process{index + 1}")
    names |= _module("decode_head.head.0", "final_layer.conv1", "final_layer.bn1")
    return names | {"decode_head.head.1.": "final_layer.bn2.", "decode_head.conv_seg.": "final_layer.conv2."}


def _pidnet() -> Names:
    integral, proportional, derivative = (f"backbone.{letter}_branch_layers" for letter in "ipd")
    names = _dual_stem() | _blocks({f"{integral}.0": "layer3", f"{integral}.1": "layer4"}, 3)
    names |= _blocks({f"{integral}.2": "layer5"}, 2, BOTTLENECK)
    names |= _blocks({f"{proportional}.0": "layer3_", f"{proportional}.1": "layer4_"}, 2)
    bottlenecks = {f"{proportional}.2": "layer5_", f"{derivative}.1": "layer4_d", f"{derivative}.2": "layer5_d"}
    names |= _blocks(bottlenecks, 1, BOTTLENECK) | _block(f"{derivative}.0", "layer3_d", BASIC)
    for number in (1, 2):
        names |= _numbered(f"backbone.compression_{number}", f"compression{number + 2}")
        names |= _numbered(f"backbone.diff_{number}", f"diff{number + 2}")
        names |= _numbered(f"backbone.pag_{number}.f_p", f"pag{number + 2}.f_x")
        names |= _numbered(f"backbone.pag_{number}.f_i", f"pag{number + 2}.f_y")
    names = _with_paired_shortcuts(names)
    names |= _average_pyramid() | _norm_first("backbone.spp.processes", "spp.scale_process")
    names |= _numbered("backbone.dfm.f_p", "dfm.conv_p") | _numbered("backbone.dfm.f_i", "dfm.conv_i")
    names |= _module("decode_head.i_head.conv", "final_layer.conv1", "final_layer.bn1")
    return names | {"decode_head.i_head.norm.": "final_layer.bn2.", "decode_head.conv_seg.": "final_layer.conv2."}


def _stdcseg() -> Names:
    stages = "backbone.backbone.stages"
    names = {f"{stages}.{index}.": f"cp.backbone.features.{index}." for index in (0, 1)}
    return names | _attention() | {f"{stages}.": "cp.backbone.features."}


def _attention() -> Names:
    """Return the names of what follows STDC's backbone: at 1/32 first, there."""
    names: Names = {}
    for index, stride in enumerate((32, 16)):
        arm, ours = f"backbone.arms.{index}", f"cp.arm{stride}"
        names |= {f"{arm}.conv_layer.": f"{ours}.conv."}
        names |= _module(f"{arm}.atten_conv_layer.1", f"{ours}.conv_atten", f"{ours}.bn_atten")
        names |= {f"backbone.convs.{index}.": f"cp.conv_head{stride}."}
    names |= {"backbone.conv_avg.": "cp.conv_avg.", "backbone.ffm.conv0.": "ffm.convblk."}
    names |= {f"backbone.ffm.attention.{number}.conv.": f"ffm.conv{number}." for number in (1, 2)}
    return names | {"decode_head.convs.0.": "conv_out.conv.", "decode_head.conv_seg.": "conv_out.conv_out."}


def stdcseg(blocks: Sequence[int]) -> Names:
    """Return the names of an STDC with so many blocks at 1/8, 1/16 and 1/32, which are one sequence here."""
    names: Names = {}
    place = 2
    for stage, count in enumerate(blocks, start=2):
        for index in range(count):
            theirs, ours = f"backbone.backbone.stages.{stage}.{index}", f"cp.backbone.features.{place}"
            names |= {f"{theirs}.layers.": f"{ours}.conv_list."}
            names |= _numbered(f"{theirs}.downsample", f"{ours}.avd_layer")
            place += 1
    return names | _stdcseg()


PSPNET, DDRNET, PIDNET = _pspnet(), _ddrnet(), _pidnet()
STDC1, STDC2 = stdcseg((2, 2, 2)), stdcseg((4, 5, 3))
DUAL_BIASES = ("conv1.0.bias", "conv1.3.bias")
"""Biases of DDRNet's and PIDNet's first convolutions, which mmsegmentation's do not have: batch norm follows."""
