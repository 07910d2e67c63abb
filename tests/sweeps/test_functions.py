"""A store is of one function: what tells another one, and what tells that it has changed."""

import functools
import warnings

import pytest
import xarray

import stability as st


def run(function, store, **given):
    return st.sweep(function, {"n": [1, 2]}, store, workers=0, progress=False, **given).dataset.y.values.tolist()


def scaled(n, by=1):
    """Give a number."""
    return xarray.Dataset({"y": by * n})


class Scale:
    def __init__(self, by):
        self.by = by

    def __call__(self, n):
        return xarray.Dataset({"y": self.by * n})

    def method(self, n):
        return self(n)

    @classmethod
    def of_class(cls, n):
        return cls(3)(n)


def changed(source):
    """Return a function as a notebook has it after its cell was run again."""
    space = {"give": lambda y: xarray.Dataset({"y": y}), "__name__": "notebook"}
    exec(source, space)
    return space["f"]


def test_partial_functions_of_other_arguments_have_other_stores(tmp_path):
    assert run(functools.partial(scaled, by=2), tmp_path) == [2, 4]
    assert run(functools.partial(scaled, by=2), tmp_path) == [2, 4]
    with pytest.raises(ValueError, match=r"scaled\(.*\"by\": 2.*expected .*\"by\": 7"):
        run(functools.partial(scaled, by=7), tmp_path)
    with pytest.raises(TypeError, match=r"function is a partial with .*version="):
        run(functools.partial(scaled, by=tmp_path), tmp_path / "other")


@pytest.mark.parametrize("function", [Scale(2), Scale(2).method], ids=["object", "method"])
def test_an_object_needs_a_version_that_tells_what_it_holds(tmp_path, function):
    with pytest.raises(TypeError, match="whose values the store does not know"):
        run(function, tmp_path)
    assert run(function, tmp_path, version="2") == [2, 4]
    assert run(Scale.of_class, tmp_path / "other") == [3, 6]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("def f(n): return give(n)", "def f(n): return give(7 * n)"),
        (
            "def f(n, by=1): return give(by * n)",
            "def f(n, by=7): return give(by * n)",
        ),
        (
            "def f(n, *, by=1): return give(by * n)",
            "def f(n, *, by=7): return give(by * n)",
        ),
        (
            "g = lambda k: lambda n: give(k * n)\nf = g(1)",
            "g = lambda k: lambda n: give(k * n)\nf = g(7)",
        ),
    ],
    ids=["body", "default", "keyword", "enclosed"],
)
def test_a_function_that_has_changed_is_told(tmp_path, one, other):
    assert run(changed(one), tmp_path) == [1, 2]
    assert run(changed(one.replace("\n", "\n\n")), tmp_path) == [1, 2]
    with pytest.warns(UserWarning, match="the code of notebook.* is not that with which the store"):
        assert run(changed(other), tmp_path) == [1, 2]


def test_comments_and_documentation_are_no_change(tmp_path):
    run(changed("def f(n):\n    return give(n)"), tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(changed("def f(n):\n    'Words.'\n\n    # why\n    return give(n)"), tmp_path)
