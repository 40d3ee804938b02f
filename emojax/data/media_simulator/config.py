"""Every number of a simulated recording."""

from __future__ import annotations

import dataclasses
import math

from emojax.data.process import SimulatorConfig
from emojax.errors import ConfigError

PROCESS = SimulatorConfig(
    shortest=6, longest=12, mean_length=8.0, length_spread=0.2, sarcasm=0.2,
    burst_start=(0.0, 0.0), missing=(0.0, 0.0, 0.0),
)  # fmt: skip
"""Who speaks and what they feel, as in the embedded corpus; of it only turns, emotions, sarcasm and
lengths are used here."""


@dataclasses.dataclass(frozen=True)
class MediaConfig:
    """A folder of recordings; checked when built.

    Attributes:
      seed: what is drawn. A conversation depends on it and on its own number alone.
      conversations: how many.
      process: turns, emotions, sarcasm and lengths of conversations.
      clarity: how far voices and faces of emotions are apart, in deviations within one emotion.
      plain: chance of a sentence that tells no emotion.
      rate: samples per second.
      fps: frames per second; `size`: height and width of a frame in pixels.
      lag: least and largest delay of the face behind the voice in seconds, uniform between, one
        for each conversation; negative is a face ahead.
      sound_snr: of stationary noise in the sound, dB of the speech's mean power; inf is none.
      frame_snr: of noise in each pixel, dB of the variance of all pixels of the frames.
      bursts: share of the time in bursts of noise as loud as speech.
      frozen: share of the frames that repeat what was there before, as in a bad connection.
      missing: chance of a conversation to have no sound, and to have no frames; never both.

    Raises:
      ConfigError: a value is out of its range.
    """

    seed: int = 0
    conversations: int = 24
    process: SimulatorConfig = PROCESS
    clarity: float = 1.0
    plain: float = 0.3
    rate: int = 16000
    fps: int = 25
    size: int = 96
    lag: tuple[float, float] = (0.0, 0.0)
    sound_snr: float = math.inf
    frame_snr: float = math.inf
    bursts: float = 0.0
    frozen: float = 0.0
    missing: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        low, high = self.lag
        demands = {
            "seed must not be negative": self.seed >= 0,
            "conversations must be at least 1": self.conversations >= 1,
            "clarity must be finite and not negative": 0 <= self.clarity < math.inf,
            "plain, bursts, frozen and missing are shares: [0, 1], frozen below 1": all(
                0 <= p <= 1 for p in (self.plain, self.bursts, *self.missing)
            ) and 0 <= self.frozen < 1,
            "missing sound and missing frames must not sum to more than 1": sum(self.missing) <= 1,
            "rate must be 8000 to 48000": 8000 <= self.rate <= 48000,
            "fps must be 5 to 60": 5 <= self.fps <= 60,
            "size must be even and 32 to 512": 32 <= self.size <= 512 and self.size % 2 == 0,
            "lag must be two seconds in order, from -5 to 5": -5 <= low <= high <= 5,
            "sound_snr and frame_snr must be at least -40 dB": (
                min(self.sound_snr, self.frame_snr) >= -40
            ),
            "process must have the six labels of the default": (
                self.process.labels == PROCESS.labels
            ),
        }  # fmt: skip
        for demand, met in demands.items():
            if not met:
                raise ConfigError(f"media simulator: {demand}")
