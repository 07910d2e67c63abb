"""The first number that is not finite, against cases in which it was put there, and cases in which there is none."""

import linecache
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import stability as st
from tests.precision.planted import FAULTS, KINDS, Fault, network

pytestmark = pytest.mark.filterwarnings("ignore:std\\(\\).*degrees of freedom", "ignore:var\\(\\).*degrees of freedom")


def points(dtype=torch.float32):
    return torch.randn(6, 8, generator=torch.Generator().manual_seed(1)).to(dtype)


def loss(y):
    return (y.float() - 0.3).square().mean()


def check(found, name, module, call=1):
    """Hold a finding against a fault of a name that was put into a module."""
    _, operation, direction, cause = FAULTS[name]
    assert found is not None
    assert (found.operation, found.direction, found.cause) == (operation, direction, cause), found
    assert (found.module, found.call) == (module, call), found
    file, _, number = found.line.rpartition(":")
    shown = name if name != "explode" else "explode"
    assert linecache.getline(file, int(number)).rstrip().endswith(f"# here {shown}"), found.line
    assert found.why
    assert len(repr(found).splitlines()) == 3


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_in_a_network_is_found(kind, name):
    net, module, call = network(kind, FAULTS[name][0])
    check(st.first_nonfinite(net, points(), loss), name, module, call)


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_in_other_formats(dtype, name):
    net, module, _ = network("residual", FAULTS[name][0])
    found = st.first_nonfinite(net.to(dtype), points(dtype), loss)
    if dtype == torch.float64 and name == "product":
        assert found.cause == "overflow"
        assert found.log10_magnitude > 308
    check(found, name, module)


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_under_autocast_inside_and_outside_of_the_model(dtype, name):
    net, module, _ = network("perceptron", FAULTS[name][0])
    inner = net.forward

    def forward(x):
        with torch.autocast("cpu", dtype):
            return inner(x)

    with torch.autocast("cpu", dtype):
        outside = st.first_nonfinite(net, points(), loss)
    check(outside, name, module)
    net.forward = forward
    check(st.first_nonfinite(net, points(), loss), name, module)


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("reentrant", [False, True])
def test_in_a_checkpoint(reentrant, name):
    net, module, _ = network("residual", FAULTS[name][0])

    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            for block in self.net:
                x = checkpoint(block, x, use_reentrant=reentrant)
            return {"logits": x}

    x = points().requires_grad_(reentrant)  # else there is no gradient
    check(st.first_nonfinite(Checkpointed(), x, lambda y: loss(y["logits"])), name, f"net.{module}")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_healthy_network_gives_none(kind, train, dtype):
    net = network(kind)[0].to(dtype).train(train)
    assert st.first_nonfinite(net, points(dtype), loss) is None


def attention(h, mask):
    return (h @ h.mT / 8**0.5 + mask).softmax(-1) @ h


