"""The chapters of the tutorial run as they are printed, and what their prose says is so."""

import contextlib
import io
import os
import re
import runpy
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

FOLDER = Path(__file__).parents[2] / "docs" / "tutorial"
CHAPTERS = sorted(FOLDER.glob("plot_*.py"))
#: The one that the default suite runs.
CHEAPEST = "plot_3_a_chain_folds"
NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?:e-?\d+)?")


def parts(path):
    """Return the prose of a chapter, on one line, and its code."""
    text = path.read_text(encoding="utf-8")
    head, _, body = text[4:].partition('\n"""\n')
    prose, code, inside = [head.split("\n\n", 1)[1]], [], False
    for line in body.splitlines():
        inside = line == "# %%" or (inside and line.startswith("#"))
        (prose if inside else code).append(line.lstrip("# ").replace("%%", "") if inside else line)
    return " ".join(" ".join(prose).split()), "\n".join(code)


def ran(path, folder):
    """Return the names that a chapter leaves, and what it prints."""
    before, printed = Path.cwd(), io.StringIO()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(printed), mpl.rc_context({"backend": "agg"}):
            names = runpy.run_path(str(path), run_name="__main__")
    finally:
        os.chdir(before)
    return names, printed.getvalue()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    done = {}

    def run(name):
        if name not in done:
            done[name] = ran(FOLDER / f"{name}.py", tmp_path_factory.mktemp(name))
        return done[name]

    return run


def marked(name, *values):
    return pytest.param(name, *values, marks=[] if name == CHEAPEST else pytest.mark.slow)


#: What the prose says, and how it is seen in the names that the chapter leaves.
SAID = {
    "plot_1_a_chain_dies": {
        "The share rises from layer to layer and none comes down": lambda n: (n["dead"].diff() >= 0).all(),
        "It agrees with theory": lambda n: all(
            abs(n["dead"][depth - 1] - theory.value) < 4 * (theory.value * (1 - theory.value) / 500) ** 0.5 + 1e-9
            for depth, theory in n["expected"].items()
        ),
        "An interval dies a little later": lambda n: all(n["dead"][d - 1] < 1 - 0.5**d for d in (1, 2, 3)),
        "Those that are born alive are not safe": lambda n: (n["records"][3].iteration_of_death >= 0).any(),
        "Training kills more members than it wakes": lambda n: (
            sum(int((record.iteration_of_death >= 0).sum()) for record in n["records"].values())
            > sum(int((record.revivals > 0).sum()) for record in n["records"].values())
        ),
        "The median member is the best constant": lambda n: all(
            abs(loss.median() - n["constant"]) < 1e-3 for loss in n["losses"].values()
        ),
        "cannot pass it": lambda n: all(loss.min() >= n["limit"] * (1 - 1e-9) for loss in n["losses"].values()),
        "comes near the best monotone function": lambda n: n["losses"][3].min() < 1.05 * n["limit"],
    },
    "plot_2_a_chain_only_grows": {
        "No member is below ``x`` at any point": lambda n: min(n["lowest"].values()) >= 0,
        "come to the limit and stay there at every depth": lambda n: all(
            n["limit"] * (1 - 1e-9) <= error < 1.01 * n["limit"] for error in n["best"].values()
        ),
        "is worse than a constant": lambda n: n["limit"] > n["constant"],
        "It goes below ``x``": lambda n: n["freed_rise"] < -1,
        "and far below the limit": lambda n: n["freed_loss"].min() < n["limit"] / 100,
    },
    "plot_3_a_chain_folds": {
        "Folds add up": lambda n: n["counts"][7].folds > n["counts"][1].folds,
        "the two turns of the sine appear": lambda n: n["counts"][7].turns == 2,
        "Grown chains have the sine's turns": lambda n: set(n["grown_counts"].turns) == {2},
        "smaller by orders of magnitude": lambda n: n["grown_loss"].median() < n["history"].best_loss.min() / 100,
        "and double it": lambda n: all(folds == 2**depth - 1 for depth, folds in n["tents"].items()),
        "The bound is 0 for the sine": lambda n: n["bounds"]["sin x"] == 0,
        "a bound for every depth": lambda n: n["bounds"]["x + 1.5 sin 3x"] > 0.9,
        "and training stays above it": lambda n: n["nearest"] > n["bounds"]["x + 1.5 sin 3x"],
    },
    "plot_4_prelu_solves_the_dying": {
        "With PReLU nothing is exactly 0": lambda n: n["zero"]["plain_prelu"] == n["zero"]["residual2_prelu"] == 0,
        "The residual ReLU chain is not dead even so": lambda n: n["zero"]["residual2_relu"] == 0,
        "a derivative that float32 cannot hold": lambda n: n["lost"]["plain_prelu"] == 1,
        "None dies, with ReLU or with PReLU": lambda n: not any(n["dead"].values()),
        "far above what it reached at the moderate one": lambda n: all(
            n["losses"][name, 300].median() > 100 * n["losses"][name, 30].median() for name in n["names"][2:]
        ),
        "a better fit than Adam has at any depth": lambda n: (
            n["deep_loss"].max() < min(loss.min() for loss in n["losses"].values())
        ),
    },
    "plot_5_why_the_plain_chain_fails": {
        "The errors are the same": lambda n: n["change"] < 1e-5,
        "far below the 1e-8": lambda n: n["gradients"]["as torch starts"] < 1e-12,
        "From torch's start no member gets anywhere": lambda n: (
            n["errors"]["as torch starts"].min() > 0.98 * n["constant"]
        ),
        "Without epsilon some do": lambda n: 0 < n["below"]["the same, epsilon 0"] < 0.5,
        "From signs most do": lambda n: n["below"]["signs"] > 0.5,
        "This chain trains": lambda n: n["held_loss"].max() < 0.2 * n["constant"],
        "stops where any monotone function must stop": lambda n: (
            n["limit"] * (1 - 1e-9) <= n["held_loss"].min() < 1.1 * n["limit"] and max(n["held_turns"]) == 0
        ),
        "Only negative slopes take it further": lambda n: (
            n["free_loss"].min() < n["limit"] / 10 and (n["free"].table()[..., 5] < 0).any(axis=1).all()
        ),
    },
    "plot_6_towards_infinite_depth": {
        "the members part by many decades": lambda n: decades_apart(n, "free") > 5,
        "keeps its order of magnitude": lambda n: all(
            abs(n["remaining"][name][-1].median()) < 1 and decades_apart(n, name) < 2 for name in ("1/sqrt(L)", "1/L")
        ),
        "The distance falls as the inverse of the depth": lambda n: abs(n["flow"].order.value - 1) < 0.01,
        "has no step with a negative slope and no turn": lambda n: (
            not any(n["steep"]["1/L, Adam"]) and not any(n["turns"]["1/L, Adam"])
        ),
        "It cannot pass the best monotone function": lambda n: n["errors"]["1/L, Adam"].min() > n["limit"],
        "The grown chain has both": lambda n: min(n["steep"]["free, grown"]) > 0 and min(n["turns"]["free, grown"]) > 0,
        "passes it by orders of magnitude": lambda n: n["errors"]["free, grown"].max() < n["limit"] / 100,
        "with a few such steps among many": lambda n: max(n["steep"]["free, grown"]) < 10,
    },
}


