"""The lanes of the study, chunk by chunk, until all are done or time is up."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from experiments.emodb import search
from experiments.emodb.corpus import EMOTIONS, SPEAKERS, Corpus
from experiments.emodb.hearing import hear
from experiments.emodb.program import ENCODER, Lane, Program
from experiments.emodb.search import CANDIDATES, FINAL, Job
from experiments.emodb.settings import Settings

RESULTS = "lanes.jsonl"
CHUNKS, LEAST = 5, 600
"""How many chunks a budget is divided into, if the steps of a training do not become too few."""


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The lines written so far; one that a kill cut off is no line."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


class Study:
    """Runs jobs in chunks of `width` lanes and writes what they say of the utterances held out.

    Args:
      steps: of each training; fewer, if the deadline, a `time.monotonic`, asks for that.
      at_once: lanes side by side.
      segment: steps of one call; divides `steps`.
      say: hears what happens.
    """

    def __init__(
        self, corpus: Corpus, out: Path, *, steps: int, batch: int, width: int, at_once: int,
        segment: int, deadline: float, say: Any,
    ):  # fmt: skip
        out.mkdir(parents=True, exist_ok=True)
        self.corpus, self.out, self.width, self.say = corpus, out, width, say
        self.sounds = jax.block_until_ready(hear(corpus.samples, corpus.length, corpus.label))
        self.batch, self.deadline = batch, deadline
        self.segment = segment
        self.programs: tuple[Any, Any, Any] | None = None
        self.program = Program(ENCODER, len(EMOTIONS), batch=batch, at_once=at_once)
        _mend(out / RESULTS)
        before = lines_of(out / RESULTS)
        self.done = {_job(line) for line in before}
        # Trainings of one study are of one length.
        self.steps, self.settled = (before[0]["steps"], True) if before else (steps, False)
        self.seconds = 0.0
        """What the last chunk took, without compilation."""

    def left(self, jobs: Sequence[Job]) -> list[Job]:
        return [job for job in jobs if job not in self.done]

    def run(self, jobs: Sequence[Job]) -> None:
        """Those of the jobs that are not done yet, in one chunk."""
        jobs = self.left(jobs)[: self.width]
        if not jobs:
            return
        lanes, which = self.lanes(jobs)
        start, train, ask = self.compiled(lanes, which)
        if not self.settled and self.deadline < math.inf:
            began = time.monotonic()
            jax.block_until_ready(train(start(lanes, self.sounds), lanes, self.sounds))
            self.settle(time.monotonic() - began)
            lanes, which = self.lanes(jobs)
        began = time.monotonic()
        state = start(lanes, self.sounds)
        for _ in range(self.steps // self.segment):
            state = train(state, lanes, self.sounds)
        found = np.asarray(ask(state, lanes, which, self.sounds))
        found = found.mean(1)  # over versions of an utterance, one model's opinions of it
        loss = np.asarray(state.loss)
        lines = [self.line(job, found[i], loss[i]) for i, job in enumerate(jobs)]
        with (self.out / RESULTS).open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))
        self.done |= set(jobs)
        self.seconds = time.monotonic() - began
        stages = ", ".join(sorted({f"{job.stage} {job.settings}" for job in jobs}))
        self.say(f"{len(jobs)} lanes ({stages}) in {self.seconds:.1f} s, loss {loss.mean():.3f}")

    def settle(self, seconds: float) -> None:
        """How long trainings may be if a segment of a chunk takes so many seconds."""
        self.settled = True
        left = (self.deadline - time.monotonic()) / (CHUNKS + 0.5)
        possible = self.segment * int(max(left, 0) / seconds)
        self.steps = min(self.steps, max(LEAST, possible))
        self.say(f"{self.segment} steps of a chunk take {seconds:.1f} s; trainings of {self.steps}")

    def compiled(self, *given: Any) -> tuple[Any, Any, Any]:
        """Start, train and ask; every chunk is of one shape, so this happens once."""
        if self.programs is None:
            began = time.monotonic()
            lanes, which = given
            state = jax.eval_shape(self.program.start, lanes, self.sounds)
            lowered = (
                self.program.train.lower(state, lanes, self.sounds, self.segment),
                self.program.ask.lower(state, lanes, which, self.sounds),
                self.program.start.lower(lanes, self.sounds),
            )
            with ThreadPoolExecutor() as pool:
                train, ask, start = pool.map(lambda each: each.compile(), lowered)
            self.programs = start, train, ask
            self.say(f"compiled in {time.monotonic() - began:.1f} s")
        return self.programs

    def lanes(self, jobs: Sequence[Job]) -> tuple[Lane, np.ndarray]:
        """Of a chunk, the last job repeated where there are too few."""
        padded = [*jobs, *[jobs[-1]] * (self.width - len(jobs))]
        each = [self.lane(job) for job in padded]
        asked = [self.asked(job) for job in padded]
        widest = sum(sorted(np.bincount(self.corpus.speaker))[-2:])
        which = np.stack([np.pad(a, (0, widest - len(a))) for a in asked])
        return jax.tree.map(lambda *x: jnp.stack(x), *each), which

    def asked(self, job: Job) -> np.ndarray:
        held = [SPEAKERS.index(s) for s in job.held]
        return np.flatnonzero(np.isin(self.corpus.speaker, held))

    def lane(self, job: Job) -> Lane:
        """Emotions are drawn equally often, from the speakers who are not held out."""
        weight = np.ones(len(self.corpus.label), np.float32)
        weight[self.asked(job)] = 0
        of_label = np.bincount(self.corpus.label, weight, len(EMOTIONS))
        weight /= of_label[self.corpus.label]
        # Folds and seeds draw their own numbers.
        seed = 1000 * job.seed + SPEAKERS.index(job.held[0])
        settings = Settings(*(np.float32(x) for x in CANDIDATES[job.settings]))
        return Lane(np.int32(seed), np.int32(self.steps), weight, settings)

    def line(self, job: Job, found: np.ndarray, loss: float) -> dict[str, Any]:
        asked = self.asked(job)
        found = found[: len(asked)]
        said = found.argmax(-1)
        line: dict[str, Any] = {
            "stage": job.stage, "settings": job.settings, "held": list(job.held),
            "seed": job.seed, "steps": self.steps, "batch": self.batch,
            "loss": round(float(loss), 4),
            "names": [self.corpus.names[i] for i in asked],
            "label": self.corpus.label[asked].tolist(),
            "both": said[:, 0].tolist(), "mel": said[:, 1].tolist(), "prosody": said[:, 2].tolist(),
        }  # fmt: skip
        if len(job.held) == 1:
            line["log_probability"] = np.round(found[:, 0].astype(float), 3).tolist()
        return line


def run(study: Study, *, seeds: range, candidates: Sequence[str]) -> None:
    """Fixed settings first, so that there is something; then the search; then what it found.

    The search ends early if the last stage would otherwise not be done by its deadline.
    """
    queue = search.fixed(seeds) + [job for name in candidates for job in search.search(name)]
    several = max(len(seeds), study.width // len(SPEAKERS))  # a chunk costs the same, full or not
    last = -(-several * len(SPEAKERS) // study.width)
    while left := study.left(queue):
        if time.monotonic() + (1 + last) * 1.05 * study.seconds > study.deadline:
            study.say(f"time is short: {len(left)} lanes of the search are left out")
            break
        study.run(left)
    chosen, reached = search.choose(lines_of(study.out / RESULTS))
    if not any(reached.values()):
        study.say("there was no search: what is fixed is all there is")
        return
    for speaker, name in chosen.items():
        study.say(f"for {speaker}: {name} {reached[speaker][name]:.3f}")
    jobs = search.final(chosen, range(seeds.start, seeds.start + several))
    while left := study.left(jobs):
        study.run(left)
    lines = [line for line in lines_of(study.out / RESULTS) if line["stage"] == FINAL]
    study.say(f"{FINAL}: {score(lines):.3f} unweighted average recall over {len(lines)} lanes")


def score(lines: Sequence[dict[str, Any]]) -> float:
    """Mean over seeds of the recall over all speakers."""
    seeds = sorted({line["seed"] for line in lines})
    return float(np.mean([search.recall(_all(lines, seed)) for seed in seeds]))


def _all(lines: Sequence[dict[str, Any]], seed: int) -> Iterator[tuple[int, int]]:
    for line in lines:
        if line["seed"] == seed:
            yield from ((truth, said) for _, truth, said in search.decisions(line))


def _job(line: dict[str, Any]) -> Job:
    return Job(line["stage"], line["settings"], tuple(line["held"]), line["seed"])


def _mend(path: Path) -> None:
    """Cuts off what a kill left of a last line."""
    if path.is_file():
        content = path.read_bytes()
        path.write_bytes(content[: content.rfind(b"\n") + 1])


def printer(out: Path, began: float) -> Any:
    """Says things on the terminal and in `log.txt`, with the seconds since `began`."""
    console = Console(stderr=True, highlight=False)

    def say(text: str) -> None:
        line = f"{time.monotonic() - began:7.1f} s  {text}"
        console.print(line)
        out.mkdir(parents=True, exist_ok=True)
        with (out / "log.txt").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    return say
