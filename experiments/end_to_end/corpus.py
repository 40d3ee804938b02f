"""Simulated recordings as rows of raw signals, and as the pooled features of `emojax featurize`.

N utterances in all, T frames of sound, F mel bands, P measures of prosody, K pictures of an
utterance, `size` rows and columns of each, V words.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from emojax.data.media_simulator.config import MediaConfig
from emojax.data.media_simulator.face import draw_faces, poses
from emojax.data.media_simulator.scene import Scene, scene
from emojax.data.media_simulator.spoil import noisy_frames, noisy_sound
from emojax.data.media_simulator.voice import speak
from emojax.data.progress import progress
from emojax.data.readers.meld_text import hashed_ngrams
from emojax.featurize.faces import follow
from emojax.featurize.measures import SIZE, audio_features, plain_measures
from emojax.featurize.media import Picture
from emojax.files import write_atomically
from emojax.types import Conversation, Signature
from experiments.emodb.hearing import MEL, Sounds, Statistics, hear, standard, statistics
from experiments.end_to_end.network import Shapes

SPEAKERS = ("A", "B", "C")
SPLITS = ("train", "validation", "test")
COARSER = 2
"""Of frames of 20 ms and of mel bands, how many become one for a network."""
UNKNOWN = 1
"""Of words that no training conversation has; 0 is padding."""


NOISY = MediaConfig(seed=2000, size=32, sound_snr=10.0, frame_snr=10.0)


@dataclasses.dataclass(frozen=True)
class Recordings:
    """What is recorded.

    Attributes:
      media: of the simulator; `conversations` is of no use here.
      counts: conversations for training, validation and test, one after the other.
      seconds: of an utterance that a network hears; what comes later is cut off.
      pictures: K, evenly spaced over the utterance.
      words: V, most words and signs of an utterance.
    """

    media: MediaConfig = NOISY
    counts: tuple[int, int, int] = (300, 60, 120)
    seconds: float = 2.4
    pictures: int = 6
    words: int = 12

    @property
    def digest(self) -> str:
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]

    def scenes(self) -> list[Scene]:
        return [scene(number, self.media) for number in range(sum(self.counts))]

    def split(self, of: Sequence[Any]) -> dict[str, list[Any]]:
        """Something of each conversation, by split."""
        ends = np.cumsum((0, *self.counts))
        return {name: list(of[a:b]) for name, a, b in zip(SPLITS, ends[:-1], ends[1:], strict=True)}


def measured(recordings: Recordings, folder: Path) -> Mapping[str, np.ndarray]:
    """What is computed of the recordings without any parameters; made once and kept in a file.

    Log-mel f32[N, T, F], prosody f32[N, T, P], their frames `count` i32[N], pictures
    u8[N, K, size, size, 3], and what `emojax featurize` makes of the same sound and pictures:
    `pooled_audio`, `pooled_visual` f32[N, D_m].
    """
    path = folder / f"measured-{recordings.digest}.npz"
    if not path.exists():
        rows: list[dict[str, np.ndarray]] = []
        with progress("Recording", sum(recordings.counts)) as done:
            for each in recordings.scenes():
                rows += _recorded(each, recordings)
                done(1)
        found = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        sounds = hear(found.pop("sound"), found.pop("length"), np.zeros(len(rows), np.int32))
        found |= {name: np.asarray(getattr(sounds, name)) for name in ("mel", "prosody", "count")}
        content = io.BytesIO()
        np.savez(content, **found)  # type: ignore[arg-type]
        write_atomically(path, content.getvalue())
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def _recorded(each: Scene, recordings: Recordings) -> Iterator[dict[str, np.ndarray]]:
    """Sound i16[S], its `length`, pictures and pooled features of each utterance."""
    config, room = recordings.media, round(recordings.seconds * recordings.media.rate)
    speech = speak(each, config.rate)
    sound = noisy_sound(speech.sound, each, config)
    parts = noisy_frames(draw_faces(poses(each, speech, config.fps), config.size), each, config)
    film = np.concatenate(list(parts))
    for start, end in zip(each.start, each.end, strict=True):
        heard = sound[int(start * config.rate) : int(end * config.rate)]
        samples = np.rint(np.clip(heard, -1, 1) * 32767).astype(np.int16)[:room]
        at = start + (np.arange(recordings.pictures) + 0.5) / recordings.pictures * (end - start)
        shown = film[np.minimum((at * config.fps).astype(int), len(film) - 1)]
        seen = map(Picture, at.tolist(), shown)
        looks = plain_measures(follow(seen, SIZE, "whole"))
        yield {
            "sound": np.pad(samples, (0, room - len(samples))),
            "length": np.int32(len(samples)), "pictures": shown,
            "pooled_audio": audio_features(heard.astype(np.float32), config.rate),
            "pooled_visual": np.concatenate([looks.mean(0), looks.std(0)]).astype(np.float32),
        }  # fmt: skip


def words(text: str) -> list[str]:
    """Words and signs."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


