"""The command line as people meet it: what it prints, where, and with which exit status."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import emojax as package
from emojax.cli import main
from emojax.data.prepare import open_prepared
from tests.tiny_run import ENVIRONMENT, TinyRun, as_json, emojax, iemocap_content, on_terminal

COMMANDS = [
    "train", "evaluate", "predict", "finetune-text", "aot", "data", "data prepare", "data inspect",
    "config",
]  # fmt: skip
KEY = "Ses02F_impro02"


@pytest.fixture
def call(capfd) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line in this process: exit status, standard output and error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        status = main([str(argument) for argument in arguments])
        return status, *capfd.readouterr()

    return call


@pytest.fixture
def refuse(call) -> Callable[..., str]:
    """Asserts that a command fails with one line on standard error, and returns that line."""

    def refuse(*arguments: object) -> str:
        status, out, err = call(*arguments)
        assert (status, out) == (1, "")
        assert err.startswith("error: ")
        assert err.endswith("\n")
        assert err.count("\n") == 1
        assert "Traceback" not in err
        return err

    return refuse


def test_training_waits_for_nothing_that_reports_alone_need():
    program = "import sys, emojax.train.loop; print({'scipy', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "set()\n"), done.stderr


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_of_every_command(command: str, capfd):
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code == 0
    out, err = capfd.readouterr()
    assert out.startswith(f"usage: emojax {command}".rstrip())
    assert err == ""
    assert max(map(len, out.splitlines())) <= 100
    if command == "":
        assert all(name in out for name in ("train", "evaluate", "predict", "data", "config"))


def test_help_waits_for_no_heavy_import():
    program = """if True:
        import sys, time
        from emojax.cli import main
        try:
            main(["--help"])
        except SystemExit as stop:
            heavy = {"jax", "flax", "numpy", "tensorflow_datasets", "matplotlib", "orbax", "rich"}
            assert not heavy & set(sys.modules), heavy & set(sys.modules)
            assert time.process_time() < 1, time.process_time()
            sys.exit(stop.code)
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: emojax")


@pytest.mark.parametrize(
    "arguments",
    [[], ["nonsense"], ["train"], ["predict", "run", "file"], ["data"], ["evaluate", "r", "--x"]],
)
def test_wrong_usage_exits_with_2(arguments: list[str], capfd):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert "usage: emojax" in err


def test_the_version_is_the_packages(capfd):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capfd.readouterr().out == f"emojax {package.__version__}\n"


