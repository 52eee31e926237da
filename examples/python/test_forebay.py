"""What both clients do, against a server that answers as it is told: `python3 test_forebay.py`. Needs grpcio."""

import asyncio
import datetime
import enum
import functools
import inspect
import socket
import threading
import time
import unittest
import uuid
from concurrent import futures
from dataclasses import dataclass
from decimal import Decimal

import forebay
import grpc
from forebay import TicketState, _messages

STREAMS = ["Load", "WatchOutcomes"]


class Fail:
    """An answer that is an error; without a reason it is not of the daemon's making."""

    def __init__(self, code, reason="", pushback=None, **metadata):
        self.code, self.trailers = code, []
        if reason:
            info = _messages.ErrorInfo(reason=reason, domain="forebay.dev", metadata=metadata)
            status = _messages.RpcStatus()
            status.details.add().Pack(info)
            self.trailers.append(("grpc-status-details-bin", status.SerializeToString()))
        if pushback is not None:
            self.trailers.append(("grpc-retry-pushback-ms", pushback))

    def abort(self, context):
        context.set_trailing_metadata(self.trailers)
        context.abort(self.code, "no")


STOPPING = Fail(grpc.StatusCode.UNAVAILABLE, "STOPPING", "20")
FULL = Fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_REACHED", "20")
LOST = Fail(grpc.StatusCode.UNAVAILABLE)
LATE = Fail(grpc.StatusCode.DEADLINE_EXCEEDED)
HANG = object()

LOOP = asyncio.new_event_loop()


def on_loop(test):
    """A test that is `async def`."""
    return functools.wraps(test)(lambda self: LOOP.run_until_complete(test(self)))


class Daemon(grpc.GenericRpcHandler):
    """Answers every call with the next of `answers` (to a stream a list), saves with a ticket when there are none left."""

    def __init__(self, *answers):
        self.answers, self.requests = list(answers), []
        self.server = grpc.server(futures.ThreadPoolExecutor(4), handlers=[self])
        self.target = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    @property
    def calls(self):
        return len(self.requests)

    def service(self, details):
        name = details.method.rpartition("/")[2]
        parse = getattr(_messages, name + "Request").FromString
        serialize = getattr(_messages, name + "Response").SerializeToString
        if name in STREAMS:
            return grpc.unary_stream_rpc_method_handler(self.stream, parse, serialize)
        return grpc.unary_unary_rpc_method_handler(self.answer, parse, serialize)

    def answer(self, request, context):
        self.requests.append(request)
        saved = _messages.SaveResponse(ticket="t", state=1) if hasattr(request, "save") else _messages.SaveBatchResponse()
        answer = self.answers.pop(0) if self.answers else saved
        return answer.abort(context) if isinstance(answer, Fail) else answer

    def stream(self, request, context):
        self.requests.append(request)
        for answer in self.answers.pop(0):
            if isinstance(answer, Fail):
                answer.abort(context)
            elif answer is HANG:
                ended = threading.Event()
                if context.add_callback(ended.set):
                    ended.wait()
            else:
                yield answer


