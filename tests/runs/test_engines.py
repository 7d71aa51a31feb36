"""Chapters 73 and 77: a study in many processes, on Dask, and by submitit; killed, failing, without room. What is
placed trains nothing (made_up_runs), but for the tests marked slow."""

import json
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import forked
import pytest
from made_up_runs import fake_train, study_by_processes

import tiny
from semgan_nb.engines import RunProcesses, shares_of_machine
from semgan_nb.foundation import BadInput
from semgan_nb.runs import read_config, read_stats, read_status
from semgan_nb.dataset import Dataset
from semgan_nb.studies import Study
from semgan_nb.study_cost import cost_text, own_pace, study_cost
from semgan_nb.study_run import Task, hopeless, run_bytes, run_study

TINY = tiny.TINY.replace(batch_gpu=8, total_kimg=0.064, snap=1, G_reg_interval=None)
TARGETS = {"ada_target": [0.3, 0.4, 0.5]}
FAKE = dict(progress=False, loop="made_up_runs:fake_train")


def states(study):
    return [point["state"] for point in study.status()]


def nothing_was_done_twice(study):
    """Every run has each of its ticks once."""
    for point in study.points:
        ticks = [line["Progress/tick"]["mean"] for line in read_stats(point["run"])]
        assert ticks == list(range(len(ticks))) and ticks, point["run"].name
    return True


@pytest.fixture
def study(tmp_path):
    return Study.create(tmp_path / "s", TINY, TARGETS, [0, 1])


@pytest.fixture
def long_study(tmp_path):
    """Of runs that take a second and a half with slow_train."""
    return Study.create(tmp_path / "s", TINY.replace(total_kimg=0.9), TARGETS, [0])


def test_runs_are_trained_in_processes_of_their_own(study, archive, forked_programs):
    with RunProcesses(2) as engine:
        points = run_study(study, archive, executor=engine, **FAKE)
    assert [p["state"] for p in points] == ["done"] * 6 and nothing_was_done_twice(study)
    workers = {json.loads((p["run"] / "status.json").read_text())["pid"] for p in study.points}
    assert len(workers) == 6 and os.getpid() not in workers


def test_a_killed_process_is_reported_and_its_run_goes_on(study, archive, forked_programs, capsys):
    with RunProcesses(2) as engine:
        run_study(study, archive, executor=engine, loop="made_up_runs:killed_once")
    assert states(study) == ["done"] * 6 and nothing_was_done_twice(study)
    said = capsys.readouterr().err
    assert said.count("was killed by signal 9; it is tried again, from its last state") == 2


def test_a_failing_run_does_not_stop_the_rest(study, archive, capsys):
    with ThreadPoolExecutor(2) as engine:
        points = run_study(study, archive, executor=engine, loop="made_up_runs:failing", tries=3)
    assert [p["state"] for p in points] == ["failed", "failed", "done", "done", "done", "done"]
    assert points[0]["message"] == "RuntimeError: out of luck"
    assert capsys.readouterr().err.count("out of luck; it is tried again") == 4  # two runs, twice each
    run_study(study, archive, progress=False, loop="made_up_runs:fake_train")
    assert states(study) == ["done"] * 6


def test_a_process_that_never_comes_to_its_run_is_recorded_in_the_study(study, archive, forked_programs):
    """As where the package cannot be imported there."""
    with RunProcesses(2) as engine:
        points = run_study(study, archive, executor=engine, progress=False, loop="made_up_runs:nothing_of_that_name")
    assert [p["state"] for p in points] == ["refused"] * 6 and "nothing_of_that_name" in points[0]["message"]
    run_study(study, archive, **FAKE)
    assert states(study) == ["done"] * 6 and "refused" not in (study.path / "study.json").read_text()


@pytest.mark.skipif(not forked.POSSIBLE, reason="signals to forked programs")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_scheduler_that_ends_leaves_runs_that_go_on(long_study, archive, number):
    """Killed, its processes save and end by themselves; by Ctrl-C it asks them to."""
    scheduler = forked.start_call(
        study_by_processes, str(long_study.path), str(archive), "slow_train", stderr=forked.DEVNULL
    )
    runs = [point["run"] for point in long_study.points]
    until = time.monotonic() + 60
    while sum(len(read_stats(run)) > 1 for run in runs[:2]) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    scheduler.send_signal(number)
    scheduler.wait(60)
    while any(read_status(run)["state"] == "running" for run in runs) and time.monotonic() < until:
        time.sleep(0.1)
    # the fake training has no time to say so where its scheduler is killed
    assert states(long_study)[:2] == (["stopped"] if number == signal.SIGINT else ["lost"]) * 2
    run_study(long_study, archive, **FAKE)
    assert states(long_study) == ["done"] * 3 and nothing_was_done_twice(long_study)


