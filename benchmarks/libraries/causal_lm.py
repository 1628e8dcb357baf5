"""What every model of transformers' kind does alike, whoever loaded it."""

from typing import Any

import torch
from torch import Tensor


def loss(model: Any, ids_BS: Tensor) -> float:
    """Mean next-token loss of a frozen base, in nats."""
    with torch.no_grad():
        ids_BS = ids_BS.to(model.device)
        return model(input_ids=ids_BS, labels=ids_BS).loss.item()


def decode(model: Any, prompts_BS: Tensor, new_tokens: int) -> Tensor:
    """Greedy continuations of just `new_tokens` tokens behind their prompts, [B, S + new_tokens], by `generate`."""
    prompts_BS = prompts_BS.to(model.device)
    return model.generate(
        input_ids=prompts_BS,
        attention_mask=torch.ones_like(prompts_BS),
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        do_sample=False,
    )
