"""What a run is: one frozen value with everything that decides its outcome. The names are Hugging Face's."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from quatrain.adapters import LoraConfig
from quatrain.blocks.policy import FusedBlocks
from quatrain.data import DataConfig
from quatrain.data.checks import check_choices, made
from quatrain.errors import ConfigError
from quatrain.evaluation import TaskConfig
from quatrain.memory.amounts import parse_bytes
from quatrain.plain import holds_secret
from quatrain.training.export_target import ExportTarget, check_settings
from quatrain.training.kinds import check_kinds, texts

Quantization = Literal["nf4", "fp4", "int4"]
Scheduler = Literal["linear", "cosine", "constant"]
Optimizer = Literal["adamw_8bit", "adamw_32bit"]
Paging = Literal["auto", "always", "never"]
Checkpointing = Literal["auto", "off", "gate_up_8bit", "gate_up", "offload", "offload_attention", "on"]


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training, one folder.

    Every config inside may also be given as a mapping of its settings, every path as a `Path`.

    Raises:
        ConfigError: a value is of the wrong kind or outside of what its field allows.
    """

    data: DataConfig | str | Path | Mapping[str, Any]
    """Rows to train on: a file, a folder or a hub name, or a mapping with `path` and what `DataConfig` offers."""

    output_dir: str | Path = "runs/latest"
    """The run folder: config, events, adapter, checkpoints, report. One run at a time writes to it."""

    model: str | None = None
    """The base: a hub name, a folder or a GGUF file. None when a loaded model is handed to `train`."""

    revision: str | None = None
    """Branch, tag or commit of a base from the hub."""

    trust_remote_code: bool = False
    """Run Python code that ships with the base. Only for repositories that you have read."""

    quantization: Quantization | None = "nf4"
    """How the base's linears are stored. None leaves them in 16 bits (plain LoRA)."""

    double_quant: bool = True
    """Store the scales themselves in 8 bits: 4.127 instead of 4.5 bits a parameter."""

    block_size: int = 64
    """Weights that share a scale."""

    quantize_head: bool = False
    """Also quantize the output head."""

    quantize_embeddings: bool = False
    """Also quantize the input embedding."""

    keep_in_16bit: str | tuple[str, ...] | list[str] = ()
    """Patterns of module names that stay in 16 bits, such as `o_proj` or `model.layers.0.*`."""

    device: str = "auto"
    """"auto", "cpu", "cuda" or "cuda:1"."""

    compute_dtype: str = "auto"
    """Dtype of activations and products: "bfloat16", "float16", "float32", or what the device does best."""

    memory: str | None = None
    """The most that a run may take of its device, such as 24GB (10⁹ bytes) or 22GiB (2³⁰). Training is planned to fit,
    or refused before anything is loaded: rows of a step are cut into micro-batches as it suits, weights of blocks and
    AdamW's state go to the host where they must. `quatrain plan` shows it. None: what is free, as the settings are."""

    lora: LoraConfig = field(default_factory=LoraConfig)
    """The adapter."""

    adapter: str | Path | None = None
    """Folder of an adapter in PEFT's format to go on training from; its rank and targets replace `lora`'s."""

    new_tokens: str | tuple[str, ...] | list[str] = ()
    """Tokens to add to the tokenizer; their rows are trained with the adapter and saved in it. They start at the mean
    of the tokens that they were split into."""

    eval_data: DataConfig | str | Path | Mapping[str, Any] | None = None
    """Held-out rows for the evaluation loss, given as `data` is."""

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

    loraplus_lr_ratio: float | None = None
    """LoRA+: the learning rate of B (and of DoRA's magnitudes) as a multiple of A's, `learning_rate`. The paper's is
    16, with a lower `learning_rate`. None: the same for all."""

    lr_scheduler_type: Scheduler = "cosine"
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

    optim: Optimizer = "adamw_8bit"
    """Bits of AdamW's state."""

    optim_paged: Paging = "auto"
    """Keep AdamW's state in pinned host memory: when the GPU is short, always (or true), or never (or false)."""

    gradient_checkpointing: Checkpointing = "auto"
    """What is kept of a block for its backward: everything ("off" or false), the MLP's projections in 8 bits
    ("gate_up_8bit"), all but these, which are recomputed ("gate_up"), the same with the rest in pinned host memory
    ("offload"), its input and attention's output there, the rest recomputed ("offload_attention", for long samples), or
    its input only ("on" or true). "auto" takes the first of these that fits into the device's memory. Models whose
    blocks aren't our own know on and off; there "auto" is on for GPUs."""

    activations_8bit: bool = False
    """Let "auto" and a plan take "gate_up_8bit" too. It costs hardly any time, but it is the only choice that changes
    gradients: by a hundredth, where computing in bfloat16 changes them by six (`docs/engine.md`)."""

    fused_blocks: FusedBlocks = "auto"
    """Compute with blocks of our own where the architecture has them: on (or true), off (or false), or "auto": on a
    GPU."""

    logging_steps: int = 1
    """Steps between two events in the log."""

    eval_steps: int | None = None
    """Steps between evaluations. None: at the end of each epoch. The end of training always evaluates."""

    save_steps: int | None = None
    """Steps between checkpoints. None: at the end of each epoch. The end of training always saves."""

    save_total_limit: int = 2
    """Checkpoints that are kept, newest first."""

    export_to: ExportTarget | None = None
    """What `quatrain export --to` will be asked for: safetensors, bnb-4bit, gguf, ollama or lora-gguf. Settings and
    bases that it can't carry are refused before training."""

    seed: int = 42
    """Draws the adapter's start, dropout and the order of the data."""

    full_determinism: bool = False
    """On a GPU: choose kernels that give the same bits in every run, so that a resumed run equals an uninterrupted one
    bit for bit there too. Attention then runs slower. On a CPU it is so anyway."""

    def __post_init__(self):
        for name, value in self._as_stored().items():
            object.__setattr__(self, name, value)
        self._refuse_secrets()
        check_choices(self, _CHOICES)
        check_kinds(self)
        if self.memory is not None:
            parse_bytes(self.memory)
        if self.new_tokens and self.adapter is not None:
            raise ConfigError(
                "`new_tokens` can't be added to a stored adapter: it has the rows that it was trained with. Leave out "
                "`new_tokens` or `adapter`"
            )
        check_settings(self)

    def _refuse_secrets(self) -> None:
        for name, value in vars(self).items():
            if holds_secret(str(value)):
                raise ConfigError(
                    f"`{name}` holds a secret, which would be copied into the run folder; the hub's token belongs in "
                    "the environment, as HF_TOKEN, or into `hf auth login`"
                )

    def _as_stored(self) -> dict[str, Any]:
        """The fields that may be given in several forms, each in the one form that everything else reads."""
        stored: dict[str, Any] = {
            "data": DataConfig.of(self.data),
            "eval_data": None if self.eval_data is None else DataConfig.of(self.eval_data, "eval_data"),
            "task_eval": None if self.task_eval is None else made(TaskConfig, self.task_eval, "task_eval"),
            "lora": made(LoraConfig, self.lora, "lora"),
            "keep_in_16bit": texts(self, "keep_in_16bit"),
            "new_tokens": texts(self, "new_tokens"),
        }
        for name in ("output_dir", "model", "adapter"):
            value = getattr(self, name)
            if not (isinstance(value, str | Path) or (value is None and name != "output_dir")):
                raise ConfigError(f"`{name}` must be a path or a name, found {value!r}")
            stored[name] = None if value is None else str(value)
        for name, (off, on) in SWITCHES.items():
            value = getattr(self, name)
            stored[name] = (on if value else off) if isinstance(value, bool) else value
        return stored

    @property
    def train_data(self) -> DataConfig:
        """`data` as the config that it became on construction."""
        assert isinstance(self.data, DataConfig)
        return self.data

    @property
    def held_out(self) -> DataConfig | None:
        """`eval_data` as the config that it became on construction."""
        assert self.eval_data is None or isinstance(self.eval_data, DataConfig)
        return self.eval_data


SWITCHES = {
    "optim_paged": ("never", "always"),
    "gradient_checkpointing": ("off", "on"),
    "fused_blocks": ("off", "on"),
}
"""Settings that may also be given as false or true, and what these mean."""

_CHOICES = {
    "quantization": (*get_args(Quantization), None),
    "lr_scheduler_type": get_args(Scheduler),
    "optim": get_args(Optimizer),
    "optim_paged": get_args(Paging),
    "gradient_checkpointing": get_args(Checkpointing),
    "fused_blocks": get_args(FusedBlocks),
    "export_to": (*get_args(ExportTarget), None),
}
