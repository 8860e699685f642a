"""Omniglot and CelebA, whole and damaged."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_data import refusal
from test_data_released import RNG, agrees

from pyro_vae.data import CelebAData, OmniglotData, load
from pyro_vae.data.layouts import CELEBA_ATTRIBUTES

pytestmark = pytest.mark.filterwarnings("error")


# -------------------------------------------------------------------------------------------------- Omniglot


def write_omniglot(folder: Path, background: dict[str, int], evaluation: dict[str, int]) -> dict[str, np.ndarray]:
    """Alphabets with so many characters of two drawings each, black on white; returns the drawings."""
    drawings = {}
    for part, alphabets in (("images_background", background), ("images_evaluation", evaluation)):
        for alphabet, num_characters in alphabets.items():
            for i in range(1, num_characters + 1):
                for j in (2, 1):
                    path = folder / part / alphabet / f"character{i:02}" / f"{i:04}_{j:02}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    drawing = RNG.random((105, 105)) < 0.9
                    Image.fromarray(drawing).save(path)
                    drawings[f"{part}/{alphabet}/{i}/{j}"] = drawing
    return drawings


@pytest.mark.parametrize("below", ["omniglot-py", "omniglot", "omniglot/omniglot-py", "."])
def test_omniglot(tmp_path: Path, below: str) -> None:
    drawings = write_omniglot(tmp_path / below, {"Greek": 2, "Arcadian": 1}, {"Tengwar": 2})
    (tmp_path / below / "images_background" / ".DS_Store").write_text("")
    (tmp_path / below / "images_background" / "__MACOSX").mkdir()
    (tmp_path / below / "images_background" / "Greek" / "character01" / "._1.png").write_text("")
    spec = OmniglotData(root=str(tmp_path), download=False, size=105, validation=0)
    got = load(spec)
    order = [f"images_background/{name}/{j}" for name in ("Arcadian/1", "Greek/1", "Greek/2") for j in (1, 2)]
    assert np.array_equal(got.train.x[:, 0], [255 - 255 * drawings[name].astype(np.uint8) for name in order])
    assert got.train.attributes["alphabet"].tolist() == [0, 0, 1, 1, 1, 1]
    assert got.train.attributes["character"].tolist() == [0, 0, 1, 1, 2, 2]
    order = [f"images_evaluation/Tengwar/{i}/{j}" for i in (1, 2) for j in (1, 2)]
    assert np.array_equal(got.test.x[:, 0], [255 - 255 * drawings[name].astype(np.uint8) for name in order])
    assert got.test.attributes["alphabet"].tolist() == [2, 2, 2, 2]
    assert got.test.attributes["character"].tolist() == [3, 3, 4, 4]
    assert got.names["alphabet"] == ("Arcadian", "Greek", "Tengwar")
    assert got.names["character"][2:4] == ("Greek/character02", "Tengwar/character01")


def test_omniglot_is_resized(tmp_path: Path) -> None:
    write_omniglot(tmp_path / "omniglot-py", {"Greek": 1}, {"Tengwar": 1})
    path = tmp_path / "omniglot-py/images_background/Greek/character01/0001_01.png"
    drawing = np.ones((105, 105), bool)
    drawing[:, 50:58] = False  # a stroke from top to bottom
    Image.fromarray(drawing).save(path)
    got = load(OmniglotData(root=str(tmp_path), download=False, validation=0))
    x = got.train.x[0, 0].int()
    assert x.shape == (28, 28)
    assert (x[:, 14] == 255).all()
    assert (x[:, :12] == 0).all()
    assert abs(float(x.sum(1)[9]) / 255 - 28 * 8 / 105) < 0.1


def test_declared_omniglot_of_all_alphabets(tmp_path: Path) -> None:
    sizes = [32] * 29 + [36], [33] * 19 + [32]
    assert sum(sizes[0]) == 964
    assert sum(sizes[1]) == 659
    for part, counts in zip(("images_background", "images_evaluation"), sizes, strict=True):
        for i, count in enumerate(counts):
            for j in range(count):
                folder = tmp_path / part / f"{part}{i:02}" / f"character{j:02}"
                folder.mkdir(parents=True)
                Image.new("1", (5, 5), 1).save(folder / "0.png")
    assert agrees(OmniglotData(root=str(tmp_path), download=False), size=4)
    assert agrees(OmniglotData(root=str(tmp_path), download=False), size=5, binarize="threshold")


def test_damaged_omniglot(tmp_path: Path) -> None:
    write_omniglot(tmp_path, {"Greek": 3, "Latin": 1}, {"Tengwar": 1})
    spec = OmniglotData(root=str(tmp_path), download=False)
    bad = [
        tmp_path / "images_background/Greek/character01/0001_01.png",
        tmp_path / "images_evaluation/Tengwar/character01/0001_02.png",
    ]
    bad[0].write_bytes(bad[0].read_bytes()[:-30])
    bad[1].write_bytes(b"")
    message = refusal(load, spec)
    assert len(message.splitlines()) == 2
    assert all(str(path) in message for path in bad)

    for path in (tmp_path / "images_background/Latin/character01").iterdir():
        path.unlink()
    (tmp_path / "images_evaluation/Empty").mkdir()
    message = refusal(load, spec)
    assert "images_background/Latin/character01: has no .png files" in message
    assert "images_evaluation/Empty: has no folders of characters" in message
    assert len(message.splitlines()) == 2


def test_omniglot_in_half_and_of_nothing(tmp_path: Path) -> None:
    write_omniglot(tmp_path / "omniglot-py", {"Greek": 1}, {})
    spec = OmniglotData(root=str(tmp_path), download=False)
    assert f"{tmp_path}/omniglot-py lacks images_evaluation." in refusal(load, spec)
    (tmp_path / "omniglot-py/images_evaluation").mkdir()
    assert "images_evaluation: has no folders of alphabets" in refusal(load, spec)
    (tmp_path / "omniglot-py/images_evaluation").rmdir()
    (tmp_path / "omniglot-py/images_evaluation").write_text("")
    assert "images_evaluation: cannot be read (Not a directory)" in refusal(load, spec)


# ---------------------------------------------------------------------------------------------------- CelebA


class Faces:
    """A small CelebA: one image of one colour each; half the attributes differ."""

    def __init__(self, root: Path, num_data: int = 12) -> None:
        self.root, self.folder = root, root / "celeba"
        self.names = [f"{i + 1:06}.jpg" for i in range(num_data)]
        self.colours = RNG.integers(0, 256, (num_data, 3), dtype=np.uint8)
        self.values = (np.arange(num_data)[:, None] + np.arange(40)) % 2
        self.parts = [0, 0, 2, 1] * (num_data // 4)
        (self.folder / "img_align_celeba").mkdir(parents=True)
        for name, colour in zip(self.names, self.colours, strict=True):
            image = np.zeros((218, 178, 3), np.uint8)
            image[20:-20] = colour  # the rows above and below are cut off
            Image.fromarray(image).save(self.folder / "img_align_celeba" / name, quality=100, subsampling=0)
        rows = [f"{name} {' '.join(f'{2 * v - 1:2}' for v in row)}" for name, row in zip(self.names, self.values)]  # noqa: B905
        self.attributes = self.folder / "list_attr_celeba.txt"
        self.attributes.write_text("\n".join([str(num_data), " ".join(CELEBA_ATTRIBUTES) + " ", *rows]) + "\n")
        self.partition = self.folder / "list_eval_partition.txt"
        self.partition.write_text("".join(f"{n} {p}\n" for n, p in zip(self.names, self.parts)))  # noqa: B905

    def spec(self, **fields: Any) -> CelebAData:
        return CelebAData(root=str(self.root), download=False, validation=0, **fields)

    def change(self, path: Path, old: str, new: str) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))


@pytest.fixture
def faces(tmp_path: Path) -> Faces:
    return Faces(tmp_path)


def test_celeba(faces: Faces) -> None:
    got = load(faces.spec())
    train = [i for i, part in enumerate(faces.parts) if part < 2]
    test = [i for i, part in enumerate(faces.parts) if part == 2]
    for part, chosen in ((got.train, train), (got.test, test)):
        assert part.x.shape == (len(chosen), 3, 64, 64)
        expected = faces.colours[chosen].astype(int)[:, :, None, None]
        # At the border, what was cut off is within reach of the filter.
        assert np.abs(part.x.numpy() - expected)[:, :, 4:-4].max() <= 3
        assert list(part.attributes) == list(CELEBA_ATTRIBUTES)
        for j, name in enumerate(CELEBA_ATTRIBUTES):
            assert part.attributes[name].tolist() == faces.values[chosen, j].tolist()
    assert len(CELEBA_ATTRIBUTES) == len(set(CELEBA_ATTRIBUTES)) == 40
    assert agrees(faces.spec())
    assert agrees(faces.spec(), size=7)
    assert agrees(faces.spec().replace(root=str(faces.folder)))


def test_the_middle_of_the_faces_is_read(faces: Faces) -> None:
    image = np.zeros((218, 178, 3), np.uint8)
    image[20:198] = np.arange(178)[:, None, None]
    Image.fromarray(image).save(faces.folder / "img_align_celeba" / faces.names[0], quality=100, subsampling=0)
    x = faces.spec(size=178).read(0).x[0].astype(int)
    assert np.abs(x - np.arange(178)[:, None]).max() <= 3


def test_the_first_of_celeba(faces: Faces) -> None:
    for name in faces.names[4:]:
        (faces.folder / "img_align_celeba" / name).unlink()  # so that only those that are wanted need be there
    raw = faces.spec(limit=1).read(0)
    assert (len(raw.x), len(raw.test.x)) == (1, 1)
    assert abs(raw.test.x[0].mean((1, 2)) - faces.colours[2]).max() < 3
    assert "000005.jpg" in refusal(load, faces.spec(limit=4))


CHANGES: dict[str, tuple[str, str, str, str]] = {
    "one number less": ("attributes", "000003.jpg -1", "000003.jpg", "line 5 must hold the name of an image and 40"),
    "one number more": ("attributes", "000003.jpg", "000003.jpg 1", "line 5 must hold the name of an image and 40"),
    "a number that is neither": ("attributes", "000003.jpg -1", "000003.jpg  0", "line 5 must hold"),
    "an empty line": ("attributes", "000003.jpg", "\n000003.jpg", "it lists '12' images, and 13 follow"),
    "one image twice": ("attributes", "000003.jpg", "000002.jpg", "of which 1 are there twice"),
    "39 names": ("attributes", "Young", "", "names 39 attributes, and must name the 40 that were released, in their"),
    "another name": ("attributes", "Young", "Jung", "in one of them only: Jung, Young"),
    "names exchanged": ("attributes", "Bald Bangs", "Bangs Bald", "in their order. Delete"),
    "another number": ("attributes", "12\n", "13\n", "says that it lists '13' images, and 12 follow"),
    "part 3": ("partition", "000003.jpg 2", "000003.jpg 3", "line 3 must hold the name of an image and 0, 1 or 2"),
    "no part": ("partition", "000003.jpg 2", "000003.jpg", "line 3 must hold"),
    "an empty line between": ("partition", "000003.jpg", "\n000003.jpg", "line 3 must hold"),
    "one in two parts": ("partition", "000003.jpg", "000002.jpg", "of which 1 are there twice"),
    "another image": ("partition", "000003.jpg", "000099.jpg", "list different images: 000003.jpg, 000099.jpg in one"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_damaged_lists_of_celeba(faces: Faces, case: str) -> None:
    which, old, new, words = CHANGES[case]
    path = getattr(faces, which)
    faces.change(path, old, new)
    message = refusal(load, faces.spec())
    assert words in message
    assert str(path) in message or path.name in message
    assert "fetch" in message


def test_lists_of_celeba_that_are_no_lists(faces: Faces) -> None:
    faces.attributes.write_bytes(b"\xff\xfe\0\1")
    faces.partition.write_text("")
    message = refusal(load, faces.spec())
    assert f"{faces.attributes}: 'utf-8' codec" in message
    assert len(message.splitlines()) == 1
    faces.attributes.write_text("")
    faces.partition.write_text("<html>")
    message = refusal(load, faces.spec())
    assert "names 0 attributes" in message
    assert f"{faces.partition}: line 1 must hold" in message
    assert len(message.splitlines()) == 2


def test_a_list_of_celeba_that_was_cut(faces: Faces) -> None:
    text = faces.attributes.read_text()
    for length in range(0, len(text) - 4, 40):
        faces.attributes.write_text(text[:length])
        assert str(faces.attributes) in refusal(load, faces.spec())


@pytest.mark.parametrize("name", CelebAData().files())
def test_celeba_without_one_of_its_parts(faces: Faces, name: str) -> None:
    (faces.folder / name).rename(faces.folder / "elsewhere")
    assert f"{faces.folder} lacks {name}." in refusal(load, faces.spec())
    (faces.folder / name).write_text("") if name.startswith("img") else (faces.folder / name).mkdir()
    assert f"{faces.folder / name}: [Errno 2" in refusal(load, faces.spec())


def test_images_of_celeba_that_are_missing_or_in_no_list(faces: Faces, tmp_path: Path) -> None:
    images = faces.folder / "img_align_celeba"
    (images / "000002.jpg").rename(images / "000077.jpg")
    (images / "notes.txt").write_text("")
    message = refusal(load, faces.spec())
    assert "lacks images that are listed: 000002.jpg. Unpack" in message
    assert "holds images that are not listed: 000077.jpg. Take" in message
    for name in faces.names[2:]:
        (images / name).unlink()
    message = refusal(load, faces.spec())
    assert "000012.jpg" not in message
    assert "and others, 11 in all" in message
    assert len(message.splitlines()) == 2


def test_images_of_celeba_that_cannot_be_read(faces: Faces) -> None:
    images = faces.folder / "img_align_celeba"
    (images / "000001.jpg").write_bytes(b"no image")
    content = (images / "000003.jpg").read_bytes()
    (images / "000003.jpg").write_bytes(content[: len(content) // 2])
    message = refusal(load, faces.spec())
    assert len(message.splitlines()) == 2
    assert "000001.jpg" in message
    assert "000003.jpg" in message


def test_celeba_without_a_test_set(faces: Faces) -> None:
    faces.partition.write_text(faces.partition.read_text().replace(" 2", " 1"))
    assert "no image has 2, for testing" in refusal(load, faces.spec())
