"""A plan and its file: instructions, weights and what they are about, in one safetensors file."""

import hashlib
import json
import os
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from speechkit.config import Config, from_dict, to_dict
from speechkit.errors import CheckpointError, ConfigError
from speechkit.io.files import atomic_file
from speechkit.io.untrusted import UntrustedError, check_tensors_header, parse_json
from speechkit.limits import MAX_INSTRUCTIONS, MAX_WEIGHTS
from speechkit.packages import DISTRIBUTION
from speechkit.plans.about import About, Facts
from speechkit.plans.engine import LoadedPlan
from speechkit.plans.narrow import BLOCK, joined, split
from speechkit.plans.program import CODES, FIELDS, LoweringError

FORMAT = 1
"""The version of the file's format."""
WRITE = "write one with: speechkit export MODEL --format native"
KEY = "speechkit"
"""The property of the file that holds JSON."""
NARROW_PARTS = (("halves", "F16", 2), ("bytes", "I8", 2), ("marks", "U8", 1))
"""The tensors of narrow blocks, with their type and number of dimensions."""


@dataclass(frozen=True, eq=False)
class Plan:
    """A model as instructions over weights, with what a session must know `about` it.

    Shape: `program [n, FIELDS]` int64, `weights [W]` float32. A model of clips streams with a
    sliding pool and reads a whole clip with another program over the same weights, `clip_program`.
    `facts` are for people; a plan of a model in memory has none.
    """

    about: About
    program: NDArray[np.int64]
    weights: NDArray[np.float32]
    clip_program: NDArray[np.int64] | None = None
    facts: Facts | None = None
    _laid_out: dict[tuple[int, bool], LoadedPlan] = field(
        default_factory=dict, init=False, repr=False
    )

    def __reduce__(self) -> Any:
        # laid-out plans hold addresses of this process
        parts = self.about, self.program, self.weights, self.clip_program, self.facts
        return Plan, parts

    @property
    def classes(self) -> int:
        """The number of scores in a frame."""
        return len(self.about.labels) + self.about.decodes

    def laid_out(self, strides: int, clips: bool = False) -> LoadedPlan:
        """The program, or that for whole `clips`, verified and laid out for blocks of `strides`
        strides; it is kept for the next caller.

        Raises CheckpointError if the program is invalid, or if it cannot run on this machine.
        """
        if (strides, clips) not in self._laid_out:
            table = self.clip_program if clips else self.program
            if table is None:
                raise CheckpointError("this plan lacks 'clip_program'; export the model again")
            if (table[:, FIELDS.index("code")] == CODES.index("call")).any():
                raise CheckpointError("this plan calls layers that it does not hold")
            try:
                found = LoadedPlan(table, self.weights, self.about.stride, 1, strides)
            except LoweringError as error:
                raise CheckpointError(f"plans do not run here: {error}") from error
            except ConfigError as error:
                raise CheckpointError(str(error)) from error
            expected = strides * self.about.rate, self.classes
            if (found.rows_out, found.channels_out) != expected:
                raise CheckpointError(
                    f"this plan gives {found.channels_out} scores for {found.rows_out} frames of "
                    f"a block, and is about {expected[1]} for {expected[0]}; export the model again"
                )
            self._laid_out[strides, clips] = found
        return self._laid_out[strides, clips]

    @cached_property
    def digest(self) -> str:
        """A digest of what the scores depend on; rules are left out."""
        # converted once, as a plan in memory may have 1 where the one from its file has 1.0
        about = to_dict(from_dict(About, to_dict(self.about), "about"))
        for name in (*self.about.rules, "confidence"):
            del about[name]
        found = hashlib.blake2b(json.dumps(about).encode(), digest_size=16)
        for array in (self.program, self.weights, self.clip_program):
            if array is not None:
                found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()

    def with_(self, **rules: Any) -> "Plan":
        """The plan with other rules (`postprocess`, `spotting`, `endpointing`), as in
        `Model.with_`; ConfigError for another window, which is in the instructions."""
        about = self.about.with_(**rules)
        was, now = self.about.spotting, about.spotting
        if was and now and was.window_s != now.window_s:
            raise ConfigError(
                f"window_s={now.window_s:g}: this plan was made for {was.window_s:g}; change it in "
                "the model with Model.with_ and export that"
            )
        return replace(self, about=about)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the plan as one file, atomically, the same bytes for the same plan."""
        tensors: dict[str, NDArray[Any]] = {"program": self.program, **split(self.weights)}
        if self.clip_program is not None:
            tensors["clip_program"] = self.clip_program
        stored = _Stored(format=FORMAT, about=self.about, facts=self.facts)
        # read once, which turns 0 into 0.0 where a plan from a file has that
        stored = from_dict(_Stored, to_dict(stored), "plan")
        text = json.dumps(to_dict(stored), ensure_ascii=False)
        with atomic_file(path) as part:
            part.write_bytes(safetensors.numpy.save(tensors, {KEY: text}))


@dataclass(frozen=True, kw_only=True)
class _Stored(Config):
    """The JSON in a plan's file."""

    format: int
    about: About
    facts: Facts | None = None


