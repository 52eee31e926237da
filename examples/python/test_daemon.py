"""Every method of both clients against a daemon: `python3 test_daemon.py HOST:PORT [TEST...]`; see tests/programs.rs."""

import contextlib
import itertools
import socket
import sys
import threading
import unittest
import uuid
from dataclasses import dataclass
from decimal import Decimal

import forebay
from forebay import Durability, Failed, Save, TicketState, Watermark
from test_forebay import Awaited

TARGET = sys.argv.pop(1)
IDS = itertools.count(1)
WAIT_S = 60.0


class Case(unittest.TestCase):
    """Nothing is written before someone waits for it: the daemon's window is long."""

    connect = forebay.Client
    target = TARGET

    def setUp(self):
        self.client = self.connect(self.target, timeout=WAIT_S)
        self.addCleanup(self.client.__exit__, None, None, None)
        self.id = next(IDS)

    def state(self, ticket):
        return self.client.ticket(ticket).state


class Saving(Case):
    def test_what_is_saved_is_in_postgres_after_a_flush(self):
        before = self.client.status()
        self.assertEqual(self.client.save("players", self.id, {"name": "Ann", "gold": Decimal("7.50")}).state, TicketState.PENDING)
        self.client.save_batch([Save("players", next(IDS), {"name": "Bob"}), Save("players", self.id, delete=True)], atomic=True)
        self.client.append("log", {"line": "é"})
        self.client.delete("players", self.id)
        self.assertGreaterEqual(self.client.flush(), before.accepted_through + 5)
        self.assertEqual(self.client.status().lanes[0].backlog_objects, 0)
        self.client.flush("players", "log")

    def test_a_repeated_call_is_recognised(self):
        how = {"add": ["gold"], "request_id": str(uuid.uuid4())}
        first = self.client.save("players", self.id, {"gold": 5}, **how)
        again = self.client.save("players", self.id, {"gold": 5}, **how)
        self.assertEqual((first.deduplicated, again.deduplicated, first.ticket), (False, True, again.ticket))
        with self.assertRaises(forebay.Refused) as caught:
            self.client.save("players", self.id, {"gold": 6}, **how)
        self.assertEqual(caught.exception.reason, "REQUEST_ID_REUSED")

    def test_a_refusal_lists_what_is_wrong(self):
        with self.assertRaises(forebay.Refused) as caught:
            self.client.save_batch([Save("players", self.id, {"nam": 1}), Save("playrs", 1, {})])
        self.assertEqual([field for field, _ in caught.exception.violations], ["saves[0].json.nam", "saves[1].collection"])

    def test_a_decorated_method_saves(self):
        is_async = isinstance(self.client, Awaited)
        saves = (self.client.client if is_async else self.client).saves("players", key=lambda player: player.id)

        @dataclass
        class Player:
            id: int
            level: int = 0

            def up(self):
                self.level += 1

            async def up_async(self):
                self.level += 1

        self.client.save("players", self.id, {"level": 0})
        before = self.client.status().accepted_through
        if is_async:
            self.client.within(saves(Player.up_async), Player(self.id))
        else:
            saves(Player.up)(Player(self.id))
        self.assertEqual(self.client.status().accepted_through, before + 1)


class AsyncSaving(Saving):
    connect = Awaited


class Tickets(Case):
    def test_a_save_is_pending_until_it_is_in_postgres(self):
        ticket = self.client.save("players", self.id, {"name": "Ann"}).ticket
        status = self.client.ticket(ticket)
        self.assertEqual((status.state, status.final), (TicketState.PENDING, False))
        self.assertGreaterEqual(status.saves_ahead, 1)
        status = self.client.await_ticket(ticket)
        self.assertEqual((status.state, status.failure, status.retry_ticket), (TicketState.PERSISTED, None, ""))
        self.assertEqual(self.state(ticket), TicketState.PERSISTED)

    def test_a_save_that_failed_tells_why(self):
        ticket = self.client.save("players", self.id, {"guild_id": -1}).ticket
        failed = self.client.await_ticket(ticket)
        self.assertEqual((failed.state, failed.failure.sqlstate), (TicketState.FAILED, "23503"))
        self.assertEqual(failed.failure.constraint, "players_guild_id_fkey")
        self.assertEqual(self.client.ticket(ticket).failure, failed.failure)
        self.assertIsNotNone(failed.outcome_time)

    def test_a_ticket_that_is_none_is_refused(self):
        with self.assertRaises(forebay.Refused):
            self.client.ticket("nonsense")


class AsyncTickets(Tickets):
    connect = Awaited


