"""The planner: from a model's `config.json` to bytes and seconds, and to the fastest training that fits a budget."""

from quatrain.memory.plan import Plan

__all__ = ["Plan"]
