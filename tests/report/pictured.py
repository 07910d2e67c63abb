"""The picture of a page of `examine`, as the site shows it: `python -m tests.report.pictured`."""

import tempfile
from pathlib import Path

import torch
from PIL import Image
from torch import nn

import stability as st
from tests.report.chromium import chromium, pictured

PATH = Path(__file__).parents[2] / "figures" / "examine_page.png"


def examined():
    """Return the report of the pictured network: fifty layers of tanh as torch starts them, which pass no gradient."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Sequential(nn.Linear(32, 32), nn.Tanh()) for _ in range(50)), nn.Linear(32, 4))
    x, target = torch.randn(64, 32), torch.arange(64) % 4
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    return st.examine(model, x, lambda y: nn.functional.cross_entropy(y, target), optimizer=adam)


def main():
    if chromium() is None:
        raise SystemExit("neither chromium nor google-chrome is installed")
    with tempfile.TemporaryDirectory() as folder:
        page = examined().to_html(Path(folder) / "page.html")
        pictured(page, Path(folder) / "page.png", Path(folder))
        with Image.open(Path(folder) / "page.png") as picture:
            picture.convert("RGB").quantize(64).save(PATH, optimize=True)
    print(f"wrote {PATH}, {PATH.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
