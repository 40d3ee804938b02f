"""The audio encoder's part of `experiments.bench.encoders`.

A minute of speech-like sound at 16 kHz, in utterances of five seconds; rates are seconds of sound
in a second of work. Log-mel: 512-point STFT every 10 ms, 64 bands, dB. Prosody: YIN, energy and
their deltas every 10 ms, librosa without the deltas. Features of an utterance: emojax both of these
and the audio encoder, CNN, GRU and pooling, from samples on; openSMILE (research licence, measured
where it is installed) the functionals of its two usual sets.

Aim: emojax's features of an utterance at 100 times real time on two cores.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from emojax.nn.encoders.audio import AudioConfig, AudioEncoder
from emojax.ops.audio.frames import frame_count
from emojax.ops.audio.prosody import PROSODY, ProsodyConfig, prosody
from emojax.ops.audio.spectrum import MelConfig, log_mel
from experiments.bench.timing import in_turn, median

RATE, SECONDS, UTTERANCES = 16_000, 5, 12
MEL, MELODY = MelConfig(), ProsodyConfig()
LOG_MEL, MELODIC, WHOLE = "log-mel", "prosody", "features of an utterance"

Programs = dict[tuple[str, str], Callable[[], Any]]
"""By what is made and who makes it."""


def speech() -> np.ndarray:
    """f32[UTTERANCES, S]: harmonics of a gliding pitch that come and go, over noise."""
    draw = np.random.default_rng(0)
    time = np.arange(SECONDS * RATE) / RATE
    rows = []
    for _ in range(UTTERANCES):
        f0 = draw.uniform(100, 250) * (1 + 0.2 * np.sin(2 * np.pi * draw.uniform(0.3, 1) * time))
        phase = 2 * np.pi * np.cumsum(f0) / RATE
        tone = sum(np.cos(k * phase) / k for k in range(1, 20))
        loud = np.clip(np.sin(2 * np.pi * draw.uniform(2, 4) * time), 0, 1)
        rows.append(0.1 * tone * loud + 0.003 * draw.normal(size=len(time)))
    return np.stack(rows).astype(np.float32)


def ours(x: np.ndarray) -> Programs:
    """Each a compiled program over all utterances."""
    length = np.full(len(x), x.shape[1], np.int32)
    sizes = x.shape[1] // MEL.hop + 1
    encoder = AudioEncoder(AudioConfig())
    shapes = (len(x), sizes, MEL.bands, 1), (len(x), sizes, len(PROSODY))
    count = np.full(len(x), sizes, np.int32)
    zeros = [np.zeros(shape, np.float32) for shape in shapes]
    variables = jax.jit(encoder.init)(jax.random.key(0), *zeros, count)

    def whole(x: Any, length: Any) -> Any:
        mel, melody = log_mel(x, length, MEL), prosody(x, length, MELODY)
        return encoder.apply(variables, mel[..., None], melody, frame_count(length, MEL.hop))

    programs = {
        LOG_MEL: jax.jit(lambda x, n: log_mel(x, n, MEL)),
        MELODIC: jax.jit(lambda x, n: prosody(x, n, MELODY)),
        WHOLE: jax.jit(whole),
    }
    return {(what, "emojax"): lambda f=f: f(x, length) for what, f in programs.items()}


def librosas(x: np.ndarray) -> Programs:
    """As its users call it, an utterance after the other."""
    import librosa

    def mel() -> None:
        for row in x:
            power = librosa.feature.melspectrogram(
                y=row, sr=RATE, n_fft=MEL.size, hop_length=MEL.hop, win_length=MEL.window,
                n_mels=MEL.bands, fmin=MEL.low, fmax=MEL.high,
            )  # fmt: skip
            librosa.power_to_db(power, top_db=None)

    def melody() -> None:
        c = MELODY
        for row in x:
            librosa.yin(
                row, fmin=c.low, fmax=c.high, sr=RATE, frame_length=c.size, hop_length=c.hop
            )
            librosa.feature.rms(y=row, frame_length=c.size, hop_length=c.hop)

    return {(LOG_MEL, "librosa"): mel, (MELODIC, "librosa"): melody}


def opensmiles(x: np.ndarray) -> Programs:
    import opensmile

    def of(features: Any) -> Callable[[], None]:
        smile = opensmile.Smile(
            feature_set=features, feature_level=opensmile.FeatureLevel.Functionals
        )

        def functionals() -> None:
            for row in x:
                smile.process_signal(row, RATE)

        return functionals

    sets = opensmile.FeatureSet
    return {
        (WHOLE, "openSMILE, eGeMAPS"): of(sets.eGeMAPSv02),
        (WHOLE, "openSMILE, ComParE 2016"): of(sets.ComParE_2016),
    }


def measure(rounds: int) -> list[dict[str, Any]]:
    """Rows as `experiments.bench.encoders` shows them."""
    x = speech()
    programs = ours(x)
    for package, contenders in (("librosa", librosas), ("opensmile", opensmiles)):
        if importlib.util.find_spec(package):
            programs |= contenders(x)
    seconds = median(in_turn({"/".join(of): run for of, run in programs.items()}, rounds=rounds))
    rows = []
    for what, contender in sorted(programs):
        taken = seconds[f"{what}/{contender}"]
        row = {"what": what, "contender": contender, "seconds": taken, "unit": "x real time"}
        rows.append(row | {"rate": UTTERANCES * SECONDS / taken})
    return rows
