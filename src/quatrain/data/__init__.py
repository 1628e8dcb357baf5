"""Training data: sources, chat rendering and loss masks, packing, a loader whose position can be saved.

The way of a row: :mod:`sources` and :mod:`readers` (with :mod:`lines` and :mod:`json_rows`) read it, :mod:`formats`
says what it is, :mod:`render` (with :mod:`template`, :mod:`sandbox` and :mod:`spans`) makes it tokens with a flag on
each that is learned, :mod:`prepare` fits and counts, :mod:`packing` groups samples, and :mod:`loader` hands out
:mod:`batch`'s micro-batches. A row that falls out on this way goes to :mod:`bad_rows`, or is counted in the
:mod:`summary`; what is odd about one that stays is in :mod:`findings`.
"""

from quatrain.data.bad_rows import BadRows
from quatrain.data.batch import IGNORED, MicroBatch
from quatrain.data.config import DataConfig
from quatrain.data.endings import reply_end_ids
from quatrain.data.examples import Completion, Conversation, Example, Message, Text
from quatrain.data.loader import Loader
from quatrain.data.prepare import Prepared, load_examples, prepare
from quatrain.data.questions import Question, read_questions
from quatrain.data.render import Renderer, render_prompt
from quatrain.data.samples import Sample, Samples
from quatrain.data.summary import DataSummary

__all__ = [
    "IGNORED",
    "BadRows",
    "Completion",
    "Conversation",
    "DataConfig",
    "DataSummary",
    "Example",
    "Loader",
    "Message",
    "MicroBatch",
    "Prepared",
    "Question",
    "Renderer",
    "Sample",
    "Samples",
    "Text",
    "load_examples",
    "prepare",
    "read_questions",
    "render_prompt",
    "reply_end_ids",
]
