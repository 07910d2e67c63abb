"""Closed forms of width-1 steps against mpmath quadrature over the densities, and against the chains' own draws."""

import dataclasses
import itertools
import math
from functools import cache

import mpmath
import numpy as np
import pytest
import torch

import stability as st

theory = st.theory
ARCHITECTURES = {  # bypass, maps, whether the slope is trained
    "plain_relu": (0, 1, False),
    "plain_prelu": (0, 1, True),
    "residual1_relu": (1, 1, False),
    "residual2_relu": (1, 2, False),
    "residual2_prelu": (1, 2, True),
}
#: The families of the weights and their sizes; "gain" stands for sqrt(2 / (1 + slope^2)).
WEIGHTS = {
    "pytorch": ("uniform", 1, "uniform", 1),
    "uniform": ("uniform", 1, "uniform", 1),
    "he": ("normal", "gain", "normal", 1),
    "orthogonal": ("sign", "gain", "sign", 1),
    "scaled": ("uniform", 1, "uniform", 0.1),  # 1 / sqrt(100)
    "knots": ("sign", 1, "zero", 0),
    "identity": ("one", 1, "zero", 0),
}
PAIRS = [(name, init) for name in ARCHITECTURES for init in WEIGHTS]
PAIRS = [pair for pair in PAIRS if pair[1] != "scaled" or ARCHITECTURES[pair[0]][1] == 2]
PAIRS = [pair for pair in PAIRS if pair[1] != "identity" or pair[0] not in ("plain_relu", "residual1_relu")]
#: Where the sign of the state decides: with biases and with weights that cross 0, only above.
ONE_SIDED = {
    ("residual1_relu", "pytorch"): (1,),
    ("residual1_relu", "uniform"): (1, -1),
    ("residual1_relu", "he"): (1,),
    ("residual1_relu", "orthogonal"): (1, -1),
    ("residual1_relu", "knots"): (1,),
    ("plain_prelu", "identity"): (1, -1),
}
CASES = [(*pair, sign) for pair in PAIRS for sign in ONE_SIDED.get(pair, (None,))]
IDS = ["-".join(map(str, case)) for case in CASES]


def init_with(init, slope):
    """The initialisation with another slope, to which its gain is then fitted."""
    return dataclasses.replace(st.INITS[init], slope=st.Distribution("constant", slope), adapt=None)


def atoms(family):
    return {"sign": (-1, 1), "one": (1,), "zero": (0,)}.get(family)


def integrate(function, family, ends):
    """Mean of a function over a family of numbers, by tanh-sinh quadrature between its singular points."""
    if atoms(family):
        return sum(map(function, atoms(family))) / mpmath.mpf(len(atoms(family)))
    density = {
        "uniform": lambda _: mpmath.mpf(1) / 2,
        "normal": mpmath.npdf,
        "uniform uniform": lambda p: -mpmath.log(abs(p)) / 2,
        "normal normal": lambda p: mpmath.besselk(0, abs(p)) / mpmath.pi,
    }[family]
    far = {"uniform": 1, "uniform uniform": 1, "normal": 12, "normal normal": 50}[family]
    inside = sorted({-far, 0, far, *(end for end in ends if -far < end < far)})
    total = mpmath.mpf(0)
    for low, high in itertools.pairwise(inside):
        total += mpmath.quad(lambda p: density(p) * function(p), [low, high])
    return total


