"""Multimodal emotion recognition in conversation with JAX."""

__version__ = "0.1.0"
