"""End to end on the media simulator: one network from sound, pictures and words to emotions."""