def mean_over_step(function, architecture, init, sign, scale, slope):
    """E function(g) of a step, straight from what a step does: g = bypass + w wo side, the side by the sign of z."""
    bypass, maps, trained = ARCHITECTURES[architecture]
    slope = mpmath.mpf(slope) if trained else mpmath.mpf(0)
    inner, size, outer, outer_size = WEIGHTS[init]
    size = mpmath.sqrt(2 / (1 + slope**2)) if size == "gain" else mpmath.mpf(size)
    size *= scale
    if maps == 2:
        size *= mpmath.mpf(outer_size)
        families = {inner, outer}
        if "zero" in families:
            return function(mpmath.mpf(1))
        family = inner if families == {"sign"} else f"{inner} {outer}"
    else:
        family = inner
    if sign is None:  # a coin for the side
        sides = [(lambda _: mpmath.mpf(1), mpmath.mpf(1)), (lambda _: slope, slope)]
    else:  # z has the sign of p times that of the state
        sides = [(lambda p: mpmath.mpf(1) if p * sign > 0 else slope, None)]
    total = mpmath.mpf(0)
    for side, constant in sides:
        values = [mpmath.mpf(1), slope] if constant is None else [constant]
        ends = [-bypass / (size * v) for v in values if bypass and v]
        total += integrate(lambda p, side=side: function(bypass + size * p * side(p)), family, ends)
    return total / len(sides)


def log(g):
    return mpmath.log(abs(g) or mpmath.mpf(10) ** -300)  # a node that rounds to the singular end weighs nothing


def numbers_of(architecture, init, sign):
    """Scales and slopes within the domain."""
    scales = (0.3, 1.0) if sign == -1 else (0.3, 1.0, 3.5)
    if (architecture, init, sign) == ("residual1_relu", "orthogonal", -1):
        scales = (0.3, 0.6)
    slopes = (0.25, 0.7) if ARCHITECTURES[architecture][2] else (0.25,)
    return list(itertools.product(scales, slopes))


def form_numbers(architecture, scale, slope):
    numbers = {"scale": scale}
    if ARCHITECTURES[architecture][2]:
        numbers["slope"] = slope
    return numbers


@pytest.mark.parametrize(("architecture", "init", "sign"), CASES, ids=IDS)
def test_values_are_those_of_quadrature_over_the_densities(architecture, init, sign):
    numbers = numbers_of(architecture, init, sign)
    heavy = init == "he" and ARCHITECTURES[architecture][1] == 2
    with mpmath.workdps(20):
        for scale, slope in numbers[1:4:2] if heavy else numbers:
            given = form_numbers(architecture, scale, slope)

            def mean(function, scale=scale, slope=slope):
                return mean_over_step(function, architecture, init, sign, scale, slope)

            for order in (1, 2, 4):
                if order == 1 and architecture.startswith("plain") and init != "identity":
                    continue  # depends on the state
                found = theory.moment(architecture, init, order, sign=sign).value(**given)
                if not heavy:
                    assert found == pytest.approx(float(mean(lambda g, k=order: g**k)), rel=1e-12, abs=1e-12)
            if architecture == "plain_relu":  # given that the step passes the signal: twice the mean over those
                average, square = (2 * mean(lambda g, k=k: log(g) ** k if g else mpmath.mpf(0)) for k in (1, 2))
                found = theory.lyapunov_exponent(architecture, init, alive=True).value(**given)
                variance = theory.log_variance(architecture, init, alive=True).value(**given)
            else:
                average, square = mean(log), mean(lambda g: log(g) ** 2)
                found = theory.lyapunov_exponent(architecture, init, sign=sign).value(**given)
                variance = theory.log_variance(architecture, init, sign=sign).value(**given)
            assert found == pytest.approx(float(average), rel=1e-12, abs=1e-12)
            assert variance == pytest.approx(float(square - average**2), rel=1e-12, abs=1e-12)


@cache
def steps_of(architecture, init, sign, scale, slope, depth, seeds, root=0):
    """log|g| and sign g, (depth, seeds), of the steps of drawn chains, at the states that they pass through."""
    trained = ARCHITECTURES[architecture][2]
    kind = init_with(init, slope) if trained and init not in ("identity", "scaled") else init
    table = st.Chain(architecture, depth, seeds=seeds, init=kind, root=root).table()
    factored = st.ARCHITECTURES[architecture].maps == 2
    # Columns: skip, weight, bias, outer_weight, outer_bias, slope.
    table[:, :depth, 3 if factored else 1] *= scale
    if not factored:
        table[:, :depth, 2] *= scale
    if trained and init in ("identity", "scaled"):
        table[:, :depth, 5] = slope
    # Far from the kinks where the sign of the state decides and there are biases.
    x = 1.0 if sign is None else sign * 1e9
    chain = st.Chain.from_table(table, architecture)
    s = st.spectrum(chain, torch.tensor([x], dtype=torch.float64), check=False, distances=False, progress=False)
    logs, signs = s.log_values[:, :, 0, 0].numpy(), s.signs[:, :, 0].numpy()
    with np.errstate(invalid="ignore"):
        steps = np.diff(logs, axis=0, prepend=0.0)
    return logs, steps, signs * np.concatenate([np.ones_like(signs[:1]), signs[:-1]])


