"""Several processes that train one model: how they start, agree, and end together."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from emojax.errors import EmojaxError, ProcessError

TIMEOUT = 100
"""Seconds after which a process that is not heard of counts as lost."""
_MESSAGE = 2048
"""Bytes of an error that the others are told."""


def start(
    coordinator: str | None = None,
    count: int | None = None,
    index: int | None = None,
    *,
    timeout: int = TIMEOUT,
) -> None:
    """Join the processes of a run; before anything touches a device.

    Args:
      coordinator: HOST:PORT at which process 0 listens; None finds everything out by itself on TPU
        slices, Slurm, Kubernetes and Open MPI.
      count, index: number of processes, and which of them this is.
      timeout: seconds without a sign of life after which the others give a process up; for the
        first meeting three times as long.

    Raises:
      ProcessError: the processes do not find one another.
    """
    # SIGTERM is the training loop's: jax's own handler would swallow it.
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            coordinator, count, index, initialization_timeout=3 * timeout,
            heartbeat_timeout_seconds=timeout, shutdown_timeout_seconds=timeout,
        )  # fmt: skip
    except (RuntimeError, ValueError, jax.errors.JaxRuntimeError) as error:
        raise ProcessError(
            f"the processes of this run do not find one another: {error}. Start all of them within "
            f"{3 * timeout} s, with the same --coordinator and --processes and each with its own "
            "--process"
        ) from error


def alone() -> bool:
    return jax.process_count() == 1


def number() -> int:
    return jax.process_index()


def first() -> bool:
    """Whether this process is the one that writes and prints."""
    return number() == 0


@contextlib.contextmanager
def together() -> Iterator[None]:
    """All processes leave this block together; an error of one is an error of all."""
    problem, cause = "", None
    try:
        yield
    except EmojaxError as error:
        if alone():
            raise
        problem, cause = str(error) or type(error).__name__, error
    if alone():
        return
    for process, told in enumerate(_exchange(problem)):
        if told:
            raise ProcessError(f"process {process}: {told}") from cause


def all_agree(fine: bool) -> bool:
    """Whether all processes are fine."""
    return fine if alone() else not any(_exchange("" if fine else "no"))


@contextlib.contextmanager
def losing_nobody() -> Iterator[None]:
    """What a device reports when another process is gone, said as that."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if found := loss(error):
            raise found from error
        raise


def loss(error: BaseException | None) -> ProcessError | None:
    """That another process is gone, if an error of the runtime says so or came of one that does."""
    while error is not None and not alone():
        if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            reason = " ".join(str(error).split())[:300]
            return ProcessError(
                f"another process of this run ended or cannot be reached ({reason}). Start all of "
                "them again with --resume"
            )
        error = error.__cause__ or error.__context__
    return None


class Agreement:
    """Whether any process raised a flag, answered to all of them at the same step.

    The answer is that of the question `every` steps earlier, so nobody waits for it.
    """

    def __init__(self, every: int):
        self._every = every
        self._asked: jax.Array | None = None

    def __call__(self, step: int, flag: bool) -> bool:
        if alone():
            return flag
        if step % self._every:
            return False
        asked, self._asked = self._asked, _any(flag)
        return asked is not None and bool(np.asarray(asked))


def _any(flag: bool) -> jax.Array:
    """Whether any process says so; does not wait for the answer."""
    mesh, largest = _largest()
    sharding = NamedSharding(mesh, PartitionSpec("device"))
    mine = np.array([flag])
    return largest(jax.make_array_from_callback((mesh.size,), sharding, lambda _: mine))


@functools.cache
def _largest() -> tuple[Mesh, jax.stages.Wrapped]:
    mesh = Mesh(np.array(jax.devices()), ("device",))
    return mesh, jax.jit(lambda x: x.any(), out_shardings=NamedSharding(mesh, PartitionSpec()))


def _exchange(message: str) -> list[str]:
    """What every process says; all of them must ask."""
    from jax.experimental import multihost_utils

    mine = np.zeros(_MESSAGE, np.uint8)
    content = np.frombuffer(message.encode()[:_MESSAGE], np.uint8)
    mine[: len(content)] = content
    with losing_nobody():
        everybody = np.asarray(multihost_utils.process_allgather(mine))
    return [bytes(row).rstrip(b"\0").decode(errors="ignore") for row in everybody]
