"""Whose kink an edge of a slice is, by forward hooks: what changes between two places close to its middle."""

import numpy as np
import torch
from torch import nn

# A pre-activation that is 0 all over may be no more than this.
ROUNDING = 1e-13


def states(module, x):
    """Which piece of what a module does each unit is on, in whole numbers, flattened; None of one that is linear."""
    if isinstance(module, nn.Hardtanh):
        return (x > module.min_val + ROUNDING).int() + (x > module.max_val + ROUNDING).int()
    if isinstance(module, nn.ReLU | nn.LeakyReLU | nn.PReLU):
        return (x > ROUNDING).int()
    if isinstance(module, nn.MaxPool2d):
        return nn.functional.max_pool2d(x, module.kernel_size, return_indices=True)[1]
    return None


def calls(net, x):
    """Return the names of the modules that bend in the order of their calls, and the states of their units."""
    names = {module: name for name, module in reversed(list(net.named_modules()))}
    found = []

    def note(module, args):
        state = states(module, args[0])
        if state is not None:
            found.append((names[module], state.flatten()))

    handles = [module.register_forward_pre_hook(note) for module in names]
    with torch.no_grad():
        net(x)
    for handle in handles:
        handle.remove()
    return found


def is_inside(polygon, point):
    side, away = np.roll(polygon, -1, axis=0) - polygon, point - polygon
    return (side[:, 0] * away[:, 1] - side[:, 1] * away[:, 0] >= 0).all()


def both_sides(f, edges):
    """Return inputs close to the middles of edges inside, on the left and on the right; None where too close."""
    polygons = [polygon.astype(float) for polygon in f.polygons]
    vertices = f.vertices.astype(float)
    for edge in edges:
        p, q = vertices[f.edges[edge]]
        middle, normal = (p + q) / 2, np.array([p[1] - q[1], q[0] - p[0]])
        sides = [polygons[face] for face in f.beside[edge]]
        step = 0.25
        while step > 1e-9 and not all(
            is_inside(side, middle + way * step * normal) for way, side in zip((1, -1), sides, strict=True)
        ):
            step /= 2
        step /= 2  # off the other sides
        if np.abs(step * normal).max() < 1e-9:
            yield None
        else:
            yield torch.from_numpy(f.plane.inputs(np.stack([middle + step * normal, middle - step * normal])))


def changed_units(net, f):
    """Return for every fold (layer, module, unit) of all that change there, in order; None where it is too narrow.

    The layer is the number of the call.
    """
    found = []
    for inputs in both_sides(f, np.flatnonzero(f.bent)):
        if inputs is None:
            found.append(None)
            continue
        one, other = (calls(net, x) for x in inputs)
        found.append(
            [
                (layer, name, unit)
                for layer, ((name, before), (_, after)) in enumerate(zip(one, other, strict=True))
                for unit in torch.nonzero(before != after).flatten().tolist()
            ]
        )
    return found


def named_units(f):
    born = f.folds(births=True)
    return list(zip(born.layers.tolist(), born.modules, born.units.tolist(), strict=True))
