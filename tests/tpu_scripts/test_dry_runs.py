"""What each script would run: goldens, made anew by `python -m tests.tpu_scripts.test_dry_runs`."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.tpu_scripts.conftest import REPOSITORY, SCRIPTS, TOOLS, Cloud

GOLDENS = Path(__file__).parent.parent / "goldens" / "tpu_scripts"
PLACE = ["--project", "my-project", "--bucket", "my-runs"]
PROJECT = PLACE[:2]
IMAGE = ["--image", "example/emojax:1"]
CASES = {
    "estimate": [[], ["--type=v6e-64", "--zone=us-east5-b", "--slices=2", "--spot", "--hours=6"]],
    "create": [
        PLACE,
        [*PLACE, "--type=v5litepod-256", "--slices=4", "--spot", "--valid-for=2h"],
        [*PLACE, "--type=v6e-16", "--zone=us-east5-b", "--no-wait"],
        [*PLACE, "--type=v5p-32", "--service-account=worker@my-project.iam.gserviceaccount.com"],
        [*PLACE, "--type=v4-8", "--zone=us-central2-b", "--name=old"],
    ],
    "install": [PLACE, [*PLACE, "--slices=2", "--source=git+https://host/you/emojax@v1"]],
    "launch": [
        PLACE,
        [*PLACE, "--slices=2", "--run=big", "--config", "big.toml", "--restart",
         "--", "--set", "mesh.fsdp=16", "--set", "data.source=/mnt/emojax/my data"],
    ],
    "status": [PROJECT],
    "logs": [PROJECT, [*PROJECT, "--slices=2", "--slice=1", "--worker=all", "--no-follow"]],
    "fetch": [PLACE, [*PLACE, "--run=big", "--out=here", "--checkpoints"]],
    "delete": [PROJECT],
    "supervise": [
        [*PLACE, "--budget=40"],
        [*PLACE, "--budget=40", "--slices=2", "--spot", "--keep", "--", "--set", "mesh.fsdp=16"],
    ],
    "gke/image": [[*PROJECT, *IMAGE]],
    "gke/cluster_create": [PLACE, [*PLACE, "--slices=2", "--spot", "--", "--enable-pathways"]],
    "gke/workload_create": [
        [*PROJECT, *IMAGE],
        [*PROJECT, *IMAGE, "--slices=2", "--run=big", "--", "--config", "experiments/mosi.toml"],
    ],
    "gke/workload_list": [PROJECT],
    "gke/logs": [PROJECT, [*PROJECT, "--slice=1", "--worker=all", "--no-follow"]],
    "gke/workload_delete": [PROJECT],
    "gke/cluster_delete": [PROJECT],
}  # fmt: skip


# What has to be there for a script to find what its dry run supposes.
EXISTING = dict.fromkeys(("install", "launch", "status", "logs", "delete"), "slices")
EXISTING |= {name: "cluster" for name in CASES if name.startswith("gke/")}
del EXISTING["gke/cluster_create"]
TRAINING = {"launch": ["NONE"], "status": ["RUNNING"], "supervise": ["NONE", "DONE"]}


def rendered(script: str, folder: Path) -> str:
    """All cases of a script: each its command line and what a dry run of it prints."""
    cloud = Cloud(folder)
    (folder / "big.toml").touch()
    parts = []
    for arguments in CASES[script]:
        done = cloud.run(f"{script}.sh", "--dry-run", *arguments)
        assert not done.stderr, done.stderr
        parts.append(f"$ {script}.sh {shlex.join(['--dry-run', *arguments])}\n{done.stdout}")
    assert not cloud.calls(), "a dry run ran something"
    return "\n".join(parts).replace(str(REPOSITORY), "REPOSITORY")


def golden_of(script: str) -> Path:
    return GOLDENS / f"{script.replace('/', '_')}.txt"


def all_scripts() -> list[Path]:
    return sorted(path for path in SCRIPTS.rglob("*.sh"))


@pytest.mark.parametrize("script", CASES)
def test_a_dry_run_prints_the_golden(script, tmp_path):
    assert rendered(script, tmp_path) == golden_of(script).read_text(encoding="utf-8")


@pytest.mark.parametrize(("script", "case"), [(s, i) for s in CASES for i in range(len(CASES[s]))])
def test_what_a_dry_run_prints_is_what_runs(script, case, cloud):
    (cloud.folder / "big.toml").touch()
    arguments = CASES[script][case]
    printed = cloud.run(f"{script}.sh", "--dry-run", *arguments).stdout
    expected = [words for words in map(shlex.split, printed.splitlines()) if words[0] in TOOLS]
    cloud.scenario(training=TRAINING.get(script, ["NONE"]))
    cloud.has(**{EXISTING.get(script, "nothing"): True})
    cloud.run(f"{script}.sh", *arguments)
    called = cloud.calls()
    if any("--slices=2" in argument for argument in arguments):  # slices are called side by side
        assert sorted(called) == sorted(expected)
    else:
        assert called == expected


def test_every_script_has_a_golden_and_no_golden_is_left_over():
    commands = {str(path.relative_to(SCRIPTS).with_suffix("")) for path in all_scripts()}
    assert commands - {"lib", "cloud", "prices", "config.example", "worker"} == CASES.keys()
    assert {path.name for path in GOLDENS.iterdir()} == {golden_of(s).name for s in CASES}


@pytest.mark.parametrize("script", [*CASES, "worker"])
def test_help_teaches(script, cloud):
    environment = dict.fromkeys(("EMOJAX_PROJECT", "EMOJAX_BUCKET"), "")
    done = cloud.run(f"{script}.sh", "--help", **environment)
    assert done.stdout.startswith("usage: ")
    assert len(done.stdout.splitlines()) >= 5
    assert not cloud.calls()


def test_the_shell_is_clean():
    shellcheck = Path(sys.executable).parent / "shellcheck"
    command = [shellcheck, "--external-sources", "--source-path=SCRIPTDIR", *all_scripts()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--zonne=x"], "unknown option --zonne"),
        (["here"], "here is not an option"),
        (["--zone"], "--zone needs a value"),
        (["--slices=0"], "--slices must be a whole number from 1, not '0'"),
        (["--spot=maybe"], "--spot is true or false, not maybe"),
        (["--bucket=gs://my-runs"], "--bucket must be a bucket's name without gs://"),
        (["--type=v5litepod"], "--type must be like v5litepod-16"),
        (["--type=v9-8"], "--type v9-8 has no known --runtime"),
        (["--name=Big"], "--name must be small letters"),
        (["--settings=nowhere.sh"], "--settings: nowhere.sh is not there"),
    ],
)
def test_wrong_usage_is_refused_before_anything_runs(arguments, message, cloud):
    done = cloud.run("create.sh", *arguments, status=2)
    assert message in done.stderr
    assert not cloud.calls()


def test_what_is_missing_is_named(cloud):
    done = cloud.run("create.sh", status=2, EMOJAX_PROJECT="")
    assert "--project (or EMOJAX_PROJECT) is missing" in done.stderr
    assert "--budget" in cloud.run("supervise.sh", status=2).stderr
    assert "big.toml is not there" in cloud.run("launch.sh", "--config=big.toml", status=2).stderr
    assert "give --price" in cloud.run("estimate.sh", "--zone=mars-north1-a", status=2).stderr


def test_command_line_environment_and_settings_file_win_in_this_order(cloud):
    settings = Path(cloud.environment["EMOJAX_SETTINGS"])
    settings.write_text("EMOJAX_NAME=file EMOJAX_ZONE=file-a EMOJAX_TYPE=v5litepod-8\n")
    environment = {"EMOJAX_ZONE": "environment-b", "EMOJAX_NAME": "environment"}
    done = cloud.run("create.sh", "--dry-run", "--name=line", **environment)
    for part in ("--node-id=line", "--zone=environment-b", "--accelerator-type=v5litepod-8"):
        assert part in done.stdout


def test_the_example_of_settings_can_be_used(cloud):
    example = str(SCRIPTS / "config.example.sh")
    environment = {"EMOJAX_PROJECT": "", "EMOJAX_BUCKET": ""}
    done = cloud.run("create.sh", "--dry-run", "--settings", example, **environment)
    assert "--project=my-project " in done.stdout
    assert "gs://my-project-runs" in done.stdout


if __name__ == "__main__":
    for name in CASES:
        with tempfile.TemporaryDirectory() as temporary:
            golden_of(name).write_text(rendered(name, Path(temporary)), encoding="utf-8")
