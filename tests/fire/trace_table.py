"""Which test shows which case of the fault catalogue. N and S cases are rows of the hostile table (tests/hostile).

A name is ``folder/file::test``, below ``tests/``; ``test_fire_trace`` fails for a case without one, for a test that is
not there, and for one that is skipped. What does not apply yet is in ``NOT_APPLICABLE``, each with its reason.
"""

from __future__ import annotations

SIZES = {"N": 23, "S": 43, "D": 23, "C": 20, "L": 23, "M": 28, "H": 14}
CATALOGUE = [f"{letter}{number}" for letter, count in SIZES.items() for number in range(1, count + 1)]

_NO_MANIFESTS = "the engine reads no {} yet; Metalink, the one document it reads, is under M10, M15 and M20"
NOT_APPLICABLE: dict[str, str] = {
    "D15": "a part lies in the folder of its final name, so no rename crosses a file system",
    **{case: _NO_MANIFESTS.format("HLS playlists") for case in ("M5", "M6", "M7", "M8", "M9")},
    **{case: _NO_MANIFESTS.format("DASH manifests") for case in ("M11", "M12", "M13", "M14")},
    "M23": "the engine keeps no licences and no keys yet",
}

_BAD_DAY = "fire/test_bad_day.py::test_the_bad_day"
_KILLS = "fire/test_fire_kills.py::test_killed_under_load"
_STEPS = "whole/test_whole_crash_steps.py::test_a_crash_before_every_step"
_KILL_9 = "store/test_store_crashes.py::test_c1_c6_what_was_acknowledged_outlives_kill_9_again_and_again"
_FUZZ = "fire/test_fire_fuzz.py::test_t11_nothing_is_found"
_METALINK = "media/test_metalink.py::test_bad_documents"

DISK: dict[str, tuple[str, ...]] = {
    "D1": (
        "whole/test_whole_disk.py::test_no_room_at_allocation",
        "files/test_files_new_parts.py::test_the_disk_is_too_small",
    ),
    "D2": ("whole/test_whole_disk.py::test_full_in_the_middle", _BAD_DAY),
    "D3": ("files/test_files_new_parts.py::test_whatever_fails_leaves_nothing", _BAD_DAY),
    "D4": (
        "store/test_store_crashes.py::test_d4_a_full_disk_is_no_space_nothing_is_claimed_and_space_heals_it",
        "whole/test_whole_disk.py::test_the_disk_of_the_store_is_full_too",
        "store/test_store_headroom.py::test_an_engine_starts_and_removes_on_a_full_disk",
    ),
    "D5": ("transfer/test_transfer_sealing.py::test_a_write_that_fails_ends_the_job", _BAD_DAY),
    "D6": (
        "whole/test_whole_recovery.py::test_d6_a_failed_sync_is_not_tried_again_and_believed",
        "whole/test_whole_disk.py::test_a_failed_sync_is_never_trusted",
    ),
    "D7": (
        "whole/test_whole_damaged_records.py::test_d7_a_chunk_that_cannot_be_read_is_fetched_again",
        "files/test_files_reading.py::test_reading_back",
    ),
    "D8": ("native/test_sealer_faults.py::test_d8_a_full_disk_is_reported_after_a_short_write",),
    "D9": ("native/test_sealer_end.py::test_its_threads_take_no_signals", _BAD_DAY),
    "D10": (
        "whole/test_whole_disk.py::test_the_target_turns_read_only",
        "whole/test_whole_disk.py::test_a_read_only_root",
    ),
    "D11": ("native/test_sealer_faults.py::test_d11_a_size_limit_is_reported_and_kills_nobody",),
    "D12": (
        "fire/test_bad_day.py::test_a_device_that_is_away_is_no_file_that_is_gone",
        "whole/test_whole_recovery.py::test_a_disk_that_is_away_at_the_start_loses_nothing",
    ),
    "D13": (
        "whole/test_whole_disk.py::test_the_part_was_deleted",
        "whole/test_whole_disk.py::test_the_part_was_cut",
        "whole/test_whole_disk.py::test_the_part_was_replaced_by_something_else",
    ),
    "D14": (
        "whole/test_whole_disk.py::test_the_output_appears_while_it_is_fetched",
        "files/test_files_publishing.py::test_a_race_for_one_name_has_one_winner",
    ),
    # Names are never compared: the kernel decides, whatever it takes for one name. (No folding file system is at hand.)
    "D16": (
        "files/test_files_publishing.py::test_publishing_onto_something",
        "files/test_files_publishing.py::test_a_race_for_one_name_has_one_winner",
    ),
    "D17": (
        "store/test_store_opening.py::test_d17_a_root_on_a_network_file_system_is_refused_before_anything_is_made",
    ),
    "D18": (
        "whole/test_whole_again.py::test_verify_finds_what_was_harmed",
        "whole/test_whole_repair.py::test_only_bad_chunks_are_fetched_again",
    ),
    "D19": (
        "transfer/test_transfer_committer.py::test_the_window_is_never_exceeded",
        "whole/test_whole_disk.py::test_a_stream_held_up_by_a_hang_is_parked_by_the_close",
        "fire/test_fire_limits.py::test_a_slow_disk",
    ),
    "D20": ("files/test_files_new_parts.py::test_the_disk_is_too_small",),
    "D21": (
        "files/test_files_names.py::test_a_name_of_every_length_can_be_made",
        "fire/test_fire_findings.py::test_d21_a_tag_makes_no_name_too_long_nor_loses_its_beginning",
    ),
    "D22": (
        "files/test_files_publishing.py::test_a_folder_that_goes_away_while_its_part_is_open",
        "whole/test_whole_disk.py::test_the_folder_of_the_target_is_gone",
    ),
    "D23": (
        "store/test_store_commits.py::test_d23_the_suspect_log_holds_the_last_groups",
        "whole/test_whole_reboot.py::test_what_is_not_on_the_disk_is_fetched_again",
    ),
}

