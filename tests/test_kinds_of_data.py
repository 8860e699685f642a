"""The same commands on every kind of data: released images, faces as arrays and files, photographs, a table."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_data_layouts import Faces

pytestmark = pytest.mark.slow

SMALL = ["training.epochs=2", "training.compile=off"]
RNG = np.random.default_rng(0)


def pyro_vae(*arguments):
    """The answer of a command, which works as a user runs it."""
    command = [sys.executable, "-m", "pyro_vae", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout)


def olivetti(shared_data):
    path = Path(shared_data) / "olivetti" / "olivetti.npz"
    if not path.is_file():
        pytest.skip("PYRO_VAE_DATA holds no olivetti/olivetti.npz")
    return path


def mnist(folder, shared_data):
    return ["conv-digits", "data=mnist", "data.binarize=dynamic", "data.validation=59000"], (1, 28, 28)


def faces_as_arrays(folder, shared_data):
    words = ["face-grey", "data.name=arrays", f"data.path={olivetti(shared_data)}"]
    return [*words, "labels={glasses: {classes: 2, observed: always}}"], (1, 64, 64)


def faces_as_files(folder, shared_data):
    arrays = np.load(olivetti(shared_data))
    for i, (image, glasses) in enumerate(zip(arrays["images"], arrays["glasses"], strict=True)):
        (folder / ("with", "without")[glasses]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / ("with", "without")[glasses] / f"{i:03}.png")
    return ["face-grey", f"data.path={folder}", "labels={label: {classes: 2, observed: partly}}"], (1, 64, 64)


def colour_photographs(folder, shared_data):
    folder.mkdir()
    for i in range(60):
        size = tuple(RNG.integers(40, 90, 2))
        picture = Image.fromarray(RNG.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize(
            size, Image.Resampling.BICUBIC
        )
        picture.save(folder / f"{i}.{('jpg', 'png', 'webp')[i % 3]}")
    words = ["conv-digits", "data=folder", f"data.path={folder}", "data.size=[24, 32]", "likelihood=normal"]
    words += ["data.binarize=none"]
    return [*words, "training.batch_size=16"], (3, 24, 32)


def table(folder, shared_data):
    from sklearn.datasets import load_wine

    wine = load_wine(as_frame=True)
    path = folder.with_suffix(".csv")
    wine.data.assign(cultivar=wine.target_names[wine.target]).to_csv(path, index=False)
    words = ["vae-sigma", "data=arrays", f"data.path={path}", "data.labels=[cultivar]", "data.standardize=true"]
    return [*words, "labels={cultivar: {classes: 3, observed: never}}"], (13,)


@pytest.mark.parametrize("kind", [mnist, faces_as_arrays, faces_as_files, colour_photographs, table])
def test_every_command(kind, tmp_path, shared_data):
    words, shape = kind(tmp_path / "data", shared_data)
    run = tmp_path / "run"
    card = pyro_vae("train", *words, *SMALL, "--samples", 20, "--out", run)
    assert card["num_data"] > 0
    assert card["log_likelihood"]["standard_error"] > 0
    assert pyro_vae("evaluate", run, "--samples", 10, "--split", "validation")["split"] == "validation"
    n = card["num_data"]
    assert pyro_vae("encode", run)["arrays"]["mean_z"][0] == n
    assert pyro_vae("score", run, "--samples", 5)["arrays"]["log_likelihood"] == [n]
    assert pyro_vae("sample", run, "-n", 6)["arrays"]["mean"] == [6, *shape]
    assert pyro_vae("reconstruct", run, "-n", 4)["arrays"]["mean"] == [4, *shape]
    for name in ("samples.png", "reconstructions.png"):
        with Image.open(run / name) as picture:
            assert picture.size[0] > 50
    again = pyro_vae("train", "--resume", run, "--samples", 20)
    assert again["log_likelihood"] == card["log_likelihood"]


def test_labels_by_the_names_of_their_classes(tmp_path, shared_data):
    words, _ = table(tmp_path / "data", shared_data)
    run = tmp_path / "run"
    words[-1] = "labels={cultivar: {classes: 3, observed: always}}"
    pyro_vae("train", *words, *SMALL, "--samples", 5, "--out", run)
    for label in ("class_2", "2"):
        pyro_vae("sample", run, "--label", f"cultivar={label}", "--out", tmp_path / label)
    np.testing.assert_array_equal(*(np.load(tmp_path / f"{label}.npz")["mean"] for label in ("class_2", "2")))


def celeba(folder):
    Faces(folder, num_data=48)
    return ["data=celeba", f"data.root={folder}", "data.download=false", "data.validation=4"]


@pytest.mark.parametrize("on", ["celeba", "a folder"])
def test_faces_compared_by_features(on, tmp_path, shared_data):
    """No density: the card says so, and everything that needs none works; the attributes of celeba are label sites."""
    if on == "celeba":
        words = [*celeba(tmp_path / "data"), "labels={Smiling: {classes: 2}, Eyeglasses: {classes: 2}}"]
    else:
        words = colour_photographs(tmp_path / "data", shared_data)[0][2:3]
    run = tmp_path / "run"
    card = pyro_vae("train", "face", *words, "training.batch_size=8", *SMALL, "--out", run)
    assert card["log_likelihood"] is None
    n = card["num_data"]
    assert pyro_vae("encode", run)["arrays"]["mean_z"] == [n, 200]
    assert pyro_vae("reconstruct", run, "-n", 4)["arrays"]["mean"] == [4, 3, 64, 64]
    labels = ["--label", "Smiling=1", "--label", "Eyeglasses=0"] if on == "celeba" else []
    assert pyro_vae("sample", run, "-n", 6, *labels)["arrays"]["mean"] == [6, 3, 64, 64]
    with Image.open(run / "samples.png") as picture:
        assert picture.mode in ("RGB", "RGBA")
    assert pyro_vae("train", "--resume", run)["reconstruction"] == card["reconstruction"]


def test_celeba_with_its_attributes(tmp_path):
    """A density of its colours with attributes as labels: p(y | x) of every attribute."""
    run = tmp_path / "run"
    words = ["face-grey", *celeba(tmp_path / "data"), "data.dequantize=uniform", "training.batch_size=8"]
    words += ["labels={Smiling: {classes: 2, observed: partly, rule: guide}, Male: {classes: 2, observed: always}}"]
    card = pyro_vae("train", *words, *SMALL, "--samples", 5, "--out", run)
    assert card["log_likelihood"]["standard_error"] > 0
    found = pyro_vae("classify", run, "--samples", 3)
    assert found["arrays"]["probability_Smiling"] == [card["num_data"], 2]


def test_face_learns_faces(shared_data, tmp_path):
    """Reconstructions of other faces are nearer to them than the mean face is: half of its squared error."""
    words = ["face", "data.name=arrays", f"data.path={olivetti(shared_data)}", "training.epochs=20"]
    pyro_vae("train", *words, "--out", tmp_path / "run")
    pyro_vae("reconstruct", tmp_path / "run", "-n", 40)
    with np.load(tmp_path / "run" / "reconstructions.npz") as found:
        x, mean = found["x"], found["mean"]
    assert np.square(x - mean).mean() < 0.5 * np.square(x - x.mean(0)).mean()
