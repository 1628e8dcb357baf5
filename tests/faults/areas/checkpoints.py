"""Checkpoints and resuming: damaged, foreign, or no longer fitting the config."""