CAUSAL = torch.full((6, 6), -math.inf).triu(1)
HARMLESS = {
    "causal": lambda h: attention(h, CAUSAL),
    "causal_bool": lambda h: attention(h, torch.zeros(6, 6).masked_fill(CAUSAL < 0, -math.inf)),
    "finfo_min": lambda h: attention(h, CAUSAL.clamp(min=torch.finfo(torch.float32).min)),
    "finfo_min_everywhere": lambda h: attention(h, torch.full((6, 6), torch.finfo(torch.float32).min)),
    "finfo_min_twice": lambda h: attention(h, 2 * CAUSAL.clamp(min=torch.finfo(torch.float32).min)),
    "log_of_mask": lambda h: attention(h, torch.ones(6, 6).tril().log()),
    "fused": lambda h: F.scaled_dot_product_attention(h[None], h[None], h[None], is_causal=True)[0],
    "fused_float_mask": lambda h: F.scaled_dot_product_attention(h[None], h[None], h[None], CAUSAL)[0],
    "fused_bool_mask": lambda h: F.scaled_dot_product_attention(h[None], h[None], h[None], CAUSAL == 0)[0],
    "dropout": lambda h: F.dropout(h, 0.5),
    "all_dropped": lambda h: F.dropout(h, 1.0),
    "not_taken_detached": lambda h: torch.where(h < 9, h, (h.detach() + 1000).exp()),
    "log_sum_exp": lambda h: h + torch.cat([h, torch.full((6, 1), -math.inf)], 1).logsumexp(1, keepdim=True),
    "largest": lambda h: h + torch.full((6,), -math.inf).maximum(h[:, 0]).unsqueeze(1),
    "clamped": lambda h: h.clamp(-math.inf, math.inf),
    "nan_to_num": lambda h: h + (h.detach() * 0).log().nan_to_num(0, 0, 0),
    "one_over_infinity": lambda h: h + 1 / torch.full_like(h, math.inf),
    "tanh_of_much": lambda h: h + torch.tanh((h.detach() + 200).exp()),
    "pool": lambda h: h + F.max_pool1d(h[None], 3, 1, 1)[0],
    "empty_memory": lambda h: torch.empty(6, 8).fill_(math.nan).copy_(h),
    "buffer_filled_later": lambda h: torch.full((6, 8), math.nan).masked_fill(torch.ones(6, 8) > 0, 0.5) * h,
    "overwritten_in_place": lambda h: torch.full((6, 8), math.nan).zero_() + h,
    "index_put": lambda h: h + torch.full((6, 8), -math.inf).index_fill(1, torch.arange(8), 1.0),
    "sorted": lambda h: h + torch.cat([h.detach(), torch.full((6, 1), math.inf)], 1).sort(1).values[:, :8],
    "root_at_zero_unused": lambda h: h + (h.detach() * 0).sqrt(),
    "double_where": lambda h: torch.where(h + 300 < 0, torch.where(h + 300 < 0, h, 0 * h).exp(), h),
    "softplus": lambda h: F.softplus(h * 1e4),
    "sigmoid_of_much": lambda h: torch.sigmoid(h * 1e30),
    "log_softmax_of_much": lambda h: F.log_softmax(h * 1e30, -1) * 1e-30,
    "norm_of_zero": lambda h: h + F.normalize(h * 0, dim=-1),
}


@pytest.mark.parametrize("name", HARMLESS)
@pytest.mark.parametrize("train", [True, False])
def test_infinities_on_purpose_that_reach_no_result_are_none(name, train):
    net = nn.Sequential(nn.Linear(8, 8), Fault(HARMLESS[name]), nn.Linear(8, 8), nn.Tanh()).train(train)
    assert st.first_nonfinite(net, points(), loss) is None


@pytest.mark.parametrize("name", ["dropout", "causal", "fused"])
def test_a_checkpoint_with_nothing_wrong_gives_none(name):
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, x):
            return checkpoint(lambda h: HARMLESS[name](self.linear(h)), x, use_reentrant=False)

    assert st.first_nonfinite(Checkpointed(), points(), loss) is None


def test_masks_as_inputs_and_masked_outputs_give_none():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 8)
            self.register_buffer("seen", CAUSAL.clone())

        def forward(self, x, mask):
            h = attention(attention(self.linear(x), mask), self.seen)
            return h.masked_fill(torch.arange(8) > 5, -math.inf)  # classes that are not allowed

    targets = torch.tensor([0, 1, 2, 3, 4, 5])
    x = {"x": points(), "mask": CAUSAL}
    assert st.first_nonfinite(Masked(), x, lambda y: F.cross_entropy(y, targets)) is None
    assert st.first_nonfinite(Masked(), x) is None
    found = st.first_nonfinite(Masked(), x, lambda y: F.cross_entropy(y, targets + 2))
    assert (found.operation, found.cause, found.module, found.reaches) == ("masked fill", "mask", "", "the loss")
    found = st.first_nonfinite(Masked(), {"x": points(), "mask": torch.full((6, 6), -math.inf)})
    assert (found.operation, found.cause, found.module) == ("softmax", "mask", "")


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("where", ["weight", "bias"])
def test_a_parameter_that_is_not_finite_is_given(value, where):
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    with torch.no_grad():
        getattr(net[1], where).view(-1)[3] = value
    found = st.first_nonfinite(net, points(), loss)
    assert (found.cause, found.module, found.operation, found.direction) == ("given", "1", "addmm", "forward")
    assert f"the parameter 1.{where} holds" in found.why


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_an_input_a_target_and_a_buffer_that_are_not_finite_are_given(value):
    net = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)).eval()
    x = points()
    x[2, 3] = value
    found = st.first_nonfinite(net, x, loss)
    assert (found.cause, found.module, found.index, found.count) == ("given", "0", (2, 3), 1)
    target = points()
    target[1, 1] = value
    found = st.first_nonfinite(net, points(), lambda y: F.mse_loss(y, target))
    assert (found.cause, found.module, found.reaches) == ("given", None, "the loss")
    net[1].running_mean[4] = math.nan
    found = st.first_nonfinite(net, points(), loss)
    assert (found.cause, found.module) == ("given", "1")
    assert "the buffer 1.running_mean" in found.why


