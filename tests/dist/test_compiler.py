"""Options that XLA takes and that change no result; memory that goes back."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from emojax.dist import compiler
from emojax.dist.compiler import compiler_options


@pytest.mark.parametrize("once", [False, True])
def test_this_xla_takes_the_options_and_computes_the_same(once):
    options = compiler_options(once=once)
    assert options if jax.default_backend() == "cpu" else options is None
    x = jnp.asarray(np.random.default_rng(0).normal(size=(33, 65)), jnp.float32)

    def function(x):
        return jax.nn.softmax(x @ x.T, axis=-1).sum(0)

    ours = jax.jit(function, compiler_options=options)(x)
    np.testing.assert_allclose(ours, jax.jit(function)(x), rtol=1e-5)


def test_an_xla_that_does_not_know_an_option_gets_none(monkeypatch):
    monkeypatch.setattr(compiler, "_CPU", {"xla_cpu_no_such_option": True})
    assert compiler_options() is None


def test_a_program_for_other_devices_gets_none():
    device = AbstractDevice(device_kind="TPU v5 lite", num_cores=1, platform="tpu")
    mesh = AbstractMesh((1,), ("x",), axis_types=(AxisType.Auto,), abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
        assert compiler_options() is compiler_options(once=True) is None


def test_memory_is_returned_after_long_compilations_alone(monkeypatch):
    trimmed = []

    class Library:
        malloc_trim = staticmethod(trimmed.append)

    listeners = []
    monkeypatch.setattr(compiler.sys, "platform", "linux")
    monkeypatch.setattr(compiler.ctypes, "CDLL", lambda name: Library)
    monkeypatch.setattr(
        jax.monitoring, "register_event_duration_secs_listener", listeners.append
    )  # fmt: skip
    compiler.return_memory_after_compiling.__wrapped__()
    (listener,) = listeners
    listener("/jax/core/compile/backend_compile_duration", 0.1)
    listener("/jax/core/compile/jaxpr_trace_duration", 9.0)
    assert trimmed == []
    listener("/jax/core/compile/backend_compile_duration", 2.0, fun_name="step")
    assert trimmed == [0]


def test_a_compilation_is_an_event_of_the_name_we_listen_for():
    """The name is JAX's; should it change, memory would silently stay."""
    seen = []

    def listener(event, *_, **__):
        seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        jax.jit(lambda x: x * 3 - 1).lower(jnp.ones(7)).compile()
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert "/jax/core/compile/backend_compile_duration" in seen
