"""Nothing that costs money stays behind unannounced, whatever goes wrong."""

from __future__ import annotations

import shlex
import signal
import subprocess
import tarfile

import pytest

QUOTA = "ERROR: (gcloud.compute.tpus) RESOURCE_EXHAUSTED: no capacity in the zone, code 8"
BROKEN = "ERROR: something nobody has seen before"


def announced(err: str) -> list[str]:
    """The command that the last announcement names."""
    line = [line for line in err.splitlines() if line.startswith("STILL THERE, AND MAY COST")][-1]
    return shlex.split(line.split("Delete it with: ")[1])


def deletes(cloud, err: str, what: str = "slices") -> bool:
    """Whether the announced command deletes what is there."""
    assert cloud.exists(what)
    subprocess.run(announced(err), env=cloud.environment, check=True, timeout=20)
    return not cloud.exists(what)


def test_slices_that_were_made_are_announced_with_what_deletes_them(cloud):
    cloud.scenario(lives=[["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]])
    done = cloud.run("create.sh")
    assert "emojax: PROVISIONING" in done.stderr
    assert "(ACTIVE)" in done.stderr
    assert deletes(cloud, done.stderr)


@pytest.mark.parametrize(
    "message", [QUOTA, "HTTPError 429: rate", "code: 503 UNAVAILABLE", "DEADLINE_EXCEEDED"]
)
def test_errors_that_pass_are_tried_again_after_longer_and_longer(cloud, message):
    cloud.scenario(errors=[{"match": "queued-resources create", "times": 3, "message": message}])
    cloud.tool("sleep", f"echo $1 >> {cloud.folder}/sleeps")
    cloud.run("create.sh", EMOJAX_RETRY_SECONDS="100", EMOJAX_RETRIES="5")
    assert len(cloud.calls("queued-resources create")) == 4
    assert (cloud.folder / "sleeps").read_text().split() == ["100", "200", "300"]


def test_an_error_that_does_not_pass_ends_after_some_tries(cloud):
    cloud.scenario(errors=[{"match": "queued-resources create", "message": QUOTA}])
    done = cloud.run("create.sh", status=75)
    assert len(cloud.calls("queued-resources create")) == 3
    assert "try again later" in done.stderr
    assert "Nothing is left behind" in done.stderr


@pytest.mark.parametrize(
    ("message", "fix"),
    [
        ("PERMISSION_DENIED: Permission 'tpu.nodes.create' denied", "roles/tpu.admin"),
        ("Cloud TPU API has not been used in project 1 before", "gcloud services enable tpu"),
        ("Permission denied on 'locations/mars' (or it may not exist).", "tpus locations list"),
        ("NOT_FOUND: runtime version v9 not found", "tpu-vm versions list"),
        ("INVALID_ARGUMENT: accelerator type v5litepod-7 not found", "accelerator-types list"),
        ("RESOURCE_EXHAUSTED: Quota limit 'TPUS' has been exceeded. Limit: 0 in zone", "no quota"),
        ("You do not currently have an active account selected.", "gcloud auth login"),
        ("NOT_FOUND: network 'defalt' not found", "does not exist"),
        (BROKEN, "none known"),
    ],
)
def test_errors_that_stay_end_at_once_and_name_the_fix(cloud, message, fix):
    cloud.scenario(errors=[{"match": "queued-resources create", "message": message}])
    done = cloud.run("create.sh", status=1)
    assert len(cloud.calls("queued-resources create")) == 1
    assert message in done.stderr
    assert fix in done.stderr
    assert "Nothing is left behind" in done.stderr


@pytest.mark.parametrize("message", [BROKEN, QUOTA])
def test_slices_made_in_spite_of_an_error_are_found(cloud, message):
    error = {"match": "queued-resources create", "times": 1, "message": message, "done": True}
    cloud.scenario(errors=[error])
    done = cloud.run("create.sh")
    assert "is there all the same" in done.stderr
    assert deletes(cloud, done.stderr)


def test_a_request_that_is_there_is_not_made_twice(cloud):
    cloud.has(slices=True)
    assert "no second request" in cloud.run("create.sh").stderr
    assert not cloud.calls("queued-resources create")


def test_without_waiting_the_request_is_announced(cloud):
    cloud.scenario(lives=[["WAITING_FOR_RESOURCES"]])
    assert deletes(cloud, cloud.run("create.sh", "--no-wait").stderr)


@pytest.mark.parametrize("state", ["FAILED", "SUSPENDED"])
def test_a_request_that_came_to_nothing_is_announced_or_deleted(cloud, state):
    cloud.scenario(lives=[["ACCEPTED", state]])
    done = cloud.run("create.sh", status=75)
    assert f"({state})" in done.stderr
    assert deletes(cloud, done.stderr)
    cloud.run("create.sh", "--delete-on-exit", status=75)
    assert not cloud.exists()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_while_waiting_it_announces_or_deletes(cloud, how):
    cloud.scenario(lives=[["WAITING_FOR_RESOURCES"]])
    process = cloud.start("create.sh", EMOJAX_POLL_SECONDS="25")
    done = cloud.interrupt(process, how, "describe emojax", 2)
    assert done.returncode == 128 + how
    assert "(WAITING_FOR_RESOURCES)" in done.stderr
    assert deletes(cloud, done.stderr)

    process = cloud.start("create.sh", "--delete-on-exit", EMOJAX_POLL_SECONDS="25")
    done = cloud.interrupt(process, how, "describe emojax", 5)
    assert done.returncode == 128 + how
    assert "as --delete-on-exit says" in done.stderr
    assert not cloud.exists()


def test_when_google_does_not_answer_the_slices_are_announced_as_unknown(cloud):
    cloud.has(slices=True)
    cloud.scenario(errors=[{"match": "describe emojax", "message": BROKEN}])
    done = cloud.run("install.sh", "--source=git+https://host/emojax")
    assert "(UNKNOWN)" in done.stderr
    assert announced(done.stderr)[3:6] == ["queued-resources", "delete", "emojax"]


def test_a_worker_that_fails_is_named_and_all_others_are_heard(cloud):
    cloud.has(slices=True)
    message = "bash: uv: command not found\n##### Command execution on worker 2 failed"
    cloud.scenario(errors=[{"match": "ssh emojax-1", "message": message}])
    done = cloud.run("install.sh", "--slices=3", "--source=git+https://host/emojax", status=1)
    assert message in done.stderr
    assert "failed on a worker, which says why above" in done.stderr
    assert "failed on slice emojax-1" in done.stderr
    assert len(cloud.calls("worker.sh install")) == 3
    assert deletes(cloud, done.stderr)


def test_a_connection_that_drops_is_made_again(cloud):
    cloud.has(slices=True)
    error = {"match": "tpu-vm ssh", "times": 2, "message": "ssh: connect: Connection timed out"}
    cloud.scenario(errors=[error])
    cloud.run("install.sh", "--source=git+https://host/emojax")
    assert len(cloud.calls("worker.sh install")) == 3


def test_a_bucket_without_folders_is_refused_before_anything_is_paid_for(cloud):
    cloud.scenario(bucket="flat")
    assert "no hierarchical namespace" in cloud.run("create.sh", status=1).stderr
    assert not cloud.calls("queued-resources")


@pytest.mark.parametrize(
    ("training", "arguments", "status", "does"),
    [
        ("RUNNING", [], 3, []),
        ("RUNNING", ["--restart"], 0, ["stop", "launch"]),
        ("FAILED (1)", [], 0, ["stop", "launch"]),
        ("DONE", [], 0, ["launch"]),
    ],
)
def test_a_training_that_runs_is_not_started_twice(cloud, training, arguments, status, does):
    cloud.has(slices=True)
    cloud.scenario(training=[training])
    done = cloud.run("launch.sh", *arguments, status=status)
    commands = [call[-2].split("bash emojax-worker.sh ")[1] for call in cloud.calls("worker.sh")]
    assert [command.split()[0] for command in commands] == ["status", *does]
    assert deletes(cloud, done.stderr)


def test_one_failed_worker_is_a_failed_training(cloud):
    cloud.has(slices=True)
    cloud.scenario(training=["RUNNING"])
    assert "training: RUNNING" in cloud.run("status.sh").stderr
    cloud.scenario(training=["FAILED (1)"])
    assert "training: FAILED" in cloud.run("status.sh").stderr
    cloud.scenario(errors=[{"match": "worker.sh status", "message": BROKEN}])
    assert "training: LOST" in cloud.run("status.sh").stderr
    assert "not every worker" in cloud.run("launch.sh", status=1).stderr


def test_deleting_looks_until_the_slices_are_gone(cloud):
    cloud.has(slices=True)
    assert "Gone" in cloud.run("delete.sh").stderr
    assert not cloud.exists()
    assert "Gone" in cloud.run("delete.sh").stderr  # nothing there is as good as deleted


@pytest.mark.parametrize(
    "scenario",
    [{"errors": [{"match": "queued-resources delete", "message": BROKEN}]}, {"stuck": True}],
    ids=["refused", "never happens"],
)
def test_deleting_that_fails_is_said_loudly(cloud, scenario):
    cloud.has(slices=True)
    cloud.scenario(**scenario)
    done = cloud.run("delete.sh", status=1)
    assert "NOT DELETED" in done.stderr
    assert announced(done.stderr) == cloud.calls("delete")[0]


def test_results_are_fetched_without_slices(cloud):
    cloud.run("fetch.sh", "--out", "here")
    assert (cloud.folder / "here" / "demo").is_dir()
    assert not cloud.calls("tpus")


def test_a_cluster_made_in_spite_of_an_error_is_announced(cloud):
    error = {"match": "xpk cluster create", "message": "[XPK] PERMISSION_DENIED", "done": True}
    cloud.scenario(errors=[error])
    done = cloud.run("gke/cluster_create.sh", status=1)
    assert "roles/tpu.admin" in done.stderr  # xpk says its errors on standard output
    assert announced(done.stderr)[:3] == ["xpk", "cluster", "delete"]
    assert deletes(cloud, done.stderr, "cluster")


def test_a_cluster_without_capacity_is_tried_again(cloud):
    error = {"match": "xpk cluster create", "times": 2, "message": "[XPK] RESOURCE_EXHAUSTED"}
    cloud.scenario(errors=[error])
    cloud.run("gke/cluster_create.sh")
    assert len(cloud.calls("xpk cluster create")) == 3


def test_a_cluster_that_stays_is_said_loudly(cloud):
    cloud.has(cluster=True)
    cloud.scenario(stuck=True)
    assert "NOT DELETED" in cloud.run("gke/cluster_delete.sh", status=1).stderr


def test_the_checkout_that_is_copied_holds_what_git_tracks(cloud):
    cloud.has(slices=True)
    cloud.run("install.sh")
    (copy,) = cloud.calls("emojax-checkout.tar.gz")
    with tarfile.open(copy[5]) as archive:
        names = archive.getnames()
    assert {"pyproject.toml", "emojax/cli/__init__.py", "tpu_scripts/worker.sh"} <= set(names)
    assert not any(name.startswith((".git/", "build/", ".cache/")) for name in names)
