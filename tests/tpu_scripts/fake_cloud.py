"""Google Cloud, as far as the scripts can see it: gcloud, xpk, docker and kubectl in one program.

Called as `fake_cloud.py FOLDER TOOL ARGUMENTS...` by small wrappers on the PATH. FOLDER holds
`scenario.json` (what goes wrong), `state.json` (what exists) and `calls.jsonl` (what was called).

A scenario may have
  lives: for each queued resource in turn, the states that looking at it shows; the last one stays.
  training: what the workers say of the training, one after the other; the last one stays.
  errors: [{"match": part of a command, "times": how often, "message": ..., "done": true}]. With
    `done` the command takes effect all the same, as when only its answer was lost.
  stuck: deleting is accepted and never happens.
  bucket: null (made when asked), "flat" or "hierarchical".
"""

from __future__ import annotations

import fcntl
import json
import sys
from pathlib import Path

WORKERS = ("w-0", "w-1", "w-2", "w-3")


def main(folder: Path, command: list[str]) -> int:
    """Answers one call; returns its exit status."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        scenario = json.loads((folder / "scenario.json").read_text())
        path = folder / "state.json"
        state = json.loads(path.read_text()) if path.exists() else {}
        with (folder / "calls.jsonl").open("a") as calls:
            calls.write(json.dumps(command) + "\n")
        status = answer(command, scenario, state)
        path.write_text(json.dumps(state))
    return status


def answer(command: list[str], scenario: dict, state: dict) -> int:
    line = " ".join(command)
    used = state.setdefault("errors", {})
    for number, error in enumerate(scenario.get("errors", [])):
        if error["match"] in line and used.get(str(number), 0) < error.get("times", 10**6):
            used[str(number)] = used.get(str(number), 0) + 1
            if error.get("done"):
                act(line, scenario, state)
            # xpk says its errors on standard output.
            print(error["message"], file=sys.stdout if command[0] == "xpk" else sys.stderr)
            return 1
    return act(line, scenario, state)


def act(line: str, scenario: dict, state: dict) -> int:
    if "queued-resources create" in line:
        if state.get("slices"):
            return fail("ALREADY_EXISTS: Resource already exists")
        state["slices"] = True
        state["lives"] = state.get("lives", 0) + 1
        state["looks"] = 0
    elif "queued-resources delete" in line:
        if not state.get("slices"):
            return fail("NOT_FOUND: Resource not found")
        state["slices"] = bool(scenario.get("stuck"))
    elif "queued-resources describe" in line:
        if not state.get("slices"):
            return fail("ERROR: NOT_FOUND: Resource 'projects/p/queuedResources/q' was not found")
        lives = scenario.get("lives", [["ACTIVE"]])
        shown = lives[min(state["lives"], len(lives)) - 1]
        print(shown[min(state["looks"], len(shown) - 1)])
        state["looks"] += 1
    elif "worker.sh status" in line:
        answers = scenario.get("training", ["NONE"])
        slice_name = line.split("tpu-vm ssh ")[1].split()[0]
        asked = state.setdefault("asked", {})
        number = asked.get(slice_name, 0)
        asked[slice_name] = number + 1
        for worker in WORKERS:
            print(f"emojax-worker {answers[min(number, len(answers) - 1)]} {worker}")
    elif "buckets describe" in line:
        bucket = state.get("bucket") or scenario.get("bucket")
        if bucket is None:
            return fail("ERROR: gs://my-runs not found: 404.")
        print({"flat": "", "hierarchical": "True"}[bucket])
    elif "buckets create" in line:
        state["bucket"] = "hierarchical"
    elif "xpk cluster create" in line:
        state["cluster"] = True
    elif "xpk cluster delete" in line:
        state["cluster"] = bool(scenario.get("stuck"))
    elif "clusters describe" in line:
        if not state.get("cluster"):
            return fail("ERROR: ResponseError: code=404, message=Not found: projects/p/clusters/c.")
        print("RUNNING")
    return 0


def fail(message: str) -> int:
    print(message, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
