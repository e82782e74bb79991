"""The average of models of one shape."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import speechkit as sk
from speechkit.component import Spec
from speechkit.errors import ConfigError
from speechkit.transforms import transform


def average(*folders: Path) -> Spec:
    return Spec("average", {"models": [str(folder) for folder in folders]})


def test_the_average_of_a_model_with_itself_is_it(nets: dict[str, Any], tmp_path: Path) -> None:
    model = sk.build(nets["ctc"])
    sk.save(model, tmp_path / "m")
    made, (record,) = transform(model, [average(tmp_path / "m", tmp_path / "m")])
    assert all(torch.equal(x, model.state_dict()[name]) for name, x in made.state_dict().items())
    assert record.report == {"distances": [0.0, 0.0, 0.0]}


def test_all_weights_and_statistics_are_the_mean(nets: dict[str, Any], tmp_path: Path) -> None:
    models = [sk.build(nets["ctc"], seed) for seed in range(3)]
    for number, model in enumerate(models):
        model.encoder[0].sum.shortcut.norm.running_var.fill_(1.0 + number)
        model.encoder[0].sum.shortcut.norm.num_batches_tracked.fill_(number + 5)
        sk.save(model, tmp_path / f"{number}")
    made, (record,) = transform(models[0], [average(tmp_path / "1", tmp_path / "2")])
    states = [model.state_dict() for model in models]
    for name, value in made.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, sum(state[name] for state in states) / 3)
    assert made.encoder[0].sum.shortcut.norm.num_batches_tracked == 5
    assert len(record.report["distances"]) == 3
    assert min(record.report["distances"]) > 0.1


def test_a_model_of_another_shape_or_other_labels_is_refused(
    nets: dict[str, Any], tmp_path: Path
) -> None:
    config = nets["ctc"]
    model = sk.build(config)
    sk.save(sk.build(replace(config, labels=tuple(" hilp"))), tmp_path / "labels")
    wide = (replace(config.blocks[0], kernel=7), *config.blocks[1:])
    sk.save(sk.build(replace(config, blocks=wide)), tmp_path / "wide")
    with pytest.raises(ConfigError, match="labels has other labels than the first model"):
        transform(model, [average(tmp_path / "labels")])
    with pytest.raises(
        ConfigError, match=r"is \[16, 1, 7\] in .*wide and \[16, 1, 5\] in the first"
    ):
        transform(model, [average(tmp_path / "wide")])