SIMULATED = [
    (*case, scale)
    for case in CASES
    if case[0] != "plain_relu" and case[1] != "identity"
    for scale in ((0.6,) if case == ("residual1_relu", "orthogonal", -1) else (1.0,) if case[2] == -1 else (1.0, 3.5))
]


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "init", "sign", "scale"), SIMULATED)
def test_exponents_and_spreads_are_those_of_drawn_chains(architecture, init, sign, scale):
    depth, seeds = 500, 2000
    if init == "scaled":
        depth, seeds = 100, 20_000
    logs, _, _ = steps_of(architecture, init, sign, scale, 0.25, depth, seeds)
    given = {"scale": scale}
    exponent = theory.lyapunov_exponent(architecture, init, sign=sign)
    variance = theory.log_variance(architecture, init, sign=sign)
    agreement = exponent.check(logs[-1] / depth, **given)
    mean, spread = exponent.value(**given), variance.value(**given)
    if spread == 0:
        assert agreement.measured == pytest.approx(mean, abs=1e-14)
        return
    assert abs(agreement.z) < 4
    # An error of 1 % of the size of a step's log|g| would be seen.
    assert 3 * agreement.standard_error < 0.01 * math.hypot(mean, math.sqrt(spread))
    # Steps are independent: the variance of the sum is `depth` times theirs.
    assert abs(variance.check((logs[-1] - depth * mean) ** 2 / depth, **given).z) < 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "init", "scale", "seeds"),
    [
        ("residual2_relu", "pytorch", 8.0, 1000),
        ("residual2_prelu", "pytorch", 2.0, 2000),
        ("residual2_relu", "he", 8.0, 200),
        ("residual2_prelu", "he", 8.0, 200),
        ("residual2_prelu", "orthogonal", 8.0, 200),
    ],
)
def test_one_percent_of_an_exponent_near_0_would_be_seen(architecture, init, scale, seeds):
    # A bypass makes the exponent small beside the spread: at these scales least so.
    logs, _, _ = steps_of(architecture, init, None, scale, 0.25, 2000, seeds, root=1)
    exponent = theory.lyapunov_exponent(architecture, init)
    agreement = exponent.check(logs[-1] / 2000, scale=scale)
    assert abs(agreement.z) < 4
    assert 3 * agreement.standard_error < 0.01 * abs(agreement.predicted)


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "init", "sign", "scale"), SIMULATED)
def test_variances_and_moments_of_steps_are_those_of_drawn_chains(architecture, init, sign, scale):
    depth, seeds = (100, 20_000) if init == "scaled" else (500, 2000)
    _, steps, signs = steps_of(architecture, init, sign, scale, 0.25, depth, seeds)
    given = {"scale": scale}
    mean = theory.lyapunov_exponent(architecture, init, sign=sign).value(**given)
    variance = theory.log_variance(architecture, init, sign=sign)
    agreement = variance.check((steps - mean) ** 2, **given)
    assert abs(agreement.z) < 4 or agreement.measured == pytest.approx(agreement.predicted, rel=1e-9, abs=1e-12)
    for order in (2, 4) if architecture.startswith("plain") else (1, 2, 4):
        form = theory.moment(architecture, init, order, sign=sign)
        # An average says something only where the relative variance is below 1, or the mean is 0 by symmetry.
        value, square = form.value(**given), theory.moment(architecture, init, 2 * order, sign=sign).value(**given)
        if value != 0 and square / value**2 - 1 >= 1:
            continue
        agreement = form.check(signs**order * np.exp(order * steps), **given)
        assert abs(agreement.z) < 4 or agreement.measured == pytest.approx(agreement.predicted, rel=1e-9)
        assert 3 * agreement.standard_error < 0.01 * max(abs(value), math.sqrt(square))