CRASHES: dict[str, tuple[str, ...]] = {
    "C1": (_KILLS, "whole/test_whole_kill_loop.py::test_killed_again_and_again"),
    "C2": (_STEPS, "whole/test_whole_reboot.py::test_no_bit_before_its_bytes_are_synced"),
    "C3": (_STEPS, "transfer/test_transfer_committer.py::test_a_failed_commit_drops_the_whole_group"),
    "C4": (_KILL_9,),
    "C5": (_KILL_9, "store/test_store_crashes.py::test_l9_a_commit_that_reports_an_error_is_looked_up_never_assumed"),
    "C6": (_KILL_9, "whole/test_whole_reboot.py::test_progress_is_told_after_its_commit"),
    "C7": (_STEPS, "files/test_files_new_parts.py::test_a_leftover_of_the_same_name_is_replaced"),
    "C8": (_STEPS, "whole/test_whole_crash_steps.py::test_finalising_is_finished_without_the_server"),
    "C9": (_STEPS,),
    "C10": (_STEPS, "files/test_files_publishing.py::test_publishing_by_link_is_finished_after_a_crash"),
    "C11": (_STEPS,),
    "C12": (_STEPS, "whole/test_whole_crash_steps.py::test_finalising_is_finished_without_the_server"),
    "C13": ("control/test_control_removal.py::test_a_crash_before_every_step_of_a_removal",),
    "C14": (
        "whole/test_whole_reboot.py::test_the_part_lost_its_tail",
        "fire/test_power.py::test_no_power_cut_makes_the_engine_lie",
    ),
    "C15": (
        "store/test_store_opening.py::test_c15_leftovers_of_a_creation_that_died_are_removed",
        "store/test_store_damage.py::test_c15_a_store_folder_without_a_data_file_is_not_filled",
    ),
    "C16": (
        "whole/test_whole_reboot.py::test_the_recovery_after_a_power_cut_ends_early",
        "whole/test_whole_retry.py::test_an_entry_that_the_process_dies_with_again_and_again_is_quarantined",
    ),
    "C17": (
        _KILLS,
        _KILL_9,
        "fire/test_fire_limits.py::test_little_memory",
        "fire/test_fire_limits.py::test_killed_for_its_memory",
    ),
    "C18": (
        "whole/test_whole_cancel.py::test_cancelled_before_every_step",
        "transfer/test_transfer_committer.py::test_a_commit_that_was_begun_is_finished_before_the_end",
    ),
    "C19": (
        "native/test_sealer_end.py::test_a_forgotten_sealer_finishes_its_work",
        "transfer/test_transfer_sealing.py::test_closing_answers_for_all_that_is_under_way",
    ),
    "C20": (
        "whole/test_whole_root.py::test_a_copied_root_is_refused_and_can_be_adopted",
        "whole/test_whole_disk.py::test_the_part_was_replaced_by_its_own_copy",
    ),
}

