"""Tokens and strangers' words: what must never be shown, and what is shown as text only."""
