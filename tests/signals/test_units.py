"""Units: against counts by hand, ranks of known matrices, and batches put together."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import stability as st


def network():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 4), nn.Tanh()).double()
    with torch.no_grad():
        net[0].bias[2] = -100.0  # dead
        net[0].weight[4] *= 1e-4
        net[0].bias[4] = 1e-4  # dormant
        net[2].bias[1] = 50.0  # saturated
    return net


def test_counts_are_those_by_hand():
    net, x = network(), torch.randn(200, 3, dtype=torch.float64)
    found = st.units(net, x)
    relu = net[:2](x).detach()
    torch.testing.assert_close(found.active[1][0], (relu != 0).double().mean(dim=0), rtol=0, atol=1e-15)
    torch.testing.assert_close(found.activity[1][0], relu.abs().mean(dim=0), rtol=1e-13, atol=0)
    assert found.dead[1][0].tolist() == [False, False, True, False, False, False]
    assert found.dormant[1][0].tolist() == [False, False, True, False, True, False]
    assert found.share("dead")[1].item() == pytest.approx(1 / 6)
    assert found.share("dormant")[1].item() == pytest.approx(2 / 6)
    tanh = net(x).detach().abs()
    torch.testing.assert_close(found.saturated[3][0], (tanh >= 0.99).double().mean(dim=0), rtol=0, atol=1e-15)
    assert found.share("saturated")[3].item() == pytest.approx((found.saturated[3] > 0.5).double().mean().item())
    assert found.saturated[1].isnan().all()
    assert found.share("saturated")[1].isnan().all()
    assert found.widths == (6, 6, 4, 4)
    assert found.points == 200
    assert "dead 17 % at most, dormant 33 % at most, in '1'" in repr(found)


def test_the_threshold_is_of_the_mean_of_the_layer():
    net, x = network(), torch.randn(50, 3, dtype=torch.float64)
    activity = net[:2](x).abs().mean(dim=0).detach()
    for threshold in (0.0, 0.5, 1.0):
        expected = (activity <= threshold * activity.mean()).tolist()
        assert st.units(net, x, threshold=threshold).dormant[1][0].tolist() == expected


def test_effective_ranks_of_known_matrices():
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(4))
        net[1].weight.copy_(torch.diag(torch.tensor([1.0, 1.0, 0.0, 0.0])))
    x = torch.eye(4, dtype=torch.float64).repeat(5, 1)
    assert st.units(net, x).effective_rank[:, 0].tolist() == pytest.approx([4.0, 2.0], abs=1e-6)
    with torch.no_grad():
        net[1].weight.copy_(torch.diag(torch.tensor([3.0, 1.0, 0.0, 0.0])))
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert st.units(net, x).effective_rank[1, 0].item() == pytest.approx(expected, abs=1e-6)
    with torch.no_grad():
        net[1].weight.zero_()
    assert st.units(net, x).effective_rank[1, 0].item() == 0


def test_batches_are_what_they_are_together():
    net, x = network(), torch.randn(90, 3, dtype=torch.float64)
    whole = st.units(net, x)
    for batches in (list(x.split(40)), iter(x.split(17)), torch.utils.data.DataLoader(x, batch_size=25)):
        parts = st.units(net, batches)
        for name in ("active", "activity", "saturated"):
            for one, other in zip(getattr(parts, name), getattr(whole, name), strict=True):
                torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-15, equal_nan=True)
        torch.testing.assert_close(parts.effective_rank, whole.effective_rank, rtol=1e-9, atol=0)
        assert parts.points == 90


def test_channels_and_tokens_are_units():
    images = nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU())
    x = torch.randn(3, 2, 6, 6)
    found = st.units(images, x)
    relu = images(x).detach()
    assert found.widths == (5, 5)
    torch.testing.assert_close(found.active[1][0], (relu != 0).double().mean(dim=(0, 2, 3)), rtol=0, atol=1e-15)
    tokens = nn.Sequential(nn.Linear(4, 7), nn.ReLU())
    assert st.units(tokens, torch.randn(3, 5, 4)).widths == (7, 7)
    assert st.units(tokens, torch.randn(3, 5, 4), unit_dim=1).widths == (5, 5)


def test_units_of_chains_by_seed():
    chain, x = st.Chain("plain_relu", 4, seeds=3, width=5), torch.randn(20, 5, dtype=torch.float64)
    found = st.units(chain, x)
    state = x.expand(3, 20, 5)
    for layer, step in enumerate(chain.steps):
        state = step(state).detach()
        torch.testing.assert_close(found.active[layer], (state != 0).double().mean(dim=1), rtol=0, atol=1e-15)
    assert found.effective_rank.shape == (4, 3)
    assert st.units(st.Chain("plain_relu", 4), torch.linspace(-3, 3, 9, dtype=torch.float64)).widths == (1,) * 4


def test_the_dataset_and_the_picture():
    found = st.units(network(), torch.randn(50, 3, dtype=torch.float64))
    data = found.to_dataset()
    assert dict(data.sizes) == {"seed": 1, "unit": 20, "layer": 4}
    np.testing.assert_array_equal(data["active"].sel(unit=data["layer_of_unit"] == "1")[0], found.active[1][0])
    for result in (found, data):
        figure = st.plots.units(result, label="a network")
        words = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        assert words == ["dead", "dormant", "saturated", "effective rank / units"]
        heights = [bar.get_height() for bar in figure.axes[0].patches]
        np.testing.assert_allclose(heights, found.effective_rank[:, 0] / torch.tensor(found.widths))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda net, _: st.units(net, []), "x has no batches"),
        (lambda net, x: st.units(net, x, threshold=2.0), "threshold is 2.0: expected a finite number from 0 to 1"),
        (lambda net, x: st.units(net, x, unit_dim=5), r"has shape \(9, 6\): it has no dimension 5"),
        (lambda net, x: st.units(nn.Sequential(net, nn.Dropout()).train(), x), "draws random numbers"),
        (lambda net, x: st.units(net, x * math.nan), "x has 27 values that are not finite"),
        (lambda net, _: st.units(net, 3), "x is a int"),
        (lambda net, x: st.units(net, x).share("lazy"), "unknown kind 'lazy'"),
    ],
)
def test_what_is_refused(call, says):
    with pytest.raises((ValueError, TypeError), match=says):
        call(network(), torch.randn(9, 3, dtype=torch.float64))
