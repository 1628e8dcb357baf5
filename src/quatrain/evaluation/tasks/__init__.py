"""Measuring a model by tasks: what is asked (`names`, one file for each kind of task), who is asked (`subject`), answers
kept as they come (`answer_file`), and what they add up to (`figures`). `evaluating` puts it together.
"""

from quatrain.evaluation.tasks.evaluating import Evaluation, evaluate, read_evaluation
from quatrain.evaluation.tasks.figures import Difference, TaskFigures, perplexity
from quatrain.evaluation.tasks.harness import Harness
from quatrain.evaluation.tasks.multiple_choice import MultipleChoice
from quatrain.evaluation.tasks.names import TaskOptions, read_tasks

__all__ = [
    "Difference",
    "Evaluation",
    "Harness",
    "MultipleChoice",
    "TaskFigures",
    "TaskOptions",
    "evaluate",
    "perplexity",
    "read_evaluation",
    "read_tasks",
]
