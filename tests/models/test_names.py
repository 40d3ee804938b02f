"""Parameter names and shapes must not change unseen: old checkpoints would no longer load.

`tests/goldens/parameters.json` holds those of each model at its default config. After a change on
purpose, write it anew from the root of the repository and commit it with the change:

    python -m tests.models.test_names
"""

from __future__ import annotations

import json
from pathlib import Path

import jax
import pytest

from emojax.config import MODELS
from emojax.models.registry import build
from emojax.types import Signature
from tests.batches import pack, random_conversation

GOLDEN = Path(__file__).parent.parent / "goldens" / "parameters.json"
SIGNATURE = Signature("tiny", ("a", "b", "c"), ("A", "B"), (11, 7, 5))


def parameters(name: str) -> dict[str, list[int]]:
    """Shape of each variable of a model by its path."""
    batch = pack([[random_conversation(0, 2, signature=SIGNATURE)]], 2)
    shapes = jax.eval_shape(build(MODELS[name](), SIGNATURE).init, jax.random.key(0), batch)
    leaves, _ = jax.tree.flatten_with_path(shapes)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): list(x.shape) for p, x in leaves}


@pytest.mark.parametrize("name", MODELS)
def test_names_and_shapes_are_those_of_the_golden(name):
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert golden.keys() == MODELS.keys()
    assert parameters(name) == golden[name]


if __name__ == "__main__":
    content = {name: parameters(name) for name in MODELS}
    GOLDEN.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
