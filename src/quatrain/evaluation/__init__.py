"""Measuring a model: loss on held-out rows, answers scored against references, and tasks that compare models."""

from quatrain.evaluation.config import TaskConfig
from quatrain.evaluation.generation import generate_answers, stream_reply
from quatrain.evaluation.loss import LossResult, evaluate_loss
from quatrain.evaluation.task import Answer, TaskResult, read_task, run_task
from quatrain.evaluation.tasks import (
    Difference,
    Evaluation,
    Task,
    TaskFigures,
    TaskOptions,
    evaluate,
    perplexity,
    read_evaluation,
    read_tasks,
)

__all__ = [
    "Answer",
    "Difference",
    "Evaluation",
    "LossResult",
    "Task",
    "TaskConfig",
    "TaskFigures",
    "TaskOptions",
    "TaskResult",
    "evaluate",
    "evaluate_loss",
    "generate_answers",
    "perplexity",
    "read_evaluation",
    "read_task",
    "read_tasks",
    "run_task",
    "stream_reply",
]
