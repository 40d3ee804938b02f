"""Differential attention: the difference of two attention maps."""
