"""Planted faults are found where they are, healthy networks are left alone, and the report says so on every medium."""

import copy
import dataclasses
import json
import math
import os
import re
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

import stability as st
from stability.report import CODES, Look, Trial
from stability.report.commands import main
from tests.report.healthy import COUNT, healthy
from tests.report.planted import ALL, examined, is_right


def small(depth=4, width=16, act=nn.ReLU):
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Sequential(nn.Linear(width, width), act()) for _ in range(depth)))


@pytest.fixture(scope="module")
def report():
    net = small(30, 32)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    return st.examine(net, torch.randn(32, 32), lambda y: y.square().mean(), optimizer=optimizer)


def check_planted(number):
    truth = ALL[number]()
    found = examined(truth).findings
    right = [one for one in found if is_right(one, truth)]
    assert right, f"{truth.name}: {truth.code} in {truth.layer} is not among {[(f.code, f.layer) for f in found]}"
    assert "threshold" in right[0].evidence


def check_healthy(number):
    name, sample, optimizer = healthy(number)
    report = st.examine(sample.net, sample.x, sample.loss, optimizer=optimizer)
    assert report.healthy, f"{name}: {[str(f) for f in report.findings]}"


TENTH = set(range(0, len(ALL), 10))
HEALTHY_TENTH = set(range(0, COUNT, 10))


@pytest.mark.parametrize("number", sorted(TENTH))
def test_a_planted_fault_is_found_in_its_layer(number):
    check_planted(number)


@pytest.mark.slow
@pytest.mark.parametrize("number", sorted(set(range(len(ALL))) - TENTH)[::4])
def test_more_planted_faults_are_found_in_their_layers(number):
    check_planted(number)


@pytest.mark.parametrize("number", sorted(HEALTHY_TENTH))
def test_a_healthy_network_is_left_alone(number):
    check_healthy(number)


@pytest.mark.slow
@pytest.mark.parametrize("number", sorted(set(range(COUNT)) - HEALTHY_TENTH)[::4])
def test_more_healthy_networks_are_left_alone(number):
    check_healthy(number)


def test_every_code_is_planted_in_five_architectures_and_more_than_two_hundred_times():
    assert len(ALL) >= 200
    made = [make() for make in ALL]
    assert {one.code for one in made} == set(CODES)
    for code in CODES:
        assert len({one.name.split(",")[0].split(" of depth")[0] for one in made if one.code == code}) >= 5, code


def test_plain_networks_of_a_hundred_layers_are_harmful():
    for act in (nn.Tanh, nn.PReLU, nn.ReLU):
        found = st.examine(small(100, 16, act), torch.randn(16, 16), lambda y: y.square().mean()).findings
        assert {"vanishing_gradient", "collapsed"} <= {one.code for one in found if one.severity == "harmful"}


def test_nothing_of_the_network_is_changed():
    net = small()
    net[1].append(nn.BatchNorm1d(16))
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    modes = [module.training for module in net.modules()]
    st.examine(net, torch.randn(32, 16, generator=torch.Generator().manual_seed(0)), optimizer=optimizer)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert [module.training for module in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in net.parameters()), "gradients stay behind"
    assert not optimizer.state, "the optimiser has stepped"
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_a_remedy_that_was_tried_helps(report):
    tried = [one.tried for one in report.findings if one.tried is not None]
    assert tried
    for one in report.findings:
        if one.code == "vanishing_gradient":
            assert one.tried.after < one.tried.before / 4
            assert f"{one.tried.after:.3g}" in one.remedy


def test_a_rate_comes_with_its_interval(report):
    (one,) = (one for one in report.findings if one.code == "vanishing_gradient")
    # A ReLU layer as torch starts it keeps 6^(-1/2) of the gradient.
    assert one.evidence["rate_low"] < -math.log(6) / 2 < one.evidence["rate_high"]
    assert one.evidence["threshold"] == pytest.approx(math.log10(2**24))


def test_most_severe_first(report):
    ranks = [one.rank for one in report.findings]
    assert ranks == sorted(ranks)


def test_it_says_what_it_looked_at(report):
    looked = {one.code for one in report.looked_at}
    assert looked >= {"dead_units", "vanishing_gradient", "collapsed", "chaotic", "optimizer_epsilon", "format"}
    assert all(isinstance(one.distance, float) for one in report.looked_at)