def test_a_loss_that_is_scaled_too_much_overflows_in_the_backward_pass():
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).half()
    found = st.first_nonfinite(net, points(torch.float16), lambda y: y.float().sum() * 2.0**17)
    assert (found.direction, found.cause, found.dtype) == ("backward", "overflow", torch.float16)
    assert found.log10_magnitude == pytest.approx(math.log10(2**17), abs=1e-3)
    # Here it only overflows in the first factor: 40,000 a point, 6 points for the bias.
    found = st.first_nonfinite(net, points(torch.float16), lambda y: y.float().sum() * 40000)
    assert (found.direction, found.cause, found.module) == ("backward", "overflow", "1")
    assert found.log10_magnitude > math.log10(65504)
    assert st.first_nonfinite(net, points(torch.float16), lambda y: y.float().sum() * 100) is None


@pytest.mark.parametrize("size", [3e2, 1e4])
def test_a_linear_layer_that_overflows_float16_says_by_how_much(size):
    net = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    for parameter in net.parameters():
        nn.init.constant_(parameter, size)
    found = st.first_nonfinite(net.half(), torch.full((2, 8), 1.0).half())
    exact = 8 * size if 8 * size > 65504 else 64 * size**2
    assert (found.module, found.operation) == ("0" if 8 * size > 65504 else "1", "mm")
    assert found.log10_magnitude == pytest.approx(math.log10(exact), abs=1e-3)
    assert found.inputs[1] == pytest.approx(size, rel=1e-3)
    assert "the largest float16 is 65504" in found.why


def test_statistics_that_are_nan_since_an_earlier_step_are_no_cause_in_training():
    net, module, _ = network("convolution", FAULTS["root_at_zero"][0])
    for block in net:
        block.bn.running_mean.fill_(math.nan)
    check(st.first_nonfinite(net, points(), loss), "root_at_zero", module)
    net[1].fault.function = None
    assert st.first_nonfinite(net, points(), loss) is None
    assert st.first_nonfinite(net.eval(), points(), loss).why.startswith("the buffer 0.bn.running_mean")


def test_two_faults_the_first_counts_and_a_harmless_one_does_not():
    net, _, _ = network("residual", FAULTS["by_zero"][0])
    net[0].fault.function = HARMLESS["not_taken_detached"]
    net[2].fault.function = FAULTS["exp"][0]
    check(st.first_nonfinite(net, points(), loss), "by_zero", "1.fault")
    # Both in one tensor: what is masked away is no cause.
    first, then = nn.Linear(8, 8), nn.Linear(8, 6)

    class Scores(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.then = first, then

        def forward(self, x):
            mask = torch.ones(6, 6).tril().log()
            scale = torch.ones(6, 6)
            scale[1, 0] = 1e30  # where nothing is masked, in a row in which something is
            return (mask + self.then(self.first(x)).abs() * scale * scale).softmax(-1)

    found = st.first_nonfinite(Scores(), points())
    assert (found.operation, found.cause) == ("mul", "overflow")


def test_an_overflow_that_is_masked_away_is_no_cause_of_what_the_mask_does():
    net = nn.Sequential(nn.Linear(8, 8), Fault(lambda h: FAULTS["masked_row"][0](h.abs() * 1e30 * 1e30)))
    assert st.first_nonfinite(net, points()).operation == "softmax"


def test_a_function_in_a_checkpoint_has_the_module_that_calls_it():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, x):
            return checkpoint(lambda h: FAULTS["not_taken"][0](self.linear(h)), x, use_reentrant=False)

    check(st.first_nonfinite(nn.Sequential(Checkpointed()), points(), loss), "not_taken", "0")


