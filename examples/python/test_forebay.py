"""What the client does about errors, against a server that fails as it is told: `python3 test_forebay.py`. Needs grpcio."""

import socket
import threading
import time
import unittest
from concurrent import futures

import forebay
import grpc


class Fail:
    """An answer that is an error; without a reason it is not of the daemon's making."""

    def __init__(self, code, reason="", pushback=None):
        self.code, self.trailers = code, []
        if reason:
            status, info = forebay._messages.RpcStatus(), forebay._messages.ErrorInfo(reason=reason, domain="forebay.dev")
            status.details.add().Pack(info)
            self.trailers.append(("grpc-status-details-bin", status.SerializeToString()))
        if pushback is not None:
            self.trailers.append(("grpc-retry-pushback-ms", pushback))


STOPPING = Fail(grpc.StatusCode.UNAVAILABLE, "STOPPING", "20")
FULL = Fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_REACHED")


class Daemon(grpc.GenericRpcHandler):
    """Answers every call with the next of `answers`; with a ticket when there are none left."""

    def __init__(self, *answers):
        self.answers, self.calls = list(answers), 0
        self.server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[self])
        self.target = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(self.answer)

    def answer(self, request, context):
        self.calls += 1
        if not self.answers:
            return forebay._messages.SaveResponse(ticket="t").SerializeToString()
        fail = self.answers.pop(0)
        context.set_trailing_metadata(fail.trailers)
        context.abort(fail.code, "no")


def take_and_close(listener):
    """Takes one HTTP/2 connection and breaks it when a save has come."""
    connection, _ = listener.accept()
    listener.close()
    with connection:
        connection.sendall(b"\0\0\0\4\0\0\0\0\0")  # empty SETTINGS
        received = b""
        while b"players" not in received:
            received += connection.recv(65536)


class Errors(unittest.TestCase):
    def save(self, *answers, timeout=10.0, request_id=""):
        """Saves once; returns how often the daemon was called."""
        self.daemon = Daemon(*answers)
        self.addCleanup(self.daemon.server.stop, None)
        with forebay.Client(self.daemon.target) as client:
            self.assertEqual(client.save("players", 1, {"level": 2}, timeout=timeout, request_id=request_id), "t")
        return self.daemon.calls

    def fails(self, kind, *answers, timeout=10.0):
        with self.assertRaises(kind) as caught:
            self.save(*answers, timeout=timeout)
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
        self.fails(forebay.Unavailable, Fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "DISK_FULL", "9000"), timeout=5)
        self.assertEqual(self.daemon.calls, 1)

    def test_a_negative_pushback_ends_the_attempts(self):
        self.fails(forebay.Unavailable, Fail(grpc.StatusCode.UNAVAILABLE, "STOPPING", "-1"))
        self.assertEqual(self.daemon.calls, 1)

    def test_what_may_have_been_accepted_is_not_tried_again(self):
        lost = [Fail(grpc.StatusCode.UNAVAILABLE), Fail(grpc.StatusCode.RESOURCE_EXHAUSTED), Fail(grpc.StatusCode.UNKNOWN)]
        for answer in [*lost, Fail(grpc.StatusCode.INTERNAL, "OUTCOME_UNKNOWN"), Fail(grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE")]:
            with self.subTest(code=answer.code):
                self.fails(forebay.OutcomeUnknown, answer)
                self.assertEqual(self.daemon.calls, 1)

    def test_with_a_request_id_it_is_tried_again(self):
        lost = [Fail(grpc.StatusCode.UNAVAILABLE), Fail(grpc.StatusCode.INTERNAL, "OUTCOME_UNKNOWN")]
        self.assertEqual(self.save(*lost, request_id="once"), 3)

    def test_a_broken_connection_leaves_the_outcome_unknown(self):
        with socket.create_server(("127.0.0.1", 0)) as listener, forebay.Client(f"127.0.0.1:{listener.getsockname()[1]}") as client:
            daemon = threading.Thread(target=take_and_close, args=[listener])
            daemon.start()
            with self.assertRaises(forebay.OutcomeUnknown) as caught:
                client.save("players", 1, {"level": 2})
            daemon.join()
        self.assertEqual(caught.exception.code, grpc.StatusCode.UNAVAILABLE)

    def test_a_refusal_is_not_tried_again(self):
        self.fails(forebay.Refused, Fail(grpc.StatusCode.FAILED_PRECONDITION, "LANE_PAUSED"))
        self.assertEqual(self.daemon.calls, 1)

    def test_nobody_listens(self):
        daemon = Daemon()
        daemon.server.stop(None).wait()
        with forebay.Client(daemon.target) as client, self.assertRaises(forebay.Unavailable):
            client.save("players", 1, {"level": 2})

    def test_what_has_no_text_for_postgres_is_an_error(self):
        with forebay.Client("127.0.0.1:1") as client:
            for key, values, kind in [(1, {"a": object()}, TypeError), (None, {"a": 1}, TypeError), (1, None, ValueError)]:
                with self.assertRaises(kind):
                    client.save("players", key, values)


if __name__ == "__main__":
    unittest.main()