@pytest.mark.skipif(not forked.POSSIBLE, reason="forked programs")
def test_two_schedulers_never_train_the_same_run(long_study, archive):
    both = [forked.start_call(study_by_processes, str(long_study.path), str(archive), "slow_train") for _ in range(2)]
    assert [p.wait(120) for p in both] == [0, 0]
    assert states(long_study) == ["done"] * 3 and nothing_was_done_twice(long_study)


class Watched(ThreadPoolExecutor):
    """An engine that knows how many runs it had in hand at most."""

    most = now = 0
    lock = threading.Lock()

    def submit(self, function):
        def counted():
            with self.lock:
                self.now += 1
                self.most = max(self.most, self.now)
            try:
                return function()
            finally:
                with self.lock:
                    self.now -= 1

        return super().submit(counted)


def test_a_full_disk_stops_the_placing_and_not_the_study(study, archive, monkeypatch, capsys):
    module = sys.modules[run_study.__module__]
    free = [10**12]
    monkeypatch.setattr(module, "free_bytes", lambda folder: free.pop() if len(free) > 1 else free[0])
    free[:] = [0, 10**12, 10**12]  # room for two runs, then none
    with ThreadPoolExecutor(3) as engine:
        points = run_study(study, archive, executor=engine, loop="made_up_runs:fake_train")
    assert [p["state"] for p in points] == ["done", "done", "waiting", "waiting", "waiting", "waiting"]
    assert "there is no room on the disk for another run" in capsys.readouterr().err
    free[:] = [10**12]
    run_study(study, archive, **FAKE)
    assert states(study) == ["done"] * 6


def test_a_run_waits_for_memory(study, archive, monkeypatch):
    module = sys.modules[run_study.__module__]
    for free, most in ((1, 1), (10**15, 3)):
        monkeypatch.setattr(module, "available_bytes", lambda device, free=free: free)
        with Watched(3) as engine:
            run_study(study, archive, progress=False, executor=engine, loop="made_up_runs:slow_train")
        assert engine.most <= most and states(study) == ["done"] * 6
        study = Study.create(study.path, TINY.replace(total_kimg=0.32), TARGETS, [0, 1])
    assert engine.most > 1


