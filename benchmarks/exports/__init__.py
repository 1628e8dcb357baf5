"""Do others compute what we exported? A real model is trained, exported in every form, and continued by everyone.

    python -m benchmarks.exports --vllm .venv-vllm/bin/python      (or `make test-export`)

SmolLM2-135M learns GSM8K for some steps. Each form is written, which measures its distance to base + adapter; then
Quatrain and the programs that are said to load the form continue twenty questions greedily, in float32, and their
tokens are compared. `benchmarks/results/exports.json` keeps both; `--table` prints them for the docs.
"""
