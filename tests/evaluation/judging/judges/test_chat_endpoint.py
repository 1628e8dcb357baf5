"""A judge behind an endpoint that is slow, busy, broken, or says something else than asked."""

import time
from typing import Any

import pytest

from quatrain.errors import ConfigError, JudgeError
from quatrain.evaluation.judging.judges import ChatEndpoint, EndpointConfig, Reply, chat_endpoint
from quatrain.plain import HIDDEN
from tests.evaluation.judging.chat_server import KEY, ChatServer, Request


def judge(server: ChatServer, **settings: Any) -> ChatEndpoint:
    given = {"model": "wise", "base_url": server.address, "api_key_env": "JUDGE_KEY", "timeout_s": 5.0, **settings}
    return ChatEndpoint(EndpointConfig(**given))


def asked(server: ChatServer, prompts: list[str], **settings: Any) -> tuple[dict[int, Reply], list[str]]:
    replies: dict[int, Reply] = {}
    reasons = judge(server, **settings)(prompts, replies.__setitem__)
    return replies, reasons


def test_verdicts_come_with_their_words_and_tokens(endpoint: ChatServer) -> None:
    said = {"one": "Since 2 + 2 = 4:\nVerdict: A", "two": "**Verdict: B**", "three": "verdict: tie"}
    endpoint.say = said.__getitem__
    replies, reasons = asked(endpoint, list(said))
    assert [replies[number].verdict for number in range(3)] == ["a", "b", "tie"]
    assert replies[0] == Reply("a", said["one"], 100, 7) and not reasons
    assert all(key == f"Bearer {KEY}" for key in endpoint.keys)
    body = endpoint.bodies[0]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("wise", 0, 1024)


def test_a_requests_parameters_are_the_users(endpoint: ChatServer) -> None:
    own = {"max_tokens": None, "max_completion_tokens": 9, "temperature": 1, "chat_template_kwargs": {"thinking": True}}
    asked(endpoint, ["x"], request=own)
    sent = {name: value for name, value in endpoint.bodies[0].items() if name not in ("model", "messages")}
    assert sent == {name: value for name, value in own.items() if value is not None}
    config: dict[str, Any] = {"model": "wise", "base_url": endpoint.address}
    assert EndpointConfig(**config, request=own).longest_reply == 9
    assert EndpointConfig(**config, request={"max_tokens": None}).longest_reply is None
    assert EndpointConfig(**config).longest_reply == 1024


def test_no_key_is_sent_where_none_is_wanted(endpoint: ChatServer) -> None:
    asked(endpoint, ["x"], api_key_env=None)
    assert KEY not in endpoint.keys[0]


def refusal(request: Request, number: int) -> bool:
    request.complete(None, refusal="I can't judge that.")
    return True


def garbage(request: Request, number: int) -> bool:
    request.complete("Verdict: A or Verdict: B, who knows")
    return True


def nothing(request: Request, number: int) -> bool:
    request.complete(None)
    return True


def filtered(request: Request, number: int) -> bool:
    return request.fail(400, "too bad", "content_filter")


@pytest.mark.parametrize(
    ("misbehave", "said"),
    [
        (refusal, "I can't judge that."),
        (garbage, "Verdict: A or Verdict: B, who knows"),
        (nothing, ""),
        (filtered, "refused by the endpoint: content_filter"),
    ],
)
def test_what_holds_no_verdict_is_kept_as_unparsed(endpoint: ChatServer, misbehave, said: str) -> None:
    endpoint.misbehave = misbehave
    replies, reasons = asked(endpoint, ["x"])
    assert (replies[0].verdict, replies[0].text) == ("unparsed", said) and not reasons


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_busy_server_is_asked_again(endpoint: ChatServer, code: int) -> None:
    endpoint.misbehave = lambda request, number: number < 2 and request.fail(code, "later", Retry_After="0.01")
    replies, reasons = asked(endpoint, ["x"])
    assert replies[0].verdict == "tie" and not reasons and len(endpoint.bodies) == 3


def html(request: Request, number: int) -> bool:
    request.send(200, "<html>a proxy's page</html>")
    return True


def other_json(request: Request, number: int) -> bool:
    request.send(200, {"choices": [{"text": "an older kind of answer"}]})
    return True


