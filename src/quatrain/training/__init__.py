"""Training: what a run is, how it is put together, and the loop."""

from quatrain.training.config import RunConfig
from quatrain.training.config_file import config_from_dict, read_config, write_config
from quatrain.training.loop import RunResult, train
from quatrain.training.planning import plan
from quatrain.training.settings import describe_settings

__all__ = [
    "RunConfig",
    "RunResult",
    "config_from_dict",
    "describe_settings",
    "plan",
    "read_config",
    "train",
    "write_config",
]
