"""Continue prompts greedily with one program: `python continue_with.py ORDER.json RESULT.json`.

A process of its own for each program, because vLLM lives in another environment and prints what it likes; so nothing
but that program is imported here. ORDER has `engine`, `model`, `adapter` (or null), `prompts` (lists of token ids) and
`new_tokens`; RESULT gets the new tokens of each prompt. Everyone computes in float32: two right programs that round to
16 bits after each operation differ at near ties.
"""

import json
import os
import sys
from typing import Any

Tokens = list[list[int]]


def quatrain(order: dict[str, Any]) -> Tokens:
    from quatrain.evaluation.continuing import continuer

    model, tokenizer = _quatrains_model(order)
    prompts, count = order["prompts"], order["new_tokens"]
    longest = max(map(len, prompts))
    go_on = continuer(model, tokenizer, batch_size=1, capacity=longest + count, max_new_tokens=count)
    return [go_on([prompt])[0] for prompt in prompts]


def quatrain_bf16(order: dict[str, Any]) -> Tokens:
    """As llama.cpp multiplies with BF16 weights on a CPU: each row that goes into a product is rounded to BF16 as well,
    and summed in float32 (`ggml_vec_dot_bf16`).
    """
    import torch

    model, _ = _quatrains_model(order)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(lambda _, inputs: (inputs[0].bfloat16().float(),))
    return _generated(model, order)


def _quatrains_model(order: dict[str, Any]) -> tuple[Any, Any]:
    from quatrain.adapters import load_adapter
    from quatrain.models import load_model

    model, tokenizer = load_model(order["model"], quantization=None, compute_dtype="float32", device="cpu")
    if order["adapter"] is not None:
        load_adapter(model, order["adapter"], force=True)
    return model, tokenizer


def transformers(order: dict[str, Any]) -> Tokens:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(order["model"], dtype=torch.float32, device_map={"": "cpu"})
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            # On CPUs with AVX512 bitsandbytes repacks the weights and rounds activations to bfloat16.
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010
    if order["adapter"] is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, order["adapter"])
    return _generated(model, order)


def _generated(model: Any, order: dict[str, Any]) -> Tokens:
    """By transformers' `generate`."""
    import torch

    continued = []
    for prompt in order["prompts"]:
        ids = torch.tensor([prompt])
        settings = {"max_new_tokens": order["new_tokens"], "do_sample": False}
        out = model.eval().generate(input_ids=ids, attention_mask=torch.ones_like(ids), **settings)
        continued.append(out[0, len(prompt) :].tolist())
    return continued


def vllm(order: dict[str, Any]) -> Tokens:
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    adapter = order["adapter"]
    options = {"enable_lora": True, "max_lora_rank": 16} if adapter else {}
    llm = LLM(model=order["model"], dtype="float32", enforce_eager=True, max_model_len=1024, max_num_seqs=1, **options)
    request = LoRARequest("adapter", 1, adapter) if adapter else None
    prompts = [{"prompt_token_ids": prompt} for prompt in order["prompts"]]
    sampling = SamplingParams(temperature=0, max_tokens=order["new_tokens"])
    return [list(out.outputs[0].token_ids) for out in llm.generate(prompts, sampling, lora_request=request)]


def llama_cpp(order: dict[str, Any]) -> Tokens:
    import llama_cpp

    exact = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32, "flash_attn": False}
    llm = llama_cpp.Llama(order["model"], n_ctx=1024, lora_path=order["adapter"], verbose=False, **exact)
    continued = []
    for prompt, text in zip(order["prompts"], order["texts"], strict=True):
        if (found := llm.tokenize(text.encode(), add_bos=False, special=True)) != prompt:
            raise SystemExit(f"llama.cpp cuts {text!r} into {found}, not {prompt}")
        llm.reset()
        tokens: list[int] = []
        for token in llm.generate(prompt, top_k=1, temp=0.0, repeat_penalty=1.0):
            tokens.append(token)
            if len(tokens) == order["new_tokens"] or token == llm.token_eos():
                break
        continued.append(tokens)
    return continued


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        given = json.load(file)
    engines = {
        "quatrain": quatrain,
        "quatrain, BF16": quatrain_bf16,
        "transformers": transformers,
        "vllm": vllm,
        "llama.cpp": llama_cpp,
    }
    found = engines[given["engine"]](given)
    with open(sys.argv[2], "w") as file:
        json.dump(found, file)
