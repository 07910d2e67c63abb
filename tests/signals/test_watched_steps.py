"""Watching a training by the steps of its optimiser: the gradient that is applied, and what a scaler does to it."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn

import stability as st


def small(seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1)).to(dtype)


def applied(before, after, lr):
    """Return the log norm of what plain gradient descent applied, layer by layer: (before - after) / lr."""
    logs = []
    for one, other in zip(before, after, strict=True):
        own = [(p - q) / lr for p, q in zip(one.parameters(), other.parameters(), strict=True)]
        if own:
            logs.append(torch.cat([g.flatten() for g in own]).double().norm().log().item())
    return logs


def batches(model, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    dtype = next(model.parameters()).dtype
    return [torch.randn(5, 3, generator=generator, dtype=dtype) for _ in range(count)]


@pytest.mark.parametrize("clipped", [False, True])
def test_a_row_is_the_gradient_that_a_step_applies(clipped):
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    wanted = []
    with st.watch(model, optimizer=optimizer, parameters=True) as record:
        for step in range(3):
            optimizer.zero_grad()
            for x in batches(model, 4, step):
                model(x).square().mean().backward()
            if clipped:
                nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
            before = copy.deepcopy(model)
            optimizer.step()
            wanted.append(applied(before, model, 0.5))
    assert record.log_gradients.shape == (3, 5, 1)
    torch.testing.assert_close(
        record.log_gradients[:, ::2, 0], torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=1e-9
    )
    last = torch.cat([p.detach().flatten() for p in before[0].parameters()]).norm().log()
    assert abs(record.log_parameters[-1, 0, 0] - last) < 1e-12  # those at which the gradient was taken
    assert record.scales.isnan().all()
    assert not record.skipped.any()
    assert not optimizer._optimizer_step_pre_hooks


def test_activations_are_those_of_all_passes_of_a_step():
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with st.watch(model, optimizer=optimizer, every=2) as record:
        for step in range(5):
            optimizer.zero_grad()
            squares = []
            for x in batches(model, 3, step):
                y = model(x)
                squares.append(y.detach().square().mean())
                y.square().mean().backward()
            if step == 4:
                wanted = torch.stack(squares).mean().sqrt().log()
            optimizer.step()
    assert record.iterations.tolist() == [0, 2, 4]
    assert abs(record.log_activations[-1, -1, 0] - wanted) < 1e-12


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("unscaled", [False, True])
@pytest.mark.parametrize("given", [False, True])
def test_a_scaler_is_taken_out_and_its_skipped_steps_are_rows(fused, unscaled, given):
    model, alone = small(dtype=torch.float32), small(dtype=torch.float32)
    runs = []
    for net, watch in ((model, True), (alone, False)):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.5, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        context = st.watch(net, optimizer=optimizer, scaler=scaler if given else None)
        record = context.__enter__() if watch else None
        wanted, stepped, scales = [], [], []
        for step, x in enumerate(batches(net, 5)):
            optimizer.zero_grad()
            loss = net(x).square().mean()
            scaler.scale(loss).backward()
            if step == 2:
                net[2].weight.grad[1, 1] = math.inf
            if unscaled:
                scaler.unscale_(optimizer)
            before = copy.deepcopy(net)
            scales.append(scaler.get_scale())
            scaler.step(optimizer)
            wanted.append(applied(before, net, 0.5))
            stepped.append(scaler.get_scale())
            scaler.update()
        if watch:
            context.__exit__(None, None, None)
            assert "step" not in vars(scaler)
            runs.append((record, wanted, scales))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), alone.parameters(), strict=True))
    record, wanted, scales = runs[0]
    taken = [0, 1, 3, 4]
    if given:
        assert record.skipped.tolist() == [False, False, True, False, False]
        assert record.scales.tolist() == scales == [1024, 1024, 1024, 512, 512]
        assert record.log_gradients[2, :, 0].isposinf().tolist() == [False, False, True, False, False]
        assert "1 of them skipped" in repr(record)
        rows = taken
    else:
        rows = [row for row in range(len(record)) if not record.skipped[row]]
        assert len(rows) == 4
    logs = record.log_gradients[rows][:, ::2, 0]
    torch.testing.assert_close(logs, torch.tensor(wanted, dtype=torch.float64)[taken], rtol=0, atol=1e-3)
    data = record.to_dataset()
    assert data["skipped"].values.tolist() == record.skipped.tolist()


def test_only_what_the_optimiser_holds_counts():
    model = small()
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)
    with st.watch(model, optimizer=optimizer) as record:
        model(batches(model, 1)[0]).square().mean().backward()
        optimizer.step()
    assert record.trains.tolist() == [False, False, True, False, False]


def test_steps_of_a_chain_are_seen_seed_by_seed():
    chain = st.Chain("residual2_prelu", depth=6, seeds=3)
    optimizer = torch.optim.SGD(chain.parameters(), lr=0.1)
    x = torch.linspace(-3, 3, 9, dtype=torch.float64)
    with st.watch(chain, optimizer=optimizer) as record:
        for scale in (1, 2):
            (scale * chain(x).square().mean(dim=1).sum()).backward()
        optimizer.step()
    with st.watch(chain) as passes:
        optimizer.zero_grad()
        (chain(x).square().mean(dim=1).sum()).backward()
    assert record.log_gradients.shape == passes.log_gradients.shape
    assert len(record) == 1


def test_refusals_say_what_to_do():
    model, other = small(), small(1)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="holds no parameter of the model"):
        st.watch(other, optimizer=sgd)
    with pytest.raises(ValueError, match="LBFGS"):
        st.watch(model, optimizer=torch.optim.LBFGS(model.parameters()))
    with pytest.raises(TypeError, match=r"expected a torch\.optim\.Optimizer"):
        st.watch(model, optimizer="sgd")
    with pytest.raises(ValueError, match="without optimizer="):
        st.watch(model, scaler=torch.amp.GradScaler("cpu"))
    with pytest.raises(TypeError, match="GradScaler"):
        st.watch(model, optimizer=sgd, scaler=2.0)

    def closure():
        loss = model(batches(model, 1)[0]).square().mean()
        loss.backward()
        return loss

    with st.watch(model, optimizer=sgd), pytest.raises(ValueError, match="closure"):
        sgd.step(closure)
    assert not sgd._optimizer_step_pre_hooks


def test_a_step_that_calls_the_one_of_its_class_above_is_one_row():
    class Own(torch.optim.SGD):
        def step(self, closure=None):
            return super().step(closure)

    model = small()
    optimizer = Own(model.parameters(), lr=0.1)
    torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)  # now torch hooks the steps of both classes
    with st.watch(model, optimizer=optimizer) as record:
        for x in batches(model, 3):
            model(x).square().mean().backward()
            optimizer.step()
    assert len(record) == 3


def test_watches_of_one_scaler_end_in_any_order_and_copies_of_it_are_not_watched():
    model = small(dtype=torch.float32)
    optimizer, scaler = torch.optim.SGD(model.parameters(), lr=0.1), torch.amp.GradScaler("cpu")

    def step(own):
        optimizer.zero_grad()
        own.scale(model(batches(model, 1)[0]).square().mean()).backward()
        model[0].weight.grad[0, 0] = math.inf
        own.step(optimizer)
        own.update()

    one, two = (st.watch(model, optimizer=optimizer, scaler=scaler) for _ in range(2))
    first, second = one.__enter__(), two.__enter__()
    step(scaler)
    for twin in (copy.deepcopy(scaler), pickle.loads(pickle.dumps(scaler))):
        step(twin)
        assert twin.step.func is torch.amp.GradScaler.step
    one.__exit__(None, None, None)
    step(scaler)
    two.__exit__(None, None, None)
    step(scaler)
    assert (len(first), len(second)) == (1, 2)
    assert "step" not in vars(scaler)
