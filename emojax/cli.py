"""The command line: parse, call, print."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emojax import __version__
from emojax.errors import ConfigError, EmojaxError

if TYPE_CHECKING:
    from emojax.config import Config
    from emojax.train.run import Run

# Whatever takes long to import is imported by the command that needs it: --help answers at once.

SIGTERM_EXIT = 143


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (0, 1 for an error, 2 for wrong usage)."""
    options = _parser().parse_args(arguments)
    quiet = _silence() if getattr(options, "quiet", False) else contextlib.nullcontext()
    try:
        _prepare_process()
        with _sigterm_exits(), quiet:
            status = options.run(options)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader of our output went away
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
        return 1
    except (EmojaxError, OSError) as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


@contextlib.contextmanager
def _sigterm_exits() -> Iterator[None]:
    """Who stops us gets the same status at any moment; training saves itself first."""
    try:
        before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(SIGTERM_EXIT))
    except ValueError:  # not the main thread, which alone may handle signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Nothing on standard output, whoever writes there: progress bars of any depth included."""
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def _one_line(message: object) -> str:
    """A message without line breaks, nor anything else that could steer a terminal."""
    words = " ".join(str(message).split())
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in words)


def _prepare_process() -> None:
    from absl import logging

    # What Orbax and TFDS log is their own business; what matters comes as a warning or an error.
    logging.set_verbosity(logging.ERROR)
    warnings.showwarning = lambda message, *_: print(
        f"warning: {_one_line(message)}", file=sys.stderr
    )
    # Compiled programs are kept, so that the second start is quicker than the first.
    cache = Path("~/.cache/emojax/xla").expanduser()
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="emojax",
        description="Multimodal emotion recognition in conversation: train, evaluate, predict.",
        epilog="A first run: emojax train --out runs/demo && emojax evaluate runs/demo",
    )
    parser.add_argument("--version", action="version", version=f"emojax {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = _command(
        commands, "train", _train, "train a model, or go on with an interrupted training",
        "examples:\n"
        "  emojax train --out runs/demo                         the embedded corpus\n"
        "  emojax train --out runs/iemocap --data features.pkl --set model.width=128\n"
        "  emojax train --out runs/demo --resume                go on after an interruption",
    )  # fmt: skip
    _training(train)
    train.add_argument(
        "--profile", type=Path, nargs="?", const=Path(), metavar="DIR",
        help="trace a few steps for XProf or Perfetto, into RUN/profile if no DIR is given",
    )  # fmt: skip
    several = train.add_argument_group(
        "several processes", "Start the same command on every host; RUN is a folder they share."
    )
    several.add_argument(
        "--distributed", action="store_true",
        help="join the other processes, found by itself on TPU slices, Slurm and Kubernetes",
    )  # fmt: skip
    several.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens")
    several.add_argument("--processes", type=int, metavar="N", help="how many there are")
    several.add_argument("--process", type=int, metavar="I", help="which this is, from 0")
    several.add_argument(
        "--timeout", type=int, default=100, metavar="SECONDS",
        help="after which a process that gives no sign of life counts as lost (default 100)",
    )  # fmt: skip

    evaluate = _command(
        commands, "evaluate", _evaluate, "report how good a trained run is",
        "Takes the epoch that validation chose, then reads the test split and writes report.html,\n"
        "report.md and report.json under RUN/report. Every reading of the test split is counted.",
    )  # fmt: skip
    evaluate.add_argument("run_folder", type=Path, metavar="RUN")
    evaluate.add_argument(
        "--no-test", action="store_true", help="report on validation and leave the test unread"
    )

    predict = _command(
        commands, "predict", _predict, "tell the emotions of new conversations",
        "INPUT is a feature file or folder of any known layout, or JSON lines, one conversation\n"
        'each: {"id": "a", "utterances": [{"speaker": "Ann", "text": [...], "audio": [...],\n'
        '"visual": null, "transcript": "Well."}, ...]}. A modality that is null or left out is\n'
        "missing. A model trained with data.text_encoder takes transcripts and no text features.",
    )  # fmt: skip
    predict.add_argument("run_folder", type=Path, metavar="RUN")
    predict.add_argument("input", type=Path, metavar="INPUT")
    predict.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for the JSONL and CSV"
    )
    predict.add_argument(
        "--skip-bad", action="store_true",
        help="set bad conversations aside and list them in DIR/skipped.json",
    )  # fmt: skip

    export = _command(
        commands, "export", _export, "write a trained run for another runtime",
        "Takes the epoch that validation chose. The model reads raw features; it is run there\n"
        "and then on validation conversations, and if it does not say what JAX says, nothing is\n"
        "left.\n\n"
        "formats:\n"
        "  onnx        one file for ONNX runtimes; batch and length are free\n"
        "  stablehlo   a program for XLA on CPU, GPU and TPU; read by jax alone\n"
        "  torch       safetensors and a PyTorch module in one file; redifu and redifu_authors\n"
        "  web         a folder with a page that runs in the browser and sends nothing anywhere\n"
        "  iree        modules for CPUs without JAX, one for each length of a row\n\n"
        "example:\n"
        "  emojax export runs/demo --format onnx --out exported --quantize int8",
    )  # fmt: skip
    export.add_argument("run_folder", type=Path, metavar="RUN")
    export.add_argument(
        "--format", required=True, choices=("onnx", "stablehlo", "torch", "web", "iree"),
    )  # fmt: skip
    export.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    export.add_argument(
        "--quantize", choices=("int8",), help="smaller weights: a quarter, for onnx and web"
    )
    export.add_argument(
        "--causal",
        action="store_true",
        help="refuse a model that looks ahead in a "
        "conversation: what comes later must not change any probability, here and when exported",
    )

    show = _command(
        commands, "serve", _serve, "show the page of a web export on this machine", "",
    )  # fmt: skip
    show.add_argument("folder", type=Path, metavar="DIR", help="what --format web wrote")
    show.add_argument("--port", type=int, default=8000, help="0 for any that is free (8000)")

    tune = _command(
        commands, "finetune-text", _finetune_text,
        "fine-tune a text encoder on a corpus's transcripts",
        "Each utterance is read behind the turns before it. Validation chooses the epoch, the\n"
        "test split is scored once, and RUN/encoder is left: a folder that data.text_encoder and\n"
        "Hugging Face's own code read. `emojax config --finetune-text` lists the settings. Needs\n"
        "the extra `text`.\n\n"
        "examples:\n"
        "  emojax finetune-text --out runs/text --data folder_of_meld_csv\n"
        "  emojax finetune-text --out runs/low_rank --data folder_of_meld_csv \\\n"
        "      --set text.lora_rank=16 --set train.learning_rate=1e-3\n"
        "  emojax train --out runs/meld --data folder_of_meld_csv \\\n"
        "      --set data.text_encoder=runs/text/encoder",
    )  # fmt: skip
    _training(tune)

    published = _command(
        commands, "import-authors", _import_authors,
        "read a checkpoint of the published ReDiFu implementation",
        "CHECKPOINT is what torch.save wrote, a state dict or a whole module; nothing in it is\n"
        "run and PyTorch is not needed. The outcome is a safetensors file for emojax.load and\n"
        "for emojax/interop/torch_redifu.py. Features go in as the authors' scripts feed them.",
    )  # fmt: skip
    published.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    published.add_argument("--out", type=Path, required=True, metavar="FILE.safetensors")
    published.add_argument(
        "--labels", required=True, metavar="A,B,...", help="emotions in the checkpoint's order"
    )
    published.add_argument("--speakers", metavar="A,B,...", help="default: 0, 1, ...")
    published.add_argument(
        "--heads", type=int, default=64, help="which no tensor tells (default 64, as published)"
    )
    published.add_argument("--window", type=int, default=20, help="likewise (default 20)")

    featurize = _command(
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
        "--longest", type=float, default=60.0, metavar="SECONDS",
        help="an utterance that lasts longer is taken for mistimed (60)",
    )  # fmt: skip
    featurize.add_argument("--workers", type=int, metavar="N", help="processes (one a core)")
    featurize.add_argument("--quiet", action="store_true", help="print nothing but errors")

    aot = _command(
        commands, "aot", _aot, "compile the train step for a TPU slice that is not here",
        "Reports memory per device, FLOPs, bytes and collectives. Needs libtpu and no TPU. Exits\n"
        "with 1 if the config cannot fit, before compiling where its state alone is too large.\n\n"
        "examples:\n"
        "  emojax aot --topology v5e:4x4\n"
        "  emojax aot --topology v5e:16x16 --config large.toml --mesh data=4,fsdp=64",
    )  # fmt: skip
    aot.add_argument(
        "--topology", required=True, metavar="CHIP:SIDES", help="v5e:16x16, v5p:4x4x4, ..."
    )
    _settings(aot)
    aot.add_argument(
        "--mesh", metavar="AXIS=N,...", help="short for --set mesh.AXIS=N of each, data=64,fsdp=4"
    )
    aot.add_argument("--data", metavar="SOURCE", help="a corpus whose shapes to take")
    aot.add_argument("--data-dir", metavar="DIR", help="short for --set data.data_dir=DIR")
    aot.add_argument(
        "--widths", default="1024,1582,342", metavar="T,A,V",
        help="widths of text, audio and visual features without --data (default: IEMOCAP's)",
    )  # fmt: skip
    aot.add_argument("--classes", type=int, default=6, metavar="N", help="without --data")
    aot.add_argument("--speakers", type=int, default=10, metavar="N", help="without --data")
    aot.add_argument(
        "--every-shape", action="store_true",
        help="compile for every shape of a batch, not for the largest alone",
    )  # fmt: skip
    aot.add_argument("--json", type=Path, metavar="FILE", help="write the report there too")

    data = commands.add_parser("data", help="prepare and inspect corpora").add_subparsers(
        required=True, metavar="COMMAND"
    )
    prepare = _command(data, "prepare", _data_prepare, "read, check, split and store a corpus", "")
    prepare.add_argument(
        "source", metavar="SOURCE", help='a feature file or folder, or "simulated"'
    )
    prepare.add_argument("--data-dir", default="~/.cache/emojax", metavar="DIR")
    prepare.add_argument("--split-rule", default="official", metavar="RULE")
    prepare.add_argument("--validation-fraction", type=float, metavar="SHARE")
    prepare.add_argument(
        "--text-encoder", default="", metavar="NAME",
        help='make text features from the transcripts: "minilm", or a folder of a BERT or RoBERTa',
    )  # fmt: skip
    prepare.add_argument("--skip-bad", action="store_true", help="set bad conversations aside")
    inspect = _command(data, "inspect", _data_inspect, "show what a corpus holds", "")
    inspect.add_argument("source", metavar="PATH", help="as for prepare, or a prepared folder")
    inspect.add_argument("--json", action="store_true", help="print JSON instead of a table")

    media = _command(
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

    config = _command(
        commands, "config", _config, "list every setting with its default and meaning", ""
    )
    config.add_argument("--model", default="redifu", metavar="NAME")
    config.add_argument(
        "--finetune-text", action="store_true", help="the settings of that command instead"
    )
    return parser


def _command(
    commands: Any, name: str, run: Any, summary: str, details: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _training(command: argparse.ArgumentParser) -> None:
    """What every training is told, whatever it trains."""
    command.add_argument("--out", type=Path, required=True, metavar="RUN", help="the run's folder")
    _settings(command)
    command.add_argument("--data", metavar="SOURCE", help="short for --set data.source=SOURCE")
    command.add_argument("--data-dir", metavar="DIR", help="short for --set data.data_dir=DIR")
    command.add_argument(
        "--skip-bad", action="store_true",
        help="set conversations with bad values aside instead of stopping at the first",
    )  # fmt: skip
    command.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    command.add_argument("--quiet", action="store_true", help="print nothing but errors")


def _settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="a TOML file of settings")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.FIELD=VALUE",
        dest="overrides",
        help="one setting; may be repeated (`emojax config` lists them all)",
    )


