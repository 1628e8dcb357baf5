"""Finding the parts of any decoder model without a table of architectures.

Every causal language model of Hugging Face has the same outline: a body (embeddings, a list of equal blocks, a final
norm) and a head that turns hidden states into logits. The library's own accessors give both.
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
        base = _around_embedding(model)
    if base is None:
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


def _around_embedding(model: nn.Module) -> nn.Module | None:
    """The child that holds the input embedding, for models whose accessor finds no body.

    Llama 4's text model is one: `base_model` looks for the name that the body has in the multimodal model.
    """
    get = getattr(model, "get_input_embeddings", None)
    embedding = get() if get is not None else None
    holders = (child for child in model.children() if child is not embedding)
    return next((child for child in holders if any(part is embedding for part in child.modules())), None)
