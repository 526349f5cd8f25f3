"""The tables of a preset and their keys, down to `RunConfig`, all settings of a run.

A value comes from, each overriding the one before, the preset's file, its table for the data set (`[on.camvid]`),
`--set`, and flags. Nothing here imports torch: every mistake in a preset's structure is found within the first second.
"""

import re
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from segdistill.config.checking import validated
from segdistill.config.overrides import assign
from segdistill.config.registry import BUILT_IN, components
from segdistill.errors import nearest

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
"""RGB statistics of ImageNet in units of 0..255, as torchvision's weights expect them."""

SMALLEST_NUMBER, LARGEST_NUMBER = 1e-30, 1e30
"""Limits of numbers but 0. Float32 has those from 1e-38 to 3e38: products of two must fit, too."""
SHIP: Literal["auto", "last", "ema", "best"] = "auto"
"""Weights that are shipped unless a preset says otherwise: the one place to change it."""
LARGEST_SIZE = 2**31
"""Limit of whole numbers, which some of PyTorch's sizes and seeds hold in 32 bits."""

Fraction = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
"""Share of an optimizer's average that is kept from step to step: 1 would never take in anything."""
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
ScaleFactor = Annotated[float, Field(ge=0.01, le=100)]
"""Factor of an image's height and width."""
Mean = Annotated[float, Field(ge=-1e6, le=1e6)]
"""Mean of a channel, within what float32 computes with."""
Deviation = Annotated[float, Field(ge=1e-6, le=1e6)]
"""Standard deviation of a channel, likewise."""
Side = Annotated[int, Field(ge=1, le=65536)]
Size = tuple[Side, Side]
"""(height, width) in pixels."""
Weights = Literal["last", "ema", "best"]
"""Weights of a run: of the last step, their average, or of the best validation."""
CountedWeights = Literal["none", "inverse-log", "median-frequency"]
ClassWeights = CountedWeights | dict[str, NonNegative] | tuple[NonNegative, ...]
LogOffset = Annotated[float, Field(gt=1, le=100)]
Algorithm = Literal["sgd", "adam", "adamw"]
Schedule = Literal["poly", "cosine", "stairs"]
WeightDecay = Annotated[float, Field(ge=0, le=100)]
Warmup = Annotated[int, Field(ge=0)]
Drops = Annotated[int, Field(ge=0, le=1000)]


def computable(value: Any) -> Any:
    """Return a value unless it is a number that float32 or PyTorch's sizes cannot hold, which is found late otherwise.

    Raises:
        ValueError: if it is one.
    """
    # Such as 1e-60, which is above 0 in Python and 0 in float32.
    if isinstance(value, float) and value and not SMALLEST_NUMBER <= abs(value) <= LARGEST_NUMBER:
        raise ValueError(f"a number between {SMALLEST_NUMBER:g} and {LARGEST_NUMBER:g}, or 0")
    if isinstance(value, int) and abs(value) >= LARGEST_SIZE:
        raise ValueError(f"a whole number below {LARGEST_SIZE}")
    return value


def known_class_weights(value: Any) -> Any:
    """Return class weights of one of the three forms: pydantic alone would name a mistake for each of them.

    Raises:
        ValueError: if they are of none, or a weight is no number that can be computed with.
    """
    weights: list[Any] = []
    if isinstance(value, dict):
        weights = list(value.values())
    elif isinstance(value, list | tuple):
        weights = list(value)
    elif value is not None and value not in get_args(CountedWeights):
        kinds = ", ".join(map(repr, get_args(CountedWeights)))
        raise ValueError(f"Input should be one of {kinds}, a table of numbers by class, or a list of numbers")
    # True is a number to Python, and no weight
    if not all(isinstance(weight, int | float) and type(weight) is not bool and weight >= 0 for weight in weights):
        raise ValueError("Input should hold numbers of at least 0")
    for weight in weights:
        computable(weight)
    return value


def with_new_key(table: Any, old: str, new: str) -> Any:
    """Return a table in which a key of an earlier version has its present name; one that has both is left as it is."""
    if not isinstance(table, dict) or old not in table or new in table:
        return table
    return {new if key == old else key: value for key, value in table.items()}