def test_without_time_it_says_what_was_left_out():
    report = st.examine(small(), torch.randn(8, 16), budget=1e-6)
    assert any("budget" in note for note in report.notes)


def test_a_large_state_has_its_leading_values_alone():
    net = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 3, 3, padding=1))
    report = st.examine(net, torch.randn(8, 3, 20, 20))
    assert len(report.profile.spectrum) == 4
    assert any("leading values of 1200" in note for note in report.notes)


def test_it_prints_ten_lines_at_most(report):
    assert len(str(report).splitlines()) == 10
    assert len(str(st.examine(small(3), torch.randn(8, 16))).splitlines()) == 10


def test_json_comes_back_as_it_was(report, tmp_path):
    odd, profile = Look("chaotic", "q", math.inf, 1.0), dataclasses.replace(report.profile, dead=(float("nan"), 0.5))
    finding = st.Finding(
        "format", "watch", None, {"a": math.inf, "b": math.nan}, "w", "r", Trial("t", "q", 1.0, -math.inf)
    )
    whole = type(report)(
        report.title, (*report.findings, finding), (*report.looked_at, odd), report.notes, profile, 1.5
    )
    path = whole.to_json(tmp_path / "report.json")
    again = st.Report.from_json(path)
    assert again.findings == whole.findings
    assert again.looked_at == whole.looked_at
    assert repr(again) == repr(whole)
    assert again == whole
    assert hash(again) == hash(whole)
    assert again != dataclasses.replace(whole, profile=dataclasses.replace(whole.profile, dead=(0.5,)))
    assert again != dataclasses.replace(whole, seconds=2.5)
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_a_damaged_file_is_one_clear_error(report, tmp_path):
    text = report.to_json(tmp_path / "report.json").read_text()
    path = tmp_path / "damaged.json"
    held = json.loads(text)
    damaged = [text[: len(text) * k // 20] for k in range(20)]
    damaged += [json.dumps({k: v for k, v in held.items() if k != key}) for key in held]
    for key in held:
        for value in (None, 7, "x", [1], {"a": 1}, True):
            if type(value) is not type(held[key]) and not (key == "seconds" and value == 7):
                damaged.append(json.dumps(held | {key: value}))
    damaged.append(json.dumps(held | {"findings": [held["findings"][0] | {"severity": "dreadful"}]}))
    damaged.append(json.dumps(held | {"findings": [held["findings"][0] | {"evidence": {"a": "b"}}]}))
    for one in damaged:
        path.write_text(one)
        with pytest.raises(ValueError, match="is no whole report"):
            st.Report.from_json(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is no whole report"):
        st.Report.from_json(path)
    with pytest.raises(FileNotFoundError):
        st.Report.from_json(tmp_path / "none.json")


def test_the_page_is_one_small_file_without_script(report, tmp_path):
    text = report.to_html(tmp_path / "report.html").read_text()
    assert len(text.encode()) < 1_000_000
    assert "<script" not in text
    assert not re.search(r'(src|href)="(?!#)', text), "the page needs another file"
    assert "prefers-color-scheme: dark" in text
    assert "width=device-width" in text
    assert 3 <= text.count("<svg") == text.count('role="img"') == text.count("<figcaption>") <= 5
    assert all(words.strip() for words in re.findall(r'aria-label="([^"]*)"', text))
    assert text.count("<text") > 20, "text is drawn as paths"
    names = re.findall(r'\bid="([^"]+)"', text)
    assert len(names) == len(set(names)), "two elements have one name"
    for used in re.findall(r"url\(#([^)]+)\)", text) + re.findall(r'xlink:href="#([^"]+)"', text):
        assert used in names


class Evil(nn.Sequential):
    def forward(self, x):
        return super().forward(x)


def test_what_a_network_is_called_stays_text(tmp_path):
    Evil.__name__ = "<script>alert(1)</script>"
    net = Evil()
    net.add_module('<script>alert("2")</script> $x$ & "', nn.Linear(16, 16))
    net.add_module("dead", nn.ReLU())
    with torch.no_grad():
        net[0].bias.fill_(-100)
    report = st.examine(net, torch.randn(16, 16))
    assert not report.healthy
    text = report.to_html(tmp_path / "page.html").read_text() + report._repr_html_()
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    noted = type(report)("a", (), (), ("<script>error</script>",))
    assert "<script" not in noted.to_html(tmp_path / "page.html").read_text()


def test_arguments_of_a_wrong_kind_are_refused():
    net, x = small(), torch.randn(8, 16)
    for options, error in (
        ({"budget": 0}, ValueError),
        ({"memory": "4"}, TypeError),
        ({"formats": ("float8",)}, ValueError),
        ({"optimizer": 3}, TypeError),
        ({"train": 1}, TypeError),
        ({"loss": 3}, TypeError),
    ):
        with pytest.raises(error):
            st.examine(net, x, **options)
    with pytest.raises(ValueError, match="does not take x"):
        st.examine(net, torch.randn(8, 15))


MODEL = """
import torch
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))

def healthy():
    return net, torch.randn(16, 8)

def dead():
    bad = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    bad[0].bias.data.fill_(-100)
    adam = torch.optim.Adam(bad.parameters())
    return {"model": bad, "x": torch.randn(16, 8), "loss": lambda y: y.mean(), "optimizer": adam}

pair = (net, torch.randn(16, 8), lambda y: y.square().mean())

def raises():
    raise RuntimeError("no data\\nhere")

def ends():
    raise SystemExit(0)

def other():
    return 3

def shapes():
    return net, torch.randn(16, 7)
"""


@pytest.mark.parametrize(("name", "status"), [("healthy", 0), ("dead", 1)])
def test_who_reads_the_first_line_alone_changes_neither_status_nor_pages(name, status, tmp_path):
    (tmp_path / "model.py").write_text(MODEL)
    command = [sys.executable, "-m", "stability", "examine", f"{tmp_path}/model.py:{name}", "--out", str(tmp_path)]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False, timeout=500)
    os.close(writing)
    assert (done.returncode, done.stderr) == (status, "")
    assert (tmp_path / "examine.html").is_file()
    assert (tmp_path / "examine.json").is_file()


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("healthy", 0, "nothing is broken"),
        ("pair", 0, "nothing is broken"),
        ("dead", 1, "dead_units"),
        ("raises", 2, "raises RuntimeError at line"),
        ("ends", 2, "raises SystemExit"),
        ("other", 2, "gives a int"),
        ("shapes", 2, "does not take x"),
        ("nothing", 2, "has no 'nothing'"),
    ],
)
def test_the_command_line_ends_with_its_status(name, status, words, tmp_path, capsys):
    (tmp_path / "model.py").write_text(MODEL)
    assert main(["examine", f"{tmp_path}/model.py:{name}", "--out", str(tmp_path / "out")]) == status
    printed = capsys.readouterr()
    if status == 2:
        assert len(printed.err.strip().splitlines()) == 1
        assert words in printed.err
        assert "Traceback" not in printed.err
    else:
        assert words in printed.out
        assert (tmp_path / "out" / "examine.html").is_file()
        assert st.Report.from_json(tmp_path / "out" / "examine.json").healthy == (status == 0)


