"""Encoders of raw media, pure functions of their variables; weights are read elsewhere."""
