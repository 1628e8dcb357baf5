"""What becomes of an adapter after training: merged into its base, or written in the forms that others serve."""

from quatrain.exports.exporting import export, merge
from quatrain.exports.result import Exported

__all__ = ["Exported", "export", "merge"]