def test_the_network_is_left_as_it_was():
    net, _, _ = network("convolution", FAULTS["root_at_zero"][0])
    net(points()).sum().backward()
    net[0].fault.calls = net[1].fault.calls = net[2].fault.calls = 0
    before = {k: v.clone() for k, v in net.state_dict().items()}
    gradients = [p.grad.clone() for p in net.parameters()]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()]
    assert st.first_nonfinite(net, points(), loss) is not None
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    for p, g in zip(net.parameters(), gradients, strict=True):
        assert torch.equal(p.grad.nan_to_num(7), g.nan_to_num(7))
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()]
    assert net[1].fault.calls == 0


def test_dropout_draws_the_same_in_both_runs():
    class Sometimes(nn.Module):
        def forward(self, h):
            kept = F.dropout(torch.ones_like(h), 0.5, True)
            return h / kept if kept[0, 0] == 0 else h

    net = nn.Sequential(nn.Linear(8, 8), Sometimes())
    found = []
    for seed in range(12):
        torch.manual_seed(seed)
        bad = bool(net(points())[0, 0].isinf())
        torch.manual_seed(seed)
        one = st.first_nonfinite(net, points())
        assert (one is not None) == bad
        found.append(bad)
    assert 0 < sum(found) < 12


def test_what_is_no_network_or_loss_is_refused():
    net = nn.Linear(8, 8)
    with pytest.raises(ValueError, match="does not take x"):
        st.first_nonfinite(net, torch.ones(2, 3))
    with pytest.raises(ValueError, match="loss returns a float"):
        st.first_nonfinite(net, points(), lambda _: 3.0)
    with pytest.raises(TypeError, match="expected a function"):
        st.first_nonfinite(net, points(), 3)
    with pytest.raises(TypeError, match="net is a str"):
        st.first_nonfinite("net", points())


def encoder():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    net = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    with torch.no_grad():
        net.layers[1].linear1.weight[0, 0] = 1e30
        net.layers[1].linear1.bias[0] = 3e38
        net.layers[1].linear2.weight[:, 0] = 1e30
    return net


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_a_loss_the_run_is_that_of_the_caller(mode):
    net, x = encoder(), torch.randn(2, 5, 8)
    assert "linear" in st.first_nonfinite(net, x).module
    with mode():
        found = st.first_nonfinite(net, x)
        assert (found.operation, found.module) == ("transformer encoder layer fwd", "layers.1")
        assert st.first_nonfinite(net, x, loss).operation == "addmm"  # gradients need the other path

    class Modes(nn.Module):
        def forward(self, h):
            return h if torch.is_grad_enabled() else h / 0

    assert st.first_nonfinite(Modes(), points()) is None
    with mode():
        assert st.first_nonfinite(Modes(), points()).cause == "pole"


def test_a_network_that_is_another_one_in_each_run_is_refused():
    calls = []

    class Counting(nn.Module):
        def forward(self, h):
            calls.append(0)
            return h / 0 if len(calls) == 1 else h

    with pytest.raises(ValueError, match="the model depends on state outside of its tensors"):
        st.first_nonfinite(Counting(), points())
    assert len(calls) == 2


def halved(_module, _inputs, output):
    return output.abs().neg().log()


def negated(_module, inputs):
    return (inputs[0] / 0,)


def blown(_module, given, _taken):
    return (given[0].abs().add(1) / 0,)


def divided(gradient):
    return gradient.abs().add(1) / 0


class Blown:
    def __call__(self, gradient):
        return divided(gradient)


HOOKS = {
    "forward": (lambda net: net[2].register_forward_hook(halved), "log", "2", "forward", "a forward-hook"),
    "before": (lambda net: net[2].register_forward_pre_hook(negated), "div", "2", "forward", "a forward pre-hook"),
    "backward": (lambda net: net[2].register_full_backward_hook(blown), "div", "2", "backward", "a backward hook"),
    "gradient": (
        lambda net: net[2].weight.register_hook(divided),
        "div",
        "2",
        "backward",
        "a hook of the gradient of the parameter 2.weight",
    ),
    "object": (
        lambda net: net[0].bias.register_hook(Blown()),
        "div",
        "0",
        "backward",
        "a hook of the gradient of the parameter 0.bias",
    ),
}


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_is_named(name):
    net = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
    add, operation, module, direction, words = HOOKS[name]
    add(net)
    found = st.first_nonfinite(net, points(), loss)
    assert (found.operation, found.module, found.direction) == (operation, module, direction)
    assert f"{operation} in {words}" in found.why
    assert "test_first_nonfinite.py" in found.line


