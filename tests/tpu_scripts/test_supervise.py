"""The supervisor: preempted, failing, out of budget, interrupted, started again."""

from __future__ import annotations

import signal

import pytest

from tests.tpu_scripts.test_failures import BROKEN, QUOTA, announced, deletes

GIT = "--source=git+https://host/emojax"


def story(cloud) -> list[str]:
    """What changed something, in order."""
    resources = {f"resources {word}": word for word in ("create", "delete")}
    words = resources | {f"worker.sh {word}": word for word in ("install", "launch", "stop")}
    lines = (" ".join(call) for call in cloud.calls())
    return [word for line in lines for part, word in words.items() if part in line]


def supervise(cloud, *arguments: str, status: int = 0, **environment: str):
    return cloud.run("supervise.sh", "--budget=50", GIT, *arguments, status=status, **environment)


def test_preempted_in_the_middle_it_creates_anew_and_resumes(cloud):
    cloud.scenario(
        lives=[["ACTIVE", "ACTIVE", "SUSPENDED"], ["PROVISIONING", "ACTIVE"]],
        training=["NONE", "RUNNING", "NONE", "RUNNING", "DONE"],
    )
    done = supervise(cloud, "--spot", "--", "--set", "train.epochs=9")
    once = ["create", "install", "launch", "delete"]
    assert story(cloud) == [*once, *once]
    assert "emojax is SUSPENDED" in done.stderr
    launches = [call[-2] for call in cloud.calls("worker.sh launch")]
    assert len(launches) == 2
    assert all(line.endswith("--set train.epochs=9 --distributed --resume") for line in launches)
    assert all("--spot" in call for call in cloud.calls("resources create"))
    assert "Training is done" in done.stderr
    assert not cloud.exists()


@pytest.mark.parametrize("state", ["FAILED", "SUSPENDING", "DELETING"])
def test_every_state_without_slices_is_cleared_away(cloud, state):
    cloud.has(slices=True)
    cloud.scenario(lives=[[state], ["ACTIVE"]], training=["NONE", "DONE"])
    supervise(cloud)
    assert story(cloud) == ["delete", "create", "install", "launch", "delete"]


def test_workers_that_never_answer_are_replaced(cloud):
    cloud.has(slices=True)
    error = {"match": "worker.sh status", "times": 3, "message": "no answer"}
    cloud.scenario(errors=[error], training=["NONE", "DONE"])
    done = supervise(cloud)
    assert "three times" in done.stderr
    assert story(cloud) == ["delete", "create", "install", "launch", "delete"]


def test_it_goes_on_with_a_training_that_runs(cloud):
    cloud.has(slices=True)
    cloud.scenario(training=["RUNNING", "RUNNING", "DONE"])
    supervise(cloud)
    assert story(cloud) == ["delete"]


def test_a_training_that_fails_is_stopped_everywhere_and_launched_again_a_few_times(cloud):
    cloud.scenario(training=["NONE", "FAILED (1)"])
    done = supervise(cloud, "--max-crashes=3", status=1)
    relaunch = ["install", "stop", "launch"]
    assert story(cloud) == ["create", "install", "launch", *relaunch, *relaunch, "delete"]
    assert "3 failures in a row" in done.stderr
    assert not cloud.exists()


def test_installing_that_fails_is_not_paid_for_again_and_again(cloud):
    cloud.scenario(errors=[{"match": "worker.sh install", "message": "cannot write to gs://"}])
    done = supervise(cloud, status=1)
    assert story(cloud) == ["create", "install", "install", "install", "delete"]
    assert "Installing failed" in done.stderr


def test_without_a_price_there_is_no_budget(cloud):
    assert "give --price" in supervise(cloud, "--zone=mars-north1-a", status=2).stderr
    assert not cloud.calls()


def test_attempts_are_bounded(cloud):
    cloud.scenario(lives=[["SUSPENDED"]])
    done = supervise(cloud, "--max-attempts=2", status=1)
    assert story(cloud)[:4] == ["create", "delete", "create", "delete"]
    assert len(cloud.calls("resources create")) == 2
    assert "Given up after 2 attempts" in done.stderr
    assert not cloud.exists()


def test_no_capacity_is_waited_for_and_an_error_that_stays_is_not(cloud):
    cloud.scenario(
        errors=[{"match": "resources create", "times": 4, "message": QUOTA}],
        training=["NONE", "DONE"],
    )
    supervise(cloud)  # three tries make an attempt
    assert story(cloud)[:5] == ["create"] * 5
    cloud.scenario(errors=[{"match": "resources create", "message": "PERMISSION_DENIED"}])
    done = supervise(cloud, status=1)
    assert "roles/tpu.admin" in done.stderr
    assert "Nothing is left behind" in done.stderr


def test_the_budget_is_kept_over_several_calls(cloud):
    # An hour passes at every look at the clock.
    cloud.tool("date", f'n=$(cat {cloud.folder}/n 2>/dev/null || echo 0); echo $((n + 3600)) '
               f'| tee {cloud.folder}/n')  # fmt: skip
    cloud.scenario(training=["NONE", "RUNNING"])
    done = supervise(cloud, "--keep", status=4)
    assert "About USD 57.6000 of 50 spent, at USD 19.20 an hour" in done.stderr
    assert "The budget is spent" in done.stderr
    assert not cloud.exists()
    supervise(cloud, status=4)
    assert len(cloud.calls("resources create")) == 1  # nothing is begun on a spent budget
    done = supervise(cloud, "--budget=60", status=4)
    assert "About USD 76.8000 of 60 spent" in done.stderr
    assert len(cloud.calls("resources create")) == 2


def test_slices_are_kept_and_announced_where_the_user_wants_them(cloud):
    cloud.scenario(training=["NONE", "DONE"])
    assert deletes(cloud, supervise(cloud, "--keep").stderr)


def test_a_delete_that_fails_at_the_end_is_said_loudly(cloud):
    cloud.scenario(training=["NONE", "DONE"], stuck=True)
    done = supervise(cloud, status=1)
    assert "NOT DELETED" in done.stderr
    assert announced(done.stderr)[4:6] == ["delete", "emojax"]


def test_it_does_not_ask_for_ever(cloud):
    cloud.has(slices=True)
    cloud.scenario(errors=[{"match": "describe emojax", "message": BROKEN}])
    done = supervise(cloud, status=1)
    assert "ten times in a row" in done.stderr
    assert "(UNKNOWN)" in done.stderr


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("option", ["--no-delete-on-exit", "--delete-on-exit"])
@pytest.mark.parametrize("where", ["creating", "watching"])
def test_interrupted_it_announces_once_or_deletes(cloud, how, option, where):
    if where == "watching":
        cloud.has(slices=True)
    lives = {"creating": [["WAITING_FOR_RESOURCES"]], "watching": [["ACTIVE"]]}[where]
    sign = {"creating": "describe emojax", "watching": "worker.sh status"}[where]
    cloud.scenario(lives=lives, training=["RUNNING"])
    process = cloud.start("supervise.sh", "--budget=50", option, EMOJAX_POLL_SECONDS="20")
    times = {"creating": 3, "watching": 1}[where]
    done = cloud.interrupt(process, how, sign, times)
    assert done.returncode == 128 + how
    assert story(cloud) == ["create"] * (where == "creating") + ["delete"] * ("--delete" in option)
    if option == "--delete-on-exit":
        assert not cloud.exists()
    else:
        assert done.stderr.count("STILL THERE") == 1
        assert deletes(cloud, done.stderr)
