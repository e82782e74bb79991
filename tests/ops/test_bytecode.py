"""Programs of expressions, as C++ runs them."""

import ctypes
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from speechkit.errors import ComponentError
from speechkit.limits import MAX_EXPRESSION_NODES, MAX_EXPRESSION_NUMBERS
from speechkit.native.libraries import load
from speechkit.ops import bytecode
from speechkit.ops.bytecode import Code, assemble
from speechkit.ops.expressions import FUNCTIONS, OPERATIONS

SOURCE = Path(__file__).with_name("elementwise.cpp")
HEADER = (Path(bytecode.__file__).parent / "elementwise.h").read_text(encoding="utf-8")
Array = NDArray[Any]

SCOPE: dict[str, Any] = {
    **OPERATIONS,
    "asinh": np.arcsinh,
    "ceil": np.ceil,
    "cosh": np.cosh,
    "gelu": lambda a: 0.5 * a * (1 + OPERATIONS["erf"](a / np.sqrt(2))),
    "relu": lambda a: np.maximum(a, 0),
    "silu": lambda a: a * OPERATIONS["sigmoid"](a),
    "sinc": lambda a: np.sinc(a / np.pi),
    "sinh": np.sinh,
    "softplus": lambda a: np.logaddexp(0, a),
}


def exactly(text: str, **values: Array) -> Array:
    with np.errstate(all="ignore"):
        y: Array = np.asarray(eval(text, {"__builtins__": {}, **SCOPE}, values), np.float64)
        return y


def run(
    packed: Array,
    first: Array,
    channels: int,
    second: Array | None = None,
    out: Array | None = None,
) -> Array | str:
    """The output for rows `[T, step]`, or why the program is refused."""
    if isinstance(library := load(SOURCE), str):
        pytest.skip(library)
    library.run_elementwise.restype = ctypes.c_char_p
    y = np.full((len(first), channels), 7, np.float32) if out is None else out
    given = packed, len(packed), channels, first, second, first.strides[0] // 4, len(first), y
    why = library.run_elementwise(
        *(
            ctypes.c_void_p(a.ctypes.data)
            if isinstance(a, np.ndarray)
            else a
            if a is None
            else ctypes.c_int64(a)
            for a in (*given, y.strides[0] // 4)
        )
    )
    return y if why is None else str(why.decode())


def computed(text: str, x: Array, **values: Any) -> Array:
    y = run(assemble(text, values).packed(x.shape[1]), x, x.shape[1])
    assert not isinstance(y, str), y
    return y


RANGES = {
    "exp": (-100, 88),
    "expm1": (-20, 88),
    "log": (1e-38, 100),
    "log1p": (-0.99, 50),
    "asin": (-1, 1),
    "sqrt": (0, 9),
    "sinh": (-80, 80),
    "cosh": (-80, 80),
    "sigmoid": (-80, 20),
    "sin": (-1e4, 1e4),
    "cos": (-1e4, 1e4),
}
ULP = 2.0**-23


@pytest.mark.parametrize("name", [name for name, count in FUNCTIONS.items() if count == 1])
def test_a_function_is_exact_to_a_few_ulp(name: str) -> None:
    low, high = RANGES.get(name, (-9, 9))
    small = np.geomspace(1e-30, 0.5, 200)
    x = np.concatenate([np.linspace(low, high, 4999), small, *([-small] if low < 0 else [])])
    x = x.astype(np.float32)
    wanted, got = exactly(f"{name}(x)", x=x.astype(np.float64)), computed(f"{name}(x)", x[None])[0]
    # sums that cancel are as exact as their terms
    tolerance = {"gelu": 9e-8, "softplus": 2e-8, "cos": 3e-10, "sin": 3e-10}.get(name, 1e-37)
    ulps = {"sinh": 4, "asinh": 4, "silu": 4, "sinc": 4, "softplus": 4}.get(name, 2.4)
    np.testing.assert_array_less(
        np.abs(got - wanted), ulps * ULP * np.abs(wanted) + tolerance, err_msg=name
    )


@pytest.mark.parametrize("name", [name for name, count in FUNCTIONS.items() if count == 1])
def test_a_function_of_numbers_without_size(name: str) -> None:
    x = np.array([np.nan, np.inf, -np.inf, 0, 1e30, -1e30, 89, -110], np.float32)
    got, wanted = computed(f"{name}(x)", x[None])[0], exactly(f"{name}(x)", x=x.astype(np.float64))
    assert np.isnan(got[0])
    if name in ("gelu", "silu", "sinc", "sinh", "cosh"):
        # 0 · ∞, and differences of infinities
        got, wanted = got[[3, 7]], wanted[[3, 7]]
    with np.errstate(over="ignore"):
        wanted = wanted.astype(np.float32)
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-37)


