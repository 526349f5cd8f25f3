"""What a run is made of: presets in TOML, their overrides, and the frozen `RunConfig` that results.

A value comes from, each overriding the one before, the preset's file, its table for the data set (`[on.camvid]`),
`--set`, and flags.
Nothing here imports torch: every mistake in a preset's structure is found within the first second.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from segdistill.errors import UsageError, nearest
from segdistill.reading import open_file

PACKAGE = Path(__file__).parent
BUILT_IN = "streets"
"""The data set that needs no files."""
MAX_PRESET_BYTES = 1 << 18
MOST_PARTS = 32
"""Parts of a key, as nobody writes it: in 60 kB of "a.a.a." tomllib would find 4 GB and half a minute of work."""
MOST_ITEMS = 1 << 17
"""Keys, parts of keys, lists and tables of a TOML file: tomllib takes up to a kilobyte for each. An id is one of them.

With both, a file of n bytes takes at most 30 n + 300 MB of memory, and 1 s + 3 s per MB of time.
"""
MAX_WORD = 1024
"""Characters of a key without quotes, or of a number: tomllib takes over a hundred bytes for each digit."""
TOML_TOKEN = re.compile(
    r"""
    (?P<part>
        (?:"{3} (?: [^"\\]++ | \\. | "(?!"") )*+ (?: "{3,5}+ | \\?\Z ) | '{3} .*? (?: '{3,5}+ | \Z ))
        | " (?: [^"\\\n]++ | \\[^\n] )*+ "?
        | ' [^'\n]*+ '?
        | [\w-]++
    )
    | (?P<item>[.=[{])
    | (?P<blank>[ \t]++)
    | \#[^\n]*+
    | [^.=[{\w"'\# \t-]++
    """,
    re.ASCII | re.DOTALL | re.VERBOSE,
)
"""What TOML's text is made of; no alternative gives back what it took, so that it is read once, whatever it says."""
MOST_MISTAKES, MOST_SHOWN = 20, 200
"""Lines of a message, and characters of a value in it."""

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
"""RGB statistics of ImageNet in units of 0..255, as torchvision's weights expect them."""

SMALLEST, LARGEST = 1e-30, 1e30
"""Float32 has numbers from 1e-38 to 3e38."""
LARGEST_SIZE = 2**31

Fraction = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
"""Share of an optimizer's average that is kept from step to step: 1 would never take in anything."""
Positive = Annotated[float, Field(gt=0)]
Factor = Annotated[float, Field(ge=0.01, le=100)]
"""Of an image's size."""
Mean = Annotated[float, Field(ge=-1e6, le=1e6)]
Deviation = Annotated[float, Field(ge=1e-6, le=1e6)]
"""Of a channel: within what float32 computes with."""
Size = tuple[Annotated[int, Field(ge=1, le=65536)], Annotated[int, Field(ge=1, le=65536)]]
"""(height, width)"""


def computable(value: Any) -> Any:
    """Return a value unless it is a number that float32 or PyTorch's sizes cannot hold, which is found late otherwise.

    Raises:
        ValueError: if it is one.
    """
    if isinstance(value, float) and value and not SMALLEST <= abs(value) <= LARGEST:
        raise ValueError(f"a number between {SMALLEST:g} and {LARGEST:g}, or 0")
    if isinstance(value, int) and abs(value) >= LARGEST_SIZE:
        raise ValueError(f"a whole number below {LARGEST_SIZE}")
    return value


class Strict(BaseModel):
    """A table of a preset: unknown keys are errors, values do not change, numbers are such as can be computed with."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _computable(cls, value: Any) -> Any:
        return computable(value)


class InputConfig(Strict):
    """How a network wants its images, which are RGB in 0..255 everywhere else: (channel - mean) / std / divide."""

    mean: tuple[Mean, Mean, Mean] = IMAGENET_MEAN
    """Red, green, blue, whatever the order below."""
    std: tuple[Deviation, Deviation, Deviation] = IMAGENET_STD
    divide: Deviation = 1.0
    order: Literal["rgb", "bgr"] = "rgb"
    """Of the channels that the first layer sees."""

    @model_validator(mode="after")
    def _of_numbers_to_255(self) -> Self:
        if any(self.mean) and all(abs(mean) <= 1 for mean in self.mean):
            mean, std = ([round(255 * value, 3) for value in values] for values in (self.mean, self.std))
            also = f" and std {std}" if all(value <= 1 for value in self.std) else ""
            raise ValueError(f"a mean of numbers in 0..1; here they are in 0..255: mean {mean}{also}, divide 1")
        return self

    def over(self, own: "InputConfig") -> "InputConfig":
        """Return what a model says of its images, but for what was said here."""
        return own.model_copy(update={key: getattr(self, key) for key in self.model_fields_set})


class NetworkConfig(Strict):
    """A network as `segdistill networks` names it, with what can be chosen about it.

    None leaves a choice to the network: its file in `networks/` says what it takes, and which choices it has.
    """

    network: str
    output_stride: Literal[1, 2, 4, 8, 16, 32] | None = None
    """Of the backbone's last features."""
    aux: bool = True
    """The auxiliary head, in training only, of a network that has one."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Before the classifier."""
    stem: Literal["plain", "deep"] | None = None
    """A ResNet's: one 7x7 convolution, which is the default, or three 3x3."""
    dilation: Literal["late", "early"] | None = None
    """Where a ResNet's stage that lost its stride dilates: after the convolution that lost it, as torchvision and CIRKD
    have it, which is the default; or from its first convolution on, as Liu et al. 2019 and DeepLab-v2 do."""
    stem_pool: Literal["floor", "ceil"] | None = None
    """How a ResNet's max pooling halves an even size: 256 to 128, which is the default, or to 129, as Liu et al. 2019
    (PyTorch's ceil_mode)."""
    head_width: Annotated[int, Field(ge=1, le=65536)] | None = None
    """Channels of the features that feed the classifier."""
    head_slope: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Slope of the activations in a PSPNet's pyramid below 0: the default is 0, ReLU; Liu et al. 2019 have 0.01."""
    aspp: bool | None = None
    """Whether a DeepLabV3 has its atrous convolutions; the default is yes."""
    skip: Literal["normalized", "raw"] | None = None
    """What an ESPNet's decoder sees of level 1: its output and the image after batch norm and activation, which is the
    default, or its output alone, as the authors' Cityscapes networks do."""
    conv_last: bool | None = None
    """Whether an STDC's map at 1/32 passes the classifier's 1x1 convolution (use_conv_last); the default is no."""
    align_corners: bool | None = None
    """How maps are enlarged, in the network and at its end: bilinear, with corners or (the default) areas aligned."""
    input: InputConfig | None = None
    """The default is ImageNet's RGB."""

    def dropout_or(self, published: float) -> float:
        """Return the dropout that was chosen, else the network's own."""
        return published if self.dropout is None else self.dropout


class LabelCodes(Strict):
    """How a label-assisted teacher sees the label: as a number per class, in a further channel (Qiu et al. 2024)."""

    scale: Positive = 1.75
    """Multiplies the channel, so that it deviates somewhat more than an image beside it that ImageNet's deviation
    divides; where another one does, it divides the channel too."""
    noise: Annotated[float, Field(ge=0)] = 0.2
    """Deviation of the pixel noise while it teaches, in distances between two codes."""
    training_noise: Annotated[float, Field(ge=0)] = 0.3
    """The same while it is trained."""
    init: Annotated[float, Field(ge=0)] = 0.1
    """Deviation of the first weights that the channel meets."""
    consistency: Annotated[float, Field(ge=0)] = 5.0
    """Weight of the two paths' agreement while it is trained."""
    temperature: Positive = 4.0
    """Divides the logits whose agreement is measured."""


class TeacherConfig(NetworkConfig):
    """The teacher, and how it is trained where there is none yet."""

    steps: Annotated[int, Field(ge=1)] | None = None
    """Where it differs from `optim.steps`."""
    lr: Positive | None = None
    """Where it differs from `optim.lr`."""
    aux_weight: Annotated[float, Field(ge=0)] | None = None
    """Where it differs from the student's."""
    label_codes: LabelCodes | None = None
    """Makes it a label-assisted teacher, in training and in teaching."""
    class_map: dict[str, str] | None = None
    """Of a teacher that is given with other classes: from its classes to the data's, or "ignore"."""


class DataConfig(Strict):
    """The images and how they are augmented."""

    name: str = BUILT_IN
    """A built-in name, NAME:PATH, or the path of a data.toml."""
    size: Size | None = None
    """Images are brought to this size first, in training, evaluation and inference; scores are at the labels' own."""
    crop: Size
    batch_size: Annotated[int, Field(ge=1, le=65536)]
    """Images per optimiser step, over all processes and micro-batches."""
    scale: tuple[Factor, Factor] = (0.5, 2.0)
    """Random scaling before the crop, uniform between the two."""
    flip: Fraction = 0.5
    """Probability of mirroring left and right."""
    color: Fraction = 0.0
    """Strength of random brightness, contrast and saturation."""
    labeled: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the training images whose labels are used; the others count as unlabelled."""
    unlabeled: tuple[str, ...] = ()
    """Folders of images without labels, mixed in for the terms that need none."""
    auxiliary: tuple[str, ...] = ()
    """Further splits of the data set, mixed in likewise, such as the coarse one of cityscapes."""
    auxiliary_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Of each batch, where there are such images; rounded to whole images, at least one of each kind unless it is 1."""

    @field_validator("scale")
    @classmethod
    def _in_order(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if scale[0] > scale[1]:
            raise ValueError("the smaller factor comes first")
        return scale

    @property
    def auxiliary_images(self) -> int:
        """How many images of a batch are unlabelled or auxiliary, where there are such."""
        most = self.batch_size - (self.auxiliary_share < 1)
        return max(1, min(round(self.auxiliary_share * self.batch_size), most))


class OptimConfig(Strict):
    """One optimiser and its schedule: lr * (1 - step / steps) ** power."""

    algorithm: Literal["sgd", "adam"] = "sgd"
    lr: Positive
    momentum: Decay = 0.9
    """Adam's first beta where the algorithm is adam."""
    beta2: Decay = 0.99
    weight_decay: Annotated[float, Field(ge=0, le=100)] = 5e-4
    power: Annotated[float, Field(ge=0)] = 0.9
    warmup: Annotated[int, Field(ge=0)] = 0
    """Steps over which the rate rises linearly to its schedule."""
    steps: Annotated[int, Field(ge=1)]
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Micro-batches per step: less memory, the same result."""


class TermConfig(BaseModel):
    """A term's weight; its other keys are checked by the term's own table, once its module is loaded."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    weight: Annotated[float, Field(ge=0)]
    term: str | None = None
    """Which term it is, where the table's own name does not say so: one term may be listed several times."""

    @field_validator("weight")
    @classmethod
    def _computable(cls, value: float) -> float:
        return float(computable(value))

    def options(self) -> dict[str, Any]:
        """Return the keys that belong to the term itself."""
        return dict(self.model_extra or {})


class Every(Strict):
    """Something done every so many steps, and after the last."""

    every: Annotated[int, Field(ge=1)]


class Validation(Every):
    """When validation images are scored, and how many at once."""

    batch_size: Annotated[int, Field(ge=1, le=65536)] | None = None
    """Images at once, at most; default: 4, and fewer large ones. Not part of a run: `--resume` takes another one."""


class RunConfig(Strict):
    """All of a run's settings, resolved. Written as TOML it is a preset again."""

    preset: Annotated[str, Field(pattern=r"^\w[\w .()+-]*$", max_length=64)]
    """Part of the name of a run's folder, so it names no other."""
    about: str = ""
    paper: str = ""
    seed: Annotated[int, Field(ge=0, lt=LARGEST_SIZE)] = 0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    teacher: TeacherConfig
    student: NetworkConfig
    data: DataConfig
    optim: OptimConfig
    aux_weight: Annotated[float, Field(ge=0)] = 0.4
    """Weight of the auxiliary head's cross entropy."""
    checkpoint: Every
    validate_: Annotated[Validation, Field(alias="validate")]
    terms: dict[str, TermConfig] = {}

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True)

    @field_validator("terms")
    @classmethod
    def _known(cls, terms: dict[str, TermConfig]) -> dict[str, TermConfig]:
        known = components("terms")
        kinds = {name: config.term or name for name, config in terms.items()}
        mistakes = [f"unknown term {kind!r}. {nearest(kind, known)}" for kind in kinds.values() if kind not in known]
        # so that no name is one that the log or a module has a use for, and each says what it is
        mistakes += [
            f"the name {name!r} must begin with its term's and a hyphen: {kind}-a."
            for name, kind in kinds.items()
            if kind in known and not re.fullmatch(rf"{kind}(-[a-z0-9]+)*", name)
        ]
        if mistakes:
            raise ValueError(" ".join(mistakes))
        return terms

    def to_dict(self) -> dict[str, Any]:
        """Return the tables as a preset's file has them, unset values left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    def changed(self, **values: Any) -> "RunConfig":
        """Return a copy with other values: `config.changed(**{"optim.steps": 5})`, checked like a preset."""
        table = self.to_dict()
        for path, value in values.items():
            _assign(table, path, value, path)
        return validated(RunConfig, table, "the resolved configuration")

    def capped(self, steps: int | None) -> "RunConfig":
        """Return a copy in which no stage runs longer than `steps`; the schedules end there."""
        if steps is None:
            return self
        values = {"optim.steps": min(self.optim.steps, steps)}
        if self.teacher.steps is not None:
            values["teacher.steps"] = min(self.teacher.steps, steps)
        for name, term in self.terms.items():  # a table of steps is a stage that the term trains beforehand
            for key, table in term.options().items():
                if isinstance(table, dict) and "steps" in table:
                    values[f"terms.{name}.{key}.steps"] = min(table["steps"], steps)
        return self.changed(**values)

    def teacher_optim(self) -> OptimConfig:
        """Return the optimiser of a teacher trained on the way."""
        own = {"steps": self.teacher.steps, "lr": self.teacher.lr}
        return self.optim.model_copy(update={key: value for key, value in own.items() if value is not None})

    def teacher_aux_weight(self) -> float:
        """Return the weight of the auxiliary head's cross entropy of a teacher trained on the way."""
        return self.aux_weight if self.teacher.aux_weight is None else self.teacher.aux_weight


class ClassMapFile(Strict):
    """What `--class-map` reads."""

    classes: dict[str, str]


def load_preset(
    name_or_path: str | Path,
    overrides: Iterable[str] = (),
    *,
    data: str | None = None,
    flags: Mapping[str, Any] | None = None,
) -> RunConfig:
    """Read a preset by name or from a file and resolve it.

    Args:
        name_or_path: a name that `presets list` shows, or the path of a .toml file.
        overrides: "KEY=VALUE" strings, the key as `presets show` prints it, the value as TOML (or a bare string).
        data: the data set that decides which `[on.NAME]` table applies; default: the file's own, after `overrides`.
        flags: values by dotted path that are set last.

    Raises:
        UsageError: an unknown preset, key or value, naming all mistakes at once.
    """
    path = _preset_path(name_or_path)
    table = read_toml(path)
    tables = table.pop("on", {})
    table.setdefault("preset", path.stem)
    settings = [_parse_override(text) for text in overrides]
    names = [value for key, value in settings if key == "data.name" and isinstance(value, str)]
    chosen = data or (names[-1] if names else None)
    own = table.get("data")
    name = own.get("name") if isinstance(own, dict) else None
    chosen = chosen or (name if isinstance(name, str) else BUILT_IN)
    if not isinstance(tables, dict) or not all(isinstance(value, dict) for value in tables.values()):
        raise UsageError(f"{path}: [on] holds one table per data set", "Write [on.camvid.data], [on.camvid.optim], ...")
    _merge(table, tables.get(chosen.partition(":")[0], {}))
    if data is not None:
        _assign(table, "data.name", data, "--data")
    for key, value in settings:
        _assign(table, key, value, f"--set {key}")
    for key, value in (flags or {}).items():
        _assign(table, key, value, key)
    given = "".join(f" with --set {key}" for key, _ in settings)
    return validated(RunConfig, table, f"preset {name_or_path}{given}")


def read_toml(path: Path, most: int = MAX_PRESET_BYTES) -> dict[str, Any]:
    """Read a TOML file, with or without a byte order mark: every one that a user gives comes through here.

    Raises:
        UsageError: if it cannot be read, has more than `most` bytes, or is not valid.
    """
    try:
        with open_file(path) as file:
            content = file.read(most + 1)
        if len(content) > most:
            raise UsageError(f"{path} is larger than {most} bytes.", "It should hold names and numbers, no data.")
        text = content.decode("utf-8-sig")
        if problem := _costly(text):
            raise UsageError(f"{path} cannot be read: {problem}.", "It should hold names and numbers, no data.")
        return tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:  # not TOML, no text, or a number of more than 4300 digits
        raise UsageError(f"{path} is not valid TOML: {error}") from None


def _costly(text: str) -> str:
    """Return what in a TOML file would take tomllib long or much memory; nothing where all is well."""
    items = parts = 0
    begin = ""
    dotted = False
    for token in TOML_TOKEN.finditer(text):
        kind = token.lastgroup
        if kind == "blank":
            continue
        if kind == "item":
            items += 1
            dotted = token[0] == "."
            continue
        if kind == "part" and not dotted:
            parts, begin = 0, token[0][:20]
        if kind == "part" and len(token[0]) > MAX_WORD and token[0][0] not in "\"'":
            return f"a key or number of more than {MAX_WORD} characters begins with {token[0][:20]}"
        parts += kind == "part"
        dotted = False
        if parts > MOST_PARTS:
            return f"a key of more than {MOST_PARTS} parts begins with {begin}"
        if items > MOST_ITEMS:
            return f"it has more than {MOST_ITEMS} keys, lists and tables"
    return ""


def parse_network(name: str, overrides: Iterable[str]) -> NetworkConfig:
    """Return a network's configuration from "KEY=VALUE" strings; `model_fields_set` tells which keys there were.

    Raises:
        UsageError: unknown keys or values, naming all mistakes at once.
    """
    table: dict[str, Any] = {}
    for text in overrides:
        key, value = _parse_override(text, example="output_stride=16")
        _assign(table, key, value, f"--set {key}")
    return validated(NetworkConfig, table | {"network": name}, "--set")


def read_class_map(path: Path) -> dict[str, str]:
    """Read the table [classes] of a file: from the teacher's classes to the data's.

    Raises:
        UsageError: if there is none, or it holds anything else.
    """
    if not path.is_file():
        raise UsageError(
            f"There is no class map {path}.", 'It is a TOML file: [classes], then lines "car" = "vehicle".'
        )
    return validated(ClassMapFile, read_toml(path), str(path)).classes


def preset_names() -> list[str]:
    """Return the names of the presets that come with the package."""
    return sorted(path.stem for path in preset_folder().glob("*.toml"))


def preset_folder() -> Path:
    """Return the folder of the presets: inside an installed package, beside the package in a source tree."""
    installed = PACKAGE / "presets"
    return installed if installed.is_dir() else PACKAGE.parent / "presets"


def components(package: str) -> list[str]:
    """Return what a preset can name in `terms`, `networks` or `data`: the files without a leading underscore."""
    return sorted(p.stem.replace("_", "-") for p in (PACKAGE / package).glob("*.py") if not p.stem.startswith("_"))


def find(package: str, name: str, kind: str, hint: str = "") -> str:
    """Return the module that a preset names, e.g. `segdistill.terms.pairwise`.

    Raises:
        UsageError: if there is no such file, with the nearest names and the hint.
    """
    known = components(package)
    if name not in known:
        raise UsageError(f"Unknown {kind} {name!r}.", f"{nearest(name, known)} {hint}".strip())
    return f"segdistill.{package}.{name.replace('-', '_')}"


def data_example(name: str) -> str:
    """Return what `--data` is given for the data set of that name, or of none that is known.

    PATH, FILE and NAME stand for what only the user knows.
    """
    if not name:
        return "NAME:PATH"
    return name if name == BUILT_IN else f"{name}:PATH" if name in components("data") else "FILE.toml"


def find_data(spec: str) -> str:
    """Return the module of the data set that NAME, NAME:PATH or the path of a data.toml names.

    Raises:
        UsageError: if there is none.
    """
    if spec.endswith(".toml"):
        return "segdistill.data._own"
    hint = "Data is given as NAME, as NAME:PATH, for example camvid:/data/CamVid, or as the path of a data.toml."
    return find("data", spec.partition(":")[0], "data set", hint)


Model = TypeVar("Model", bound=BaseModel)


def validated(model: type[Model], table: Mapping[str, Any], where: str) -> Model:
    """Check a table against its model, naming all mistakes at once with the nearest known keys."""
    try:
        return model.model_validate(table)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False)
        lines = [_explain(model, problem) for problem in problems[:MOST_MISTAKES]]
        lines += [f"and {len(problems) - MOST_MISTAKES} more"] if len(problems) > MOST_MISTAKES else []
        count = "1 mistake" if len(problems) == 1 else f"{len(problems)} mistakes"
        raise UsageError(f"{count} in {where}:\n" + "\n".join(f"  {line}" for line in lines)) from None


def _explain(model: type[BaseModel], problem: Any) -> str:
    path = [str(part) for part in problem["loc"]]
    if problem["type"] == "extra_forbidden":
        return f"{'.'.join(path)}: unknown key. {nearest(path[-1], _keys_at(model, path[:-1]))}"
    if problem["type"] == "missing":
        return f"{'.'.join(path)}: missing"
    expected, found = problem["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list"), problem["input"]
    if problem["type"] in ("model_type", "dict_type"):
        expected = "Input should be a table of keys"
    key = f"{'.'.join(path)}: " if path else ""
    return f"{key}{expected}" + ("" if isinstance(found, dict) else f" (found {_shown(found)})")


def _shown(value: Any) -> str:
    """Return a value as it is written, or the beginning of a long one."""
    try:
        text = repr(value)
    except ValueError:
        return "a number of thousands of digits"  # Python converts none of more than 4300
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def _keys_at(model: type[BaseModel], path: list[str]) -> list[str]:
    current: type[BaseModel] = model
    for part in path:
        by_name = {field.alias or name: field.annotation for name, field in current.model_fields.items()}
        inner = by_name.get(part)
        options = get_args(inner) if isinstance(inner, UnionType) else (inner,)  # a table may be optional
        tables = [option for option in options if isinstance(option, type) and issubclass(option, BaseModel)]
        if not tables:
            break
        current = tables[0]
    return [field.alias or name for name, field in current.model_fields.items()]


def _preset_path(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if path.suffix == ".toml":
        if not path.is_file():
            raise UsageError(
                f"There is no preset file {path}.", "`segdistill presets copy NAME FILE` writes one to edit."
            )
        return path
    if str(name_or_path) not in preset_names():
        raise UsageError(f"Unknown preset {str(name_or_path)!r}.", nearest(str(name_or_path), preset_names()))
    return preset_folder() / f"{name_or_path}.toml"


def _parse_override(text: str, example: str = "optim.lr=0.005") -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set {text}: expected KEY=VALUE.", f"For example --set {example}")
    if key.count(".") >= MOST_PARTS:
        raise UsageError(
            f"--set {text[:20]}...: a key of more than {MOST_PARTS} parts.", f"For example --set {example}"
        )
    try:
        return key.strip(), tomllib.loads(f"value = {value.strip()}")["value"]
    except (ValueError, RecursionError):
        return key.strip(), value.strip()


def _assign(table: dict[str, Any], path: str, value: Any, where: str) -> None:
    *parents, last = path.split(".")
    for part in parents:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise UsageError(
                f"{where}: {part} is a value, not a table.", "`segdistill presets show NAME` prints the keys."
            )
    table[last] = value


def _merge(table: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(table.get(key), dict):
            _merge(table[key], value)
        else:
            table[key] = value
