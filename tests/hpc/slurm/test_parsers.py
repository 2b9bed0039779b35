"""Whatever SLURM's commands print is parsed, or refused in a sentence: never half understood."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hpc.slurm import accounting, notation, queue
from hpc.slurm.jobs import State

ids = st.integers(1, 10**6).map(str) | st.integers(0, 999).map("7_{}".format)
plain = st.text("aZ9 _-[],.:=%+", max_size=9)
states = st.sampled_from([state.value for state in State if state is not State.UNRECOGNISED])
durations = st.sampled_from(["10:00", "1-02:03:04", "UNLIMITED", "Partition_Limit", ""])
resources = st.sampled_from(["cpu=2,gres/gpu=1,mem=300M,node=1", "billing=1", "", "mem=4G,node=2"])

CHEAP = settings(max_examples=30, deadline=None)

SACCT = {
    "JobID": ids,
    "State": states,
    "Reason": plain,
    "User": plain,
    "NodeList": plain,
    "ExitCode": st.sampled_from(["0:0", "9:0", "0:9", "137:0", ""]),
    "Submit": st.just("2026-11-25T01:00:00"),
    "End": st.sampled_from(["2026-11-25T02:00:00", "Unknown"]),
    "ElapsedRaw": st.integers(0, 10**6).map(str) | st.just(""),
    "Timelimit": durations,
    "TotalCPU": durations,
    "MaxRSS": st.sampled_from(["", "1024K", "5G"]),
    "TRESUsageInTot": resources,
    "ReqTRES": resources,
    "AllocTRES": resources,
    "JobName": st.text("aZ9_-|=.", max_size=9),
}
SQUEUE = {
    "JobArrayID": ids,
    "State": states,
    "Reason": plain,
    "UserName": plain,
    "NodeList": plain,
    "exit_code": st.integers(0, 65535).map(str),
    "RestartCnt": st.integers(0, 9).map(str),
    "TimeUsed": durations,
    "TimeLimit": durations,
    "tres-alloc": resources,
    "Name": st.text("aZ9_-|=.", max_size=9),
}


def line(row, fields):
    return "|".join(row[field] for field in fields)


def test_the_columns_are_those_that_are_asked_for():
    assert (set(SACCT), set(SQUEUE)) == (set(accounting.FIELDS), set(queue.FIELDS))


@CHEAP
@given(st.fixed_dictionaries(SACCT))
def test_a_line_of_sacct_is_one_job_with_its_name_whole(row):
    (job,) = accounting.parse(line(row, accounting.FIELDS))
    assert (job.job_id, job.state, job.name) == (row["JobID"], State[row["State"]], row["JobName"])
    assert job.user == row["User"]
    assert job.elapsed_s == float(row["ElapsedRaw"] or 0)
    # What a job used is known once its record is whole.
    whole = not job.alive and row["End"] != "Unknown"
    assert (job.cpu_s is not None) == (whole and notation.seconds(row["TotalCPU"]) is not None)


@CHEAP
@given(st.fixed_dictionaries(SQUEUE))
def test_a_line_of_squeue_is_one_job(row):
    (job,) = queue.parse(line(row, queue.FIELDS) + "|")
    assert (job.job_id, job.state) == (row["JobArrayID"], State[row["State"]])
    assert job.name == row["Name"]
    assert job.restarts == int(row["RestartCnt"])
    assert 0 <= job.exit_code <= 255
    assert job.limit_s == notation.seconds(row["TimeLimit"])


@CHEAP
@given(st.fixed_dictionaries(SACCT), st.integers(1, 4))
def test_every_older_record_of_a_job_is_one_requeue(row, n):
    tries = [row | {"Submit": f"2026-11-25T01:00:{i:02d}", "ElapsedRaw": "10"} for i in range(n)]
    lines = [line(one, accounting.FIELDS) for one in reversed(tries)]
    (job,) = accounting.parse("\n".join(lines))
    assert (job.restarts, job.earlier_s, job.elapsed_s) == (n - 1, 10.0 * (n - 1), 10.0)


@given(st.text("ab 7_.[]=:", min_size=1, max_size=30))
@example("slurm_load_jobs error: Unable to contact slurm controller")
@pytest.mark.parametrize("parse", [accounting.parse, queue.parse])
def test_a_line_without_the_columns_is_refused_with_its_words(parse, text):
    with pytest.raises(ValueError, match="fields were expected: check whether another program"):
        parse(text)


@given(st.text("0123456789-:.KMGT_[]%,=gpu+ ", max_size=20))
@example("1-")
@example("9_[")
def test_words_that_are_no_amount_are_unknown_and_raise_nothing(text):
    for read in (notation.seconds, notation.size):
        value = read(text)
        assert value is None or value >= 0
    assert isinstance(notation.state(text), State)
    assert notation.job_ids(text)
    assert all("=" not in name for name in notation.resources(text))


@given(st.integers(0, 255), st.integers(0, 127))
def test_no_ending_is_above_a_signal(code, signal):
    exit_code, killed_by = notation.ending(code, signal)
    assert 0 <= exit_code <= 128
    assert killed_by == (signal or max(0, code - 128))