def test_the_command_line_shows_layers(tmp_path, capsys):
    (tmp_path / "model.py").write_text(MODEL)
    assert main(["layers", f"{tmp_path}/model.py:healthy"]) == 0
    assert "Linear" in capsys.readouterr().out
    assert main(["layers", f"{tmp_path}/missing.py:healthy"]) == 2
    assert main(["layers", "model"]) == 2
    (tmp_path / "broken.py").write_text("def (")
    assert main(["layers", f"{tmp_path}/broken.py:make"]) == 2


class OutOfReach(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        with torch.no_grad():
            return self.linear(x)


def test_a_network_that_no_gradient_reaches_is_broken():
    for loss in (None, lambda y: y.square().mean()):
        found = st.examine(OutOfReach(), torch.randn(5, 4), loss).findings
        assert [(one.code, one.severity, one.layer) for one in found] == [("cut_gradient", "broken", "linear")]


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head, self.cut, self.other = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x):
        z = self.body(x).relu()
        return self.head(z) + self.cut(z).detach(), self.other(z)


def test_a_head_that_the_loss_does_not_take_is_told_from_a_cut():
    torch.manual_seed(0)
    found = st.examine(Heads(), torch.randn(16, 4), lambda y: y[0].square().mean()).findings
    remedies = {one.layer: one.remedy for one in found if one.code == "cut_gradient"}
    assert remedies.keys() == {"cut", "other"}
    assert "does not enter the loss" in remedies["other"]
    assert "detach" in remedies["cut"]
    assert not any("before it" in one.why for one in found), "another one is told together with it"
    found = st.examine(Heads(), torch.randn(16, 4), lambda y: sum(one.square().mean() for one in y)).findings
    assert {one.layer for one in found if one.code == "cut_gradient"} == {"cut"}


