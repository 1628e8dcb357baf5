"""What `import quatrain` promises: these names, and to cost next to nothing until one of them is used."""

import subprocess
import sys

import quatrain

NAMES = [
    *("AdapterSet", "DataConfig", "LoraConfig", "QuantizedLinear", "QuantizedTensor", "RunConfig"),
    *("adapter_summary", "attach_lora", "combine_adapters", "convert_adapter", "detach_lora", "evaluate"),
    *("export", "extract_adapter", "fuse_blocks", "load_adapter", "load_model", "merge", "model_summary"),
    *("plan", "quantize_4bit", "save_adapter", "save_quantized", "train"),
]

MEASURE = """
import sys, time
import torch
before = set(sys.modules)
began = time.perf_counter()
import quatrain
print(time.perf_counter() - began)
print(*{"triton", "transformers", "pydantic", "datasets", "matplotlib", "tensorboard"} & (set(sys.modules) - before))
"""


def test_the_public_names_are_these_and_each_is_there():
    assert quatrain.__all__ == NAMES
    assert {*NAMES, "__version__"} <= set(dir(quatrain))
    assert all(getattr(quatrain, name).__name__ == name for name in NAMES)


def test_importing_is_quick_and_loads_nothing_heavy():
    runs = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
        seconds, loaded = done.stdout.split("\n")[:2]
        assert loaded == "", f"import quatrain loads {loaded}"
        runs.append(float(seconds))
    assert min(runs) < 1.0
