"""`emojax featurize` and `emojax simulate-media`."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from emojax.cli.parsing import command


def add(commands: Any) -> None:
    featurize = command(
        commands, "featurize", _featurize, "make a corpus from a folder of recordings",
        "MANIFEST is a CSV file with the columns dialogue,speaker,start,end,text,label,media and,\n"
        "if wanted, utterance and split. Times are seconds in the recording; empty ones mean its\n"
        "start and end. media is relative to the manifest's folder: wav, mp4, mkv, avi, ...\n"
        "A clip that is broken, silent, too short or mistimed, or shows no face, is listed in\n"
        "DIR/set_aside.csv; the utterance is kept with what else there is of it. Started again,\n"
        "the same command goes on where it was stopped. Needs the extra `media`.\n\n"
        "examples:\n"
        "  emojax featurize calls/manifest.csv --out calls_corpus --text-encoder minilm\n"
        "  emojax train --out runs/calls --data calls_corpus",
    )  # fmt: skip
    featurize.add_argument("manifest", type=Path, metavar="MANIFEST")
    featurize.add_argument("--out", type=Path, required=True, metavar="DIR")
    featurize.add_argument(
        "--text-encoder", default="", metavar="NAME",
        help='text features: "minilm", or the folder of a BERT (default: hashed words, a stand-in)',
    )  # fmt: skip
    featurize.add_argument(
        "--vision-weights", type=Path, metavar="FILE",
        help="a pretrained MobileNetV2 or VGG-16 (VGG-Face) for the face crops, as safetensors or "
        "a state dict of PyTorch (default: plain measures of the face, which need no weights)",
    )  # fmt: skip
    featurize.add_argument(
        "--vision-size", type=int, default=0, metavar="PIXELS",
        help="rows and columns of the crops for a MobileNetV2 (96)",
    )  # fmt: skip
    featurize.add_argument(
        "--faces", choices=("find", "whole"), default="find",
        help="find faces, or take every picture's middle for one (find)",
    )  # fmt: skip
    featurize.add_argument(
        "--align", choices=("correlation", "soft_dtw"), default="",
        help="measure by how much pictures are behind the sound, in each recording, and make up "
        "for it (default: take them as they are)",
    )  # fmt: skip
    featurize.add_argument(
        "--fps", type=float, default=5.0, metavar="N", help="pictures a second looked at (5)"
    )
    featurize.add_argument(
        "--frames", type=int, default=0, metavar="K",
        help="keep K frames of an utterance's sound and face, means over equal spans of its time, "
        "which models read with a recurrent network (default: pool over all of its time)",
    )  # fmt: skip
    featurize.add_argument(
        "--longest", type=float, default=60.0, metavar="SECONDS",
        help="an utterance that lasts longer is taken for mistimed (60)",
    )  # fmt: skip
    featurize.add_argument("--workers", type=int, metavar="N", help="processes (one a core)")
    featurize.add_argument("--quiet", action="store_true", help="print nothing but errors")

    media = command(
        commands, "simulate-media", _simulate_media,
        "make a small corpus of recordings: sound, drawn faces, sentences",
        "Writes DIR/manifest.csv, which `emojax featurize` reads, a media file for each\n"
        "conversation, and DIR/truth.json with lags, sarcasm and the exact posterior. The same\n"
        "command goes on where it was stopped. Frames need PyAV.\n\n"
        "example:\n"
        "  emojax simulate-media --out recordings --lag 0.2 2 --sound-snr 10 --frame-snr 10\n"
        "  emojax featurize recordings/manifest.csv --out corpus --faces whole --align correlation",
    )  # fmt: skip
    media.add_argument("--out", type=Path, required=True, metavar="DIR")
    media.add_argument("--conversations", type=int, default=24, metavar="N", help="default 24")
    media.add_argument("--seed", type=int, default=0, metavar="N", help="default 0")
    media.add_argument(
        "--lag", type=float, nargs=2, default=(0.0, 0.0), metavar=("LEAST", "MOST"),
        help="seconds of the face behind the voice, drawn for each conversation (default none)",
    )  # fmt: skip
    for name, what in (("sound-snr", "dB of the speech above noise"),
                       ("frame-snr", "dB of the pictures above noise in each pixel")):  # fmt: skip
        media.add_argument(
            f"--{name}", type=float, default=math.inf, metavar="DB", help=f"{what} (default none)"
        )
    for name, what in (("bursts", "share of the sound in bursts of noise"),
                       ("frozen", "share of the frames that repeat the one before")):  # fmt: skip
        media.add_argument(f"--{name}", type=float, default=0.0, metavar="SHARE", help=what)
    media.add_argument(
        "--missing", type=float, nargs=2, default=(0.0, 0.0), metavar=("SOUND", "FRAMES"),
        help="shares of the conversations without sound and without frames (default none)",
    )  # fmt: skip
    media.add_argument(
        "--size", type=int, default=96, metavar="PIXELS", help="of a frame's sides (default 96)"
    )


def _featurize(options: argparse.Namespace) -> int:
    from emojax.featurize import card
    from emojax.featurize.run import featurize
    from emojax.featurize.worker import Settings

    settings = Settings(
        rate=options.fps, faces=options.faces, align=options.align, longest=options.longest,
        vision=str(options.vision_weights or ""), size=options.vision_size,
        frames=options.frames,
    )  # fmt: skip
    made = featurize(
        options.manifest, options.out, settings, text_encoder=options.text_encoder,
        workers=options.workers,
    )  # fmt: skip
    for line in card.lines(made.card):
        print(line)
    print(f"Measured now: {made.measured}. Card: {made.folder / 'card.md'}")
    if made.corpus is None:
        print("Too few dialogues to train on; emojax predict RUN reads the folder")
    else:
        print(f"Next: emojax train --out RUN --data {made.folder}")
    return 0


def _simulate_media(options: argparse.Namespace) -> int:
    from emojax.data.media_simulator.config import MediaConfig
    from emojax.data.media_simulator.files import simulate_media

    config = MediaConfig(
        seed=options.seed, conversations=options.conversations, lag=tuple(options.lag),
        sound_snr=options.sound_snr, frame_snr=options.frame_snr, bursts=options.bursts,
        frozen=options.frozen, missing=tuple(options.missing), size=options.size,
    )  # fmt: skip
    print(f"Manifest: {simulate_media(config, options.out)}")
    return 0
