"""Measuring a model by tasks: what is asked (`names`, a file for each kind of task), who is asked (`subject`), answers
kept as they come (`answer_file`), and what they add up to (`figures`). `evaluating` puts it together.
"""

from quatrain.evaluation.tasks.evaluating import Evaluation, evaluate, read_evaluation
from quatrain.evaluation.tasks.figures import Difference, TaskFigures, perplexity
from quatrain.evaluation.tasks.harness import Harness
from quatrain.evaluation.tasks.multiple_choice import MultipleChoice
from quatrain.evaluation.tasks.names import TaskOptions, read_tasks
from quatrain.evaluation.tasks.task import Answered, Closing, Prepared, Task

__all__ = [
    "Answered",
    "Closing",
    "Difference",
    "Evaluation",
    "Harness",
    "MultipleChoice",
    "Prepared",
    "Task",
    "TaskFigures",
    "TaskOptions",
    "evaluate",
    "perplexity",
    "read_evaluation",
    "read_tasks",
]
