"""Results in a notebook: a table and a figure, well-formed, without script, and never an exception."""

import html
import pickle
import re
import tempfile
from fractions import Fraction
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import pytest
import torch
import xarray
from torch import nn

import stability as st
from stability.foundation.shown import Shown
from stability.report import result_page

EVIL = '<script>alert("1")</script> $x$ $ & "'
X = torch.linspace(-3, 3, 9, dtype=torch.float64)
VOID = {"br", "hr", "img", "meta", "link", "input"}
FIGURES = {
    "DepthCheck",
    "Spectrum",
    "Paths",
    "Propagation",
    "GradientNorms",
    "Units",
    "WatchRecord",
    "FirstFailures",
    "ForwardErrors",
    "Flow",
    "History",
    "PiecewiseLinear",
    "PiecewiseLinearSlice",
}


class Evil(nn.Sequential):
    pass


Evil.__name__ = EVIL


class WellFormed(HTMLParser):
    """Every element that opens is closed, in order, and none is a script or an event."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.words = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert tag != "script"
        assert not any(name.startswith("on") for name, _ in attrs)
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, *_):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def net(name, bad=False):
    torch.manual_seed(0)
    made = Evil()
    made.add_module(name, nn.Linear(5, 5))
    made.add_module("act", nn.Tanh())
    made.add_module("last", nn.Linear(5, 2))
    if bad:
        with torch.no_grad():
            made[0].weight[0, 0] = float("nan")
    return made.double()


def square(y):
    return y.square().mean()


def results(name):
    model, x = net(name), torch.randn(8, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    chain = st.Chain("plain_prelu", depth=64, seeds=5)
    fold = st.Chain("residual2_prelu", depth=5, seeds=4)
    s = st.spectrum(model, x, progress=False)
    with st.watch(model) as record:
        for _ in range(3):
            model(x).sum().backward()
    gradients = st.gradient_norms(model, x, lambda y: y.square().mean())
    return [
        s,
        s.self_check,
        st.paths(net(name), x, layers=[name, "act"], progress=False),
        st.leave_out(model, x, layers=[name, "act"]),
        st.hessian(model, x, lambda y: y.square().mean()),
        st.lyapunov(chain, torch.ones(1, dtype=torch.float64)),
        st.propagation(model, x),
        gradients,
        st.fit_growth(st.gradient_norms(chain, X, lambda y: y.square().mean(dim=1))),
        st.first_failure(model, x, formats=["float16"]),
        st.forward_error(model, x),
        st.units(model, x),
        record,
        st.watch_deaths(chain, X),
        st.train(fold, st.Task(torch.sin, (-3, 3)), iterations=5, progress=False),
        st.count(fold, (-3, 3)),
        st.restrict(st.tent(4), (0, 1)),
        st.restrict(
            nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1)), st.plane([0.0, 0.0], [3.0, 0.0], [0.0, 3.0])
        ),
        st.layers(model, x),
        st.depth_check(
            lambda depth: nn.Sequential(*(nn.Linear(5, 5) for _ in range(depth))), (2, 4), x.float(), square
        ),
        st.first_nonfinite(net(name, bad=True), x),
        st.sweep(failing, {"name": [name, "b"]}, tempfile.mkdtemp(), workers=0, progress=False),
        st.flow(st.Architecture("flow", skip=1, maps=2, activation="tanh", branch_power=-1), X, (5, 10), 3),
    ]


def failing(name):
    if name == "b":
        return xarray.Dataset({"y": 1.0})
    raise ValueError(name)


@pytest.fixture(scope="module")
def shown():
    return {type(one).__name__: one for one in results(EVIL)}


NAMES = [name for name in st.__all__ if isinstance(getattr(st, name), type) and issubclass(getattr(st, name), Shown)]


def test_every_result_is_among_these(shown):
    assert set(NAMES) == set(shown)
    with_datasets = {name for name in st.__all__ if hasattr(getattr(st, name), "to_dataset")}
    assert with_datasets <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_result_renders(shown, name):
    before = plt.get_fignums()
    text = shown[name]._repr_html_()
    page = WellFormed(text)
    assert not text.startswith("<pre>")
    assert "<script" not in text.lower()
    assert page.seen.count("tr") >= 2
    assert len(text) < 500_000
    assert (page.seen.count("svg") == 1) == (name in FIGURES)
    if name in FIGURES:
        (words,) = re.findall(r'role="img" aria-label="([^"]*)"', text)
        assert len(words) > 20
        assert "text" in page.seen, "text is drawn as paths"
        names = re.findall(r'\bid="([^"]+)"', text)
        assert len(names) == len(set(names)), "two elements have one name"
    assert text == shown[name]._repr_html_()
    assert plt.get_fignums() == before, "a notebook would show the figure once more"


@pytest.mark.parametrize(
    "name",
    [
        "Spectrum",
        "Paths",
        "LayerEffects",
        "Propagation",
        "GradientNorms",
        "ForwardErrors",
        "Layers",
        "FirstNonfinite",
        "WatchRecord",
    ],
)
def test_what_a_layer_is_called_stays_text(shown, name):
    text = shown[name]._repr_html_()
    assert "&lt;script&gt;" in text
    assert any(EVIL in words for words in WellFormed(text).words)


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_be_shown_is_its_repr(shown, name, monkeypatch):
    def fails(*_):
        raise RuntimeError("no picture")

    monkeypatch.setattr(result_page, "facts", fails)
    text = shown[name]._repr_html_()
    assert text == f"<pre>{html.escape(repr(shown[name]))}</pre>"
    WellFormed(text)


@pytest.mark.parametrize("name", sorted(FIGURES))
def test_what_cannot_be_drawn_is_its_repr(shown, name, monkeypatch):
    def fails(*_):
        raise RuntimeError("no picture")

    monkeypatch.setattr(result_page, "_drawn", fails)
    assert shown[name]._repr_html_() == f"<pre>{html.escape(repr(shown[name]))}</pre>"


def test_a_repr_that_raises_leaves_the_name():
    class Broken(Shown):
        def __repr__(self):
            raise ValueError

    Broken.__name__ = "<script>"
    assert Broken()._repr_html_() == "<pre>&lt;script&gt;</pre>"


def test_a_record_without_iterations_has_a_table():
    with st.watch(nn.Linear(2, 2)) as record:
        text = record._repr_html_()
    assert WellFormed(text).seen.count("svg") == 0
    assert "<table>" in text


def test_vectors_and_long_functions_have_a_table_alone():
    vector = st.PiecewiseLinear([0.0, 1.0, 2.0], [[0.0, 1.0], [1.0, 1.0], [0.0, 2.0]])
    assert "<table>" in vector._repr_html_()
    assert "<svg" not in vector._repr_html_()
    long = st.restrict(st.tent(12), (0, 1))  # 4096 pieces
    assert "<svg" not in long._repr_html_()


def test_a_deep_spectrum_stays_small():
    s = st.spectrum(st.Chain("plain_prelu", depth=600, seeds=3, width=12), torch.ones(1, 12, dtype=torch.float64))
    text = s._repr_html_()
    assert len(text) < 200_000
    assert "a choice of them" in text
    assert "600" in text


def test_results_without_anything_alive():
    chain = st.Chain("plain_relu", depth=200, seeds=4)
    x = torch.ones(2, dtype=torch.float64)
    for one in (st.spectrum(chain, x), st.gradient_norms(chain, x, lambda y: y.square().mean(dim=1))):
        text = one._repr_html_()
        WellFormed(text)
        assert "<table>" in text


def odd_results():
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(40, 3, 3, generator=generator, dtype=torch.float64)
    tokens = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(12, 2))
    t = torch.arange(6).reshape(2, 3)
    alone = net("one")
    with st.watch(alone[2:], parameters=True) as record:
        alone(torch.ones(2, 5, dtype=torch.float64)).sum().backward()
    yield st.spectrum(matrices)
    yield st.spectrum(matrices[:, None])
    yield st.spectrum(matrices).self_check
    yield st.spectrum(torch.zeros(3, 2, 2, dtype=torch.float64))
    yield st.lyapunov(matrices)
    yield st.gradient_norms(tokens, t, lambda y: y.square().mean())
    yield st.propagation(alone, torch.ones(1, 5, dtype=torch.float64))
    yield st.layers(nn.Sequential(*[nn.Linear(2, 2) for _ in range(99)]), torch.ones(1, 2))
    yield st.PiecewiseLinear([Fraction(0), Fraction(1, 3), Fraction(1)], [Fraction(0), Fraction(1), Fraction(1, 7)])
    yield st.count(st.Chain("plain_prelu", 3, seeds=1), (-1, 1))
    yield st.count(nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 2)), (-1.0, 1.0))
    yield st.forward_error(net("one"), torch.ones(2, 5, dtype=torch.float64), formats=["bfloat16"])
    yield record


def test_odd_results_have_a_table_too():
    for number, one in enumerate(odd_results()):
        text = one._repr_html_()
        WellFormed(text)
        assert "<table>" in text, (number, text)
        assert not re.search(r"\bnan\b", re.sub("<svg.*?</svg>", "", text, flags=re.DOTALL)), number


def test_a_result_is_as_it_was(shown):
    one = pickle.loads(pickle.dumps(shown["Propagation"]))
    assert one._repr_html_() == shown["Propagation"]._repr_html_()
    # In a notebook HTML would hide LaTeX, which says more.
    form = st.theory.lyapunov_exponent("plain_prelu", init="pytorch")
    assert not hasattr(form, "_repr_html_")
    assert form._repr_latex_().startswith("$")
