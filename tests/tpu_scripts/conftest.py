"""A cloud for the scripts: fake tools on the PATH, no waiting, a home of their own."""

from __future__ import annotations

import json
import os
import shlex
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent.parent
SCRIPTS = REPOSITORY / "tpu_scripts"
TOOLS = ("gcloud", "xpk", "docker", "kubectl")
# A shell that ignores Ctrl-C from its start cannot hear it later; a test runner in the background
# would hand that on.
HEARS_CTRL_C = (
    sys.executable, "-I", "-S", "-c",
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "os.execv(sys.argv[1], sys.argv[1:])",
)  # fmt: skip


class Cloud:
    """One folder with fake tools, what they were called with, and the way to run a script."""

    def __init__(self, folder: Path):
        self.folder = folder
        tools = folder / "bin"
        tools.mkdir()
        for tool in TOOLS:
            fake = REPOSITORY / "tests" / "tpu_scripts" / "fake_cloud.py"
            path = tools / tool
            words = [sys.executable, "-I", "-S", str(fake), str(folder), tool]
            path.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        settings = folder / "settings.sh"
        settings.touch()
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("EMOJAX_")}
        self.environment = inherited | {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "HOME": str(folder),
            "EMOJAX_SETTINGS": str(settings),
            "EMOJAX_PROJECT": "my-project",
            "EMOJAX_BUCKET": "my-runs",
            "EMOJAX_POLL_SECONDS": "0",
            "EMOJAX_RETRY_SECONDS": "0",
            "EMOJAX_RETRIES": "3",
            "EMOJAX_DELETE_LOOKS": "3",
            "EMOJAX_BILLS": str(folder / "bills"),
        }
        self.scenario()

    def scenario(self, **parts: object) -> None:
        (self.folder / "scenario.json").write_text(json.dumps(parts))

    def has(self, **state: object) -> None:
        """What exists before the first call; `slices` are those of a first life."""
        if state.get("slices"):
            state = {"lives": 1, "looks": 0} | state
        (self.folder / "state.json").write_text(json.dumps(state))

    def tool(self, name: str, script: str) -> None:
        """One more command on the PATH."""
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(0o755)

    def start(
        self, script: str, *arguments: str, before: Sequence[str] = HEARS_CTRL_C, **environment: str
    ) -> subprocess.Popen[str]:
        """A script in a process group of its own, as a terminal would start it."""
        return subprocess.Popen(
            [*before, str(SCRIPTS / script), *arguments],
            env=self.environment | environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(
        self, script: str, *arguments: str, status: int | None = 0, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a script to its end; STATUS is the exit status it must have, None any."""
        done = self.end(self.start(script, *arguments, before=(), **environment))
        assert status is None or done.returncode == status, (
            f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return done

    @staticmethod
    def end(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
        """Wait for a script; one that does not end is killed with all it started."""
        try:
            out, err = process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            pytest.fail(f"did not end\n{out}\n{err}")
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def interrupt(
        self, process: subprocess.Popen[str], how: int, after: str, times: int
    ) -> subprocess.CompletedProcess[str]:
        """Interrupt a script once it has called AFTER so many TIMES.

        Ctrl-C reaches the whole group, what the script started too; kill reaches the script alone.
        """
        deadline = time.monotonic() + 20
        while len(self.calls(after)) < times and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.4)  # the call returns, the script begins to wait
        (os.killpg if how == signal.SIGINT else os.kill)(process.pid, how)
        return self.end(process)

    def calls(self, part: str = "") -> list[list[str]]:
        """The commands that were called, those that contain PART."""
        path = self.folder / "calls.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [call for call in map(json.loads, lines) if part in " ".join(call)]

    def exists(self, what: str = "slices") -> bool:
        return bool(json.loads((self.folder / "state.json").read_text()).get(what))


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    return Cloud(tmp_path)
