"""The first event of a run: what is trained, on what, by which versions."""

from dataclasses import replace

from torch import nn

from quatrain import device as hardware
from quatrain.adapters.provenance import installed_versions
from quatrain.quantization import QuantizedModule
from quatrain.runlog import DataRead, RunStarted
from quatrain.training.build import Setup
from quatrain.training.config import RunConfig


def run_started(setup: Setup, step: int) -> RunStarted:
    """The event for a run that begins (or goes on) after `step`."""
    model, summary = setup.model, setup.data.summary
    parameters, size = base_size(model)
    return RunStarted(
        base=setup.config.model or getattr(model.config, "_name_or_path", "") or type(model).__name__,
        device=hardware.name(setup.device),
        total_steps=setup.total_steps,
        start_step=step,
        trainable_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        total_parameters=parameters,
        base_bytes=size,
        compute_dtype=str(model.dtype).removeprefix("torch."),
        rows=summary.samples,
        tokens=summary.tokens,
        supervised_tokens=summary.supervised_tokens,
        versions=installed_versions(),
    )


def data_read(setup: Setup) -> list[DataRead]:
    """An event for each data set of the run."""
    return [
        DataRead(
            split=split,
            rows=summary.rows,
            samples=summary.samples,
            cut=summary.cut,
            dropped=dict(summary.dropped),
            bad=dict(summary.bad),
            bad_first=summary.bad_first,
            found=dict(summary.found),
        )
        for split, summary in setup.summaries.items()
    ]


def described_base(config: RunConfig, model: nn.Module) -> RunConfig:
    """The config with what a handed-over model says of itself, so that the run folder tells how to load its base."""
    packed = next((m.quantized for m in model.modules() if isinstance(m, QuantizedModule)), None)
    name = config.model or getattr(model, "name_or_path", "") or None
    if packed is None:
        return replace(config, model=name, quantization=None)
    return replace(
        config,
        model=name,
        quantization=packed.quant_type,  # pyright: ignore[reportArgumentType]
        double_quant=packed.is_double_quantized,
        block_size=packed.block_size,
    )


def base_size(model: nn.Module) -> tuple[int, int]:
    """(weights, bytes) of the frozen base as it is stored."""
    frozen = [p for p in model.parameters() if not p.requires_grad]
    packed = [m.quantized for m in model.modules() if isinstance(m, QuantizedModule)]
    weights = sum(p.numel() for p in frozen) + sum(q.numel for q in packed)
    return weights, sum(p.nbytes for p in frozen) + sum(q.nbytes for q in packed)
