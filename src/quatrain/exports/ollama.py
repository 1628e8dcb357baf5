"""An Ollama Modelfile: the GGUF file, where a reply ends, and the chat template in Ollama's own language.

Ollama doesn't run the Jinja template that a GGUF file carries; it has Go templates, which are told a list of messages.
So the Jinja template is asked what it writes around messages of a known text, and the pieces are put together again as
Ollama will do it and compared with Jinja's own result for several conversations. A template that isn't a chain of
turns differs, and is refused.

Source: Ollama's docs/template.md and docs/modelfile.md.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from quatrain.data import reply_end_ids
from quatrain.errors import ModelError

MODELFILE = "Modelfile"
_SYSTEM, _USER, _REPLY, _AGAIN = "«system»", "«user»", "«reply»", "«again»"
_Conversation = Sequence[tuple[str, str]]
_ALONE: _Conversation = [("user", _USER)]
_WITH_SYSTEM: _Conversation = [("system", _SYSTEM), ("user", _USER)]
_ANSWERED: _Conversation = [("user", _USER), ("assistant", _REPLY)]
_AGAIN_ASKED: _Conversation = [*_ANSWERED, ("user", _AGAIN)]


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """What a template writes around the texts of a conversation."""

    without_system: str
    """First, if there is no system message."""
    before_system: str
    after_system: str
    before_prompt: str
    after_prompt: str
    """Up to where the reply begins."""
    after_reply: str


def write_modelfile(folder: Path, gguf: str, tokenizer: Any) -> None:
    """Write a Modelfile beside a GGUF file.

    Args:
        gguf: the file's name.
        tokenizer: its template is translated; without one, prompts are continued as they are.

    Raises:
        ModelError: the template isn't a chain of turns, or writes what a Go template can't hold.
    """
    ends = sorted(reply_end_ids(tokenizer))
    lines = [f"FROM ./{gguf}", f'TEMPLATE """{ollama_template(tokenizer)}"""']
    lines += [f'PARAMETER stop "{tokenizer.convert_ids_to_tokens(end)}"' for end in ends]
    (folder / MODELFILE).write_text("\n".join(lines) + "\n", encoding="utf-8")


def ollama_template(tokenizer: Any) -> str:
    """A tokenizer's chat template as Ollama's.

    Raises:
        ModelError: it can't be said there.
    """
    if tokenizer.chat_template is None:
        return "{{ .Prompt }}"
    pieces = take_apart(tokenizer)
    if any(sign in piece for piece in astuple(pieces) for sign in ("{{", "}}", '"""')):
        raise ModelError("the chat template writes braces or quotes that an Ollama template can't hold; export gguf")
    start = f"{{{{ if not .System }}}}{pieces.without_system}{{{{ end }}}}" if pieces.without_system else ""
    return (
        f'{start}{{{{ range .Messages }}}}{{{{ if eq .Role "system" }}}}'
        f"{pieces.before_system}{{{{ .Content }}}}{pieces.after_system}"
        f'{{{{ else if eq .Role "user" }}}}{pieces.before_prompt}{{{{ .Content }}}}{pieces.after_prompt}'
        f'{{{{ else if eq .Role "assistant" }}}}{{{{ .Content }}}}{pieces.after_reply}{{{{ end }}}}{{{{ end }}}}'
    )


def take_apart(tokenizer: Any) -> Pieces:
    """What a tokenizer's chat template writes around messages.

    Raises:
        ModelError: it isn't a chain of turns.
    """
    try:
        pieces = _pieces(tokenizer)
        conversations = (_ALONE, _WITH_SYSTEM, _AGAIN_ASKED, [*_WITH_SYSTEM[:1], *_AGAIN_ASKED])
        same = all(_joined(pieces, said) == _render(tokenizer, said) for said in conversations)
    except ValueError:
        same = False
    if not same:
        raise ModelError(
            "the chat template isn't a chain of turns (system, prompt, reply), which is all that an Ollama template is "
            "told; export gguf, which holds the template as it is"
        )
    return pieces


def _pieces(tokenizer: Any) -> Pieces:
    """ValueError when a message's text isn't found in what is written."""
    start, after_prompt = _around(_USER, _render(tokenizer, _ALONE))
    _, after_reply = _around(_REPLY, _render(tokenizer, _ANSWERED, reply_follows=False))
    between, _ = _around(_AGAIN, _around(_REPLY, _render(tokenizer, _AGAIN_ASKED))[1])
    before_system, rest = _around(_SYSTEM, _render(tokenizer, _WITH_SYSTEM))
    before_prompt = between.removeprefix(after_reply)
    return Pieces(
        without_system=start.removesuffix(before_prompt),
        before_system=before_system,
        after_system=_around(_USER, rest)[0].removesuffix(before_prompt),
        before_prompt=before_prompt,
        after_prompt=after_prompt,
        after_reply=after_reply,
    )


def _around(text: str, rendered: str) -> tuple[str, str]:
    at = rendered.index(text)
    return rendered[:at], rendered[at + len(text) :]


def _joined(pieces: Pieces, conversation: _Conversation) -> str:
    """What Ollama makes of a conversation."""
    said = "" if conversation[0][0] == "system" else pieces.without_system
    around = {
        "system": (pieces.before_system, pieces.after_system),
        "user": (pieces.before_prompt, pieces.after_prompt),
        "assistant": ("", pieces.after_reply),
    }
    for role, text in conversation:
        before, after = around[role]
        said += before + text + after
    return said


def _render(tokenizer: Any, conversation: _Conversation, *, reply_follows: bool = True) -> str:
    """By Jinja; without the first token, if that is put there by itself, as llama.cpp then does too."""
    messages = [{"role": role, "content": text} for role, text in conversation]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=reply_follows)
    by_itself = tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    return text.removeprefix(tokenizer.bos_token) if by_itself else text
