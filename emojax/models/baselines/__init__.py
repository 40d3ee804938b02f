"""What ReDiFu is compared with: the same inputs, trainer, data and outputs; each cites its paper.

None claims a published number: features and protocols differ, which tables must say.
"""
