"""`python -m tests.dist.make_collectives`: write the golden of collectives anew.

Look at the difference before it is committed: what is new there is what devices now say to one
another that they did not say before. The golden belongs to a version of jax, which it names.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax

from tests import QUICK

ROOT = Path(__file__).parent.parent.parent
GOLDEN = ROOT / "tests" / "goldens" / "collectives.json"
TIMEOUT = 1500


def on_eight_devices(out: Path, cache: Path | None = None) -> dict[str, Any]:
    """What `tests.dist.eight` finds, in a process that has eight devices."""
    flags = f"--xla_force_host_platform_device_count=8 {QUICK}"
    environment = {
        **os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    if cache is not None:
        environment["JAX_COMPILATION_CACHE_DIR"] = str(cache)
    command = [sys.executable, "-m", "tests.dist.eight", str(out)]
    subprocess.run(command, env=environment, check=True, timeout=TIMEOUT)
    return json.loads(out.read_text())


def golden(found: dict[str, Any]) -> dict[str, Any]:
    return {
        "jax": jax.__version__,
        "cases": {name: each["divided"]["collectives"] for name, each in found.items()},
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        content = golden(on_eight_devices(Path(folder) / "found.json"))
    GOLDEN.write_text(json.dumps(content, indent=1) + "\n")