def test_few_points_are_no_proof():
    torch.manual_seed(0)
    narrow = nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 4), nn.Softmax(-1))
    nn.init.constant_(narrow[0].bias, -3.0)
    nn.init.constant_(narrow[2].weight, 0.0)
    narrow[2].bias.data = torch.tensor([100.0, 0.0, 0.0, 0.0])
    report = st.examine(narrow, torch.randn(1, 4))
    assert {one.code for one in report.findings} >= {"dead_units", "saturated", "vanishing_gradient"}
    assert report.healthy
    assert any("of 1 point" in note and "8 or more" in note for note in report.notes)
    report = st.examine(narrow, torch.randn(16, 4))
    assert {("dead_units", "broken"), ("saturated", "harmful")} <= {(one.code, one.severity) for one in report.findings}
    assert not any("8 or more" in note for note in report.notes)
    # Of 32 numbers that one is above 0 is certain, even at one point.
    wide = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 4))
    nn.init.constant_(wide[0].bias, -100.0)
    assert not st.examine(wide, torch.randn(1, 4)).healthy


def test_one_of_anything_is_in_the_singular():
    torch.manual_seed(0)
    report = st.examine(nn.Linear(4, 4), torch.randn(16, 4))
    assert "\n1 layer," in str(report)
    assert "in 1 layer," in report._repr_html_()
    net = small(4)
    with torch.no_grad():
        net[1][0].weight[0, 0] = math.nan
    assert "1 of its 256 numbers is NaN" in st.examine(net, torch.randn(16, 16)).findings[0].why
    cut = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    cut[1].register_forward_hook(lambda _, __, output: output.detach())
    (finding,) = st.examine(cut, torch.randn(16, 4)).findings
    assert "nor 1 module before it" in finding.why


