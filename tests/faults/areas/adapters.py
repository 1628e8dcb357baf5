"""Adapters of others: configuration and tensors that don't fit the base, or aren't what they say."""
