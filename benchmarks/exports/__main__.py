"""Train, export, measure, continue, compare; see the package."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.exports.forms import FORMS, write
from benchmarks.exports.table import markdown
from benchmarks.machine import machine
from benchmarks.results import RESULTS
from benchmarks.smollm2 import gguf, write_16bit

RESULT = RESULTS / "exports.json"
PROMPTS, NEW_TOKENS, STEPS = 20, 32, 100
ADAPTER, LORA_GGUF = "adapter on the 16-bit base", "lora-gguf on the Q4_1 base"
ALIKE = ", inputs of products rounded alike"
_FIELDS = {"prompt": "question", "completion": "answer"}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exports", description=__doc__)
    parser.add_argument("--run", type=Path, help="a run on SmolLM2 and GSM8K; trained here if it isn't named")
    parser.add_argument("--vllm", type=Path, help="the Python of an environment with vLLM; left out without")
    names = [*(form.name for form in FORMS), ADAPTER, LORA_GGUF]
    parser.add_argument("--form", action="append", choices=names, help="measure this form only, and keep the others")
    parser.add_argument("--only", choices=["distances", "continuations"], help="leave the other out")
    parser.add_argument("--table", action="store_true", help="print the tables of the result file, and leave")
    given = parser.parse_args()
    if not given.table:
        with tempfile.TemporaryDirectory() as folder:
            measure(given.run, given.vllm, given.form or names, Path(folder), only=given.only)
    result = read()
    print(markdown(result))
    alike = [c for c in result["continuations"].values() if c["exact"]]
    return 0 if given.table or all(c["same"] == 1 for c in alike) else 1


def read() -> dict[str, Any]:
    """What is known so far."""
    if RESULT.exists():
        return json.loads(RESULT.read_text(encoding="utf-8"))
    return {"forms": {}, "continuations": {}}


def measure(
    run: Path | None, vllm: Path | None, names: Sequence[str], folder: Path, *, only: str | None = None
) -> None:
    """Each form's distance to base + adapter, and the tokens that agree; the result file is written after each."""
    import torch
    import yaml

    run = run or train(folder)
    base = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["model"]
    asking = _Asking(folder, *questions(base), vllm)
    for form in [form for form in FORMS if form.name in names]:
        if only == "continuations" and not form.engines:
            continue
        path, figures = write(form, run, folder, measure=only != "continuations")
        engines = () if only == "distances" else form.engines
        found = asking.compare(form.name, path, None, engines, exact=form.exact)
        if form.rounds_inputs:
            found += asking.compare(f"{form.name}{ALIKE}", path, None, engines, exact=True, ours="quatrain, BF16")
        record(found, {form.name: figures} if figures else {}, machine(torch.device("cpu")))
    if only == "distances":
        return
    if ADAPTER in names:
        found = asking.compare(ADAPTER, base, run / "adapter", ("transformers", "vllm"), exact=True)
        record(found, {}, machine(torch.device("cpu")))
    if LORA_GGUF in names:
        record(lora_gguf(run, folder, asking), {}, machine(torch.device("cpu")))