@pytest.mark.parametrize("init", ["pytorch", "uniform", "he", "orthogonal", "knots"])
def test_the_side_of_the_kink_is_a_coin_whatever_the_state_and_the_weight(init):
    # Over drawn chains, the share of steps above the kink within groups of states and of |weight|.
    depth, seeds = 300, 2000
    chain = st.Chain("plain_prelu", depth, seeds=seeds, init=init)
    table, h = chain.table(), torch.full((seeds,), 1.0, dtype=torch.float64).numpy()
    above, groups = [], []
    for row in range(30):  # the state of a bias-free chain underflows much later
        w, b = table[:, row, 1], table[:, row, 2]
        z = w * h + b
        above.append(z > 0)
        groups.append((h > np.median(h)).astype(int) + 2 * (abs(w) > np.median(abs(w))))
        h = np.where(z > 0, z, 0.25 * z)
    above, groups = np.concatenate(above), np.concatenate(groups)
    for group in np.unique(groups):
        share = above[groups == group]
        assert abs(share.mean() - 0.5) < 4 * 0.5 / math.sqrt(len(share))


def test_exponents_of_both_signs_and_zero_are_among_the_cases():
    values = [
        theory.lyapunov_exponent(name, init, sign=sign).value(scale=scale) for name, init, sign, scale in SIMULATED
    ]
    assert min(values) < -1
    assert max(values) > 0.5
    # |1 + sqrt 2| |1 - sqrt 2| = 1: exactly zero, with a spread.
    zero = theory.lyapunov_exponent("residual2_relu", "orthogonal")
    assert zero.value() == pytest.approx(0, abs=1e-15)
    logs, _, _ = steps_of("residual2_relu", "orthogonal", None, 1.0, 0.25, 500, 2000)
    assert abs(zero.check(logs[-1] / 500).z) < 4
    assert logs[-1].std() > 5


@pytest.mark.slow
def test_plain_relu_steps_kill_half_and_pass_the_rest_on():
    _, steps, signs = steps_of("plain_relu", "he", None, 1.0, 0.25, 1, 40_000)
    alive = signs != 0
    assert abs(alive.mean() - 0.5) < 4 * 0.5 / math.sqrt(alive.size)
    assert theory.lyapunov_exponent("plain_relu", "he").value() == -math.inf
    assert abs(theory.lyapunov_exponent("plain_relu", "he", alive=True).check(steps[alive]).z) < 4
    assert abs(theory.moment("plain_relu", "he", 2).check(signs**2 * np.exp(2 * steps)).z) < 4
    with pytest.raises(ValueError, match="alive=True"):
        theory.log_variance("plain_relu", "he")


@pytest.mark.slow
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("architecture", "slope"), [("plain_relu", 0), ("plain_prelu", 0.25)])
@pytest.mark.parametrize("init", ["uniform", "he", "orthogonal"])
def test_odd_moments_without_a_bypass_go_with_the_sign_of_the_state(init, architecture, slope, sign):
    chain, x = st.Chain(architecture, 1, seeds=40_000, init=init), torch.tensor([sign], dtype=torch.float64)
    s = st.spectrum(chain, x, check=False, distances=False, progress=False)
    g = (s.signs * s.log_values[..., 0].exp()).numpy()
    form = theory.moment(architecture, init, 1, sign=sign)
    assert abs(form.check(g).z) < 4
    family, size, _, _ = WEIGHTS[init]
    size = math.sqrt(2 / (1 + slope**2)) if size == "gain" else size
    expected = integrate(lambda w: size * w * (1 if w * sign > 0 else slope), family, ())
    assert form.value() == pytest.approx(float(expected), rel=1e-12)


def test_odd_moments_without_a_bypass_are_refused_without_a_sign_and_with_biases():
    for init, sign in (("uniform", None), ("pytorch", 1), ("knots", 1)):
        with pytest.raises(ValueError, match="odd moments depend on the state"):
            theory.moment("plain_prelu", init, 3, sign=sign)


