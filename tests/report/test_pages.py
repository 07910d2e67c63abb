"""Pages of reports as a browser shows them: on a phone, on paper, with nothing hidden, and nothing on the console."""

import math
from dataclasses import replace

import pytest
import torch
from matplotlib.image import imread
from torch import nn

import stability as st
from stability.report import CODES, Finding, Look
from tests.prose import says
from tests.report.chromium import chromium, measured, printed, started
from tests.report.pictured import PATH

pytestmark = pytest.mark.skipif(
    chromium() is None, reason="no chromium, chromium-browser or google-chrome is installed"
)

EVIL = '<script>alert("1")</script><img src=x onerror=alert(2)> $x$ & "'


def check(report, folder, most=4):
    """Hold a page against what a reader on a phone or with paper needs, and return what was measured."""
    page = report.to_html(folder / "page.html")
    assert page.stat().st_size < 1_000_000
    found = measured(page, folder)
    assert found["scripts"] == 0
    assert found["width"] <= 380, f"it is {found['width']} px wide on a phone"
    assert not found["faults"]
    assert found["texts"] > 30
    pages, said = printed(page, folder)
    assert not said
    assert 1 <= pages <= most, f"it takes {pages} pages of paper"
    return found


def plain(depth, width=32):
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(depth)), nn.Linear(width, 4))
    target = torch.arange(32) % 4
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    x = torch.randn(32, width)
    return st.examine(net, x, lambda y: nn.functional.cross_entropy(y, target), optimizer=optimizer)


@pytest.fixture(scope="module")
def report():
    return plain(40)


def test_the_page_of_a_perceptron(report, tmp_path):
    assert not report.healthy
    check(report, tmp_path)


def test_a_page_with_every_finding_and_hostile_names(report, tmp_path):
    name = EVIL + "very_long_name" * 10
    findings = [
        Finding(code, ("broken", "harmful", "watch")[k % 3], name, {EVIL: math.nan, "threshold": math.inf}, EVIL, EVIL)
        for k, code in enumerate(CODES)
    ]
    looks = [Look(code, EVIL, 10.0**k, 1.0, name) for k, code in enumerate(CODES)]
    layers = tuple(f"{EVIL}{k}" for k in range(len(report.profile.layers)))
    hostile = replace(
        report,
        title=EVIL,
        findings=tuple(findings),
        looked_at=tuple(looks),
        notes=(EVIL,) * 5,
        profile=replace(report.profile, layers=layers),
    )
    check(hostile, tmp_path, most=8)


def test_what_is_wrong_with_a_page_is_seen(report, tmp_path):
    page = report.to_html(tmp_path / "page.html")
    text = page.read_text()
    wrong = {
        "hidden": ('<p style="visibility: hidden">gone</p>', "hidden: gone"),
        "wide": ('<p style="width: 500px">so wide that it is beyond</p>', None),
        "beside": ('<p style="margin-left: -60px">cut</p>', "beside the page: cut"),
        "out": ('<svg viewBox="0 0 9 9" width="9"><text x="20" y="5">a</text></svg>', "outside of its figure: a"),
        "two": (
            '<svg viewBox="0 0 90 90" width="90"><text x="5" y="50">b</text><text x="5" y="50">c</text></svg>',
            "on one another: b, c",
        ),
    }
    page.write_text(text.replace("</main>", "".join(one for one, _ in wrong.values()) + "</main>"))
    found = measured(page, tmp_path)
    assert found["width"] > 380
    assert {words for _, words in wrong.values() if words} <= set(found["faults"])
    page.write_text(text.replace("</main>", "<script>console.log('here')</script>" + "<p>more</p>" * 400 + "</main>"))
    pages, said = printed(page, tmp_path)
    assert pages > 4
    assert any("here" in one for one in said)
    assert measured(page, tmp_path)["scripts"] == 1


def test_a_dark_page_is_dark(report, tmp_path):
    page = report.to_html(tmp_path / "page.html")
    shades = []
    for scheme in (0, 1):
        picture = tmp_path / f"{scheme}.png"
        dark = f"--blink-settings=preferredColorScheme={scheme}"
        started(page.as_uri(), tmp_path, dark, f"--screenshot={picture}", "--window-size=800,800")
        shades.append(float(imread(picture)[..., :3].mean()))
    assert shades[0] < 0.3
    assert shades[1] > 0.7


def test_the_picture_of_a_page_is_small_and_shown():
    assert PATH.stat().st_size < 300_000
    assert says(PATH.name)


@pytest.mark.slow
def test_the_page_of_three_hundred_layers(tmp_path):
    check(plain(300, 64), tmp_path)


@pytest.mark.zoo
@pytest.mark.filterwarnings("ignore")
def test_the_page_of_a_resnet(tmp_path):
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    net, x, target = torchvision.models.resnet18(), torch.randn(8, 3, 64, 64), torch.arange(8)
    report = st.examine(net, x, lambda y: nn.functional.cross_entropy(y, target))
    assert report.healthy
    check(report, tmp_path)


@pytest.mark.zoo
@pytest.mark.filterwarnings("ignore")
def test_the_page_of_a_language_model(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=200, n_layer=3, n_embd=48, n_head=4, n_positions=32)
    net, tokens = transformers.GPT2LMHeadModel(config), torch.randint(0, 200, (8, 16))

    def loss(output):
        return nn.functional.cross_entropy(output.logits[:, :-1].reshape(-1, 200), tokens[:, 1:].reshape(-1))

    report = st.examine(net, {"input_ids": tokens}, loss, optimizer=torch.optim.Adam(net.parameters(), 1e-3))
    assert report.healthy
    check(report, tmp_path)
