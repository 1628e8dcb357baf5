"""GGUF files: headers that lie, and families that aren't known."""
