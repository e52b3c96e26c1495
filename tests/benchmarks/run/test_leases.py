"""Leases of batches: who holds one, who gets one, and what items that killed their process do to it."""

from __future__ import annotations

import subprocess
import sys
import time

from mmhall.results.leases import Leases, holds_lease, process_name
from mmhall.results.store import Row, Store


class TestLeases:
    def test_a_batch_is_leased_once(self, tmp_path):
        one, two = (Leases(Store.create(tmp_path, {}), "pope", 3) for _ in range(2))
        two.worker = "elsewhere/1/1"
        assert [one.claim(), two.claim(), one.claim(), two.claim()] == [0, 1, 2, None]
        one.finish(0)
        assert not one.is_finished()
        one.drop(2)
        assert two.claim() == 2
        two.finish(1)
        two.finish(2)
        assert one.is_finished()

    def test_a_dead_process_of_this_machine_loses_its_lease_at_once(self, tmp_path):
        first = Leases(Store.create(tmp_path, {}), "pope", 1)
        with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
            gone = f"{process_name().rsplit('/', 2)[0]}/{process.pid}/1"
        first.worker = gone
        assert first.claim() == 0
        assert Leases(Store.create(tmp_path, {}), "pope", 1).claim() == 0

    def test_a_strike_is_of_the_items_that_were_asked_and_puts_their_batch_last(self, tmp_path):
        leases = Leases(Store.create(tmp_path, {}), "pope", 2)
        assert leases.claim() == 0
        leases.strike(0, ["a", "b"])
        leases.drop(0)
        assert (leases.claim(), leases.claim()) == (1, 0)
        assert leases.pieces(0, ["a", "b", "c"]) == [["c"], ["a", "b"]]
        for _ in range(3):
            leases.strike(0, ["a"])
        assert leases.pieces(0, ["a", "b", "c"]) == [["c"], ["b"]]

    def test_a_lease_costs_the_same_however_many_items_were_asked_before(self, tmp_path):
        """In steps of SQLite's machine: every lease once looked at each item asked so far, for each open batch."""

        def steps(asked):
            store, counted = Store.create(tmp_path / str(asked), {}), []
            leases = Leases(store, "pope", 100)
            for batch in range(asked):
                with leases.note_asked(leases.claim(), [f"{batch}-{item}" for item in range(8)]):
                    pass
                leases.finish(batch)
            with store.writing() as connection:
                connection.set_progress_handler(lambda: counted.append(1), 1)
            assert leases.claim() == asked
            assert not leases.is_finished()
            return len(counted)

        assert 0 < steps(50) < 1.1 * steps(0)

    def test_a_number_that_came_again_is_another_process(self):
        host, number, started = process_name().rsplit("/", 2)
        assert holds_lease(process_name(), 0.0)
        assert not holds_lease(f"{host}/{number}/{int(started) - 1}", time.time())

    def test_a_failed_batch_is_done_again_when_nobody_is_at_work(self, tmp_path):
        """One process finishes a batch in which an item failed; another one joins it, and neither waits for itself."""
        one = Leases(Store.create(tmp_path, {}), "pope", 2)
        one.worker = "elsewhere/2/2"
        assert one.claim() == 0
        Store.create(tmp_path, {}).add([Row("pope", "1", "greedy", "", "", 0, 0.0, 0, error="torn")])
        one.finish(0)
        assert one.claim() == 1
        other = Leases(Store.create(tmp_path, {}), "pope", 2)
        other.worker = "elsewhere/1/1"
        assert other.claim() is None  # 0 is done, 1 is held
        one.finish(1)
        assert one.is_finished()
        again = Leases(Store.create(tmp_path, {}), "pope", 2)
        assert not again.is_finished()
        assert (again.claim(), again.claim()) == (0, None)

    def test_another_machine_is_believed_for_a_while(self):
        assert holds_lease("elsewhere/1/1", time.time())
        assert not holds_lease("elsewhere/1/1", time.time() - 3600)


def test_a_batch_is_free_while_others_are_held(tmp_path):
    """Of two batches one is held, then both."""
    one, two = (Leases(Store.create(tmp_path, {}), "pope", 2) for _ in range(2))
    two.worker = "elsewhere/1/1"
    assert one.claim() == 0
    assert one.has_free_batch()
    assert two.has_free_batch()
    assert two.claim() == 1
    assert not one.has_free_batch()
    assert not two.has_free_batch()


def test_the_upcoming_batch_is_behind_those_of_the_others_and_is_not_leased(tmp_path):
    one, two = (Leases(Store.create(tmp_path, {}), "pope", 6) for _ in range(2))
    two.worker = "elsewhere/1/1"
    assert one.upcoming() == 0
    assert (one.claim(), one.upcoming()) == (0, 1)
    assert two.claim() == 1
    assert one.upcoming() == 3  # the other one leases 2 before
    one.strike(3, ["a"])
    assert one.upcoming() == 4
    assert [two.claim(), two.claim(), two.claim()] == [2, 4, 5]
    assert one.upcoming() is None
    assert one.claim() == 3  # with a strike, and free
