"""Contrast between modalities: what belongs together is close, and all else is not."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int

_FAR = -1e30
"""Score of who is not there: with an infinite one, gradients of empty rows would be NaN."""


def contrast(
    embedding: Float[Array, "B L M E"],
    present: Bool[Array, "B L M"],
    scale: Float[Array, ""],
    label: Int[Array, "B L"] | None = None,
    classes: int = 0,
    *,
    whole: Callable[[Array], Array] = lambda x: x,
) -> Float[Array, ""]:
    """How badly modality n of an utterance is told from that of all others by modality m, in nats.

    For each utterance i, modality m and other modality n, with s_j = scale z_im . z_jn over all
    utterances j of the batch that have n,

        log sum_j exp s_j - mean of s_j over the positives of i,

    and of these the mean over all (i, m, n) that have m and a positive. Without labels the one
    positive of an utterance is itself: over both directions of a pair this is the symmetric cross
    entropy of CLIP (arXiv:2103.00020). With labels, all that share its label are (supervised
    contrast, arXiv:2004.11362, L_out, between modalities alone); unlabelled utterances have
    themselves.

    Args:
      embedding: of unit length, z.
      present: what is there; all else neither asks nor answers.
      scale: one over the temperature.
      label: i32, -1 where unknown; None is without labels.
      classes: C, with labels.
      whole: what makes everybody's rows of those of a device, so that others' utterances count as
        negatives wherever they lie.
    """
    embedding = embedding.astype(jnp.float32)
    modalities, size = embedding.shape[2:]
    others = whole(embedding).reshape(-1, modalities, size)
    there = whole(present).reshape(-1, modalities)
    positive, known = embedding, present
    if label is not None:
        member = jax.nn.one_hot(whole(label).reshape(-1), classes)
        count = jnp.einsum("jc,jn->cn", member, there.astype(jnp.float32))
        total = jnp.einsum("jc,jne->cne", member, jnp.where(there[..., None], others, 0.0))
        mean = total / jnp.maximum(count, 1.0)[..., None]
        mine, labelled = jax.nn.one_hot(label, classes), label >= 0
        positive = jnp.where(
            labelled[..., None, None], jnp.einsum("blc,cne->blne", mine, mean), embedding
        )
        known = jnp.where(labelled[..., None], jnp.einsum("blc,cn->bln", mine, count) > 0, present)

    @jax.checkpoint  # The scores of everybody for everybody are made again in the backward pass.
    def of(asking: Array, counts: Array, answers: Array, there: Array, positive: Array) -> Array:
        """The sum of what the modalities [B, L, M - 1, E] that ask for one other lose."""
        scores = scale * jnp.einsum("blme,je->blmj", asking, answers)
        all_of_them = jax.nn.logsumexp(jnp.where(there, scores, _FAR), axis=-1)
        right = scale * jnp.einsum("blme,ble->blm", asking, positive)
        return jnp.where(counts, all_of_them - right, 0.0).sum()

    loss, total = jnp.zeros(()), jnp.zeros(())
    for n in range(modalities):
        across = np.delete(np.arange(modalities), n)
        counts = present[:, :, across] & known[:, :, n, None]
        loss += of(embedding[:, :, across], counts, others[:, n], there[:, n], positive[:, :, n])
        total += counts.sum()
    return loss / jnp.maximum(total, 1.0)
