"""What happens in a conversation, before anybody records it.

Of every emotion voice and face have a mean; an utterance deviates from it by unit noise. Sarcastic
words are those of the partner emotion, while voice and face keep to the emotion that is felt.
Directions of the means follow what is known of vocal (Juslin and Laukka 2003, table 7) and facial
(Ekman and Friesen 1978) expression; their lengths are made up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import numpy as np

from emojax.data import simulator
from emojax.data.joint_chain import JointChain, log_sum
from emojax.data.media_simulator.config import MediaConfig
from emojax.data.media_simulator.words import sentence, syllables
from emojax.types import MODALITIES

VOICE = {  # pitch, energy, rate
    "happy": (1.2, 0.4, 0.6), "sad": (-1.2, -1.4, -1.4), "neutral": (-0.4, -0.6, 0.0),
    "angry": (0.8, 1.6, 0.8), "excited": (2.0, 1.2, 1.4), "frustrated": (0.2, 0.6, -0.4),
}  # fmt: skip
FACE = {  # corners of the mouth up, brows up, inner brows down, eyes open
    "happy": (1.6, 0.3, 0.0, -0.3), "sad": (-1.4, 0.3, -1.2, -0.9), "neutral": (0.0, 0.0, 0.0, 0.0),
    "angry": (-0.8, -1.2, 1.6, 0.3), "excited": (1.4, 1.2, 0.0, 1.4),
    "frustrated": (-1.2, -0.6, 0.6, -0.6),
}  # fmt: skip
LEAST_GAP, MEAN_GAP = 0.15, 0.25
"""Seconds between utterances: the least, and what is added on average."""


@dataclasses.dataclass(frozen=True, eq=False)
class Scene:
    """A conversation of L utterances.

    Attributes:
      id: its name.
      emotion, speaker: int[L].
      sarcastic, plain: bool[L]; words of the partner emotion; words of no emotion.
      said: int[L], the emotion the words are of, `plain` or not.
      text: the L sentences.
      voice: f64[L, 3], face: f64[L, 4]; see `VOICE` and `FACE`.
      start, end: f64[L] seconds.
      lag: seconds that the face is behind the voice.
      seconds: of the whole recording.
      seed: of whatever else is drawn for it.
    """

    id: str
    emotion: np.ndarray
    speaker: np.ndarray
    sarcastic: np.ndarray
    plain: np.ndarray
    said: np.ndarray
    text: tuple[str, ...]
    voice: np.ndarray
    face: np.ndarray
    start: np.ndarray
    end: np.ndarray
    lag: float
    seconds: float
    seed: np.random.SeedSequence

    def __len__(self) -> int:
        return len(self.emotion)

    def draw(self, what: int) -> np.random.Generator:
        """Random numbers for one purpose, whatever the others take."""
        state = np.random.SeedSequence(self.seed.entropy, spawn_key=(*self.seed.spawn_key, what))
        return np.random.default_rng(state)


def means(config: MediaConfig) -> tuple[np.ndarray, np.ndarray]:
    """f64[C, 3] of voices and f64[C, 4] of faces."""
    labels = config.process.labels
    voice, face = (np.array([table[label] for label in labels]) for table in (VOICE, FACE))
    return config.clarity * voice, config.clarity * face


def scene(number: int, config: MediaConfig) -> Scene:
    """The conversation of that number; nothing of it depends on the others."""
    process = dataclasses.replace(config.process, train=1, validation=0, test=0)
    seed = np.random.SeedSequence(config.seed, spawn_key=(number,))
    draw = np.random.default_rng(seed)
    drawn = simulator.simulate(
        dataclasses.replace(process, seed=int(draw.integers(2**62)))
    )["train"][0]  # fmt: skip
    emotion, speaker, length = drawn.label, drawn.speaker, len(drawn)
    sarcastic = draw.random(length) < process.sarcasm
    said = np.where(sarcastic, np.asarray(process.partner)[emotion], emotion)
    lines = [sentence(process.labels[e], config.plain, draw) for e in said]
    text = tuple(words for words, _ in lines)
    voice, face = (
        table[emotion] + draw.standard_normal((length, table.shape[1])) for table in means(config)
    )
    spoken = np.array([syllables(words) for words in text]) / syllable_rate(voice)
    gap = LEAST_GAP + draw.exponential(MEAN_GAP, length)
    end = np.cumsum(gap + spoken)
    lag = draw.uniform(*config.lag)
    return Scene(
        id=f"scene_{number:04d}", emotion=emotion, speaker=speaker, sarcastic=sarcastic,
        plain=np.array([plain for _, plain in lines]), said=said, text=text, voice=voice,
        face=face, start=end - spoken, end=end, lag=float(lag),
        seconds=float(end[-1] + LEAST_GAP + max(lag, 0)), seed=seed,
    )  # fmt: skip


def syllable_rate(voice: np.ndarray) -> np.ndarray:
    """f64[L] syllables per second."""
    return 5.0 * np.exp2(0.22 * voice[:, 2])


def posterior(
    scene: Scene, config: MediaConfig, of: Collection[str] = MODALITIES
) -> tuple[np.ndarray, np.ndarray]:
    """P(emotion) f64[L, C] and P(sarcastic) f64[L], of each utterance given all of the
    conversation's words, voices and faces.

    Exact, and given these themselves, not the sound and the pictures of them: nobody who sees and
    hears can know more.

    Args:
      of: the modalities that are looked at.
    """
    process = config.process
    felt = np.zeros((len(scene), len(process.labels)))
    values = {"audio": scene.voice, "visual": scene.face}
    for mean, (modality, value) in zip(means(config), values.items(), strict=True):
        if modality in of:
            felt -= np.square(value[:, None] - mean).sum(-1) / 2
    # A plain sentence fits every emotion alike; another fits only the one it is of.
    classes = np.arange(len(process.labels))
    fits = np.stack([classes, np.asarray(process.partner)])[:, None] == scene.said[:, None]
    fits = np.where(scene.plain[:, None] | ("text" not in of), 1.0, fits)
    with np.errstate(divide="ignore"):
        words = np.log(fits) + np.log([1 - process.sarcasm, process.sarcasm])[:, None, None]
    together = felt + log_sum(words, axis=0)
    likelihood = np.repeat(together[None, :, :, None], 4, axis=-1)
    log_emotion = JointChain(process).smooth(likelihood, scene.speaker[None].astype(int))[0]
    emotion = np.exp(log_emotion)
    # Of an emotion that the words rule out either way there is nothing to share.
    share = np.exp(words[1] - np.where(np.isfinite(together), log_sum(words, axis=0), 0))
    return emotion, (emotion * share).sum(-1)
