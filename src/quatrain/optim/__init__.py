"""What turns gradients into new adapters: AdamW with state in 8 or 32 bits, its paging, and learning-rate schedules."""

from quatrain.optim.adamw import AdamW
from quatrain.optim.schedules import SCHEDULES, Schedule, lr_multiplier

__all__ = ["SCHEDULES", "AdamW", "Schedule", "lr_multiplier"]
