"""Audio, manifests, augmentations and batches: everything before the front end."""

from speechkit.data.audio import (
    AudioWarning,
    Source,
    audio_duration_s,
    channel_count,
    read_audio,
    read_blocks,
    sample_rate_of,
)
from speechkit.data.augment import Augmentation, apply, seeded_generator, utterance_generator
from speechkit.data.batch import Batch, Item, bucket_batches, collate, share
from speechkit.data.files import find_audio
from speechkit.data.loader import UtteranceDataset, batches
from speechkit.data.manifest import (
    Segments,
    Utterance,
    read_manifest,
    utterances_of,
    write_manifest,
)
from speechkit.data.pipes import RawFormat
from speechkit.data.samples import Channel
from speechkit.data.shards import ShardUtterance, are_shards, read_shards, windows, write_shards

__all__ = [
    "AudioWarning",
    "Augmentation",
    "Batch",
    "Channel",
    "Item",
    "RawFormat",
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
    "find_audio",
    "read_audio",
    "read_blocks",
    "read_manifest",
    "read_shards",
    "sample_rate_of",
    "seeded_generator",
    "share",
    "utterance_generator",
    "utterances_of",
    "windows",
    "write_manifest",
    "write_shards",
]
