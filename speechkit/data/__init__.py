"""Audio, manifests, augmentations and batches: everything before the front end.

A name is imported on first use, since only some of the modules need torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

# for editors and type checkers, which do not call __getattr__
if TYPE_CHECKING:
    from speechkit.data.audio import AudioWarning as AudioWarning
    from speechkit.data.audio import Source as Source
    from speechkit.data.audio import audio_duration_s as audio_duration_s
    from speechkit.data.audio import channel_count as channel_count
    from speechkit.data.audio import read_sample_blocks as read_sample_blocks
    from speechkit.data.audio import read_samples as read_samples
    from speechkit.data.audio import sample_rate_of as sample_rate_of
    from speechkit.data.augment import Augmentation as Augmentation
    from speechkit.data.augment import Joining as Joining
    from speechkit.data.augment import apply as apply
    from speechkit.data.augment import seeded_generator as seeded_generator
    from speechkit.data.augment import utterance_generator as utterance_generator
    from speechkit.data.batch import Batch as Batch
    from speechkit.data.batch import Item as Item
    from speechkit.data.batch import bucket_batches as bucket_batches
    from speechkit.data.batch import collate as collate
    from speechkit.data.batch import share as share
    from speechkit.data.files import find_audio as find_audio
    from speechkit.data.loader import UtteranceDataset as UtteranceDataset
    from speechkit.data.loader import batches as batches
    from speechkit.data.manifest import Segments as Segments
    from speechkit.data.manifest import Utterance as Utterance
    from speechkit.data.manifest import read_manifest as read_manifest
    from speechkit.data.manifest import utterances_of as utterances_of
    from speechkit.data.manifest import write_manifest as write_manifest
    from speechkit.data.pipes import RawFormat as RawFormat
    from speechkit.data.samples import Channel as Channel
    from speechkit.data.shards import ShardUtterance as ShardUtterance
    from speechkit.data.shards import are_shards as are_shards
    from speechkit.data.shards import read_shards as read_shards
    from speechkit.data.shards import windows as windows
    from speechkit.data.shards import write_shards as write_shards
    from speechkit.data.tensors import read_audio as read_audio
    from speechkit.data.tensors import read_blocks as read_blocks

_NAMES = {
    "audio": (
        *("AudioWarning", "Source", "audio_duration_s", "channel_count", "read_sample_blocks"),
        *("read_samples", "sample_rate_of"),
    ),
    "augment": ("Augmentation", "Joining", "apply", "seeded_generator", "utterance_generator"),
    "batch": ("Batch", "Item", "bucket_batches", "collate", "share"),
    "files": ("find_audio",),
    "loader": ("UtteranceDataset", "batches"),
    "manifest": ("Segments", "Utterance", "read_manifest", "utterances_of", "write_manifest"),
    "pipes": ("RawFormat",),
    "samples": ("Channel",),
    "shards": ("ShardUtterance", "are_shards", "read_shards", "windows", "write_shards"),
    "tensors": ("read_audio", "read_blocks"),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted(_HOME)

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name in _HOME:
            return getattr(importlib.import_module(f"speechkit.data.{_HOME[name]}"), name)
        raise AttributeError(f"module 'speechkit.data' has no attribute {name!r}")
