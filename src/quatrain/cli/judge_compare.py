"""`quatrain judge compare`."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quatrain.cli.arguments import Device, Force, Quantization, TrustRemoteCode
from quatrain.cli.judge_answer import Folder, by_name, kept
from quatrain.errors import ConfigError, JudgeError
from quatrain.plain import one_line
from quatrain.untrusted import parse_json

if TYPE_CHECKING:
    from quatrain.evaluation.judging.comparing import Compared, Pairing
    from quatrain.evaluation.judging.judges import EndpointConfig, Judge, LocalConfig
    from quatrain.evaluation.judging.row_log import RowLog

_WORDS = {"a": "for the first answer", "b": "for the second", "tie": "ties", "unparsed": "unparsed"}
_SHOWN = 300
"""Characters of a reply's end, where the verdict should be."""
_MUCH_UNPARSED = 0.1
"""Share of unparsed verdicts from which a person should look at a reply."""


def compare(
    folder: Folder,
    judge: Annotated[
        str, typer.Option(metavar="[NAME=]MODEL", help="The model's name at the endpoint; or a local MODEL or RUN.")
    ],
    endpoint: Annotated[
        str | None,
        typer.Option(help="Address of an OpenAI-compatible service, up to and with /v1.", show_default=False),
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="Judge only pairs with this model. Default: all pairs.", show_default=False)
    ] = None,
    prompt: Annotated[
        Path | None,
        typer.Option(
            help="Jinja file in place of the judge's prompt, with {{ question }}, {{ answer_a }} and {{ answer_b }}.",
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    verdicts: Annotated[
        str, typer.Option(help="Of a local judge: likelihood (of A, B and C) or written (reasons first, slower).")
    ] = "likelihood",
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest reply in tokens.")] = 1024,
    temperature: Annotated[float, typer.Option(min=0.0, help="Of the judge behind an endpoint.")] = 0.0,
    request: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=JSON",
            help="A parameter of each request; null leaves ours out, as in max_tokens=null.",
            show_default=False,
        ),
    ] = None,
    api_key_env: Annotated[str, typer.Option(help="Environment variable that holds the key.")] = "OPENAI_API_KEY",
    no_api_key: Annotated[bool, typer.Option("--no-api-key", help="The endpoint wants no key.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds of silence before an attempt is given up.")] = 120.0,
    attempts: Annotated[int, typer.Option(min=1, help="For each verdict.")] = 6,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at once.")] = 8,
    batch_size: Annotated[int, typer.Option(min=1, help="Of a local judge that writes.")] = 16,
    input_price: Annotated[float, typer.Option(min=0.0, help="Of a million tokens of prompts.")] = 0.0,
    output_price: Annotated[float, typer.Option(min=0.0, help="Of a million tokens of replies.")] = 0.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be asked, and ask nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Don't wait for a yes before an endpoint is asked.")] = False,
    quantization: Quantization = None,
    device: Device = None,
    trust_remote_code: TrustRemoteCode = False,
    force: Force = False,
) -> None:
    """Ask a judge which answer of each pair is better, in both orders. Nothing is asked twice.

    Examples: `quatrain judge compare vicuna --judge gpt-4o --endpoint https://api.openai.com/v1`, or
    `quatrain judge compare vicuna --judge Qwen/Qwen3-8B --verdicts written`

    What will be asked is said first, with the cost if you give prices. A reply in which no verdict is found is counted
    as unparsed and isn't guessed at. The key is read from the environment and goes nowhere but to the endpoint.
    """
    from quatrain.evaluation.judging import comparing
    from quatrain.evaluation.judging.folder import ComparisonFolder
    from quatrain.evaluation.judging.judge_prompt import JudgePrompt
    from quatrain.evaluation.judging.judges import EndpointConfig, LocalConfig
    from quatrain.evaluation.judging.row_log import read_log, row_log

    ((name, model),) = by_name([judge]).items()
    if endpoint is not None:
        config = EndpointConfig(
            model=model,
            base_url=endpoint,
            api_key_env=None if no_api_key else api_key_env,
            max_tokens=max_tokens,
            temperature=temperature,
            request=_parameters(request),
            timeout_s=timeout,
            attempts=attempts,
            concurrency=concurrency,
        )
    else:
        config = LocalConfig(model, verdicts, quantization, max_tokens, batch_size)  # pyright: ignore[reportArgumentType]
    words, comparison = JudgePrompt(prompt), ComparisonFolder(folder)
    planned = comparing.pairings(comparison.questions(), comparison.answers(), words, against=against)
    path = comparison.verdict_log(name)
    prices = (input_price, output_price)
    if dry_run:
        rows = read_log(path) if path.exists() else []
        typer.echo(_announced(planned, comparing.unjudged(planned, rows), config, prices))
        return
    judging = _opener(config, {"device": device, "trust_remote_code": trust_remote_code, "force": force})
    with kept("verdicts"), row_log(path, {**config.settings, "prompt": words.text}) as log:
        left = comparing.unjudged(planned, log.rows)
        typer.echo(_announced(planned, left, config, prices), err=True)
        if left and endpoint is not None and sys.stdin.isatty() and not yes:
            typer.confirm("Ask the endpoint?", abort=True)
        _report(_compared(planned, judging, log, needed=bool(left)), config, prices)


