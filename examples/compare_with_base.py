"""Was it the training? Measure a base, then the same base with an adapter on it, and compare them question by question.

    python examples/compare_with_base.py base runs/fine_tune/adapter exact_match=examples/support_json/heldout.jsonl

Answers are kept in ``evaluations/``: stopped and started again, this goes on where it was.
"""

import sys

import quatrain

base, adapter, *tasks = sys.argv[1:]

model, tokenizer = quatrain.load_model(base)
before = quatrain.evaluate(model, tokenizer, tasks, name="base")
quatrain.load_adapter(model, adapter)
after = quatrain.evaluate(model, tokenizer, tasks, name="adapter")
for difference in after.differences_from(before):
    print(difference)
