"""Strangers' words come out on one line, bounded, printable, and without secrets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quatrain.errors import CheckpointError, QuatrainError
from quatrain.plain import HIDDEN, LONGEST, holds_secret, one_line, without_secrets

TOKEN = "hf_abcdefghijKLMNOPQRST"


@given(st.text(st.characters(codec=None)))
def test_any_text_becomes_one_printable_line(text: str) -> None:
    line = one_line(text)
    assert line.isprintable() and len(line) <= LONGEST + 10
    assert line == one_line(line) or len(line) > LONGEST


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"got {TOKEN}.", f"got {HIDDEN}."),
        ("http://user:word@host/x", f"http://{HIDDEN}@host/x"),
        ("Authorization: Bearer abc.def", f"Authorization: Bearer {HIDDEN}"),
        ("https://cdn/x?a=1&X-Amz-Signature=abcd&b=2", f"https://cdn/x?a=1&X-Amz-Signature={HIDDEN}&b=2"),
        ("https://host/x?token=abcd", f"https://host/x?token={HIDDEN}"),
    ],
)
def test_secrets_are_known_by_their_form(text: str, shown: str) -> None:
    assert without_secrets(text) == shown and holds_secret(text)


@pytest.mark.parametrize(
    "text", ["half_precision", "a basic question", "org/name@main", "mail@host", "tokens=5; token"]
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert without_secrets(text) == text and not holds_secret(text)


def test_a_token_of_another_form_is_known_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "planted-token")
    assert one_line("no planted-token here") == f"no {HIDDEN} here"


def test_errors_are_plain() -> None:
    for kind in (QuatrainError, CheckpointError):
        assert str(kind(f"a\nb\x1b[2J {TOKEN}")) == f"a b\\x1b[2J {HIDDEN}"
