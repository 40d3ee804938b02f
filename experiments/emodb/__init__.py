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

Cost of the commands above: 30 lanes of about 45 s on one core and a minute to compile; openSMILE a
few minutes. Settings are the first candidate's, fixed beforehand; they were tried, with a network
twice as large, on speakers 03 to 11 alone, so 12 to 16 have a column of their own. Known of
these files (cut or padded to 2.756 s by whoever published this copy): ComParE 2016 with a linear
machine 74.0, which this reproduces.

Measured, unweighted average recall (`experiments/results/emodb`, 26 of the 30 lanes; the command
above goes on with the other four if its folder begins with these): seed 0, all ten speakers, 76.1,
and 73.6 of speakers 12 to 16, where ComParE has 74.0 and 70.8. Seeds 0 to 2 on the eight speakers
that all have (without 13 and 14): 72.7 ± 2.0, where ComParE has 72.9; the CNN alone 59.1 ± 2.8, the
RNN alone 67.4 ± 1.9. So the network is level with ComParE, not ahead of it, and the aim of 80 is
not reached. Not run: the search (45 lanes a candidate, meant for one accelerator), and trainings of
more than 700 steps.
"""