def test_config_lists_settings_and_survives_a_closed_pipe(call):
    status, out, err = call("config", "--model", "redifu_authors")
    assert (status, err) == (0, "")
    assert 'name = "redifu_authors"' in out
    assert "[train]" in out
    command = [sys.executable, "-m", "emojax", "config"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 1


def test_from_training_to_predictions(tiny_run: TinyRun, tmp_path: Path):
    """Nothing but what we print, whatever the libraries below would like to say."""
    assert tiny_run.stderr == ""
    lines = tiny_run.stdout.splitlines()
    assert [line.split()[:2] for line in lines[:2]] == [["epoch", "1/2"], ["epoch", "2/2"]]
    assert lines[2].startswith("Best validation weighted_f1: 0.")
    assert lines[2].endswith(f"Next: emojax evaluate {tiny_run.folder}")
    assert len(lines) == 3

    done = emojax("evaluate", tiny_run.folder)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads((tiny_run.folder / "report" / "report.json").read_text("utf-8"))
    assert report["provenance"]["test_reads"] >= 1
    lines = done.stdout.splitlines()
    assert lines[0] == "redifu on simulated, test split:"
    accuracy = report["splits"]["test"]["accuracy"]
    assert lines[1].split()[:2] == ["accuracy", f"{accuracy['value']:.4f}"]
    assert lines[-1] == f"Report: {tiny_run.folder / 'report' / 'report.html'}"
    assert Path(lines[-1].removeprefix("Report: ")).read_text("utf-8").startswith("<!DOCTYPE html>")

    done = emojax("predict", tiny_run.folder, tiny_run.source, "--out", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    files = [Path(line) for line in done.stdout.splitlines()]
    assert files == [tmp_path / "predictions.jsonl", tmp_path / "predictions.csv"]
    predicted = {
        content["conversation"]: content["utterances"]
        for content in map(json.loads, files[0].read_text("utf-8").splitlines())
    }
    test = [u for id in open_prepared(tiny_run.source).ids("test") for u in predicted[id]]
    right = np.mean([u["label"] == u["predicted"] for u in test])
    assert accuracy["value"] == pytest.approx(right)


def test_quiet_is_silent_even_on_a_terminal(tmp_path: Path):
    source, run = tmp_path / "features.pkl", tmp_path / "run"
    source.write_bytes(pickle.dumps(iemocap_content()))
    small = ["model.width=8", "model.heads=2", "model.encoder_layers=0", "model.graph_layers=0"]
    small += ["model.diffusion_steps=0", "train.epochs=1"]
    seen = on_terminal(
        "train", "--quiet", "--data", source, "--data-dir", tmp_path / "data", "--out", run,
        *(part for setting in small for part in ("--set", setting)),
    )  # fmt: skip
    assert seen == (0, "", "")
    assert (run / "metrics.jsonl").read_text().count("\n") == 2


def test_bad_conversations_set_aside_are_in_the_report(authors_run: TinyRun, call):
    assert authors_run.stderr == ""
    status, _, err = call("evaluate", authors_run.folder)
    assert (status, err) == (0, "")
    report = json.loads((authors_run.folder / "report" / "report.json").read_text("utf-8"))
    skipped = report["skipped"]
    assert skipped["count"] == len(skipped["items"]) == 2
    told = {name: text for text in skipped["items"] for name in ("Ses01F_impro01", "Ses05M_impro10")
            if name in text}  # fmt: skip
    for name, words in {
        "Ses01F_impro01": ("'text'", "NaN"), "Ses05M_impro10": ("'label'", "17", "is unknown"),
    }.items():  # fmt: skip
        assert str(authors_run.source) in told[name]
        assert all(word in told[name] for word in words)
    assert report["splits"]["test"]["dialogues"] == 5
    page = (authors_run.folder / "report" / "report.html").read_text("utf-8")
    assert "set aside" in page
    assert "Ses05M_impro10" in page


def _set(place: int, row: int, column: int, value: float) -> Callable[[list], None]:
    def corrupt(content: list) -> None:
        content[place][KEY][row][column] = value

    return corrupt


def _no_utterances(content: list) -> None:
    for field in content[:7]:
        field[KEY] = []


WRONG: dict[str, tuple[Callable[[list], None], str, str]] = {
    "NaN": (_set(3, 0, 1, np.nan), "text", "NaN features in utterance 0"),
    "infinite": (_set(4, 1, 0, -np.inf), "audio", "infinite features in utterance 1"),
    "too large": (_set(5, 0, 2, 1e39), "visual", "infinite features"),
    "shorter audio": (lambda c: c[4][KEY].pop(), "audio", "utterances where label has"),
    "longer words": (lambda c: c[6][KEY].append("more"), "transcript", "utterances where label"),
    "fewer speakers": (lambda c: c[1][KEY].pop(), "speaker", "utterances where label has"),
    "unknown label": (lambda c: c[2][KEY].__setitem__(0, 6), "label", "label 6 of utterance 0"),
    "no label": (lambda c: c[2][KEY].__setitem__(0, "sad"), "label", "'sad' is not a class index"),
    "unknown speaker": (lambda c: c[1][KEY].__setitem__(0, "X"), "speaker", "unknown speaker 'X'"),
    "no utterances": (_no_utterances, "", "it has no utterances"),
    "missing entry": (lambda c: c[3].pop(KEY), "text", "no entry for this dialogue"),
    "another width": (
        lambda c: c[5].__setitem__(KEY, [row[:2] for row in c[5][KEY]]), "visual", "2 wide"
    ),
    "ragged": (lambda c: c[5][KEY].__setitem__(0, [1.0]), "visual", "differ in width"),
    "words": (lambda c: c[3][KEY].__setitem__(0, list("abcde")), "text", "not a vector of real"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_values_never_train_and_can_be_set_aside(
    wrong: str, refuse, call, tmp_path: Path
):  # fmt: skip
    corrupt, field, problem = WRONG[wrong]
    content, source = iemocap_content(), tmp_path / "features.pkl"
    corrupt(content)
    source.write_bytes(pickle.dumps(content))
    data, run = tmp_path / "data", tmp_path / "run"
    error = refuse("train", "--data", source, "--data-dir", data, "--out", run)
    assert f"{source}, conversation '{KEY}'" in error
    assert problem in error
    assert not field or f"field '{field}'" in error
    assert not run.exists()
    assert refuse("data", "prepare", source, "--data-dir", data) == error
    assert not list(data.glob("emojax_*"))

    status, out, err = call("data", "prepare", source, "--data-dir", data, "--skip-bad")
    assert (status, err) == (0, "")
    assert "set aside: 1 bad" in out
    status, out, err = call("data", "inspect", data, "--json")
    assert (status, err) == (0, "")
    summary = json.loads(out)
    assert [error] == [f"error: {text}\n" for text in summary["skipped"]]
    assert sum(split["conversations"] for split in summary["splits"].values()) == 29


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


class _Hostile:
    def __reduce__(self):
        return exec, ("raise SystemExit('run by a pickle')",)


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: path.unlink(), "there is no such file"),
    "empty": (lambda path: path.write_bytes(b""), "the file is empty"),
    "cut": (_cut, "truncated"),
    "text": (lambda path: path.write_text("hello"), "the pickle is damaged"),
    "a number": (lambda path: path.write_bytes(pickle.dumps(3)), "unknown layout (int)"),
    "hostile": (lambda path: path.write_bytes(pickle.dumps(_Hostile())), "builtins.exec"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "a folder of an unknown layout"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_files_that_cannot_be_used(broken: str, refuse, tmp_path: Path):
    damage, problem = BROKEN[broken]
    # A name that would colour the terminal and break the line.
    source = tmp_path / "a\n\x1b[31mb.pkl"
    source.write_bytes(pickle.dumps(iemocap_content()))
    damage(source)
    error = refuse(
        "train", "--data", source, "--data-dir", tmp_path, "--out", tmp_path / "run", "--skip-bad"
    )
    assert problem in error
    assert "a \\x1b[31mb.pkl" in error
    assert not (tmp_path / "run").exists()
    assert problem in refuse("data", "inspect", source, "--json")


def test_a_damaged_preparation(refuse, call, tmp_path: Path):
    source = tmp_path / "features.pkl"
    source.write_bytes(pickle.dumps(iemocap_content()))
    assert call("data", "prepare", source, "--data-dir", tmp_path / "data")[0] == 0
    (record,) = (tmp_path / "data").rglob("*train*array_record*")
    whole = record.read_bytes()
    record.write_bytes(whole[: len(whole) // 2])
    error = refuse("data", "inspect", tmp_path / "data", "--json")
    assert str(record) in error
    record.unlink()
    arguments = ("train", "--data", record.parent, "--out", tmp_path / "run")
    assert f"{record}: the file is missing" in refuse(*arguments)


SETTINGS = {
    "model.width=15": "model.width",
    "model.width=-8": "model.width",
    "model.heads=true": "model.heads must be int",
    "model.nme=3": "model.nme is not a field; did you mean 'name'?",
    'model.name="gpt"': "model.name must be one of redifu, redifu_authors",
    "model.name=redifu_authors": "data.layout",
    "model.dropout=1.5": "model.dropout",
    "train.epochs=three": "train.epochs must be int",
    "train.epochs=0": "train.epochs",
    "train.learning_rate=nan": "train.learning_rate",
    "train.select=beauty": "train.select",
    "data.buckets=[]": "data.buckets",
    "data.buckets=[64,32]": "data.buckets",
    "data.buckets=[2048]": "data.buckets",
    "data.validation_fraction=2": "data.validation_fraction",
    "data.split_rule=mine": "split rule 'mine' is unknown",
    "data.overlong=cut": "data.overlong",
    "nonsense": "section.field=value",
    "train=3": "section.field=value",
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_impossible_settings(setting: str, refuse, tmp_path: Path):
    error = refuse(
        "train", "--set", setting, "--data-dir", tmp_path / "data", "--out", tmp_path / "run"
    )
    assert SETTINGS[setting] in error
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[model", "cannot be read as TOML"),
        ("data = 3", "data"),
        ("[data]\nsuorce = 'x'", "did you mean 'source'?"),
        ("[modle]\nwidth = 8", "modle is not a field"),
        (None, "cannot be read"),
    ],
)
def test_impossible_config_files(text: str | None, problem: str, refuse, tmp_path: Path):
    config = tmp_path / "config.toml"
    if text is not None:
        config.write_text(text)
    error = refuse("train", "--config", config, "--data", tmp_path / "x", "--out", tmp_path / "run")
    assert problem in error
    assert not (tmp_path / "run").exists()


def test_a_conversation_too_long_is_refused_before_there_is_a_run(
    tiny_run: TinyRun, refuse, tmp_path: Path
):
    error = refuse(
        "train", "--data", tiny_run.source, "--out", tmp_path / "run",
        "--set", "data.buckets=[5]", "--set", "data.overlong=error",
    )  # fmt: skip
    corpus = open_prepared(tiny_run.source)
    longest = corpus.ids("train")[int(corpus.lengths("train").argmax())]
    assert f"{tiny_run.source}, conversation '{longest}'" in error
    assert "set data.overlong = own_bucket" in error
    assert not (tmp_path / "run").exists()


AOT_SETTINGS = """
[data]
buckets = [16]
batch_utterances = 64
[model]
width = 16
heads = 2
graph_heads = 2
graph_layers = 0
diffusion_steps = 0
text_guidance = false
chain = false
delta = false
[train]
ema_decay = 0
"""
LARGE = ("--set", "model.width=16384", "--set", "model.graph_layers=0")
AOT: dict[str, tuple[tuple[str, ...], str]] = {
    "an unknown chip": (("v9:2x2",), "Name a chip (v4, v5e, v5p, v6e, v7x) and the sides of the"),
    "no sides": (("v5e",), "for example v5e:16x16"),
    "too many sides": (("v5e:2x2x1",), "a slice of v5e has 2 sides"),
    "too many chips": (("v5e:32x32",), "at most 256 chips"),
    "too few devices": (("v5e:4x4", "--mesh", "data=4,fsdp=2"), "cannot be laid over 16 devices"),
    "too many devices": (("v5e:2x2", "--mesh", "fsdp=8"), "cannot be laid over 4 devices"),
    "no such axis": (("v5e:2x2", "--mesh", "rows=4"), "mesh.rows is not a field"),
    "no size": (("v5e:2x2", "--mesh", "data"), "section.field=value"),
    "heads": (("v5e:4x4", "--mesh", "model=16"), "mesh.model must divide model.heads = 4"),
    "no widths": (("v5e:2x2", "--widths", "1,2"), "--widths must be 3 positive numbers"),
    "one class": (("v5e:2x2", "--classes", "1"), "two are needed"),
    "no corpus": (("v5e:2x2", "--data", "nowhere.pkl"), "nowhere.pkl: there is no such file"),
    "no room": (("v5e:2x2", *LARGE), "each device of v5e:2x2 has 16.00 GiB and would have to hold"),
    "no libtpu": (("v5e:2x2",), "TPU_LIBRARY_PATH is nowhere.so, and there is no such file"),
}


@pytest.mark.parametrize("wrong", AOT)
def test_slices_that_cannot_be_compiled_for(wrong: str, refuse, monkeypatch):
    """Nothing here gets as far as the compiler."""
    monkeypatch.setenv("TPU_LIBRARY_PATH", "nowhere.so")
    arguments, problem = AOT[wrong]
    assert problem in refuse("aot", "--topology", *arguments)


def test_a_step_compiled_for_a_slice(libtpu, call, tmp_path: Path):
    """The real step on four chips: kernels, rows and parameters divided; as a table and as JSON."""
    config, out = tmp_path / "tiny.toml", tmp_path / "new" / "aot.json"
    config.write_text(AOT_SETTINGS)
    status, printed, err = call(
        "aot", "--topology", "v5e:2x2", "--config", config, "--mesh", "data=2,fsdp=2",
        "--widths", "6,5,4", "--json", out,
    )  # fmt: skip
    assert (status, err) == (0, "")
    assert "v5e:2x2, mesh data 2, fsdp 2" in " ".join(printed.split())
    report = json.loads(out.read_text())
    (program,) = report["programs"]
    assert (program["rows"], program["length"]) == (4, 16)
    assert program["kernels"] == {
        "differential_attention": 2, "differential_attention_gradient": 2,
    }  # fmt: skip
    assert program["memory"]["total"] < report["device_memory"] == 16 << 30
    assert sum(report["needed"].values()) < program["memory"]["total"]
    said = program["collectives"]
    assert "all-gather fsdp" in said
    summed = [row["bytes"] for name, row in said.items() if name.startswith(("all-r", "reduce"))]
    assert sum(summed) >= 4 * report["parameters"]  # every gradient, over data or fsdp or both
    assert not {"sequence", "model", "others"} & {word for name in said for word in name.split()}
    assert "optimal_seconds" not in out.read_text()


def test_runs_that_are_in_the_way_or_not_there(tiny_run: TinyRun, refuse, tmp_path: Path):
    train = ("train", "--data", tiny_run.source, "--out")
    assert "holds a run already" in refuse(*train, tiny_run.folder)
    error = refuse(*train, tiny_run.folder, "--resume", "--set", "train.seed=4")
    assert "was started with other settings" in error
    (tmp_path / "file").write_text("in the way")
    assert "cannot be written here" in refuse(*train, tmp_path / "file")
    assert "cannot be written here" in refuse(*train, tmp_path / "file" / "run")
    for command in (["evaluate"], ["predict", "--out", tmp_path / "out"]):
        arguments = [tmp_path] if command[0] == "evaluate" else [tmp_path, tiny_run.source]
        assert f"{tmp_path}: there is no run here" in refuse(*command, *arguments)
    assert not (tmp_path / "out").exists()


def test_what_does_not_fit_the_model_is_not_predicted(
    tiny_run: TinyRun, call, refuse, tmp_path: Path
):
    corpus, out = open_prepared(tiny_run.source), tmp_path / "out"
    pickled, lines = tmp_path / "features.pkl", tmp_path / "lines.jsonl"
    pickled.write_bytes(pickle.dumps(iemocap_content()))
    error = refuse("predict", tiny_run.folder, pickled, "--out", out)
    assert f"{pickled}, field 'text': features are 5 wide. The model takes 6" in error
    content = json.loads(as_json(corpus.split("test")[0], corpus.signature))
    for field, value, problem in (
        ("text", [1, 2], "2 numbers. The model takes 6"),
        ("audio", [1, 2, float("nan"), 4, 5], "nan is not a finite"),
        ("label", "bored", "does not know 'bored'. Known are happy, sad"),
    ):
        utterances = [dict(utterance) for utterance in content["utterances"]]
        utterances[1][field] = value
        lines.write_text(json.dumps({"id": "one", "utterances": utterances}))
        error = refuse("predict", tiny_run.folder, lines, "--out", out)
        assert f"{lines}, conversation 'one', field 'utterances[1].{field}': line 1: " in error
        assert problem in error
    assert "unknown layout" in refuse("predict", tiny_run.folder, tmp_path, "--out", out)
    assert "No such file" in refuse("predict", tiny_run.folder, tmp_path / "x", "--out", out)
    assert not out.exists()

    with lines.open("a") as stream:
        stream.write("\n" + json.dumps(content))
    with warnings.catch_warnings(action="default"):
        status, printed, err = call("predict", tiny_run.folder, lines, "--out", out, "--skip-bad")
    assert status == 0
    assert printed.splitlines()[-1] == str(out / "skipped.json")
    assert err == f"warning: bad conversations set aside: 1, listed in {out / 'skipped.json'}\n"
    assert json.loads((out / "skipped.json").read_text())["count"] == 1


def test_an_error_of_a_real_process(tmp_path: Path):
    """No traceback and no chatter of libraries in a process of its own either."""
    content, source = iemocap_content(), tmp_path / "features.pkl"
    content[3][KEY][0][0] = np.nan
    source.write_bytes(pickle.dumps(content))
    run = tmp_path / "run"
    done = emojax("train", "--data", source, "--data-dir", tmp_path / "data", "--out", run)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {source}, conversation '{KEY}', field 'text': NaN")
    assert done.stderr.count("\n") == 1
    command = [sys.executable, "-m", "emojax", "data", "inspect", source]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"conversation '{KEY}'" in " ".join(done.stdout.split())
