"""Several processes: what two do is what one does; and what happens when one is lost."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ranks
import torch

import pyro_vae as pv
from pyro_vae import cli, distributed, training
from pyro_vae.planning import choose_device, choose_threads
from pyro_vae.specs import DeclarationError

HERE = Path(__file__).parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
TWO = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def together(folder, *names):
    """Two processes that run `ranks.py`, without torchrun, which takes seconds; what each found."""
    ports = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    started = [
        subprocess.Popen(
            [sys.executable, str(HERE / "ranks.py"), str(folder), *names],
            env=os.environ | ports | {"RANK": str(rank), "WORLD_SIZE": "2"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        texts = [process.communicate(timeout=300)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], "\n".join(texts)
    return [json.loads((folder / f"found-{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A run that one process began, and what two processes found."""
    folder, plain = tmp_path_factory.mktemp("ranks"), training.bar
    training.bar = lambda *_, **__: ranks.Stopper(2)
    try:
        with pytest.raises(pv.Interrupted):
            pv.train(ranks.small(), out=folder / "single", quiet=True)
    finally:
        training.bar = plain
    return folder, together(folder)


@pytest.mark.parametrize("name", [name for name in ranks.CHECKS if name not in ranks.SLOW])
def test_two_processes(found, name):
    for of_rank in found[1]:
        assert of_rank.get(name) == "passed", of_rank.get(name, "not reached")


def test_what_two_began_one_ends(found):
    run = pv.resume(found[0] / "copy", quiet=True, num_samples=5)
    assert run.result["epochs"] == 3


def test_what_is_written_is_written_once(found):
    rows = pv.load(found[0] / "straight").metrics
    assert [(row["epoch"], row["split"]) for row in rows] == [
        (epoch, split) for epoch in (1, 2, 3) for split in ("train", "validation")
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_processes_compiled(tmp_path):
    for of_rank in together(tmp_path, *ranks.SLOW):
        assert set(of_rank.values()) == {"passed"}, of_rank


# ----------------------------------------------------------------------------------------------- one process


def test_a_single_process_meets_nobody(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert distributed.join() is distributed.ALONE
    assert distributed.described({"RANK": "0", "WORLD_SIZE": "1"}) is distributed.ALONE
    assert not torch.distributed.is_initialized()
    world = distributed.ALONE
    assert world.once(lambda: 3) == world.in_turn(lambda: 3) == world.largest(3) == world.agreement()(3) == 3
    assert world.seed(5) == 5
    assert world.speaks()


@pytest.mark.parametrize(("num", "size"), [(128, 3), (7, 7), (3, 5), (10, 1)])
def test_parts_are_all_of_it(num, size):
    parts = [distributed.World(rank, size).part(num) for rank in range(size)]
    assert [i for part in parts for i in part] == list(range(num))
    assert [len(part) for part in parts] == [len(part) for part in torch.arange(num).tensor_split(size)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"RANK": "one"}, "RANK=one, WORLD_SIZE=2 are no numbers of processes; start the processes with torchrun"),
        ({"RANK": "2"}, "RANK=2 is none of WORLD_SIZE=2 processes"),
        ({"MASTER_PORT": None}, "do not say where they meet"),
    ],
)
def test_an_environment_that_makes_no_sense(words, said):
    environment = {name: word for name, word in (TWO | words).items() if word is not None}
    with pytest.raises(DeclarationError, match=said):
        distributed.described(environment)


def test_a_notebook_is_one_process(monkeypatch):
    IPython = pytest.importorskip("IPython")  # noqa: N806
    monkeypatch.setattr(IPython, "get_ipython", lambda: object())
    with pytest.raises(DeclarationError, match="a notebook is one process"):
        distributed.described(TWO)


