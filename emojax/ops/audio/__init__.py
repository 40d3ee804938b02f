"""From samples to what a network hears: frames, spectra, prosody; pure and jitted.

The letters of shapes here: N utterances, S samples, T frames, K bins of frequency, F mel bands.

Every function takes `length: i32[N]`, how many samples (later: frames) of each row are sound. What
lies beyond is never read, so padding changes nothing. A frame is centred on sample t hop, as
librosa's are by default, with zeros beyond both ends; a row of `length` samples therefore has
1 + length // hop frames.
"""
