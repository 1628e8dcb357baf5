"""What a run tells the card of its adapter, read from the run's folder and from its data."""

from dataclasses import asdict
from typing import Any

from quatrain.adapters import LoraConfig
from quatrain.adapters.model_card import CardFacts, is_hub_name
from quatrain.report import summarize, wording
from quatrain.runlog import RunFolder
from quatrain.training.build import Setup

_SETTINGS = (
    *("learning_rate", "loraplus_lr_ratio", "lr_scheduler_type", "warmup_ratio", "weight_decay", "max_grad_norm"),
    *("optim", "max_length", "packing", "per_device_train_batch_size", "gradient_accumulation_steps", "seed"),
)


def facts_of(setup: Setup, folder: RunFolder) -> CardFacts:
    """Data, hyperparameters, and losses as far as they were measured."""
    return CardFacts(data=_data(setup), settings=_settings(setup), results=_results(folder))


def _data(setup: Setup) -> tuple[str, ...]:
    summary, path = setup.data.summary, setup.config.train_data.path
    named = f" of [{path}](https://huggingface.co/datasets/{path})" if is_hub_name(path) else ""
    sentences = [
        f"{summary.samples:,} samples{named}: {summary.tokens:,} tokens, {summary.supervised_tokens:,} of them learned."
    ]
    if summary.cut:
        sentences.append(f"{summary.cut:,} samples were cut at {setup.config.max_length:,} tokens.")
    if left_out := sum(summary.dropped.values()):
        sentences.append(f"{left_out:,} rows were left out.")
    return tuple(sentences)


def _settings(setup: Setup) -> dict[str, str]:
    """Those that decide the result; settings of the adapter only where somebody has chosen them."""
    config = setup.config
    default = asdict(LoraConfig())
    lora = {name: value for name, value in asdict(config.lora).items() if name == "r" or value != default[name]}
    chosen = {
        "steps": setup.total_steps,
        **({} if config.adapter is not None else lora),
        **{name: getattr(config, name) for name in _SETTINGS},
        **({"new_tokens": config.new_tokens} if config.new_tokens else {}),
    }
    return {name: _shown(value) for name, value in chosen.items() if value is not None}


def _shown(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
    return text.replace("|", r"\|")


def _results(folder: RunFolder) -> dict[str, tuple[str, str]]:
    if not folder.events.exists():
        return {}
    found = summarize(folder)
    results = {}
    if found.first_loss is not None and found.final_loss is not None:
        results["training loss"] = wording.number(found.first_loss), wording.number(found.final_loss)
    for change in found.changes:
        before, after = (
            "" if value is None else wording.score(change.name, value) for value in (change.before, change.after)
        )
        results[f"{change.split} {change.name}"] = before, after
    return results
