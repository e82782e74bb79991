"""Simulated rooms with a microphone on a table and talkers around it."""

import importlib
from types import ModuleType

import numpy as np
from labels import RATE, Sound

from speechkit.errors import MissingExtraError

SMALLEST_M, LARGEST_M = (3.5, 3.0, 2.4), (9.0, 7.0, 3.4)
DECAY_S = (0.2, 0.6)
"""The time in which reverberation falls by 60 dB."""
MARGIN_M = 0.3
"""The least distance between a talker and a wall."""
MOST_REFLECTIONS = 60
MOUTH_M, TABLE_M = (1.1, 1.7), (0.7, 1.0)
"""Heights of talkers and of the microphone."""


def meeting_room(chance: np.random.Generator, distances_m: list[float]) -> list[Sound]:
    """The impulse responses `[N]` of talkers at these distances in one room, by image sources.

    The direct sound comes after 40 samples of a filter and its way through air at 343 m/s.
    Reflections within 2 ms of it may be louder. Raises MissingExtraError without pyroomacoustics.
    """
    pra = simulator()
    size_m, microphone, talkers = places(chance, distances_m)
    absorption, order = pra.inverse_sabine(chance.uniform(*DECAY_S), size_m)
    room = pra.ShoeBox(
        size_m,
        fs=RATE,
        materials=pra.Material(absorption),
        max_order=min(order, MOST_REFLECTIONS),
    )
    room.add_microphone(microphone)
    for talker in talkers:
        room.add_source(talker)
    room.compute_rir()
    return [np.asarray(response) for response in room.rir[0]]


def simulator() -> ModuleType:
    """The package pyroomacoustics. Raises MissingExtraError without it."""
    try:
        return importlib.import_module("pyroomacoustics")
    except ModuleNotFoundError as error:
        raise MissingExtraError("pyroomacoustics", "rooms", "a simulated room") from error


def places(
    chance: np.random.Generator, distances_m: list[float]
) -> tuple[Sound, Sound, list[Sound]]:
    """The size of a room, and the places of a microphone and of the talkers in it, in metres."""
    while True:
        size_m = chance.uniform(SMALLEST_M, LARGEST_M)
        microphone = np.append(size_m[:2] * chance.uniform(0.3, 0.7, 2), chance.uniform(*TABLE_M))
        talkers = []
        for distance_m in distances_m:
            up_m = chance.uniform(*MOUTH_M) - microphone[2]
            along_m = np.sqrt(max(0.0, distance_m**2 - up_m**2))
            angle = chance.uniform(0, 2 * np.pi)
            step = [along_m * np.cos(angle), along_m * np.sin(angle), up_m]
            talkers.append(microphone + step)
        if all(((t > MARGIN_M) & (t < size_m - MARGIN_M)).all() for t in talkers):
            return size_m, microphone, talkers
