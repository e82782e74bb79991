"""A policy that chooses one of several options in each of several places, and learns by trying."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

Choices = tuple[int, ...]
"""The number of the option that is chosen in each place."""


class Policy(nn.Module):
    """p(choices) = Π_i softmax(logits_i)[choice_i], with learned logits `[places, options]`.

    At first all options are equally probable.
    """

    def __init__(self, places: int, options: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(places, options))

    @torch.no_grad()
    def draw(self) -> Choices:
        """Choices drawn from the policy by the global generator."""
        return tuple(torch.multinomial(self.logits.softmax(1), 1)[:, 0].tolist())

    def log_probability(self, choices: Choices) -> Tensor:
        """log p(choices), a scalar."""
        chosen = torch.tensor(choices)[:, None]
        return self.logits.log_softmax(1).gather(1, chosen).sum()


def search(
    policy: Policy,
    reward: Callable[[Choices], float],
    epochs: int,
    rollouts: int,
    lr: float,
) -> Iterator[list[tuple[Choices, float]]]:
    """REINFORCE: yields the choices that each epoch draws, `rollouts` of them, with their rewards.

    After each epoch the policy takes a step of Adam along mean_i (R_i − b) ∇ log p(choices_i). The
    baseline b is the mean reward of all draws so far. With `lr=0` this is random search. Source:
    Williams, Machine Learning 8, 1992.
    """
    optimizer = torch.optim.Adam(policy.parameters(), lr=lr)
    rewards: list[float] = []
    for _ in range(epochs):
        drawn = [policy.draw() for _ in range(rollouts)]
        found = [(choices, reward(choices)) for choices in drawn]
        rewards += [each for _, each in found]
        baseline = sum(rewards) / len(rewards)
        terms = [(each - baseline) * policy.log_probability(choices) for choices, each in found]
        optimizer.zero_grad()
        (-torch.stack(terms).mean()).backward()
        optimizer.step()
        yield found
