"""What a run is: one frozen value with everything that decides its outcome. The names are Hugging Face's."""

from dataclasses import dataclass, field
from typing import Literal

from quatrain.adapters import LoraConfig
from quatrain.data import DataConfig
from quatrain.errors import ConfigError
from quatrain.evaluation import TaskConfig


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training, one folder."""

    data: DataConfig | str
    """Rows to train on: a file, a folder or a hub name, or a mapping with `path` and what `DataConfig` offers."""

    output_dir: str = "runs/latest"
    """The run folder: config, events, adapter, checkpoints, report."""

    model: str | None = None
    """The base: a hub name, a folder or a GGUF file. None when a loaded model is handed to `train`."""

    revision: str | None = None
    """Branch, tag or commit of a base from the hub."""

    trust_remote_code: bool = False
    """Run Python code that ships with the base. Only for repositories that you have read."""

    quantization: Literal["nf4", "fp4", "int4"] | None = "nf4"
    """How the base's linears are stored. None leaves them in 16 bits (plain LoRA)."""

    double_quant: bool = True
    """Store the scales themselves in 8 bits: 4.127 instead of 4.5 bits a parameter."""

    block_size: int = 64
    """Weights that share a scale."""

    device: str = "auto"
    """"auto", "cpu", "cuda" or "cuda:1"."""

    compute_dtype: str = "auto"
    """Dtype of activations and products: "bfloat16", "float16", "float32", or what the device does best."""

    lora: LoraConfig = field(default_factory=LoraConfig)
    """The adapter."""

    adapter: str | None = None
    """Folder of an adapter in PEFT's format to go on training from; its rank and targets replace `lora`'s."""

    eval_data: DataConfig | str | None = None
    """Held-out rows for the evaluation loss."""

    task_eval: TaskConfig | None = None
    """Answers generated before and after training and scored against references."""

    max_length: int = 2048
    """Longest sample in tokens; what happens to longer ones is `data.on_long`."""

    packing: bool = True
    """Fill each micro-batch with whole samples end to end, none of which sees another, instead of padding."""

    per_device_train_batch_size: int = 1
    """Rows of a micro-batch. With packing it holds up to this many times `max_length` tokens."""

    gradient_accumulation_steps: int = 4
    """Micro-batches of an optimizer step. Their losses are weighed by their supervised tokens."""

    num_train_epochs: float = 1.0
    """Passes over the data."""

    max_steps: int | None = None
    """Optimizer steps; overrides `num_train_epochs`."""

    learning_rate: float = 2e-4
    """Peak learning rate. QLoRA uses 2e-4 up to 13B parameters and 1e-4 beyond."""

    lr_scheduler_type: Literal["linear", "cosine", "constant"] = "cosine"
    """How the learning rate goes after the warmup."""

    warmup_ratio: float = 0.03
    """Share of all steps in which the learning rate rises from 0."""

    weight_decay: float = 0.0
    """Decoupled weight decay of the adapter."""

    adam_beta1: float = 0.9
    """Decay of the first moment."""

    adam_beta2: float = 0.999
    """Decay of the second moment."""

    adam_epsilon: float = 1e-8
    """Added to the root of the second moment."""

    max_grad_norm: float = 1.0
    """Gradients are scaled down to this global norm. 0 leaves them."""

    optim: Literal["adamw_8bit", "adamw_32bit"] = "adamw_8bit"
    """Bits of AdamW's state."""

    optim_paged: Literal["auto", "always", "never"] = "auto"
    """Keep AdamW's state in pinned host memory: when the GPU is short, always, or never."""

    gradient_checkpointing: Literal["auto", "on", "off"] = "auto"
    """Keep one activation per block and recompute the rest in backward. "auto": on GPUs."""

    logging_steps: int = 1
    """Steps between two events in the log."""

    eval_steps: int | None = None
    """Steps between evaluations. None: at the end of each epoch. The end of training always evaluates."""

    save_steps: int | None = None
    """Steps between checkpoints. None: at the end of each epoch. The end of training always saves."""

    save_total_limit: int = 2
    """Checkpoints that are kept, newest first."""

    seed: int = 42
    """Draws the adapter's start, dropout and the order of the data."""

    def __post_init__(self):
        for name in ("data", "eval_data"):
            if isinstance(value := getattr(self, name), str):
                object.__setattr__(self, name, DataConfig(path=value))
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"`{name}` must be positive, found {value}")
        for name in ("weight_decay", "max_grad_norm", "adam_epsilon"):
            if getattr(self, name) < 0:
                raise ConfigError(f"`{name}` must not be negative, found {getattr(self, name)}")
        for name in ("adam_beta1", "adam_beta2", "warmup_ratio"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be in [0, 1), found {getattr(self, name)}")
        if self.max_length < 2:
            raise ConfigError(f"`max_length` must hold a token and its successor, found {self.max_length}")

    @property
    def train_data(self) -> DataConfig:
        """`data` as the config that it became on construction."""
        assert isinstance(self.data, DataConfig)
        return self.data

    @property
    def held_out(self) -> DataConfig | None:
        """`eval_data` as the config that it became on construction."""
        assert not isinstance(self.eval_data, str)
        return self.eval_data


_POSITIVE = (
    "block_size",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "max_steps",
    "learning_rate",
    "logging_steps",
    "eval_steps",
    "save_steps",
    "save_total_limit",
)
