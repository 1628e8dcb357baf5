"""A judge behind an OpenAI-compatible chat endpoint: OpenAI itself, vLLM, llama.cpp's server, Ollama, and many others.

The `openai` package does the talking: it waits and asks again when the server is busy (429, 5xx), can't be reached or
doesn't answer in time, for as long as the server asks it to (`Retry-After`) or twice as long each time. What is added:
several requests at once; a limit on the whole of a request, because a server that sends a byte now and then never
reaches a timeout between bytes; and a rule for giving up. A request that failed for good leaves its pair unjudged, to
be asked again by the next call. When that happens time after time, or the server refuses what every request has in
common (the key, the model's name, a parameter), the judge ends.

The key comes from an environment variable. It is in the requests' headers and nowhere else: whatever the server says is
searched for it before it is kept or shown.
"""

import asyncio
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from quatrain.data.checks import check_whole
from quatrain.errors import ConfigError, JudgeError
from quatrain.evaluation.judging.judge_prompt import parse_verdict
from quatrain.evaluation.judging.judges.judge import Reply, Tell
from quatrain.plain import HIDDEN, one_line, without_secrets
from quatrain.untrusted import parse_json

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_ITS_OWN_FAULT = ("content_filter", "content_policy_violation", "context_length_exceeded")
"""Codes of errors that are about one prompt and will be the same next time: that pair gets no verdict."""
_LONGEST_PAUSE_S = 120.0
"""Between two attempts, whatever the server asks for; the package's own limit."""
_FAILURES_IN_A_ROW = 3


@dataclass(frozen=True, kw_only=True)
class EndpointConfig:
    """Where the judge is, what it is called there, and how patiently it is asked.

    Raises:
        ConfigError: a value is out of range.
    """

    model: str
    """As the endpoint calls it."""

    base_url: str
    """Up to and with ``/v1``."""

    api_key_env: str | None = "OPENAI_API_KEY"
    """Environment variable that holds the key; None for a server that wants none."""

    max_tokens: int = 1024
    """Longest reply; enough for the reasons and the verdict behind them."""

    temperature: float = 0.0
    """0: the likeliest reply, for verdicts that come out the same again."""

    request: Mapping[str, Any] = field(default_factory=dict)
    """What else a request has, or has in place of ours; a value of None leaves a parameter out. Some models want
    ``{"max_tokens": None, "max_completion_tokens": 4096, "temperature": None}``."""

    timeout_s: float = 120.0
    """Seconds without a byte before an attempt is given up."""

    attempts: int = 6
    """For each prompt."""

    concurrency: int = 8
    """Requests at once."""

    def __post_init__(self) -> None:
        if not self.base_url.startswith(("http://", "https://")):
            raise ConfigError(f"`base_url` must begin with http:// or https://, got {self.base_url!r}")
        for name in ("max_tokens", "attempts", "concurrency"):
            check_whole(self, name, at_least=1)
        if reserved := {"model", "messages", "stream"} & self.request.keys():
            raise ConfigError(f"`request` can't change {min(reserved)!r}, which the judge sets itself; leave it out")
        if not (0 <= self.temperature < math.inf and 0 < self.timeout_s < math.inf):
            raise ConfigError(f"need temperature ≥ 0 and timeout_s > 0, got {self.temperature} and {self.timeout_s}")

    @property
    def parameters(self) -> dict[str, Any]:
        """Of each request, beside model and prompt."""
        ours = {"max_tokens": self.max_tokens, "temperature": self.temperature}
        return {name: value for name, value in {**ours, **self.request}.items() if value is not None}

    @property
    def longest_reply(self) -> int | None:
        """In tokens; None if the request sets no limit by a name that we know."""
        limits = [self.parameters.get(name) for name in ("max_completion_tokens", "max_tokens")]
        return next((limit for limit in limits if isinstance(limit, int)), None)

    @property
    def settings(self) -> dict[str, Any]:
        """Where and what is asked: all that decides the verdicts beside the prompts, without secrets."""
        where = {"base_url": without_secrets(self.base_url), "model": self.model}
        return {"kind": "endpoint", **where, "request": self.parameters}


