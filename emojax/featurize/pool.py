"""Several workers, each an operating-system process that may hang or die without harm to others."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from typing import Any

from emojax.featurize.worker import ONE_CORE

_TRIES = 2
"""How often an utterance may take its worker with it before it is set aside."""

Task = dict[str, Any]


class Died(Exception):  # noqa: N818, what becomes of it is decided by the caller
    """A worker that gave no answer; its text says how it ended."""


def measured(
    tasks: Sequence[Task], settings: dict[str, Any], workers: int, patience: float
) -> Generator[tuple[int, Task], None, None]:
    """Answers of the tasks as they come, each with the number of its task.

    A task whose worker died, or gave no answer for `patience` seconds, `_TRIES` times over is
    answered by {"died": how}.
    """
    numbers = iter(range(len(tasks)))
    lock, stop = threading.Lock(), threading.Event()
    answers: queue.Queue[tuple[int, Task] | BaseException] = queue.Queue(4 * workers)

    def take() -> int | None:
        with lock:
            return None if stop.is_set() else next(numbers, None)

    def serve() -> None:
        worker = None
        try:
            while (number := take()) is not None:
                for attempt in range(1, _TRIES + 1):
                    worker = worker or _Worker(settings)
                    crew.add(worker)
                    try:
                        answer = worker.ask(tasks[number], patience)
                        break
                    except Died as died:
                        worker.end()
                        crew.discard(worker)
                        worker = None
                        answer = {"died": str(died)}
                        if stop.is_set() or attempt == _TRIES:
                            break
                answers.put((number, answer))
        except BaseException as error:  # so that nobody waits for this thread's answers
            answers.put(error)

    crew: set[_Worker] = set()
    threads = [threading.Thread(target=serve, daemon=True) for _ in range(min(workers, len(tasks)))]
    try:
        for thread in threads:
            thread.start()
        for _ in tasks:
            answer = answers.get()
            if isinstance(answer, BaseException):
                raise answer
            yield answer
    finally:
        stop.set()
        for worker in list(crew):
            worker.end()


class _Worker:
    def __init__(self, settings: dict[str, Any]):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "emojax.featurize.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env=os.environ | ONE_CORE, encoding="utf-8",
            start_new_session=True,  # Ctrl-C is for us; they end when we do
        )  # fmt: skip
        self._write(settings)

    def _write(self, content: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # there will be no answer either
            self._process.stdin.write(json.dumps(content) + "\n")
            self._process.stdin.flush()

    def ask(self, task: Task, patience: float) -> Task:
        assert self._process.stdout is not None
        slow = threading.Event()

        def lose_patience() -> None:
            slow.set()
            self._process.kill()

        timer = threading.Timer(patience, lose_patience)
        timer.daemon = True
        timer.start()
        try:
            self._write(task)
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        if line.endswith("\n"):
            return json.loads(line)
        status = self._process.wait()
        if slow.is_set():
            raise Died(f"no end after {patience:.0f} s")
        raise Died(f"its decoder ended with {f'signal {-status}' if status < 0 else status}")

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
