"""Monte Carlo tree search over paths."""

import math
from collections.abc import Callable

import pytest
import torch
from speechkit_compression.depth import Step
from speechkit_compression.path_tree import Actions, Node, Path, length

BLOCKS = 4
ALL = Actions(BLOCKS, frozenset(range(BLOCKS)), {n: list(range(5 - n)) for n in range(1, 5)})
WHOLE = tuple(Step(block) for block in range(BLOCKS))
HARMFUL = 2


def reward(path: Path) -> float:
    """1 for the whole net without the harmful block; less for each other change."""
    ideal = [Step(block, block != HARMFUL) for block in range(BLOCKS)]
    runs = [sum(step == one for step in path) for one in ideal]
    changed = sum(abs(count - 1) for count in runs) + abs(len(path) - BLOCKS)
    return 1 / (1 + changed)


def exhaustive(actions: Actions, deepest: int) -> set[Path]:
    """All paths of at most `deepest` actions."""
    found, level = {WHOLE}, [Node(actions)]
    for _ in range(deepest):
        level = [Node(actions, fixed, place) for node in level for place, fixed in node.untried]
        found |= {node.path for node in level}
    return found


def tried(actions: Actions, judge: Callable[[Path], float], simulations: int) -> dict[Path, float]:
    torch.manual_seed(0)
    root, found = Node(actions), {}

    def noted(path: Path) -> float:
        found[path] = judge(path)
        return found[path]

    root.search(noted, simulations)
    assert root.visits == simulations
    assert sum(child.visits for child in root.children) == simulations
    assert root.reward == pytest.approx(sum(child.reward for child in root.children))
    return found


def test_paper_62_a_harmful_block_is_left_out_within_100_simulations() -> None:
    found = tried(ALL, reward, 100)
    best = max(found, key=found.__getitem__)
    assert best == (Step(0), Step(1), Step(2, body=False), Step(3))
    assert found[best] == max(map(reward, exhaustive(ALL, 3)))


def test_paper_62_enough_simulations_find_the_best_of_all_paths() -> None:
    few = Actions(BLOCKS, frozenset({1, 2}), {1: [2]})
    chance = torch.Generator().manual_seed(1)
    paths = sorted(exhaustive(few, 3))
    values = dict(zip(paths, torch.rand(len(paths), generator=chance).tolist(), strict=True))
    found = tried(few, values.__getitem__, 200)
    assert set(found) | {WHOLE} == set(paths)
    assert max(found.values()) == max(values[path] for path in found)


def test_paper_62_actions_leave_out_or_repeat_up_to_four_blocks() -> None:
    five = Actions(5, frozenset(range(5)), {n: list(range(6 - n)) for n in range(1, 6)})
    paths = exhaustive(five, 1)
    skipped = {tuple(s.block for s in p if not s.body) for p in paths} - {()}
    assert {len(blocks) for blocks in skipped} == {1, 2, 3, 4}
    assert (1, 2, 3) in skipped
    repeated = tuple(Step(block) for block in (0, 1, 2, 1, 2, 1, 2, 3, 4))
    assert repeated in exhaustive(five, 1)
    assert max(map(len, exhaustive(five, 2))) == 10


def test_paper_62_a_block_is_repeated_2_to_4_times() -> None:
    one = Actions(BLOCKS, frozenset(), {1: [2]})
    repeated = exhaustive(one, 1) - {WHOLE}
    assert sorted(path.count(Step(2)) for path in repeated) == [2, 3, 4]
    assert {len(node.untried) for node in (Node(one), Node(one, WHOLE[:3], 3))} == {3, 0}


def test_paper_62_only_what_a_net_allows_is_tried() -> None:
    few = Actions(BLOCKS, frozenset({1}), {2: [2]})
    assert exhaustive(few, 1) == {
        WHOLE,
        (Step(0), Step(1, body=False), Step(2), Step(3)),
        *((Step(0), Step(1), *(Step(2), Step(3)) * runs) for runs in (2, 3)),
    }


def test_paper_62_the_bound_weighs_reward_visits_and_length() -> None:
    parent = Node(ALL, visits=10)
    short = Node(ALL, (Step(0, body=False),), 1, visits=4, reward=2.0)
    whole = Node(ALL, (Step(0),), 1, visits=4, reward=2.0)
    assert length(short.path) == 3
    expected = 2 / 4 + math.sqrt(math.log(10) / 4) - 0.5 * 3 / 4
    assert parent.bound(short) == pytest.approx(expected)
    assert parent.bound(short) - parent.bound(whole) == pytest.approx(0.125)
