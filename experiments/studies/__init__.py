"""Questions and the runs that answer them, one file each; `python -m experiments.run STUDY`.

A study is a module with a docstring (question, command, cost, expected result) and

  VARIANTS    name -> settings of the runs that are compared
  REFERENCE   the variant that the others are compared with in the table

and where it needs them

  PANELS      accuracy along an axis (`experiments.curves`), under corruptions of the test split or
              from variant to variant
  SHEETS      name -> function of the results to another table (`experiments.sheet`)
"""

RIVALS = (
    "dialogue_gcn", "bc_lstm", "mult", "sdt", "cnn_rnn", "early_fusion", "late_fusion",
    "attention_fusion",
)  # fmt: skip
"""Baselines that `redifu` must beat where a study cannot afford all of them."""