STORE: dict[str, tuple[str, ...]] = {
    "L1": ("store/test_store_crashes.py::test_l1_a_tiny_map_grows_while_threads_read",),
    "L2": ("store/test_store_crashes.py::test_l2_reader_slots_of_killed_readers_are_freed_at_open",),
    "L3": ("fire/test_fire_laws.py::test_l3_l5_a_transaction_is_one_call_on_one_thread",),
    "L4": ("store/test_store_crashes.py::test_l4_a_forked_child_is_refused_and_does_not_keep_the_lease",),
    "L5": (
        "fire/test_fire_laws.py::test_l3_l5_a_transaction_is_one_call_on_one_thread",
        "store/test_store_crashes.py::test_writes_of_many_threads_are_let_in_one_at_a_time",
    ),
    "L6": ("store/test_store_opening.py::test_l6_the_same_process_cannot_open_twice",),
    "L7": ("store/test_store_opening.py::test_l7_a_second_opener_is_told_the_owners_pid",),
    "L8": (
        "store/test_store_crashes.py::test_l8_after_a_panic_the_store_is_opened_anew_once",
        "store/test_store_crashes.py::test_l8_l9_a_failing_system_call_never_loses_an_acknowledged_commit",
    ),
    "L9": ("store/test_store_crashes.py::test_l9_a_commit_that_reports_an_error_is_looked_up_never_assumed",),
    "L10": (
        "store/test_store_damage.py::test_l10_every_flipped_bit_is_found",
        "fire/test_fire_findings.py::test_l10_bytes_that_are_no_record_are_a_bad_record",
    ),
    "L11": ("store/test_store_damage.py::test_l11_l12_a_truncated_data_file_is_refused_before_it_is_read",),
    "L12": ("store/test_store_damage.py::test_l11_l12_a_truncated_data_file_is_refused_before_it_is_read",),
    "L13": ("fire/test_fire_laws.py::test_l13_a_lock_file_that_was_deleted_costs_nothing",),
    "L14": (
        "store/test_store_opening.py::test_l14_a_file_of_the_other_lmdb_format_is_refused_untouched",
        "store/test_store_opening.py::test_l14_l16_the_environment_cannot_change_the_format_or_switches",
    ),
    "L15": (
        "store/test_store_structure.py::test_l10_l14_no_damage_crashes_hangs_or_surfaces_as_an_error_of_lmdb",
        _FUZZ,
    ),
    "L16": ("store/test_store_opening.py::test_l14_l16_the_environment_cannot_change_the_format_or_switches",),
    "L17": ("fire/test_fire_laws.py::test_l17_nothing_that_is_read_is_a_view_into_the_map",),
    "L18": ("store/test_store_entries.py::test_l18_an_id_longer_than_an_lmdb_key_is_kept",),
    "L19": ("fire/test_fire_laws.py::test_l19_a_commit_into_a_huge_bitmap_rewrites_one_small_page",),
    "L20": ("fire/test_fire_laws.py::test_l20_when_all_reader_slots_are_taken_those_of_the_dead_are_freed",),
    "L21": ("fire/test_fire_laws.py::test_l21_a_file_of_another_kind_of_machine_is_refused_untouched",),
    "L22": ("store/test_store_inbox.py::test_a_guest_is_not_stopped_while_it_keeps_others_from_writing",),
    "L23": ("store/test_store_opening.py::test_l23_no_descriptor_of_the_store_reaches_a_child_program",),
}

