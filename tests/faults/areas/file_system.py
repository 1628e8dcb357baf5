"""The disk: full, read-only, gone, or not what it seems."""
