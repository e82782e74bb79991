"""Monte Carlo tree search over the paths through a net's blocks."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from speechkit_compression.depth import Step

Path = tuple[Step, ...]
MOST_BLOCKS = 4
"""The most adjacent blocks that one action leaves out or repeats."""
RUNS = 0, 2, 3, 4
"""How often an action runs its blocks; 0 leaves out their bodies."""
EXPLORATION = 1.0
LENGTH_PENALTY = 0.5


def length(path: Path) -> int:
    """The number of blocks that a path runs with their bodies."""
    return sum(step.body for step in path)


@dataclass(frozen=True)
class Actions:
    """What may be done to the blocks of a net, `blocks` in number.

    Those in `bodies` may be left without their body; `count` blocks from each of `loops[count]` on
    may be repeated.
    """

    blocks: int
    bodies: frozenset[int]
    loops: dict[int, list[int]]

    def __call__(self, place: int) -> Iterator[tuple[int, Path]]:
        """The place behind each action on blocks from `place` on, and the steps up to there."""
        for first in range(place, self.blocks):
            for count in range(1, min(MOST_BLOCKS, self.blocks - first) + 1):
                end = first + count
                for runs in RUNS:
                    if runs == 0 and self.bodies.issuperset(range(first, end)):
                        yield end, (*_steps(place, first), *_steps(first, end, body=False))
                    elif runs and first in self.loops.get(count, ()):
                        yield end, (*_steps(place, first), *_steps(first, end) * runs)


@dataclass
class Node:
    """A path whose steps are fixed up to block `place`; the blocks from there on run once.

    A path has at most twice as many steps as the net has blocks.
    """

    actions: Actions
    fixed: Path = ()
    place: int = 0
    children: list["Node"] = field(default_factory=list)
    visits: int = 0
    reward: float = 0.0

    def __post_init__(self) -> None:
        found = [
            (place, (*self.fixed, *steps))
            for place, steps in self.actions(self.place)
            if len(self.fixed) + len(steps) + self.actions.blocks - place <= 2 * self.actions.blocks
        ]
        self.untried = [found[index] for index in torch.randperm(len(found)).tolist()]

    @property
    def path(self) -> Path:
        return (*self.fixed, *_steps(self.place, self.actions.blocks))

    def search(self, reward: Callable[[Path], float], simulations: int) -> None:
        """Runs a path for each simulation, and adds its reward to all nodes that led to it."""
        for _ in range(simulations):
            trail: list[Node] = [self]
            while trail[-1].children and not trail[-1].untried:
                trail.append(max(trail[-1].children, key=trail[-1].bound))
            if trail[-1].untried:
                place, fixed = trail[-1].untried.pop()
                trail[-1].children.append(Node(self.actions, fixed, place))
                trail.append(trail[-1].children[-1])
            earned = reward(trail[-1].path)
            for node in trail:
                node.visits += 1
                node.reward += earned

    def bound(self, child: "Node") -> float:
        """UCB = Q / v + c · sqrt(ln V / v) − λ · |P| / N of a child."""
        mean = child.reward / child.visits
        unsure = math.sqrt(math.log(self.visits) / child.visits)
        share = length(child.path) / self.actions.blocks
        return mean + EXPLORATION * unsure - LENGTH_PENALTY * share


def _steps(first: int, end: int, body: bool = True) -> Path:
    return tuple(Step(block, body) for block in range(first, end))