def _compared(
    planned: "Sequence[Pairing]", judging: "Callable[[], Judge]", log: "RowLog", *, needed: bool
) -> "Compared":
    from quatrain.evaluation.judging.comparing import compare as compare_all
    from quatrain.training.progress import ProgressDisplay

    with ProgressDisplay() as display:
        judge = judging() if needed else None
        return compare_all(planned, judge, log, progress=lambda *at: display.work("judging", *at))


def _opener(config: "EndpointConfig | LocalConfig", loading: dict[str, Any]) -> "Callable[[], Judge]":
    """What makes the judge. An endpoint's key is looked for now, a model is loaded later, once there is need of it."""
    from quatrain.evaluation.judging.judges import ChatEndpoint, EndpointConfig, local_judge
    from quatrain.training.opening import open_model

    if isinstance(config, EndpointConfig):
        endpoint = ChatEndpoint(config)
        return lambda: endpoint
    return lambda: local_judge(config, *open_model(config.model, quantization=config.quantization, **loading))


def _announced(
    planned: "Sequence[Pairing]",
    left: "Sequence[Pairing]",
    config: "EndpointConfig | LocalConfig",
    prices: tuple[float, float],
) -> str:
    """What will be asked, before anything is."""
    from quatrain.evaluation.judging.comparing import prompt_tokens
    from quatrain.evaluation.judging.judges import EndpointConfig

    models = {pairing.model_a for pairing in planned}
    items = {pairing.item for pairing in planned}
    said = (
        f"{len(left):,} verdicts to ask for, {len(planned) - len(left):,} are there: {len(models)} models, "
        f"{len(items):,} questions, both orders"
    )
    if isinstance(config, EndpointConfig) and left:
        into, out = prompt_tokens(left), len(left) * config.max_tokens
        said += f"; about {into:,} tokens of prompts, at most {out:,} of replies"
        if any(prices):
            said += f"; at most {_cost(into, out, prices):,.2f} by your prices, attempts that fail aside"
    return said


def _report(result: "Compared", config: "EndpointConfig | LocalConfig", prices: tuple[float, float]) -> None:
    """What the judge said, in numbers. Raises JudgeError if pairs are left without a reply."""
    from quatrain.evaluation.judging.judges import EndpointConfig

    counts, total = result.verdicts, result.verdicts.total()
    said = ", ".join(f"{counts[outcome]:,} {what}" for outcome, what in _WORDS.items())
    typer.echo(f"{total:,} verdicts: {said}")
    if isinstance(config, EndpointConfig) and result.asked:
        used = f"{result.prompt_tokens:,} tokens of prompts and {result.reply_tokens:,} of replies in this call"
        cost = (
            f", {_cost(result.prompt_tokens, result.reply_tokens, prices):,.2f} by your prices" if any(prices) else ""
        )
        typer.echo(used + cost)
    if result.example and counts["unparsed"] > _MUCH_UNPARSED * total:
        typer.echo(f"many replies hold no verdict; one of them: {one_line(result.example)[-_SHOWN:]}")
    if result.missing:
        raise JudgeError(
            f"{result.missing:,} pairs are left without a verdict ({'; '.join(result.reasons)}); the same command asks "
            "for them again"
        )


def _cost(prompt_tokens: int, reply_tokens: int, prices: tuple[float, float]) -> float:
    return (prompt_tokens * prices[0] + reply_tokens * prices[1]) / 1e6


def _parameters(given: list[str] | None) -> dict[str, Any]:
    """Parameters by name, from NAME=JSON."""
    found: dict[str, Any] = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        try:
            found[name] = parse_json(value)
        except ValueError as error:
            raise ConfigError(f"`--request` looks like top_p=0.9 or effort='\"low\"', found {text!r}") from error
        if not name or not equals:
            raise ConfigError(f"`--request` looks like top_p=0.9, found {text!r}")
    return found