class Persisted(Case):
    def test_a_save_is_answered_with_its_outcome(self):
        saved = self.client.save("players", self.id, {"name": "Ann"}, durability=Durability.PERSISTED)
        self.assertEqual((saved.state, self.state(saved.ticket)), (TicketState.PERSISTED, TicketState.PERSISTED))
        saved = self.client.append("log", {"line": "x"}, durability=Durability.PERSISTED, request_id=str(uuid.uuid4()))
        self.assertEqual(saved.state, TicketState.PERSISTED)

    def test_a_save_that_fails_raises(self):
        with self.assertRaises(forebay.SaveFailed) as caught:
            self.client.save("players", self.id, {"guild_id": -1}, durability=Durability.PERSISTED)
        error = caught.exception
        self.assertEqual((error.sqlstate, error.constraint), ("23503", "players_guild_id_fkey"))
        self.assertEqual(self.state(error.ticket), TicketState.FAILED)

    def test_a_batch_tells_each(self):
        saves = [Save("players", self.id, {"name": "Ann"}), Save("players", next(IDS), {"guild_id": -1})]
        good, bad = self.client.save_batch(saves, durability=Durability.PERSISTED)
        self.assertEqual((good.state, good.failure), (TicketState.PERSISTED, None))
        self.assertEqual((bad.state, bad.failure.sqlstate), (TicketState.FAILED, "23503"))

    def test_a_stale_version_is_superseded(self):
        self.client.save("notes", self.id, {"version": 2}, durability=Durability.PERSISTED)
        stale = self.client.save("notes", self.id, {"version": 1}, durability=Durability.PERSISTED)
        self.assertEqual((stale.state, stale.superseded), (TicketState.PERSISTED, True))


class AsyncPersisted(Persisted):
    connect = Awaited


class Reading(Case):
    def test_what_was_saved_is_read_at_once(self):
        self.assertIsNone(self.client.get("players", self.id).values)
        self.client.save("players", self.id, {"name": "Ann", "gold": Decimal("7.50")})
        row = self.client.get("players", self.id)
        self.assertEqual(
            (row.values["id"], row.values["name"], str(row.values["gold"]), row.pending), (self.id, "Ann", "7.50", True)
        )
        self.client.flush()
        row = self.client.get("players", self.id)
        self.assertEqual((row.values["level"], str(row.values["gold"]), row.pending), (1, "7.50", False))
        self.client.delete("players", self.id)
        row = self.client.get("players", self.id)
        self.assertEqual((row.values, row.json, row.pending), (None, None, True))

    def fill(self):
        """Saves two pages and more, and leaves some of it pending. Gives what is to be loaded, by key."""
        ids = [next(IDS) for _ in range(2_500)]
        self.client.save_batch([Save("players", player, {"name": f"p{player}"}) for player in ids])
        self.client.flush()
        self.client.save("players", ids[7], {"name": "changed"})
        self.client.delete("players", ids[8])
        expected = {str(player): f"p{player}" for player in ids} | {str(ids[7]): "changed"}
        del expected[str(ids[8])]
        return ids[0], ids[-1], expected

    def loaded(self, rows):
        players = {}
        for row in rows:
            if row.values is None:
                players.pop(row.key[0], None)
            else:
                players[row.key[0]] = row.values["name"]
        return players

    def test_a_load_gives_all_objects(self):
        first, last, expected = self.fill()
        load = self.client.load("players", first, last)
        self.assertEqual(self.loaded(load), expected)
        self.assertGreaterEqual(load.rows_loaded, len(expected) - 1)
        everything = self.loaded(self.client.load("players"))
        self.assertEqual(everything | expected, everything)

    def test_a_load_goes_on_after_a_broken_connection(self):
        first, last, expected = self.fill()
        with Way(TARGET) as way, self.connect(way.address, timeout=WAIT_S) as client:
            rows = iter(client.load("players", first, last))
            some = [next(rows) for _ in range(5)]
            way.cut()
            self.assertEqual(self.loaded([*some, *rows]), expected)


class AsyncReading(Reading):
    connect = Awaited


class Watching(Case):
    def test_a_watch_tells_failures_and_watermarks(self):
        outcomes = iter(self.client.watch("players"))
        self.assertIsInstance(next(outcomes), Watermark)
        good = self.client.save("players", self.id, {"name": "Ann"}).ticket
        bad = self.client.save("players", next(IDS), {"guild_id": -1}).ticket
        self.client.flush()
        told = []
        for outcome in outcomes:
            told.append(outcome)
            if isinstance(outcome, Watermark) and outcome.covers(bad):
                break
        outcomes.close()
        self.assertTrue(told[-1].covers(good))
        failed = [outcome for outcome in told if isinstance(outcome, Failed)]
        self.assertEqual([(outcome.ticket, outcome.failure.sqlstate) for outcome in failed], [(bad, "23503")])

    def test_a_watch_goes_on_after_a_broken_connection(self):
        with Way(TARGET) as way, self.connect(way.address, timeout=WAIT_S) as client:
            outcomes = iter(client.watch())
            self.assertIsInstance(next(outcomes), Watermark)
            way.cut()
            bad = self.client.save("players", self.id, {"guild_id": -1}).ticket
            self.client.flush()
            self.assertIn(bad, (outcome.ticket for outcome in outcomes if isinstance(outcome, Failed)))
            outcomes.close()


class AsyncWatching(Watching):
    connect = Awaited


class Way:
    """A way to the daemon that can be cut; new connections then pass again."""

    def __init__(self, target):
        self.host, _, self.port = target.rpartition(":")
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.open = []
        threading.Thread(target=self.accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()
        self.cut()

    def cut(self):
        for end in self.open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                ends = self.listener.accept()[0], socket.create_connection((self.host, int(self.port)))
                self.open.extend(ends)
                for source, sink in (ends, ends[::-1]):
                    threading.Thread(target=self.pass_on, args=[source, sink], daemon=True).start()

    def pass_on(self, source, sink):
        with contextlib.suppress(OSError):
            while received := source.recv(65_536):
                sink.sendall(received)
            sink.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    unittest.main()
