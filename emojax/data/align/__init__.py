"""Streams of one conversation that do not run in step: how far they are apart, and the remedy."""
