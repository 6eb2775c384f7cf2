"""What can go wrong, and the tests that show what tltf does then: ``make faults`` runs them all.

Tier A comes before anything else, then B, then C. A row without a test says why; a row whose test
is skipped, because a tool is absent, was not run, which is not the same as passed.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One fault: its tier, what happens, the tests (file, or file::function), and what is open."""

    tier: str
    fault: str
    tests: tuple[str, ...] = ()
    gap: str = ""


FAULTS = "faults/"
EVERY = f"{FAULTS}test_every_call.py"
FOREIGN = f"{FAULTS}test_foreign_files.py"
FLIPS = f"{FAULTS}test_bit_flips.py"
KILLS = f"{FAULTS}test_twenty_kills.py"
FOLDER = f"{FAULTS}test_one_folder.py"
RUN = f"{FAULTS}test_run_faults.py"
BAD = "cli/test_bad_input.py"
SCAN = "data/test_scan.py"
TABLES = "data/test_tables.py"
WEIGHTS = "backbones/test_weights.py"

ROWS: dict[str, Row] = {
    "I1": Row("A", "truncated JPEG or PNG", (f"{BAD}::test_every_unreadable_image_is_named", SCAN)),
    "I2": Row("B", "corruption that decodes as garbage", (SCAN,)),
    "I3": Row("A", "empty file, text or HTML named .jpg",
              (f"{BAD}::test_every_unreadable_image_is_named", SCAN)),
    "I4": Row("A", "right content, wrong extension", (SCAN,)),
    "I5": Row("A", "image of an unsupported kind", (SCAN,)),
    "I6": Row("A", "CMYK, palette, 16-bit, grey, alpha, GIF", ("data/test_decoding.py",)),
    "I7": Row("A", "EXIF orientation", (SCAN,)),
    "I8": Row("A", "decompression bomb", (SCAN,)),
    "I9": Row("A", "hidden files, dangling links, empty class", ("data/test_folders.py",)),
    "I10": Row("B", "file names with other bytes, newlines, emoji", ("data/test_folders.py",)),
    "I11": Row("B", "file vanishes or changes midway", ("data/test_batches.py",)),
    "I12": Row("A", "CSV: encodings, NUL, ragged rows, unclosed quote", (TABLES,)),
    "I13": Row("A", "labels: unknown, empty, twins, one class",
               (f"{BAD}::test_one_class", TABLES, "data/test_splits.py")),
    "I14": Row("A", "a split without examples",
               (f"{BAD}::test_too_few_for_three_splits", "data/test_splits.py")),
    "I15": Row("B", "source ends early in an epoch",
               ("training/test_loop.py::test_an_epoch_that_ends_early_is_an_error",)),
    "I16": Row("B", "damaged TFRecord of a TFDS set", ("data/test_named_sets.py",),
               gap="counted against the set's info; the shard is not named"),
    "I17": Row("A", "texts: invalid UTF-8, empty, a megabyte",
               ("data/test_textfiles.py", "data/test_audit.py::test_texts",
                "data/test_textbatches.py::test_a_megabyte_of_text_is_cut_and_counted")),
    "I18": Row("A", "duplicates across splits",
               (f"{BAD}::test_a_file_copied_into_two_splits", "data/test_splits.py")),
    "P1": Row("A", "SIGKILL in either phase, border, evaluation, export",
              (KILLS, "training/test_fit_phases.py")),
    "P2": Row("A", "SIGKILL at every file-changing system call",
              (f"{EVERY}::test_killed_at_every_call",)),
    "P3": Row("A", "SIGTERM, SIGINT, twice",
              ("integration/test_interruption.py", f"{FAULTS}test_signals.py")),
    "P4": Row("B", "out of memory", (f"{RUN}::test_no_memory_left",)),
    "P5": Row("B", "the decoder crashes", (SCAN,)),
    "P7": Row("B", "a FIFO, a stuck reader", (SCAN,),
              gap="FIFOs are refused; there is no --stall_timeout"),
    "P9": Row("A", "resume with other flags, data, code, threads",
              ("test_rundir.py::test_each_field_that_differs_is_named_old_to_new",
               f"{RUN}::test_other_data_is_named_field_by_field",
               f"{RUN}::test_another_environment_is_said_or_refused",
               "training/test_states.py::test_a_state_comes_back")),
    "P10": Row("A", "a finished run started again",
               (f"{RUN}::test_a_finished_run_is_not_touched",)),
    "S1": Row("A", "disk full, file-size limit",
              (f"{FAULTS}test_full_disk.py", f"{EVERY}::test_failed_at_every_call")),
    "S2": Row("B", "EIO at the n-th write, fsync, rename",
              (f"{EVERY}::test_failed_at_every_call",)),
    "S3": Row("A", "output unwritable, a file, named like one; parents are made",
              (f"{BAD}::test_where_no_output_can_be",
               "test_rundir.py::test_where_no_folder_can_be")),
    "S4": Row("A", "bit flip or truncation in any artifact", (FLIPS,)),
    "S5": Row("A", "a member is missing",
              (f"{FLIPS}::test_what_is_missing_or_cut_is_found",)),
    "S6": Row("A", "a person's files in the output folder",
              ("test_rundir.py::test_a_folder_of_someone_else_is_left_alone",
               "test_rundir.py::test_clear_removes_what_is_ours_and_follows_no_link",
               f"{EVERY}::test_killed_at_every_call")),
    "S7": Row("B", "power loss", (f"{FAULTS}test_order_of_syncs.py",)),
    "N1": Row("A", "loss NaN or infinite",
              ("training/test_loop.py::test_a_loss_that_is_not_finite_ends_the_run",
               f"{RUN}::test_divergence_keeps_the_last_finite_state_and_exports_nothing")),
    "N2": Row("A", "NaN metric first, finite later", ("training/test_callbacks.py",)),
    "N3": Row("A", "NaN in weights",
              (f"{WEIGHTS}::test_not_a_number_is_named",
               "test_storage.py::test_not_finite_weights_are_named")),
    "N4": Row("A", "wrong shape or architecture on load",
              (f"{WEIGHTS}::test_another_architecture_is_refused", "test_variables.py")),
    "C1": Row("A", "two runs, one folder",
              (f"{FOLDER}::test_ten_start_races_have_one_winner_each",
               f"{FOLDER}::test_the_second_command_is_told_before_tensorflow_is_imported")),
    "C2": Row("A", "the holder is killed",
              (f"{FOLDER}::test_ten_killed_holders_leave_nothing_to_unlock",)),
    "C3": Row("A", "two publishers, one number", ("serving/test_publish_faults.py",)),
    "C4": Row("A", "a reader polls while publishing", ("serving/test_publish_faults.py",)),
    "C5": Row("A", "killed while publishing",
              ("serving/test_publish_faults.py", f"{EVERY}::test_killed_at_every_call")),
    "C6": Row("A", "a broken model is about to be published", ("serving/test_export.py",)),
    "C8": Row("B", "one bad image in a served batch", ("serving/test_signatures.py",)),
    "C9": Row("B", "two first downloads of one backbone",
              (f"{WEIGHTS}::test_download_once_by_two",)),
    "X1": Row("A", "malicious .keras, .h5, SavedModel",
              (f"{FOREIGN}::test_programs_are_no_weights",
               f"{FOREIGN}::test_an_architecture_names_no_code",
               f"{WEIGHTS}::test_code_in_an_archive_is_not_run")),
    "X3": Row("A", "wrong, partial or stale weight file",
              (f"{WEIGHTS}::test_a_bad_file_is_set_aside",
               f"{WEIGHTS}::test_what_comes_wrong_is_not_kept")),
    "X4": Row("B", "zip or tar slip, links, bombs",
              (f"{FOREIGN}::test_an_archive_is_refused_as_a_whole",)),
    "X5": Row("B", "HDF5 links, shape bombs, pickles",
              (f"{FOREIGN}::test_hdf5_that_is_more_than_arrays_is_refused",
               f"{FOREIGN}::test_programs_are_no_weights")),
    "X6": Row("A", "names such as .. and {}, symlinked output",
              ("evaluation/test_report.py",
               "test_rundir.py::test_clear_removes_what_is_ours_and_follows_no_link",
               f"{RUN}::test_names_are_data")),
    "X7": Row("A", "terminal, HTML, CSV injection",
              ("test_errors.py", "evaluation/test_report.py")),
    "X8": Row("A", "network use when everything is local",
              (f"{RUN}::test_no_socket_is_opened_when_all_is_local",
               f"{WEIGHTS}::test_missing_and_offline_says_everything")),
    "X10": Row("A", "tf_keras in the process",
               (f"{FOREIGN}::test_keras_2_in_the_process_is_refused",
                f"{RUN}::test_no_command_imports_keras_2")),
}  # fmt: skip
