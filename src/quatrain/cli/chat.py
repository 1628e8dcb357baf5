"""`quatrain chat`."""

from collections.abc import Callable

from quatrain.cli.arguments import (
    BASE_NAME,
    Adapters,
    Device,
    Force,
    MaxNewTokens,
    Named,
    Quantization,
    System,
    Temperature,
    TrustRemoteCode,
    named_adapters,
)


def chat(
    named: Named,
    adapter: Adapters = None,
    system: System = None,
    max_new_tokens: MaxNewTokens = 512,
    temperature: Temperature = 0.0,
    quantization: Quantization = None,
    device: Device = None,
    trust_remote_code: TrustRemoteCode = False,
    force: Force = False,
) -> None:
    """Talk to a base, to what a run has made of it, or to several adapters of it in turn.

    Each message is rendered by the same template as in training. `/reset` starts over, `/system TEXT` sets the system
    message, `/exit` leaves. `/adapter NAME` lets another adapter answer, or `base`, and `/adapter` lists them;
    `/compare` has all of them answer, side by side, until you say it again. Ctrl-C stops a reply, and at the prompt it
    leaves. Lines from a pipe are answered one after the other.

    Example: `quatrain chat runs/math --adapter code=runs/code --adapter mixed`
    """
    from rich.console import Console

    from quatrain.cli.conversation import Conversation
    from quatrain.evaluation import stream_reply
    from quatrain.training.opening import open_adapters

    adapters, tokenizer = open_adapters(
        named,
        named_adapters(adapter),
        quantization=quantization,
        device=device,
        force=force,
        trust_remote_code=trust_remote_code,
    )

    def reply(speaker: str, history: list[dict], on_text: Callable[[str], None]) -> None:
        adapters.set_adapter(None if speaker == BASE_NAME else speaker)
        settings = {"max_new_tokens": max_new_tokens, "temperature": temperature}
        stream_reply(adapters.model, tokenizer, history, on_text, **settings)

    speakers, active = (BASE_NAME, *adapters.names), adapters.active_adapter or BASE_NAME
    Conversation(Console(highlight=False), reply, speakers, active, system).run()
