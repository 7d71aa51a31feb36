"""Chapters 08, 13, 14 and 15: schedules against reference tables, going on after every kind of end, refusals."""
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from semgan_nb.checkpoints import load, load_state
from semgan_nb.dataset import write_archive
from semgan_nb.micrographs import BadInput
from semgan_nb.runs import Config, auto, image_number, laptop, read_config, read_metrics, read_stats, read_status, request_stop, sem512, snapshots
from semgan_nb.training import Statistics, Trainer, ema_beta, iteration_generator, lazy_adam, make_networks, train
from semgan_nb.dataset import Dataset

gold = np.load(Path(__file__).parent / "data" / "ada_controller.npz")
TINY = Config(z_dim=16, w_dim=16, channel_base=64, channel_max=8, batch_size=8, batch_gpu=4, G_reg_interval=4, total_kimg=0.16, kimg_per_tick=0.032, snap=2,
              ada_kimg=0.5, metrics=())


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "noise.zip"
    images = np.random.RandomState(0).randint(0, 256, (40, 16, 16), dtype=np.uint8)
    write_archive(path, [
        dict(name=f"n{i}", image=x, source="noise", source_sha256="", crop=(0, 0, 16, 16), group=f"g{i % 5}", pixel_size_nm=(10.0, 10.0), fraction=None, part="train")
        for i, x in enumerate(images)], dict(made_by="test"))
    return path


def logs(run):
    return [{k: v for k, v in s.items() if not k.startswith(("Timing", "Resources", "timestamp"))} for s in read_stats(run)]


def weights(run):
    s = load(run)
    return {**{f"G.{k}": v for k, v in s.G.state_dict().items()}, **{f"D.{k}": v for k, v in s.D.state_dict().items()}}


def same(a, b):
    wa, wb = weights(a), weights(b)
    return logs(a) == logs(b) and all(torch.equal(wa[k], wb[k]) for k in wa) and [p.name for p in snapshots(a)] == [p.name for p in snapshots(b)]