class Loose(nn.Module):
    """It does not run in float64."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return self.linear(x) @ torch.eye(4)


def test_notes_are_without_the_words_of_what_is_underneath():
    notes = st.examine(Loose(), torch.randn(16, 4)).notes
    assert "float64 was not tried: the network raises RuntimeError when it is run so" in notes
    assert not any("mat1" in note or "expected m1" in note or "same dtype" in note for note in notes)


class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        time.sleep(0.2)
        return self.linear(x).tanh()


def test_the_budget_holds_and_what_was_not_tried_is_not_said_to_fail():
    report = st.examine(small(60), torch.randn(32, 16), lambda y: y.square().mean(), budget=1e-6)
    (finding,) = (one for one in report.findings if one.code == "vanishing_gradient")
    assert finding.tried is None
    assert "No remedy was tried" in finding.remedy
    assert any("one run forward and backward took" in note for note in report.notes)
    began = time.monotonic()
    report = st.examine(nn.Sequential(*(Slow() for _ in range(5))), torch.randn(32, 8), budget=3.0)
    # A run takes 1 s: a look that was begun in time may end after it.
    assert time.monotonic() - began < 8
    assert any("budget" in note for note in report.notes)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_threads_are_what_they_were(threads, capsys):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)

        def loss(y):
            print(torch.get_num_threads())  # a list would be what it was again
            return y.square().mean()

        st.examine(small(), torch.randn(16, 16), loss)
        assert torch.get_num_threads() == threads
        assert set(capsys.readouterr().out.split()) == {"1"}, "a short run is in one thread"
        with pytest.raises(ValueError, match="does not take x"):
            st.examine(small(), torch.randn(16, 15), loss)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_points_that_are_all_the_same_are_told():
    found = st.examine(small(), torch.ones(8, 16)).findings
    assert ("input_scale", "harmful") in {(one.code, one.severity) for one in found}


@pytest.mark.parametrize("train", [False, True])
def test_networks_in_train_mode_and_single_points_are_taken(train):
    net = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 2))
    report = st.examine(net, torch.randn(32, 16), train=train)
    assert report.healthy
    assert any("draws random" in note for note in report.notes) == train
    assert st.examine(small(), torch.randn(1, 16)).healthy


def test_a_chain_of_one_member_has_its_steps_for_layers():
    x = torch.linspace(-3, 3, 33, dtype=torch.float64)
    found = st.examine(st.Chain("plain_prelu", 100), x, lambda y: (y - x.sin()).square().mean(dim=1)).findings
    assert found[0].code == "vanishing_gradient"
    assert st.examine(st.Chain("residual2_prelu", 20), x).profile.layers[-1] == "step 20"
    with pytest.raises(ValueError, match="3 members"):
        st.examine(st.Chain("plain_prelu", 10, seeds=3), x)


DEAD = {
    "clamp": lambda z: z.clamp(min=0),
    "maximum": lambda z: torch.maximum(z, torch.zeros(())),
    "mask": lambda z: z * (z > 0),
    "where": lambda z: torch.where(z > 0, z, 0.0),
    "leaky_relu of slope 0": lambda z: nn.functional.leaky_relu(z, 0.0),
    "hardswish": nn.functional.hardswish,
    "hardsigmoid": nn.functional.hardsigmoid,
}


@pytest.mark.parametrize("name", DEAD)
def test_a_dead_activation_written_by_hand_is_found_where_it_is(name):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4)
            nn.init.constant_(self.b.bias, -100.0)

        def forward(self, x):
            return self.c(DEAD[name](self.b(DEAD[name](self.a(x)))))

    torch.manual_seed(0)
    (finding,) = st.examine(Net(), torch.randn(32, 16), budget=5.0).findings
    assert (finding.severity, finding.code, finding.layer) == ("broken", "dead_units", "b")


def test_one_softmax_a_point_and_a_head_of_zeros_are_no_fault_and_random_numbers_stay():
    torch.manual_seed(0)
    x, classes = torch.randn(32, 16), torch.arange(32) % 4
    gate = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4), nn.Softmax(-1))
    assert st.examine(gate, x, budget=5.0).healthy
    head = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    nn.init.zeros_(head[2].weight)
    before = torch.get_rng_state()
    report = st.examine(head, x, lambda y: nn.functional.cross_entropy(y, classes), budget=5.0)
    assert report.healthy
    small = nn.Sequential(*(part for _ in range(20) for part in (nn.Linear(16, 16), nn.Tanh())))
    with torch.no_grad():
        for p in small.parameters():
            p.mul_(0.1)
    before = torch.get_rng_state()
    assert not st.examine(small, x, lambda y: y.square().mean(), budget=5.0).healthy
    assert torch.equal(torch.get_rng_state(), before)


def test_a_report_that_was_changed_by_hand_is_refused(tmp_path):
    path = st.examine(nn.Linear(3, 2), torch.randn(8, 3), budget=5.0).to_json(tmp_path / "report.json")
    held = json.loads(path.read_text())
    path.write_text(json.dumps(held | {"seconds": 1.0}))
    with pytest.raises(ValueError, match="it was changed after it was written"):
        st.Report.from_json(path)
    path.write_text(json.dumps(held))
    st.Report.from_json(path)


class _Towers(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.head = torch.nn.Linear(4, 8), torch.nn.Linear(3, 8), torch.nn.Linear(8, 2)

    def forward(self, a, b):
        return self.head(torch.relu(self.left(a) + self.right(b)))


def test_an_input_that_is_held_fixed_is_named_in_the_notes_and_by_the_layers():
    torch.manual_seed(0)
    net, x = _Towers(), (torch.randn(16, 4), torch.randn(16, 3))
    assert any("held fixed: x[1];" in note for note in st.examine(net, x).notes)
    assert repr(st.layers(net, x)).endswith("Held fixed: x[1]; source= follows another input.")
    assert st.layers(net, x, source=1).held == ("x[0]",)
    report = st.examine(net, x, layers=st.layers(net, x, source=1))
    assert any("held fixed: x[0];" in note for note in report.notes)
    assert st.layers(torch.nn.Linear(4, 2), x[0]).held == ()
