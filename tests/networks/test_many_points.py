"""What a chain makes of many points."""

import pytest
import torch

import stability as st


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [1, 3])
def test_it_is_what_the_chain_returns_in_pieces_of_any_size(dtype, width, monkeypatch):
    chain = st.Chain("residual2_prelu", 4, seeds=3, width=width, dtype=dtype)
    x = torch.linspace(-3, 3, 50 * width, dtype=torch.float64).reshape((50,) if width == 1 else (50, width))
    expected = chain(x.to(dtype)).detach().double()
    for cached in (1, 7 * 3 * width, 10**6):
        monkeypatch.setattr("stability.networks.many_points.CACHED", cached)
        found = st.evaluate(chain, x)
        assert found.dtype == torch.float64
        assert not found.requires_grad
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_what_is_no_chain_and_what_are_no_points_are_refused():
    chain = st.Chain("plain_prelu", 3, seeds=2)
    with pytest.raises(TypeError, match=r"expected a stability\.Chain"):
        st.evaluate(torch.nn.Linear(1, 1), torch.ones(3))
    with pytest.raises(TypeError, match="expected a tensor"):
        st.evaluate(chain, [1.0, 2.0])
    for x in (torch.ones(3, 2), torch.ones(()), torch.ones(0)):
        with pytest.raises(ValueError, match="x has"):
            st.evaluate(chain, x)
    with pytest.raises(TypeError, match="expected real numbers"):
        st.evaluate(chain, torch.ones(3, dtype=torch.complex128))
