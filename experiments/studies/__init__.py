"""Questions and the runs that answer them, one file each; `python -m experiments.run STUDY`."""
