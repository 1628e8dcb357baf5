"""The QLoRA paper's ranking of seven systems on OASST questions, out of the verdicts of GPT-4 that it was made from.

    python -m benchmarks.oasst_elo oasst_gpt4_pairwise.csv     ranks, writes the result file and docs/judging.md's table
    python -m benchmarks.oasst_elo                             the table only, from the result file

The file was published with the paper: 953 questions, every pair of systems in both orders, one row a verdict. Its
column `item` numbers the rows through. Each pair's 953 rows follow one another in the same order of questions: both
orders of a pair agree in far more rows if they are laid side by side like that than with any shift, as
`aligned_agreement` in the result says. So the question is the number modulo 953, which merging and the bootstrap need;
the Elo ratings that the paper has don't depend on it.
"""

import argparse
import json
import re
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.cells import line
from benchmarks.machine import machine
from benchmarks.results import RESULTS
from quatrain.evaluation.judging import Ranking, Verdict, rank, read_verdicts
from quatrain.evaluation.judging.both_orders import order_facts
from quatrain.evaluation.judging.rating.elo import ORDERS, START, K
from quatrain.training.progress import ProgressDisplay

RESULT = RESULTS / "quality" / "oasst_elo.json"
PAGE = Path(__file__).resolve().parent.parent / "docs" / "judging.md"
QUESTIONS = 953
SHIFT = 17
"""Rows by which the questions of one order are shifted for comparison; any will do."""
TOLERANCE = 6
"""Elo points by which our mean may differ from the paper's."""

PAPER = {
    "gpt-4": ("GPT-4", 1294),
    "gpt-3.5": ("ChatGPT", 1015),
    "65b-guanaco": ("Guanaco 65B", 1008),
    "30b-guanaco": ("Guanaco 33B", 1002),
    "vicuna-13b": ("Vicuna 13B", 936),
    "13b-guanaco": ("Guanaco 13B", 885),
    "7b-guanaco": ("Guanaco 7B", 860),
}
"""What the file calls a system → its name and Elo rating in the paper (table 7). LLaMA-33B is often called 30B."""

_BLOCK = re.compile(r"(<!-- oasst[^>]*-->\n).*?(<!-- /oasst -->)", re.DOTALL)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.oasst_elo", description=__doc__)
    parser.add_argument("verdicts", type=Path, nargs="?", help="oasst_gpt4_pairwise.csv")
    given = parser.parse_args()
    if given.verdicts:
        RESULT.parent.mkdir(parents=True, exist_ok=True)
        result = measured(given.verdicts)
        RESULT.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(_BLOCK.sub(lambda marks: f"{marks[1]}{table(result)}\n{marks[2]}", text), encoding="utf-8")
    print(table(result))
    return 0 if all(abs(row["difference"]) <= TOLERANCE for row in result["rows"]) else 1


def measured(path: Path, *, orders: int = ORDERS) -> dict[str, Any]:
    """The result file's content."""
    verdicts = by_question(read_verdicts(path))
    shifted = order_facts([v if v.model_a < v.model_b else _shifted(v) for v in verdicts])
    with ProgressDisplay() as display:
        began = time.process_time()
        separate = rank(verdicts, orders=orders, progress=display.work)
        seconds = time.process_time() - began
        merged = rank(verdicts, both_orders="merged", orders=orders, progress=display.work)
    return {
        "case": "oasst_elo",
        "title": "GPT-4's verdicts on OASST questions",
        "machine": machine(torch.device("cpu")),
        "seed": separate.seed,
        "settings": {"k": K, "start": START, "orders": orders, "samples": separate.samples, "both_orders": "separate"},
        "processor_seconds": round(seconds, 1),
        "verdicts": separate.verdicts,
        "unparsed": separate.unparsed,
        "questions": separate.items,
        "aligned_agreement": separate.order.consistency,
        "shifted_agreement": shifted.consistency,
        "first_share": separate.order.first_share,
        "rows": rows(separate, merged),
    }


def by_question(verdicts: list[Verdict]) -> list[Verdict]:
    """The verdicts with the question as their item."""
    return [Verdict(v.model_a, v.model_b, str(int(v.item) % QUESTIONS), v.verdict) for v in verdicts]


def _shifted(verdict: Verdict) -> Verdict:
    item = str((int(verdict.item) + SHIFT) % QUESTIONS)
    return Verdict(verdict.model_a, verdict.model_b, item, verdict.verdict)


def rows(separate: Ranking, merged: Ranking) -> list[dict[str, Any]]:
    """One for each system, the paper's figures beside ours."""
    elo_merged = {standing.system: standing.elo.mean for standing in merged.standings}
    found = []
    for standing in separate.standings:
        name, paper = PAPER[standing.system]
        figures = {
            "paper": paper,
            "elo": standing.elo.mean,
            "difference": standing.elo.mean - paper,
            "elo_error": standing.elo_error,
            "elo_low": standing.elo.low,
            "elo_high": standing.elo.high,
            "davidson": standing.davidson.mean,
            "davidson_low": standing.davidson.low,
            "davidson_high": standing.davidson.high,
            "elo_merged": elo_merged[standing.system],
        }
        counts = {"wins": standing.wins, "ties": standing.ties, "losses": standing.losses}
        found.append({"system": name, **{key: round(value, 2) for key, value in figures.items()}, **counts})
    return found


def table(result: dict[str, Any]) -> str:
    """For the docs."""
    head = [
        "system",
        "Elo in the paper",
        "Elo",
        "95 % of the orders",
        "Davidson",
        "its 95 % over questions",
        "Elo, merged",
    ]
    lines = [line(head), line(["---"] * len(head))]
    for row in result["rows"]:
        lines.append(
            line(
                [
                    row["system"],
                    str(row["paper"]),
                    f"{row['elo']:.0f} ± {row['elo_error']:.1f}",
                    f"{row['elo_low']:.0f} to {row['elo_high']:.0f}",
                    f"{row['davidson']:.0f}",
                    f"{row['davidson_low']:.0f} to {row['davidson_high']:.0f}",
                    f"{row['elo_merged']:.0f}",
                ]
            )
        )
    facts = (
        f"{result['verdicts']:,} verdicts on {result['questions']} questions, {result['unparsed']:,} of them unparsed; "
        f"both orders of a pair agree in {result['aligned_agreement']:.1%} (with the questions of one order shifted by "
        f"{SHIFT}: {result['shifted_agreement']:.1%}), and the answer that stood first got {result['first_share']:.1%} "
        f"of the decided verdicts. {result['settings']['orders']:,} orders and {result['settings']['samples']:,} "
        f"bootstrap samples took {result['processor_seconds']:.0f} s of one processor."
    )
    return "\n".join([*lines, "", facts.replace("%", " %")])


if __name__ == "__main__":
    raise SystemExit(main())
