"""The `README.md` beside an adapter: the front matter that model hubs read, what it was trained on and came to, and how
to load it.

The base and the data are named only when they have hub names: a path of this machine means nothing to anybody else, and
hubs refuse cards whose base isn't one.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from quatrain.adapters.stored import StoredAdapter

CARD = "README.md"


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What only the one who trained knows."""

    data: tuple[str, ...] = ()
    """Sentences about the rows."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Hyperparameters by name."""
    results: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Losses and scores by name: at the start, at the end; empty where not measured."""


def write_card(folder: Path, adapter: StoredAdapter, facts: CardFacts | None = None) -> None:
    """Write the card.

    Args:
        folder: the adapter's folder.
        adapter: what lies there; a path of its base isn't written.
        facts: of its training, where they are known.
    """
    base = adapter.base if adapter.base is not None and is_hub_name(adapter.base) else None
    parts = [_front(adapter, base), _what(adapter, base), *_facts(facts or CardFacts()), _loading(adapter, base)]
    (folder / CARD).write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def is_hub_name(name: str) -> bool:
    """True for `organization/model`, unless that is a folder here."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) is not None and not Path(name).exists()


def _front(adapter: StoredAdapter, base: str | None) -> str:
    named = [f"base_model: {base}"] if base else []
    tags = [f"base_model:adapter:{base}"] if base else []
    tags += ["lora", *(["dora"] if _is_dora(adapter) else [])]
    lines = ["---", *named, "library_name: peft", "pipeline_tag: text-generation", "tags:"]
    return "\n".join([*lines, *(f"- {tag}" for tag in tags), "---"])


def _what(adapter: StoredAdapter, base: str | None) -> str:
    kind = "DoRA" if _is_dora(adapter) else "LoRA"
    shown = f"`{base}`" if base else "the base"
    sentences = [
        f"# {kind} adapter\n\nLow-rank matrices, trained with Quatrain while the weights of {shown} stayed frozen in "
        "place. This folder holds the adapter alone; the base is loaded beside it."
    ]
    if adapter.token_rows:
        count = max(len(rows.indices) for rows in adapter.token_rows.values())
        sentences.append(f"It also holds {count} trained {'row' if count == 1 else 'rows'} of the embedding.")
    if adapter.modules:
        sentences.append(f"Trained whole and held here: {', '.join(f'`{name}`' for name in sorted(adapter.modules))}.")
    if (trained := adapter.provenance) is not None and trained.quantization:
        scales = ", scales in 8 bits" if trained.double_quant else ""
        storage = f"{trained.quantization}, blocks of {trained.block_size}{scales}"
        sentences.append(f"While training, the base was in four bits ({storage}).")
    return " ".join(sentences)


def _facts(facts: CardFacts) -> list[str]:
    parts = []
    if facts.data:
        parts.append("## Data\n\n" + "\n".join(facts.data))
    if facts.settings:
        parts.append("## Hyperparameters\n\n" + _table(("setting", "value"), list(facts.settings.items())))
    if facts.results:
        rows = [(name, before or "–", after or "–") for name, (before, after) in facts.results.items()]
        parts.append("## Results\n\n" + _table(("", "before", "after"), rows))
    return parts


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows))


def _loading(adapter: StoredAdapter, base: str | None) -> str:
    shown = base or "path/to/base"
    grow = ""
    if adapter.token_rows:
        rows = 1 + max(max(rows.indices) for rows in adapter.token_rows.values())
        grow = f"\nbase.resize_token_embeddings(max({rows}, base.get_input_embeddings().num_embeddings))"
    return f"""## Loading

With PEFT:

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("{shown}"){grow}
model = PeftModel.from_pretrained(base, "path/to/this/folder")
```

With Quatrain, which keeps the base in four bits:

```python
import quatrain

model, tokenizer = quatrain.load_model("{shown}")
quatrain.load_adapter(model, "path/to/this/folder")
```"""


def _is_dora(adapter: StoredAdapter) -> bool:
    return any(layer.magnitude_O is not None for layer in adapter.layers.values())
