"""Trains any model that turns tokens into logits: losses, optimisers, schedules, the loop, checkpoints."""

from transformer_lab.training.checkpoints import (
    Checkpoint,
    Checkpoints,
    latest,
    load,
    save,
    step_of,
)
from transformer_lab.training.history import History
from transformer_lab.training.loop import DivergenceError, Trainer
from transformer_lab.training.losses import (
    counted_targets,
    masked_token_loss,
    mean_loss,
    next_token_loss,
    target_token_loss,
)
from transformer_lab.training.optimisers import (
    Muon,
    Together,
    adamw,
    by_shape,
    hidden_matrices,
    like_adamw,
    muon,
    orthogonalise,
)
from transformer_lab.training.parallel import ALONE, Alone
from transformer_lab.training.precision import BFLOAT16, FLOAT32, Precision, automatic_precision
from transformer_lab.training.progress import Bar, Lines, Progress, Silent, automatic_progress
from transformer_lab.training.schedules import (
    Constant,
    Cosine,
    Linear,
    Noam,
    Schedule,
    WarmupStableDecay,
)
from transformer_lab.training.start import quiet_start_

__all__ = [
    "ALONE",
    "BFLOAT16",
    "FLOAT32",
    "Alone",
    "Bar",
    "Checkpoint",
    "Checkpoints",
    "Constant",
    "Cosine",
    "DivergenceError",
    "History",
    "Linear",
    "Lines",
    "Muon",
    "Noam",
    "Precision",
    "Progress",
    "Schedule",
    "Silent",
    "Together",
    "Trainer",
    "WarmupStableDecay",
    "adamw",
    "automatic_precision",
    "automatic_progress",
    "by_shape",
    "counted_targets",
    "hidden_matrices",
    "latest",
    "like_adamw",
    "load",
    "masked_token_loss",
    "mean_loss",
    "muon",
    "next_token_loss",
    "orthogonalise",
    "quiet_start_",
    "save",
    "step_of",
    "target_token_loss",
]
