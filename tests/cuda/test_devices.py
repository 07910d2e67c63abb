"""On a GPU every verb says what it says on the CPU, and a training goes on from the same start to the same end."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import stability as st

pytestmark = pytest.mark.cuda
X = torch.linspace(-2, 2, 7, dtype=torch.float64)


@pytest.fixture(scope="module")
def gpu():
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    return torch.device("cuda")


class Blocks(nn.Module):
    """A residual network with a stem and a head, whose layers keep the shape of the state."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Tanh()) for _ in range(4))

    def forward(self, x):
        h = self.stem(x)
        for block in self.blocks:
            h = h + block(h)
        return self.head(h)


def numbers(result):
    """Return all numbers of a result by name."""
    if isinstance(result, st.LyapunovExponents):
        return {"exponents": result.exponents.numpy(), "errors": result.standard_errors.numpy()}
    data = result.to_dataset()
    return {name: value.to_numpy() for name, value in data.variables.items() if value.dtype.kind in "fiub"}


def same(one, other):
    assert one.keys() == other.keys()
    assert one
    for name, values in one.items():
        np.testing.assert_allclose(values, other[name], rtol=1e-7, atol=1e-9, err_msg=name)


def loss(y):
    return y.square().mean()


CHAINS = {
    "spectrum": lambda net, x: st.spectrum(net, x),
    "lyapunov": lambda net, x: st.lyapunov(net, x[:2]),
    "propagation": lambda net, x: st.propagation(net, x),
    "gradient_norms": lambda net, x: st.gradient_norms(net, x, lambda y: y.square().flatten(1).mean(1)),
    "first_failure": lambda net, x: st.first_failure(net, x, ["float32"]),
    "paths": lambda net, x: st.paths(net, x),
    "leave_out": lambda net, x: st.leave_out(net, x),
    "swap_neighbours": lambda net, x: st.swap_neighbours(net, x),
    "hessian": lambda net, x: st.hessian(net, x, lambda y: y.square().flatten(1).mean(1), k=2),
}
MODULES = {
    "spectrum": lambda net, x: st.spectrum(net, x),
    "leading": lambda net, x: st.spectrum(net, x, k=2),
    "propagation": lambda net, x: st.propagation(net, x),
    "gradient_norms": lambda net, x: st.gradient_norms(net, x, loss),
    "first_failure": lambda net, x: st.first_failure(net, x, ["float32"], loss),
    "forward_error": lambda net, x: st.forward_error(net.float(), x.float(), ["bfloat16"]),
    "units": lambda net, x: st.units(net, x),
    "paths": lambda net, x: st.paths(net, x, layers="blocks"),
    "leave_out": lambda net, x: st.leave_out(net, x, layers="blocks"),
    "hessian": lambda net, x: st.hessian(net, x, loss, k=2),
}


@pytest.mark.parametrize("width", [1, 6])
@pytest.mark.parametrize("verb", CHAINS)
def test_a_chain(verb, width, gpu):
    x = X if width == 1 else torch.randn(7, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    nets = [st.Chain("residual2_prelu", 40, seeds=3, width=width, device=device) for device in ("cpu", gpu)]
    same(*(numbers(CHAINS[verb](net, x.to(net.device))) for net in nets))


@pytest.mark.parametrize("verb", MODULES)
def test_a_module(verb, gpu):
    torch.manual_seed(0)
    net, x = Blocks().double(), torch.randn(5, 6, dtype=torch.float64)
    same(numbers(MODULES[verb](net, x)), numbers(MODULES[verb](copy.deepcopy(net).to(gpu), x.to(gpu))))


def test_the_first_nan_is_found_in_the_same_place(gpu):
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(3))).double()
    with torch.no_grad():
        net[1][0].weight *= 1e200
        net[2][0].weight *= 1e200
    x = torch.randn(4, 8, dtype=torch.float64)
    found = [st.first_nonfinite(copy.deepcopy(net).to(d), x.to(d), loss) for d in ("cpu", gpu)]
    assert len({(one.module, one.operation, one.cause) for one in found}) == 1


def test_folds(gpu):
    chain = st.Chain("residual2_prelu", 20, seeds=4)
    assert list(st.count(copy.deepcopy(chain).to(gpu), (-3, 3)).folds) == list(st.count(chain, (-3, 3)).folds)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1)).double()
    one, other = (st.restrict(copy.deepcopy(net).to(d), (-3, 3)) for d in ("cpu", gpu))
    np.testing.assert_allclose(one.knots, other.knots, rtol=1e-12)
    np.testing.assert_allclose(one.values, other.values, rtol=1e-12)


@pytest.mark.parametrize("width", [1, 4])
def test_a_training(width, gpu):
    x = X if width == 1 else X[:, None].repeat(1, width)
    task = st.Task.from_samples(x, x.sin())
    chains = [st.Chain("residual2_prelu", 6, seeds=3, width=width, device=device) for device in ("cpu", gpu)]
    one, other = (st.train(chain, task, iterations=30, progress=False) for chain in chains)
    np.testing.assert_allclose(one.loss.cpu(), other.loss.cpu(), rtol=1e-6)
    assert chains[1].device.type == "cuda"
    np.testing.assert_allclose(
        st.evaluate(chains[0], task.x).numpy(), st.evaluate(chains[1], task.x).cpu().numpy(), rtol=1e-6
    )


def test_a_chain_is_saved_and_loaded_on_either(gpu, tmp_path):
    chain = st.Chain("plain_prelu", 5, seeds=2, device=gpu)
    back = st.Chain.load(chain.save(tmp_path / "chain.safetensors"))
    again = st.Chain.load(tmp_path / "chain.safetensors", device=gpu)
    assert (back.device.type, again.device.type) == ("cpu", "cuda")
    assert torch.equal(back.weight, chain.weight.cpu())
    assert torch.equal(again.weight, chain.weight)


def test_a_watched_training(gpu):
    rows = []
    for device in ("cpu", gpu):
        torch.manual_seed(0)
        net = Blocks().double().to(device)
        x = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(device)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        with st.watch(net, optimizer=optimizer) as record:
            for _ in range(4):
                optimizer.zero_grad()
                loss(net(x)).backward()
                optimizer.step()
        rows.append(numbers(record))
    same(*rows)


def test_an_examination_finds_the_same(gpu):
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Sequential(nn.Linear(16, 16), nn.Tanh()) for _ in range(40)), nn.Linear(16, 4))
    x, target = torch.randn(32, 16), torch.arange(32) % 4
    reports = [
        st.examine(
            copy.deepcopy(net).to(d), x.to(d), lambda y: nn.functional.cross_entropy(y, target.to(y.device)), budget=300
        )
        for d in ("cpu", gpu)
    ]
    assert len({tuple((one.code, one.layer, one.severity) for one in report.findings) for report in reports}) == 1
