"""Load a base in four bits, put a trained adapter on it, and have it answer one message.

    python examples/use_adapter.py base runs/fine_tune/adapter "Where is my toaster? Order 44201, it's urgent!"

What comes back from ``load_model`` is a Hugging Face model, so this is ordinary ``generate``.
"""

import sys

import quatrain

base, adapter, text = sys.argv[1:4]

model, tokenizer = quatrain.load_model(base)
quatrain.load_adapter(model, adapter)
messages = [
    {"role": "system", "content": "Answer in JSON: topic, product, order, urgent."},
    {"role": "user", "content": text},
]
prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**prompt.to(model.device), max_new_tokens=48, do_sample=False)
print(tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))
