"""`quatrain judge compare`."""

from typing import Any

import typer

from quatrain.cli import judge_options as options
from quatrain.cli.arguments import Device, Force, Quantization, TrustRemoteCode
from quatrain.cli.judge_answer import Folder, by_name
from quatrain.errors import ConfigError
from quatrain.untrusted import parse_json


def compare(
    folder: Folder,
    judge: options.JudgeName,
    against: options.Against = None,
    prompt: options.PromptFile = None,
    max_tokens: options.MaxTokens = 1024,
    dry_run: options.DryRun = False,
    endpoint: options.Endpoint = None,
    api_key_env: options.KeyVariable = "OPENAI_API_KEY",
    no_api_key: options.NoKey = False,
    temperature: options.JudgeTemperature = 0.0,
    request: options.RequestParameters = None,
    timeout: options.Timeout = 120.0,
    attempts: options.Attempts = 6,
    concurrency: options.Concurrency = 8,
    input_price: options.InputPrice = 0.0,
    output_price: options.OutputPrice = 0.0,
    yes: options.Yes = False,
    verdicts: options.Verdicts = "likelihood",
    batch_size: options.Batch = 16,
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
    from quatrain.cli.judge_job import Job
    from quatrain.evaluation.judging.comparing import pairings
    from quatrain.evaluation.judging.folder import ComparisonFolder
    from quatrain.evaluation.judging.judge_prompt import JudgePrompt
    from quatrain.evaluation.judging.judges import EndpointConfig, LocalConfig
    from quatrain.evaluation.judging.row_log import read_log

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
    job = Job(
        planned=pairings(comparison.questions(), comparison.answers(), words, against=against),
        config=config,
        path=comparison.verdict_log(name),
        prompt=words.text,
        input_price=input_price,
        output_price=output_price,
        loading={"device": device, "trust_remote_code": trust_remote_code, "force": force},
    )
    if dry_run:
        typer.echo(job.announced(read_log(job.path) if job.path.exists() else []))
    else:
        job.run(wait_for_yes=not yes)


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
