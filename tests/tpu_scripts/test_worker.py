"""The half that runs on the workers, run here for real: only the machine around it is made up."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from tests.tpu_scripts.conftest import SCRIPTS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the workers run Linux")

# Trains until told to end, saves itself on SIGTERM, and ends with the status in the file `end`.
EMOJAX = """
[[ $1 == --version ]] && echo 'emojax 9.9' && exit
echo "got: $*" && echo "$$" >> ~/started
trap 'echo saved; exit 143' TERM
while [[ ! -f ~/end ]]; do sleep 0.05; done
exit "$(<~/end)"
"""


class Worker:
    """A home folder with fake system tools, and worker.sh in it."""

    def __init__(self, cloud):
        self.home = cloud.folder
        self.mount = self.home / "mnt"
        self.environment = cloud.environment
        cloud.tool("sudo", '"$@"')
        cloud.tool("mountpoint", f"test -f {self.home}/mounted")
        cloud.tool("gcsfuse", '[[ $1 == --version ]] && echo "gcsfuse version 3.4.0 (Go)" && exit\n'
                   f'echo "$@" >> {self.home}/mounted')  # fmt: skip
        cloud.tool("uv", f'echo "$@" >> {self.home}/uv; mkdir -p ~/emojax/venv/bin; '
                   f"cp {self.home}/fake_emojax ~/emojax/venv/bin/emojax")  # fmt: skip
        fake = self.home / "fake_emojax"
        fake.write_text(f"#!/bin/bash\n{EMOJAX}")
        fake.chmod(0o755)

    def __call__(self, *arguments: str, status: int = 0) -> str:
        done = subprocess.run(
            ["bash", str(SCRIPTS / "worker.sh"), *arguments],
            env=self.environment, capture_output=True, text=True, timeout=30,
        )  # fmt: skip
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr

    def install(self, source: str = "git+https://host/emojax@v1") -> str:
        return self("install", source, "3.12", "3.12.1", "my-runs", str(self.mount))

    def launch(self, *command: str, status: int = 0) -> str:
        return self("launch", "my-runs", str(self.mount), "demo", "emojax", "train", *command,
                    status=status)  # fmt: skip

    def state(self) -> str:
        words = self("status").split()
        assert words[0] == "emojax-worker"
        return " ".join(words[1:-1])

    def ends(self, status: int) -> str:
        """Let training end; its state afterwards."""
        (self.home / "end").write_text(str(status))
        deadline = time.monotonic() + 10
        while (state := self.state()) == "RUNNING" and time.monotonic() < deadline:
            time.sleep(0.05)
        return state


@pytest.fixture
def worker(cloud):
    worker = Worker(cloud)
    yield worker
    worker("stop")


def test_install_takes_a_git_reference_or_the_checkout(worker):
    assert "emojax 9.9" in worker.install()
    installed = (worker.home / "uv").read_text()
    assert "venv --quiet --allow-existing --python 3.12" in installed
    assert installed.strip().endswith("emojax[tpu] @ git+https://host/emojax@v1")
    (worker.home / "pyproject.toml").touch()
    with tarfile.open(worker.home / "emojax-checkout.tar.gz", "w:gz") as archive:
        archive.add(worker.home / "pyproject.toml", "pyproject.toml")
    worker.install("checkout")
    assert (worker.home / "emojax/source/pyproject.toml").exists()
    assert (worker.home / "uv").read_text().strip().endswith("/emojax/source[tpu]")


def test_the_bucket_is_mounted_once_and_without_caches(worker):
    worker.install()
    worker.install()
    (mounted,) = (worker.home / "mounted").read_text().splitlines()
    assert mounted.endswith(f"my-runs {worker.mount}")
    for cache in ("metadata-cache-ttl-secs", "metadata-cache-negative-ttl-secs",
                  "kernel-list-cache-ttl-secs", "stat-cache-max-size-mb"):  # fmt: skip
        assert f"--{cache}=0" in mounted


def test_an_old_gcsfuse_is_replaced(worker, cloud):
    cloud.tool("gcsfuse", f'[[ $1 == --version ]] && echo "gcsfuse version 2.5.1" || touch '
               f"{worker.home}/mounted")  # fmt: skip
    cloud.tool("curl", f'echo "$@" > {worker.home}/curl')
    cloud.tool("apt-get", f'echo "$@" > {worker.home}/apt')
    worker.install()
    assert "v3.12.1/gcsfuse_3.12.1_amd64.deb" in (worker.home / "curl").read_text()
    assert (worker.home / "apt").read_text().strip().endswith("emojax/gcsfuse.deb")


def test_a_bucket_that_cannot_be_written_is_named(worker):
    worker.mount.touch()
    (worker.home / "mounted").touch()
    said = worker("install", "x", "3.12", "3", "my-runs", str(worker.mount), status=1)
    assert "cannot write to gs://my-runs" in said
    assert "roles/storage.objectUser" in said


def test_a_training_outlives_the_connection_and_is_started_once(worker):
    worker.install()
    assert worker.state() == "NONE"
    worker.launch("--out", "a b", "--resume")  # returns, as a connection that ends
    assert worker.state() == "RUNNING"
    assert "got: train --out a b --resume" in worker("log", "5", "false")
    assert "runs already" in worker.launch(status=3)
    assert len((worker.home / "started").read_text().split()) == 1
    assert worker.ends(0) == "DONE"
    (log,) = (worker.mount / "logs/demo").iterdir()
    assert "ended with exit status 0" in log.read_text()


def test_a_training_that_fails_says_its_status_and_can_be_launched_again(worker):
    worker.install()
    worker.launch()
    assert worker.ends(7) == "FAILED (7)"
    (worker.home / "end").unlink()
    worker.launch()
    assert worker.state() == "RUNNING"
    assert worker.ends(0) == "DONE"


def test_stopping_lets_it_save_itself(worker):
    worker.install()
    worker.launch()
    worker("stop")
    assert worker.state() == "FAILED (143)"
    assert re.search("saved\n.*ended with exit status 143", worker("log", "9", "false"))
    worker("stop")  # nothing runs any more


def test_a_training_that_is_told_to_end_and_ends_well_is_done(worker):
    worker.install()
    fake = worker.home / "emojax/venv/bin/emojax"
    fake.write_text(fake.read_text().replace("exit 143", "exit 0"))
    worker.launch()
    worker("stop")
    assert worker.state() == "DONE"


def test_a_training_that_vanished_with_its_machine_is_failed(worker):
    worker.install()
    worker.launch()
    group = (worker.home / "started").read_text().strip()
    wrapper = Path(f"/proc/{group}/stat").read_text().split()[3]
    subprocess.run(["kill", "-KILL", wrapper, group], check=True, timeout=10)
    deadline = time.monotonic() + 10
    while worker.state() == "RUNNING" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert worker.state() == "FAILED (lost)"


def test_a_command_that_cannot_start_is_seen(worker):
    worker.install()
    worker("launch", "my-runs", str(worker.mount), "demo", "no-such-program")
    assert worker.ends(0) == "FAILED (127)"