class Strict(BaseModel):
    """A table of a preset: unknown keys are errors, values do not change, numbers are such as can be computed with."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _computable(cls, value: Any) -> Any:
        return computable(value)


class InputConfig(Strict):
    """Preprocessing of images, which are RGB in 0..255 everywhere else: (channel - mean) / std / divide."""

    mean: tuple[Mean, Mean, Mean] = IMAGENET_MEAN
    """Means of red, green and blue, whatever the order below."""
    std: tuple[Deviation, Deviation, Deviation] = IMAGENET_STD
    """Standard deviations of red, green and blue."""
    divide: Deviation = 1.0
    """Divisor of all channels, behind the others."""
    order: Literal["rgb", "bgr"] = "rgb"
    """Order of the channels that the first layer sees."""

    @model_validator(mode="after")
    def _in_units_of_255(self) -> Self:
        """Refuse the statistics of images in 0..1, as torchvision's documentation has them: nothing else would fail."""
        if not any(self.mean) or any(abs(mean) > 1 for mean in self.mean):
            return self
        advice = f"mean {[round(255 * mean, 3) for mean in self.mean]}"
        if all(std <= 1 for std in self.std):
            advice += f" and std {[round(255 * std, 3) for std in self.std]}"
        raise ValueError(f"a mean of numbers in 0..1; here they are in 0..255: {advice}, divide 1")

    def over(self, base: "InputConfig") -> "InputConfig":
        """Return another preprocessing with the values that were given for this one in the place of its own."""
        return base.model_copy(update={key: getattr(self, key) for key in self.model_fields_set})


class NetworkConfig(Strict):
    """A network as `segdistill networks` names it, with what can be chosen about it.

    None leaves a choice to the network: its file in `networks/` says what it takes, and which choices it has.
    """

    network: str
    """Full name, as `segdistill networks` lists it."""
    output_stride: Literal[1, 2, 4, 8, 16, 32] | None = None
    """Stride of the backbone's last features, in pixels of the image."""
    aux: bool = True
    """Auxiliary head, in training only, of a network that has one."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Probability of dropout before the classifier."""
    stem: Literal["plain", "deep", "deep-narrow"] | None = None
    """First layer of a ResNet: one 7x7 convolution, which is the default, or three 3x3; `deep-narrow` has half their
    channels, as ResNet-C and mmsegmentation's ResNetV1c."""
    dilation: Literal["late", "early"] | None = None
    """Beginning of the dilation in a ResNet's stage that lost its stride: after the convolution that lost it, as
    torchvision and CIRKD have it, which is the default; or from its first convolution on, as Liu et al. 2019 and
    DeepLab-v2 do."""
    stem_pool: Literal["floor", "ceil"] | None = None
    """Rounding of a ResNet's max pooling, which halves an even size: 256 to 128, which is the default, or to 129, as in
    Liu et al. 2019 (PyTorch's ceil_mode)."""
    head_width: Annotated[int, Field(ge=1, le=65536)] | None = None
    """Channels of the features that feed the classifier."""
    head_slope: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Slope of the activations in a PSPNet's pyramid below 0: the default is 0, ReLU; Liu et al. 2019 have 0.01."""
    aspp: bool | None = None
    """Whether a DeepLabV3 has its atrous convolutions; the default is yes."""
    skip: Literal["normalized", "raw"] | None = None
    """Input of an ESPNet's decoder from level 1: its output and the image after batch norm and activation, which is the
    default, or its output alone, as the authors' Cityscapes networks have it."""
    conv_last: bool | None = None
    """Whether an STDC's map at 1/32 passes the classifier's 1x1 convolution (use_conv_last); the default is no."""
    classifier_bias: bool | None = None
    """Whether an STDC's classifiers have a bias, as mmsegmentation's; the default is no, as its authors'."""
    align_corners: bool | None = None
    """Whether maps are enlarged, in the network and at its end, with corners aligned; the default is areas. Both are
    bilinear."""
    input: InputConfig | None = None
    """Preprocessing of its images; the default is ImageNet's RGB."""

    def dropout_or(self, published: float) -> float:
        """Return the dropout that was chosen, else the network's own."""
        return published if self.dropout is None else self.dropout