FORMS = [
    *(theory.lyapunov_exponent(name, init, sign=sign) for name, init, sign in CASES),
    *(theory.log_variance(name, init, sign=sign, alive=True) for name, init, sign in CASES),
    *(theory.moment(name, init, 4, sign=sign) for name, init, sign in CASES),
]


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_a_million_parameters_at_once(form):
    # What is integrated takes a sum over nodes for all parameters at once: fewer of them, to spare time.
    size = 1_000_000 if form.how == "closed form" else 10_000
    scales = np.linspace(0.01, 0.7, size)
    found = form.value(scale=scales)
    assert found.shape == scales.shape
    for at in (0, size // 3, size - 1):
        assert form.value(scale=scales[at]) == pytest.approx(found[at], rel=1e-13, abs=1e-15)


def test_the_value_broadcasts():
    form = theory.lyapunov_exponent("residual2_prelu")
    found = form.value(scale=np.array([0.5, 1.0, 2.0])[:, None], slope=[0.1, 0.25])
    assert found.shape == (3, 2)
    assert found[1, 1] == form.value()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: theory.lyapunov_exponent("plain_prelu").value(scale=-1), "scale is -1: .* holds for scale in"),
        (lambda: theory.lyapunov_exponent("plain_prelu").value(scale=[1, 0]), "scale is 0"),
        (lambda: theory.lyapunov_exponent("plain_prelu").value(scale=math.nan), "scale"),
        (lambda: theory.lyapunov_exponent("residual2_prelu").value(slope=0), "slope is 0"),
        (lambda: theory.lyapunov_exponent("residual2_prelu", "scaled").value(depth=0.5), "depth is 0.5"),
        (lambda: theory.lyapunov_exponent("plain_prelu").value(scal=1), "scal"),
        (lambda: theory.lyapunov_exponent("residual1_relu", "uniform", sign=-1).value(scale=1.1), "scale is 1.1"),
        (lambda: theory.lyapunov_exponent("residual1_relu", "orthogonal", sign=-1).value(), r"Interval.open\(0, sqrt"),
        (lambda: theory.lyapunov_exponent("residual1_relu"), "sign is None"),
        (lambda: theory.lyapunov_exponent("residual1_relu", sign=-1), "biases, which take the state across 0"),
        (lambda: theory.lyapunov_exponent("residual1_relu", "he", sign=-1), "normal weight may take"),
        (lambda: theory.lyapunov_exponent("residual1_relu", "knots", sign=-1), "biases, which take"),
        (lambda: theory.lyapunov_exponent("plain_prelu", "identity"), "sign is None"),
        (lambda: theory.lyapunov_exponent(st.Architecture("t", activation="tanh")), "piecewise linear"),
        (lambda: theory.lyapunov_exponent(st.Architecture("s", skip=0.5)), "bypass of weight 0.5"),
        (lambda: theory.moment("plain_prelu", order=0), "order"),
        (lambda: theory.lyapunov_exponent("plain_prelu").check([1.0]), "at least two"),
        (lambda: theory.lyapunov_exponent("plain_prelu").check([1.0, math.nan]), "sample"),
    ],
)
def test_what_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def custom(**laws):
    zero = st.Distribution("constant", 0.0)
    base = {
        "weight": st.Distribution("sign"),
        "bias": zero,
        "outer_weight": st.Distribution("sign"),
        "outer_bias": zero,
    }
    return st.Init("custom", "", **(base | laws))


@pytest.mark.parametrize(
    ("laws", "said"),
    [
        ({"bias": st.Distribution("constant", 0.5)}, "not symmetric"),
        ({"outer_weight": st.Distribution("constant")}, "not symmetric"),
        ({"weight": st.Distribution("constant")}, "not symmetric"),
        ({"slope": st.Distribution("uniform")}, "draws slopes"),
        ({"weight": st.Distribution("normal"), "outer_weight": st.Distribution("uniform")}, "product of a normal"),
    ],
)
def test_laws_that_are_no_coin_are_refused(laws, said):
    with pytest.raises(ValueError, match=said):
        theory.lyapunov_exponent("residual2_prelu", custom(**laws))


