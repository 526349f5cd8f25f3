"""Holistic distillation: a critic that sees image and segmentation cannot tell student from teacher (Liu et al. 2019).

The critic is conditioned on the image, as in the paper (the authors' later code drops the condition): it reads the
image and the class probabilities, concatenated. Everything here is float32, whatever the run's precision: published
code in half precision is known for its NaNs.

Three critics, by `loss`:
    wgan-gp-spectral   the authors': Wasserstein loss with gradient penalty, spectral norms on the four convolutions,
                       trained by SGD on a tenth of its loss. The norms bound its gradient, so the paper's weight of 0.1
                       stays below cross entropy's.
    wgan-gp            the same loss without the norms, trained by Adam. Nothing bounds the score but the penalty, so
                       its gradient grows to many times the authors': it takes a weight of 0.001.
    hinge              that of CIRKD: hinge loss, spectral norms, Adam, and a weight of 0.001.
"""

from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from segdistill import losses
from segdistill.autocast import no_autocast
from segdistill.config import OptimConfig, Strict
from segdistill.terms import Pair
from segdistill.types import Batch, SegOutput, Term

MIN_SIDE = 64
"""Four halvings and a 4x4 kernel need 64 pixels a side: smaller maps are enlarged (CamVid's are 45x60 at stride 8)."""


class Options(Strict):
    """Keys of [terms.holistic] beside `weight`."""

    loss: Literal["wgan-gp-spectral", "wgan-gp", "hinge"] = "wgan-gp"
    """Loss, norms and optimizer of the critic; see the top of this file."""
    penalty: Annotated[float, Field(ge=0)] = 10.0
    """Weight of the gradient penalty; hinge has none."""
    lr: Annotated[float, Field(gt=0)] = 4e-4
    """Learning rate of the critic; its schedule is as long as the student's, with power 0.9 and no warm-up."""
    critic_weight: Annotated[float, Field(gt=0)] = 1.0
    """Factor of the critic's own loss: 0.1 in the authors' code. Adam takes the same steps whatever it is."""

    @property
    def spectral(self) -> bool:
        """Whether the critic's convolutions have spectral norms."""
        return self.loss != "wgan-gp"

    def optim(self) -> OptimConfig:
        """Return the critic's optimizer; the schedule's length is the student's, and filled in by who runs the stage.

        SGD with momentum 0.9 and weight decay 5e-4 is that of the authors (`networks/kd_model.py`,
        `run_train_val.sh`); Adam with 0.9 and 0.99 that of their successors (IFVD, CIRKD).
        """
        if self.loss == "wgan-gp-spectral":
            return OptimConfig(algorithm="sgd", lr=self.lr, momentum=0.9, weight_decay=5e-4, steps=1)
        return OptimConfig(algorithm="adam", lr=self.lr, momentum=0.9, beta2=0.99, weight_decay=0, steps=1)


class SelfAttention(nn.Module):
    """Attention over positions, added with a learnt factor that starts at 0 (Zhang et al. 2019, SAGAN)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels // 8, 1)
        self.key = nn.Conv2d(channels, channels // 8, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, D, h, w) plus what each position attends to."""
        query, key, value = (conv(x).flatten(2) for conv in (self.query, self.key, self.value))
        attention = torch.softmax(query.transpose(1, 2) @ key, dim=2)  # (B, hw, hw), rows sum to 1
        attended: Tensor = (value @ attention.transpose(1, 2)).view_as(x)
        return x + self.gamma * attended


class Critic(nn.Module):
    """Four strided convolutions, attention after the last two, and a score per image (SAGAN's discriminator).

    There is no batch norm, which would couple the samples whose gradients the penalty keeps apart. As in the authors'
    code, the last convolution has no spectral norm.
    """

    def __init__(self, num_classes: int, *, spectral: bool) -> None:
        super().__init__()
        channels = [3 + num_classes, 64, 128, 256, 512]
        layers: list[nn.Module] = []
        for depth, (before, after) in enumerate(pairwise(channels)):
            conv = nn.Conv2d(before, after, 4, stride=2, padding=1)
            layers += [spectral_norm(conv) if spectral else conv, nn.LeakyReLU(0.1)]
            if depth >= 2:
                layers.append(SelfAttention(after))
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels[-1], 1, 4))

    def forward(self, x: Tensor) -> Tensor:
        """Return scores (B,) for image and probabilities (B, 3 + C, h, w), both sides at least 64."""
        score: Tensor = self.layers(x)
        return score.mean(dim=(1, 2, 3))


class Holistic(Term):
    """Minus the critic's mean score of the student's segmentation."""

    def __init__(self, num_classes: int, options: Options) -> None:
        super().__init__()
        self.options = options
        self.critic = Critic(num_classes, spectral=options.spectral).requires_grad_(False)
        self.critic_optim = options.optim()

    def forward(self, student: SegOutput, teacher: SegOutput, batch: Batch) -> Tensor:
        """Return what the student can lower by being taken for the teacher."""
        assert self.critic is not None
        with no_autocast(batch.image):
            score: Tensor = self.critic(critic_input(batch.image, student.logits))
            return -score.mean()

    def critic_loss(self, student: SegOutput, teacher: SegOutput, batch: Batch) -> Tensor:
        """Return the critic's weighted loss: the teacher is real, the student is fake."""
        assert self.critic is not None
        with no_autocast(batch.image):
            real = critic_input(batch.image, teacher.logits, student.logits.shape[-2:]).detach()
            fake = critic_input(batch.image, student.logits).detach()
            scores = self.critic(torch.cat([real, fake]))
            of_real, of_fake = scores.chunk(2)
            if self.options.loss == "hinge":
                return self.options.critic_weight * losses.hinge_critic(of_real, of_fake)
            alpha = torch.stack([_uniform(int(seed)) for seed in batch.seeds]).to(real)
            penalty = losses.gradient_penalty(self.critic, real, fake, alpha=alpha)
            loss = losses.wasserstein_critic(of_real, of_fake) + self.options.penalty * penalty
            return self.options.critic_weight * loss


def critic_input(image: Tensor, logits: Tensor, size: torch.Size | None = None) -> Tensor:
    """Return image in [-1, 1] and probabilities, concatenated: (B, 3 + C, h, w) float32, both sides at least 64.

    Args:
        image: (B, 3, H, W) in 0..255.
        logits: (B, C, h, w).
        size: the map's size where it is not the logits' own: student and teacher are compared at one size.
    """
    height, width = size or logits.shape[-2:]
    grow = max(1.0, MIN_SIDE / min(height, width))
    target = [round(height * grow), round(width * grow)]
    probability = torch.softmax(logits.float(), dim=1)
    if list(probability.shape[-2:]) != target:
        probability = F.interpolate(probability, size=target, mode="bilinear", align_corners=False)
    small = F.interpolate(image.float(), size=target, mode="bilinear", align_corners=False, antialias=True)
    return torch.cat([small / 127.5 - 1, probability], dim=1)


def _uniform(seed: int) -> Tensor:
    return torch.rand((), generator=torch.Generator().manual_seed(seed))


def build(options: Options, pair: Pair) -> Term:
    """Build the term with a critic for the classes that both networks know."""
    return Holistic(pair.num_classes - pair.lacking, options)
