"""The planner: from a model's `config.json` to bytes and seconds, and to the fastest training that fits a budget."""

from quatrain.memory.choose import make_plan
from quatrain.memory.plan import Choice, Plan

__all__ = ["Choice", "Plan", "make_plan"]
