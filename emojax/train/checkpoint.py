"""Checkpoints that survive: atomic, verified, the last two and the best by validation.

A run keeps two series under `checkpoints/`: `last`, everything that resuming needs, and `best`, the
variables of the epoch that validation chose. Each save goes to a temporary name and is renamed
when complete, so a process killed at any moment leaves only whole checkpoints. Bytes that rot
later are found by a fingerprint of every array, computed on the device and stored beside it.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax import Array
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from emojax.dist.processes import all_agree, first, loss, together
from emojax.errors import CheckpointError
from emojax.train.abandoned import hush

T = TypeVar("T")

hush()


def _fingerprint(tree: Any) -> np.ndarray:
    """u32[leaves]: one checksum for each array, sensitive to every bit and its place.

    Of arrays in shares it is that of the whole arrays, wherever they lie.
    """
    spread = getattr(jax.tree.leaves(tree)[0], "sharding", None)
    whole = NamedSharding(spread.mesh, P()) if isinstance(spread, NamedSharding) else None
    return np.asarray(_checksums(whole)(tree))


@functools.cache
def _checksums(result: NamedSharding | None) -> jax.stages.Wrapped:
    def of(x: Array) -> Array:
        kind = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}[x.dtype.itemsize]
        bits = jax.lax.bitcast_convert_type(x, kind).astype(jnp.uint32)
        # Row by row, as the whole array would be counted, and without moving a share of it.
        place = jnp.zeros(x.shape, jnp.uint32)
        for axis, size in enumerate(x.shape):
            place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        place = place * jnp.uint32(2654435761) + jnp.uint32(1)
        mixed = (bits ^ (bits >> 15)) * (place | 1)
        return jnp.sum(mixed ^ (mixed >> 13), dtype=jnp.uint32)

    def checksums(tree: Any) -> Array:
        return jnp.stack([of(leaf) for leaf in jax.tree.leaves(tree)])

    return jax.jit(checksums, out_shardings=result)


class Checkpoints:
    """A series of checkpoints in one folder, each an array tree and plain JSON notes.

    Args:
      folder: made if it is not there.
      keep: how many to keep; the oldest goes when a newer one is complete. None only reads, and
        leaves a folder that another process may be writing as it is.

    Raises:
      CheckpointError: the folder cannot be made.
    """

    def __init__(self, folder: Path, keep: int | None):
        self.folder = folder
        self._writes = keep is not None
        with self._explained("cannot be opened"):
            self._manager = ocp.CheckpointManager(
                folder.absolute(),
                item_names=("tree", "notes"),
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=keep,
                    cleanup_tmp_directories=self._writes,
                    enable_async_checkpointing=self._writes,
                    create=self._writes,
                ),
            )

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, oldest first: a folder has its name once it is."""
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdecimal())

    def save(self, step: int, tree: Any, notes: dict[str, Any]) -> None:
        """Start saving; returns when the arrays are copied, before they are on disk.

        A step that is there and whole is left alone: a resumed run repeats itself bit by bit.

        Raises:
          CheckpointError: this or the previous save failed. What was complete stays.
        """
        self.wait()
        with self._explained(f"of step {step} cannot be written"):
            if step in self.steps():
                if self._whole(step, tree):
                    return
                self._set_aside(step)
            notes = notes | {"fingerprint": _fingerprint(tree).tolist()}
            self._manager.save(
                step, args=ocp.args.Composite(
                    tree=ocp.args.StandardSave(tree), notes=ocp.args.JsonSave(notes)
                ),
            )  # fmt: skip

    def wait(self) -> None:
        """Block until everything is on disk; raises `CheckpointError` if it cannot be."""
        with self._explained("cannot be written"):
            self._manager.wait_until_finished()

    def close(self) -> None:
        with self._explained("cannot be written"):
            self._manager.close()

    def restore(self, like: T) -> tuple[int, T, dict[str, Any]] | None:
        """(step, tree, notes) of the newest checkpoint that is whole, or None if there is none.

        A damaged one is reported by a warning, moved aside, and the one before it is used.

        Args:
          like: the tree to fill: arrays or `jax.ShapeDtypeStruct`s whose shapes, dtypes and
            shardings the restored arrays take.

        Raises:
          CheckpointError: there are checkpoints but all of them are damaged; they stay where they
            are.
        """
        with self._explained("cannot be read"):
            steps = self.steps()
        for step in reversed(steps):
            found, problem = None, "another process cannot read it"
            try:
                found = self._read(step, like)
            except Exception as error:  # whatever a damaged file makes its reader raise
                problem = _short(error)
            if not all_agree(found is not None):
                warnings.warn(
                    f"{self.folder / str(step)}: this checkpoint is damaged and is not used "
                    f"({problem})", stacklevel=2,
                )  # fmt: skip
                continue
            assert found is not None
            tree, notes = found
            if self._writes:
                with self._explained("cannot be moved aside"):
                    for damaged in steps[steps.index(step) + 1 :]:
                        self._set_aside(damaged)
            return step, tree, notes
        if steps:
            raise CheckpointError(
                f"{self.folder}: every checkpoint is damaged (steps: "
                f"{', '.join(map(str, steps))}). Start again in a new folder"
            )
        return None

    def notes(self) -> dict[str, Any] | None:
        """Notes of the newest checkpoint whose notes can be read, or None if there is none."""
        with self._explained("cannot be read"):
            steps = self.steps()
        for step in reversed(steps):
            wanted = ocp.args.Composite(notes=ocp.args.JsonRestore())
            try:
                notes = dict(self._manager.restore(step, args=wanted).notes)
                notes.pop("fingerprint")
            except Exception as error:  # as in `restore`
                warnings.warn(
                    f"{self.folder / str(step)}: this checkpoint is damaged and is not used "
                    f"({_short(error)})", stacklevel=2,
                )  # fmt: skip
                continue
            return notes
        return None

    def _read(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        found = self._manager.restore(
            step, args=ocp.args.Composite(
                tree=ocp.args.StandardRestore(abstract), notes=ocp.args.JsonRestore()
            ),
        )  # fmt: skip
        notes = dict(found.notes)
        if _fingerprint(found.tree).tolist() != notes.pop("fingerprint"):
            raise ValueError("its arrays do not match their fingerprint")
        return found.tree, notes

    def _whole(self, step: int, like: Any) -> bool:
        whole = True
        try:
            self._read(step, like)
        except Exception:  # as in `restore`
            whole = False
        return all_agree(whole)

    def _set_aside(self, step: int) -> None:
        with together():
            if first():
                number = len(list(self.folder.glob("damaged-*")))
                (self.folder / str(step)).rename(self.folder / f"damaged-{number}-{step}")
        self._manager.reload()

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except CheckpointError:
            raise
        except Exception as error:  # OSError, tensorstore's ValueError, errors of saving threads
            # A save among processes waits for all of them.
            if found := loss(error):
                raise found from error
            kept = "none yet"
            with contextlib.suppress(Exception):
                kept = ", ".join(map(str, self.steps())) or kept
            raise CheckpointError(
                f"{self.folder}: the checkpoint {what}: {_short(error)}. Complete checkpoints "
                f"stay (steps: {kept}). Make room or choose another folder, then resume"
            ) from error


def _short(error: Exception) -> str:
    """An error in one line, without tensorstore's dump of every setting."""
    text = " ".join(str(error).partition(" [tensorstore_spec")[0].split())
    if len(text) > 400:  # the cause comes last
        text = f"{text[:150]} ... {text[-250:]}"
    return text or type(error).__name__
