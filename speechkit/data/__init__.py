"""Sound, manifests, augmentations and batches: everything before the front end."""

from speechkit.data.audio import (
    AudioWarning,
    Channel,
    Source,
    audio_duration_s,
    channel_count,
    read_audio,
)
from speechkit.data.augment import Augmentation, apply, utterance_generator
from speechkit.data.batch import Batch, Item, bucket_batches, collate, share
from speechkit.data.loader import UtteranceDataset, batches
from speechkit.data.manifest import Segments, Utterance, read_manifest, write_manifest
from speechkit.data.shards import ShardUtterance, are_shards, read_shards, windows, write_shards

__all__ = [
    "AudioWarning",
    "Augmentation",
    "Batch",
    "Channel",
    "Item",
    "Segments",
    "ShardUtterance",
    "Source",
    "Utterance",
    "UtteranceDataset",
    "apply",
    "are_shards",
    "audio_duration_s",
    "batches",
    "bucket_batches",
    "channel_count",
    "collate",
    "read_audio",
    "read_manifest",
    "read_shards",
    "share",
    "utterance_generator",
    "windows",
    "write_manifest",
    "write_shards",
]
