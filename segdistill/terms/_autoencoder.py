"""The auto-encoder of He et al. 2019: the code of a teacher's last features, from which they can be rebuilt.

It is trained on the frozen teacher before the student. The student is then compared with the code; the decoder has
served its purpose. Terms whose settings are equal share one auto-encoder, as the paper's two terms do.
"""

from collections.abc import Iterator
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from segdistill import losses
from segdistill.config import OptimConfig, Strict
from segdistill.terms import Pair, compared_at, last_channels
from segdistill.types import Batch, Frozen, Objective, SegOutput, Stage, Step, Term

SPARSITY = 1e-7
"""Weight of the code's L1 norm beside the squared error, both being sums (the paper prints 10e-7)."""


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
    """What an auto-encoder minimises: ||features - rebuilt||^2 + 1e-7 * ||code||_1, over the number of features.

    Dividing both of the paper's sums by that number keeps their proportion, and makes the rate independent of sizes.
    Positions whose pixel is ignored do not count, of features and code alike; images without labels do.
    """

    def __init__(self, teacher: Frozen) -> None:
        super().__init__()
        self.teacher = teacher

    def forward(self, model: nn.Module, batch: Batch) -> Step:
        """Return both parts for an `AutoEncoder` of the teacher's last features."""
        output = self.teacher(batch)
        features = output.features[-1]
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

    def __init__(self, name: str, settings: Settings, teacher: nn.Module) -> None:
        self.name = name
        self.settings = settings
        self.teacher_channels = last_channels(teacher)
        self.channels = max(1, round(settings.latent * self.teacher_channels))
        self.encoder = encoder(self.teacher_channels, self.channels).eval().requires_grad_(False)
        self.trained = False

    def before(self, teacher: nn.Module) -> Iterator[Stage]:
        """Yield the auto-encoder's training, then keep a copy of its encoder; nothing where that has been done."""
        if self.trained:
            return
        model = AutoEncoder(self.teacher_channels, self.channels)
        frozen = teacher if isinstance(teacher, Frozen) else Frozen(teacher)
        # the decay is that of an account of the paper, which prints 10e-4, and torchdistill's, as is the momentum
        optim = OptimConfig(lr=self.settings.lr, momentum=0.9, weight_decay=1e-4, steps=self.settings.steps)
        yield Stage(self.name, model, Reconstruction(frozen), optim)
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

    def __init__(self, settings: Settings, pair: Pair) -> None:
        super().__init__()
        latents = pair.shared.setdefault("latents", {})
        self.one_more = bool(latents) and settings not in latents
        if settings not in latents:
            name = f"autoencoder-{len(latents) + 1}" if latents else "autoencoder"
            latents[settings] = Latent(name, settings, pair.teacher)
        self.latent: Latent = latents[settings]

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