class LossConfig(Strict):
    """The loss with the labels, beside which the terms of a distillation stand; alike for student and baseline.

    Where a step has several micro-batches or processes, each takes its own hard pixels and its own overlap.
    """

    class_weights: ClassWeights = "none"
    """Weight of a pixel in the cross entropies by its class: `inverse-log`, 1 / ln(log_offset + p) of its share p of
    the labeled training pixels (ENet and ESPNet); `median-frequency`, the median of the classes' frequencies divided by
    its own, which is its share of the pixels of images that have it (Eigen and Fergus 2015); a table of numbers by
    class name, 1 for those that are left out; or a list in the order of the classes."""
    log_offset: LogOffset = 1.02
    """Offset in `inverse-log`: weights are at most 1 / ln(log_offset), 50 for ENet's 1.02 and 10 for ESPNet's 1.10."""
    ohem_threshold: Decay = 0.0
    """Probability of its class below which a pixel counts in the cross entropy (online hard example mining); 0 counts
    all. The auxiliary head's counts all, as in HRNet's code."""
    ohem_kept: Fraction = 0.0625
    """Share of the labeled pixels that count at least, the hardest ones, where `ohem_threshold` is above 0."""
    dice: NonNegative = 0.0
    """Weight of soft Dice, the overlap of probabilities and labels (Milletari et al. 2016), beside cross entropy."""

    @field_validator("class_weights", mode="before")
    @classmethod
    def _of_one_form(cls, value: Any) -> Any:
        return known_class_weights(value)


class OptimConfig(Strict):
    """An optimizer and the schedule of its learning rate, from the first step to the last."""

    algorithm: Algorithm = "sgd"
    """Optimizer: SGD with momentum, Adam, or AdamW, whose weight decay does not pass through the averages."""
    lr: Positive
    """Learning rate of the first step behind the warm-up."""
    momentum: Decay = 0.9
    """Momentum of SGD, or the first beta of Adam and AdamW."""
    beta2: Decay = 0.99
    """Second beta of Adam and AdamW."""
    weight_decay: WeightDecay = 5e-4
    """Factor of the weights that is added to their gradient; AdamW takes it off the weights, times the rate."""
    schedule: Schedule = "poly"
    """Fall of the rate: `poly`, lr * (1 - step / steps) ** power; `cosine`, half a wave down to 0 (Loshchilov and
    Hutter 2017, without restarts); `stairs`, times `drop` at `drops` equal distances."""
    power: NonNegative = 0.9
    """Exponent of `poly`."""
    drops: Drops = 2
    """Number of times that `stairs` lowers the rate: 2 leave it as it is for the first third of the steps."""
    drop: Fraction = 0.5
    """Factor of the rate each time that `stairs` lowers it."""
    warmup: Warmup = 0
    """Steps over which the rate rises linearly to its schedule."""
    steps: Annotated[int, Field(ge=1)]
    """Optimizer steps of the training."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Micro-batches per step: less memory, the same result."""
    clip: NonNegative = 0.0
    """Largest norm of the gradient over all parameters, to which a larger one is scaled down (Pascanu et al. 2013); 0
    leaves all as they are."""
    ema: Decay = 0.0
    """Share of the weights' exponential moving average that is kept from step to step, 0.999 for example; in the first
    steps it is smaller. The average is validated and, unless `validate.ship` says otherwise, shipped. 0 keeps none."""


class OptimChanges(Strict):
    """Keys of `[optim]` that are other for a teacher, or that its authors' recipe gives a network; see there."""

    algorithm: Algorithm | None = None
    """Optimizer."""
    lr: Positive | None = None
    """Learning rate of the first step behind the warm-up."""
    momentum: Decay | None = None
    """Momentum of SGD, or first beta."""
    beta2: Decay | None = None
    """Second beta."""
    weight_decay: WeightDecay | None = None
    """Weight decay."""
    schedule: Schedule | None = None
    """Fall of the rate."""
    power: NonNegative | None = None
    """Exponent of `poly`."""
    drops: Drops | None = None
    """Number of stairs down."""
    drop: Fraction | None = None
    """Factor of the rate at each stair."""
    warmup: Warmup | None = None
    """Steps over which the rate rises."""
    clip: NonNegative | None = None
    """Largest norm of the gradient."""
    ema: Decay | None = None
    """Share of the average of the weights that is kept."""


