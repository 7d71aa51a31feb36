"""A run that was stopped goes on exactly: every way of stopping at every place, one after the other in one run,
which then ends equal to one that never stopped, in all its files. What else is true of
a stop is asserted after it: how the process ended, what the status says, which state is kept; and that all lines so
far are those of the unbroken run.

The rows are places; in a row the ways follow each other, with states saved at every iteration or only where the run
stops, and, so that all pairs occur, with what power failures leave: half of a
line, half of the newest state."""

import sys

import forked
import pytest
import stops
from stops import PLACES, TINY, WAYS, assert_same, go_on, plain, possible

from semgan_nb.checkpoints import load_state
from semgan_nb.runs import read_stats, read_status

LEFT_BEHIND = ("nothing", "half a line", "half the newest state")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


def row(place):
    """The stops of one run: way, seconds between states, what is left behind, images seen. Leaving is tried after
    the first tick and the next ones."""
    shift = list(PLACES).index(place)
    ways = [way for way in (*WAYS[shift:], *WAYS[:shift]) if possible(way, place)] + ["leave"] * (
        3 if place == "loop" else 0
    )
    for k, way in enumerate(ways):
        n = WAYS.index(way) + (k if way == "leave" else 0)
        left = LEFT_BEHIND[(n + shift) % 3]
        always = place == "state" or left == "half the newest state" or (n + shift // 3) % 2 == 0
        yield way, 0.0 if always else 1e9, left, 8 + 16 * min(k, 8)


def leave_behind(what, run):
    if what == "half a line":
        with open(run / "stats.jsonl", "a", encoding="utf-8") as f:
            f.write('{"Progress/tick": {"num": 1, "me')
    elif what == "half the newest state":
        states = sorted((run / "state").glob("state-*.pt"))
        if len(states) > 1:
            states[-1].write_bytes(states[-1].read_bytes()[:-1000])


def check(way, place, code, complaint, run, images):
    """What is true of a stop besides."""
    status, saved = read_status(run), load_state(run / "state")
    if way == "kill":
        assert code == -9 and status["state"] == "lost"
        return
    if way == "full disk":
        assert (
            code == 1
            and status["state"] == "failed"
            and "no room for" in status["message"]
            and "RunFailed" in complaint
        )
        return
    if way == "error" and place != "loop":
        assert code == 1 and status["state"] == "failed" and "fallen off the bus" in status["message"]
        return
    assert status["state"] == "stopped" and saved["trainer"]["cur_nimg"] == status["cur_nimg"] > 0
    if way in ("stop", "leave"):
        assert (
            code == 0
            and not (run / "control" / "stop").exists()
            and status["message"] == ("left" if way == "leave" else "asked to stop")
        )
    elif way == "error":
        assert code == 1  # the caller's
    else:
        assert code != 0 and ("twice" in status["message"]) == (
            place == "iteration" and way in ("Ctrl-C twice", "interrupt")
        )
    if place == "iteration":
        assert saved["trainer"]["cur_nimg"] == images + (
            8 if way in ("Ctrl-C", "terminate", "stop") else 0
        )  # it was finished, or given up
    if place in ("sheet", "snapshot", "snapshot written", "metric") and way in ("Ctrl-C", "terminate", "interrupt"):
        assert saved["pending"]  # the tick is done again, once


@pytest.mark.parametrize("place", PLACES)
def test_it_goes_on_exactly(archive, unbroken, tmp_path, place):
    run, whole = tmp_path / "r", [plain(s) for s in read_stats(unbroken)]
    for way, state_every, left, images in row(place):
        p = forked.start_call(
            stops.trained_until,
            TINY.to_dict(),
            str(archive),
            str(run),
            state_every,
            way,
            place,
            images,
            stdout=forked.PIPE,
            stderr=forked.PIPE,
            text=True,
        )
        said, complaint = p.communicate(timeout=300)
        assert said, f"{place} was not met again: {complaint}"
        try:
            check(way, place, p.returncode, complaint, run, int(said))
            lines = [plain(s) for s in read_stats(run)]
            assert lines == whole[: len(lines)]
        except AssertionError as e:
            raise AssertionError(
                f"{way} at {place} ({PLACES[place]}), states every {state_every:g} s: {e}\n{complaint}"
            ) from e
        leave_behind(left, run)
    go_on(TINY, archive, run, 1e9)
    assert read_status(run)["state"] == "done"
    assert_same(run, unbroken)


def test_all_pairs_occur():
    stops = [(place, way, every, left) for place in PLACES for way, every, left, _ in row(place)]
    assert {(place, way) for place, way, _, _ in stops} == {
        (place, way) for way in WAYS for place in PLACES if possible(way, place)
    }
    anywhere = [way for way in WAYS if sum(possible(way, place) for place in PLACES) > 1]
    assert {(way, every) for way in anywhere for every in (0.0, 1e9)} <= {(way, every) for _, way, every, _ in stops}
    assert {(way, left) for way in anywhere for left in LEFT_BEHIND} <= {(way, left) for _, way, _, left in stops}
    assert {(place, left) for place in PLACES for left in LEFT_BEHIND} == {(place, left) for place, _, _, left in stops}