@pytest.mark.parametrize("family", ["uniform", "normal"])
def test_a_sign_times_another_weight(family):
    init = custom(outer_weight=st.Distribution(family, 0.8))
    chain = st.Chain("residual2_prelu", 500, seeds=2000, init=init)
    s = st.spectrum(chain, torch.ones(1, dtype=torch.float64), check=False, distances=False, progress=False)
    steps = np.diff(s.log_values[:, :, 0, 0].numpy(), axis=0, prepend=0.0)
    exponent, variance = (f("residual2_prelu", init) for f in (theory.lyapunov_exponent, theory.log_variance))
    assert abs(exponent.check(steps).z) < 4
    assert abs(variance.check((steps - exponent.value()) ** 2).z) < 4


def test_agreement():
    form = theory.lyapunov_exponent("plain_prelu", "identity", sign=1)
    assert form.check([0.0, 0.0]).z == 0
    assert form.check([1.0, 1.0]).z == math.inf
    one = form.check([1.0, 3.0])
    assert (one.predicted, one.measured, one.standard_error, one.z) == (0.0, 2.0, 1.0, 2.0)
    assert form.check([1.0, 3.0], scale=math.e**2).z == pytest.approx(0, abs=1e-12)


def test_latex_and_what_it_says_of_itself():
    form = theory.lyapunov_exponent("residual1_relu", "uniform", sign=-1)
    assert form._repr_latex_() == f"$\\displaystyle {form.latex()}$"
    assert r"\log{\left(\left|{\mathrm{scale} - 1}\right| \right)}" in form.latex()
    assert form.how == "closed form"
    assert "closed form" in repr(form)
    assert theory.lyapunov_exponent("residual2_prelu", "he").how == "quadrature"
    assert "int" in theory.lyapunov_exponent("residual2_prelu", "he").latex()
    assert all(form.assumptions and form.derivation for form in FORMS)


@pytest.mark.parametrize(("init", "square", "fourth"), [("uniform", 1 / 9, 1 / 25), ("he", None, None)])
@pytest.mark.parametrize("slope", [0.25, 1e-3, 1e-12, 1e-300])
@pytest.mark.parametrize("scale", [1e-3, 1e-5, 1e-8, 1e-12, 1e-100])
def test_small_weights_lose_no_digits(init, square, fourth, slope, scale):
    """E log|1 + c p| = -c^2 E p^2 / 2 - c^4 E p^4 / 4 - ..., and E log^2 = c^2 E p^2 + 11 c^4 E p^4 / 12 + ..."""
    exponent, variance = (f("residual2_prelu", init) for f in (theory.lyapunov_exponent, theory.log_variance))
    if init == "he":  # the product of two normal numbers, of variances 2 / (1 + slope^2) and 1
        square = 2 / (1 + slope**2)
        fourth = 9 * square**2
    powers = [[(scale * side) ** k for side in (1, slope)] for k in (2, 4)]
    mean = sum(-a * square / 2 - b * fourth / 4 for a, b in zip(*powers, strict=True)) / 2
    second = sum(a * square + 11 * b * fourth / 12 for a, b in zip(*powers, strict=True)) / 2
    left_out = 1e4 * scale**4 + 1e-12
    assert exponent.value(scale=scale, slope=slope) == pytest.approx(mean, rel=left_out, abs=0)
    assert variance.value(scale=scale, slope=slope) == pytest.approx(second - mean**2, rel=left_out, abs=0)


def test_the_series_of_small_sizes_joins_the_closed_form():
    from stability.theory.width_one import growth_terms

    form = theory.lyapunov_exponent("residual2_prelu", "uniform")
    below, above = growth_terms.SMALL * (1 - 1e-12), growth_terms.SMALL * (1 + 1e-12)
    assert form.value(scale=below, slope=1.0) == pytest.approx(form.value(scale=above, slope=1.0), rel=1e-11)
