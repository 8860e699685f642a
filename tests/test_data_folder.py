"""The data set `folder`: images laid out flat, by class, and as train and test, and folders that are none of these."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_data import refusal

import pyro_vae as pv
from pyro_vae.data import DATA, Arrays, FolderData, load

pytestmark = pytest.mark.filterwarnings("error")


def filled(root: Path, *names: str, shape: tuple[int, ...] = (4, 5)) -> dict[str, np.ndarray]:
    """Images of these names in the folder; returns their pixels."""
    rng = np.random.default_rng(len(names))
    pixels = {name: rng.integers(0, 256, shape, dtype=np.uint8) for name in names}
    for name, array in pixels.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(root / name)
    return pixels


def read(root: Path, **fields: Any) -> Arrays:
    arrays = FolderData(path=str(root), **fields).read(0)
    assert arrays.levels == 256
    return arrays


def refused(root: Path, **fields: Any) -> list[str]:
    """The lines that refuse a folder."""
    lines = refusal(FolderData(path=str(root), **fields).read, 0).splitlines()
    assert all(line.startswith("data.path=") and line.endswith(".") for line in lines)
    return lines


def same(x: np.ndarray, pixels: dict[str, np.ndarray], *names: str) -> bool:
    """Whether x is the images of these names, in this order."""
    return np.array_equal(x, np.stack([pixels[name] for name in names])[:, None])


# --------------------------------------------------------------------------------------------------------- layouts


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    pixels = filled(tmp_path, "b.png", "a10.png", "a9.png", "C.png")
    arrays = read(tmp_path)
    assert same(arrays.x, pixels, "C.png", "a10.png", "a9.png", "b.png")
    assert not arrays.y
    assert not arrays.names
    assert arrays.test is None


def test_folders_are_classes(tmp_path: Path) -> None:
    pixels = filled(tmp_path, "dog/2.png", "dog/1.png", "cat/z.png", "cat/deep/er/a.png", "dog/a/1.png", "Ant/x.png")
    arrays = read(tmp_path)
    assert same(
        arrays.x, pixels, "Ant/x.png", "cat/deep/er/a.png", "cat/z.png", "dog/1.png", "dog/2.png", "dog/a/1.png"
    )
    assert arrays.y["label"].tolist() == [0, 1, 1, 2, 2, 2]
    assert arrays.names == {"label": ("Ant", "cat", "dog")}


def test_labels_follow_names_that_sort_around_a_slash(tmp_path: Path) -> None:
    pixels = filled(tmp_path, "a/1.png", "a-b/1.png", "a/2.png")  # "-" sorts before "/"
    arrays = read(tmp_path)
    assert same(arrays.x, pixels, "a-b/1.png", "a/1.png", "a/2.png")
    assert [arrays.names["label"][i] for i in arrays.y["label"]] == ["a-b", "a", "a"]


def test_train_and_test(tmp_path: Path) -> None:
    pixels = filled(tmp_path, "train/b/1.png", "train/a/1.png", "train/c/1.png", "test/c/7.png", "test/a/8.png")
    arrays = read(tmp_path)
    assert same(arrays.x, pixels, "train/a/1.png", "train/b/1.png", "train/c/1.png")
    assert same(arrays.test.x, pixels, "test/a/8.png", "test/c/7.png")
    assert arrays.y["label"].tolist() == [0, 1, 2]
    assert arrays.test.y["label"].tolist() == [0, 2]
    assert arrays.names == {"label": ("a", "b", "c")}


def test_flat_train_and_test(tmp_path: Path) -> None:
    pixels = filled(tmp_path, "train/1.png", "train/0.png", "test/0.png")
    arrays = read(tmp_path)
    assert same(arrays.x, pixels, "train/0.png", "train/1.png")
    assert same(arrays.test.x, pixels, "test/0.png")
    assert not arrays.y
    assert not arrays.test.y


def test_a_test_set_may_lack_labels(tmp_path: Path) -> None:
    filled(tmp_path, *(f"train/{word}/{i}.png" for word in "ab" for i in range(5)), "test/0.png")
    data = load(FolderData(path=str(tmp_path)))
    assert data.test.attributes["label"].tolist() == [-1]
    assert data.num_classes == {"label": 2}


@pytest.mark.parametrize("word", ["val", "valid", "validation"])
def test_validation_images_join_the_training_data(tmp_path: Path, word: str) -> None:
    pixels = filled(tmp_path, "train/a/1.png", f"{word}/b/1.png", "test/a/1.png")
    arrays = read(tmp_path)
    assert same(arrays.x, pixels, "train/a/1.png", f"{word}/b/1.png")
    assert arrays.y["label"].tolist() == [0, 1]
    assert len(arrays.test.x) == 1


def test_a_class_called_train_is_a_class(tmp_path: Path) -> None:
    filled(tmp_path, "train/1.png", "bus/1.png")
    assert read(tmp_path).names == {"label": ("bus", "train")}


def test_one_size_and_one_number_of_channels_for_train_and_test(tmp_path: Path) -> None:
    filled(tmp_path, "train/1.png")
    filled(tmp_path, "test/1.png", shape=(4, 5, 3))
    arrays = read(tmp_path)
    assert arrays.x.shape == arrays.test.x.shape == (1, 3, 4, 5)
    filled(tmp_path, "test/2.png", shape=(6, 5))
    assert "data.size" in refused(tmp_path)[0]


def test_every_suffix_in_capitals_or_not(tmp_path: Path) -> None:
    suffixes = ["png", "jpg", "jpeg", "bmp", "gif", "tif", "tiff", "webp", "ppm", "pgm", "pbm"]
    for i, suffix in enumerate(suffixes):
        image = Image.fromarray(np.full((4, 5), 9 * i, np.uint8)).convert("1" if suffix == "pbm" else "L")
        image.save(tmp_path / f"{i:02}.{suffix.upper() if i % 2 else suffix}")
    assert len(read(tmp_path, colour="grey").x) == len(suffixes)


def test_what_is_hidden_or_no_image_is_ignored(tmp_path: Path) -> None:
    pixels = filled(tmp_path, "cat/1.png", "cat/._1.png", "cat/.hidden/2.png", "__MACOSX/cat/1.png", ".git/x.png")
    for name in (".DS_Store", "Thumbs.db", "README.txt", "cat/labels.csv", "cat/desktop.ini", "__MACOSX/._cat"):
        (tmp_path / name).write_bytes(b"no image")
    arrays = read(tmp_path)
    assert same(arrays.x, pixels, "cat/1.png")
    assert arrays.names == {"label": ("cat",)}


def test_a_flat_folder_may_hold_folders_without_images(tmp_path: Path) -> None:
    pixels = filled(tmp_path, "1.png")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "x.txt").write_text("no image")
    assert same(read(tmp_path).x, pixels, "1.png")


def test_a_folder_may_be_called_like_an_image(tmp_path: Path) -> None:
    filled(tmp_path, "cat.png/1.png", "dog/1.png")
    assert read(tmp_path).names == {"label": ("cat.png", "dog")}


# ---------------------------------------------------------------------------------------------------------- fields


def test_size_fit_and_colour_reach_the_images(tmp_path: Path) -> None:
    filled(tmp_path, "1.png", "2.png", shape=(20, 40, 3))
    assert read(tmp_path, size=8).x.shape == (2, 3, 8, 8)
    assert read(tmp_path, size=[6, 9], colour="grey").x.shape == (2, 1, 6, 9)
    padded = read(tmp_path, size=(8, 8), fit="pad").x
    assert not padded[:, :, :2].any()
    assert padded[:, :, 3].any()


@pytest.mark.parametrize("size", [0, -1, 4097, [0, 5], [5, 4097], [5], [], [1, 2, 3], "64", 64.0, [64, 64.5], True])
def test_wrong_sizes_are_refused_in_one_line(size: Any) -> None:
    message = refusal(FolderData, size=size)
    assert message.endswith(": must be null, an integer from 1 to 4096, or two of them: [rows, columns].")
    assert message.startswith("size=")
    assert "\n" not in message


@pytest.mark.parametrize("size", [1, 4096, [1, 4096], (3, 4), None])
def test_right_sizes_survive_a_round_trip(size: Any) -> None:
    spec = FolderData(size=size)
    assert FolderData.model_validate_json(spec.model_dump_json()) == spec
    assert hash(spec) == hash(FolderData(size=size))


def test_other_wrong_fields_are_refused() -> None:
    assert "'crop', 'stretch' or 'pad'" in refusal(FolderData, fit="cut", size=3)
    assert "'auto', 'grey' or 'colour'" in refusal(FolderData, colour="gray")
    lines = refusal(FolderData, path="", fit="pad").splitlines()
    assert len(lines) == 2
    assert lines[0].startswith('path=""')
    assert "Set size" in lines[1]


def test_the_set_is_in_the_table_and_says_nothing_before_it_is_read() -> None:
    assert DATA["folder"] is FolderData
    assert FolderData(path="x").declared() is None
    experiment = pv.load_experiment("vae-sigma", ["data=folder", "data.path=x", "data.size=[3, 4]"])
    assert experiment.data == FolderData(path="x", size=(3, 4))


def test_located_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    pixels = filled(tmp_path / "home" / "faces", "1.png")
    assert FolderData(path="~/faces").located().path == str(tmp_path / "home" / "faces")
    assert FolderData(path="home/faces").located().path == str(tmp_path / "home" / "faces")
    assert FolderData().located() == FolderData()
    assert same(FolderData(path="~/faces").read(0).x, pixels, "1.png")


def test_load_splits_names_and_trains(tmp_path: Path) -> None:
    filled(tmp_path / "in", *(f"{word}/{i}.png" for word in ("left", "right") for i in range(30)), shape=(8, 8))
    spec = FolderData(path=str(tmp_path / "in"))
    data = load(spec)
    assert (len(data.train), len(data.validation), len(data.test)) == (49, 5, 6)
    assert (data.levels, data.shape, data.support) == (256, (1, 8, 8), "levels")
    assert data.names == {"label": ("left", "right")}
    assert data.train.x.dtype is torch.uint8
    small = ["encoder.widths=[8]", "decoder.widths=[8]", "latent.dim=2", "training.epochs=1", "training.batch_size=16"]
    experiment = pv.load_experiment("vae-sigma", ["data=folder", f"data.path={spec.path}", *small])
    run = pv.train(experiment, out=tmp_path / "run", quiet=True, num_samples=10)
    assert run.data.names == data.names


# -------------------------------------------------------------------------------------------------------- refusals


def test_a_path_is_needed() -> None:
    assert refusal(FolderData().read, 0).startswith("data.path=null: must be a folder")


def test_a_path_that_is_no_folder(tmp_path: Path) -> None:
    assert "there is no such folder" in refused(tmp_path / "absent")[0]
    assert "there is no such folder" in refused(tmp_path / "a\0b")[0]
    assert "there is no such folder" in refused(tmp_path / ("x" * 300))[0]
    filled(tmp_path, "1.PNG")
    assert "is one image. Name the folder" in refused(tmp_path / "1.PNG")[0]
    assert "there is no such folder" in refused(tmp_path / "1.PNG" / "x")[0]
    (tmp_path / "x.zip").write_bytes(b"PK")
    assert "unpack" in refused(tmp_path / "x.zip")[0]


def test_no_images(tmp_path: Path) -> None:
    (line,) = refused(tmp_path)
    assert "holds no images" in line
    assert ".pgm" in line
    assert "no files at all" in line
    (tmp_path / "cat").mkdir()
    for i in range(7):
        (tmp_path / "cat" / f"{i}.heic").write_bytes(b"x")
    (tmp_path / "x.zip").write_bytes(b"PK")
    (line,) = refused(tmp_path)
    assert line.count(".heic") + line.count("x.zip") == 5
    assert "and 3 others" in line
    assert "Unpack" in line


@pytest.mark.parametrize("inner", ["", "train/"])
def test_images_beside_folders_of_images(tmp_path: Path, inner: str) -> None:
    filled(tmp_path, f"{inner}stray.png", f"{inner}cat/1.png", f"{inner}dog/1.png")
    if inner:
        filled(tmp_path, "test/cat/1.png")
    (line,) = refused(tmp_path)
    assert "holds 1 images" not in line
    for word in ("1 image,", "stray.png", '"cat", "dog"', "Move"):
        assert word in line


def test_an_empty_class(tmp_path: Path) -> None:
    filled(tmp_path, "cat/1.png", "emu/.hidden.png")
    (tmp_path / "dog" / "deep").mkdir(parents=True)
    (tmp_path / "dog" / "deep" / "x.txt").write_text("no image")
    (line,) = refused(tmp_path)
    assert '"dog", "emu"' in line
    assert '"cat"' not in line


def test_a_class_that_train_lacks(tmp_path: Path) -> None:
    filled(tmp_path, "train/cat/1.png", "test/cat/1.png", "test/dog/1.png", "test/emu/1.png")
    (line,) = refused(tmp_path)
    assert '"dog", "emu"' in line
    assert 'which has "cat"' in line
    filled(tmp_path / "flat", "train/1.png", "test/dog/1.png")
    (line,) = refused(tmp_path / "flat")
    assert "no classes" in line


@pytest.mark.parametrize(
    "words", [("train",), ("test",), ("train", "val"), ("Train", "Test"), ("training", "testing"), ("TRAIN", "valid")]
)
def test_halves_of_a_split_are_no_classes(tmp_path: Path, words: tuple[str, ...]) -> None:
    filled(tmp_path, *(f"{word}/cat/1.png" for word in words))
    (line,) = refused(tmp_path)
    assert "not both of train and test" in line
    assert all(f'"{word}"' in line for word in words)


def test_what_may_not_be_beside_train_and_test(tmp_path: Path) -> None:
    filled(tmp_path, "train/1.png", "test/1.png", "extra/1.png", "stray.png")
    extra, stray = refused(tmp_path)
    assert '"extra" beside train and test' in extra
    assert "stray.png" in stray


def test_empty_and_unlike_parts(tmp_path: Path) -> None:
    filled(tmp_path, "train/cat/1.png")
    (tmp_path / "test").mkdir()
    (tmp_path / "val").mkdir()
    val, test = refused(tmp_path)
    assert f'"{tmp_path / "val"}" holds no images' in val
    assert f'"{tmp_path / "test"}" holds no images' in test
    filled(tmp_path, "val/1.png", "test/cat/1.png")
    (line,) = refused(tmp_path)
    assert '"train" has a folder for each class, and "val" has none' in line


def test_bad_images_are_named(tmp_path: Path) -> None:
    filled(tmp_path, "train/1.png", "test/1.png")
    (tmp_path / "train" / "2.png").write_bytes(b"")
    (tmp_path / "test" / "2.png").write_bytes((tmp_path / "test" / "1.png").read_bytes()[:-12])
    lines = refused(tmp_path)
    assert len(lines) == 2
    assert "train/2.png" in lines[0]
    assert "test/2.png" in lines[1]


def test_sizes_that_differ(tmp_path: Path) -> None:
    filled(tmp_path, "1.png")
    filled(tmp_path, "2.png", shape=(5, 5))
    (line,) = refused(tmp_path)
    assert "Set data.size" in line
    assert len(read(tmp_path, size=3).x) == 2


@pytest.mark.skipif(os.name == "nt", reason="names of files are text there")
def test_unprintable_names_of_classes(tmp_path: Path) -> None:
    filled(tmp_path, "a\nb/1.png", "c\udcffd/1.png", "good name é/1.png")
    (line,) = refused(tmp_path)
    assert '"a\\nb", "c\\udcffd"' in line
    assert "good" not in line


def test_a_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path, "cat/1.png", "dog/1.png")
    iterdir = Path.iterdir

    def denied(path: Path) -> Any:
        if path.name == "dog":
            raise PermissionError(13, "Permission denied")
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", denied)
    lines = refused(tmp_path)
    assert f'"{tmp_path / "dog"}" cannot be read (Permission denied)' in lines[0]


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    pixels = filled(tmp_path, "1.png")
    os.mkfifo(tmp_path / "2.png")  # to open it would wait for ever
    assert same(read(tmp_path).x, pixels, "1.png")


# ----------------------------------------------------------------------------------------------------------- links


def test_links_are_followed_within_the_folder(tmp_path: Path) -> None:
    pixels = filled(tmp_path / "in", "cat/1.png", "cat/2.png")
    (tmp_path / "in" / "cat" / "3.png").symlink_to("1.png")
    (tmp_path / "in" / "dog").symlink_to("cat")
    (tmp_path / "link").symlink_to("in")  # the folder itself may be a link
    for root in (tmp_path / "in", tmp_path / "link"):
        arrays = read(root)
        assert same(arrays.x, pixels, *(2 * ["cat/1.png", "cat/2.png", "cat/1.png"]))
        assert arrays.y["label"].tolist() == [0, 0, 0, 1, 1, 1]


def test_links_that_leave_or_lead_nowhere_or_back(tmp_path: Path) -> None:
    filled(tmp_path / "in", "cat/1.png")
    filled(tmp_path / "out", "1.png")
    inside = tmp_path / "in" / "cat"
    (inside / "nowhere.png").symlink_to("absent.png")
    (inside / "out.png").symlink_to(tmp_path / "out" / "1.png")
    (inside / "out").symlink_to("../../out")
    (inside / "up").symlink_to("..")
    (inside / "self.png").symlink_to("self.png")
    (inside / "notes.txt").symlink_to("/absent/notes.txt")  # no image, so nobody follows it
    lines = refused(tmp_path / "in")
    reasons = {line.split('the link "')[1].split('"')[0].rsplit("/")[-1]: line for line in lines}
    assert sorted(reasons) == ["nowhere.png", "out", "out.png", "self.png", "up"]
    assert "leads nowhere" in reasons["nowhere.png"]
    assert "leads nowhere" in reasons["self.png"]
    assert "leads out of the folder" in reasons["out.png"]
    assert "leads out of the folder" in reasons["out"]
    assert "leads back" in reasons["up"]


def test_links_in_a_circle(tmp_path: Path) -> None:
    filled(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "a" / "to_b").symlink_to("../b")
    (tmp_path / "b" / "to_a").symlink_to("../a")
    lines = refused(tmp_path)
    assert len(lines) == 2
    assert all("leads back" in line for line in lines)


def test_of_many_links_the_first_are_named(tmp_path: Path) -> None:
    filled(tmp_path / "out", "1.png")
    (tmp_path / "in").mkdir()
    for i in range(14):
        (tmp_path / "in" / f"{i:02}.png").symlink_to(tmp_path / "out" / "1.png")
    lines = refused(tmp_path / "in")
    assert len(lines) == 11
    assert "14 links cannot be followed" in lines[-1]
