"""Small layers that every model shares."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from emojax.config.swept import off
from emojax.nn.sharding import STORED, constrain, divided, partitioned, with_gathered
from emojax.ops.random import Rate, dropout
from emojax.types import MODALITIES


class Dropout(nn.Module):
    """Inverted dropout from the `dropout` stream; the identity without that stream.

    Whether a model trains is thereby said once, by the keys its caller passes, and not again by a
    flag through every layer.
    """

    rate: Rate

    @nn.compact
    def __call__(self, x: Array, place: Array | None = None) -> Array:
        if off(self.rate) or not self.has_rng("dropout"):
            return x
        return dropout(x, self.rate, self.make_rng("dropout"), place)


def dropout_key(module: nn.Module, rate: float) -> Array | None:
    """A key for an operator that drops inside itself, or None where nothing is to be dropped."""
    return module.make_rng("dropout") if rate > 0 and module.has_rng("dropout") else None


class LayerNorm(nn.Module):
    """Layer normalisation in fp32 over the last axis, back in the dtype it came in."""

    epsilon: float = 1e-5
    shape: tuple[int, ...] = ()
    """Leading axes of the parameters, for several norms at once; the last axis is added."""

    @nn.compact
    def __call__(self, x: Float[Array, "*axes D"]) -> Float[Array, "*axes D"]:
        shape = (*self.shape, x.shape[-1])
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        return _normalise(x, scale, bias, self.epsilon)


# What follows is computed again in the backward pass: kept, the arrays between x and the result
# are a third of a model's memory, and reading them back takes longer than making them.
@functools.partial(jax.checkpoint, static_argnums=3)
def _normalise(x: Array, scale: Array, bias: Array, epsilon: float) -> Array:
    y = x.astype(jnp.float32)
    y = y - y.mean(-1, keepdims=True)
    y = y * jnp.reciprocal(jnp.sqrt(jnp.square(y).mean(-1, keepdims=True) + epsilon))
    return (y * scale + bias).astype(x.dtype)


def gelu(x: Array, approximate: bool = False) -> Array:
    """x Phi(x) with the Gaussian distribution function, exact or by tanh (arXiv:1606.08415)."""
    return jax.checkpoint(functools.partial(jax.nn.gelu, approximate=approximate))(x)


def rematerialised(layer: type[nn.Module], remat: str, **options: Any) -> Any:
    """A layer that keeps less for its backward pass and computes it again.

    Args:
      remat: see `TrainConfig`.
    """
    if remat == "none":
        return layer
    policies = jax.checkpoint_policies
    policy = policies.dots_with_no_batch_dims_saveable if remat == "products" else None
    return nn.remat(layer, policy=policy, **options)


class Standardise(nn.Module):
    """(x - mean) / deviation with the statistics of the training split, carried by the model.

    They live in the collection `statistics`, so that a checkpoint or an export reads raw features
    and nobody can pair a model with another corpus's normalisation. After `init` it is the
    identity.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "B L D_m"]) -> Float[Array, "B L D_m"]:
        width = x.shape[-1:]
        mean = self.variable("statistics", "mean", jnp.zeros, width, jnp.float32)
        deviation = self.variable("statistics", "deviation", jnp.ones, width, jnp.float32)
        return (x.astype(jnp.float32) - mean.value) / deviation.value


def dense(
    features: int,
    dtype: Any,
    name: str | None = None,
    *,
    axes: tuple[str | None, str | None] = ("embed", None),
    **options: Any,
) -> nn.Dense:
    """An affine layer computed in `dtype` from fp32 parameters.

    Args:
      axes: logical names of the kernel's axes, inputs and outputs (`dist.rules`).
    """
    kernel_init = options.pop("kernel_init", nn.linear.default_kernel_init)
    bias_init = options.pop("bias_init", nn.initializers.zeros)
    # A vector gains nothing from being in shares that must be gathered.
    of_bias = None if axes[1] in STORED else axes[1]

    def product(x: Array, kernel: Array, *given: Any, **more: Any) -> Array:
        def dot(x: Array, kernel: Array) -> Array:
            return jax.lax.dot_general(x, kernel, *given, **more)

        return with_gathered(dot, x, kernel, *axes)

    return nn.Dense(
        features, dtype=dtype, param_dtype=jnp.float32, name=name, dot_general=product,
        kernel_init=partitioned(kernel_init, *axes), bias_init=partitioned(bias_init, of_bias),
        **options,
    )  # fmt: skip


class FusedDense(nn.Module):
    """Several linear layers of the same input, their kernels side by side.

    Without biases: that of attention keys moves all scores of a query alike, so its gradient is
    nothing but rounding, which optimisers like Adam blow up to whole steps.
    """

    parts: int
    features: int
    """Outputs of each part; all of them are divided among devices as heads are."""
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "*axes D"]) -> Float[Array, "N *axes F"]:
        shape = (x.shape[-1], self.parts * self.features)
        kernel = self.param(
            "kernel", partitioned(nn.linear.default_kernel_init, "fused", None), shape, jnp.float32
        )
        kernel = kernel.astype(self.dtype).reshape(shape[0], self.parts, self.features)
        axes = ("embed", None, "heads")
        kernel = constrain(kernel, *axes)  # devices of the model axis trade rows for heads

        def products(x: Array, kernel: Array) -> Array:
            if divided("heads"):
                return jnp.einsum("...i,inj->...nj", x, kernel)
            # The same, its gradient summed in the order of a plain affine layer's.
            return (x @ kernel.reshape(len(kernel), -1)).reshape(*x.shape[:-1], *kernel.shape[1:])

        return jnp.moveaxis(with_gathered(products, x.astype(self.dtype), kernel, *axes), -2, 0)


def statistics(
    mean: Mapping[str, np.ndarray], deviation: Mapping[str, np.ndarray]
) -> dict[str, dict[str, np.ndarray]]:
    """The collection `statistics` of a model from f32[D_m] arrays by modality."""
    return {
        f"{modality}_standardise": {
            "mean": np.asarray(mean[modality], np.float32),
            "deviation": np.asarray(deviation[modality], np.float32),
        }
        for modality in MODALITIES
    }


def identity_statistics(widths: Sequence[int]) -> dict[str, dict[str, np.ndarray]]:
    """Statistics that leave features as they are."""
    sizes = dict(zip(MODALITIES, widths, strict=True))
    return statistics(
        {m: np.zeros(width) for m, width in sizes.items()},
        {m: np.ones(width) for m, width in sizes.items()},
    )