class Awaited:
    """An AsyncClient that is used as a Client, so that one test tests both."""

    def __init__(self, target, **options):
        self.client = forebay.AsyncClient(target, **options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        LOOP.run_until_complete(self.client.close())

    def __getattr__(self, name):
        method = getattr(self.client, name)
        if name in ("load", "watch"):
            return lambda *arguments, **options: AwaitedStream(self.within(method, *arguments, **options))
        return functools.partial(self.within, method)

    def within(self, method, *arguments, **options):
        async def run():
            result = method(*arguments, **options)
            return await result if inspect.isawaitable(result) else result

        return LOOP.run_until_complete(run())


class AwaitedStream:
    def __init__(self, stream):
        self.stream = stream

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def __iter__(self):
        told = self.stream.__aiter__()
        try:
            while True:
                yield LOOP.run_until_complete(told.__anext__())
        except StopAsyncIteration:
            return
        finally:
            LOOP.run_until_complete(told.aclose())

    def close(self):
        LOOP.call_soon_threadsafe(self.stream.close)


class Case(unittest.TestCase):
    connect = forebay.Client

    def client(self, *answers, **options):
        """A client of a daemon that gives these answers."""
        self.daemon = Daemon(*answers)
        self.addCleanup(self.daemon.server.stop, None)
        client = self.connect(self.daemon.target, **options)
        self.addCleanup(client.__exit__, None, None, None)
        return client


def take_and_close(listener):
    """Takes one HTTP/2 connection and breaks it when a save has come."""
    connection, _ = listener.accept()
    listener.close()
    with connection:
        connection.sendall(b"\0\0\0\4\0\0\0\0\0")  # empty SETTINGS
        received = b""
        while b"players" not in received:
            received += connection.recv(65536)


class Errors(Case):
    def save(self, *answers, **how):
        """Saves once; returns how often the daemon was called."""
        client = self.client(*answers)
        self.assertEqual(client.save("players", 1, {"level": 2}, **how).ticket, "t")
        return self.daemon.calls

    def fails(self, kind, *answers, **how):
        with self.assertRaises(kind) as caught:
            self.save(*answers, **how)
        self.assertIs(type(caught.exception), kind)
        return caught.exception

    def test_what_was_not_accepted_is_tried_again(self):
        self.assertEqual(self.save(STOPPING, FULL, STOPPING), 4)

    def test_attempts_are_bounded(self):
        error = self.fails(forebay.Unavailable, *[STOPPING] * 9)
        self.assertEqual((self.daemon.calls, error.reason), (forebay.ATTEMPTS_MAX, "STOPPING"))

    def test_the_pushback_is_waited_for(self):
        start = time.monotonic()
        self.save(Fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "DISK_FULL", "400"))
        self.assertGreaterEqual(time.monotonic() - start, 0.4)

    def test_a_pushback_beyond_the_deadline_is_not_waited_for(self):
        full = Fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "DISK_FULL", "9000", free_bytes="7")
        error = self.fails(forebay.Busy, full, timeout=5)
        self.assertEqual((self.daemon.calls, error.metadata), (1, {"free_bytes": "7"}))

    def test_a_negative_pushback_ends_the_attempts(self):
        self.fails(forebay.Unavailable, Fail(grpc.StatusCode.UNAVAILABLE, "STOPPING", "-1"))
        self.assertEqual(self.daemon.calls, 1)

    def test_what_may_have_been_accepted_is_not_tried_again(self):
        lost = [LOST, LATE, Fail(grpc.StatusCode.RESOURCE_EXHAUSTED), Fail(grpc.StatusCode.UNKNOWN)]
        for answer in [
            *lost,
            Fail(grpc.StatusCode.INTERNAL, "OUTCOME_UNKNOWN"),
            Fail(grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE"),
        ]:
            with self.subTest(code=answer.code):
                self.fails(forebay.OutcomeUnknown, answer)
                self.assertEqual(self.daemon.calls, 1)

    def test_with_a_request_id_it_is_tried_again(self):
        lost = [LOST, Fail(grpc.StatusCode.INTERNAL, "OUTCOME_UNKNOWN")]
        self.assertEqual(self.save(*lost, request_id="once"), 3)
        self.assertEqual({request.request_id for request in self.daemon.requests}, {"once"})

    def test_a_call_that_saves_nothing_is_tried_again_too(self):
        client = self.client(LOST, Fail(grpc.StatusCode.INTERNAL), _messages.GetResponse(), *[LOST] * 9)
        self.assertIsNone(client.get("players", 1).values)
        with self.assertRaises(forebay.Unavailable):
            client.get("players", 1)

    def test_a_broken_connection_leaves_the_outcome_unknown(self):
        with socket.create_server(("127.0.0.1", 0)) as listener, self.connect(f"127.0.0.1:{listener.getsockname()[1]}") as client:
            daemon = threading.Thread(target=take_and_close, args=[listener])
            daemon.start()
            with self.assertRaises(forebay.OutcomeUnknown) as caught:
                client.save("players", 1, {"level": 2})
            daemon.join()
        self.assertEqual(caught.exception.code, grpc.StatusCode.UNAVAILABLE)

    def test_a_refusal_is_not_tried_again(self):
        self.fails(forebay.Refused, Fail(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_SAVE"))
        self.assertEqual(self.daemon.calls, 1)
        self.fails(forebay.Blocked, Fail(grpc.StatusCode.FAILED_PRECONDITION, "LANE_PAUSED"))
        self.assertEqual(self.daemon.calls, 1)

    def test_a_save_that_failed_tells_why(self):
        why = {"ticket": "t-9", "sqlstate": "23503", "constraint": "players_guild_id_fkey"}
        failed = Fail(grpc.StatusCode.FAILED_PRECONDITION, "SAVE_FAILED", **why)
        error = self.fails(forebay.SaveFailed, failed, durability=forebay.Durability.PERSISTED, request_id="once")
        self.assertEqual({"ticket": error.ticket, "sqlstate": error.sqlstate, "constraint": error.constraint}, why)
        self.assertEqual((self.daemon.calls, error.message), (1, "no"))

    def test_nobody_listens(self):
        client = self.client()
        self.daemon.server.stop(None).wait()
        with self.assertRaises(forebay.Unavailable):
            client.save("players", 1, {"level": 2})

    def test_what_has_no_text_for_postgres_is_an_error(self):
        client = self.client()
        for key, values in [(1, {"a": object()}), (None, {"a": 1}), (1, {"a": {1, 2}})]:
            with self.assertRaises(TypeError):
                client.save("players", key, values)
        with self.assertRaises(TypeError):
            client.save("players", 1, {"a": 1}, requestid="misspelt")
        with self.assertRaises(ValueError):
            client.save_batch([forebay.Save("players", 1)])
        self.assertEqual(self.daemon.calls, 0)


class AsyncErrors(Errors):
    connect = Awaited


class Colour(enum.Enum):
    RED = "red"
    BLUE = 2


class Calls(Case):
    def test_a_save_says_all_that_was_asked(self):
        client = self.client()
        how = {"durability": forebay.Durability.PERSISTED, "request_id": "r", "callback": "shop"}
        values = {"n": Decimal("1.50"), "colours": [Colour.RED, Colour.BLUE], "at": None}
        client.save("items", [42, uuid.UUID(int=1)], values, add=["n"], **how)
        client.delete("items", 42, **how)
        client.append("log", {"line": "é", "day": datetime.date(2026, 1, 31)}, **how)
        client.save_batch([forebay.Save("items", 1, {"raw": b"\0\xff"}), forebay.Save("items", 2, delete=True)], atomic=True, **how)
        save, delete, append, batch = self.daemon.requests
        for request in self.daemon.requests:
            self.assertEqual((request.durability, request.request_id, request.callback), (2, "r", "shop"))
        self.assertEqual(save.save.json, b'{"n":1.50,"colours":["red",2],"at":null}')
        self.assertEqual((list(save.save.key), list(save.save.add)), (["42", str(uuid.UUID(int=1))], ["n"]))
        self.assertEqual((delete.save.WhichOneof("change"), list(delete.save.key)), ("delete", ["42"]))
        self.assertEqual((list(append.save.key), append.save.json.decode()), ([], '{"line":"é","day":"2026-01-31"}'))
        self.assertEqual(
            (batch.atomic, batch.saves[0].json, batch.saves[1].HasField("delete")), (True, b'{"raw":"\\\\x00ff"}', True)
        )

    def test_the_answer_tells_what_is_known(self):
        failure = {"sqlstate": "23503", "constraint": "c", "message": "m"}
        results = [{"ticket": "b", "state": 2, "superseded": True}, {"ticket": "c", "state": 3, "failure": failure}]
        client = self.client(
            _messages.SaveResponse(ticket="a", state=1, deduplicated=True), _messages.SaveBatchResponse(results=results)
        )
        saved = client.save("players", 1, {})
        self.assertEqual((saved.ticket, saved.state, saved.deduplicated), ("a", TicketState.PENDING, True))
        stale, failed = client.save_batch([])
        self.assertEqual((stale.state, stale.superseded, stale.failure), (TicketState.PERSISTED, True, None))
        self.assertEqual((failed.state, failed.failure), (TicketState.FAILED, forebay.Failure(**failure)))

    def test_a_ticket_tells_its_state(self):
        waits = {"state": 1, "saves_ahead": 7, "estimated_wait": {"seconds": 1, "nanos": 500_000_000}}
        failed = {"state": 3, "failure": {"sqlstate": "23503"}, "accept_time": {"seconds": 60, "nanos": 1_500}, "retry_ticket": "r"}
        client = self.client(*[_messages.GetTicketResponse(status=status) for status in (waits, failed, {"state": 99})])
        status = client.ticket("t")
        self.assertEqual((status.final, status.saves_ahead, status.accept_time), (False, 7, None))
        self.assertEqual(status.estimated_wait, datetime.timedelta(seconds=1.5))
        status = client.ticket("t")
        self.assertEqual((status.final, status.state, status.failure.sqlstate), (True, TicketState.FAILED, "23503"))
        self.assertEqual(status.accept_time, datetime.datetime(1970, 1, 1, 0, 1, 0, 1, datetime.timezone.utc))
        self.assertEqual((status.retry_ticket, status.estimated_wait, status.outcome_time), ("r", None, None))
        self.assertEqual(client.ticket("t").state, TicketState.UNSPECIFIED, "a state of later daemons")

    def awaits(self, *answers, timeout=10.0):
        answers = [
            answer if isinstance(answer, Fail) else _messages.AwaitTicketResponse(status={"state": answer}) for answer in answers
        ]
        return self.client(*answers).await_ticket("t", timeout=timeout).state

    def test_an_outcome_is_awaited_again_until_it_is_there(self):
        self.assertEqual(self.awaits(1, STOPPING, 1, 2), TicketState.PERSISTED)
        self.assertEqual(self.daemon.calls, 4)

    def test_an_outcome_is_awaited_while_the_daemon_is_away(self):
        self.assertEqual(self.awaits(*[STOPPING] * (forebay.ATTEMPTS_MAX + 3), LOST, 3), TicketState.FAILED)

    def test_an_outcome_that_comes_too_late_is_asked_for_again(self):
        self.assertEqual(self.awaits(LATE, 2), TicketState.PERSISTED)

    def test_what_is_pending_in_the_end_is_told(self):
        self.assertEqual(self.awaits(*[1] * 99, timeout=0.3), TicketState.PENDING)
        self.assertGreater(self.daemon.calls, 1)

    def test_rows_keep_every_digit(self):
        digits = "7" * 5_000
        text = f'{{"i": 12345678901234567890123, "n": 7.50, "big": {digits}, "doc": {{"x": [0.1, null]}}, "s": "1.0"}}'
        row = self.client(_messages.GetResponse(found=True, json=text.encode(), pending=True, unknown_columns=["at"])).get(
            "t", [1, "a"]
        )
        self.assertEqual(row.values["i"], 12345678901234567890123)
        self.assertEqual((str(row.values["n"]), str(row.values["big"])), ("7.50", digits))
        self.assertEqual((row.values["doc"], row.values["s"]), ({"x": [Decimal("0.1"), None]}, "1.0"))
        self.assertEqual((row.json, row.key, row.pending, row.unknown_columns), (text.encode(), ("1", "a"), True, ("at",)))

    def test_what_is_read_can_be_saved_again(self):
        values = {
            "n": Decimal("1E+3"),
            "i": 2**80,
            "big": -(10**5_000) - 1,
            "s": '"\\',
            "list": [Decimal("0.10"), {"a": None}],
            "b": True,
        }
        client = self.client()
        client.save("t", 1, values)
        self.daemon.answers.append(_messages.GetResponse(found=True, json=self.daemon.requests[0].save.json))
        self.assertEqual(client.get("t", 1).values, values)

    def test_a_flush_is_repeated_until_the_lanes_are_there(self):
        client = self.client(*[STOPPING] * (forebay.ATTEMPTS_MAX + 1), LOST, _messages.FlushResponse(through=9))
        self.assertEqual(client.flush("players", "items"), 9)
        self.assertEqual(list(self.daemon.requests[-1].collections), ["players", "items"])


class AsyncCalls(Calls):
    connect = Awaited


def page(token, loaded, *keys, gone=()):
    rows = [_messages.LoadedRow(key=[key], json=b'{"n": 1.0}') for key in keys] + [_messages.LoadedRow(key=[key]) for key in gone]
    return _messages.LoadResponse(rows=rows, resume_token=token, rows_loaded=loaded, rows_estimated=10)


def mark(token):
    return _messages.WatchOutcomesResponse(watermark={"resume_token": token})


class Streams(Case):
    def test_a_load_gives_every_row_and_tells_how_far_it_is(self):
        load = self.client([page("a", 1, "1", gone=["7"]), page("b", 3, "2", "3")]).load("players", 1, [3, "x"])
        rows = [(row.key, row.values, load.rows_loaded, load.rows_estimated) for row in load]
        value = {"n": Decimal("1.0")}
        self.assertEqual(rows, [(("1",), value, 1, 10), (("7",), None, 1, 10), (("2",), value, 3, 10), (("3",), value, 3, 10)])
        request = self.daemon.requests[0]
        self.assertEqual((request.collection, list(request.from_key), list(request.to_key)), ("players", ["1"], ["3", "x"]))

    def test_a_broken_load_goes_on_behind_what_it_gave(self):
        load = self.client([STOPPING], [page("a", 1, "1"), page("b", 2, "2"), LOST], [LOST], [page("c", 1, "3")]).load("players")
        self.assertEqual([row.key for row in load], [("1",), ("2",), ("3",)])
        self.assertEqual([request.resume_token for request in self.daemon.requests], ["", "", "b", "b"])
        self.assertEqual(load.rows_loaded, 3)

    def test_a_load_gives_up_after_the_timeout(self):
        load = self.client([page("a", 1, "1"), LOST], *[[LOST]] * 99).load("players", timeout=0.5)
        rows = iter(load)
        self.assertEqual(next(rows).key, ("1",))
        with self.assertRaises(forebay.Unavailable):
            next(rows)
        self.assertGreater(self.daemon.calls, 2)

    def test_the_time_of_a_slow_consumer_does_not_count(self):
        load = self.client([page("a", 1, "1", "2"), LOST], [page("b", 1, "3")]).load("players", timeout=0.2)
        keys = []
        for row in load:
            time.sleep(0.15)
            keys.append(row.key)
        self.assertEqual(keys, [("1",), ("2",), ("3",)])

    def test_a_load_that_is_refused_ends(self):
        with self.assertRaises(forebay.Refused):
            list(self.client([Fail(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")]).load("log"))
        self.assertEqual(self.daemon.calls, 1)

    def test_a_watch_tells_outcomes_and_goes_on_after_a_break(self):
        failed = {"ticket": "a5", "collection": "players", "key": ["1"], "failure": {"sqlstate": "23503"}}
        superseded = {"ticket": "a6", "collection": "players"}
        told = [_messages.WatchOutcomesResponse(failed=failed), _messages.WatchOutcomesResponse(superseded=superseded)]
        watch = self.client([mark("a4"), *told, mark("a7"), LOST], [mark("a8")], [mark("a9"), HANG]).watch(
            "players", resume_token="a3"
        )
        seen = []
        for outcome in watch:
            seen.append(outcome)
            if outcome == forebay.Watermark("a9", False):
                break
        failure = forebay.Failed("a5", "players", ("1",), forebay.Failure("23503", "", ""))
        marks = [forebay.Watermark(token, False) for token in ("a4", "a7", "a8", "a9")]
        self.assertEqual(seen, [marks[0], failure, forebay.Superseded("a6", "players"), *marks[1:]])
        self.assertEqual([request.resume_token for request in self.daemon.requests], ["a3", "a7", "a8"])
        self.assertEqual([marks[1].covers(ticket) for ticket in ("a6", "a7")], [True, False])

    def test_a_watcher_that_was_too_slow_goes_on_where_it_is_told(self):
        slow = Fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "WATCHER_TOO_SLOW", resume_token="a2")
        outcomes = iter(self.client([mark("a1"), slow], [mark("a3"), HANG]).watch())
        self.assertEqual([next(outcomes), next(outcomes)], [forebay.Watermark("a1", False), forebay.Watermark("a3", False)])
        self.assertEqual(self.daemon.requests[1].resume_token, "a2")
        outcomes.close()

    def test_a_watcher_is_told_that_postgres_went_back(self):
        back = Fail(grpc.StatusCode.ABORTED, "POSTGRES_REWOUND", resume_token="a1")
        outcomes = iter(self.client([mark("a9"), back], [mark("a1"), mark("a2"), HANG]).watch())
        expected = [forebay.Watermark("a9", False), forebay.Watermark("a1", True), forebay.Watermark("a2", False)]
        self.assertEqual([next(outcomes) for _ in expected], expected)
        self.assertEqual(self.daemon.requests[1].resume_token, "a1")
        outcomes.close()

    def test_a_watch_can_be_ended_from_elsewhere(self):
        watch = self.client([mark("a1"), HANG]).watch()
        for _ in watch:
            threading.Timer(0.05, watch.close).start()
        self.assertEqual(self.daemon.calls, 1)


class AsyncStreams(Streams):
    connect = Awaited


REFUSAL = Fail(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_SAVE")


class Saves(unittest.TestCase):
    """The decorator. Each test tells what the daemon was sent, and what was sent when the caller went on."""

    def setUp(self):
        self.daemon = Daemon()
        self.addCleanup(self.daemon.server.stop, None)
        self.client = forebay.Client(self.daemon.target)
        self.addCleanup(self.client.close)

    def bodies(self):
        return [request.save.json.decode() for request in self.daemon.requests]

    def player(self, **how):
        saves = self.client.saves("players", key=lambda player: player.id, **how)

        @dataclass
        class Player:
            id: int
            level: int = 0

            @saves
            def level_up(self, by: int = 1) -> int:
                """Up."""
                self.level += by
                if by < 0:
                    raise ValueError(by)
                return self.level

            @saves
            def level_up_twice(self):
                self.level_up()
                return self.level_up()

            @saves
            def give(self, other):
                self.level -= 1
                other.level_up()

            @saves
            def try_both(self):
                try:
                    self.level_up(-1)
                except ValueError:
                    self.level = 5

        return Player(1)

    def test_the_object_is_saved_before_the_caller_goes_on(self):
        player = self.player()
        self.assertEqual(player.level_up(by=3), 3)
        self.assertEqual(self.bodies(), ['{"id":1,"level":3}'])
        self.assertEqual(list(self.daemon.requests[0].save.key), ["1"])

    def test_a_method_that_raises_saves_nothing(self):
        with self.assertRaises(ValueError):
            self.player().level_up(-1)
        self.assertEqual(self.bodies(), [])

    def test_a_refusal_reaches_the_caller(self):
        self.daemon.answers = [REFUSAL]
        with self.assertRaises(forebay.Refused):
            self.player().level_up()

    def test_calls_within_each_other_save_once(self):
        self.assertEqual(self.player().level_up_twice(), 2)
        self.assertEqual(self.bodies(), ['{"id":1,"level":2}'])

    def test_an_inner_call_that_raised_is_saved_by_the_outer_one(self):
        self.player().try_both()
        self.assertEqual(self.bodies(), ['{"id":1,"level":5}'])

    def test_another_object_is_saved_by_its_own_call(self):
        player, other = self.player(), self.player()
        player.give(other)
        self.assertEqual(self.bodies(), ['{"id":1,"level":1}', '{"id":1,"level":-1}'])

    def test_an_inner_call_that_saves_something_else_saves_it(self):
        class Player:
            @self.client.saves("players", body=lambda player: {"id": 1, "gold": 2})
            def pay(self):
                pass

            @self.client.saves("players")
            def buy(self):
                self.pay()

            def to_save(self):
                return {"id": 1, "level": 3}

        Player().buy()
        self.assertEqual(self.bodies(), ['{"id":1,"gold":2}', '{"id":1,"level":3}'])

    def test_the_options_go_with_the_save(self):
        self.player(durability=forebay.Durability.PERSISTED, callback="shop").level_up()
        self.assertEqual((self.daemon.requests[0].durability, self.daemon.requests[0].callback), (2, "shop"))

    def test_the_method_stays_what_it_was(self):
        method = type(self.player()).level_up
        self.assertEqual(
            (method.__name__, method.__doc__, str(inspect.signature(method))), ("level_up", "Up.", "(self, by: int = 1) -> int")
        )

    def test_what_can_not_be_saved_is_told_before_the_method_runs(self):
        class Thing:
            ran = False

            @self.client.saves("things")
            def run(self):
                self.ran = True

        thing = Thing()
        with self.assertRaises(TypeError):
            thing.run()
        self.assertFalse(thing.ran)

    def test_methods_that_return_before_they_ran_are_refused(self):
        def generator(self):
            yield

        async def coroutine(self):
            pass

        for method in (generator, coroutine):
            with self.assertRaises(TypeError):
                self.client.saves("players")(method)
        with self.assertRaises(TypeError):
            self.client.saves("players", request_id="twice")

    def test_an_older_state_never_overtakes_a_newer_one(self):
        # Without turns the second save would be accepted while the first waits to be sent again.
        self.daemon.answers = [Fail(grpc.StatusCode.UNAVAILABLE, "STOPPING", "300")]
        player = self.player()
        first = threading.Thread(target=player.level_up)
        first.start()
        while not self.daemon.requests:
            time.sleep(0.001)
        player.level_up()
        first.join()
        self.assertEqual(self.bodies(), ['{"id":1,"level":1}', '{"id":1,"level":1}', '{"id":1,"level":2}'])


class AsyncSaves(unittest.TestCase):
    def setUp(self):
        self.daemon = Daemon()
        self.addCleanup(self.daemon.server.stop, None)
        # Outside of the loop, as where a module defines its classes.
        self.client = forebay.AsyncClient(self.daemon.target)
        self.addCleanup(lambda: LOOP.run_until_complete(self.client.close()))
        saves = self.client.saves("players")

        @dataclass
        class Player:
            id: int
            level: int = 0

            @saves
            async def level_up(self, after=None):
                """Up."""
                if after is not None:
                    await after.wait()
                self.level += 1

            @saves
            async def level_up_twice(self):
                await asyncio.gather(self.level_up(), self.level_up())

            @saves
            async def level_up_later(self, event):
                return asyncio.create_task(self.level_up(event))

        self.player = Player(1)

    def levels(self):
        return [int(request.save.json.decode().partition('"level":')[2][:-1]) for request in self.daemon.requests]

    @on_loop
    async def test_the_object_is_saved_before_the_caller_goes_on(self):
        await self.player.level_up()
        self.assertEqual(self.levels(), [1])
        self.assertEqual((self.player.level_up.__name__, self.player.level_up.__doc__), ("level_up", "Up."))
        self.assertTrue(inspect.iscoroutinefunction(self.player.level_up))

    @on_loop
    async def test_a_refusal_reaches_the_caller(self):
        self.daemon.answers = [REFUSAL]
        with self.assertRaises(forebay.Refused):
            await self.player.level_up()

    @on_loop
    async def test_calls_within_each_other_save_once(self):
        await self.player.level_up_twice()
        self.assertEqual(self.levels(), [2])

    @on_loop
    async def test_a_task_that_outlives_the_call_around_it_saves_by_itself(self):
        event = asyncio.Event()
        task = await self.player.level_up_later(event)
        self.assertEqual(self.levels(), [0])
        event.set()
        await task
        self.assertEqual(self.levels(), [0, 1])

    @on_loop
    async def test_an_older_state_never_overtakes_a_newer_one(self):
        self.daemon.answers = [Fail(grpc.StatusCode.UNAVAILABLE, "STOPPING", "100")]
        event = asyncio.Event()
        event.set()
        await asyncio.gather(self.player.level_up(), self.player.level_up(event))
        self.assertEqual(self.levels(), [1, 1, 2])

    @on_loop
    async def test_other_objects_do_not_wait(self):
        self.daemon.answers = [Fail(grpc.StatusCode.UNAVAILABLE, "STOPPING", "300")]
        first = asyncio.create_task(self.player.level_up())
        while not self.daemon.requests:
            await asyncio.sleep(0.001)
        await type(self.player)(2, 7).level_up()
        self.assertEqual(self.levels(), [1, 8])
        await first

    @on_loop
    async def test_plain_methods_are_refused(self):
        with self.assertRaises(TypeError):
            self.client.saves("players")(lambda player: None)


if __name__ == "__main__":
    unittest.main()
