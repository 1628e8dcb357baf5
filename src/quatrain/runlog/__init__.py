"""The run folder: what a run leaves behind, written while it trains and read by everything that looks at it later.

The trainer writes events, one JSON line each; the report, the command line and the web page read them and never the
trainer. So a run can be looked at while it trains, after it crashed, and on another machine.
"""

from quatrain.runlog.events import (
    AdapterSaved,
    CheckpointSaved,
    DataRead,
    Evaluated,
    Event,
    Noted,
    PlanChecked,
    Planned,
    RunFinished,
    RunStarted,
    Sampled,
    StepDone,
)
from quatrain.runlog.folder import RunFolder
from quatrain.runlog.stream import EventWriter, read_events, truncate_after
from quatrain.runlog.tensorboard import TensorBoardSink
from quatrain.runlog.trackers import Sink

__all__ = [
    "AdapterSaved",
    "CheckpointSaved",
    "DataRead",
    "Evaluated",
    "Event",
    "EventWriter",
    "Noted",
    "PlanChecked",
    "Planned",
    "RunFinished",
    "RunFolder",
    "RunStarted",
    "Sampled",
    "Sink",
    "StepDone",
    "TensorBoardSink",
    "read_events",
    "truncate_after",
]
