"""The demo's training from Python: a base in four bits, an adapter on it, a run folder at the end.

    python examples/fine_tune.py [base]

The base is a hub name, a folder or a GGUF file. Since the model is made here and handed to ``train``, anything that can
be done to a Hugging Face model can be done to it in between.
"""

import sys

import quatrain

base = sys.argv[1] if len(sys.argv) > 1 else "HuggingFaceTB/SmolLM2-135M-Instruct"

model, tokenizer = quatrain.load_model(base, quantization="nf4", double_quant=True)
quatrain.attach_lora(model, quatrain.LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
config = quatrain.RunConfig(
    model=base,
    data="examples/support_json/train.jsonl",
    output_dir="runs/fine_tune",
    max_length=512,
    gradient_accumulation_steps=1,
    learning_rate=2e-3,
)
run = quatrain.train(model, tokenizer, config, overwrite=True)
print(f"The adapter is in {run.folder.adapter}, the report in {run.folder.report}.")