def test_pow() -> None:
    x, y = np.meshgrid(np.linspace(0, 4, 33), np.linspace(-5, 5, 21))
    rows = x.astype(np.float32)
    for power in (-2.5, -1.0, 0.0, 0.1, 1.0, 10.0):
        wanted = exactly("pow(x, p)", x=rows.astype(np.float64), p=np.float64(power))
        np.testing.assert_allclose(computed("pow(x, p)", rows, p=power), wanted, rtol=3e-6)
    got = run(assemble("pow(a, b)").packed(33), rows, 33, y.astype(np.float32))
    np.testing.assert_allclose(got, exactly("pow(a, b)", a=x, b=y), rtol=3e-6)
    assert np.isnan(computed("pow(x, 1.5)", np.float32([[-1.0, np.nan]]))).all()


EXPRESSIONS = {
    "x": {},
    "2": {},
    "-x / 3 + 1": {},
    "x ** 0 + x ** 1 + x ** 7": {},
    "where(x > 0.5, x, where(x <= -1, -1, alpha * x))": {"alpha": 0.1},
    "where(x != 0.25, where(x == 1, 5, x), where(x >= 0, 1, 2))": {},
    "where(x < shift, 0, x)": {"shift": "vector"},
    "max(x, 0) + slope * min(x, 0)": {"slope": "vector"},
    "x / (x / up + exp(-x / down)) + softplus(up)": {"up": "vector", "down": 3.0},
    "levels[0] * x + levels[1] * x * x + levels[2]": {"levels": "matrix"},
}


