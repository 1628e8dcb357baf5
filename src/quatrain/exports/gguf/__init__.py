"""llama.cpp's format: a merged model, or an adapter alone, as one file with everything in it."""

from quatrain.exports.gguf.adapter_file import write_gguf_adapter
from quatrain.exports.gguf.model_file import GGUF_TYPES, write_gguf

__all__ = ["GGUF_TYPES", "write_gguf", "write_gguf_adapter"]
