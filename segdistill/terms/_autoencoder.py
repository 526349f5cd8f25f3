"""The auto-encoder of He et al. 2019: the code of a teacher's last features, from which they can be rebuilt.

It is trained on the frozen teacher before the student. The student is then compared with the code; the decoder has
served its purpose. Terms whose settings and maps are equal share one auto-encoder, as the paper's two terms do.
"""

from collections.abc import Iterator
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from segdistill import losses
from segdistill.config import OptimConfig, Strict
from segdistill.terms import Pair, compared_at
from segdistill.terms._layers import Layer, Layers
from segdistill.types import Batch, Frozen, Objective, SegOutput, Stage, Step, Term

SPARSITY = 1e-7
"""Weight of the code's L1 norm beside the squared error, both being sums (the paper prints 10e-7)."""


class LatentLayers(Layers):
    """Keys of the terms that compare with a code: the last maps of both, as in the paper, unless others are named."""

    student_layer: int | None = -1
    teacher_layer: int | None = -1


class Settings(Strict):
    """Keys of the table `autoencoder` of a term."""

    latent: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Channels of the code, as a share of the teacher's: torchdistill's; the paper's are not confirmed."""
    lr: Annotated[float, Field(gt=0)] = 0.1
    steps: Annotated[int, Field(ge=1)] = 200
    """The paper has one epoch."""


class AutoEncoder(nn.Module):
    """Three convolutions and three deconvolutions, 3x3; the first of either has stride 2.

    Each is followed by batch norm and ReLU, the last one too: features are what a ReLU has let through. The channels
    between the two ends are torchdistill's, as the paper's are not confirmed.
    """

    def __init__(self, channels: int, latent: int) -> None:
        super().__init__()
        self.encoder = encoder(channels, latent)
        self.enlarge = nn.ConvTranspose2d(latent, latent, 3, stride=2, padding=1, bias=False)
        self.decoder = nn.Sequential(
            *_after(latent),
            nn.ConvTranspose2d(latent, channels, 3, padding=1, bias=False),
            *_after(channels),
            nn.ConvTranspose2d(channels, channels, 3, padding=1, bias=False),
            *_after(channels),
        )

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Map features (B, D, h, w) to their code at half the size, rounded up, and to what is rebuilt from it."""
        code = self.encoder(features)
        return code, self.decoder(self.enlarge(code, output_size=features.shape[-2:]))


def encoder(channels: int, latent: int) -> nn.Sequential:
    """Return the half of an auto-encoder that is kept."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False),
        *_after(channels),
        nn.Conv2d(channels, latent, 3, padding=1, bias=False),
        *_after(latent),
        nn.Conv2d(latent, latent, 3, padding=1, bias=False),
        *_after(latent),
    )


def _after(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(channels), nn.ReLU(inplace=True)


class Reconstruction(Objective):
    """What an auto-encoder of a map minimises: ||features - rebuilt||^2 + 1e-7 * ||code||_1, by the number of features.

    Dividing both of the paper's sums by that number keeps their proportion, and makes the rate independent of sizes.
    Positions whose pixel is ignored do not count, of features and code alike; images without labels do.
    """

    def __init__(self, teacher: Frozen, layer: int = -1) -> None:
        super().__init__()
        self.teacher = teacher
        self.layer = layer

    def forward(self, model: nn.Module, batch: Batch) -> Step:
        """Return both parts for an `AutoEncoder` of that map."""
        output = self.teacher(batch)
        features = output.features[self.layer]
        code, rebuilt = model(features)
        valid, share = compared_at(batch, features.shape[-2:])
        error = losses.feature_l2(rebuilt, features, valid)
        counted = losses.at_size(batch.compared(), code.shape[-2:]).unsqueeze(1)
        length = (code.float().abs() * counted).sum() / (features.shape[1] * valid.sum().clamp(min=1))
        return Step({"reconstruction": error * share, "sparsity": SPARSITY * length * share}, None, output)


class Latent:
    """A frozen encoder, and how it comes to be.

    It is no module, so a term does not register it: nothing that trains, moves or saves the terms reaches it.
    """

    def __init__(self, name: str, settings: Settings, layer: Layer) -> None:
        self.name = name
        self.settings = settings
        self.layer = layer
        self.channels = max(1, round(settings.latent * layer.channels))
        self.encoder = encoder(layer.channels, self.channels).eval().requires_grad_(False)
        self.trained = False

    def before(self, teacher: nn.Module) -> Iterator[Stage]:
        """Yield the auto-encoder's training, then keep a copy of its encoder; nothing where that has been done."""
        if self.trained:
            return
        model = AutoEncoder(self.layer.channels, self.channels)
        frozen = teacher if isinstance(teacher, Frozen) else Frozen(teacher)
        # the decay is that of an account of the paper, which prints 10e-4, and torchdistill's, as is the momentum
        optim = OptimConfig(lr=self.settings.lr, momentum=0.9, weight_decay=1e-4, steps=self.settings.steps)
        yield Stage(self.name, model, Reconstruction(frozen, self.layer.number), optim)
        self.encoder.load_state_dict(model.encoder.state_dict())
        self.trained = True

    @torch.no_grad()
    def __call__(self, teacher: SegOutput) -> Tensor:
        """Return the code of the teacher's last features, (B, `channels`, h, w), outside any graph."""
        features = teacher.features[-1]
        code: Tensor = self.encoder.to(features.device)(features)
        return code


class LatentTerm(Term):
    """A term between the student's last features, adapted, and the code of the teacher's."""

    def __init__(self, settings: Settings, layer: Layer, pair: Pair) -> None:
        super().__init__()
        latents, key = pair.shared.setdefault("latents", {}), (settings, layer)
        self.one_more = bool(latents) and key not in latents
        if key not in latents:
            last = layer.number == layer.maps - 1
            name = "autoencoder" if last else f"autoencoder-of-map-{layer.number}"  # found again by its name
            name = f"{name}-{len(latents) + 1}" if latents else name
            latents[key] = Latent(name, settings, layer)
        self.latent: Latent = latents[key]

    @property
    def notes(self) -> tuple[str, ...]:
        """Say so where the code means nothing yet, and where the terms' settings cost one more auto-encoder."""
        name = self.latent.name
        found = [] if self.latent.trained else [f"{name} is not trained: the student would learn noise"]
        if self.one_more:
            found.append(f"{name} is one more to train: terms whose `autoencoder` tables are equal share one")
        return tuple(found)

    def before(self, teacher: nn.Module) -> Iterator[Stage]:
        """Yield the auto-encoder's training, unless another term has had it trained."""
        return self.latent.before(teacher)
