"""What the examples have in common: an exported example, predicted and compared."""

import numpy as np

FIELDS = ("text", "audio", "visual", "present", "speaker")


def show(model, example: str) -> None:
    """Print how far a model is from what is to come out, and its decisions.

    Args:
      model: with `labels` and `predict(conversation)`.
      example: `example.npz` of an export.
    """
    with np.load(example) as arrays:
        conversation = {name: arrays[name][0] for name in FIELDS}
        expected = arrays["probability"][0]
    probability = model.predict(conversation)
    print(f"largest difference {np.abs(probability - expected).max():.1e}")
    for row in probability:
        print(f"{model.labels[row.argmax()]:12s} {row.max():.3f}")
