"""Layers of ReDiFu as its authors published it (arXiv:2603.25752), defects included."""
