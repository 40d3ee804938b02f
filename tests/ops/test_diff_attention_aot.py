"""The kernels for devices that are not here: lowered for TPU and CUDA, and compiled for TPU."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from emojax.dist.aot import compiled
from emojax.dist.slices import parse_slice
from emojax.ops.diff_attention import differential_attention, pallas_gpu, pallas_tpu
from emojax.ops.diff_attention.shapes import Shape


@dataclasses.dataclass(frozen=True)
class Case:
    """Attributes: sizes, dtype and options; `rows` is whether whole rows are to be seen."""

    shape: Shape
    dtype: Any
    rows: bool
    window: int | None = None
    causal: bool = False
    drop_rate: float = 0.0


CASES = {
    "whole rows, bf16": Case(Shape(2, 128, 2, 2, 64, 128), jnp.bfloat16, True),
    "whole rows, fp32, shared keys, dropout": Case(
        Shape(2, 70, 4, 2, 16, 24), jnp.float32, True, drop_rate=0.2
    ),
    "blocks, bf16, shared keys, window, dropout": Case(
        Shape(1, 300, 2, 1, 16, 24), jnp.bfloat16, False, window=5, drop_rate=0.2
    ),
    "blocks, fp32, causal": Case(Shape(1, 300, 2, 2, 16, 32), jnp.float32, False, causal=True),
}
MIXED = [name for name in CASES if "shared keys" in name]
KERNELS = {
    ("tpu", True): ("differential_attention", "differential_attention_gradient"),
    ("tpu", False): (
        "differential_attention", "differential_attention_dq", "differential_attention_dkv"
    ),
}  # fmt: skip


def operands(shape: Shape, dtype: Any, sharding: Any = None) -> tuple[Any, ...]:
    """(arrays that are differentiated, segment, key), without content."""

    def array(*sizes: int, dtype: Any = dtype) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=sharding)

    B, L, H, K, d, e = dataclasses.astuple(shape)
    q, k = array(B, L, H, d), array(B, L, K, d)
    lam = array(B, L, H, dtype=jnp.float32)
    arrays = {"q": q, "k": k, "v": array(B, L, K, e), "lam": lam, "q2": q, "k2": k}
    return arrays, array(B, L, dtype=jnp.int32), array(dtype=jax.random.key(0).dtype)


def function(case: Case, implementation: str) -> Any:
    def loss(arrays: dict[str, Any], segment: Any, key: Any) -> Any:
        found = differential_attention(
            **arrays, segment=segment, window=case.window, causal=case.causal,
            drop_rate=case.drop_rate, key=key if case.drop_rate else None,
            implementation=implementation,
        )  # fmt: skip
        return jnp.square(found.astype(jnp.float32)).sum()

    return jax.value_and_grad(loss)


@pytest.fixture
def divided(monkeypatch):
    """Makes kernels see whole rows, or blocks of them."""

    def divide(case: Case, block: int) -> None:
        whole = 4096 if case.rows else 0
        blocks = {"query": block, "key": block, "whole_row": whole}
        for kernels in (pallas_tpu, pallas_gpu):
            monkeypatch.setattr(kernels, "tuned", lambda *_: blocks)

    return divide


@pytest.mark.parametrize(
    ("kind", "name"),
    [*((k, n) for k in ("TPU v5 lite", "NVIDIA H200") for n in CASES),
     *((k, n) for k in ("TPU v6 lite", "TPU7x") for n in MIXED)],
)  # fmt: skip
def test_forward_and_backward_lower_without_a_device(kind, name, divided):
    case, tpu = CASES[name], kind.startswith("TPU")
    divided(case, 128 if tpu else 64)
    device = AbstractDevice(
        device_kind=kind, num_cores=1 if tpu else None, platform="tpu" if tpu else "gpu"
    )
    mesh = AbstractMesh((1,), ("x",), axis_types=(AxisType.Auto,), abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
        traced = jax.jit(function(case, "auto")).trace(*operands(case.shape, case.dtype))
        text = traced.lower(lowering_platforms=("tpu" if tpu else "cuda",)).as_text()
    if not tpu:
        assert text.count("__gpu$xla.gpu.triton") == (2 if case.rows else 3)
        return
    assert text.count("@tpu_custom_call") == len(KERNELS["tpu", case.rows])
    for kernel in KERNELS["tpu", case.rows]:
        assert f'kernel_name = "{kernel}"' in text


@pytest.mark.parametrize(
    ("chip", "name"),
    [*(("v5e", name) for name in CASES), *((c, n) for c in ("v6e", "v7x") for n in MIXED)],
)  # fmt: skip
def test_forward_and_backward_compile_for_a_tpu(chip, name, divided, libtpu):
    case = CASES[name]
    divided(case, 128)
    sides = "1x1x1" if chip == "v7x" else "1x1"
    device = parse_slice(f"{chip}:{sides}").devices()[0]
    mesh = Mesh(np.array([device]), ("x",))
    given = operands(case.shape, case.dtype, NamedSharding(mesh, PartitionSpec()))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        program = compiled(jax.jit(function(case, "auto")).trace(*given), mesh)
    assert program.kernels == dict.fromkeys(sorted(KERNELS["tpu", case.rows]), 1)
    padded = dataclasses.replace(case.shape, length=-(-case.shape.length // 128) * 128)
    if case.rows:
        assert program.kernel_flops == padded.flops(backward=True)
    else:
        assert program.kernel_flops > 0
    assert program.collectives == []