@pytest.fixture(scope="module")
def unbroken(archive, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "unbroken"
    assert len(list(train(TINY, archive, out))) == 6
    return out


# -- schedules and presets ------------------------------------------------------------------------------------------------

def test_ema_table():
    for batch, kimg, ramp, nimg, beta in gold["ema_beta_table"]:
        assert np.isclose(ema_beta(batch, kimg, None if ramp < 0 else ramp, nimg), beta, rtol=1e-9, atol=1e-12)


def test_lazy_regularisation_table():
    for lr, interval, lr_used, beta1, beta2 in gold["lazy_reg_table"]:
        group = lazy_adam([torch.nn.Parameter(torch.zeros(1))], lr, int(interval)).param_groups[0]
        assert np.allclose([group["lr"], *group["betas"]], [lr_used, beta1, beta2], rtol=1e-9)


def test_auto_table():
    for resolution, gpus, batch, mbstd, fmaps, lr, gamma, ema, ramp, layers in gold["auto_config_table"]:
        c = auto(int(resolution), int(gpus))
        ours = [c.batch_size, c.mbstd_group_size, c.channel_base / 32768, c.g_lr, c.r1_gamma, c.ema_kimg, c.ema_rampup, c.mapping_layers]
        assert np.allclose(ours, [batch, mbstd, fmaps, lr, gamma, ema, ramp, layers], rtol=1e-9), (resolution, gpus)


def test_sem512_is_what_auto_computed_on_four_gpus():
    a, s = auto(512, 4).to_dict(), sem512().to_dict()
    assert {k for k in a if a[k] != s[k]} == {"preset", "ada_target"} and s["ada_target"] == 0.5 and s["augpipe"] == "bg"


# -- one iteration --------------------------------------------------------------------------------------------------------

def test_rounds_average_to_the_whole_batch(archive):
    "Two passes of four give the gradient of one pass of eight, where no layer couples the images."
    ds = Dataset(archive)
    logits = {}
    for rounds in (1, 2):
        t = Trainer(TINY.replace(batch_gpu=8 // rounds, mbstd_group_size=1), ds)
        real = torch.from_numpy(ds.images(np.arange(8))).float() / 127.5 - 1
        t._phase("Dreg", t.D, t.D_opt, real.split(8 // rounds), t._dreg, 16, iteration_generator(0, 0, 0))
        logits[rounds] = t.D(real)
    assert torch.allclose(logits[1], logits[2], atol=1e-5)


def test_unreached_parameters_get_a_zero_gradient(archive):
    "ToRGB biases do not influence the path length, yet Adam must count its steps for them too."
    t = Trainer(TINY, Dataset(archive))
    t.iterate()
    steps = {float(t.G_opt.state[p]["step"]) for p in t.G.parameters()}
    assert steps == {2.0}  # Gmain and Greg
    assert {float(t.D_opt.state[p]["step"]) for p in t.D.parameters()} == {2.0}


def test_r1_phase_reports_its_signs_too(archive):
    t = Trainer(TINY, Dataset(archive))
    t.iterate()
    assert t.ada.sign_count == 16
    t.iterate()
    assert t.ada.sign_count == 24


def test_same_seed_same_networks_and_the_global_generator_is_left_alone(archive):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a, b = make_networks(TINY, 16, 1)[0], make_networks(TINY, 16, 1)[0]
    t = Trainer(TINY, Dataset(archive))
    t.iterate()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters()))


def test_statistics():
    s = Statistics()
    s.report("a", torch.tensor([1.0, 2.0])), s.report("a", 6.0)
    assert s.close_tick()["a"] == pytest.approx(dict(num=3, mean=3.0, std=np.std([1, 2, 6])))
    assert s.close_tick()["a"]["mean"] == 3  # nothing new: the triple of before


def test_no_augmentation_still_measures_rt(archive):
    t = Trainer(TINY.replace(aug="noaug"), Dataset(archive))
    for _ in range(4):
        t.iterate()
    assert t.ada.p == 0 and -1 <= t.ada.rt <= 1
    t = Trainer(TINY.replace(aug="fixed", p=0.3), Dataset(archive))
    for _ in range(4):
        t.iterate()
    assert t.ada.p == np.float32(0.3) and -1 <= t.ada.rt <= 1


# -- files ----------------------------------------------------------------------------------------------------------------

def test_what_a_run_writes(unbroken):
    names = {p.name for p in unbroken.iterdir()}
    assert {"config.json", "status.json", "stats.jsonl", "log.txt", "reals.png", "fakes_init.png", "state", "lock"} <= names | {"lock"}
    assert [s["Progress/tick"]["mean"] for s in read_stats(unbroken)] == [0, 1, 2, 3, 4, 5]
    assert [image_number(p) for p in snapshots(unbroken)] == [8, 72, 136, 160]  # ticks 0, 2, 4 and the end
    status = read_status(unbroken)
    assert status["state"] == "done" and status["cur_nimg"] == 160
    config = read_config(unbroken)
    assert config["requested"]["channel_max"] == 8 and config["data"]["pixel_size_nm"] and config["environment"]["torch"] == torch.__version__
    assert load(unbroken).meta["cur_nimg"] == 160 and load(unbroken).meta["pixel_size_nm"] == [10.0, 10.0]
    assert not list(unbroken.glob(".*"))  # no temporary file is left


def test_a_finished_run_has_nothing_left_to_do(archive, unbroken):
    before = {p.name: p.stat().st_mtime for p in unbroken.glob("*.jsonl")}
    assert list(train(TINY, archive, unbroken)) == []
    assert before == {p.name: p.stat().st_mtime for p in unbroken.glob("*.jsonl")} and read_status(unbroken)["state"] == "done"


def test_longer_is_allowed(archive, tmp_path):
    list(train(TINY.replace(total_kimg=0.064), archive, tmp_path / "r"))
    ticks = list(train(TINY.replace(total_kimg=0.128), archive, tmp_path / "r"))
    assert ticks[-1].cur_nimg == 128 and "total_kimg" in (tmp_path / "r" / "log.txt").read_text()
    assert Config.from_dict(read_config(tmp_path / "r")["resolved"]).total_kimg == 0.128


# -- going on -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("leave_after", [0, 1, 2, 4])
def test_leaving_the_loop_and_going_on(archive, unbroken, tmp_path, leave_after):
    for tick in train(TINY, archive, tmp_path / "r"):
        if tick.number == leave_after:
            break
    assert read_status(tmp_path / "r")["state"] == "stopped"
    list(train(TINY, archive, tmp_path / "r"))
    assert same(tmp_path / "r", unbroken)


def test_stop_file(archive, unbroken, tmp_path):
    run = train(TINY, archive, tmp_path / "r")
    next(run)
    request_stop(tmp_path / "r")
    time.sleep(1.1)
    rest = list(run)
    assert len(rest) < 5 and read_status(tmp_path / "r")["state"] == "stopped" and not (tmp_path / "r" / "control" / "stop").exists()
    list(train(TINY, archive, tmp_path / "r"))
    assert same(tmp_path / "r", unbroken)


def test_interrupted_in_the_middle_of_a_tick(archive, unbroken, tmp_path, monkeypatch):
    "A tick that was broken off (here: while its snapshot is written) is done again, once."
    import semgan_nb.training as training

    def broken(*args, **kwargs):
        raise KeyboardInterrupt

    run = train(TINY, archive, tmp_path / "r")
    next(run), next(run)
    with monkeypatch.context() as m:
        m.setattr(training, "save_snapshot", broken)
        with pytest.raises(KeyboardInterrupt):
            list(run)
    assert load_state(tmp_path / "r" / "state")["pending"]
    list(train(TINY, archive, tmp_path / "r"))
    assert same(tmp_path / "r", unbroken)


SCRIPT = """
import json, sys
from semgan_nb.runs import Config
from semgan_nb.training import train
for tick in train(Config.from_dict(json.loads(sys.argv[1])), sys.argv[2], sys.argv[3], state_every=float(sys.argv[4])):
    print(tick.number, flush=True)
"""


def start(config, archive, out, state_every=0.0):
    return subprocess.Popen([sys.executable, "-c", SCRIPT, json.dumps(config.to_dict()), str(archive), str(out), str(state_every)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_killed_and_going_on(archive, unbroken, tmp_path):
    p = start(TINY, archive, tmp_path / "r")
    for line in p.stdout:
        if line.strip() == "2":
            break
    p.kill()
    p.wait()
    assert load_state(tmp_path / "r" / "state") is not None
    p = start(TINY, archive, tmp_path / "r")
    out, err = p.communicate(timeout=120)
    assert p.returncode == 0, err
    assert same(tmp_path / "r", unbroken)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_the_iteration_and_save(archive, tmp_path, which):
    long = TINY.replace(total_kimg=50.0, snap=1000)
    p = start(long, archive, tmp_path / "r", 1e9)
    assert p.stdout.readline().strip() == "0"
    p.send_signal(which)
    p.communicate(timeout=60)
    assert p.returncode != 0
    status = read_status(tmp_path / "r")
    state = load_state(tmp_path / "r" / "state")
    assert status["state"] == "stopped" and state["trainer"]["cur_nimg"] > 0


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_between_two_ticks_saves_too(archive, tmp_path, which):
    slow = SCRIPT.replace("flush=True)", "flush=True); import time; time.sleep(60)")
    assert slow != SCRIPT
    p = subprocess.Popen([sys.executable, "-c", slow, json.dumps(TINY.replace(total_kimg=50.0, snap=1000).to_dict()), str(archive), str(tmp_path / "r"), "1e9"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert p.stdout.readline().strip() == "0"
    time.sleep(0.5)  # it sleeps, with the tick in hand
    p.send_signal(which)
    p.communicate(timeout=60)
    assert p.returncode != 0 and read_status(tmp_path / "r")["state"] == "stopped"
    assert load_state(tmp_path / "r" / "state")["trainer"]["cur_nimg"] > 0


def test_a_second_process_is_refused(archive, tmp_path):
    p = start(TINY.replace(total_kimg=50.0), archive, tmp_path / "r")
    try:
        assert p.stdout.readline().strip() == "0"
        with pytest.raises(BadInput, match=rf"process {p.pid}"):
            next(train(TINY.replace(total_kimg=50.0), archive, tmp_path / "r"))
        assert read_status(tmp_path / "r")["state"] == "running"
    finally:
        p.kill(), p.wait()


# -- refusals -------------------------------------------------------------------------------------------------------------

def test_other_settings_and_other_data_are_refused(archive, unbroken, tmp_path):
    with pytest.raises(BadInput, match="ada_target is 0.6 there and 0.3 here"):
        next(train(TINY.replace(ada_target=0.3), archive, unbroken))
    other = tmp_path / "other.zip"
    write_archive(other, [dict(name=f"n{i}", image=np.full((16, 16), i, np.uint8), source="", source_sha256="", crop=(0, 0, 16, 16), group="g", pixel_size_nm=None, fraction=None, part="train") for i in range(8)], {})
    with pytest.raises(BadInput, match="other content"):
        next(train(TINY, other, unbroken))


def test_a_foreign_directory_is_not_touched(archive, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    with pytest.raises(BadInput, match="holds no run"):
        next(train(TINY, archive, tmp_path / "photos"))
    assert [p.name for p in (tmp_path / "photos").iterdir()] == ["a.jpg"]


def test_missing_archive_leaves_nothing(tmp_path):
    with pytest.raises(BadInput):
        next(train(TINY, tmp_path / "absent.zip", tmp_path / "r"))
    assert not (tmp_path / "r").exists()


def test_a_loss_that_is_not_a_number_ends_the_run(archive, tmp_path):
    with pytest.raises(FloatingPointError, match="--g-lr"):
        list(train(TINY.replace(g_lr=1e12), archive, tmp_path / "r"))
    status = read_status(tmp_path / "r")
    assert status["state"] == "failed" and "Loss/" in status["message"]


def test_metric_names_are_written_out(archive):
    from semgan_nb.training import choose_metrics

    ds = Dataset(archive)
    assert choose_metrics(TINY.replace(metrics=["random_fd1000_full", "none"]), archive, ds) == ("random_fd1k_full",)
    assert choose_metrics(TINY.replace(metrics=["auto"]), archive, ds) == ()  # 20 images a side are too few
