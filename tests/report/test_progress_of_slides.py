from finished_slide import write_ledger

from muse_pipeline.cohort.ledgers import STEPS, first_problem, read_progress


def test_all_steps_in_order_with_shards_added_up(tmp_path):
    for step in STEPS:
        write_ledger(tmp_path, step)
    write_ledger(tmp_path, "detect", file_name="detect-2-of-2")
    records = read_progress(tmp_path)
    assert [record.step for record in records] == list(STEPS)
    assert {record.step: record.seconds for record in records}["detect"] == 3.0
    assert first_problem(records) is None


def test_pictures_that_were_not_drawn_leave_a_slide_finished(tmp_path):
    for step in STEPS:
        write_ledger(tmp_path, step)
    write_ledger(tmp_path, "overlay", "failed", "the disk is full; free space")
    records = read_progress(tmp_path)
    assert [record.status for record in records if record.step == "overlay"] == ["failed"]
    assert first_problem(records) is None
    (tmp_path / "ledger/overlay.json").unlink()
    assert [record.step for record in read_progress(tmp_path)] == [
        step for step in STEPS if step != "overlay"
    ]


def test_steps_after_a_failure_name_it(tmp_path):
    write_ledger(tmp_path, "inspect")
    write_ledger(tmp_path, "tissue", "failed", "the disk is full; free space")
    records = read_progress(tmp_path)
    assert (first_problem(records).step, first_problem(records).reason) == (
        "tissue",
        "the disk is full; free space",
    )
    assert {record.reason for record in records[2:]} == {"not reached because tissue failed"}


def test_a_step_that_was_killed_is_the_problem(tmp_path):
    for step in ("inspect", "tissue"):
        write_ledger(tmp_path, step)
    problem = first_problem(read_progress(tmp_path))
    assert problem.step == "tile"
    assert "killed" in problem.reason


def test_the_empty_file_that_snakemake_leaves_of_a_killed_step_is_no_broken_record(tmp_path):
    for step in ("inspect", "tissue"):
        write_ledger(tmp_path, step)
    (tmp_path / "ledger/tile-image-500nm.zarr.json").touch()
    problem = first_problem(read_progress(tmp_path))
    assert (problem.step, problem.reason) == (
        "tile",
        "was killed (out of memory or time?); see its log and run again",
    )


def test_one_failed_shard_fails_the_step_and_shards_of_another_cut_do_not_count(tmp_path):
    write_ledger(tmp_path, "detect", file_name="detect-1-of-2")
    write_ledger(tmp_path, "detect", "failed", "no memory", "detect-2-of-2")
    write_ledger(tmp_path, "detect", file_name="detect-1-of-1")
    assert {r.step: r.status for r in read_progress(tmp_path, n_shards=2)}["detect"] == "failed"
    assert {r.step: r.status for r in read_progress(tmp_path, n_shards=1)}["detect"] == "ok"


def test_a_broken_record_is_a_failure(tmp_path):
    write_ledger(tmp_path, "inspect")
    (tmp_path / "ledger/tissue.json").write_text("{", encoding="utf-8")
    assert first_problem(read_progress(tmp_path)).step == "tissue"
