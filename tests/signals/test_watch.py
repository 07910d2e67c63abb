"""Watching a training: the norms are those taken by hand, the training is the same, and nothing is left behind."""

import copy
import io
import math
import pickle

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray
from torch import nn
from torch.utils.checkpoint import checkpoint

import stability as st
from stability.foundation.log_norms import combine, log_norm, quick_log_norm
from stability.plots.layer_profiles import watch as draw
from stability.signals.watch import watch

TIGHT = {"rtol": 0, "atol": 1e-12}


def same(one, other):
    """Whether two tensors are equal, what was not seen included."""
    return one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(points=7, width=5, seed=0, dtype=torch.float64):
    return torch.randn(points, width, generator=generator(seed), dtype=dtype)


def mlp(depth=4, width=5, dtype=torch.float64):
    parts = []
    for _ in range(depth):
        parts += [nn.Linear(width, width, dtype=dtype), nn.Tanh()]
    model = nn.Sequential(*parts)
    fill(model)
    return model


def fill(model):
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=generator(number), dtype=torch.float64))


def by_hand(*tensors):
    """Return the log of the norm over all entries of tensors that lie well inside float64's range."""
    entries = np.concatenate([t.detach().numpy().astype(np.float64).ravel() for t in tensors])
    with np.errstate(divide="ignore"):
        return np.log(math.sqrt(math.fsum(entries**2)))


def rms_by_hand(*tensors):
    return by_hand(*tensors) - math.log(sum(t.numel() for t in tensors)) / 2


def gradients_by_hand(layers):
    """Return the log norm of what .grad holds in each layer, a list of parameters."""
    return [by_hand(*(p.grad if p.grad is not None else torch.zeros(1) for p in layer)) for layer in layers]


def count_hooks(model):
    modules = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())
    return modules + sum(len(p._backward_hooks or {}) for p in model.parameters())


