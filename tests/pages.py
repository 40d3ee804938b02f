"""Pages for people, read back: by a parser, and by a browser where there is one."""

from __future__ import annotations

import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

ATTACK = (
    "<script>document.title='owned'</script><img src=http://x.test/a onerror=alert(1)> | `x` *b*"
)
VOID = ("img", "input", "link", "meta")
"""Tags of ours that have no end."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


class Page(HTMLParser):
    """Collects tags, every attribute and the text of a page; `crossed` is what ends out of turn."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.open: list[str] = []
        self.crossed: list[str] = []
        self.feed(text)
        self.close()
        self.crossed += self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()
        else:
            self.crossed.append(tag)

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="session")
def browse(tmp_path_factory):
    """A function that loads a page in a headless browser and returns what became of it."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("no Chromium here to show the page in")

    def load(page: Path) -> str:
        profile = tmp_path_factory.mktemp("profile")
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu"]
        command += [f"--user-data-dir={profile}", "--allow-file-access-from-files"]
        command += ["--virtual-time-budget=5000", "--dump-dom", page.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=120).stdout

    trial = tmp_path_factory.mktemp("trial") / "page.html"
    trial.write_text("<script>document.write(6 * 7)</script>")
    if "42" not in load(trial):
        pytest.skip(f"{browser} does not start here, or may not read our temporary files")
    return load
