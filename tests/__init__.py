"""The tests of emojax."""

from importlib.metadata import version

QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
if version("jaxlib").startswith("0.10."):
    # Later ones have nothing but these emitters, and end the process over a flag they do not know.
    QUICK += " --xla_cpu_use_fusion_emitters=false"
"""What XLA is told: tests compile hundreds of programs that run for a millisecond each."""
SHARED = 0.1
"""Seconds of compilation from which a program is kept for the other processes of the tests."""
