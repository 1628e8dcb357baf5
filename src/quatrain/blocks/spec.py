"""What one decoder block of the Llama family is: a few numbers, and the modules that hold its weights.

Everything in which Llama, Mistral, Qwen, Gemma and Phi differ inside a block stands here as a value, so that there is
one forward and one backward for all of them. Where the values come from (configurations, module names) is not known
here; `models/families.py` fills them in.
"""

from dataclasses import dataclass
from typing import Any, Literal

Activation = Literal["silu", "gelu_tanh", "gelu"]


@dataclass(frozen=True, kw_only=True)
class BlockSpec:
    """The numbers of a block."""

    num_heads: int
    """Query heads (A)."""

    num_kv_heads: int
    """Key and value heads (G); each serves A/G query heads."""

    head_dim: int
    """Elements of a head (D)."""

    activation: Activation
    """What the gate goes through."""

    norm_eps: float
    """Added to the mean square under the root of every norm."""

    norm_offset: float = 0.0
    """Added to every norm's weight; Gemma stores the weight less one."""

    attention_scale: float
    """Factor on q·k."""

    window: int | None = None
    """How many tokens, itself included, a token sees at most; None: all before it."""

    softcap: float | None = None
    """Attention scores become softcap · tanh(score / softcap) (Gemma 2)."""

    rotary: str = ""
    """Which of the model's rotary tables this block uses, where a model has several (Gemma 3)."""

    @property
    def qkv_width(self) -> int:
        """Columns of q, k and v together."""
        return (self.num_heads + 2 * self.num_kv_heads) * self.head_dim


@dataclass(frozen=True, kw_only=True)
class BlockModules:
    """The modules of a block. A linear may be an `nn.Linear`, a `QuantizedLinear`, or a `LoraLinear` around either."""

    attention_norm: Any
    """RMSNorm before attention."""

    qkv: tuple[Any, ...]
    """Linears whose outputs, side by side, are q, k and v: three, or one that holds all (Phi-3)."""

    o: Any
    """Attention's output projection."""

    mlp_norm: Any
    """RMSNorm before the MLP."""

    gate_up: tuple[Any, ...]
    """Linears whose outputs, side by side, are gate and up: two, or one that holds both."""

    down: Any
    """The MLP's output projection."""

    q_norm: Any = None
    """RMSNorm over each query head, before the rotary embedding (Qwen3, Gemma 3)."""

    k_norm: Any = None
    """RMSNorm over each key head."""

    attention_out_norm: Any = None
    """RMSNorm on attention's output, before it is added to the residual (Gemma 2 and 3)."""

    mlp_out_norm: Any = None
    """RMSNorm on the MLP's output, before it is added to the residual."""
