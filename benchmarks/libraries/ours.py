"""Quatrain through its public names. What a benchmark asks of the engine is passed on here and nowhere else."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.work import LEARNING_RATE, MAX_GRAD_NORM, Work


class QuatrainTraining:
    """The training path that `quatrain.train` runs: objective, packed micro-batches, `train_step`."""

    def __init__(self, folder: Path, work: Work, device: torch.device):
        from quatrain import LoraConfig, attach_lora, load_model
        from quatrain.adapters import adapter_parameters
        from quatrain.optim import AdamW

        self.model, _ = load_model(folder, device=str(device))
        attach_lora(self.model, LoraConfig(r=work.r, lora_alpha=work.r, lora_dropout=work.dropout))
        self._objective = _objective(self.model, work)
        self.model.train()
        self.adapter: dict[str, Tensor] = dict(adapter_parameters(self.model))
        self._optimizer = AdamW(list(self.adapter.values()), lr=LEARNING_RATE)

    @property
    def notes(self) -> list[str]:
        return self._objective.notes

    def prepare(self, ids_BS: Tensor) -> list[Any]:
        """One packed micro-batch of all samples, every token but each sample's first learned."""
        from quatrain.data import Sample
        from quatrain.data.batch import packed_batch, rounded

        samples, length = ids_BS.shape
        learned = torch.ones(length, dtype=torch.bool)
        learned[0] = False
        rows = [Sample(ids.int().numpy(), learned.numpy()) for ids in ids_BS]
        tokens = rounded(samples * length, limit=2 * samples * length)
        return [packed_batch(rows, pad_token_id=0, tokens=tokens, longest=length)]

    def step(self, batches: list[Any]) -> float:
        return self._take(batches, self._optimizer, MAX_GRAD_NORM)

    def gradients(self, batches: list[Any]) -> tuple[float, dict[str, Tensor]]:
        """Read off the update of plain gradient descent, so that they come from the step that is timed."""
        before = {name: tensor.detach().clone() for name, tensor in self.adapter.items()}
        loss = self._take(batches, torch.optim.SGD(list(self.adapter.values()), lr=1.0), float("inf"))
        return loss, {name: before[name] - tensor.detach() for name, tensor in self.adapter.items()}

    def _take(self, batches: list[Any], optimizer: torch.optim.Optimizer, max_grad_norm: float) -> float:
        from quatrain.training.step import train_step

        parameters: Any = list(self.adapter.values())
        return train_step(self._objective, parameters, optimizer, batches, max_grad_norm=max_grad_norm).loss


def _objective(model: Any, work: Work) -> Any:
    """The training objective with the engine's options for `work`."""
    from quatrain.blocks import POLICIES
    from quatrain.models.objective import Objective

    objective = Objective(model, fused_blocks=work.fused_blocks)
    if objective.engine is not None:
        objective.keep(POLICIES[work.keep])
    return objective


def imports() -> None:
    """What loading needs, so that importing isn't part of its time."""
    from transformers import LlamaForCausalLM  # noqa: F401

    from quatrain import load_model  # noqa: F401


def load(folder: Path, device: torch.device) -> Any:
    """The frozen base in four bits."""
    from quatrain import load_model

    return load_model(folder, device=str(device))[0]


def load_for_decoding(folder: Path, device: torch.device) -> Any:
    """The base, ready to continue up to 8 prompts with replies of up to 512 tokens in all."""
    from quatrain.decoding import Decoder
    from quatrain.models.families import describe

    model = load(folder, device)
    spec = describe(model)
    return Decoder(
        spec.blocks,
        embedding=spec.embedding,
        final_norm=spec.final_norm,
        head=spec.head,
        tables=spec.tables,
        device=model.device,
        dtype=model.dtype,
        max_batch=8,
        capacity=512,
    )


def decode(decoder: Any, prompts_BS: Tensor, new_tokens: int) -> Tensor:
    """Greedy continuations of just `new_tokens` tokens behind their prompts, [B, S + new_tokens]."""
    prompts = prompts_BS.tolist()
    replies = decoder.generate(prompts, max_new_tokens=new_tokens)
    return torch.tensor([prompt + reply for prompt, reply in zip(prompts, replies, strict=True)])
