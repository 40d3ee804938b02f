"""End to end on the media simulator: raw trimodal against each single modality.

    python -m experiments.end_to_end train --out runs/end_to_end --seeds 10
    python -m experiments.end_to_end table --out runs/end_to_end    # again, from results.jsonl alone

480 conversations of about 8 utterances are recorded once (300 for training, 60 for validation, 120
for test): speech-like sound and drawn faces of 32 x 32 pixels with noise at 10 dB in both, template
sentences, a fifth of them sarcastic, nothing out of step; tracks that are missing altogether the
simulator has none by default, and here are none. What has no parameters is computed once and kept
(`corpus`): log-mel and prosody, halved in time and bands, six pictures of an utterance in grey.

One network (`network`) goes from there to the emotion: words through embeddings and a Transformer
layer, all from random weights; log-mel and prosody through `AudioEncoder`; pictures through three
convolutions and `FrameEncoder` (a MobileNetV2 without batch statistics does not train from nothing,
and has a hundred times the work); then `redifu` with its relation graph and chain, without encoders
of its own and text guidance. Nothing is frozen: the loss of the decision, and a tenth as much of each
modality's own, reaches all of it.

Contrasts, with the same settings (`train.SETTINGS`) and recordings: all three modalities; each by
itself, where the others are missing and have no encoder; and the same `redifu` on what `emojax
featurize --faces whole` would measure of the same sound and the same pictures, hashed words
included. Settings were fixed after a look at validation of seed 0, and searched for in none of them.
An epoch is chosen by validation alone, and the test split is read once a seed.
"""
