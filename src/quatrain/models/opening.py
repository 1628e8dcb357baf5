"""A base on disk, opened: everything that can be known and checked before a weight is read.

Loading fills the skeleton from it; merging and exporting read its tensors one at a time and never fill anything.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedModel

from quatrain import device as devices
from quatrain.adapters.provenance import identify
from quatrain.errors import ConfigError
from quatrain.models.choosing import choose
from quatrain.models.gguf_file import GgufFile
from quatrain.models.identity import identity_of
from quatrain.models.load_plan import LoadPlan, Weights, plan_load
from quatrain.models.placing import Placement
from quatrain.models.safetensors_folder import SafetensorsFolder
from quatrain.models.skeleton import build_skeleton, read_config
from quatrain.models.sources import Source, locate
from quatrain.models.stored_quantization import take_stored
from quatrain.models.tokenizers import check_vocabulary, read_tokenizer
from quatrain.ops.codebooks import QUANT_TYPES
from quatrain.quantization.selection import Decision


@dataclass(frozen=True, kw_only=True)
class OpenedBase:
    """A base whose files are known to fit together."""

    where: Source
    """Its files."""
    weights: Weights
    """Its tensors, to be read one at a time."""
    skeleton: PreTrainedModel
    """The model on the meta device; it knows which base it is."""
    plan: LoadPlan
    """Which stored tensor becomes which parameter."""
    decisions: dict[str, Decision]
    """For each parameter whether it is quantized, and if not, why."""
    placement: Placement
    """Where weights go and how they are quantized."""
    trust_remote_code: bool
    """Whether code that came with the model may run."""

    def read_tokenizer(self) -> Any:
        """The base's tokenizer, or None if there are no files of one.

        Raises:
            ModelError: It can't be read, or belongs to another model.
        """
        special = self.weights.special_tokens() if isinstance(self.weights, GgufFile) else {}
        tokenizer = read_tokenizer(self.where, special=special, trust_remote_code=self.trust_remote_code)
        if tokenizer is not None:
            check_vocabulary(tokenizer, self.skeleton.config.get_text_config().vocab_size)
        return tokenizer


def open_base(
    source: str | Path,
    *,
    quantization: Literal["nf4", "fp4", "int4"] | None = "nf4",
    double_quant: bool = True,
    block_size: int = 64,
    compute_dtype: str = "auto",
    device: str = "auto",
    keep_in_16bit: tuple[str, ...] = (),
    quantize_head: bool = False,
    quantize_embeddings: bool = False,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> OpenedBase:
    """Finds a base's files, reads their headers and plans its loading; arguments and errors are `load_model`'s."""
    if quantization not in (None, *QUANT_TYPES):
        raise ConfigError(f"`quantization` must be one of {', '.join(QUANT_TYPES)} or None; got {quantization!r}.")
    where = locate(source, revision=revision, trust_remote_code=trust_remote_code)
    target = devices.pick(device)
    placement = Placement(
        device=target,
        compute_dtype=devices.compute_dtype(target, compute_dtype),
        quant_type=quantization,
        block_size=block_size,
        double_quant=double_quant,
    )
    weights = _open(where)
    skeleton, plan = _prepare(where, weights, placement, trust_remote_code)
    decisions = choose(
        skeleton,
        already_quantized=bool(plan.companions),
        dtype=placement.compute_dtype,
        block_size=block_size,
        keep_in_16bit=keep_in_16bit,
        quantize_head=quantize_head,
        quantize_embeddings=quantize_embeddings,
    )
    identify(skeleton, identity_of(where, weights, skeleton.config))
    return OpenedBase(
        where=where,
        weights=weights,
        skeleton=skeleton,
        plan=plan,
        decisions=decisions,
        placement=placement,
        trust_remote_code=trust_remote_code,
    )


def _open(where: Source) -> GgufFile | SafetensorsFolder:
    if where.gguf_file is not None:
        return GgufFile(where.folder / where.gguf_file)
    return SafetensorsFolder(where.folder)


def _prepare(
    where: Source, weights: GgufFile | SafetensorsFolder, placement: Placement, trust_remote_code: bool
) -> tuple[PreTrainedModel, LoadPlan]:
    """The empty model and the plan that fills it: everything that can go wrong without reading a weight."""
    if isinstance(weights, GgufFile):
        config = weights.config()
    else:
        config = read_config(where, trust_remote_code=trust_remote_code)
    config.name_or_path = where.name
    take_stored(config)
    model = build_skeleton(config, dtype=placement.compute_dtype, trust_remote_code=trust_remote_code)
    return model, plan_load(model, weights)
