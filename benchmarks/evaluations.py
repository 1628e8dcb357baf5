"""What `quatrain eval` measured on a real model, as a result file and as the table of docs/evaluation.md.

    quatrain eval MODEL --tasks mmlu=zero_shot_mmlu_val.json,gsm8k=test.jsonl
    python -m benchmarks.evaluations evaluations/MODEL-1a2b3c4d evaluations/RUN-5e6f7a8b …
    python -m benchmarks.evaluations            the table only, from the result file

The first folder is the base: all others are compared with it, question by question.
"""

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.cells import line
from benchmarks.results import RESULTS
from quatrain.evaluation import Evaluation, read_evaluation

RESULT = RESULTS / "quality" / "evaluations.json"
PAGE = Path(__file__).resolve().parent.parent / "docs" / "evaluation.md"
_BLOCK = re.compile(r"(<!-- evaluations[^>]*-->\n).*?(<!-- /evaluations -->)", re.DOTALL)


def collected(folders: Sequence[Path]) -> dict[str, Any]:
    """The figures in models' folders, the first one's first."""
    told = [json.loads((folder / "results.json").read_text(encoding="utf-8")) for folder in folders]
    models = [read_evaluation(folder) for folder in folders]
    return {
        "case": "evaluations",
        "title": "Tasks that a model answered, by `quatrain eval`",
        "models": [_facts(one) for one in told],
        "rows": [row for one in told for row in _rows(one)],
        "differences": [difference for after in models[1:] for difference in _differences(after, models[0])],
    }


def _facts(results: dict[str, Any]) -> dict[str, Any]:
    """What a model is. Its base is known by its weights: where they lay is nobody's business."""
    kept = {key: value for key, value in results.items() if key not in ("tasks", "base")}
    return {**kept, "base": results["base"] and results["base"]["fingerprint"]}


def _rows(results: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for task in results["tasks"].values():
        for metric, figure in task["metrics"].items():
            yield {
                "model": results["model"],
                "task": task["task"],
                "metric": metric,
                "questions": task["questions"],
                **figure,
                "mean_of_groups": task["mean_of_groups"].get(metric),
                "groups": len(task["groups"].get(metric, ())),
                "settings": task["settings"],
                "device": task["device"],
            }


def _differences(after: Evaluation, before: Evaluation) -> Iterator[dict[str, Any]]:
    for one in after.differences_from(before):
        yield {"model": after.subject, "base": before.subject, **asdict(one), "verdict": one.verdict}


def table(result: dict[str, Any]) -> str:
    """The figures, and the differences from the base if there are any."""
    lines = [line(["model", "task", "questions", "metric", "figure", "95 % interval", "on"]), line(["---"] * 7)]
    for row in result["rows"]:
        groups = f" ({row['mean_of_groups']:.4f} as mean of {row['groups']} groups)" if row["groups"] else ""
        interval = "all are equal" if row["low"] == row["high"] else f"{row['low']:.4f} to {row['high']:.4f}"
        figure = f"{row['mean']:.4f}{groups}"
        lines.append(
            line([row["model"], row["task"], f"{row['questions']:,}", row["metric"], figure, interval, row["device"]])
        )
    if result["differences"]:
        lines += [
            "",
            line(["model", "task", "metric", "against its base", "95 % interval", "shown"]),
            line(["---"] * 6),
        ]
    for one in result["differences"]:
        change = one["change"]
        point = change["low"] == change["high"]
        interval = "all are equal" if point else f"{change['low']:+.4f} to {change['high']:+.4f}"
        lines.append(
            line([one["model"], one["task"], one["metric"], f"{change['mean']:+.4f}", interval, one["verdict"]])
        )
    return "\n".join(lines)


def main() -> None:
    """Write the result file, if folders are named, and the table."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "folders", nargs="*", type=Path, help="models' folders that `quatrain eval` wrote, a base first"
    )
    folders = parser.parse_args().folders
    if folders:
        RESULT.write_text(json.dumps(collected(folders), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    text = PAGE.read_text(encoding="utf-8")
    filled = _BLOCK.sub(lambda marks: f"{marks[1]}{table(result)}\n{marks[2]}", text)
    PAGE.write_text(filled, encoding="utf-8")


if __name__ == "__main__":
    main()
