"""What `import speechkit as sk` gives, and what it costs."""

import inspect
import re
import subprocess
import sys

import pytest

import speechkit as sk
from speechkit import errors


def test_public_names_are_sorted_and_unique():
    assert sk.__all__ == sorted(set(sk.__all__))
    assert dir(sk) == sk.__all__


@pytest.mark.parametrize("name", sk.__all__)
def test_every_public_name_resolves(name):
    assert getattr(sk, name) is getattr(sk, name)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'biuld'"):
        sk.biuld  # noqa: B018


@pytest.mark.parametrize(
    "module", ["speechkit", "speechkit.errors", "speechkit.hookspecs", "speechkit.cli.main"]
)
def test_importing_it_imports_no_torch(module):
    code = f"import sys, {module}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_error_tree_in_the_docstring_is_the_class_tree():
    drawn = dict.fromkeys(re.findall(r"\b(\w+Error)\b", errors.__doc__))
    base, *rest = drawn
    classes = dict(inspect.getmembers(errors, inspect.isclass))
    assert set(drawn) == set(classes)
    assert classes[base].__bases__ == (Exception,)
    # the drawing has one level: each branch hangs on the base
    assert re.findall(r"^ +[├└]── (\w+)", errors.__doc__, re.MULTILINE) == rest
    for name in rest:
        assert classes[name].__bases__ == (classes[base],)
