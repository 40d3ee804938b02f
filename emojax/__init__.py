"""Multimodal emotion recognition in conversation with JAX.

import emojax

model = emojax.load("runs/demo")              # or a .safetensors file
model.predict({"text": text, "audio": audio, "visual": visual, "speaker": ["Ann", "Bob"]})
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emojax.serve.pretrained import from_pretrained, load, save_pretrained

__version__ = "0.1.0"
__all__ = ["from_pretrained", "load", "save_pretrained"]


def __getattr__(name: str) -> Any:
    # Imported by who uses them: jax takes long, and parts of emojax do without.
    if name in __all__:
        return getattr(importlib.import_module("emojax.serve.pretrained"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
