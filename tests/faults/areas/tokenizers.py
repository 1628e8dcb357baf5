"""Tokenizers and chat templates: missing parts, templates that fail, and what is hidden in them."""