class Net(nn.Module):
    """An encoder, five blocks of which two share a weight and one is frozen, a head, and a head that is not used."""

    def __init__(self):
        super().__init__()
        self.encode = nn.Linear(5, 5, dtype=torch.float64)
        self.blocks = nn.ModuleList(nn.Linear(5, 5, dtype=torch.float64) for _ in range(5))
        self.short = nn.Sequential(nn.Linear(5, 5, dtype=torch.float64))
        self.head = nn.Linear(5, 1, dtype=torch.float64)
        self.other = nn.Linear(5, 1, dtype=torch.float64)
        fill(self)
        self.blocks[3].weight = self.blocks[1].weight
        self.blocks[2].requires_grad_(False)
        self.blocks[4].bias.requires_grad_(False)

    def forward(self, x):
        h = self.encode(x)
        for block in self.blocks:
            h = h + torch.tanh(block(h))
        return self.head(h)


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_every_row_holds_the_norms_of_its_pass():
    model = mlp()
    linear = [part for part in model if isinstance(part, nn.Linear)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    gradients, parameters, activations = [], [], []
    with watch(model, parameters=True) as record:
        for step in range(6):
            optimizer.zero_grad()
            x = batch(seed=step)
            model(x).square().mean().backward()
            gradients.append(gradients_by_hand([list(part.parameters()) for part in linear]))
            parameters.append([by_hand(*part.parameters()) for part in linear])
            h, outputs = x, []
            with torch.no_grad():
                for part in model:
                    h = part(h)
                    outputs.append(h)
            activations.append([rms_by_hand(output) for output in outputs])
            optimizer.step()
            assert len(record) == len(record.log_gradients) == step + 1  # it can be read while it grows
    assert record.layers == tuple(str(number) for number in range(8))
    assert record.trains.tolist() == [True, False] * 4
    for values in (record.log_gradients[..., 0], record.log_parameters[..., 0], record.log_activations[..., 0]):
        assert values.dtype == torch.float64
        assert values.shape == (6, 8)
    np.testing.assert_allclose(record.log_gradients[:, ::2, 0], gradients, **TIGHT)
    np.testing.assert_allclose(record.log_parameters[:, ::2, 0], parameters, **TIGHT)
    for values in (record.log_gradients[..., 0], record.log_parameters[..., 0]):
        assert values[:, 1::2].isnan().all()
    np.testing.assert_allclose(record.log_activations[..., 0], activations, **TIGHT)
    assert record.iterations.tolist() == list(range(6))


def test_shared_weights_count_once_frozen_ones_do_not_and_the_rest_is_beside_what_comes_before():
    model = Net()
    with watch(model, parameters=True) as record:
        model(batch()).square().mean().backward()
    b = model.blocks
    layers = [
        [model.encode.weight, model.encode.bias],
        [b[0].weight, b[0].bias],
        [b[1].weight, b[1].bias],
        [],
        [b[3].bias],
        [b[4].weight, *model.short.parameters()],  # what is not called is where it was registered
        [p for part in (model.head, model.other) for p in part.parameters()],
    ]
    names = ["encode", *(f"blocks.{i}" for i in range(5)), "head"]
    assert record.layers == tuple(names)
    assert record.trains.tolist() == [bool(layer) for layer in layers]
    expected = [gradients_by_hand([layer])[0] if layer else math.nan for layer in layers]
    np.testing.assert_allclose(record.log_gradients[0, ..., 0], expected, **TIGHT)
    expected = [by_hand(*layer) if layer else math.nan for layer in layers]
    np.testing.assert_allclose(record.log_parameters[0, ..., 0], expected, **TIGHT)
    assert (record.log_activations[0, ..., 0] > -math.inf).all()


def test_a_gradient_that_is_none_counts_as_zero():
    model = Net()
    with watch(model, layers=["encode", "head"], parameters=True) as record:
        model.encode(batch()).sum().backward()  # the head gets none
        model(batch()).sum().backward()
    assert record.layers == ("encode", "head")
    assert record.log_gradients[0, 1, 0] == -math.inf
    assert record.log_activations[0, 1, 0].isnan()
    assert record.log_gradients[1, ..., 0].isfinite().all()
    assert record.log_parameters[..., 0].isfinite().all()


def test_each_loss_s_pass_is_a_row_with_its_own_gradients():
    model, x = mlp(), batch()
    parameters = [list(part.parameters()) for part in model if isinstance(part, nn.Linear)]
    expected = []
    for loss in (lambda y: y.square().mean(), lambda y: y[:, 0].sum()):
        model.zero_grad()
        loss(model(x)).backward()
        expected.append(gradients_by_hand(parameters))
    model.zero_grad()
    with watch(model, parameters=True) as record:
        y = model(x)
        y.square().mean().backward(retain_graph=True)
        y[:, 0].sum().backward()  # .grad now holds the sum of both
        point = x.clone().requires_grad_()
        torch.autograd.grad(model(point).sum(), point)  # reaches no parameter
        torch.autograd.grad(model(x)[:, 0].sum(), list(model.parameters()))
    np.testing.assert_allclose(record.log_gradients[:, ::2, 0], [*expected, expected[1]], **TIGHT)
    assert same(record.log_activations[0], record.log_activations[1])  # one forward, two passes


def test_accumulated_gradients_are_recorded_pass_by_pass():
    model = mlp()
    parameters = [list(part.parameters()) for part in model if isinstance(part, nn.Linear)]
    expected, outputs = [], []
    for seed in range(3):
        model.zero_grad()
        y = model[0](batch(seed=seed))
        model(batch(seed=seed)).sum().backward()
        expected.append(gradients_by_hand(parameters))
        outputs.append(rms_by_hand(y))
    model.zero_grad()
    with watch(model, parameters=True) as record:
        for seed in range(3):
            model(batch(seed=seed)).sum().backward()
    np.testing.assert_allclose(record.log_gradients[:, ::2, 0], expected, **TIGHT)
    np.testing.assert_allclose(record.log_activations[:, 0, 0], outputs, **TIGHT)


def test_several_calls_before_a_pass_have_one_root_mean_square_and_validation_has_none():
    model = mlp()
    first, second = batch(points=7), batch(points=3, seed=1) * 9
    with watch(model, parameters=True) as record:
        with torch.no_grad():
            model(batch(seed=5) * 1e6)
        loss = model(first).sum() + model(second).sum()
        with torch.inference_mode():
            model(batch(seed=6) * 1e6)
        loss.backward()
    assert len(record) == 1
    expected = rms_by_hand(model[0](first), model[0](second))
    np.testing.assert_allclose(record.log_activations[0, 0, 0], expected, **TIGHT)


def test_every_third_pass():
    full, third = mlp(), mlp()
    with watch(full, parameters=True) as all_rows, watch(third, every=3, parameters=True) as some:
        for seed in range(8):
            for model in (full, third):
                model.zero_grad()
                model(batch(seed=seed)).square().mean().backward()
    assert some.iterations.tolist() == [0, 3, 6]
    for name in ("log_gradients", "log_parameters", "log_activations"):
        assert same(getattr(some, name), getattr(all_rows, name)[::3])


def test_activations_that_were_not_recorded_are_not_taken_from_another_forward():
    model = mlp()
    with watch(model, every=3) as record:
        for seed in range(2):
            y = model(batch(seed=seed))
            y.sum().backward(retain_graph=True)
            y.square().sum().backward()
    assert record.iterations.tolist() == [0, 3]
    assert record.log_activations[0, ..., 0].isfinite().all()
    assert record.log_activations[1, ..., 0].isnan().all()


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("name", ["plain_prelu", "residual2_prelu"])
def test_a_chain_is_recorded_step_by_step_and_seed_by_seed(name, width):
    chain = st.Chain(name, depth=4, seeds=[5, 2, 9], width=width)
    x = batch(width=width).squeeze(-1) if width == 1 else batch(width=width)
    with watch(chain, parameters=True) as record:
        for power in (2, 4):
            chain.zero_grad()
            (chain(x) ** power).mean().backward()
    expected = np.full((5, 3), -np.inf)
    sizes = expected.copy()
    for kind, parameter in chain.named_parameters():
        for seed in range(3):
            if kind.startswith("readout"):
                places = [(4, parameter.grad[seed], parameter[seed])]
            else:
                places = [(step, parameter.grad[seed, step], parameter[seed, step]) for step in range(4)]
            for layer, gradient, value in places:
                expected[layer, seed] = np.logaddexp(expected[layer, seed], 2 * by_hand(gradient))
                sizes[layer, seed] = np.logaddexp(sizes[layer, seed], 2 * by_hand(value))
    depth = 5 if name == "plain_prelu" else 4
    assert record.log_gradients.shape == (2, depth, 3)
    np.testing.assert_allclose(record.log_gradients[1], expected[:depth] / 2, **TIGHT)
    np.testing.assert_allclose(record.log_parameters[1], sizes[:depth] / 2, **TIGHT)
    assert record.log_activations is None
    assert record.layers == ("step 1", "step 2", "step 3", "step 4", "read-out")[:depth]
    data = record.to_dataset()
    assert data.log_gradients.dims == ("iteration", "layer", "seed")
    assert data.seed.values.tolist() == [5, 2, 9]
    assert data.attrs == {}
    with pytest.raises(ValueError, match="leave out layers="):
        watch(chain, layers="steps")


@pytest.mark.parametrize(
    ("dtype", "size"),
    [(torch.float32, 1e-25), (torch.float32, 1e30), (torch.float64, 1e-200), (torch.float64, 1e250)],
)
def test_gradients_at_the_ends_of_the_range(dtype, size):
    model = nn.Sequential(nn.Linear(4, 4, bias=False, dtype=dtype))
    with watch(model, parameters=True) as record:
        (model(torch.ones(1, 4, dtype=dtype)) * torch.tensor([size, -size, 0, size], dtype=dtype)).sum().backward()
    rounded = torch.tensor(size, dtype=dtype).item()
    np.testing.assert_allclose(
        record.log_gradients[0, 0, 0],
        math.log(rounded) + math.log(12) / 2,
        atol=4 * torch.finfo(dtype).eps,
        rtol=1e-15,
    )


def test_overflow_and_nan_are_infinite_and_zero_is_minus_infinity():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with watch(model, parameters=True) as record:
        for factor in (math.inf, math.nan, 0.0):
            (model(torch.ones(1, 2)) * factor).sum().backward()
    np.testing.assert_array_equal(record.log_gradients[..., 0], [[np.inf] * 2, [np.inf] * 2, [-np.inf] * 2])
    assert not record.to_dataset().log_gradients.isnull().any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("entries", [1, 1000, 2**18 + 1])
def test_log_norms_against_exact_sums(dtype, entries):
    limits = torch.finfo(dtype)
    unit = torch.rand(entries, generator=generator(), dtype=torch.float64) + 0.5
    smallest = limits.smallest_normal * limits.eps
    sizes = {smallest, limits.smallest_normal * 4, max(2.0**-40, smallest), 2.0**-9, 1.0, limits.max / 4}
    for size in sizes:
        tensor = (unit * size).to(dtype)
        # Half of the entries have no size, so a mean would differ from a norm.
        tensor[entries // 2 + 1 :] = 0
        exact = math.log(size) + math.log(math.fsum((tensor.double() / size).square().tolist())) / 2
        assert log_norm(tensor).item() == pytest.approx(exact, rel=1e-14, abs=1e-13)
        quick = quick_log_norm(tensor)
        assert isinstance(quick, float)
        assert quick == pytest.approx(exact, rel=1e-13, abs=1e-12 if dtype == torch.float64 else 3e-6)
        for near in (-math.inf, -1e3, exact, 0.0, 1e3, math.inf):  # a guess, which may be wrong
            assert quick_log_norm(tensor, near) == pytest.approx(quick, rel=1e-6)
    assert log_norm(0 * tensor) == quick_log_norm(0 * tensor) == -math.inf
    for bad in (math.nan, math.inf, -math.inf):
        tensor[0] = bad
        assert log_norm(tensor) == quick_log_norm(tensor) == quick_log_norm(tensor, -1e3) == math.inf


def test_log_norms_of_long_tensors():
    long = torch.rand(600, 1200, generator=generator()) + 0.5
    for tensor in (long, long.T, long[:, ::2], long * 1e-30, 1e-30 * long.T):
        exact = math.log(math.fsum(tensor.double().square().flatten().tolist())) / 2
        assert quick_log_norm(tensor) == pytest.approx(exact, abs=3e-6)
    assert log_norm(0 * long) == quick_log_norm(0 * long) == quick_log_norm(0 * long, -1e3) == -math.inf
    long[-1, -1] = math.nan
    assert quick_log_norm(long) == quick_log_norm(long, -1e3) == math.inf


def test_log_norms_of_other_kinds_of_tensors():
    with torch.sparse.check_sparse_tensor_invariants():
        sparse = torch.sparse_coo_tensor([[0, 0, 2]], [[1.0, 3.0], [2.0, 1.0], [4.0, 0.0]], (5, 2))
    for norm in (log_norm, quick_log_norm):
        assert float(norm(sparse)) == pytest.approx(math.log(math.sqrt(9 + 16 + 16)))
        assert float(norm(torch.tensor([3.0 + 4.0j, 12.0j]))) == pytest.approx(math.log(13))
        assert norm(torch.empty(0, 3)) == -math.inf
    kept = log_norm(torch.tensor([[3.0, -4.0], [0.0, 0.0], [1e-30, 0.0]]), dims_kept=1)
    np.testing.assert_allclose(kept, [math.log(5), -math.inf, math.log(np.float32(1e-30))], rtol=1e-14)
    np.testing.assert_allclose(log_norm(torch.tensor([-2.0]), dims_kept=1), [math.log(2)])
    np.testing.assert_allclose(log_norm(torch.tensor([5e-324, 0.0], dtype=torch.float64)), math.log(5e-324))
    logs = torch.tensor([[-math.inf, -math.inf], [-900.0, -math.inf], [900.0, 900.0], [math.inf, 1.0]])
    expected = [-math.inf, -900, 900 + math.log(2) / 2, math.inf]
    np.testing.assert_allclose(combine(logs.double(), dim=1), expected, rtol=1e-15)


def test_the_hooks_are_gone_afterwards_and_the_record_stays():
    model = Net()
    with watch(model) as outer:
        with watch(model, layers="blocks") as inner:
            model(batch()).sum().backward()
        assert count_hooks(model) > 0
        model(batch()).sum().backward()
    assert count_hooks(model) == 0
    model(batch()).sum().backward()
    assert (len(outer), len(inner)) == (2, 1)

    def interrupted():
        with watch(model, parameters=True) as record:
            yield record
            model(batch()).sum().backward()
            raise ZeroDivisionError

    training = interrupted()
    record = next(training)
    with pytest.raises(ZeroDivisionError):
        next(training)
    assert count_hooks(model) == 0
    assert same(record.log_gradients[0], outer.log_gradients[0])
    assert same(pickle.loads(pickle.dumps(record)).log_gradients, record.log_gradients)


def test_the_training_is_the_same_to_the_bit():
    models = mlp(dtype=torch.float32), mlp(dtype=torch.float32)

    def train(model):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for step in range(10):
            optimizer.zero_grad()
            for part in range(2):
                model(batch(seed=2 * step + part, dtype=torch.float32)).square().mean().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()

    train(models[0])
    state = torch.get_rng_state()
    with watch(models[1]) as record:
        train(models[1])
    assert len(record) == 20
    assert same(state, torch.get_rng_state())
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert same(one, other)
        assert same(one.grad, other.grad)


def test_gradients_are_not_kept_and_so_not_copied():
    # Autograd hands a gradient over to .grad as it is only if nobody else holds it.
    model = mlp()
    given = []
    handle = model[0].weight.register_hook(lambda gradient: given.append(gradient.data_ptr()))
    with watch(model):
        model(batch()).sum().backward()
    handle.remove()
    assert model[0].weight.grad.data_ptr() == given[0]


def test_copies_of_a_watched_model_are_not_watched():
    model, x = mlp(), batch()
    with watch(model, parameters=True) as record:
        model(x).sum().backward()
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        copies = copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False)
        for other in copies:
            assert same(other(x), model(x).detach())
            other(x * 100).sum().backward()
        assert len(record) == 1
        model(x).sum().backward()
    assert same(record.log_gradients[0], record.log_gradients[1])


def test_forwards_that_a_checkpoint_repeats_do_not_count():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = mlp()

        def forward(self, x):
            # In pairs, as what a segment repeats ends where the last tensor is that a backward needs.
            for number in range(0, len(self.blocks), 2):
                x = checkpoint(self.blocks[number : number + 2], x, use_reentrant=False)
            return x

    plain, model = mlp(), Checkpointed()
    with watch(plain) as expected, watch(model, parameters=True) as record:
        for seed in range(3):
            for net in (plain, model):
                net(batch(seed=seed)).sum().backward()
    assert same(record.log_gradients, expected.log_gradients)
    assert same(record.log_activations, expected.log_activations)


def test_what_torch_func_runs_is_let_through():
    model = mlp(dtype=torch.float32)
    x = batch(dtype=torch.float32)
    with watch(model, parameters=True) as record:
        torch.func.vmap(torch.func.jacrev(model))(x)
        st.spectrum(model, x)
        model(x).sum().backward()
    assert len(record) == 1
    assert record.log_activations[..., 0].isfinite().all()


def test_outputs_that_are_no_single_tensor():
    class Pair(nn.Linear):
        def forward(self, x):
            return {"count": torch.tensor(3), "rest": (None, [super().forward(x), x * 1e9])}

    class Pairs(nn.Module):
        def __init__(self):
            super().__init__()
            self.pairs = nn.ModuleList(Pair(5, 5, dtype=torch.float64) for _ in range(2))

        def forward(self, x):
            for pair in self.pairs:
                x = pair(x)["rest"][1][0]
            return x

    model = Pairs()
    with watch(model, parameters=True) as record:
        y = model(batch())
        y.sum().backward()
    np.testing.assert_allclose(record.log_activations[0, 1, 0], rms_by_hand(y), **TIGHT)


def test_what_the_layers_are():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(5, 5), nn.LayerNorm(5)
            self.scale = nn.Parameter(torch.ones(5))
            self.head = nn.Sequential(nn.Dropout(), nn.Linear(5, 5))

        def forward(self, x):
            return self.head(self.second(self.first(x))) * self.scale

    def names(model, layers=None, width=5):
        with watch(model, layers) as record:
            assert record.layers == ()  # no forward pass yet
            with torch.no_grad():
                model(batch(width=width, dtype=torch.float32))
            assert record.layers == ()
            model(batch(width=width, dtype=torch.float32))
            return record.layers

    assert names(Flat()) == ("first", "second", "head.0", "head.1")
    assert names(Flat().eval()) == ("first", "second", "head.1")  # dropout does nothing
    assert names(nn.Linear(2, 2), width=2) == ("addmm",)
    assert names(nn.Sequential(Flat(), nn.ReLU(), nn.Linear(5, 2))) == ("0", "1", "2")
    assert names(Flat(), "head") == ("head.0", "head.1")
    assert names(Flat(), ["first", "head"]) == ("first", "head")
    model = Flat()
    with watch(model, parameters=True) as record:
        y = model(batch(dtype=torch.float32))
        y.sum().backward()
    head = [*model.head.parameters(), model.scale]  # what has no module belongs to the layer before it
    parameters = [[*model.first.parameters()], [*model.second.parameters()], [], head]
    expected = [by_hand(*(p.grad for p in layer)) if layer else math.nan for layer in parameters]
    np.testing.assert_allclose(record.log_gradients[0, ..., 0], expected, atol=1e-5)
    np.testing.assert_allclose(record.log_activations[0, 3, 0], rms_by_hand(y), atol=1e-6)


def test_what_cannot_be_watched_is_named():
    with pytest.raises(TypeError, match=r"model is a list: expected a stability\.Chain or another nn.Module"):
        watch([nn.Linear(2, 2)])
    with pytest.raises(ValueError, match=r"no parameter that requires a gradient.*requires_grad_\(\)"):
        watch(nn.Linear(2, 2).requires_grad_(False))
    with pytest.raises(ValueError, match="Sequential has no parameter"):
        watch(nn.Sequential(nn.ReLU()))
    with pytest.raises(ValueError, match="run the model on one batch first"):
        watch(nn.Sequential(nn.LazyLinear(3)))
    with pytest.raises(ValueError, match=r"layers is 'block': expected.*one of 'blocks', 'short'"):
        watch(Net(), layers="block")
    with pytest.raises(
        ValueError, match=r"unknown module in layers= 'heads': known are 'encode', 'blocks', 'blocks.0'"
    ):
        watch(Net(), layers=["head", "heads"])
    with pytest.raises(ValueError, match="layers names nothing"):
        watch(Net(), layers=[])
    with pytest.raises(ValueError, match="every is 0: expected an integer >= 1"):
        watch(Net(), every=0)


def test_a_record_without_steps_is_empty_and_cannot_be_drawn():
    with watch(mlp(), parameters=True) as record:
        pass
    assert record.iterations.shape == (0,)
    for values in (record.log_gradients, record.log_parameters, record.log_activations):
        assert values.shape == (0, 0, 1)
    assert dict(record.to_dataset().sizes) == {"iteration": 0, "layer": 0, "seed": 1}
    model = mlp()
    with watch(model, st.layers(model, batch())) as record:
        pass
    assert record.layers == tuple(str(number) for number in range(8))
    assert record.log_gradients.shape == (0, 8, 1)
    with pytest.raises(ValueError, match="the record has no iterations"):
        draw(record)
    with watch(st.Chain("plain_relu", 3, seeds=2)) as record:
        pass
    assert record.log_gradients.shape == (0, 4, 2)
    assert record.log_parameters is None  # they were not asked for
    assert list(record.to_dataset()) == ["log_gradients"]
    assert repr(record) == "WatchRecord(0 iterations, 4 layers, 2 seeds)"


def test_the_dataset_is_what_was_recorded(tmp_path):
    model = mlp()
    with watch(model, every=2, parameters=True) as record:
        for seed in range(4):
            model(batch(seed=seed)).sum().backward()
    data = record.to_dataset()
    assert data.iteration.values.tolist() == [0, 2]
    assert data.layer.values.tolist() == list(record.layers)
    for name in ("log_gradients", "log_parameters", "log_activations"):
        np.testing.assert_array_equal(data[name], getattr(record, name))
        assert data[name].attrs["units"] == "natural logarithm"
    data.to_netcdf(tmp_path / "record.nc", engine="h5netcdf")
    with xarray.open_dataset(tmp_path / "record.nc", engine="h5netcdf") as back:
        xarray.testing.assert_identical(back.load(), data)


def test_the_picture_holds_the_numbers_and_marks_what_is_no_number():
    model = mlp()
    with watch(model, every=2, parameters=True) as record:
        for factor in (1.0, 1.0, 1.0, 1.0, 0.0, 1.0, math.nan):
            (model(batch()) * factor).sum().backward()
    figure, ax = plt.subplots()
    assert draw(record, ax) is figure
    image, zero, bad = ax.collections
    values = record.log_gradients[:, ::2, 0].T.numpy() / math.log(10)
    np.testing.assert_array_equal(image.get_array().compressed(), values[np.isfinite(values)])
    np.testing.assert_array_equal(zero.get_array().mask, values != -np.inf)
    np.testing.assert_array_equal(bad.get_array().mask, values != np.inf)
    figure.canvas.draw()
    assert zero.get_facecolors()[2].tolist()[:3] == pytest.approx([0xBB / 255] * 3)
    assert bad.get_facecolors()[3].tolist()[:3] == pytest.approx([0xD5 / 255, 0, 0])
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["exactly 0", "not finite"]
    assert ax.get_xlabel() == "iteration (backward pass)"
    assert ax.get_ylabel() == "layer"
    assert (ax.get_xlim(), ax.get_ylim()) == ((-1, 7), (0.5, 4.5))
    assert [t.get_text() for t in ax.get_yticklabels()] == ["0", "2", "4", "6"]
    assert figure.axes[1].get_ylabel() == r"$\log_{10}$ norm of the gradient"


def test_pictures_of_parts_of_chains_and_of_other_quantities():
    model = Net()
    with watch(model, parameters=True) as record:
        model(batch()).sum().backward()
    ax = draw(record, quantity="activations").axes[0]
    assert ax.get_legend() is None
    np.testing.assert_array_equal(
        ax.collections[0].get_array().ravel(), record.log_activations[0, ..., 0].numpy() / math.log(10)
    )
    ax = draw(record.to_dataset().isel(layer=[1, 3, 0]), quantity="parameters").axes[0]
    np.testing.assert_array_equal(  # blocks.2 is frozen, and left out
        ax.collections[0].get_array().ravel(), record.log_parameters[0, [1, 0], 0].numpy() / math.log(10)
    )
    chain = st.Chain("plain_relu", 30, seeds=3)
    with watch(chain, parameters=True) as record:
        chain(torch.ones(1, dtype=torch.float64)).sum().backward()
    with pytest.raises(ValueError, match="the record has no log_activations: it has log_gradients, log_parameters"):
        draw(record, quantity="activations")
    with pytest.raises(ValueError, match="the nearest is 'gradients'"):
        draw(record, quantity="gradient")
    with pytest.raises(TypeError, match="the result is a Tensor"):
        draw(record.log_gradients)
    ax = draw(record, quantity="parameters").axes[0]
    middle = record.log_parameters[0].median(dim=-1).values.numpy() / math.log(10)
    np.testing.assert_array_equal(ax.collections[0].get_array().ravel(), middle)
    ax = draw(record).axes[0]  # all seeds are dead: only the mark and the read-out
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["exactly 0"]
    nothing = record.to_dataset() - np.inf
    assert len(draw(nothing).axes) == 1  # no colour bar without a colour
