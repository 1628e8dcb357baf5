"""Finding the parts of any decoder model without a table of architectures.

Every causal language model of Hugging Face has the same outline: a body (embeddings, a list of equal blocks, a final
norm) and a head that turns hidden states into logits. The library's own accessors give the body and the head; the
blocks are the longest list of modules of one class, which is true of every family that we know and needs no row in a
table for a new one.
"""

from torch import nn

from quatrain.errors import ModelError


def body(model: nn.Module) -> nn.Module:
    """The decoder without its head: hidden states come out of it.

    Raises:
        ModelError: The model has no base model of its own, so there is nothing that gives hidden states.
    """
    base = getattr(model, "base_model", model)
    if base is model:
        raise ModelError(
            f"A model must separate its body from its head; {type(model).__name__} doesn't. "
            "Pass the model for causal language modelling, not the bare body."
        )
    return base


def head(model: nn.Module) -> nn.Module:
    """The module that maps hidden states [..., H] to logits [..., V].

    Raises:
        ModelError: The model has no output embeddings.
    """
    get = getattr(model, "get_output_embeddings", None)
    module = get() if get is not None else None
    if module is None:
        raise ModelError(f"A causal language model must have a head; {type(model).__name__} has no output embeddings.")
    return module


def blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The decoder blocks in order, each with its full name: the longest ModuleList whose members share a class.

    A list of experts can be longer than the list of blocks, so lists inside another list's members don't count.

    Raises:
        ModelError: The model has no such list.
    """
    best: list[tuple[str, nn.Module]] = []
    taken: list[str] = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or any(name.startswith(f"{outer}.") for outer in taken):
            continue
        taken.append(name)
        members = [(f"{name}.{index}", member) for index, member in enumerate(module)]
        if len({type(member) for _, member in members}) == 1 and len(members) > len(best):
            best = members
    if not best:
        raise ModelError(
            f"A decoder must hold its blocks in one list of equal modules; {type(model).__name__} has none."
        )
    return best