def _read_config(options: argparse.Namespace, kind: Any = None) -> Any:
    """Args: kind: of config; None is that of training."""
    from emojax.config import Config, from_dict, load, override

    values = load(options.config) if options.config else {}
    values = override(values, options.overrides)
    short = {
        "source": options.data, "data_dir": getattr(options, "data_dir", None),
        "skip_bad": getattr(options, "skip_bad", False),
    }  # fmt: skip
    data = values.setdefault("data", {})
    if isinstance(data, dict):  # else `from_dict` says what is wrong
        data |= {name: value for name, value in short.items() if value not in (None, False)}
    return from_dict(values, kind or Config)


def _train(options: argparse.Namespace) -> int:
    from emojax.dist import processes

    given = _read_config(options)
    explicit = (options.coordinator, options.processes, options.process)
    if not options.distributed and explicit == (None, None, None):
        return _train_here(options, given)
    if not options.distributed and None in explicit:
        raise ConfigError(
            "--coordinator, --processes and --process belong together; --distributed finds out "
            "what is not given"
        )
    if options.timeout < 1:
        raise ConfigError(f"--timeout must be positive, not {options.timeout}")
    processes.start(*explicit, timeout=options.timeout)
    try:
        with processes.losing_nobody():
            return _train_here(options, given)
    except (EmojaxError, OSError) as error:
        print(f"error: process {processes.number()}: {_one_line(error)}", file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    # Not through `exit`, which would wait for processes that are gone.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def _train_here(options: argparse.Namespace, given: Config) -> int:
    from rich.console import Console

    from emojax.dist import processes
    from emojax.train.interruption import Interrupted
    from emojax.train.loop import train

    # The first process prepares and writes; the others find what it left, or prepare their own.
    with processes.together():
        run = _open(options, given) if processes.first() else None
    with processes.together():
        run = run or _open_after(options, given)
    folder = None
    if options.profile is not None:
        folder = options.out / "profile" if options.profile == Path() else options.profile
    try:
        progress = train(run, Console(soft_wrap=True), quiet=options.quiet, profile=folder)
    except Interrupted as stop:
        if processes.first():
            print(stop, file=sys.stderr)
        return SIGTERM_EXIT
    if progress.best is not None and not options.quiet and processes.first():
        metric = run.config.train.select
        print(
            f"Best validation {metric}: {progress.best['validation'][metric]:.4f} "
            f"(epoch {progress.best['epoch'] + 1}). Next: emojax evaluate {options.out}"
        )
    return 0


def _open(options: argparse.Namespace, given: Config) -> Run:
    """The run to go on with, or a new one."""
    from emojax.train.run import create_run, open_run, read_run

    if not (options.resume and (options.out / "run.json").exists()):
        return create_run(options.out, given)
    from emojax.config import MeshConfig

    known, _, _ = read_run(options.out)
    mesh = given.mesh if given.mesh != MeshConfig() else None
    others = [each for each in options.overrides if not each.strip().startswith("mesh.")]
    chosen = options.config or others or options.data or options.data_dir or options.skip_bad
    if chosen and dataclasses.replace(known, mesh=given.mesh) != given:
        raise ConfigError(
            f"{options.out} was started with other settings. Resume it without any but those of "
            "the mesh, or start a new run"
        )
    return open_run(options.out, mesh)


def _open_after(options: argparse.Namespace, given: Config) -> Run:
    """The run that the first process has just opened."""
    from emojax.config import MeshConfig
    from emojax.train.run import corpus_of, open_run

    if not options.resume:
        corpus_of(given.data)
    return open_run(options.out, given.mesh if given.mesh != MeshConfig() else None)


def _finetune_text(options: argparse.Namespace) -> int:
    from rich.console import Console

    from emojax.config import FinetuneConfig
    from emojax.train.finetune.loop import finetune
    from emojax.train.finetune.run import create_tuning, open_tuning, read_tuning
    from emojax.train.interruption import Interrupted

    config = _read_config(options, FinetuneConfig)
    if options.resume and (options.out / "run.json").exists():
        chosen = options.config or options.overrides or options.data or options.data_dir
        if (chosen or options.skip_bad) and read_tuning(options.out)[0] != config:
            raise ConfigError(
                f"{options.out} was started with other settings. Resume it without any, or start a "
                "new run"
            )
        tuning = open_tuning(options.out)
    else:
        tuning = create_tuning(options.out, config)
    try:
        result = finetune(tuning, Console(soft_wrap=True), quiet=options.quiet)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return SIGTERM_EXIT
    metric = tuning.config.train.select
    print(
        f"Best validation {metric}: {result['best']['validation'][metric]:.4f} (epoch "
        f"{result['best']['epoch'] + 1}); test weighted F1: {result['test']['weighted_f1']:.4f}"
    )
    print(f"Next: emojax train --set data.text_encoder={options.out / 'encoder'}")
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from emojax.train.evaluation import evaluate_run

    paths = evaluate_run(options.run_folder, test=not options.no_test).paths
    content = json.loads(paths["json"].read_text(encoding="utf-8"))
    for line in _headline(content):
        print(line)
    print(f"Report: {paths['html']}")
    return 0


def _headline(content: dict[str, Any]) -> list[str]:
    from emojax.evaluate.pages import reference

    split = "test" if "test" in content["splits"] else "validation"
    scores = content["splits"][split]
    lines = [f"{content['name']}, {split} split:"]
    for name in ("accuracy", "weighted_f1", "macro_f1", "nll", "ece"):
        entry = scores[name]
        between = f"  [{entry['low']:.4f}, {entry['high']:.4f}]" if entry["low"] is not None else ""
        lines.append(f"  {name:12s} {entry['value']:.4f}{between}")
    if content["reference"]:
        lines.append(reference(content["reference"]))
    return lines


def _predict(options: argparse.Namespace) -> int:
    from emojax.train.predict import predict_file

    for path in predict_file(
        options.run_folder, options.input, options.out, skip_bad=options.skip_bad
    ):
        print(path)
    return 0


def _export(options: argparse.Namespace) -> int:
    from rich.console import Console

    from emojax.serve.export import export_run

    card = export_run(
        options.run_folder, options.format, options.out, Console(soft_wrap=True),
        quantize=options.quantize, causal=options.causal,
    )  # fmt: skip
    scores, times = card["validation_weighted_f1"], card["latency_ms"]
    print(f"Weighted F1 on validation: {scores['jax']:.4f} in JAX, {scores['exported']:.4f} here")
    print(f"One conversation: {times['p50']:.1f} ms (median); {card['bytes'] / 1e6:.2f} MB")
    print(f"Exported: {options.out}")
    return 0


def _serve(options: argparse.Namespace) -> int:
    from emojax.serve.web_folder import serve_folder

    serve_folder(options.folder, options.port)
    return 0


def _import_authors(options: argparse.Namespace) -> int:
    from emojax.interop.published import import_checkpoint

    speakers = None if options.speakers is None else options.speakers.split(",")
    print(
        import_checkpoint(
            options.checkpoint, options.out, options.labels.split(","), speakers,
            heads=options.heads, window=options.window,
        )
    )  # fmt: skip
    return 0


def _featurize(options: argparse.Namespace) -> int:
    from emojax.featurize import card
    from emojax.featurize.run import featurize
    from emojax.featurize.worker import Settings

    settings = Settings(
        rate=options.fps, faces=options.faces, align=options.align, longest=options.longest,
        vision=str(options.vision_weights or ""), size=options.vision_size,
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


def _data_prepare(options: argparse.Namespace) -> int:
    from rich.console import Console

    from emojax.data.inspect import inspect, render
    from emojax.data.prepare import prepare

    corpus = prepare(
        options.source, options.data_dir, skip_bad=options.skip_bad,
        split_rule=options.split_rule, validation_fraction=options.validation_fraction,
        text_encoder=options.text_encoder,
    )  # fmt: skip
    Console().print(render(inspect(corpus)))
    print(f"Prepared: {corpus.path}")
    return 0


def _data_inspect(options: argparse.Namespace) -> int:
    from rich.console import Console

    from emojax.data.inspect import inspect, render

    summary = inspect(options.source)
    if options.json:
        print(json.dumps(summary, indent=2))
    else:
        Console().print(render(summary))
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


def _aot(options: argparse.Namespace) -> int:
    # A TPU of this machine's own is not needed, and stays free for others.
    os.environ["JAX_PLATFORMS"] = "cpu"
    from rich.console import Console

    from emojax.dist.slices import parse_slice
    from emojax.train.aot import aot, shapes_of, stand_in
    from emojax.train.aot_table import render

    axes = [part for part in (options.mesh or "").split(",") if part]
    options.overrides += [f"mesh.{axis.strip()}" for axis in axes]
    config, where = _read_config(options), parse_slice(options.topology)
    if options.data:
        corpus = shapes_of(config.data)
    else:
        widths = _integers("--widths", options.widths, 3)
        corpus = stand_in(config.data, widths, options.classes, options.speakers)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
    report = aot(config, where, corpus, every_shape=options.every_shape)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    Console().print(render(report))
    return 0


def _integers(option: str, text: str, count: int) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count or min(numbers) < 1:
        raise ConfigError(f"{option} must be {count} positive numbers, not {text!r}")
    return numbers


def _config(options: argparse.Namespace) -> int:
    from emojax.config import describe, describe_finetuning

    print(describe_finetuning() if options.finetune_text else describe(options.model))
    return 0


if __name__ == "__main__":
    sys.exit(main())
