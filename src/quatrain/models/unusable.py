"""What transformers and its friends raise on a stranger's configuration that they didn't check beforehand.

A width of zero divides by zero, a text for a number has no `bit_length`, a list nested a thousand deep exhausts the
stack: any built-in error may come out, and each of them means that the configuration can't be used.
"""

from huggingface_hub.errors import StrictDataclassError

UNUSABLE = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError),
    StrictDataclassError,
)