class LossChanges(Strict):
    """Keys of `[loss]` that are other for a teacher; see there."""

    class_weights: ClassWeights | None = None
    """Weights of the classes."""
    log_offset: LogOffset | None = None
    """Offset in `inverse-log`."""
    ohem_threshold: Decay | None = None
    """Probability below which a pixel counts."""
    ohem_kept: Fraction | None = None
    """Share of the labeled pixels that count at least."""
    dice: NonNegative | None = None
    """Weight of soft Dice."""

    @field_validator("class_weights", mode="before")
    @classmethod
    def _of_one_form(cls, value: Any) -> Any:
        return known_class_weights(value)


class LabelEmbedding(Strict):
    """The label as a label-assisted teacher sees it: a number per class, in a further channel (Qiu et al. 2024)."""

    scale: Positive = 1.75
    """Factor of the channel, so that it deviates somewhat more than an image beside it that ImageNet's deviation
    divides; where another one does, it divides the channel too."""
    noise: Annotated[float, Field(ge=0)] = 0.2
    """Standard deviation of the pixel noise while it teaches, in distances between the numbers of two classes."""
    training_noise: Annotated[float, Field(ge=0)] = 0.3
    """Standard deviation of the pixel noise while it is trained, likewise."""
    init: Annotated[float, Field(ge=0)] = 0.1
    """Standard deviation of the first weights that the channel meets."""
    consistency: Annotated[float, Field(ge=0)] = 5.0
    """Weight of the two paths' agreement while it is trained."""
    temperature: Positive = 4.0
    """Divisor of the logits whose agreement is measured."""


