"""What students are trained with: pure functions, tensors in, scalar out, and a module for each of them.

In every loss
- no gradient reaches the teacher, and its maps are resized to the student's where their sizes differ;
- the arithmetic is float32 at least, under autocast and for bfloat16 and float16 tensors too (float64 stays float64);
- a vector of length zero has no direction: its cosine with anything is 0, and no gradient flows through it;
- a mask of valid pixels may have the label's size: it is brought to that of the maps by its nearest pixels, as in
  training.
"""

from segdistill.losses._functional import EPS, MASKED_LOGIT, label_at_size, resize_mask, surrounded, vector_norm
from segdistill.losses.adversarial import gradient_penalty, hinge_critic, wasserstein_critic
from segdistill.losses.boundary import boundary, boundary_regions, label_edges
from segdistill.losses.correlations import dist
from segdistill.losses.features import (
    adaptation,
    attention_transfer,
    channel_correlation,
    channel_kl,
    feature_l2,
    normalized_feature,
    residual_attention,
)
from segdistill.losses.logits import consistency, pixel_kl, pixel_l2
from segdistill.losses.modules import (
    Adaptation,
    Affinity,
    AttentionTransfer,
    Boundary,
    ChannelCorrelation,
    ChannelKL,
    Consistency,
    CrossEntropy,
    CrossImage,
    Dist,
    FeatureL2,
    GradientPenalty,
    HardCrossEntropy,
    HingeCritic,
    IntraClassVariation,
    KeySimilarity,
    NormalizedFeature,
    Pairwise,
    PixelKL,
    PixelL2,
    ResidualAttention,
    SoftDice,
    WassersteinCritic,
)
from segdistill.losses.relations import affinity, cross_image, intra_class_variation, key_similarity, pairwise
from segdistill.losses.supervised import cross_entropy, hard_cross_entropy, soft_dice

__all__ = [
    "EPS",
    "MASKED_LOGIT",
    "Adaptation",
    "Affinity",
    "AttentionTransfer",
    "Boundary",
    "ChannelCorrelation",
    "ChannelKL",
    "Consistency",
    "CrossEntropy",
    "CrossImage",
    "Dist",
    "FeatureL2",
    "GradientPenalty",
    "HardCrossEntropy",
    "HingeCritic",
    "IntraClassVariation",
    "KeySimilarity",
    "NormalizedFeature",
    "Pairwise",
    "PixelKL",
    "PixelL2",
    "ResidualAttention",
    "SoftDice",
    "WassersteinCritic",
    "adaptation",
    "affinity",
    "attention_transfer",
    "boundary",
    "boundary_regions",
    "channel_correlation",
    "channel_kl",
    "consistency",
    "cross_entropy",
    "cross_image",
    "dist",
    "feature_l2",
    "gradient_penalty",
    "hard_cross_entropy",
    "hinge_critic",
    "intra_class_variation",
    "key_similarity",
    "label_at_size",
    "label_edges",
    "normalized_feature",
    "pairwise",
    "pixel_kl",
    "pixel_l2",
    "residual_attention",
    "resize_mask",
    "soft_dice",
    "surrounded",
    "vector_norm",
    "wasserstein_critic",
]
