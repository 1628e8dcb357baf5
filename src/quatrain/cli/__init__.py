"""The `quatrain` command: thin faces over the public names, one file a command."""

from quatrain.cli.main import main

__all__ = ["main"]