def record(continuations: Sequence[dict[str, Any]], forms: dict[str, Any], on: dict[str, str]) -> None:
    """Put what was measured in the place of what was known before."""
    known = read()
    order = [form.name for form in FORMS]
    distances = known["forms"] | forms
    alike = known["continuations"] | {f"{c['form']}, {c['engine']}": c for c in continuations}
    result = {
        "machine": on,
        "run": {"model": "SmolLM2-135M-Instruct", "data": "GSM8K", "steps": STEPS},
        "prompts": PROMPTS,
        "new_tokens": NEW_TOKENS,
        "forms": {name: distances[name] for name in order if name in distances},
        "continuations": dict(sorted(alike.items(), key=lambda c: (not c[1]["exact"], c[0]))),
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def train(folder: Path) -> Path:
    """A run of `STEPS` steps on a 16-bit folder of the model."""
    from quatrain.training import RunConfig
    from quatrain.training import train as run_training

    write_16bit(folder / "base")
    config = RunConfig(
        model=str(folder / "base"),
        data={**gsm8k("train"), "max_rows": 1500},
        eval_data={**gsm8k("test"), "max_rows": 40},
        output_dir=folder / "run",
        max_steps=STEPS,
        max_length=512,
        gradient_accumulation_steps=1,
        learning_rate=1e-3,
        device="cpu",
    )
    if run_training(None, None, config).status != "completed":
        raise SystemExit("the training was stopped, and there is nothing to compare")
    return folder / "run"


def gsm8k(split: str) -> dict[str, Any]:
    """The data set, from the folder that GSM8K names or from the hub."""
    if named := os.environ.get("GSM8K"):
        return {"path": str(Path(named) / f"{split}.jsonl"), "fields": _FIELDS}
    return {"path": "openai/gsm8k", "subset": "main", "split": split, "fields": _FIELDS}


def questions(base: str) -> tuple[list[str], list[list[int]]]:
    """Questions of the test rows as the chat template writes them, as texts and as tokens."""
    from quatrain.data import DataConfig, read_questions
    from quatrain.models import load_tokenizer

    tokenizer = load_tokenizer(base)
    rows = DataConfig(**{**gsm8k("test"), "max_rows": PROMPTS})
    prompts = [list(question.prompt_ids) for question in read_questions(rows, tokenizer)]
    return [tokenizer.decode(prompt) for prompt in prompts], prompts


def lora_gguf(run: Path, folder: Path, asking: "_Asking") -> list[dict[str, Any]]:
    """llama.cpp puts the adapter's own file on the Q4_1 base; Quatrain the adapter on the same base."""
    from quatrain.exports import export

    export(run, folder / "lora", to="lora-gguf")
    expected = asking.tokens("quatrain", gguf(), run / "adapter")
    found = asking.tokens("llama.cpp", gguf(), folder / "lora" / "adapter.gguf")
    return [asking.agreement(LORA_GGUF, "llama.cpp", expected, found, exact=False)]


class _Asking:
    """Asks programs for continuations of the same prompts."""

    def __init__(self, folder: Path, texts: list[str], prompts: list[list[int]], vllm: Path | None):
        self._folder, self._texts, self._prompts, self._vllm = folder, texts, prompts, vllm

    def compare(
        self,
        form: str,
        model: str | Path,
        adapter: Path | None,
        engines: Sequence[str],
        *,
        exact: bool,
        ours: str = "quatrain",
    ) -> list[dict[str, Any]]:
        """Each engine's tokens against Quatrain's (`ours`: computed how), on the same files."""
        engines = [engine for engine in engines if engine != "vllm" or self._vllm is not None]
        expected = self.tokens(ours, model, adapter) if engines else []
        found = {engine: self.tokens(engine, model, adapter) for engine in engines}
        return [self.agreement(form, engine, expected, tokens, exact=exact) for engine, tokens in found.items()]

    def tokens(self, engine: str, model: str | Path, adapter: Path | None) -> list[list[int]]:
        """What one program makes of the prompts, in a process of its own."""
        order, result = self._folder / "order.json", self._folder / "result.json"
        asked = {
            "engine": engine,
            "model": str(model),
            "adapter": adapter and str(adapter),
            "prompts": self._prompts,
            "texts": self._texts,
            "new_tokens": NEW_TOKENS,
        }
        order.write_text(json.dumps(asked), encoding="utf-8")
        python = str(self._vllm) if engine == "vllm" else sys.executable
        script = Path(__file__).with_name("continue_with.py")
        subprocess.run([python, str(script), str(order), str(result)], check=True, stdout=subprocess.DEVNULL)
        return json.loads(result.read_text(encoding="utf-8"))

    def agreement(
        self, form: str, engine: str, expected: list[list[int]], found: list[list[int]], *, exact: bool
    ) -> dict[str, Any]:
        """The share of tokens before the first that differs, over all prompts, and how many prompts are the same."""
        ends = [_upto_end(tokens) for tokens in expected]
        common = [_common(a, b) for a, b in zip(ends, found, strict=True)]
        print(f"{form}, {engine}: {sum(common)} of {sum(map(len, ends))} tokens", flush=True)
        return {
            "form": form,
            "engine": engine,
            "exact": exact,
            "same": sum(common) / sum(map(len, ends)),
            "same_prompts": sum(n == len(tokens) for n, tokens in zip(common, ends, strict=True)),
        }


def _upto_end(tokens: list[int]) -> list[int]:
    """Without the padding that may follow the first end token (SmolLM2's is 2)."""
    return tokens[: tokens.index(2) + 1] if 2 in tokens else tokens


def _common(a: list[int], b: list[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


if __name__ == "__main__":
    raise SystemExit(main())
