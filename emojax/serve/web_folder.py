"""A folder with one page that runs a model in the browser, and nothing but static files.

The page is in `emojax/serve/web`. What runs the model, ONNX Runtime Web, comes from its npm package
into the folder, so that the page loads nothing from anywhere else.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import http.server
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from emojax import __version__
from emojax.errors import ConfigError, DataError
from emojax.files import write_atomically
from emojax.interop.weights import Weights
from emojax.train.predict import embeds_speakers
from emojax.train.run import Run
from emojax.types import MODALITIES, Conversation, Signature

PAGE = Path(__file__).parent / "web"
RUNTIME = "onnxruntime-web@1.30.0"
INTEGRITY = (
    "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
)
"""SHA-512 of the package's tarball, as npm writes it. A new version needs a new one."""
RUNTIME_FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
"""Of its `dist`: the part that computes on the CPU alone. The package holds no licence text; the
page's folder has it."""
EXAMPLES = 3
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; "
    "worker-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def write_web_folder(
    out: Path, onnx: Path, description: Mapping[str, Any], example: list[dict[str, Any]]
) -> None:
    """Write the page, the model and what runs it.

    Args:
      out: the folder; made if need be. What it holds already stays, if it has other names.
      onnx: the model; see `emojax.interop.onnx`.
      description: what the page must know of the model, see `describe`.
      example: conversations as JSON lines have them.

    Raises:
      ConfigError: the runtime's package is neither kept from before nor to be had.
      DataError: a file that cannot be written.
    """
    lines = (json.dumps(each, ensure_ascii=False, allow_nan=False) for each in example)
    runtime = runtime_package()
    write_atomically(out / "example.jsonl", "".join(f"{line}\n" for line in lines))
    write_atomically(out / "model.json", json.dumps(description, allow_nan=False) + "\n")
    try:
        shutil.copytree(PAGE, out, dirs_exist_ok=True)
        if onnx.resolve() != (out / "model.onnx").resolve():
            shutil.copyfile(onnx, out / "model.onnx")
        unpack_runtime(out / "onnxruntime", runtime)
    except OSError as error:
        raise DataError(f"cannot be written: {error.strerror or error}", file=out) from error


def unpack_runtime(out: Path, tarball: Path | None = None) -> None:
    """Write `RUNTIME_FILES` into a folder that is there.

    Raises:
      ConfigError: see `runtime_package`, whose file is taken if none is named.
    """
    with tarfile.open(tarball or runtime_package()) as package:
        for name in RUNTIME_FILES:
            # Bytes by name, never a path that the archive chooses.
            content = package.extractfile(f"package/dist/{name}")
            assert content is not None
            (out / name).write_bytes(content.read())


def runtime_package(cache: Path | None = None) -> Path:
    """The tarball of `RUNTIME`, fetched once and kept.

    Args:
      cache: the folder it is kept in; by default one in the user's home.

    Raises:
      ConfigError: it cannot be fetched, or is not the one whose hash stands here.
    """
    cache = cache or Path.home() / ".cache" / "emojax" / "npm"
    path = cache / f"{RUNTIME.replace('@', '-')}.tgz"
    if path.exists() and _integrity(path) == INTEGRITY:
        return path
    npm = shutil.which("npm")
    if npm is None:
        raise ConfigError(
            f"--format web takes {RUNTIME} from npm, which is not installed. Install Node.js "
            f"(https://nodejs.org), or put the package's tarball at {path}"
        )
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            command = [npm, "pack", RUNTIME, "--ignore-scripts", "--silent"]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
            fetched = Path(folder) / path.name
            if done.returncode or not fetched.exists():
                said = (done.stderr.strip() or "nothing").splitlines()[-1]
                raise ConfigError(f"npm could not fetch {RUNTIME}. It says: {said}")
            if (found := _integrity(fetched)) != INTEGRITY:
                raise ConfigError(
                    f"{RUNTIME} from npm is not the package that it should be: its SHA-512 is "
                    f"{found} instead of {INTEGRITY}"
                )
            fetched.replace(path)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{RUNTIME} cannot be fetched into {cache}: {error}") from error
    return path