def vocabulary(scenes: Sequence[Scene]) -> dict[str, int]:
    """Numbers of the words of these conversations."""
    known = {word for each in scenes for line in each.text for word in words(line)}
    return {word: UNKNOWN + 1 + i for i, word in enumerate(sorted(known))}


Splits = dict[str, list[Conversation]]


def raw(recordings: Recordings, found: Mapping[str, np.ndarray]) -> tuple[Splits, Shapes]:
    """Conversations whose features are the signals themselves, laid out as `Shapes` says.

    Scales of sound and the vocabulary are the training conversations'.
    """
    scenes = recordings.scenes()
    trained = sum(map(len, scenes[: recordings.counts[0]]))
    known = vocabulary(scenes[: recordings.counts[0]])
    text = np.zeros((len(found["count"]), recordings.words), np.float32)
    for row, line in enumerate(line for each in scenes for line in each.text):
        numbers = [known.get(word, UNKNOWN) for word in words(line)][: recordings.words]
        text[row, : len(numbers)] = numbers
    sounds = Sounds(*(jnp.asarray(found[name]) for name in Sounds._fields[:3]), None)
    scale = statistics(sounds, jnp.arange(len(text)) < trained)
    parts = [
        _coarser(*_standard(*(x[i : i + 256] for x in sounds[:3]), scale))
        for i in range(0, len(text), 256)
    ]
    mel, prosody = (np.concatenate(each) for each in zip(*parts, strict=True))
    pictures = found["pictures"].mean(-1, dtype=np.float32) / np.float32(127.5) - 1
    shapes = Shapes(
        words=recordings.words, vocabulary=UNKNOWN + 1 + len(known), mel=mel.shape[1:],
        prosody=prosody.shape[2], pictures=pictures.shape[1:],
    )  # fmt: skip
    count = -(-found["count"] // COARSER)
    audio = np.concatenate(
        [count[:, None], mel.reshape(len(mel), -1), prosody.reshape(len(mel), -1)], 1
    )
    visual = pictures.reshape(len(pictures), -1)
    return _conversations(recordings, scenes, text, audio.astype(np.float32), visual), shapes


@jax.jit
def _standard(mel: Array, prosody: Array, count: Array, scale: Statistics) -> tuple[Array, Array]:
    return standard(mel, prosody, count, scale, 1.0)


def _coarser(mel: Array, prosody: Array) -> tuple[np.ndarray, np.ndarray]:
    """Every `COARSER`-th frame, and means of as many neighbouring bands: a quarter of the work."""
    mel = np.asarray(mel)[:, ::COARSER]
    mel = mel.reshape(*mel.shape[:2], -1, COARSER, mel.shape[3]).mean(3)
    return mel, np.asarray(prosody)[:, ::COARSER]


def pooled(recordings: Recordings, found: Mapping[str, np.ndarray]) -> Splits:
    """What `emojax featurize` makes of the same recordings without any pretrained encoder."""
    scenes = recordings.scenes()
    text = np.stack([hashed_ngrams(line) for each in scenes for line in each.text])
    return _conversations(recordings, scenes, text, found["pooled_audio"], found["pooled_visual"])


def _conversations(
    recordings: Recordings, scenes: Sequence[Scene], *features: np.ndarray
) -> Splits:
    ends = np.cumsum([0, *map(len, scenes)])
    made = []
    for each, a, b in zip(scenes, ends[:-1], ends[1:], strict=True):
        text, audio, visual = (x[a:b] for x in features)
        made.append(
            Conversation(
                each.id, text, audio, visual, present=np.ones((b - a, 3), bool),
                speaker=each.speaker.astype(np.int32), label=each.emotion.astype(np.int32),
                transcript=each.text,
            )
        )  # fmt: skip
    return recordings.split(made)


def signature(recordings: Recordings, splits: Splits) -> Signature:
    first = splits["train"][0]
    widths = (first.text.shape[1], first.audio.shape[1], first.visual.shape[1])
    return Signature("recorded", recordings.media.process.labels, SPEAKERS, widths)


assert MEL.rate == 16_000, "what is heard is sampled as EmoDB is"