def decades_apart(names, case):
    last = names["remaining"][case][-1]
    return last.quantile(0.95) - last.quantile(0.05)


def test_there_are_six_chapters_and_what_each_says_is_held():
    assert [path.stem for path in CHAPTERS] == list(SAID)


@pytest.mark.parametrize(("name", "said"), [marked(name, said) for name, all_said in SAID.items() for said in all_said])
def test_what_a_chapter_says_is_so(name, said, runs):
    assert said in parts(FOLDER / f"{name}.py")[0], "the prose says something else"
    assert SAID[name][said](runs(name)[0])


@pytest.mark.parametrize("name", [marked(name) for name in SAID])
def test_a_chapter_prints_every_number_of_its_prose(name, runs):
    prose, code = parts(FOLDER / f"{name}.py")
    known = set(NUMBER.findall(code)) | set(NUMBER.findall(runs(name)[1])) | {"0", "2017"}
    assert set(NUMBER.findall(re.sub(r"``.*?``", "", prose))) <= known


@pytest.mark.parametrize("name", [marked(name) for name in SAID])
def test_a_chapter_draws_a_figure_with_a_headline_and_leaves_no_file(name, runs, tmp_path_factory):
    figures = [value for value in runs(name)[0].values() if isinstance(value, Figure)]
    assert figures
    assert all(figure.get_suptitle().endswith(".") for figure in figures)
    assert not any(any(folder.iterdir()) for folder in tmp_path_factory.getbasetemp().glob(f"{name}*"))


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_is_short_and_says_what_the_article_claims(path):
    prose, code = parts(path)
    assert 55 <= len(path.read_text(encoding="utf-8").splitlines()) <= 170
    assert "article" in prose
    assert re.search(r"\*\*.*(holds|refuted|refined).*?\*\*", prose)
    assert code.count("print(") >= 2
