"""Which checkpoints stay: the newest few that are whole, by step number. Clocks are set back; steps only go up."""

from quatrain.errors import CheckpointError
from quatrain.files import Files
from quatrain.runlog import RunFolder
from quatrain.training.checkpoint import REQUIRED
from quatrain.training.seal import flaw


def remove_old_checkpoints(folder: RunFolder, newest: int, *, keep: int, files: Files | None = None) -> None:
    """Remove all checkpoints older than the `keep` newest whole ones, oldest first.

    Damaged ones don't count (seen by their files' names and sizes), so they never take a whole one's place. Those of
    steps after `newest`, which resuming has skipped, stay until training comes to them. One that goes is renamed
    first: half a folder then never looks like a checkpoint.

    Args:
        newest: the step of the checkpoint that was just saved and read back.
        keep: at least 1.
        files: what works on the disk; another one only in tests.

    Raises:
        CheckpointError: one can't be removed. The newer ones are whole.
    """
    files = files or Files()
    try:
        for remains in folder.checkpoints.glob(".step-*.removing"):
            files.remove(remains)
        steps = [step for step in folder.checkpoint_steps() if step < newest]
        whole = [step for step in steps if flaw(folder.checkpoint(step), REQUIRED, sums=False) is None]
        staying = [newest, *reversed(whole)][:keep]
        for step in steps:
            if step < staying[-1]:
                path = folder.checkpoint(step)
                leaving = path.with_name(f".{path.name}.removing")
                files.rename(path, leaving)
                files.remove(leaving)
    except OSError as error:
        raise CheckpointError(
            f"old checkpoints in {folder.checkpoints} can't be removed ({error}); newer ones are whole. Make the "
            "folder writable, or remove them yourself"
        ) from error
