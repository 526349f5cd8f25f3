"""The auto-encoder of He et al. 2019: the latent of a teacher's features, from which they can be rebuilt.

It is trained on the frozen teacher before the student. The student is then compared with the latent; the decoder has
served its purpose. Terms whose settings and maps are equal share one auto-encoder, as the paper's two terms do.
"""

from collections.abc import Iterator
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from segdistill import losses
from segdistill.config.schema import OptimConfig
from segdistill.terms import TermContext
from segdistill.terms._layers import Layer, LayerOptions
from segdistill.terms._masks import valid_mask_at
from segdistill.types import Batch, Frozen, Objective, SegOutput, Stage, StageSettings, Step, Term

SPARSITY = 1e-7
"""Weight of the latent's L1 norm beside the squared error, both being sums (the paper prints 10e-7)."""


class LatentLayerOptions(LayerOptions):
    """Keys of the terms that compare with a latent: the last maps of both, as in the paper, unless others are named."""

    student_layer: int | None = -1
    teacher_layer: int | None = -1


class AutoEncoderSettings(StageSettings):
    """Keys of the table `autoencoder` of a term."""

    latent: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Channels of the latent, as a share of the teacher's: torchdistill's; the paper's are not confirmed."""
    lr: Annotated[float, Field(gt=0)] = 0.1
    """Learning rate at the start."""
    steps: Annotated[int, Field(ge=1)] = 200
    """Length of the training in optimizer steps; the paper has one epoch."""


class AutoEncoder(nn.Module):
    """Three convolutions and three deconvolutions, 3x3; the first of either has stride 2.

    Each is followed by batch norm and ReLU, the last one too: features are what a ReLU has let through. The channels
    between the two ends are torchdistill's, as the paper's are not confirmed.
    """

    def __init__(self, channels: int, latent_channels: int) -> None:
        super().__init__()
        self.encoder = build_encoder(channels, latent_channels)
        # Apart from the decoder, because it has to be told which of two sizes halves to the latent's.
        self.enlarge = nn.ConvTranspose2d(latent_channels, latent_channels, 3, stride=2, padding=1, bias=False)
        self.decoder = nn.Sequential(
            *_norm_relu(latent_channels),
            nn.ConvTranspose2d(latent_channels, channels, 3, padding=1, bias=False),
            *_norm_relu(channels),
            nn.ConvTranspose2d(channels, channels, 3, padding=1, bias=False),
            *_norm_relu(channels),
        )

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Map features (B, D, h, w) to their latent at half the size, rounded up, and to what is rebuilt from it."""
        latent = self.encoder(features)
        enlarged = self.enlarge(latent, output_size=features.shape[-2:])
        return latent, self.decoder(enlarged)


def build_encoder(channels: int, latent_channels: int) -> nn.Sequential:
    """Return the half of an auto-encoder that is kept."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False),
        *_norm_relu(channels),
        nn.Conv2d(channels, latent_channels, 3, padding=1, bias=False),
        *_norm_relu(latent_channels),
        nn.Conv2d(latent_channels, latent_channels, 3, padding=1, bias=False),
        *_norm_relu(latent_channels),
    )


