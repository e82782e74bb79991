"""The checks, functions of an entry that raise AssertionError, and the checks of each kind."""

from collections.abc import Callable

from speechkit.plugins import Entry
from speechkit.testing.checks.command import KIND as COMMAND
from speechkit.testing.checks.command import check_command_explains_itself
from speechkit.testing.checks.equivalence import (
    check_export_equals,
    check_expression_equals,
    check_fuse_equals,
    check_lowered_equals,
    check_macs_grow_with_frames,
)
from speechkit.testing.checks.layer import (
    check_every_step_trains,
    check_gradients,
    check_init_keeps_the_start,
    check_shape_and_dtype,
    check_state_dict_round_trip,
)
from speechkit.testing.checks.metadata import (
    check_example_builds,
    check_metadata,
    check_parts_are_declared,
)
from speechkit.testing.checks.nets import (
    check_export_is_written,
    check_method_in_two_processes,
    check_method_resumes,
    check_probe_finds_the_same,
    check_transform_makes_a_model,
)
from speechkit.testing.checks.pure import (
    check_input_not_modified,
    check_modes_change_no_weights,
    check_no_global_rng,
    check_thread_safe,
)
from speechkit.testing.checks.sizes import (
    check_channels_are_free,
    check_half_precision,
    check_long_inputs,
    check_memory_grows_with_frames,
    check_rows_are_free,
    check_short_inputs,
    check_stride_and_lookahead,
)
from speechkit.testing.checks.tasks import (
    check_clip_head_streams,
    check_config_round_trip,
    check_head_serves_a_task,
    check_targets_fit_the_loss,
    check_task_trains,
    check_verb_predicts,
)
from speechkit.testing.checks.time import (
    check_batch_rows_independent,
    check_invalid_frames_are_skipped,
    check_memory_may_be_reused,
    check_padding_is_inert,
    check_state_follows_the_device,
    check_state_is_a_fixed_tree,
    check_stream_equals_offline,
    check_time_field_in_training,
    check_time_field_is_true,
)
from speechkit.testing.checks.training import (
    check_chunks_change_nothing,
    check_factors_are_finite,
    check_generator_decides,
    check_losses_are_finite,
    check_step_lowers_a_loss,
)
from speechkit.testing.specimen import LAYERS

Function = Callable[[Entry], None]

OF_LAYERS: tuple[Function, ...] = (
    check_parts_are_declared,
    check_shape_and_dtype,
    check_input_not_modified,
    check_modes_change_no_weights,
    check_no_global_rng,
    check_thread_safe,
    check_gradients,
    check_every_step_trains,
    check_init_keeps_the_start,
    check_batch_rows_independent,
    check_padding_is_inert,
    check_invalid_frames_are_skipped,
    check_time_field_is_true,
    check_time_field_in_training,
    check_stream_equals_offline,
    check_memory_may_be_reused,
    check_state_is_a_fixed_tree,
    check_state_follows_the_device,
    check_state_dict_round_trip,
    check_rows_are_free,
    check_short_inputs,
    check_long_inputs,
    check_memory_grows_with_frames,
)

LONG: frozenset[Function] = frozenset(
    {
        check_export_equals,
        check_half_precision,
        check_long_inputs,
        check_memory_grows_with_frames,
        check_method_in_two_processes,
    }
)
"""The checks that take longest."""

OF_OTHERS: dict[str, tuple[Function, ...]] = {
    "augmentation": (check_generator_decides,),
    "decoder": (check_chunks_change_nothing,),
    "exporter": (check_export_is_written,),
    "init": (check_generator_decides,),
    "loss": (check_losses_are_finite,),
    "method": (check_method_resumes, check_method_in_two_processes),
    "net": (check_config_round_trip,),
    "optimizer": (check_step_lowers_a_loss,),
    "probe": (check_probe_finds_the_same,),
    "schedule": (check_factors_are_finite,),
    "task": (check_targets_fit_the_loss, check_task_trains, check_verb_predicts),
    "transform": (check_transform_makes_a_model,),
}


def functions_for(entry: Entry) -> list[Function]:
    """The checks for an entry, by its kind and its declarations."""
    if entry.kind == COMMAND:
        return [check_command_explains_itself]
    found: list[Function] = [check_example_builds, check_metadata]
    found += OF_OTHERS.get(entry.kind, ())
    if entry.kind in LAYERS:
        found += [*OF_LAYERS, check_lowered_equals, check_macs_grow_with_frames]
    # a front end has one channel
    if entry.kind in LAYERS - {"frontend"}:
        found += [check_channels_are_free, check_fuse_equals]
    # audio and features are float32
    if entry.kind in LAYERS - {"frontend", "normalizer"}:
        found.append(check_half_precision)
    if entry.kind in ("mixer", "stem"):
        found.append(check_stride_and_lookahead)
    if entry.kind == "head":
        found += [check_head_serves_a_task, check_clip_head_streams]
    if entry.kind == "activation":
        found.append(check_expression_equals)
    if entry.component.exports - {"torch"}:
        found.append(check_export_equals)
    return found
