"""Sound, manifests, augmentations and batches: everything before the front end."""

from speechkit.data.audio import AudioWarning, Source, audio_duration_s, read_audio
from speechkit.data.augment import Augmentation, apply, utterance_generator
from speechkit.data.batch import Batch, Item, bucket_batches, collate
from speechkit.data.loader import UtteranceDataset, batches
from speechkit.data.manifest import Segments, Utterance, read_manifest, write_manifest

__all__ = [
    "AudioWarning",
    "Augmentation",
    "Batch",
    "Item",
    "Segments",
    "Source",
    "Utterance",
    "UtteranceDataset",
    "apply",
    "audio_duration_s",
    "batches",
    "bucket_batches",
    "collate",
    "read_audio",
    "read_manifest",
    "utterance_generator",
    "write_manifest",
]