def _norm_relu(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(channels), nn.ReLU(inplace=True)


class Reconstruction(Objective):
    """The loss of an auto-encoder: (||features - rebuilt||^2 + 1e-7 * ||latent||_1) / number of features.

    Dividing both of the paper's sums by that number keeps their proportion, and makes the rate independent of sizes.
    Positions whose pixel is ignored do not count, of features and latent alike; images without labels do.
    """

    def __init__(self, teacher: Frozen, layer: int = -1) -> None:
        super().__init__()
        self.teacher = teacher
        self.layer = layer

    def forward(self, model: nn.Module, batch: Batch) -> Step:
        """Return both parts for an `AutoEncoder` of that map."""
        output = self.teacher(batch)
        features = output.features[self.layer]
        latent, rebuilt = model(features)
        valid, weight = valid_mask_at(batch, features.shape[-2:])
        error = losses.feature_l2(rebuilt, features, valid)
        latent_valid = losses.resize_mask(batch.valid_mask(), latent.shape[-2:]).unsqueeze(1)
        # By the number of the features, not of the latent's channels: `error` is a mean over the former.
        num_features = features.shape[1] * valid.sum().clamp(min=1)
        latent_norm = (latent.float().abs() * latent_valid).sum() / num_features
        terms = {"reconstruction": error * weight, "sparsity": SPARSITY * latent_norm * weight}
        return Step(terms, None, output)


class LatentEncoder:
    """A frozen encoder, and the training that it comes from.

    It is no module, so a term does not register it: nothing that trains, moves or saves the terms reaches it.
    """

    def __init__(self, name: str, settings: AutoEncoderSettings, layer: Layer) -> None:
        self.name = name
        self.settings = settings
        self.layer = layer
        self.channels = max(1, round(settings.latent * layer.channels))
        self.encoder = build_encoder(layer.channels, self.channels).eval().requires_grad_(False)
        self.is_trained = False

    def pretraining_stages(self, teacher: Frozen) -> Iterator[Stage]:
        """Yield the auto-encoder's training, then keep a copy of its encoder; nothing where that has been done."""
        if self.is_trained:
            return
        model = AutoEncoder(self.layer.channels, self.channels)
        # the decay is that of an account of the paper, which prints 10e-4, and torchdistill's, as is the momentum
        optim = OptimConfig(lr=self.settings.lr, momentum=0.9, weight_decay=1e-4, steps=self.settings.steps)
        objective = Reconstruction(teacher, self.layer.number)
        yield Stage(name=self.name, model=model, objective=objective, optim=optim)
        self.encoder.load_state_dict(model.encoder.state_dict())
        self.is_trained = True

    @torch.no_grad()
    def __call__(self, teacher: SegOutput) -> Tensor:
        """Return the latent of the teacher's last features, (B, `channels`, h, w), outside any graph."""
        features = teacher.features[-1]
        # Nobody else moves it to the device: see above.
        latent: Tensor = self.encoder.to(features.device)(features)
        return latent


class LatentTerm(Term):
    """A term between the student's last features, adapted, and the latent of the teacher's."""

    def __init__(self, settings: AutoEncoderSettings, layer: Layer, context: TermContext) -> None:
        super().__init__()
        encoders: dict[tuple[AutoEncoderSettings, Layer], LatentEncoder]
        encoders = context.shared.setdefault("latent encoders", {})
        key = (settings, layer)
        self.is_additional = bool(encoders) and key not in encoders
        if key not in encoders:
            encoders[key] = LatentEncoder(_stage_name(layer, len(encoders)), settings, layer)
        self.latent = encoders[key]

    @property
    def messages(self) -> tuple[str, ...]:
        """Messages where the latent means nothing yet, and where the terms' settings cost one more auto-encoder."""
        name = self.latent.name
        messages = []
        if not self.latent.is_trained:
            messages.append(f"{name} is not trained: the student would learn noise")
        if self.is_additional:
            messages.append(f"{name} is one more to train: terms whose `autoencoder` tables are equal share one")
        return tuple(messages)

    def pretraining_stages(self, teacher: Frozen) -> Iterator[Stage]:
        """Yield the auto-encoder's training, unless another term has had it trained."""
        return self.latent.pretraining_stages(teacher)


def _stage_name(layer: Layer, num_encoders: int) -> str:
    """Return the name of an auto-encoder's training, where so many others come before it.

    Runs of earlier versions have files of these names, and their auto-encoders are found again by them.
    """
    name = "autoencoder"
    if layer.number != layer.maps - 1:
        name += f"-of-map-{layer.number}"
    if num_encoders > 0:
        name += f"-{num_encoders + 1}"
    return name