@pytest.mark.parametrize(
    ("misbehave", "attempts", "reason"),
    [
        (lambda request, number: request.fail(503, "out of order"), 2, "Error code: 503 - out of order"),
        (lambda request, number: request.hang(), 2, "Request timed out"),
        (html, 1, 'must answer with a chat completion, got "<html>'),
        (other_json, 1, "must answer with a chat completion"),
    ],
)
def test_one_that_stays_broken_leaves_the_pair_unjudged(endpoint: ChatServer, misbehave, attempts: int, reason) -> None:
    endpoint.misbehave = lambda request, number: request.body["messages"][0]["content"] == "x" and misbehave(request, 0)
    replies, (said,) = asked(endpoint, ["a", "x", "b"], attempts=2, timeout_s=0.3)
    assert replies.keys() == {0, 2} and endpoint.prompts.count("x") == attempts
    assert reason in said


def test_a_server_that_drips_is_given_up(endpoint: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause between two bytes is long, but all of them are."""

    def drip(request: Request, number: int) -> bool:
        request.send_response(200)
        request.send_header("Content-Length", "1000000")
        request.end_headers()
        while not endpoint.closing.wait(0.02):
            request.wfile.write(b" ")
        return True

    endpoint.misbehave = drip
    monkeypatch.setattr(chat_endpoint, "_LONGEST_PAUSE_S", 0.1)
    began = time.monotonic()
    replies, (reason,) = asked(endpoint, ["x"], attempts=1, timeout_s=0.2)
    assert not replies and reason == "the endpoint sent its answer too slowly" and time.monotonic() - began < 5


def test_failure_after_failure_ends_it(endpoint: ChatServer) -> None:
    endpoint.misbehave = lambda request, number: number > 1 and request.fail(500, "broken")
    replies: dict[int, Reply] = {}
    with pytest.raises(JudgeError, match=r"failed 3 times in a row, the last time with: Error code: 500 - .*broken"):
        judge(endpoint, attempts=1, concurrency=1)([str(i) for i in range(50)], replies.__setitem__)
    assert len(endpoint.bodies) == 5 and replies.keys() == {0, 1}


def test_a_server_that_is_not_there(endpoint: ChatServer) -> None:
    with pytest.raises(JudgeError, match=r"failed 3 times.*Connection error.*connection attempts failed"):
        asked(endpoint, list("abc"), base_url="http://127.0.0.1:9/v1", attempts=1, concurrency=1)


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (401, "check the key in JUDGE_KEY"),
        (403, "may do"),
        (404, "the model's name and the address"),
        (400, "the request's parameters"),
    ],
)
def test_a_refusal_that_is_the_same_for_all_ends_it_at_once(endpoint: ChatServer, code: int, remedy: str) -> None:
    endpoint.misbehave = lambda request, number: request.fail(code, f"no, and your key {KEY} is bad")
    with pytest.raises(JudgeError, match=remedy) as caught:
        asked(endpoint, list("abcdef"), concurrency=1)
    assert len(endpoint.bodies) == 1 and KEY not in str(caught.value) and HIDDEN in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


def test_requests_at_once_are_limited(endpoint: ChatServer) -> None:
    endpoint.say = lambda prompt: time.sleep(0.02) or "Verdict: A"  # pyright: ignore
    replies, _ = asked(endpoint, [str(i) for i in range(12)], concurrency=3)
    assert len(replies) == 12 and 2 <= endpoint.busiest <= 3


def test_the_key_is_in_no_reply_and_no_setting(endpoint: ChatServer) -> None:
    endpoint.say = lambda prompt: f"Your key is {KEY}.\nVerdict: A"
    replies, _ = asked(endpoint, ["x"])
    assert replies[0].text == f"Your key is {HIDDEN}.\nVerdict: A"
    config = EndpointConfig(model="wise", base_url="https://me:secret@host/v1")
    assert "secret" not in str(config.settings).replace(HIDDEN, "")


def test_a_missing_key_is_said_before_anything_is_asked(endpoint: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", " ")
    with pytest.raises(ConfigError, match="the environment variable JUDGE_KEY must hold the key for http"):
        judge(endpoint)


@pytest.mark.parametrize(
    "setting",
    [
        {"base_url": "host/v1"},
        {"attempts": 0},
        {"concurrency": 0},
        {"timeout_s": 0.0},
        {"temperature": -1.0},
        {"request": {"model": "x"}},
    ],
)
def test_settings_are_checked(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        EndpointConfig(**{"model": "wise", "base_url": "http://host/v1", **setting})
