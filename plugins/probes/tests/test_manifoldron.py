"""Regions of labels in a plane."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from scipy.spatial import Delaunay  # type: ignore[import-untyped]
from speechkit_probes.manifoldron import Region, classify

import speechkit as sk
from speechkit.data import Utterance, write_manifest
from speechkit.errors import ComponentError
from speechkit.models import Net
from speechkit.probes import Examples, probe

Corpus = Callable[..., Path]


def moons(count: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Two half circles that reach into each other, with noise of 0.08."""
    chance = np.random.default_rng(seed)
    angle = np.pi * chance.random(2 * count)
    upper = np.arange(2 * count) < count
    x = np.where(upper, np.cos(angle), 1 - np.cos(angle))
    y = np.where(upper, np.sin(angle), 0.5 - np.sin(angle))
    return np.stack([x, y], 1) + 0.08 * chance.normal(size=(2 * count, 2)), np.where(upper, 0, 1)


def test_two_moons_are_told_apart() -> None:
    points, labels = moons(200, 0)
    regions = [Region.of(points[labels == n], 14) for n in (0, 1)]
    test, expected = moons(200, 1)
    found, outside = classify(regions, test)
    assert (found == expected).mean() > 0.99
    assert outside.mean() < 0.4
    for n, region in enumerate(regions):
        assert region.inside(points[labels == n]).mean() > 0.99
    far = np.array([[9.0, 9.0], [-5, 0], [0.5, 5]])
    assert classify(regions, far)[1].all()


def test_with_all_points_as_neighbours_no_triangle_is_removed() -> None:
    points = np.random.default_rng(0).normal(size=(30, 2))
    region = Region.of(points, 29)
    assert len(region.triangles) == len(Delaunay(points).simplices)
    hull = set(Delaunay(points).convex_hull.flatten().tolist())
    assert set(region.border.flatten().tolist()) == hull


def test_a_point_of_two_regions_belongs_to_the_deeper_one() -> None:
    square = np.array([[0.0, 0], [4, 0], [4, 4], [0, 4], [2, 2]])
    regions = [Region.of(square, 4), Region.of(square + np.array([3.0, 0.0]), 4)]
    found, outside = classify(regions, np.array([[3.2, 2.0], [3.8, 2.0], [-1, 2], [9, 2]]))
    assert found.tolist() == [0, 1, 0, 1]
    assert outside.tolist() == [False, False, True, True]


def test_the_distance_is_that_of_the_nearest_edge() -> None:
    square = np.array([[0.0, 0], [4, 0], [4, 4], [0, 4]])
    region = Region.of(square, 3)
    np.testing.assert_allclose(region.depth(np.array([[1.0, 2], [6, 2], [5, 5]])), [1, 2, 2**0.5])


def test_words_have_regions_and_noise_is_outside(nets: dict[str, Net], tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    rows = []
    for i in range(40):
        at_s = np.arange(8000) / 16000
        tone = 0.3 * np.sin(
            2 * np.pi * (400 if i % 2 else 3000) * (1 + 0.1 * chance.random()) * at_s
        )
        path = tmp_path / f"{i}.wav"
        soundfile.write(path, tone + chance.normal(0, 0.002, 8000), 16000)
        rows.append(Utterance(audio=path, duration_s=0.5, label="low" if i % 2 else "high"))
    write_manifest(tmp_path / "tones.jsonl", rows)
    model = sk.build(nets["clip"], 1).eval()
    found = probe(model, ["manifoldron"], Examples(model, tmp_path / "tones.jsonl"))["manifoldron"]
    assert found["accuracy"] > 0.7
    assert found["noise_outside"] > found["outside"]
    assert found["map"].shape == (64, 64)
    states = []
    for _, features in Examples(model, tmp_path / "tones.jsonl"):
        with torch.no_grad():
            states.append(model.encoder(model.stem(features)).x.mean(2))
    variances = torch.linalg.eigvalsh(torch.cat(states).double().T.cov())
    assert found["variance"] == pytest.approx(float(variances[-2:].sum() / variances.sum()))
    assert set(found["map"].unique().tolist()) == {-1, 0, 1}


def test_few_recordings_of_a_label_are_refused(nets: dict[str, Net], corpus: Corpus) -> None:
    model = sk.build(nets["clip"]).eval()
    with pytest.raises(ComponentError, match="fewer than three recordings"):
        probe(model, ["manifoldron"], Examples(model, corpus(4)))
    with pytest.raises(ComponentError, match="give at least 2"):
        probe(model, ["manifoldron:neighbours=1"], Examples(model, corpus(4)))


def test_a_region_does_not_depend_on_the_unit() -> None:
    points, labels = moons(60, 0)
    test, _ = moons(100, 1)
    one, small = (Region.of(scale * points[labels == 0], 14) for scale in (1, 1e-6))
    np.testing.assert_array_equal(one.inside(test), small.inside(1e-6 * test))


def test_too_few_neighbours_for_a_triangle_are_refused() -> None:
    square = np.array([[0.0, 0], [1, 0], [9, 1], [10, 1]])
    with pytest.raises(ComponentError, match="give more neighbours"):
        Region.of(square, 1)
