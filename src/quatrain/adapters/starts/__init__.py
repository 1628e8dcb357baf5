"""What A and B are before the first step; the names are those of PEFT's `init_lora_weights`.

| name | base + adapter at the start | the base |
|---|---|---|
| true, `gaussian` | the base: B is zero | as it is |
| `orthogonal` | the base: B and A are orthogonal, neither is zero | as it is |
| `eva` | the base: B is zero, A the main directions of what the layer is given | as it is |
| `pissa`, `pissa_niter_N` | nearer to the 16-bit model | quantized without its main directions |
| `olora` | the 16-bit model, its rounding aside | quantized without the first columns of its QR |
| `loftq` | as near to it as four bits and rank r get together | quantized for that |

The first two rows are `drawn.py`; EVA is `eva.py`. The last three need the weights from before quantization and change
the base (`changed_base.py`, `sharing.py`); what they took out of it is kept (`start.py`).
"""
