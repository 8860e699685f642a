"""Make the pictures of executed notebooks small: at most 256 colours, without what a page does not need.

    python analysis/compact_notebooks.py NOTEBOOK ...

Run after `pytest -n0 --nbmake --overwrite`; grey pictures and line drawings stay as they are to the eye.
"""

import base64
import io
import sys
from pathlib import Path

import nbformat
from PIL import Image


def compact(png):
    """A PNG (base64) in at most 256 colours, on white; the same one where that is no smaller."""
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGBA")
    flat = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    file = io.BytesIO()
    flat.quantize(256, dither=Image.Dither.NONE).save(file, "png", optimize=True)
    found = base64.b64encode(file.getvalue()).decode()
    return found if len(found) < len(png) else png


def main():
    for name in sys.argv[1:]:
        path = Path(name)
        notebook, before = nbformat.read(path, 4), path.stat().st_size
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)
            for output in cell.get("outputs", ()):
                if "image/png" in output.get("data", {}):
                    output["data"]["image/png"] = compact(output["data"]["image/png"])
        nbformat.write(notebook, path)
        print(f"{path}: {before / 1000:.0f} kB -> {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
