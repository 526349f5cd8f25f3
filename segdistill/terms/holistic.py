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

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from segdistill import losses
from segdistill.config.schema import OptimConfig, Strict
from segdistill.runtime.autocast import no_autocast
from segdistill.terms import TermContext
from segdistill.terms._critic import Critic, critic_input
from segdistill.terms._random import seeded_generator
from segdistill.types import Batch, SegOutput, Term

GRADIENT_RATIO = 0.1
"""Gradient of a balanced term in multiples of cross entropy's, at most: the critic has learned nothing yet then, and on
CamVid (docs/results.md) it is twice as much in the end."""


class Options(Strict):
    """Keys of [terms.holistic] beside `weight`."""

    loss: Literal["wgan-gp-spectral", "wgan-gp", "hinge"] = "wgan-gp"
    """Loss, norms and optimizer of the critic: one of the three above."""
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


class Holistic(Term):
    """Minus the critic's mean score of the student's segmentation."""

    def __init__(self, num_classes: int, options: Options) -> None:
        super().__init__()
        self.options = options
        # Frozen but for its own step: else each of the student's would leave gradients in it.
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
            size = student.logits.shape[-2:]
            real = critic_input(batch.image, teacher.logits, size).detach()
            fake = critic_input(batch.image, student.logits).detach()
            # In one pass: spectral norms make a step of their power iteration in each.
            real_scores, fake_scores = self.critic(torch.cat([real, fake])).chunk(2)
            if self.options.loss == "hinge":
                loss = losses.hinge_critic(real_scores, fake_scores)
            else:
                penalty = self._gradient_penalty(real, fake, batch)
                loss = losses.wasserstein_critic(real_scores, fake_scores) + penalty
            return self.options.critic_weight * loss

    def _gradient_penalty(self, real: Tensor, fake: Tensor, batch: Batch) -> Tensor:
        """Return the weighted penalty; how far it looks between the two maps is drawn from each sample's seed."""
        assert self.critic is not None
        shares = [torch.rand((), generator=seeded_generator(int(seed))) for seed in batch.seeds]
        penalty = losses.gradient_penalty(self.critic, real, fake, alpha=torch.stack(shares).to(real))
        return self.options.penalty * penalty


def build(options: Options, context: TermContext) -> Term:
    """Build the term with a critic for the classes that both networks know."""
    return Holistic(context.num_classes - context.missing_classes, options)
