"""What XLA is told when programs are compiled, and what it leaves behind."""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import Any

import jax

from emojax.ops.target import target

_CPU: dict[str, Any] = {
    # Sums through YNNPACK take several times longer than those XLA writes itself; products do not.
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT",
    # In the order that needs least memory; letting operations overlap was no faster on two cores.
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
}
_CPU_ONCE: dict[str, Any] = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}


def compiler_options(*, once: bool = False) -> dict[str, Any] | None:
    """Options for `jax.jit` on the devices that a program is for; None leaves XLA to its defaults.

    They change time, memory and the order of summation, nothing else. An XLA that does not know one
    of them gets none.

    Args:
      once: the program runs a single time, so what counts is to be done with compiling soon.
    """
    if target()[0] != "cpu":
        return None
    options = _CPU_ONCE if once else _CPU
    return options if _known(tuple(options.items())) else None


@functools.cache
def _known(options: tuple[tuple[str, Any], ...]) -> bool:
    try:
        jax.jit(lambda: 0, compiler_options=dict(options)).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


@functools.cache
def return_memory_after_compiling() -> None:
    """From now on, memory that a compilation has freed goes back to the operating system.

    Compiling a large model frees nearly half a gigabyte that glibc would keep for itself, once for
    every shape of a batch. Does nothing where there is no glibc.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is None:
        return

    def listener(event: str, duration_secs: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration" and duration_secs > 0.5:
            trim(0)

    jax.monitoring.register_event_duration_secs_listener(listener)