MALICE: dict[str, tuple[str, ...]] = {
    "M1": (
        "files/test_files_names.py::test_offered_names",
        "files/test_files_names.py::test_a_name_is_always_one_safe_component",
    ),
    "M2": (
        "files/test_files_new_parts.py::test_a_trap_planted_at_the_last_moment",
        "whole/test_whole_disk.py::test_the_output_is_a_trap",
    ),
    "M3": (
        "files/test_files_new_parts.py::test_a_trap_in_the_place_of_a_new_part",
        "files/test_files_old_parts.py::test_a_trap_in_the_place_of_an_old_part",
    ),
    "M4": ("files/test_files_names.py::test_offered_names", _FUZZ),
    "M10": (_METALINK,),
    "M15": (_METALINK,),
    "M16": ("net/test_url.py::test_m16_refused", _FUZZ),
    "M17": ("net/test_fields.py::test_m17_m18_refused_fields",),
    "M18": ("net/test_fields.py::test_m17_m18_refused_fields",),
    "M19": ("net/test_trust.py::test_m19_ports_of_other_protocols_are_for_the_caller_only",),
    "M20": ("net/test_fields.py::test_m20_not_a_count", _FUZZ),
    "M21": (_FUZZ, "fire/test_fire_fuzz.py::test_the_fuzzer_finds_what_is_not_linear"),
    "M22": (
        "net/test_digest_fields.py::test_m20_m22_anything_else_is_as_if_it_were_not_there",
        "whole/test_whole_again.py::test_a_wrong_digest_publishes_nothing",
    ),
    "M24": ("whole/test_whole_trust.py::test_m24_no_secret_comes_out_anywhere",),
    "M25": ("fire/test_fire_laws.py::test_m25_what_a_server_sends_is_escaped_where_it_is_told",),
    "M26": (
        "net/test_proxy.py::test_m26_the_environment_counts_only_when_asked",
        "net/test_tls.py::test_m26_no_key_log_is_written",
        "net/test_trust.py::test_m26_netrc_is_not_for_plain_http_and_never_by_default",
    ),
    "M27": (
        "whole/test_whole_disk.py::test_the_part_was_replaced_by_its_own_copy",
        "whole/test_whole_overwrite.py::test_a_write_into_the_unfinished_file_is_not_believed",
    ),
    "M28": (
        "native/test_sealer_faults.py::test_m28_hostile_places_are_refused",
        "native/test_hostile_calls.py::test_m28_any_call_is_refused_or_does_what_the_twin_does",
    ),
}

MISUSE: dict[str, tuple[str, ...]] = {
    "H1": (
        "whole/test_whole_door.py::test_every_method_refuses_after_the_close",
        "whole/test_whole_door.py::test_every_method_refuses_another_thread",
        "whole/test_whole_door.py::test_asyncio_inside_of_the_trio_run_is_refused",
    ),
    "H2": ("whole/test_whole_again.py::test_the_same_thing_asked_for_many_times_at_once",),
    "H3": ("whole/test_whole_again.py::test_two_entries_with_one_target",),
    "H4": ("control/test_control_removal.py::test_bug_2_removing_a_running_one_stops_it_and_deletes_its_files",),
    "H5": ("whole/test_whole_model.py::test_random_lives", _KILLS),
    "H6": ("control/test_control_manager_events.py::test_a_consumer_that_raises_or_never_reads_harms_nobody",),
    "H7": (
        "control/test_control_hub.py::test_a_consumer_that_does_not_read_is_told_and_dropped",
        "control/test_control_manager_events.py::test_no_change_is_lost_or_told_after_a_newer_state",
    ),
    "H8": ("whole/test_whole_cancel.py::test_cancelled_at_any_time",),
    "H9": (
        "store/test_store_opening.py::test_h9_a_newer_schema_is_refused_untouched",
        "store/test_store_migration.py::test_an_older_version_refuses_the_migrated_store_untouched",
    ),
    "H10": ("fire/test_fire_laws.py::test_h10_a_store_in_memory_works_like_any_other",),
    "H11": ("whole/test_whole_again.py::test_an_entry_cannot_move",),
    "H12": (
        "control/test_control_requests.py::test_what_cannot_work_is_refused",
        "whole/test_whole_misuse.py::test_a_limit_that_is_none",
    ),
    "H13": ("files/test_files_new_parts.py::test_a_new_part_ignores_the_umask",),
    "H14": ("whole/test_whole_root.py::test_h14_the_root_goes_while_a_download_runs",),
}

TABLE: dict[str, tuple[str, ...]] = {**DISK, **CRASHES, **STORE, **MALICE, **MISUSE}


def named_tests() -> list[str]:
    """Every test that the table names, once."""
    return sorted({test for tests in TABLE.values() for test in tests})