def load_plan(path: str | os.PathLike[str]) -> Plan:
    """The plan in a file; raises CheckpointError if it is missing, damaged, or too large."""
    path = Path(path)
    try:
        check_tensors_header(path)
        with safe_open(path, "numpy") as file:
            stored = _read_stored(file.metadata(), path)
            names = set(file.keys())
            found = {"program": _read(file, "program", "I64", 2, MAX_INSTRUCTIONS)}
            parts = {"weights": _read(file, "weights", "F32", 1, MAX_WEIGHTS, least=0)}
            for name, dtype, dims in NARROW_PARTS:
                if name in names:
                    parts[name] = _read(file, name, dtype, dims, MAX_WEIGHTS // BLOCK)
            found["weights"] = joined(parts)
            names -= set(parts)
            if "clip_program" in names:
                found["clip_program"] = _read(file, "clip_program", "I64", 2, MAX_INSTRUCTIONS)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except (SafetensorError, UntrustedError) as error:
        reason = str(error).removeprefix("Error while deserializing ")
        raise CheckpointError(f"{path} is no plan or damaged: {reason}; {WRITE}") from error
    if unknown := sorted(names - set(found)):
        raise CheckpointError(f"{path} holds {unknown[0]!r}, which is no part of a plan; {WRITE}")
    for name in ("program", "clip_program"):
        if name in found and found[name].shape[1] != len(FIELDS):
            raise CheckpointError(
                f"{path} has instructions of {found[name].shape[1]} numbers, this version of "
                f"{len(FIELDS)}; export the model again"
            )
    return Plan(stored.about, facts=stored.facts, **found)


def _read_stored(metadata: dict[str, str] | None, path: Path) -> _Stored:
    if not metadata or KEY not in metadata:
        raise CheckpointError(f"{path} is no plan; {WRITE}")
    try:
        data = parse_json(metadata[KEY])
        if isinstance(data, dict) and data.get("format") not in (None, FORMAT):
            raise CheckpointError(
                f"{path} has format {data['format']!r:.20}; this version reads {FORMAT}: "
                f"pip install -U {DISTRIBUTION}"
            )
        stored: _Stored = from_dict(_Stored, data, str(path))
    except (ConfigError, UntrustedError) as error:
        raise CheckpointError(f"{path} describes no model: {error}; {WRITE}") from error
    return stored


def _read(file: Any, name: str, dtype: str, dims: int, most: int, least: int = 1) -> NDArray[Any]:
    """A tensor of a file; raises UntrustedError for another type or shape than expected."""
    if name not in file.keys():  # noqa: SIM118  it is no dict
        raise UntrustedError(f"it lacks {name!r}")
    part = file.get_slice(name)
    shape = part.get_shape()
    if part.get_dtype() != dtype or len(shape) != dims or not least <= shape[0] <= most:
        raise UntrustedError(
            f"{name!r} is {part.get_dtype()} {shape}; a plan's is {dtype} with {dims} dimensions, "
            f"the first from {least} to {most:,}"
        )
    array: NDArray[Any] = file.get_tensor(name)
    return array
