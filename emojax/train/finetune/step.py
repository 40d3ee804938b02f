"""The state of fine-tuning, the one pure function that advances it, and what evaluates it."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import Array

from emojax.config.finetune import TextConfig, TuneConfig
from emojax.dist.compiler import compiler_options
from emojax.nn.encoders.bert import BertConfig
from emojax.nn.encoders.text_classifier import TextClassifier
from emojax.ops.losses import summed_cross_entropy
from emojax.train.finetune.examples import TextBatch
from emojax.train.finetune.optimiser import build_optimiser, divide, together
from emojax.train.halting import NEVER


@struct.dataclass
class TuneState:
    """Everything that a step reads and writes.

    Attributes:
      step: i32, steps taken.
      trained: parameters, see `divide`. opt_state: of the optimiser.
      average: moving average of what is trained, or None.
      key: u32[...], data of the key that every step's dropout is folded from.
      halted: i32, the first step whose loss or gradient was not finite, or `NEVER`. From then on
        steps change nothing.
    """

    step: Array
    trained: Any
    opt_state: Any
    average: Any
    key: Array
    halted: Array

    def evaluated(self) -> Any:
        """What is trained, averaged where there is an average."""
        return self.trained if self.average is None else self.average


@dataclasses.dataclass(frozen=True)
class Program:
    """All that a step's program depends on: equal ones share their compilations.

    Attributes:
      sizes: of the encoder. classes: C.
      text, train: as configured; `alike` leaves out what changes no program.
      weights: of the classes, or None.
    """

    sizes: BertConfig
    classes: int
    text: TextConfig
    train: TuneConfig
    weights: tuple[float, ...] | None

    def alike(self) -> Program:
        text = dataclasses.replace(self.text, encoder="", pretrained=True, turns=0, speakers=True)
        train = dataclasses.replace(
            self.train, epochs=1, seed=0, warmup=0.0, select="nll", checkpoint_every=1,
            learning_rate=1.0, head_learning_rate=1.0, layer_decay=1.0,
        )  # fmt: skip
        return dataclasses.replace(self, text=text, train=train)

    def model(self, *, training: bool) -> TextClassifier:
        text = self.text
        return TextClassifier(
            self.sizes, self.classes, text.dropout if training else 0.0, jnp.dtype(text.dtype)
        )

    @property
    def optimiser(self) -> optax.GradientTransformationExtraArgs:
        return build_optimiser(self.train)


def initial_state(program: Program, encoder: Any | None, seed: int) -> tuple[TuneState, Any]:
    """(state, what stays as it is).

    Args:
      encoder: pretrained parameters; None draws them.
    """
    init_key, adapter_key, dropout_key = jax.random.split(jax.random.key(seed), 3)
    one = jnp.ones(1, jnp.int32)
    init = jax.jit(program.model(training=False).init, compiler_options=compiler_options(once=True))
    params = init(init_key, jnp.zeros((1, 1), jnp.int32), 0 * one, one, one)["params"]
    if encoder is not None:
        params = params | {"encoder": jax.tree.map(jnp.asarray, encoder)}
    trained, frozen = divide(params, program.text, adapter_key)
    average = jax.tree.map(jnp.copy, trained) if program.train.ema_decay > 0 else None
    state = TuneState(
        step=jnp.zeros((), jnp.int32), trained=trained,
        opt_state=program.optimiser.init(trained), average=average,
        key=jax.random.key_data(dropout_key), halted=jnp.full((), NEVER, jnp.int32),
    )  # fmt: skip
    return jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), state), frozen


def advance(
    state: TuneState, frozen: Any, batch: TextBatch, rates: Array, program: Program
) -> tuple[TuneState, dict[str, Array]]:
    """One step, pure: (state, metrics).

    The loss is a sum over the utterances of a batch by the rows that there are, so that every
    utterance of an epoch weighs the same; in a batch that is not full it is smaller.

    Args:
      frozen: see `divide`.
      rates: a row of `rates_of`.
    """
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    model, text, train = program.model(training=True), program.text, program.train
    weights = None if program.weights is None else jnp.asarray(program.weights)

    def loss_of(trained: Any) -> Array:
        params = together(trained, frozen, text)
        given = (batch.tokens, batch.start, batch.stop, batch.length)
        logits: Any = model.apply({"params": params}, *given, rngs={"dropout": key})
        loss, _ = summed_cross_entropy(logits, batch.label, weights, train.label_smoothing)
        return loss / len(batch.label)

    loss, gradients = jax.value_and_grad(loss_of)(state.trained)
    norm = optax.tree.norm(gradients)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    halted = jnp.where((state.halted == NEVER) & ~finite, state.step, state.halted)

    def update(trained: Any, opt_state: Any, average: Any) -> tuple[Any, Any, Any]:
        updates, opt_state = program.optimiser.update(gradients, opt_state, trained, rates=rates)
        trained = optax.apply_updates(trained, updates)
        if average is not None:
            average = optax.incremental_update(trained, average, 1 - train.ema_decay)
        return trained, opt_state, average

    # A branch, so that the update happens in place; see `train.step`.
    trained, opt_state, average = jax.lax.cond(
        halted == NEVER, update, lambda *old: old, state.trained, state.opt_state, state.average
    )
    state = dataclasses.replace(
        state, step=state.step + (halted == NEVER), trained=trained, opt_state=opt_state,
        average=average, halted=halted,
    )  # fmt: skip
    return state, {"loss": loss, "gradient_norm": norm, "halted": halted}


def make_step(program: Program) -> jax.stages.Wrapped:
    """The jitted (state, frozen, batch, rates) -> (state, metrics), the old state's memory reused.

    Of equal programs it is the same function, so that each length is compiled once.
    """
    return _step(program.alike())


@functools.lru_cache(maxsize=8)
def _step(program: Program) -> jax.stages.Wrapped:
    return jax.jit(
        functools.partial(advance, program=program), donate_argnums=0,
        compiler_options=compiler_options(),
    )  # fmt: skip