def test_gpus_are_divided_among_the_runs(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    ids = lambda *args: [share["CUDA_VISIBLE_DEVICES"] for share in shares_of_machine(*args)]
    assert ids(None, 4) == ["0,1,2,3", "4,5,6,7"] and ids(None, 4, 4) == ["4,5,6,7"]
    assert ids(2, 1, 3) == ["3", "4"] and len(ids(None, 3)) == 2
    with pytest.raises(BadInput, match="first_gpu 6"):
        shares_of_machine(None, 4, 6)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,7,9,2,4,6,8")
    assert ids(None, 2, 2) == ["7,9", "2,4", "6,8"]


def test_each_run_has_one_thread_unless_said(study, archive, monkeypatch):
    import torch

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    with ThreadPoolExecutor(1) as engine:
        run_study(study, archive, executor=engine, **FAKE)
        assert 1 in asked
        Study.create(study.path, TINY, {"ada_target": [0.9]}, [0])
        asked.clear()
        run_study(study, archive, executor=engine, threads=3, **FAKE)
        assert 3 in asked


# -- clusters
# -----------


def test_dask_trains_a_study(study, archive):
    distributed = pytest.importorskip("distributed", reason="semgan_nb[cluster] is not installed")
    quiet = dict(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None)
    with distributed.LocalCluster(**quiet) as cluster, distributed.Client(cluster) as client:
        points = run_study(study, archive, executor=client.get_executor(pure=False), at_once=2, **FAKE)
        assert [p["state"] for p in points] == ["done"] * 6 and nothing_was_done_twice(study)
        Study.create(study.path, TINY, {"ada_target": [0.9]}, [0])
        run_study(study, archive, executor=client.get_executor(), **{**FAKE, "loop": "made_up_runs:failing"})
    assert states(study) == ["done"] * 7


def test_submitit_trains_a_study(study, archive, tmp_path):
    submitit = pytest.importorskip("submitit", reason="semgan_nb[cluster] is not installed")
    engine = submitit.AutoExecutor(folder=tmp_path / "jobs", cluster="debug")  # in this process
    points = run_study(study, archive, executor=engine, **FAKE)
    assert [p["state"] for p in points] == ["done"] * 6
    again = Task("study", "run", {}, "data.zip").checkpoint()  # what is placed where the time of a job is over
    assert again.function == Task("study", "run", {}, "data.zip")


@pytest.mark.slow
def test_dask_workers_that_are_killed(study, archive):
    """Real processes and real training; a worker is killed while it trains."""
    distributed = pytest.importorskip("distributed", reason="semgan_nb[cluster] is not installed")
    long = Study.create(study.path, TINY.replace(total_kimg=0.8), TARGETS, [0, 1])
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):

        def kill():
            while not any(read_stats(point["run"]) for point in long.points):
                time.sleep(0.1)
            running = [p["run"] for p in long.points if read_status(p["run"])["state"] == "running"]
            os.kill(json.loads((running[0] / "status.json").read_text())["pid"], signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        engine = client.get_executor(pure=False)
        run_study(long, archive, progress=False, executor=engine, at_once=2, state_every=0)
        killer.join()
    assert states(long) == ["done"] * 6 and nothing_was_done_twice(long)


@pytest.mark.slow
def test_submitit_jobs_that_are_killed(study, archive, tmp_path):
    """Processes of submitit's local executor with real training; one is told that its time is over, as Slurm does,
    and another is killed."""
    submitit = pytest.importorskip("submitit", reason="semgan_nb[cluster] is not installed")
    long = Study.create(study.path, TINY.replace(total_kimg=0.8), {"ada_target": [0.3, 0.4]}, [0])
    engine = submitit.AutoExecutor(folder=tmp_path / "jobs", cluster="local")
    engine.update_parameters(timeout_min=5)
    ends = [signal.SIGUSR2, signal.SIGKILL]

    def end():
        for number in ends:
            while not any(read_status(p["run"])["state"] == "running" and read_stats(p["run"]) for p in long.points):
                time.sleep(0.1)
            for point in long.points:
                status = read_status(point["run"])
                if status["state"] == "running":
                    os.kill(status["pid"], number)
                    break
            time.sleep(3)

    thread = threading.Thread(target=end, daemon=True)
    thread.start()
    run_study(long, archive, progress=False, executor=engine, at_once=2, state_every=0, tries=3)
    assert {read_status(p["run"])["state"] for p in long.points} == {"done"} and nothing_was_done_twice(long)


# -- the median rule
# ------------------


def with_records(study, values):
    """A record every 8 kimg for each run, of these values."""
    for point, series in zip(study.points, values):
        for _ in fake_train(study.config(point), study.archive, point["run"]):
            break
        lines = [
            json.dumps(
                dict(
                    results={"random_fd50_full": value},
                    metric="random_fd50_full",
                    kimg=0.016 * k,
                    cur_nimg=16 * k,
                    snapshot_pkl=f"snapshot-{k:06d}.safetensors",
                )
            )
            for k, value in enumerate(series, 1)
        ]
        (point["run"] / "metric-random_fd50_full.jsonl").write_text("\n".join(lines) + "\n")


def test_the_median_rule_ends_what_is_worse_than_half(tmp_path, archive):
    base = TINY.replace(metrics=["random_fd50_full"])
    study = Study.create(tmp_path / "s", base, {"ada_target": [0.3, 0.4, 0.5, 0.6]}, [0])
    study.archive = archive
    with_records(study, [[9, 3], [8, 4], [9, 5], [9, 8]])
    why = [hopeless(study, point["run"]) for point in study.points]
    assert not any(why[:2]) and "the best random_fd50_full was 8, the median of 3 other runs was 4" in why[3]
    with_records(study, [[9, 3], [8, 4], [9, 5], [1]])  # has not come as far, and began well
    assert not hopeless(study, study.points[3]["run"])
    (study.points[0]["run"] / "metric-random_fd50_full.jsonl").unlink()
    with_records(study, [[9, 3], [8, 4]])
    assert read_config(study.points[0]["run"])["resolved"]["metrics"] == ["random_fd50_full"]


def test_the_median_rule_is_off_unless_asked_for(tmp_path, archive):
    base = TINY.replace(metrics=["random_fd50_full"], total_kimg=0.16)
    targets = {"ada_target": [0.3, 0.4, 0.5, 0.9]}
    loop = dict(progress=False, loop="made_up_runs:recording")
    assert {p["state"] for p in run_study(Study.create(tmp_path / "a", base, targets, [0]), archive, **loop)} == {
        "done"
    }
    study = Study.create(tmp_path / "b", base, targets, [0])
    *others, worst = run_study(study, archive, median_rule=True, **loop)
    assert {p["state"] for p in others} == {"done"} and worst["state"] == "stopped"
    assert worst["message"].startswith("ended by the median rule at 0.04 kimg") and worst["kimg"] == 0.04


def test_what_the_median_rule_ended_is_passed_over_and_told(tmp_path, archive, capsys):
    from semgan_nb.studies import study_text

    base = TINY.replace(metrics=["random_fd50_full"])
    study = Study.create(tmp_path / "s", base, {"ada_target": [0.3, 0.4, 0.5, 0.6]}, [0])
    study.archive = archive
    with_records(study, [[9, 3], [8, 4], [9, 5], [9, 8]])
    study.set_note("ada_target=0.6-seed0", "hopeless", hopeless(study, study.points[3]["run"]))
    run_study(study, archive, median_rule=True, loop="made_up_runs:fake_train")
    assert states(study)[3] == "stopped" and "ended by the median rule" in study.status()[3]["message"]
    assert "ended by the median rule" in capsys.readouterr().err
    assert "the median rule ended" in study_text(study.path) and "of the better runs" in study_text(study.path)
    run_study(study, archive, **FAKE)  # without the rule it is trained
    assert states(study) == ["done"] * 4 and "hopeless" not in (study.path / "study.json").read_text()


# -- what it costs
# ----------------


def test_the_cost_of_a_study_is_measured_once_for_each_kind_of_run(tmp_path, archive, monkeypatch):
    asked = []

    def probe(config, *args, threads=None, **options):
        asked.append((config.aug, config.augpipe, threads))
        each = 0.2 if config.aug == "noaug" else 0.4
        return dict(images=8, seconds=dict(Gmain=each, Dmain=each), base=None, peak=None)

    monkeypatch.setattr(sys.modules[study_cost.__module__], "probe", probe)
    base = TINY.replace(total_kimg=1.0, r1_gamma=0.0)
    study = Study.create(tmp_path / "s", base, {"ada_target": [0.3, 0.5]}, [0, 1], [{"aug": "noaug"}])
    todo = lambda: [(study.config(p), p["run"]) for p in study.points]
    dataset = Dataset(archive, part="train")
    cost = study_cost(todo(), dataset, at_once=2, threads=1)
    assert asked == [("ada", "bg", 1), ("noaug", "bg", 1)] and cost["timed"] == 2
    assert cost["seconds"] == pytest.approx((4 * 100 + 2 * 50) / 2) and cost["kwh"] == pytest.approx(65 * 250 / 3.6e6)
    assert cost["bytes"] == 6 * run_bytes(base, dataset) and cost["kimg"] == 6
    assert "6 runs of 6 kimg in all" in cost_text(cost, 2, tmp_path) and "2 kinds of runs" in cost_text(
        cost, 2, tmp_path
    )
    # a run that has come half of its way tells its own pace, and has half to go
    run = study.points[0]["run"]
    for tick in fake_train(base.replace(ada_target=0.3, seed=0), archive, run):
        if tick.kimg > 0.5:
            break
    lines = [line | {"Timing/total_sec": dict(num=1, mean=10 * k, std=0)} for k, line in enumerate(read_stats(run), 1)]
    (run / "stats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert own_pace(run) == pytest.approx(10 * len(lines) / tick.kimg)
    asked.clear()
    cost = study_cost(todo(), dataset, at_once=2, threads=1)
    assert asked == [("noaug", "bg", 1)] and cost["kimg"] == pytest.approx(6 - tick.kimg)
    assert cost["bytes"] == 5 * run_bytes(base, dataset)
    stated = study_cost([(base.replace(watts=100.0), tmp_path / "new")], dataset)
    assert stated["watts"] == 100 and study_cost([], dataset)["runs"] == 0
