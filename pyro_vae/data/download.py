"""Sets that others released: looked for in a folder, or downloaded into it by torchvision."""

import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar, Self

from pyro_vae.data.containers import Arrays
from pyro_vae.data.files import expanded
from pyro_vae.data.spec import DataSpec
from pyro_vae.specs import DeclarationError


class ReleasedData(DataSpec):
    """Abstract spec of a released set: what it is called, where it is looked for, and how it is downloaded."""

    title: ClassVar[str]
    """Name of the set, and of the class of torchvision that downloads it."""
    folders: ClassVar[tuple[str, ...]]
    """Folders below `root` that are looked in, the first that has all files is taken."""
    below: ClassVar[str] = "."
    """Folder below `root` that torchvision calls its root."""
    packed: ClassVar[bool] = False
    """Whether a file may be gzipped, and then ends in .gz."""
    archives: ClassVar[tuple[str, ...]] = ()
    """What the set comes in; it is unpacked by torchvision's download, or else by hand."""

    root: str | None = None
    """Folder that holds the set; default $PYRO_VAE_DATA or ~/.cache/pyro_vae."""
    download: bool = True
    """Whether to download the set into `root` where it is not there."""

    def located(self) -> Self:
        """The same, the root absolute where one is given; otherwise the environment says where."""
        found = super().located()
        return found.replace(root=str(expanded(found.root).absolute())) if found.root else found

    def place(self) -> Path:
        """The root: as declared, or as the environment says."""
        return expanded(self.root or os.environ.get("PYRO_VAE_DATA") or "~/.cache/pyro_vae")

    def files(self) -> tuple[str, ...]:
        """Names of the files and folders that make up the set."""
        raise TypeError(f"{type(self).__name__} names no files: define files() -> tuple[str, ...].")

    def download_calls(self) -> tuple[Mapping[str, object], ...]:
        """What torchvision's class is called with, once for each part that it downloads."""
        return ({},)

    def arrays(self, files: Sequence[Path], field: str) -> Arrays:
        """Read the set from its files; the lines of an error begin with `field`."""
        raise TypeError(f"{type(self).__name__} reads no files: define arrays(files, field) -> Arrays.")

    def looked_in(self) -> list[Path]:
        """Folders that may hold the set, in order."""
        return [self.place() / folder for folder in self.folders]

    def found(self) -> list[Path] | None:
        """The files, in the first folder that has them all; None where none has."""
        for folder in self.looked_in():
            files = [self._there(folder / name) for name in self.files()]
            if all(map(os.path.exists, files)):
                return files
        return None

    def _there(self, file: Path) -> Path:
        """The file, or the one of that name that ends in .gz where only that is there."""
        packed = file.with_name(f"{file.name}.gz")
        return packed if self.packed and os.path.isfile(packed) and not os.path.isfile(file) else file

    def read(self, seed: int) -> Arrays:
        """Find the files, or download them, and read them."""
        field, failure = f'data.root="{self.place()}"', "data.download is false"
        files = self.found()
        archives = [folder / name for folder in (self.place(), *self.looked_in()) for name in self.archives]
        archives = [archive for archive in archives if os.path.isfile(archive)]
        if files is None and archives:
            failure = f"{archives[0]} is not unpacked; unpack it in its folder"
        elif files is None and self.download:
            failure = self._downloaded()
            files = self.found()
        if files is None:
            raise DeclarationError([f"{field}: {self._not_found(failure)}"])
        return self.arrays(files, field)

    def _downloaded(self) -> str:
        """Download the set; says what came of it, which is of interest where it is still not there."""
        root = self.place()
        try:
            import torchvision.datasets

            root.mkdir(parents=True, exist_ok=True)
            # Beside its place and then moved there: what an interruption leaves is never taken for the set, and
            # nothing that was there before is written over.
            with TemporaryDirectory(prefix=".download-", dir=root) as folder, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with redirect_stdout(sys.stderr):
                    for call in self.download_calls():
                        getattr(torchvision.datasets, self.title)(str(Path(folder, self.below)), download=True, **call)
                _move(Path(folder), root)
        except Exception as error:  # of the network, the server, the disk, a damaged archive, a library that is missing
            return f"it cannot be downloaded ({' '.join(str(error).split())[:400] or type(error).__name__})"
        return "the download left none of it"

    def _not_found(self, failure: str) -> str:
        """What was looked for, where, why it is not there, and what to do."""
        names, gaps = self.files(), []
        for folder in self.looked_in():
            missing = [name for name in names if not os.path.exists(self._there(folder / name))]
            if len(missing) < len(names):
                gaps.append(f"{folder} lacks {', '.join(missing)}.")
        folders = ", ".join(str(folder) for folder in self.looked_in())
        words = [
            f"{self.title} is not there, and {failure}.",
            f"Looked for {', '.join(names)}{' (plain or .gz)' * self.packed} in {folders}.",
            *gaps,
            "Put them into one of these folders, or name the folder that has them: data.root=FOLDER, or the "
            "environment variable PYRO_VAE_DATA.",
        ]
        return " ".join(words)


def _move(source: Path, goal: Path) -> None:
    """Move what `goal` does not have yet."""
    for path in sorted(source.iterdir()):
        if path.is_dir() and (goal / path.name).is_dir():
            _move(path, goal / path.name)
        elif not os.path.lexists(goal / path.name):
            path.rename(goal / path.name)
