"""What four bits do to a weight matrix: its size and its error, by format.

python examples/quantize_a_tensor.py
"""

import torch

import quatrain

torch.manual_seed(0)
weight = torch.randn(1024, 4096, dtype=torch.bfloat16) * 0.02

for quant_type in ("nf4", "fp4", "int4"):
    for double_quant in (False, True):
        packed = quatrain.quantize_4bit(weight, quant_type=quant_type, block_size=64, double_quant=double_quant)
        error = (packed.dequantize(torch.float32) - weight.float()).square().mean().sqrt() / weight.float().std()
        scales = "8-bit scales" if double_quant else "32-bit scales"
        print(f"{quant_type:5} {scales:14} {packed.bits_per_parameter:.3f} bits a weight, relative error {error:.1%}")
