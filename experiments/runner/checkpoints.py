"""Checkpoints of a long experiment, by orbax: a killed run that is started again by the same command goes on."""

import hashlib
import json
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from experiments.runner import results as result_files


def checkpoints_of(results: Path, name: str, settings: Mapping[str, Any]) -> "Checkpoints":
    """Returns the checkpoints of a run, beside the results; one of other settings, versions or device has its own."""
    settings = {**settings, "versions": result_files.versions(), "device": jax.devices()[0].device_kind}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    return Checkpoints(results / f".{name}-{digest}.checkpoints")


class Checkpoints:
    """The newest checkpoint of one run, in a directory of its own.

    A checkpoint appears under its name only when it is whole, and the one before it goes only then: whenever the
    process is killed, there is a whole one, or none was written yet. Call `remove` when the run is complete.

    Args:
        directory: where it is kept; made with the first `save`.
    """

    def __init__(self, directory: Path) -> None:
        """Opens nothing yet: see the class."""
        self._directory = directory.absolute()
        self._opened: ocp.CheckpointManager | None = None
        self.resumed = False  # whether `latest` gave one

    def save(self, step: int, tree: Any) -> None:
        """Saves a tree of arrays (none of them empty), numbers and PRNG keys, in place of the one saved before.

        Raises:
            UnwritableResultsError: if it cannot be written; the one before is kept.
        """
        tree = jax.tree.map(_as_saved, tree)
        parts = ocp.args.Composite(stamp=ocp.args.JsonSave(_stamp(tree)), tree=ocp.args.StandardSave(tree))
        try:
            with _interrupt_deferred():
                self._manager().save(step, args=parts)
        except OSError as error:
            raise result_files.UnwritableResultsError(
                f"cannot write {self._directory}: {error.strerror or error}"
            ) from error

    def latest(self, like: Any) -> tuple[int, Any] | None:
        """Returns the step and the tree of the checkpoint, bit for bit as saved, and says so on standard error.

        Args:
            like: a tree of the same structure, shapes, dtypes and places. Its values don't matter.

        Returns:
            None if there is no checkpoint, or if it is one of another tree, which is removed; that is said too.
        """
        like = jax.tree.map(_as_saved, like)
        step = self._manager().latest_step() if self._directory.exists() else None
        if step is None:
            return None
        stamp = self._manager().restore(step, args=ocp.args.Composite(stamp=ocp.args.JsonRestore()))["stamp"]
        if stamp != _stamp(like):
            print(f"starting again: {self._directory} has a checkpoint of another run", file=sys.stderr, flush=True)
            self.remove()
            return None
        with jax.enable_x64(True):  # without, float64 would come back rounded to float32
            parts = self._manager().restore(step, args=ocp.args.Composite(tree=ocp.args.StandardRestore(like)))
        print(f"resuming at step {step} (checkpoint in {self._directory})", file=sys.stderr, flush=True)
        self.resumed = True
        return step, parts["tree"]

    def remove(self) -> None:
        """Removes the checkpoint; killed midway, it leaves nothing that could be taken for one."""
        self.close()
        if self._directory.exists():
            doomed = self._directory.with_name(f"{self._directory.name}.removed")
            shutil.rmtree(doomed, ignore_errors=True)
            self._directory.rename(doomed)
            shutil.rmtree(doomed)

    def close(self) -> None:
        """Lets go of the directory and keeps the checkpoint."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _manager(self) -> ocp.CheckpointManager:
        if self._opened is None:
            options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
            self._opened = ocp.CheckpointManager(self._directory, options=options)
        return self._opened


@contextmanager
def _interrupt_deferred() -> Iterator[None]:
    """Has Ctrl-C wait for the end of the block: in the middle of a save, orbax's threads would print a traceback."""
    came = []
    handler = signal.signal(signal.SIGINT, lambda *_: came.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if came:
        signal.raise_signal(signal.SIGINT)


def _as_saved(leaf: Any) -> Any:
    """Returns NumPy's scalars as arrays, which are what orbax takes."""
    return np.asarray(leaf) if isinstance(leaf, np.generic) else leaf


def _stamp(tree: Any) -> dict[str, Any]:
    """Returns the structure of the tree, as JSON gives it back."""
    stamp = {"tree": jax.tree_util.tree_leaves_with_path(jax.tree.map(_form, tree))}
    return json.loads(json.dumps(stamp, default=str))


def _form(leaf: Any) -> str:
    return f"{getattr(leaf, 'dtype', type(leaf).__name__)}{getattr(leaf, 'shape', '')}"
