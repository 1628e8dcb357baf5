"""Every error that Quatrain raises on purpose.

An error says rule, value, remedy: what must hold, what was found, what to do. Each class also inherits the standard
exception that a caller who doesn't know Quatrain would expect, so ``except ValueError`` keeps working. The command line
prints these as one message and exits with 1 (2 for :class:`ConfigError`); anything else may be a bug, so its type is
shown too, and how to see its traceback.

What an error says is one line without secrets, whoever it quotes (:mod:`quatrain.plain`).
"""

from quatrain.plain import one_line


class QuatrainError(Exception):
    """Base of all errors that Quatrain raises on purpose."""

    def __init__(self, message: str):
        super().__init__(one_line(message))


class ConfigError(QuatrainError, ValueError):
    """A setting is unknown, of the wrong type, out of range, or contradicts another."""


class QuantizationError(QuatrainError, ValueError):
    """A tensor can't be quantized, or quantized data isn't consistent."""


class ModelError(QuatrainError, ValueError):
    """A base model can't be found, read or understood."""


class AdapterError(QuatrainError, ValueError):
    """An adapter can't be attached, read, or doesn't fit its base."""


class OptimizerError(QuatrainError, ValueError):
    """Parameters, gradients and optimizer state don't fit each other."""


class DataError(QuatrainError, ValueError):
    """Training or evaluation data can't be read or used."""


class OutputError(QuatrainError, OSError):
    """A result can't be written, or isn't on the disk as it was written."""


class RowError(DataError):
    """One row can't be read or used. ``on_bad_row: skip`` leaves it out and counts it under its `kind`."""

    def __init__(self, where: object, kind: str, reason: str) -> None:
        """`where` names the row's file, line and byte; `kind` is the fault in a few words."""
        super().__init__(f"{where}: {reason}")
        self.kind = kind


class CheckpointError(QuatrainError, OSError):
    """A checkpoint or run folder can't be written, read or trusted."""


class DeviceError(QuatrainError, RuntimeError):
    """The hardware that was asked for isn't there or can't do what was asked."""


class BudgetError(QuatrainError, MemoryError):
    """No way to train fits into the memory that was given."""


class JudgeError(QuatrainError, RuntimeError):
    """A judge can't be reached, refuses what it is asked, or doesn't answer."""
