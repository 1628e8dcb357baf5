"""A chat endpoint for each test, whose clients don't wait between attempts."""

from collections.abc import Iterator

import pytest

from tests.evaluation.judging.chat_server import KEY, ChatServer, serving


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    # The package's own pauses between attempts.
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)
    with serving() as server:
        yield server
