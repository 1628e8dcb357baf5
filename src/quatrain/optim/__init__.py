"""What turns gradients into new adapters: AdamW with state in 8 or 32 bits, its paging, and learning-rate schedules."""

from quatrain.optim.adamw import AdamW
from quatrain.optim.schedules import SCHEDULES, lr_multiplier, warmup_steps

__all__ = ["SCHEDULES", "AdamW", "lr_multiplier", "warmup_steps"]
