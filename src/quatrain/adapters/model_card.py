"""The `README.md` beside an adapter: the front matter that model hubs read, and how to load it.

The base is named only when it is a hub name: a path of this machine means nothing to anybody else, and hubs refuse
cards whose base isn't one.
"""

import re
from pathlib import Path

CARD = "README.md"


def write_card(folder: Path, base: str | None) -> None:
    """Write a card unless the folder has one, which may have been edited.

    Args:
        folder: the adapter's folder.
        base: hub name or path of the base; a path isn't written.
    """
    path = folder / CARD
    if not path.exists():
        path.write_text(_card(base if base is not None and _is_hub_name(base) else None), encoding="utf-8")


def _is_hub_name(base: str) -> bool:
    """True for `organization/model`, unless that is a folder here."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", base) is not None and not Path(base).exists()


def _card(base: str | None) -> str:
    named = [f"base_model: {base}"] if base else []
    tags = [f"- base_model:adapter:{base}"] if base else []
    front = ["---", *named, "library_name: peft", "pipeline_tag: text-generation", "tags:", *tags, "- lora", "---"]
    shown = base or "path/to/base"
    return (
        "\n".join(front)
        + f"""

# LoRA adapter

Low-rank matrices, trained with Quatrain while the weights of {f"`{base}`" if base else "the base"} stayed frozen in
place. This folder holds the adapter alone; the base is loaded beside it.

With PEFT:

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{shown}"), "path/to/this/folder")
```

With Quatrain, which keeps the base in four bits:

```python
import quatrain

model, tokenizer = quatrain.load_model("{shown}")
quatrain.load_adapter(model, "path/to/this/folder")
```
"""
    )