class TeacherConfig(NetworkConfig):
    """The teacher, and how it is trained where there is none yet."""

    steps: Annotated[int, Field(ge=1)] | None = None
    """Steps of its training, where they differ from `optim.steps`."""
    lr: Positive | None = None
    """Learning rate of its training, where it differs from `optim.lr`."""
    aux_weight: Annotated[float, Field(ge=0)] | None = None
    """Weight of its auxiliary head's cross entropy, where it differs from the student's."""
    optim: OptimChanges | None = None
    """Table of what differs from `[optim]` in its training; `steps` and `lr` above come first."""
    loss: LossChanges | None = None
    """Table of what differs from `[loss]` in its loss with the labels."""
    label_embedding: LabelEmbedding | None = None
    """Table that makes it a label-assisted teacher, in training and in teaching."""
    class_map: dict[str, str] | None = None
    """Classes of a pretrained teacher that has others than the data: from its own to the data's, or "ignore"."""
    scale: ScaleFactor = 1.0
    """Factor by which the teacher sees images larger than the student does, 1.5 for example; its logits are brought to
    the student's map."""
    scales: Annotated[tuple[ScaleFactor, ...], Field(min_length=1, max_length=8)] | None = None
    """Several such factors in the place of `scale`: the mean of the probabilities over all of them teaches."""
    flip: bool = False
    """Whether the teacher sees each image mirrored left to right, too; the mean of the probabilities teaches."""

    targets: Literal["soft", "hard", "both"] = "soft"
    """What a student learns from it: "soft", its probabilities and feature maps, by the terms; "hard", its most likely
    class as the label of each pixel of an image without labels, and no term on logits; "both", the two together."""
    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability of its most likely class below which a pixel counts nowhere, in terms and as a label."""

    @model_validator(mode="after")
    def _has_one_kind_of_scale(self) -> Self:
        if self.scales is not None and self.scale != 1:
            raise ValueError(f"scale = {self.scale:g} beside scales: give one of the two")
        return self

    @model_validator(mode="before")
    @classmethod
    def _read_version_0_1(cls, table: Any) -> Any:
        return with_new_key(table, "label_codes", "label_embedding")


class DataConfig(Strict):
    """The images and how they are augmented."""

    name: str = BUILT_IN
    """Data set: a built-in name, NAME:PATH, or the path of a data.toml."""
    size: Size | None = None
    """Height and width that images are brought to first, in training, evaluation and inference; scores are at the
    labels' own."""
    crop: Size
    """Height and width of the parts of images that are trained on."""
    batch_size: Annotated[int, Field(ge=1, le=65536)]
    """Images per optimizer step, over all processes and micro-batches."""
    scale: tuple[ScaleFactor, ScaleFactor] = (0.5, 2.0)
    """Factors between which a random one, uniform, scales an image before the crop."""
    flip: Fraction = 0.5
    """Probability of mirroring left and right."""
    color: Fraction = 0.0
    """Strength of random brightness, contrast and saturation."""
    cutmix: Fraction = 0.0
    """Probability that a rectangle of a crop is another training image's, with its label (CutMix, Yun et al. 2019);
    teacher, student and baseline see the same crop."""
    labeled: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the training images whose labels are used; the others count as unlabeled."""
    unlabeled: tuple[str, ...] = ()
    """Folders of images without labels, mixed in for the terms that need none."""
    images: tuple[str, ...] = ()
    """Folders of images without labels that alone are trained on: a teacher says what is in them."""
    held_back: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of these images that are not trained on, and by which a student is scored against its teacher where there
    is no labeled val split; 200 at most."""
    auxiliary: tuple[str, ...] = ()
    """Further splits of the data set, mixed in likewise, such as the coarse one of cityscapes."""
    auxiliary_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of such images in each batch, where there are any; rounded to whole images, at least one of each kind
    unless it is 1."""

    @field_validator("scale")
    @classmethod
    def _in_order(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if scale[0] > scale[1]:
            raise ValueError("the smaller factor comes first")
        return scale

    @property
    def auxiliary_images(self) -> int:
        """Number of images of a batch that are unlabeled or auxiliary, where there are such."""
        # At least one labeled image, unless the share leaves none on purpose.
        max_images = self.batch_size if self.auxiliary_share == 1 else self.batch_size - 1
        return max(1, min(round(self.auxiliary_share * self.batch_size), max_images))


class TermConfig(BaseModel):
    """A term and its weight; its other keys are checked by the term's own table, once its module is loaded."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    weight: Annotated[float, Field(ge=0)]
    """Factor of the term in the loss."""
    term: str | None = None
    """Name of the term, where the table's own does not say so: one term may be listed several times."""
    gradient_ratio: Annotated[float, Field(gt=0)] | None = None
    """Norm of the weighted term's gradient at the first steps, in multiples of that of cross entropy, to which the
    weight is scaled then; without it the weight stays as it is. See `balance_terms`."""

    @field_validator("weight", "gradient_ratio")
    @classmethod
    def _computable(cls, value: float | None) -> float | None:
        return None if value is None else float(computable(value))

    def options(self) -> dict[str, Any]:
        """Return the keys that belong to the term itself."""
        return dict(self.model_extra or {})


class Every(Strict):
    """An interval of what is done every so many steps, and after the last."""

    every: Annotated[int, Field(ge=1)]
    """Steps between two times."""


class Validation(Every):
    """The validation: when images are scored, how many at once, and what follows from the scores."""

    batch_size: Annotated[int, Field(ge=1, le=65536)] | None = None
    """Images at once, at most; default: 4, and fewer large ones. Not part of a run: `--resume` takes another one."""
    patience: Annotated[int, Field(ge=0)] = 0
    """Validations without a better mIoU after which a training ends, alike for teacher, student and baseline; 0 goes on
    to the last step, and so does a label-assisted teacher, whose mIoU says how well it reads labels."""
    ship: Literal["auto", "last", "ema", "best"] = SHIP
    """Weights that become the model: `last`, of the last step; `ema`, the average of `optim.ema`; `best`, of the best
    validation, whose score is optimistic as the same images chose it; `auto`, the average where one is kept, else the
    last. The others can be had by `--weights`."""


