"""Several runs as one program: everything about them stacked along a first axis of lanes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax import Array
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Bool, Float

from emojax.config import Config, TrainConfig
from emojax.config.swept import DROPOUT, SCHEDULE, differing, with_values
from emojax.data.pipeline import smallest_batch
from emojax.dist.compiler import compiler_options
from emojax.ops.random import TracedRate, words
from emojax.ops.target import target
from emojax.train.optimiser import build_optimiser, build_schedule
from emojax.train.step import TrainState, advance, fresh_state
from emojax.train.transfer import starting_from
from emojax.types import Batch

T = TypeVar("T")

AT_ONCE = 2
"""Lanes of a small model that a CPU computes at once: one leaves it with operations whose start
takes longer than their work, and more need more memory than its caches have."""
SMALL = 1 << 20
"""Parameters up to which a model is small; of a larger one a single lane fills the caches."""


@struct.dataclass
class Values:
    """What tells lanes apart besides their seeds; every array has an axis of N lanes first.

    Attributes:
      train, model: by field of that section of the config, those that are not the same in all
        lanes: f32[N], or rates of dropout.
      rate: f32[N, steps] learning rates, if these are not the same in all lanes.
    """

    train: dict[str, Any]
    model: dict[str, Any]
    rate: Any = None


def values_of(configs: Sequence[Config], epoch_steps: Sequence[int]) -> Values:
    """Of configs of one `config.swept.structure`, in numbers as near as float32 comes."""
    fields = differing(list(configs))

    def stacked(section: str, name: str) -> Any:
        each = [getattr(getattr(config, section), name) for config in configs]
        if name in DROPOUT:
            return TracedRate(
                jnp.array([words(rate) for rate in each], jnp.uint32),
                jnp.array([1 - rate for rate in each], jnp.float32),
            )
        return np.array(each, np.float32)

    sections = {
        section: {name: stacked(section, name) for name in names}
        for section, names in fields.items()
    }
    if len({tuple(getattr(config.train, name) for name in SCHEDULE) for config in configs}) > 1:
        steps = np.arange(int(np.sum(epoch_steps)), dtype=np.int32)
        rate = [jax.vmap(build_schedule(c.train, epoch_steps))(steps) for c in configs]
        return Values(**sections, rate=np.stack(rate).astype(np.float32))
    return Values(**sections)


class Lanes:
    """The jitted functions of N lanes, divided over devices.

    A device has the same number of lanes as the others; so there may be a few more than configs,
    which repeat the last one and never go. Lanes of a device are computed `at_once` at a time.

    Args:
      configs: of one `config.swept.structure`.
      model: as all of them build it but for swept settings.
      epoch_steps: see `optimiser.build_schedule`.
      class_weight: see `objective.class_weights`.
      at_once: None is all lanes of the device; on CPUs `AT_ONCE`, or one if the model is larger
        than `SMALL`.

    Attributes:
      count: N.
      step: (state, batch, going: bool[N]) -> (state, metrics), like `make_train_step` in each lane;
        a lane that does not go stays as it is.
      predict: (variables, one batch for all) -> log probability f32[N, B, L, C].
      keep: (best, variables, better: bool[N]) -> the variables where they are better, else best.
    """

    def __init__(
        self,
        configs: Sequence[Config],
        model: nn.Module,
        epoch_steps: Sequence[int],
        class_weight: np.ndarray | None,
        *,
        devices: Sequence[Any],
        at_once: int | None = None,
    ):
        devices = devices[: len(configs)]
        self.mesh = Mesh(np.array(devices), ("lane",))
        each = -(-len(configs) // len(devices))
        self.count = each * len(devices)
        self.configs = [*configs, *[configs[-1]] * (self.count - len(configs))]
        if at_once is None:
            at_once = each if target()[0] != "cpu" else AT_ONCE if _is_small(model) else 1
        self._at_once = max(n for n in range(1, min(at_once, each) + 1) if each % n == 0)
        self._model, self._train = model, configs[0].train
        self._class_weight = None if class_weight is None else jnp.asarray(class_weight)
        self._schedule = build_schedule(self._train, epoch_steps)
        self._values = self.put(values_of(self.configs, epoch_steps))
        options = compiler_options()
        divided = NamedSharding(self.mesh, P("lane"))
        step: Any = jax.jit(
            self._over(self._step, lanes=4), donate_argnums=0, compiler_options=options,
            out_shardings=divided,
        )  # fmt: skip
        self.step: Callable = lambda state, batch, going: step(state, batch, going, self._values)
        predict = jax.jit(self._over(self._predict, lanes=2), compiler_options=options)
        self.predict: Callable = lambda variables, batch: predict(variables, self._values, batch)
        self.keep: Callable = jax.jit(_keep, donate_argnums=0, out_shardings=divided)
        self.compiles: Callable[[], int] = step._cache_size

    def initial(self, batch: Batch, statistics: Any, lent: Sequence[Any] = ()) -> TrainState:
        """States as `make_initial_state` makes them for each lane's seed.

        Args:
          lent: of each config, what `transfer.lent` found.
        """
        # One by one: vectorised over lanes, the same draws would be rounded in other places.
        make = jax.jit(self._fresh, compiler_options=compiler_options(once=True))
        given = batch, jax.device_put(statistics, jax.devices()[0])
        states = [
            jax.device_get(make(jax.random.key(config.train.seed), lane(self._values, n), *given))
            for n, config in enumerate(self.configs)
        ]
        for n, given in enumerate(lent):
            states[n] = starting_from(states[n], given)
        return self.put(jax.tree.map(lambda *each: np.stack(each), *states))

    def put(self, tree: T) -> T:
        """Arrays of all lanes, each lane on its device."""
        return jax.device_put(tree, NamedSharding(self.mesh, P("lane")))

    def share(self, tree: T) -> T:
        """Arrays that all lanes read."""
        return jax.device_put(tree, NamedSharding(self.mesh, P()))

    def _over(self, function: Callable, lanes: int) -> Callable:
        """Of a function whose first arguments are a lane's and the others everybody's, the one of
        all lanes."""

        def share(*arguments: Any) -> Any:
            mine, common = arguments[:lanes], arguments[lanes:]
            one = functools.partial(_applied, function, common)
            if len(jax.tree.leaves(mine)[0]) == self._at_once:
                return jax.vmap(one)(mine)
            return jax.lax.map(one, mine, batch_size=self._at_once if self._at_once > 1 else None)

        def over_devices(*arguments: Any) -> Any:
            divided = tuple(P("lane") if i < lanes else P() for i in range(len(arguments)))
            return jax.shard_map(
                share, mesh=self.mesh, in_specs=divided, out_specs=P("lane"), check_vma=False
            )(*arguments)

        return over_devices

    def _lane(
        self, values: Values
    ) -> tuple[nn.Module, TrainConfig, optax.GradientTransformation, optax.Schedule]:
        """Model, settings, optimiser and schedule of a lane."""
        config = with_values(self._train, values.train)
        model = self._model
        if values.model:
            model = model.clone(config=with_values(model.config, values.model))
        schedule = self._schedule
        if values.rate is not None:
            schedule = values.rate.__getitem__
        return model, config, build_optimiser(config, schedule), schedule

    def _fresh(self, key: Array, values: Values, batch: Batch, statistics: Any) -> TrainState:
        model, config, optimiser, _ = self._lane(values)
        return fresh_state(model, optimiser, config)(key, batch, statistics)

    def _step(
        self, state: TrainState, batch: Batch, going: Bool[Array, ""], values: Values
    ) -> tuple[TrainState, dict[str, Array]]:
        model, config, optimiser, schedule = self._lane(values)

        def go(state: TrainState) -> tuple[TrainState, dict[str, Array]]:
            return advance(state, batch, model, optimiser, config, schedule, self._class_weight)

        def stay(state: TrainState) -> tuple[TrainState, dict[str, Array]]:
            nothing = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(go, state))
            return state, nothing[1] | {"halted": state.halted}

        return jax.lax.cond(going, go, stay, state)

    def _predict(self, variables: Any, values: Values, batch: Batch) -> Float[Array, "B L C"]:
        output: Any = self._lane(values)[0].apply(variables, batch)
        return jax.nn.log_softmax(output.logits)


def _is_small(model: Any) -> bool:
    given = jax.random.key(0), smallest_batch(model.signature.widths)
    params = jax.eval_shape(model.init, *given)["params"]
    return sum(leaf.size for leaf in jax.tree.leaves(params)) <= SMALL


def _applied(function: Callable, common: tuple[Any, ...], mine: tuple[Any, ...]) -> Any:
    return function(*mine, *common)


def _keep(best: Any, variables: Any, better: Bool[Array, " N"]) -> Any:
    def chosen(old: Array, new: Array) -> Array:
        return jnp.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return jax.tree.map(chosen, best, variables)


def lane(tree: T, index: int) -> T:
    """One lane's share of what all have, on one device."""
    here = jax.devices()[0]
    return jax.tree.map(lambda x: jax.device_put(x[index], here), tree)