def test_what_writes_the_infinite_numbers_that_nan_is_made_of_is_told():
    net = nn.Sequential(nn.Linear(8, 8), Fault(lambda h: h * math.inf), nn.Linear(8, 8))
    found = st.first_nonfinite(net, points(), loss)
    assert (found.operation, found.module, found.cause) == ("addmm", "2", "invalid")
    assert "infinite numbers are written by mul in 1, " in found.why


def test_numbers_of_numpy_in_memory_of_torch_are_no_constant():
    def written(h):
        memory = torch.empty_like(h)
        memory.detach().numpy()[:] = math.nan
        return h + memory

    net = nn.Sequential(nn.Linear(8, 8), Fault(written))
    found = st.first_nonfinite(net, points(), loss)
    assert (found.cause, found.module) == ("given", "1")
    assert "never written, or by code that torch does not see" in found.why


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_function_in_a_checkpoint_goes_wrong_in_the_backward_pass(reentrant):
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, x):
            return checkpoint(FAULTS["root_at_zero"][0], self.linear(x), use_reentrant=reentrant)

    net = nn.Sequential(Checkpointed(), nn.Linear(8, 8))
    net(points()).sum().backward()
    before = [p.grad for p in net.parameters()]
    known = [g.clone() for g in before]
    check(st.first_nonfinite(net, points(), loss), "root_at_zero", "0")
    assert all(p.grad is g for p, g in zip(net.parameters(), before, strict=True))
    assert all(torch.equal(g.nan_to_num(7), k.nan_to_num(7)) for g, k in zip(before, known, strict=True))
    if reentrant:
        net[1].bias.register_post_accumulate_grad_hook(lambda _: None)
        with pytest.raises(ValueError, match="with use_reentrant=False"):
            st.first_nonfinite(net, points(), loss)


def test_sparse_gradients_and_attributes_and_forward_differentiation_are_looked_at():
    embedding = nn.Sequential(nn.Embedding(5, 8, sparse=True), Fault(FAULTS["root_at_zero"][0]))
    found = st.first_nonfinite(embedding, torch.tensor([[0, 1, 2]]), loss)
    check(found, "root_at_zero", "1")
    assert found.reaches == "the gradient of the parameter 0.weight"
    net = nn.Sequential(nn.Linear(8, 8), Fault(lambda h: h + net[0].kept))
    net[0].kept = torch.full((8,), math.nan)
    found = st.first_nonfinite(net, points(), loss)
    assert (found.cause, found.why) == ("given", "the attribute 0.kept holds NaN: 8 of 8")
    forward = nn.Sequential(nn.Linear(8, 8), Fault(lambda h: torch.func.jvp(lambda r: (r * 0).sqrt(), (h,), (h,))[1]))
    assert st.first_nonfinite(forward, points()).operation == "div"


@pytest.mark.parametrize("weights", [True, False])
def test_attention_to_nothing_in_one_piece_is_a_mask(weights):
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, h):
            nothing = torch.ones(h.shape[:2], dtype=torch.bool)
            return self.attention(h, h, h, key_padding_mask=nothing, need_weights=weights)[0]

    with torch.no_grad():
        found = st.first_nonfinite(Attends().eval(), torch.randn(2, 5, 8))
    assert (found.operation, found.cause) == ("multi head attention", "mask")


@pytest.mark.parametrize(
    ("function", "cause", "words"),
    [
        (lambda h: h + torch.logdet(torch.zeros(8, 8) + 0 * h.sum()), "pole", "a determinant of 0"),
        (lambda h: torch.polygamma(1, h * 0), "pole", "a pole"),
        (lambda h: F.layer_norm(h * 1e30, (8,)), "overflow", "goes on the way beyond the range"),
        (lambda h: h + F.huber_loss(h[:0], h[:0]), "invalid", "the mean of no numbers"),
        (lambda h: h + torch.tensor((h * 0).log().tolist()), "invalid", "numbers of Python or numpy, by code"),
        (
            lambda h: F.batch_norm(h, torch.zeros(8), torch.full((8,), -1.0)),
            "invalid",
            "or a variance below 0",
        ),
    ],
)
def test_a_cause_is_told_in_words(function, cause, words):
    found = st.first_nonfinite(nn.Sequential(nn.Linear(8, 8), Fault(function), nn.Linear(8, 8)), points())
    assert found.cause == cause
    assert words in found.why
