"""From a folder of recordings to a corpus: what was said, heard and seen, as features."""