class ChatEndpoint:
    """A judge; see the module.

    Raises:
        ConfigError: the `openai` package isn't installed, or the variable for the key is empty.
    """

    def __init__(self, config: EndpointConfig):
        try:
            import openai
        except ImportError as error:
            raise ConfigError("a judge behind an endpoint needs openai: pip install 'quatrain[judge]'") from error
        self._openai, self._config, self._key = openai, config, ""
        if config.api_key_env is not None:
            self._key = os.environ.get(config.api_key_env, "").strip()
            if not self._key:
                raise ConfigError(
                    f"the environment variable {config.api_key_env} must hold the key for "
                    f"{self._plain(config.base_url)}, and is empty; set it, name another with --api-key-env, or say "
                    "--no-api-key"
                )

    def __call__(self, prompts: Sequence[str], tell: Tell) -> list[str]:
        """See :class:`Judge`. Replies come in the order in which they arrive."""
        try:
            return asyncio.run(self._judge_all(prompts, tell))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

    async def _judge_all(self, prompts: Sequence[str], tell: Tell) -> list[str]:
        failures = _Failures(limit=max(_FAILURES_IN_A_ROW, self._config.concurrency))
        waiting = iter(enumerate(prompts))
        client = self._openai.AsyncOpenAI(
            api_key=self._key or "none",
            base_url=self._config.base_url,
            timeout=self._config.timeout_s,
            max_retries=self._config.attempts - 1,
        )
        async with client, asyncio.TaskGroup() as group:
            for _ in range(self._config.concurrency):
                group.create_task(self._work_off(client, waiting, tell, failures))
        return list(failures.reasons)

    async def _work_off(
        self, client: "AsyncOpenAI", waiting: Iterator[tuple[int, str]], tell: Tell, failures: "_Failures"
    ) -> None:
        for number, prompt in waiting:
            reply = await self._ask(client, prompt, failures)
            if reply is not None:
                tell(number, reply)

    async def _ask(self, client: "AsyncOpenAI", prompt: str, failures: "_Failures") -> Reply | None:
        """One prompt's reply; None if there was none in all attempts."""
        config = self._config
        create: Any = client.chat.completions.with_raw_response.create
        try:
            async with asyncio.timeout(config.attempts * (config.timeout_s + _LONGEST_PAUSE_S)):
                # As a part of the body, because `create` refuses parameters that only other services have.
                messages = [{"role": "user", "content": prompt}]
                said = await create(model=config.model, messages=messages, extra_body=config.parameters)
            reply = self._reply(said.text)
        except self._openai.APIStatusError as error:
            if error.code in _ITS_OWN_FAULT:
                failures.passed()
                return Reply("unparsed", self._plain(f"refused by the endpoint: {error.code}"))
            if error.status_code < 500 and error.status_code not in (408, 409, 429):
                raise JudgeError(self._refusal(error)) from None
            failures.meet(self._plain(error.message))
        except TimeoutError:
            failures.meet("the endpoint sent its answer too slowly")
        except (self._openai.APIError, ValueError) as error:
            failures.meet(self._plain(f"{error} {error.__cause__ or ''}".strip()))
        else:
            failures.passed()
            return reply
        return None

    def _reply(self, body: str) -> Reply:
        """What a chat completion says. Raises ValueError for what is none."""
        try:
            said = parse_json(body)
            message = said["choices"][0]["message"]
            text = message.get("content") or message.get("refusal") or ""
        except (AttributeError, LookupError, TypeError, ValueError):
            raise ValueError(f"the endpoint must answer with a chat completion, got {body[:200]!r}") from None
        text = self._plain(str(text))
        usage = said.get("usage")
        counts = [_count(usage, name) for name in ("prompt_tokens", "completion_tokens")]
        return Reply(parse_verdict(text), text, *counts)

    def _refusal(self, error: Any) -> str:
        where = self._plain(self._config.base_url)
        said = one_line(self._plain(str(error.message)))
        remedy = {
            401: f"check the key in {self._config.api_key_env}",
            403: f"check what the key in {self._config.api_key_env} may do",
            404: "check the model's name and the address, which mostly ends in /v1",
        }.get(error.status_code, "check the request's parameters (--request NAME=VALUE changes them)")
        return f"{where} refuses the request ({said}); {remedy}"

    def _plain(self, text: str) -> str:
        """The text without the key and other secrets."""
        return without_secrets(text.replace(self._key, HIDDEN) if self._key else text)


def _count(usage: Any, name: str) -> int:
    """Tokens, where the endpoint says how many."""
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) else 0


class _Failures:
    """Requests that failed in all attempts; raises JudgeError when `limit` of them came in a row."""

    def __init__(self, limit: int):
        self.reasons: dict[str, None] = {}
        self._limit, self._in_a_row = limit, 0

    def passed(self) -> None:
        self._in_a_row = 0

    def meet(self, reason: str) -> None:
        self.reasons[reason] = None
        self._in_a_row += 1
        if self._in_a_row >= self._limit:
            raise JudgeError(
                f"the judge has failed {self._in_a_row} times in a row, the last time with: {reason}. The verdicts so "
                "far are kept; the same command goes on from there"
            )
