"""What the answers to a task add up to: means with their intervals, by group, and differences between two models."""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from quatrain.errors import DataError
from quatrain.evaluation.statistics import Interval, mean_interval, paired_difference
from quatrain.evaluation.tasks.task import Answered, Closing


@dataclass(frozen=True)
class TaskFigures:
    """The figures of one subject in one task, and the answers that they come from."""

    task: str
    asked: str
    """Fingerprint of the questions and the task's settings: figures of one fingerprint can be compared."""
    settings: Mapping[str, Any]
    answers: Mapping[int, Answered]
    closing: Closing

    @cached_property
    def metrics(self) -> dict[str, Interval]:
        """Means over all questions with 95 % intervals."""
        return {
            metric: mean_interval(self._scores(metric), weights=self._weights(metric)) for metric in self.metric_names
        }

    @property
    def metric_names(self) -> list[str]:
        """Of the scores, in the order of their first appearance."""
        return list(dict.fromkeys(metric for answer in self.answers.values() for metric in answer.scores))

    def groups(self, metric: str) -> dict[str, tuple[float, int]]:
        """Group → (mean, questions), by name; empty where questions have no groups."""
        found: dict[str, list[float]] = defaultdict(list)
        for answer in self.answers.values():
            if answer.group is not None and metric in answer.scores:
                found[answer.group].append(answer.scores[metric])
        return {name: (math.fsum(values) / len(values), len(values)) for name, values in sorted(found.items())}

    def mean_of_groups(self, metric: str) -> float | None:
        """The mean of the groups' means, each group counting the same, as MMLU is often given."""
        means = [mean for mean, _ in self.groups(metric).values()]
        return math.fsum(means) / len(means) if means else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a result file; without the answers."""
        metrics = self.metrics
        found: dict[str, Any] = {
            "task": self.task,
            "asked": self.asked,
            "settings": dict(self.settings),
            "questions": len(self.answers),
            "metrics": {name: vars(interval) for name, interval in metrics.items()},
        }
        if "loss" in metrics:
            found["metrics"]["perplexity"] = vars(perplexity(metrics["loss"]))
        groups = {name: self.groups(name) for name in metrics}
        found["mean_of_groups"] = {name: self.mean_of_groups(name) for name in metrics if groups[name]}
        found["groups"] = {
            name: {group: {"mean": mean, "questions": count} for group, (mean, count) in groups[name].items()}
            for name in metrics
            if groups[name]
        }
        return found | {"figures": dict(self.closing.figures), "notes": list(self.closing.notes)}

    def _having(self, metric: str) -> list[int]:
        return [number for number in sorted(self.answers) if metric in self.answers[number].scores]

    def _scores(self, metric: str) -> list[float]:
        return [self.answers[number].scores[metric] for number in self._having(metric)]

    def _weights(self, metric: str) -> list[float]:
        return [self.answers[number].weight for number in self._having(metric)]

    def differences_from(self, before: "TaskFigures") -> list["Difference"]:
        """What changed in each metric, question by question.

        Raises:
            DataError: the two weren't asked the same questions.
        """
        if self.asked != before.asked or self.answers.keys() != before.answers.keys():
            raise DataError(
                f"{self.task}: only answers to the same questions under the same settings can be compared; measure "
                "both with the same command"
            )
        return [
            Difference(
                self.task,
                metric,
                before.metrics[metric].mean,
                self.metrics[metric].mean,
                paired_difference(before._scores(metric), self._scores(metric), weights=self._weights(metric)),
            )
            for metric in self.metric_names
        ]


@dataclass(frozen=True)
class Difference:
    """A metric before and after, and the mean difference over the questions."""

    task: str
    metric: str
    before: float
    after: float
    change: Interval

    @property
    def verdict(self) -> str:
        """In plain words; whether higher is better is for the reader to know."""
        if 0 in self.change:
            return "no difference shown"
        return "higher" if self.change.mean > 0 else "lower"

    def __str__(self) -> str:
        change = self.change
        return (
            f"{self.task}, {self.metric}: {self.before:.4f} → {self.after:.4f}, {change.mean:+.4f} "
            f"({change.low:+.4f} to {change.high:+.4f}): {self.verdict}"
        )


def perplexity(loss: Interval) -> Interval:
    """exp of a loss in nats, which keeps the order and so the interval."""
    return Interval(*(math.exp(value) if value < 700 else math.inf for value in (loss.mean, loss.low, loss.high)))
