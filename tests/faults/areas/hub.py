"""The hub: unreachable, gated, moved, slow, or telling stories."""
