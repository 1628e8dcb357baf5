"""What a run puts on the disk for later, and what becomes of it when the disk fails.

On the way a disk that fails costs a checkpoint, not the run: older ones stay, and the next save tries again. At the end
nothing comes next, so there it is an error.
"""

import shutil
import time

from quatrain.adapters.loading import stored_adapter
from quatrain.errors import CheckpointError
from quatrain.files import Files
from quatrain.runlog import AdapterSaved, CheckpointSaved, EventWriter, Noted, RunFolder
from quatrain.training.build import Setup
from quatrain.training.checkpoint import save_checkpoint
from quatrain.training.checkpoints_kept import remove_old_checkpoints
from quatrain.training.config_file import write_config
from quatrain.training.handover import hand_over
from quatrain.training.state import Progress


class Saver:
    """Saves checkpoints and, at the end, the adapter.

    Args:
        saved_at: the step whose checkpoint is there already, if the run was resumed from one.
    """

    def __init__(self, setup: Setup, folder: RunFolder, writer: EventWriter, saved_at: int | None):
        self._setup, self._folder, self._writer = setup, folder, writer
        self._files = Files()
        self._saved_at = saved_at

    def warn_of_little_room(self) -> None:
        """Say at the beginning that the disk won't hold the checkpoints, rather than after hours."""
        config, there = self._setup.config, len(self._folder.checkpoint_steps())
        # A new one is whole before an old one goes.
        missing = max(1, config.save_total_limit + 1 - there) * checkpoint_bytes(self._setup)
        free = shutil.disk_usage(self._folder.path).free
        if missing > free:
            self._warn(
                f"checkpoints will need {missing / 2**20:,.0f} MiB more on the disk of {self._folder.path}, which has "
                f"{free / 2**20:,.0f} MiB left. Make room, or lower `save_total_limit`"
            )

    def save(self, at: Progress, *, last: bool = False, keep_old: bool = False) -> None:
        """Save a checkpoint, if the step has none, and let old ones go: a run that was killed may have left some.

        A step that is left in its middle isn't saved over the checkpoint that it began from: what is won is less than
        a step, and for a moment there would be neither.

        Args:
            last: nothing comes next.
            keep_old: remove none.

        Raises:
            CheckpointError: the last one can't be written.
        """
        if self._saved_at != at.step and not self._saved(at, last=last):
            return
        if keep_old:
            return
        try:
            remove_old_checkpoints(self._folder, at.step, keep=self._setup.config.save_total_limit, files=self._files)
        except CheckpointError as error:
            self._warn(str(error))

    def hand_over(self, at: Progress) -> None:
        """Write the adapter that the run was for. Raises as :func:`quatrain.training.handover.hand_over`."""
        path = hand_over(self._folder, self._setup, files=self._files)
        layers = stored_adapter(self._setup.model).layers
        # A large model has hundreds; more digits nobody could see.
        norms = {name: float(f"{layer.delta_norm():.4g}") for name, layer in layers.items()}
        self._writer.write(AdapterSaved(step=at.step, path=str(path.relative_to(self._folder.path)), norms=norms))

    def _saved(self, at: Progress, *, last: bool) -> bool:
        """Whether a checkpoint was written. One that fails is tried again when the next is due."""
        began = time.perf_counter()
        try:
            if not self._folder.config.exists():
                # Somebody has removed the run's folder. Without its config nobody could resume from what is saved now.
                write_config(self._setup.config, self._folder.config)
            path = save_checkpoint(self._folder, self._setup, at, files=self._files)
        except CheckpointError as error:
            if last:
                raise
            self._warn(f"{error}. Training goes on; the next save tries again")
            return False
        self._saved_at = at.step
        self._writer.write(
            CheckpointSaved(
                step=at.step,
                path=str(path.relative_to(self._folder.path)),
                size=sum(f.stat().st_size for f in path.iterdir()),
                seconds=time.perf_counter() - began,
            )
        )
        return True

    def _warn(self, message: str) -> None:
        self._writer.write(Noted(level="warning", message=message))


def checkpoint_bytes(setup: Setup) -> int:
    """About what a checkpoint takes: the adapter in float32, and its two moments."""
    trained = sum(p.numel() for p in setup.model.parameters() if p.requires_grad)
    return trained * (4 + 2 * setup.optimizer.state_bits // 8)
