"""A policy learns which choices have a high reward."""

import itertools

import pytest
import torch
from speechkit_compression.policy import Choices, Policy, search

MASK = (1, 0, 0, 1, 1, 1, 0, 1, 0, 0, 1, 0)


def agreement(choices: Choices) -> float:
    """A mock of the training of students: the share of choices that are right."""
    return sum(a == b for a, b in zip(choices, MASK, strict=True)) / len(MASK)


def solved(lr: float, seed: int) -> tuple[int | None, Policy]:
    """The first of 60 epochs that draws the mask, and the policy."""
    torch.manual_seed(seed)
    policy = Policy(len(MASK), 2)
    first = None
    for epoch, drawn in enumerate(search(policy, agreement, epochs=60, rollouts=5, lr=lr)):
        assert len(drawn) == 5
        if first is None and any(choices == MASK for choices, _ in drawn):
            first = epoch
    return first, policy


@pytest.mark.parametrize("seed", range(3))
def test_the_best_of_4096_masks_is_found_in_60_epochs_of_5_draws(seed: int) -> None:
    first, policy = solved(0.1, seed)
    assert first is not None
    assert tuple(policy.logits.argmax(1).tolist()) == MASK


@pytest.mark.parametrize("seed", range(3))
def test_without_a_rate_it_is_random_search(seed: int) -> None:
    first, policy = solved(0.0, seed)
    assert first is None
    assert not policy.logits.any()


def test_the_gradient_of_the_log_probability_is_that_of_finite_differences() -> None:
    policy = Policy(3, 4).double()
    with torch.no_grad():
        policy.logits.normal_(generator=torch.Generator().manual_seed(0))
    choices = (2, 0, 3)
    policy.log_probability(choices).backward()
    assert policy.logits.grad is not None
    for place, option in itertools.product(range(3), range(4)):
        values = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                policy.logits[place, option] += step
                values.append(policy.log_probability(choices).item())
                policy.logits[place, option] -= step
        slope = (values[0] - values[1]) / 2e-6
        assert policy.logits.grad[place, option].item() == pytest.approx(slope, abs=1e-8)


def test_choices_are_drawn_as_often_as_the_policy_says() -> None:
    torch.manual_seed(0)
    policy = Policy(2, 3)
    with torch.no_grad():
        policy.logits.copy_(torch.tensor([[0.0, 1.0, 2.0], [0.0, 0.0, 0.0]]))
    drawn = [policy.draw() for _ in range(4000)]
    for choices in itertools.product(range(3), repeat=2):
        share = drawn.count(choices) / len(drawn)
        assert share == pytest.approx(policy.log_probability(choices).exp().item(), abs=0.025)


def test_a_reward_above_the_mean_makes_choices_more_probable() -> None:
    torch.manual_seed(0)
    policy = Policy(1, 3)
    rewards = {0: -3.0, 1: -2.0, 2: -1.0}
    for _ in search(policy, lambda choices: rewards[choices[0]], epochs=20, rollouts=8, lr=0.1):
        pass
    low, middle, high = policy.logits.softmax(1)[0].tolist()
    assert low < 1 / 3 < high
    assert middle < high
