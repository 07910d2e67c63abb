"""The site: it builds without a warning, names all that is public, and leads nowhere that is not there."""

import importlib.util
import os
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import stability as st

ROOT = Path(__file__).parents[2]
NEEDED = ("sphinx", "furo", "myst_parser", "sphinx_gallery", "sphinx_design", "sphinx_copybutton")
AS_TEXT = {"capture_output": True, "text": True, "check": False, "timeout": 550}
#: What a page loads by itself, and what a reader follows.
LOADED = {("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("video", "src"), ("audio", "src")}
FOLLOWED = {("a", "href")}
#: Links that load nothing.
POINTING = {"index", "search", "next", "prev", "canonical", "author", "copyright"}


class Page(HTMLParser):
    """What a page loads, what it leads to, and the places in it that others may lead to."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.links, self.places = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.places |= {given[key] for key in ("id", "name") if given.get(key)}
        for key, value in given.items():
            if value and key == "srcset":
                self.loads += [part.split()[0] for part in value.split(",")]
            elif value and ((tag, key) in LOADED or (tag, key) == ("link", "href")):
                resting = tag == "link" and set(given.get("rel", "").split()) <= POINTING
                (self.links if resting else self.loads).append(value)
            elif value and (tag, key) in FOLLOWED:
                self.links.append(value)


def from_outside(pages):
    """Return what pages load from elsewhere."""
    return [f"{path.name}: {url}" for path, page in pages.items() for url in page.loads if outside(url)]


def outside(url):
    parts = urlsplit(url)
    return bool(parts.netloc) or parts.scheme not in ("", "data")


def broken(pages):
    """Return the links and pictures of pages that lead to no file, and to no place in a page."""
    found = []
    for path, page in pages.items():
        for url in [*page.loads, *page.links]:
            parts = urlsplit(url)
            if outside(url) or parts.scheme == "data":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                found.append(f"{path.name}: {url} is no file")
            elif target in pages and parts.fragment and unquote(parts.fragment) not in pages[target].places:
                found.append(f"{path.name}: {url} is no place in it")
    return found


def read(folder):
    """Return the pages under a folder."""
    return {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.html"))}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} of the extra docs is not installed")
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for path in ROOT.iterdir():
        if path.name == "docs":  # what an earlier build has written beside the pages is left out
            shutil.copytree(path, source / "docs", ignore=shutil.ignore_patterns("generated", "_build", "sg_*"))
        elif not path.name.startswith("."):
            (source / path.name).symlink_to(path)
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", str(folder)]
    built = subprocess.run(command, cwd=source, env=os.environ | {"PYTHONPATH": str(ROOT)}, **AS_TEXT)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.mark.slow
def test_every_public_name_is_in_the_reference(site):
    from sphinx.util.inventory import InventoryFile

    with (site / "objects.inv").open("rb") as stream:
        inventory = InventoryFile.load(stream, "", lambda base, uri: base + uri)
    described = {name for kind, names in inventory.items() if kind.startswith("py:") for name in names}
    prefixes = {"stability.": st, "stability.plots.": st.plots, "stability.theory.": st.theory}
    public = {prefix + name for prefix, module in prefixes.items() for name in module.__all__}
    assert len(public) > 150
    missing = sorted(name for name in public if name not in described and not known_otherwise(name, described))
    assert not missing


def known_otherwise(name, described):
    """Whether a module or a datum is described where it is defined."""
    last = name.rpartition(".")[2]
    if name in ("stability.plots", "stability.theory", "stability.references"):
        return any(each.startswith(f"{name}.") for each in described)
    return last.isupper() and any(each.endswith(f".{last}") for each in described)


@pytest.mark.slow
def test_every_link_and_picture_is_there(site):
    pages = read(site)
    assert sum(len(page.links) for page in pages.values()) > 1000
    assert not broken(pages)


@pytest.mark.slow
def test_no_page_loads_anything_from_outside(site):
    pages = read(site)
    assert any("searchindex.js" in url for page in pages.values() for url in page.loads)
    assert not from_outside(pages)


@pytest.mark.slow
def test_the_tutorial_offers_notebooks_and_pictures(site):
    index = (site / "generated/tutorial/index.html").read_text(encoding="utf-8")
    chapters = sorted(path.stem for path in (ROOT / "docs/tutorial").glob("plot_*.py"))
    assert len(chapters) == 6
    places = [index.index(f"sphx_glr_{name}_thumb.png") for name in chapters]
    assert places == sorted(places)
    for name in chapters:
        page = (site / f"generated/tutorial/{name}.html").read_text(encoding="utf-8")
        assert f"{name}.ipynb" in page
        assert f"sphx_glr_{name}_001" in page


def test_what_is_broken_or_from_outside_is_found(tmp_path):
    (tmp_path / "a.html").write_text(
        '<h1 id="top"></h1><a href="b.html#here"></a><a href="#top"></a><a href="https://x.org"></a>'
        '<a href="c.html"></a><a href="b.html#gone"></a><img src="none.png"><script src="https://x.org/y.js"></script>'
        '<link rel="next" href="b.html"><link rel="stylesheet" href="//x.org/z.css"><img srcset="no.png 2x">',
        encoding="utf-8",
    )
    (tmp_path / "b.html").write_text('<p id="here"></p>', encoding="utf-8")
    pages = read(tmp_path)
    assert [line.split()[1] for line in broken(pages)] == ["none.png", "no.png", "c.html", "b.html#gone"]
    assert [line.split()[1] for line in from_outside(pages)] == ["https://x.org/y.js", "//x.org/z.css"]
