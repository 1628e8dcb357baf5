"""All cases: importing an area's file adds those that are in it."""

from tests.faults.areas import (
    adapters,
    bitsandbytes,
    checkpoints,
    configs,
    data,
    file_system,
    gguf,
    hub,
    models,
    runs,
    secrets,
    templates,
    tokenizers,
    training,
)
from tests.faults.case import MATRIX

AREAS = (
    *(data, tokenizers, templates, configs),
    *(models, gguf, bitsandbytes, adapters),
    *(hub, secrets),
    *(runs, training, checkpoints, file_system),
)
"""In the order of the table in the docs."""

__all__ = ["AREAS", "MATRIX"]