def test_a_gpu_for_each(monkeypatch):
    for name, word in TWO.items():
        monkeypatch.setenv(name, word)
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda", 1)
    assert chosen == [1, 1]
    with pytest.raises(DeclarationError, match=r"training.device='cuda:0': is one GPU, for 2 processes"):
        choose_device("cuda:0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(DeclarationError, match="2 processes and 1 GPU here; start torchrun with --nproc-per-node 1"):
        choose_device("auto")
    assert choose_device("cpu").type == "cpu"


def test_processes_share_the_cores(monkeypatch):
    experiment = ranks.small("encoder.widths=[2000, 2000]", "training.batch_size=1000")
    vae = ranks.build(experiment, ranks.load(experiment.data), torch.device("cpu"))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert choose_threads(experiment, vae) == 8
    for name, word in TWO.items():
        monkeypatch.setenv(name, word)
    assert choose_threads(experiment, vae) == 4
    monkeypatch.setenv("OMP_NUM_THREADS", "8")  # of each
    assert choose_threads(experiment, vae) == 8


@pytest.mark.parametrize("rank", ["0", "1"])
def test_other_commands_are_the_first_ones_alone(monkeypatch, capsys, rank):
    for name, word in (TWO | {"RANK": rank}).items():
        monkeypatch.setenv(name, word)
    assert cli._guarded(["list"]) == 0
    assert ("autoencoder" in capsys.readouterr().out) == (rank == "0")
    assert distributed.described() is distributed.ALONE  # so that nothing below waits for another


# --------------------------------------------------------------------------------------------------- torchrun


def start(folder, *words):
    command = [*TORCHRUN, "-m", "pyro_vae", "train", "digits", *ranks.SMALL, "training.epochs=4000"]
    command += ["training.compile=off", *words, "--samples", "5", "--quiet", "--out", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(600):
        if (folder / "metrics.jsonl").exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    assert process.poll() is None, process.communicate()
    return process


def spoken(text):
    return [line for line in text.splitlines() if line.startswith("pyro-vae:")]


def process_of(parent, rank):
    """The process of a rank that torchrun started."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            own = path.joinpath("stat").read_text().rpartition(")")[2].split()[1] == str(parent)
            if own and f"RANK={rank}".encode() in path.joinpath("environ").read_bytes().split(b"\0"):
                return int(path.name)
        except OSError:
            continue
    raise LookupError(f"no process of rank {rank}")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_ends_the_others(tmp_path, rank):
    process = start(tmp_path / "run")
    os.kill(process_of(process.pid, rank), signal.SIGKILL)
    _, text = process.communicate(timeout=60)
    assert process.returncode != 0
    (line,) = spoken(text)
    assert f"rank {rank} of 2 was lost" in line
    assert f"train --resume {tmp_path / 'run'}" in line
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    _, state = ranks.weights(tmp_path / "copy")
    assert state["step"] >= 0
    experiment = (tmp_path / "copy" / "experiment.yaml").read_text()
    epochs = state["epoch"] + 2
    (tmp_path / "copy" / "experiment.yaml").write_text(experiment.replace("epochs: 4000", f"epochs: {epochs}"))
    assert pv.resume(tmp_path / "copy", quiet=True, num_samples=5).result["epochs"] == epochs


@pytest.mark.slow
def test_sigterm_stops_all_and_resumes(tmp_path):
    process = start(tmp_path / "run")
    process.send_signal(signal.SIGTERM)
    _, text = process.communicate(timeout=60)
    assert process.returncode != 0
    (line,) = spoken(text)
    assert "stopped by SIGTERM; the state is saved" in line
    state = ranks.weights(tmp_path / "run")[1]
    path = tmp_path / "run" / "experiment.yaml"
    path.write_text(path.read_text().replace("epochs: 4000", f"epochs: {state['epoch'] + 1}"))
    command = [*TORCHRUN, "-m", "pyro_vae", "train", "--resume", str(tmp_path / "run"), "--samples", "5", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["epochs"] == state["epoch"] + 1, done.stderr


@pytest.mark.slow
def test_commands_under_torchrun(tiny_run, tmp_path):
    """One card, one verdict, one list; one message for a mistake."""

    def run(*words):
        command = [*TORCHRUN, "-m", "pyro_vae", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    copy = shutil.copytree(tiny_run, tmp_path / "copy")
    expected = pv.load(copy).evaluate("test", 20)
    card = json.loads(run("evaluate", copy, "--samples", 20, "--json").stdout)
    assert {name: card[name] for name in ("elbo", "log_likelihood", "khat")} == {
        name: expected[name] for name in ("elbo", "log_likelihood", "khat")
    }
    done = run("diagnose", copy, "--budget", 60, "--observations", 5, "--json")
    assert "statements" in json.loads(done.stdout), done.stderr
    numbers = json.loads((copy / "diagnostics.json").read_text())
    assert len(numbers["observations"]) == 5
    assert {"importance", "reference", "annealing", "gaps"} <= numbers["sizes"].keys()
    assert run("list").stdout.count("autoencoder-l2") == 1
    done = run("train", "digits", "latent.dim=0")
    assert len(spoken(done.stderr)) == 1
    assert done.returncode != 0
