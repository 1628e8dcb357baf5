"""What `quatrain judge compare` does once it knows what is wanted: say it, do it, report it."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from quatrain.cli.judge_answer import kept
from quatrain.errors import JudgeError
from quatrain.plain import one_line

if TYPE_CHECKING:
    from quatrain.data.rows import Row
    from quatrain.evaluation.judging.comparing import Compared, Pairing
    from quatrain.evaluation.judging.judges import EndpointConfig, Judge, LocalConfig

_WORDS = {"a": "for the first answer", "b": "for the second", "tie": "ties", "unparsed": "unparsed"}
_SHOWN = 300
"""Characters of a reply's end, where the verdict should be."""
_MUCH_UNPARSED = 0.1
"""Share of unparsed verdicts from which a person should look at a reply."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """Pairs to be judged, by whom, and where the verdicts go."""

    planned: "Sequence[Pairing]"
    config: "EndpointConfig | LocalConfig"
    path: Path
    prompt: str
    """The judge's prompt, unfilled."""
    input_price: float
    """Of a million tokens."""
    output_price: float
    loading: dict[str, Any]
    """How a local judge's model is loaded."""

    def announced(self, rows: "Sequence[Row]") -> str:
        """What will be asked, before anything is, when `rows` are known."""
        from quatrain.evaluation.judging.comparing import prompt_tokens, unjudged
        from quatrain.evaluation.judging.judges import EndpointConfig

        left = unjudged(self.planned, rows)
        models, items = ({getattr(pairing, name) for pairing in self.planned} for name in ("model_a", "item"))
        said = (
            f"{len(left):,} verdicts to ask for, {len(self.planned) - len(left):,} are there: {len(models)} models, "
            f"{len(items):,} questions, both orders"
        )
        if isinstance(self.config, EndpointConfig) and left:
            into, longest = prompt_tokens(left), self.config.longest_reply
            said += f"; about {into:,} tokens of prompts"
            if longest is not None:
                said += f", at most {len(left) * longest:,} of replies"
                if self._priced:
                    cost = self._cost(into, len(left) * longest)
                    said += f"; at most {cost:,.2f} by your prices, attempts that fail aside"
        return said

    def run(self, *, wait_for_yes: bool) -> None:
        """Have all pairs judged that aren't.

        Raises:
            ConfigError: the judge can't be made, or the verdicts that are there were made with other settings.
            JudgeError: pairs are left without a verdict.
        """
        from quatrain.evaluation.judging.comparing import compare, unjudged
        from quatrain.evaluation.judging.judges import ChatEndpoint, EndpointConfig
        from quatrain.evaluation.judging.row_log import row_log
        from quatrain.training.progress import ProgressDisplay

        # An endpoint's key is looked for now, a model is loaded once there is need of it.
        endpoint = ChatEndpoint(self.config) if isinstance(self.config, EndpointConfig) else None
        with kept("verdicts"), row_log(self.path, {**self.config.settings, "prompt": self.prompt}) as log:
            typer.echo(self.announced(log.rows), err=True)
            judge = None
            if unjudged(self.planned, log.rows):
                if endpoint is not None and wait_for_yes and sys.stdin.isatty():
                    typer.confirm("Ask the endpoint?", abort=True)
                judge = endpoint or self._local()
            with ProgressDisplay() as display:
                result = compare(self.planned, judge, log, progress=lambda *at: display.work("judging", *at))
        self._report(result)

    def _local(self) -> "Judge":
        from quatrain.evaluation.judging.judges import LocalConfig, local_judge
        from quatrain.training.opening import open_model

        assert isinstance(self.config, LocalConfig)
        model, tokenizer = open_model(self.config.model, quantization=self.config.quantization, **self.loading)
        return local_judge(self.config, model, tokenizer)

    def _report(self, result: "Compared") -> None:
        """What the judge said, in numbers. Raises JudgeError if pairs are left without a reply."""
        counts, total = result.verdicts, result.verdicts.total()
        said = ", ".join(f"{counts[outcome]:,} {what}" for outcome, what in _WORDS.items())
        typer.echo(f"{total:,} verdicts: {said}")
        if result.reply_tokens:
            into, out = result.prompt_tokens, result.reply_tokens
            cost = f", {self._cost(into, out):,.2f} by your prices" if self._priced else ""
            typer.echo(f"{into:,} tokens of prompts and {out:,} of replies in this call{cost}")
        if result.example and counts["unparsed"] > _MUCH_UNPARSED * total:
            typer.echo(f"many replies hold no verdict; one of them: {one_line(result.example)[-_SHOWN:]}")
        if result.missing:
            reasons = "; ".join(result.reasons)
            raise JudgeError(
                f"{result.missing:,} pairs are left without a verdict ({reasons}); the same command asks for them again"
            )

    @property
    def _priced(self) -> bool:
        return self.input_price > 0 or self.output_price > 0

    def _cost(self, prompt_tokens: int, reply_tokens: int) -> float:
        return (prompt_tokens * self.input_price + reply_tokens * self.output_price) / 1e6