class RunConfig(Strict):
    """All of a run's settings, resolved. Written as TOML it is a preset again."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True)

    preset: Annotated[str, Field(pattern=r"^\w[\w .()+-]*$", max_length=64)]
    """Name of the preset. It is part of the name of a run's folder, so that it may not name another one."""
    about: str = ""
    """Sentence on the preset."""
    paper: str = ""
    """Publication that it follows."""
    starts_from: Literal["random", "imagenet"] = "random"
    """Weights that the preset wants the backbones to start from; a training that starts from others says so."""
    seed: Annotated[int, Field(ge=0, lt=LARGEST_SIZE)] = 0
    """Seed of all that is random."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of the networks' forward passes in training."""
    teacher: TeacherConfig
    """Table of the teacher."""
    student: NetworkConfig
    """Table of the student."""
    data: DataConfig
    """Table of the images and their augmentation."""
    optim: OptimConfig
    """Table of the student's training and, where its own table does not differ, the teacher's."""
    loss: LossConfig = LossConfig()
    """Table of the loss with the labels and, where its own table does not differ, the teacher's."""
    aux_weight: Annotated[float, Field(ge=0)] = 0.4
    """Weight of the auxiliary head's cross entropy."""
    balance_terms: bool | None = None
    """Whether each term whose weight is the preset's gets a `gradient_ratio`, the one that its kind has. The default is
    yes where the networks or the data are other than those that the preset's weights were chosen for, else no."""
    checkpoint: Every
    """Interval of the checkpoints."""
    validate_: Annotated[Validation, Field(alias="validate")]
    """Interval of the validations."""
    terms: dict[str, TermConfig] = {}
    """Tables of the distillation terms, by name."""

    @field_validator("terms")
    @classmethod
    def _have_known_names(cls, terms: dict[str, TermConfig]) -> dict[str, TermConfig]:
        known = components("terms")
        kinds = {name: config.term or name for name, config in terms.items()}
        mistakes = [f"unknown term {kind!r}. {nearest(kind, known)}" for kind in kinds.values() if kind not in known]
        for name, kind in kinds.items():
            # so that no name is one that the log or a module has a use for, and each says what it is
            if kind in known and not re.fullmatch(rf"{kind}(-[a-z0-9]+)*", name):
                mistakes.append(f"the name {name!r} must begin with its term's and a hyphen: {kind}-a.")
        if mistakes:
            raise ValueError(" ".join(mistakes))
        return terms

    @model_validator(mode="after")
    def _has_what_it_ships(self) -> Self:
        if self.validate_.ship == "ema" and not self.optim.ema:
            raise ValueError('validate.ship = "ema" needs an average; optim.ema is 0, for example: optim.ema=0.999')
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return the tables as a preset's file has them, unset values left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    def shipped_weights(self, optim: OptimConfig) -> Weights:
        """Return which weights of a training with this optimizer become its model."""
        if self.validate_.ship != "auto":
            return self.validate_.ship
        return "ema" if optim.ema > 0 else "last"

    def changed(self, **values: Any) -> "RunConfig":
        """Return a copy with other values: `config.changed(**{"optim.steps": 5})`, checked like a preset."""
        table = self.to_dict()  # `model_copy` would not check the new values
        for path, value in values.items():
            assign(table, path, value, source=path)
        return validated(RunConfig, table, "the resolved configuration")

    def capped(self, steps: int | None) -> "RunConfig":
        """Return a copy in which student and teacher train for no longer than `steps`; the schedules end there.

        What terms have trained beforehand is theirs to know: `terms.cap_stages` caps that too.
        """
        if steps is None:
            return self
        stages = {"optim.steps": self.optim.steps, "teacher.steps": self.teacher.steps}
        capped = {path: min(value, steps) for path, value in stages.items() if value is not None}
        return self.changed(**capped)

    def teacher_optim(self) -> OptimConfig:
        """Return the optimizer of a teacher trained on the way."""
        changes: dict[str, Any] = {}
        if self.teacher.optim is not None:
            changes = self.teacher.optim.model_dump(exclude_none=True)
        changes |= {"steps": self.teacher.steps or self.optim.steps}
        if self.teacher.lr is not None:
            changes["lr"] = self.teacher.lr
        return self.optim.model_copy(update=changes)

    def teacher_loss(self) -> LossConfig:
        """Return the loss with the labels of a teacher trained on the way."""
        if self.teacher.loss is None:
            return self.loss
        return self.loss.model_copy(update=self.teacher.loss.model_dump(exclude_none=True))

    def teacher_aux_weight(self) -> float:
        """Return the weight of the auxiliary head's cross entropy of a teacher trained on the way."""
        return self.aux_weight if self.teacher.aux_weight is None else self.teacher.aux_weight
