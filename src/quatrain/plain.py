"""Words of strangers, made fit to be shown: one line, no control characters, no secrets, bounded length.

An error, a note or an event often quotes somebody else: a file's content, a server's answer, another library's message.
Such a text may run over many lines, move a terminal's cursor, be a megabyte long, or repeat the address that was asked
with the access token in it. Every error of Quatrain goes through `one_line`, and every event through `without_secrets`,
so that no place that quotes has to remember it.

A secret is known by its form (a hub's token, credentials in an address, a bearer header, a signed link), or because it
is the value of one of the variables that hold tokens.
"""

import os
import re

LONGEST = 2000
"""Characters of a shown text; what is longer loses its middle."""

TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY")
"""Environment variables whose values are never shown."""

HIDDEN = "[secret]"

_SHORTEST_SECRET = 8
_TOKEN = re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{8,}")
_AFTER_A_NAME = re.compile(
    r"(?i)(\bauthorization\W+\w+\s+|[?&;](?:[\w-]*token|api_?key|signature|sig|password|x-amz-[\w-]+)=)[^\s&;'\")]+"
)
_IN_AN_ADDRESS = re.compile(r"(?<=://)[^\s/@'\"]+@")


def one_line(text: str) -> str:
    """The text on one line, without secrets; other characters that aren't printable are written as escapes."""
    words = " ".join(without_secrets(text).split())
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)
    if len(shown) <= LONGEST:
        return shown
    return f"{shown[: LONGEST // 2]} […] {shown[-LONGEST // 2 :]}"


def without_secrets(text: str) -> str:
    """The text with every secret in it replaced by `HIDDEN`."""
    for name in TOKEN_VARIABLES:
        value = os.environ.get(name, "").strip()
        if len(value) >= _SHORTEST_SECRET:
            text = text.replace(value, HIDDEN)
    text = _TOKEN.sub(HIDDEN, text)
    text = _AFTER_A_NAME.sub(rf"\1{HIDDEN}", text)
    return _IN_AN_ADDRESS.sub(f"{HIDDEN}@", text)


def holds_secret(text: str) -> bool:
    """Whether the text has a secret in it."""
    return without_secrets(text) != text