@pytest.mark.parametrize("channels", [1, 5, 16, 40, 300])
@pytest.mark.parametrize("text", EXPRESSIONS)
def test_rows_of_any_width(text: str, channels: int) -> None:
    random = np.random.default_rng(3)
    shapes = {"vector": (channels,), "matrix": (3, channels)}
    values = {
        name: 3 + random.random(shapes[kind]) if isinstance(kind, str) else kind
        for name, kind in EXPRESSIONS[text].items()
    }
    code = assemble(text, values).packed(channels)
    dense = random.normal(size=(3, channels)).astype(np.float32)
    given = {name: np.asarray(value, np.float32).astype(float) for name, value in values.items()}
    wanted = exactly(text, x=dense.astype(np.float64), **given)
    wanted = np.broadcast_to(wanted, dense.shape)
    width = -(-channels // 16) * 16
    padded = np.zeros((3, width), np.float32)
    padded[:, :channels] = dense
    wide = np.full((3, width + 40), np.nan, np.float32)
    wide[:, :channels] = dense
    for rows in (dense, padded, wide):
        # to rows of their own, and in place
        for out in (np.full((3, channels), 7, np.float32), rows.copy()):
            x = rows if out.shape != rows.shape or out.shape[1] == channels else out
            y = run(code, x, channels, out=out)
            assert not isinstance(y, str)
            np.testing.assert_allclose(y[:, :channels], wanted, rtol=2e-6, atol=2e-6)
    assert np.isnan(wide[:, channels:]).all()


def test_a_gate_has_two_inputs() -> None:
    x = np.random.default_rng(4).normal(size=(5, 40)).astype(np.float32)
    code = assemble("silu(a) * b - beta", {"beta": np.arange(20)})
    got = run(code.packed(20), x[:, :20], 20, x[:, 20:])
    halves = {"a": x[:, :20].astype(float), "b": x[:, 20:].astype(float), "beta": np.arange(20)}
    np.testing.assert_allclose(got, exactly("silu(a) * b - beta", **halves), rtol=1e-5, atol=1e-5)
    assert "second input" in str(run(code.packed(20), x[:, :20], 20))


def steps(text: str, **values: Any) -> list[str]:
    names = list(OPERATIONS)
    return [names[row[0]] for row in assemble(text, values).code]


def test_what_needs_no_work_at_run_time_has_none() -> None:
    assert steps("x * tanh(softplus(x)) + tanh(softplus(x))").count("tanh") == 1
    assert steps("1 * x / 1") == ["copy"]
    assert steps("x / 4") == steps("x * (sqrt(16) / exp(0))") == ["multiply"]
    assert steps("x * 2 + 1") == steps("1 + 2 * x") == ["multiply_add"]
    assert steps("x * softplus(rho)", rho=np.arange(3)) == ["multiply"]
    assert steps("where(k > 0, x, exp(x))", k=1) == ["copy"]
    assert assemble("relu(x)").is_relu
    assert assemble("max(0, x)").is_relu
    assert not assemble("max(x, 1)").is_relu
    assert not assemble("min(x, 0)").is_relu
    assert assemble("x").is_identity


def test_registers_are_used_again() -> None:
    text = " + ".join(f"sin({n}.5 * x) * cos({n}.5 * x)" for n in range(1, 60))
    code = assemble(text)
    assert code.code[:-1, 1].max() < 8
    x = np.linspace(-1, 1, 50, dtype=np.float32)[None]
    wanted = exactly(text, x=x.astype(np.float64))
    np.testing.assert_allclose(computed(text, x), wanted, atol=2e-5)
    # a sum of pairs that are all needed at the end
    held = "x"
    for n in range(1, 40):
        held = f"min({held}, sin({n} * x))"
    deep = " + ".join(f"sin({n} * x)" for n in range(1, 40))
    with pytest.raises(ComponentError, match="more than 32 registers"):
        assemble(f"({held}) * ({deep})")


MANY = "+".join(f"({'+'.join(f'{n + 30 * m} * x' for n in range(30))})" for m in range(20))


@pytest.mark.parametrize(
    ("text", "values", "why"),
    [
        ("x + y", {}, "'y' is not x or a number"),
        ("x + y", {"y": np.zeros((2, 2))}, "'y' has the shape (2, 2)"),
        ("x + y", {"y": "wide"}, "could not convert"),
        ("x + y[5]", {"y": np.zeros(2)}, "out of bounds"),
        ("x + y + z", {"y": np.zeros(2), "z": np.zeros(3)}, "vectors of [2, 3]"),
        (MANY, {}, f"more than {MAX_EXPRESSION_NODES} steps"),
        ("+".join(["x"] * 200), {}, "nested deeper than 128"),
        ("+".join(["x"] * 20_000), {}, "39999 characters"),
    ],
)
def test_what_has_no_program(text: str, values: dict[str, Any], why: str) -> None:
    with pytest.raises(ComponentError) as found:
        assemble(text, values)
    assert why in str(found.value)
    assert len(str(found.value)) < 450
    with pytest.raises(ComponentError, match="3 numbers for 4 channels"):
        assemble("v * x", {"v": np.zeros(3)}).packed(4)


def test_python_and_the_header_agree() -> None:
    enum = re.search(r"enum class Elementary : int32_t \{(.*?)\}", HEADER, re.DOTALL)
    assert enum is not None
    own = {"power": "pow", "select": "where"}
    names = [name.lower() for name in re.findall(r"\w+", enum[1])]
    assert [own.get(name, name) for name in names] == list(OPERATIONS)
    for name, value in {
        "REGISTERS": bytecode.REGISTERS,
        "FIRST_INPUT": bytecode.FIRST,
        "SECOND_INPUT": bytecode.SECOND,
        "CONSTANTS": bytecode.CONSTANTS,
        "CODE_LANES": bytecode.LANES,
        "MAX_INSTRUCTIONS": MAX_EXPRESSION_NODES,
        "MAX_CONSTANTS": MAX_EXPRESSION_NUMBERS,
        "MAX_VECTORS": MAX_EXPRESSION_NUMBERS,
    }.items():
        assert re.search(rf"\b{name} = {value}\b", HEADER), name


def test_a_program_that_is_cut_off_or_changed_is_refused() -> None:
    x = np.zeros((2, 20), np.float32)
    code = assemble("max(x, 0) + slope * min(x, 0.5)", {"slope": np.ones(20)})
    packed = code.packed(20)
    for size in range(len(packed)):
        assert "cut off" in str(run(packed[:size].copy(), x, 20))
    for place, value, why in [
        *((n, -1, "out of range") for n in range(3)),
        *((n, 2**31 - 1, "out of range") for n in range(3)),
        *((0, 0, "out of range"), (4, 31, "unknown operation"), (4, -1, "unknown operation")),
        *((5, 32, "does not end"), (5, 33, "does not end"), (5, -1, "does not end")),
        *((6, 0, "before it is written"), (6, 31, "before it is written"), (6, 33, "second input")),
        *((6, 37, "not there"), (7, -1, "not there"), (7, 2**31 - 1, "not there")),
        (4 + 5 * (len(code.code) - 1) + 1, 3, "does not end"),
    ]:
        bad = packed.copy()
        bad.view(np.int32)[place] = value
        assert why in str(run(bad, x, 20)), (place, value)


def test_random_programs_run_or_are_refused() -> None:
    random = np.random.default_rng(5)
    x, more = random.normal(size=(2, 2, 40)).astype(np.float32)
    ran = 0
    for trial in range(3000):
        count = int(random.integers(1, 12))
        code = np.stack(
            [
                random.integers(-1, 33, count),
                random.integers(0, 34, count),
                *random.choice([*range(4), 32, 33, *range(34, 40)], (3, count)),
            ],
            axis=1,
        ).astype(np.int32)
        if trial % 3:
            # in order, so that most of them run
            code[:, 0] = random.integers(0, 31, count)
            code[:, 1] = np.minimum(np.arange(count), 3)
            code[:, 2:][code[:, 2:] < 4] = 0
            code[0, 2:] = 32
            code[-1, 1] = 32
        vectors = random.normal(size=(3, 40)).astype(np.float32)
        packed = Code(code, np.float32([np.nan, 1, np.inf]), vectors, True).packed(40)
        if trial % 3 == 2:
            packed.view(np.int32)[random.integers(len(packed))] = random.integers(-(2**31), 2**31)
        ran += not isinstance(run(packed, x, 40, more), str)
    assert 1000 < ran < 3000
