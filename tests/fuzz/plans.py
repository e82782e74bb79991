"""Random and mutated plans, and what is done with one."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import numpy as np
from numpy.typing import NDArray

from speechkit.errors import CheckpointError, ConfigError
from speechkit.plans.engine import LoadedPlan, Steps
from speechkit.plans.plan import Plan
from speechkit.plans.program import CODES, FIELDS

from .contract import check_line

ODD = (-1, 0, 1, 2, 3, 15, 16, 17, 255, 4096, 65536, 2**31 - 1, 2**31, 2**62, -(2**63), 2**63 - 1)
"""Numbers at which a check may be wrong."""


def mutated(plan: Plan, chance: Random) -> Plan:
    """The plan with a few numbers, instructions or weights changed."""
    table, weights = plan.program.copy(), plan.weights
    for _ in range(chance.choice([1, 1, 1, 2, 4, 16])):
        row, column = chance.randrange(len(table)), chance.randrange(len(FIELDS))
        kind = chance.random()
        if kind < 0.7:
            table[row, column] = _number(int(table[row, column]), table, chance)
        elif kind < 0.8:
            table = np.delete(table, row, axis=0) if len(table) > 1 else table
        elif kind < 0.9:
            table = np.insert(table, row, table[chance.randrange(len(table))], axis=0)
        else:
            weights = weights[: chance.randrange(1, len(weights) + 1)]
    about = plan.about
    if chance.random() < 0.1:
        about = replace(about, stride=chance.choice([1, 2, 7, 160, 16384]))
    return replace(plan, about=about, program=table, weights=weights)


def random(plan: Plan, chance: Random) -> Plan:
    """A plan of random instructions, each mostly over the one before it."""
    about = replace(plan.about, stride=chance.choice([1, 2, 8, 160]), rate=1)
    rows, channels, table = about.stride, 1, []
    for number in range(chance.randint(1, 6)):
        row = {name: chance.choice([0, 1, 1, 2, 3]) for name in FIELDS}
        row |= {"code": chance.randrange(-1, len(CODES) + 1), "input": number, "other": -1}
        row |= {"rows": rows, "channels": channels, "stride": 1, "rate": 1, "dilation": 1}
        if chance.random() < 0.4:
            channels = row["channels"] = chance.randint(1, 40)
        if chance.random() < 0.3:
            row["stride"] = chance.randint(1, 4)
            rows = row["rows"] = max(1, rows // row["stride"])
        if chance.random() < 0.3:
            row["other"] = chance.randint(0, number)
        if chance.random() < 0.5:
            row["taps"] = chance.randint(1, 20)
            row["left"] = row["keep"] = row["taps"] - 1
        if chance.random() < 0.2:
            row[chance.choice(FIELDS)] = chance.choice(ODD)
        table.append(list(row.values()))
    return replace(plan, about=about, program=np.array(table, np.int64))


def run(plan: Plan, chance: Random) -> bool:
    """Whether the plan can be used; its refusal is a line. Runs a few steps if it can."""
    strides = chance.choice([1, 1, 2, 5])
    try:
        plan.laid_out(strides)
    except CheckpointError as error:
        check_line(str(error))
        if "calls layers" in str(error):
            return False
    try:
        # also where the scores are not those that the plan is about
        loaded = LoadedPlan(plan.program, plan.weights, plan.about.stride, 1, strides)
    except ConfigError:
        return False
    sessions = chance.randint(1, 3)
    states, x = loaded.new_states(sessions), np.random.default_rng(chance.getrandbits(32))
    steps = Steps(loaded, states, sessions, blocks := chance.randint(1, 3))
    for _ in range(3):
        steps.real[:] = chance.randint(0, blocks * loaded.rows_in)
        steps(x.uniform(-1, 1, (sessions, blocks * loaded.rows_in)).astype(np.float32))
    return True


def _number(value: int, table: NDArray[np.int64], chance: Random) -> int:
    others: Sequence[int] = table[:, chance.randrange(table.shape[1])].tolist()
    near = value + chance.choice([-2, -1, 1, 2])
    found = chance.choice([near, value * 2, chance.choice(ODD), chance.choice(others), -value])
    return min(max(found, -(2**63)), 2**63 - 1)
