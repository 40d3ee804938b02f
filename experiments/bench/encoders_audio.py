"""How much faster than real time sound becomes features, and features become an utterance's.

    python -m experiments.bench.encoders_audio
    python -m experiments.bench.encoders_audio --json

A minute of speech-like sound at 16 kHz, in utterances of five seconds, on the cores at hand:

  log-mel           512-point STFT every 10 ms, 64 bands, in dB; `librosa log-mel` likewise
  prosody           YIN, energy and deltas every 10 ms; `librosa YIN, RMS` without the deltas
  emojax, whole     both and the audio encoder, CNN and GRU and pooling, from samples to features
  openSMILE         eGeMAPS and ComParE 2016 functionals, the hand-made rivals of the encoder

Everything is measured in turn in one process, so that a busy machine is busy for all; the figure is
seconds of sound over seconds of work (median of `--rounds`), and what counts is its ratio to
others of the same run. librosa is in the extra `dev`; openSMILE is measured where it is installed.
Cost: about a minute. Aim: `emojax, whole` at 100 times real time on two cores.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from emojax.nn.encoders.audio import AudioConfig, AudioEncoder
from emojax.ops.audio.frames import frame_count
from emojax.ops.audio.prosody import PROSODY, ProsodyConfig, prosody
from emojax.ops.audio.spectrum import MelConfig, log_mel
from experiments import command
from experiments.bench.timing import in_turn, median

RATE, SECONDS, UTTERANCES = 16_000, 5, 12
MEL, MELODY = MelConfig(), ProsodyConfig()


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


def ours(x: np.ndarray) -> dict[str, Callable[[], Any]]:
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
        "emojax, log-mel": jax.jit(lambda x, n: log_mel(x, n, MEL)),
        "emojax, prosody": jax.jit(lambda x, n: prosody(x, n, MELODY)),
        "emojax, whole": jax.jit(whole),
    }
    return {name: lambda f=f: f(x, length) for name, f in programs.items()}


def librosas(x: np.ndarray) -> dict[str, Callable[[], Any]]:
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

    return {"librosa, log-mel": mel, "librosa, YIN and RMS": melody}


def opensmiles(x: np.ndarray) -> dict[str, Callable[[], Any]]:
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
        "openSMILE, eGeMAPS": of(sets.eGeMAPSv02),
        "openSMILE, ComParE 2016": of(sets.ComParE_2016),
    }


def measure(rounds: int) -> dict[str, float]:
    """Seconds of sound in a second of work, by what is done."""
    x = speech()
    programs = ours(x)
    for package, contenders in (("librosa", librosas), ("opensmile", opensmiles)):
        if importlib.util.find_spec(package):
            programs |= contenders(x)
    seconds = median(in_turn(programs, rounds=rounds))
    return {name: UTTERANCES * SECONDS / taken for name, taken in seconds.items()}


def main() -> None:
    parser = command.parser("experiments.bench.encoders_audio", __doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of measurement (default 5)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    factors = measure(options.rounds)
    if options.json:
        print(json.dumps(factors, indent=2))
        return
    reference = factors["emojax, whole"]
    found = Table("", "x real time", "of emojax, whole", title="Sound to features")
    for name, factor in factors.items():
        found.add_row(name, f"{factor:,.0f}", f"{factor / reference:.2f}")
    Console().print(found)


if __name__ == "__main__":
    main()