def _integrity(path: Path) -> str:
    with path.open("rb") as file:
        return base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode()


def describe(run: Run, weights: Weights, card: Mapping[str, Any]) -> dict[str, Any]:
    """What the page must know of a trained model.

    Args:
      card: of the export, with "validation_weighted_f1".
    """
    signature, encoder, train = weights.signature, weights.text_encoder, run.config.train
    return {
        "name": f"{weights.config.name}, trained on {signature.name}",
        "labels": signature.labels,
        "speakers": signature.speakers,
        "widths": dict(zip(MODALITIES, signature.widths, strict=True)),
        "embeds_speakers": embeds_speakers(weights.config),
        # Without a loss of their own the modalities' decisions stay as they were drawn.
        "own_decisions": bool(train.auxiliary_weight or train.distillation_weight),
        # What noise is measured in.
        "deviation": {m: _short(x) for m, x in run.corpus.spread.items()},
        "text_encoder": encoder and str(encoder.get("name", "a text encoder")),
        "validation_f1": card["validation_weighted_f1"]["exported"],
        "version": __version__,
    }


def examples(run: Run) -> list[dict[str, Any]]:
    """A few validation conversations of middling length, as JSON lines have them."""
    records = run.corpus.split("validation")
    order = np.argsort(run.corpus.lengths("validation"), kind="stable")
    first = max(0, (len(order) - EXAMPLES) // 2)
    chosen = [records[int(i)] for i in order[first : first + EXAMPLES]]
    return [as_json(each, run.corpus.signature) for each in chosen]


def as_json(conversation: Conversation, signature: Signature) -> dict[str, Any]:
    """A conversation as `emojax.data.readers.json_lines` reads it, features given by number."""

    def utterance(i: int) -> dict[str, Any]:
        label = int(conversation.label[i])
        features = {
            m: _short(getattr(conversation, m)[i]) if conversation.present[i, column] else None
            for column, m in enumerate(MODALITIES)
        }
        return {
            "speaker": signature.speakers[conversation.speaker[i]], **features,
            "transcript": conversation.transcript[i] or None,
            "label": signature.labels[label] if label >= 0 else None,
        }  # fmt: skip

    utterances = [utterance(i) for i in range(len(conversation))]
    return {"id": conversation.id, "utterances": utterances}


def _short(x: np.ndarray) -> list[float]:
    """Numbers with as many digits as 32-bit floats have."""
    return [float(str(value)) for value in np.asarray(x, np.float32)]


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Files of a folder, for pages of this machine's own address alone."""

    # Not left to the system's own table, which may say anything.
    extensions_map = {  # noqa: RUF012
        "": "application/octet-stream", ".html": "text/html; charset=utf-8",
        ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
        ".mjs": "text/javascript; charset=utf-8", ".json": "application/json",
        ".wasm": "application/wasm", ".txt": "text/plain; charset=utf-8",
        ".md": "text/plain; charset=utf-8",
    }  # fmt: skip

    def send_head(self) -> Any:
        # A stranger's page that gives its own name this machine's address would send that name.
        host = self.headers.get("Host", "").split(":")[0]
        if host not in ("127.0.0.1", "localhost"):
            self.send_error(421, "Only for this machine")
            return None
        return super().send_head()

    def list_directory(self, path: Any) -> None:
        self.send_error(404)

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def web_server(folder: Path, port: int = 0) -> http.server.ThreadingHTTPServer:
    """A server of the folder on this machine's own address, not running yet.

    Args:
      port: 0 for any that is free.

    Raises:
      ConfigError: the port is taken, or there is no page in the folder.
    """
    if not (folder / "index.html").is_file():
        raise ConfigError(f"{folder}: there is no page here (index.html)")
    handler = functools.partial(_Handler, directory=str(folder))
    try:
        return http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError as error:
        raise ConfigError(f"port {port}: {error.strerror}. Choose another") from error


def serve_folder(folder: Path, port: int) -> None:
    """Serve the folder on this machine's own address until interrupted.

    Raises:
      ConfigError: see `web_server`.
    """
    with web_server(folder, port) as server:
        print(f"http://127.0.0.1:{server.server_port} (Ctrl+C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
