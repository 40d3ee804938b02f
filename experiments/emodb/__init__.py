"""EmoDB, leave one speaker out: the emotion of a speaker whom the model never heard.

How well does a log-mel CNN with a prosody RNN tell it, beside openSMILE's functionals with a
support vector machine?

    python -m experiments.emodb train --out runs/emodb --candidates 0 --seeds 3 --steps 700
    python -m experiments.emodb rivals --out runs/emodb       # needs `opensmile` and scikit-learn
    python -m experiments.emodb table --out runs/emodb        # table.md, from the results alone

Data: the folder of EmoDB's 535 wav files (`--data`; F. Burkhardt et al., Interspeech 2005), whose
names carry speaker and emotion. Ten folds, a speaker each. Nothing of the test speaker is used, not
even unlabelled: normalisation, class frequencies and the statistics of activations are those of
the training speakers. Networks and support vectors have the same folds.

A training is a lane of one program, its fold, seed and settings being data (`program`). With
`--candidates N` settings are searched for on training speakers alone (`search`): 45 lanes, one
for each pair of speakers held out, judge a candidate for all ten test speakers. A killed study goes
on where it was; `--budget SECONDS` ends the search in time for the last trainings.
"""
