"""The three families of models: configs, and `build`, which makes models from them."""

import speechkit.torch_required

import torch

from speechkit.component import Spec
from speechkit.errors import ConfigError
from speechkit.models.marblenet import MarbleNet
from speechkit.models.matchboxnet import MatchboxNet
from speechkit.models.model import Model, Output, Prepared, evaluating, scores_of
from speechkit.models.net import Block, Net, encoder_layers
from speechkit.models.prepare import prepare
from speechkit.models.quartznet import QuartzNet
from speechkit.plugins import offered, registry

__all__ = [
    "Block",
    "MarbleNet",
    "MatchboxNet",
    "Model",
    "Net",
    "Output",
    "Prepared",
    "QuartzNet",
    "build",
    "evaluating",
    "prepare",
    "scores_of",
]


def build(config: Net, seed: int = 0) -> Model:
    """The model a config describes, with initial weights drawn from `seed`."""
    components = registry()
    # a row may name one that it has no use for, which `save` would look for
    list(components.named(config.components()))
    # layers draw parameters that the init skips, such as a head's bias, from the global generator
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        frontend = components.build("frontend", config.frontend, config.sample_rate)
        stem, encoder, channels = encoder_layers(config, frontend.channels_out(1), components)
        make_head = components.find("head", Spec.parse(config.head).name).factory()
        names = offered(make_head, names=config.labels)
        head = components.build("head", config.head, channels, len(config.labels), **names)
        if encoder.per_clip and not head.per_clip:
            raise ConfigError(
                f"stack {config.stack} gives one frame for an utterance, and head {config.head} "
                "scores every frame; give a head that pools, such as clip"
            )
        model = Model(config, frontend, stem, encoder, head)
        components.build("init", config.init)(model, torch.Generator().manual_seed(seed))
    return model
