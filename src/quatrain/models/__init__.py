"""Base models: found, read, quantized while they are read, and saved.

`load_model` is the way in (`loading.py` shows the steps); what it gives back is an ordinary Hugging Face model.
"""

from quatrain.models.loading import load_model
from quatrain.models.parts import body, head
from quatrain.models.saving import save_quantized
from quatrain.models.summary import KeptTensor, ModelSummary, model_summary
from quatrain.models.tokenizers import load_tokenizer

__all__ = [
    "KeptTensor",
    "ModelSummary",
    "body",
    "head",
    "load_model",
    "load_tokenizer",
    "model_summary",
    "save_quantized",
]
