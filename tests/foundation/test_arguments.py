"""Wrong arguments are refused at the door, by name."""

import matplotlib as mpl
import pytest
import torch

import stability as st
from stability.foundation.arguments import RULES, door

from .wrong_calls import all_outcomes


def test_no_wrong_call_is_accepted_or_ends_deep_inside():
    mpl.use("Agg")
    every = list(all_outcomes(part=11))
    assert len(every) > 1000
    assert not [(where, said) for where, (what, said) in every if what != "refused"]


def test_the_door_names_the_argument_and_lets_defaults_pass():
    @door
    def call(net, sign=None, progress=True, label=None):
        return net, sign, progress, label

    assert call(1) == (1, None, True, None)
    assert call(1, sign=-1, progress=False, label="a") == (1, -1, False, "a")
    for name, value in (("sign", 2), ("sign", True), ("progress", 1), ("progress", None), ("label", 3)):
        with pytest.raises((TypeError, ValueError), match=f"^{name} is {value!r}: expected"):
            call(1, **{name: value})
    with pytest.raises(TypeError, match="net is on the device meta"):
        call(torch.empty(2, device="meta"))
    with pytest.raises(TypeError, match="unexpected keyword"):
        call(1, nonsense=2)


@pytest.mark.parametrize("value", [1j, "1", True, None, [True], ["1"], torch.ones(2, dtype=torch.complex64), object()])
def test_numbers_are_real(value):
    with pytest.raises(TypeError, match=r"variance is .*expected real numbers"):
        RULES["variance"]("variance", value)
    for good in (1, 2.5, [1, 2.5], torch.ones(2)):
        RULES["variance"]("variance", good)


def test_signatures_stay_what_they_were():
    import inspect

    assert list(inspect.signature(st.spectrum).parameters)[:4] == ["net", "x", "layers", "k"]
    assert st.spectrum.__doc__.startswith("Return the log singular values")
