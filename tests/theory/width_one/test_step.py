"""The step's formula against the chains: their tables, forward, derivatives and knots."""

from fractions import Fraction

import numpy as np
import pytest
import sympy
import torch
from hypothesis import given
from hypothesis import strategies as some

import stability as st

COLUMNS = ("skip", "weight", "bias", "outer_weight", "outer_bias", "slope")
SIXTH = st.Architecture("sixth", skip=-0.7, maps=2, activation="relu")
CHAINS = [*(st.Chain(name, 20, seeds=30) for name in st.ARCHITECTURES), st.Chain(SIXTH, 20, seeds=30)]
CHAINS.append(st.Chain.from_table(np.random.default_rng(0).standard_normal((30, 20, 6))))
IDS = [*st.ARCHITECTURES, "sixth", "table"]
EPS = np.finfo(float).eps
STATE = sympy.Symbol("h", real=True)


def numbers_of(formula, row):
    """What the formula asks for, out of rows (..., 6), with an axis for the states."""
    return {symbol.name: row[..., COLUMNS.index(symbol.name), None] for symbol in formula.symbols}


@pytest.mark.parametrize("chain", CHAINS, ids=IDS)
def test_the_fixed_entries_are_those_of_the_table(chain):
    formula, table = st.theory.step_formula(chain.architecture), chain.table()
    h = STATE
    # The formula with what a row holds in its free columns is that of the whole row.
    for row in table[:5, 0]:
        named = dict(zip(COLUMNS, map(sympy.Rational, row), strict=True))
        ours = formula.expression.subs({symbol: named[symbol.name] for symbol in formula.symbols})
        for state in map(sympy.Rational, (-2.5, 0.0, 0.3, 1.7)):
            z = named["weight"] * state + named["bias"]
            phi = z if z > 0 else named["slope"] * z
            row_says = named["skip"] * state + named["outer_weight"] * phi + named["outer_bias"]
            assert abs(ours.subs(h, state) - row_says) < 1e-15  # a bypass of -0.7 prints as a float
    assert {symbol.name for symbol in formula.symbols} == set(chain.architecture.parameters) & set(COLUMNS)


@pytest.mark.parametrize("chain", CHAINS, ids=IDS)
def test_the_value_is_what_every_step_returns(chain):
    formula, table = st.theory.step_formula(chain.architecture), chain.table()
    h = torch.linspace(-3, 3, 13, dtype=torch.float64).expand(chain.seeds, -1)
    with torch.no_grad():
        for place, step in enumerate(chain.steps):
            state, row = h.numpy(), table[:, place]
            found, h = formula.value(state, **numbers_of(formula, row)), step(h)
            s, w, b, wo, bo, a = (row[:, column, None] for column in range(6))
            z = w * state + b
            # A rounding each of the terms, whatever the order in which they are added.
            terms = abs(s * state) + abs(wo) * np.maximum(1, abs(a)) * (abs(w * state) + abs(b)) + abs(bo)
            assert (abs(found - h.numpy()) <= 2 * EPS * terms).all()
            if chain.architecture.maps == 1:
                np.testing.assert_array_max_ulp(found, h.numpy(), 1)
            side = formula.value(state, "derivative", **numbers_of(formula, row))
            np.testing.assert_allclose(side, s + wo * w * np.where(z > 0, 1, a), rtol=4 * EPS, atol=4 * EPS)
        if formula.readout is None:
            assert not chain.architecture.readout
            return
        names = {symbol: chain.get_parameter(symbol.name) for symbol in formula.readout.free_symbols - {STATE}}
        last = sympy.lambdify([STATE, *names], formula.readout, "numpy")(h, *(v[:, None] for v in names.values()))
        x = torch.linspace(-3, 3, 13, dtype=torch.float64)
        np.testing.assert_array_max_ulp(last.numpy(), chain(x).numpy(), 1)


