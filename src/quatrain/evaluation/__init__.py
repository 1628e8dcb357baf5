"""Measuring a model: loss on held-out rows, and answers scored against references."""

from quatrain.evaluation.config import TaskConfig
from quatrain.evaluation.generation import generate_answers, stream_reply
from quatrain.evaluation.loss import LossResult, evaluate_loss
from quatrain.evaluation.task import Answer, TaskResult, read_task, run_task

__all__ = [
    "Answer",
    "LossResult",
    "TaskConfig",
    "TaskResult",
    "evaluate_loss",
    "generate_answers",
    "read_task",
    "run_task",
    "stream_reply",
]