@pytest.mark.parametrize("chain", CHAINS, ids=IDS)
def test_the_derivative_is_that_of_the_spectrum(chain):
    formula, table = st.theory.step_formula(chain.architecture), chain.table()
    x = torch.linspace(-3, 3, 13, dtype=torch.float64)
    s = st.spectrum(chain.prefix(1), x, check=False, distances=False, progress=False)
    found = formula.value(x.numpy(), "derivative", **numbers_of(formula, table[:, 0]))
    np.testing.assert_allclose(found, (s.signs * s.log_values[..., 0].exp())[0].numpy(), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("chain", CHAINS, ids=IDS)
def test_the_kink_is_the_knot_of_the_step_where_it_jumps(chain):
    formula = st.theory.step_formula(chain.architecture)
    for row in chain.table()[:, 0]:
        numbers = numbers_of(formula, row)
        kink, jump = (float(formula.value([0.0], of, **numbers)[0]) for of in ("kink", "jump"))
        f = st.restrict(row[None], (-64, 64))
        folds = f.folds().tolist()
        if abs(kink) < 64:
            assert folds == pytest.approx([kink], rel=1e-14, abs=64 * EPS) if jump else folds == []
            assert float(np.diff(f.slopes)[0]) == pytest.approx(jump, rel=1e-9, abs=1e-9)
        named = {symbol: float(number[0]) for symbol, number in zip(formula.symbols, numbers.values(), strict=True)}
        low, high = sorted(float(side.subs(named)) for side in formula.sides)
        if abs(kink) < 64:
            assert st.count(row[None], (-64, 64)).turns == int(low < 0 < high)


@given(*[some.floats(-1e3, 1e3) for _ in range(7)])
def test_any_row_of_a_table_is_the_formula_with_all_columns_free(
    skip, weight, bias, outer_weight, outer_bias, slope, h
):
    formula = st.theory.step_formula(st.Chain.from_table(np.ones((1, 1, 6))).architecture)
    row = dict(zip(COLUMNS, (skip, weight, bias, outer_weight, outer_bias, slope), strict=True))
    exact = {name: Fraction(number) for name, number in row.items()}
    z = exact["weight"] * Fraction(h) + exact["bias"]
    if z != 0 and abs(z) < Fraction(EPS) * (abs(Fraction(bias)) + 1):
        return  # its sign is lost in rounding
    phi = z if z > 0 else exact["slope"] * z
    expected = exact["skip"] * Fraction(h) + exact["outer_weight"] * phi + exact["outer_bias"]
    size = abs(skip * h) + abs(outer_weight) * max(1, abs(slope)) * (abs(weight * h) + abs(bias)) + abs(outer_bias)
    assert abs(formula.value(h, **row) - float(expected)) <= 4 * EPS * size + 1e-300


def test_what_it_prints():
    formula = st.theory.step_formula("residual2_prelu")
    assert formula.latex().startswith(r"h \mapsto h + b_b + w_b")
    assert formula._repr_latex_() == f"$\\displaystyle {formula.latex()}$"
    assert "'residual2_prelu'" in repr(formula)
    assert r"\text{then } h w + b" in st.theory.step_formula("plain_relu").latex()
    assert st.theory.step_formula("residual1_relu").readout is None


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: st.theory.step_formula(st.Architecture("t", activation="tanh")), "piecewise linear"),
        (lambda: st.theory.step_formula("plain_rlu"), "plain_rlu"),
        (lambda: st.theory.step_formula("plain_relu").value(1.0, weight=1.0), "got no bias"),
        (lambda: st.theory.step_formula("plain_relu").value(1.0, weight=1.0, bias=0, slope=1), "slope"),
        (lambda: st.theory.step_formula("plain_relu").value(1.0, "second", weight=1.0, bias=0), "second"),
        (lambda: st.theory.step_formula("plain_relu").value(np.nan, weight=1.0, bias=0), "h"),
    ],
)
def test_what_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()
