"""Saves to Forebay, the write-behind persistence daemon for Postgres. One file to copy: `pip install grpcio protobuf`
(Python 3.9, protobuf 4.22, or later).

    import forebay

    with forebay.Client("127.0.0.1:7420") as client:
        client.save("players", 42, {"name": "Ann", "gold": Decimal("7.50")})  # durable when this returns
        client.save("players", 42, {"gold": 5}, add=["gold"], request_id=str(uuid.uuid4()))  # exactly once
        client.save_batch([forebay.Save("items", [42, 1], {"kind": "sword"}), forebay.Save("items", [42, 2], delete=True)])
        saved = client.save("players", 43, {"name": "Bob"})
        client.await_ticket(saved.ticket).state                               # PERSISTED: now it is in Postgres
        client.get("players", 42).values                                      # {"name": "Ann", "gold": Decimal("12.50"), …}

`AsyncClient` has the same methods, to be awaited (`load` and `watch`: `async for`). A key is a scalar, or a list of the
primary key's parts in their order; () if the values hold it. Values name the columns to set; the others keep what they hold.
None is NULL; numbers keep every digit (Decimal); bytes, dates, times and UUIDs go as Postgres reads them; dicts and lists are
JSON. What is read is JSON as Postgres prints it: whole numbers are int, others Decimal, and dates, UUIDs and bytes are text.

The exceptions say what to do: `Refused` is yours to fix (`Blocked`: an operator's); `Unavailable` was not accepted, and the
client has tried again (`Busy`: a limit is met); `OutcomeUnknown` may have been: save again, unless saving twice is worse. With a
request id (new for every call) it never is: the daemon recognises the call, and the client repeats it by itself. `SaveFailed`
was accepted, and Postgres would not take it. A client is a connection: keep it. Threads may share a `Client`; an `AsyncClient`
belongs to the event loop of its first call.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import contextvars
import dataclasses
import datetime
import enum
import functools
import inspect
import json
import math
import random
import threading
import time
import uuid
import weakref
import zlib
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from json.encoder import encode_basestring
from typing import TYPE_CHECKING, Any, Callable, Generic, TypedDict, TypeVar, Union, cast

import grpc
import grpc.aio
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, duration_pb2, message_factory, timestamp_pb2

if TYPE_CHECKING:
    from typing_extensions import Concatenate, ParamSpec, Unpack

    P = ParamSpec("P")

__all__ = [
    *("AsyncClient", "Blocked", "Busy", "Client", "Durability", "Error", "Failed", "Failure", "How", "Load", "OutcomeUnknown"),
    *("Refused", "Row", "Save", "SaveFailed", "Saved", "Superseded", "TicketState", "TicketStatus", "Unavailable", "Watch"),
    *("Watermark",),
]

ATTEMPTS_MAX = 5
BACKOFF_MIN_S = 0.1
BACKOFF_MAX_S = 1.0
# How long one call waits for an outcome at most, and how long before the timeout it is answered.
AWAIT_MAX_S = 30.0
AWAIT_MARGIN_S = 0.25

_OPTIONS = [
    # The daemon has limits for messages; one here could only lose the answer to saves that were accepted.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # The library's own default would wait up to two minutes for a daemon that has long been back.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # The daemon is near: a proxy that the environment names is for the web.
    ("grpc.enable_http_proxy", 0),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
]

T = TypeVar("T")
Method = TypeVar("Method", bound=Callable[..., Any])
Values = Mapping[str, Any]
Violations = Iterable[tuple[str, str]]


class Error(Exception):
    """A call failed. Which subclass it is tells what to do; `reason` is one of error_reason.proto, or empty."""

    def __init__(
        self, code: grpc.StatusCode, reason: str, message: str, violations: Violations = (), metadata: Mapping[str, str] = {}
    ) -> None:
        super().__init__(code, reason, message)
        self.code, self.reason, self.message = code, reason, message
        self.violations = list(violations)
        """(field, description) of what is wrong with the request; at most the first 16."""
        self.metadata = dict(metadata)
        """What the reason says about itself, like `limit` and `max`."""

    def __str__(self) -> str:
        # The message tells the first violation itself.
        more = [f"{field} {description}" for field, description in self.violations if len(self.violations) > 1]
        return "\n  ".join([f"{self.reason or self.code.name}: {self.message}", *more])


class Refused(Error):
    """Not accepted, and never will be as it is: change the call."""


class Blocked(Refused):
    """Not before an operator acts: a lane is paused, halted or fenced."""


class Unavailable(Error):
    """Certainly not accepted (or, of a call that saves nothing, not answered): the daemon starts, stops, or can't be reached,
    or Postgres would have to be asked. Try again later."""


class Busy(Unavailable):
    """Not accepted: a limit is met. Try again later."""


class OutcomeUnknown(Error):
    """May have been accepted: the connection or the time ran out before the answer, or the journal failed."""


class SaveFailed(Error):
    """Accepted, and Postgres would not take it (durability PERSISTED). Kept for an operator, who may retry it."""

    def __init__(self, *details: Any) -> None:
        super().__init__(*details)
        self.ticket: str = self.metadata.get("ticket", "")
        self.sqlstate: str = self.metadata.get("sqlstate", "")
        self.constraint: str = self.metadata.get("constraint", "")


class Durability(enum.IntEnum):
    """When a save is answered."""

    SYNCED = 1
    """When it is on the journal's disk: it survives a killed process and a power cut, and will be in Postgres."""
    PERSISTED = 2
    """When it has its outcome in Postgres; still PENDING if the timeout comes first. To append or add takes a request id."""


class How(TypedDict, total=False):
    """The options of every call that saves."""

    durability: Durability
    """When it is answered; SYNCED if not told."""
    request_id: str
    """Recognises the call when it is repeated; new for every call."""
    callback: str
    """The endpoint of the daemon's settings that is told the outcome."""
    timeout: float | None
    """Seconds, instead of the client's."""


class TicketState(enum.IntEnum):
    """What is known of an accepted save."""

    UNSPECIFIED = 0
    PENDING = 1
    """Accepted and not in Postgres yet."""
    PERSISTED = 2
    """In Postgres. Final, as all that follow."""
    FAILED = 3
    """Postgres would not take it."""
    DISCARDED = 4
    """Failed, and an operator gave it up."""
    UNKNOWN = 5
    """Of another journal, or too old to be told."""

    @classmethod
    def _missing_(cls, value: object) -> TicketState:
        return cls.UNSPECIFIED  # a later daemon's

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Save:
    """One save: sets the columns that `values` names, adding those in `add` to what is there, or deletes the object."""

    collection: str
    key: Any
    values: Values | None = None
    delete: bool = False
    add: Sequence[str] = ()

    def _message(self) -> Any:
        if self.delete == (self.values is not None):
            raise ValueError("a save takes either values or delete=True")
        message = _messages.Save(collection=self.collection, key=_key(self.key), add=self.add)
        if self.delete:
            message.delete.SetInParent()
        else:
            message.json = _json(self.values).encode()
        return message


@dataclass(frozen=True)
class Failure:
    """Why Postgres would not take a save."""

    sqlstate: str
    constraint: str
    message: str


@dataclass(frozen=True)
class Saved:
    """An accepted save: durable, and named by its ticket."""

    ticket: str
    state: TicketState
    failure: Failure | None
    """Of a batch: why, if the state is FAILED."""
    superseded: bool
    """PERSISTED without effect: the row had a version as high."""
    deduplicated: bool
    """It had been accepted before, under the same request id."""


@dataclass(frozen=True)
class TicketStatus:
    """What became of a save."""

    state: TicketState
    failure: Failure | None
    accept_time: datetime.datetime | None
    """Told of saves that failed."""
    outcome_time: datetime.datetime | None
    """Of a persisted save only as long as the daemon remembers: for minutes, not over a restart."""
    retry_ticket: str
    """If it failed and was saved again: the ticket of that save."""
    superseded: bool
    saves_ahead: int
    """If PENDING: so many saves are written before it or with it, itself included."""
    estimated_wait: datetime.timedelta | None

    @property
    def final(self) -> bool:
        return self.state > TicketState.PENDING


@dataclass(frozen=True)
class Row:
    """An object as it will be: what is pending laid over the row in Postgres."""

    key: tuple[str, ...]
    json: bytes | None
    """The row as JSON text; None if there is no such object (any more)."""
    pending: bool
    """Whether part of it is not in Postgres yet."""
    unknown_columns: tuple[str, ...]
    """Columns that are left out, because only Postgres knows them."""

    @functools.cached_property
    def values(self) -> dict[str, Any] | None:
        """`json` as a dict with every digit: whole numbers are int, others Decimal."""
        return None if self.json is None else json.loads(self.json, parse_float=Decimal, parse_int=_whole)


@dataclass(frozen=True)
class Watermark:
    """Every save below has its outcome: PERSISTED, unless it was told to have failed."""

    resume_token: str
    rewound: bool
    """Postgres went back in time: what was told above this watermark no longer holds. What was lost is written again."""

    def covers(self, ticket: str) -> bool:
        """Whether the save of this ticket, of the same journal, has its outcome."""
        return ticket < self.resume_token


@dataclass(frozen=True)
class Failed:
    """A save failed. May be told again after a break."""

    ticket: str
    collection: str
    key: tuple[str, ...]
    failure: Failure


@dataclass(frozen=True)
class Superseded:
    """A save is PERSISTED without effect: the row had a version as high. Not told again after a break."""

    ticket: str
    collection: str


Outcome = Union[Watermark, Failed, Superseded]


@dataclass(frozen=True)
class _Policy:
    """After which errors a call is made again, and how often."""

    again_after: tuple[type[Error], ...] = (Unavailable,)
    attempts_max: float = ATTEMPTS_MAX
    saves: bool = False
    awaits: bool = False


_SAVES = _Policy(saves=True)
_SAVES_ONCE = _Policy((Unavailable, OutcomeUnknown), saves=True)
_READS = _Policy()
_WAITS = _Policy(attempts_max=math.inf)
_AWAITS = _Policy(attempts_max=math.inf, awaits=True)


@dataclass(frozen=True)
class _Call(Generic[T]):
    """A unary call, whichever client makes it."""

    request: Any
    read: Callable[[Any], T]
    timeout: float | None
    policy: _Policy = _READS


class _Calls:
    """The methods of both clients, but for making the call."""

    def save(self, collection: str, key: Any, values: Values, *, add: Sequence[str] = (), **how: Unpack[How]) -> _Call[Saved]:
        """Saves one object; durable when this returns."""
        return _save(Save(collection, key, values, add=add), how)

    def delete(self, collection: str, key: Any, **how: Unpack[How]) -> _Call[Saved]:
        """Deletes one object, if there is one."""
        return _save(Save(collection, key, delete=True), how)

    def append(self, collection: str, values: Values, **how: Unpack[How]) -> _Call[Saved]:
        """Adds a row to an append collection."""
        return _save(Save(collection, (), values), how)

    def save_batch(self, saves: Iterable[Save], atomic: bool = False, **how: Unpack[How]) -> _Call[list[Saved]]:
        """Saves many objects in order, accepted all or none; `atomic`: committed or failed as one too. With PERSISTED a save
        that fails raises nothing, as others may not have: look at each state."""
        return _save_batch(saves, atomic, how)

    def ticket(self, ticket: str, *, timeout: float | None = None) -> _Call[TicketStatus]:
        """What became of a save, at once."""
        return _Call(_messages.GetTicketRequest(ticket=ticket), _status, timeout)

    def await_ticket(self, ticket: str, *, timeout: float | None = None) -> _Call[TicketStatus]:
        """Waits for the outcome of a save; PENDING if the timeout comes first."""
        return _Call(_messages.AwaitTicketRequest(ticket=ticket), _status, timeout, _AWAITS)

    def get(self, collection: str, key: Any, *, timeout: float | None = None) -> _Call[Row]:
        """Reads one object, never older than what was acknowledged before the call."""
        request = _messages.GetRequest(collection=collection, key=_key(key))
        return _Call(request, lambda answer: _row(request.key, answer, answer.found), timeout)

    def flush(self, *collections: str, timeout: float | None = None) -> _Call[int]:
        """Waits until everything accepted before is in Postgres or has failed; of all collections if none is named."""
        request = _messages.FlushRequest(collections=collections)
        return _Call(request, lambda answer: answer.through, timeout, _WAITS)

    def status(self, *, timeout: float | None = None) -> _Call[Any]:
        """How the daemon stands: the message Status of admin_service.proto."""
        return _Call(_messages.GetStatusRequest(), lambda answer: answer.status, timeout)


def _save(save: Save, how: How) -> _Call[Saved]:
    def read(answer: Any) -> Saved:
        return Saved(answer.ticket, TicketState(answer.state), None, answer.superseded, answer.deduplicated)

    return _saving_call(_messages.SaveRequest(save=save._message()), read, **how)


def _save_batch(saves: Iterable[Save], atomic: bool, how: How) -> _Call[list[Saved]]:
    def read(answer: Any) -> list[Saved]:
        again = answer.deduplicated
        return [Saved(one.ticket, TicketState(one.state), _failure(one), one.superseded, again) for one in answer.results]

    request = _messages.SaveBatchRequest(saves=[save._message() for save in saves], atomic=atomic)
    return _saving_call(request, read, **how)


def _saving_call(
    request: Any, read: Any, *, durability: int = 1, request_id: str = "", callback: str = "", timeout: float | None = None
) -> _Call[Any]:
    request.durability, request.request_id, request.callback = durability, request_id, callback
    return _Call(request, read, timeout, _SAVES_ONCE if request_id else _SAVES)


class _Attempts:
    """When a call is made again: certainly not accepted, it may be; if it has a request id, also if it may have been accepted.

    Not left to the retry policy of gRPC: that goes by the status code alone, and UNAVAILABLE is also the code of a
    connection that broke after the daemon took the save.
    """

    def __init__(self, policy: _Policy, timeout: float) -> None:
        self._policy, self._seconds = policy, timeout
        self._margin = min(timeout / 10, AWAIT_MARGIN_S)
        self.restart()

    def restart(self) -> None:
        self._deadline = time.monotonic() + self._seconds
        self._count, self._backoff = 1, BACKOFF_MIN_S

    def timeout(self) -> float:
        """Seconds for the next attempt. An outcome is awaited for a bit less than there is time: the daemon answers PENDING only at
        the call's end, and what comes too late for that can be asked for again."""
        left = self._left()
        if not self._policy.awaits or left < 1.5 * self._margin:
            return left
        return min(left - self._margin, AWAIT_MAX_S)

    def is_enough(self, answer: Any) -> bool:
        return not self._policy.awaits or answer.final or self._left() < 1.5 * self._margin + BACKOFF_MIN_S

    def wait_after(self, failure: Any) -> float:
        """Seconds until the next attempt; raises the error if there is none."""
        error = _error(failure, self._policy.saves)
        wait = _pushback(failure, self._backoff * random.uniform(0.5, 1))
        if self._policy.awaits and error.code is grpc.StatusCode.DEADLINE_EXCEEDED:
            wait = 0.0
        again = isinstance(error, self._policy.again_after) and self._count < self._policy.attempts_max
        if not again or wait is None or wait >= self._left():
            raise error from failure
        self._count, self._backoff = self._count + 1, min(self._backoff * 2, BACKOFF_MAX_S)
        return wait

    def _left(self) -> float:
        return max(self._deadline - time.monotonic(), 0)


def _stub(kind: Any, request: Any) -> Any:
    """The rpc that a request is named after."""
    name = request.DESCRIPTOR.name.removesuffix("Request")
    service = "AdminService" if name == "GetStatus" else "SaveService"
    parse = getattr(_messages, name + "Response").FromString
    return kind(f"/forebay.v1.{service}/{name}", request_serializer=type(request).SerializeToString, response_deserializer=parse)


class _Stream(Generic[T]):
    """What is told over time: `for` with a Client, `async for` with an AsyncClient. After a break it goes on by itself where it
    was; the timeout bounds how long it tries to."""

    def __init__(self, channel: Any, request: Any, timeout: float) -> None:
        self._channel, self._request = channel, request
        self._attempts = _Attempts(_WAITS, timeout)
        self._call: Any = None
        self._is_closed, self._got_on = False, True

    def close(self) -> None:
        """Ends the iteration, also from another thread."""
        self._is_closed = True
        if self._call is not None:
            self._call.cancel()

    def __iter__(self) -> Iterator[T]:
        while not self._is_closed:
            call = self._begin()
            try:
                for message in call:
                    yield from self._take(message)
                wait = self._finish()
            except grpc.RpcError as failure:
                wait = self._recover(failure)
            finally:
                call.cancel()
            time.sleep(wait)

    async def __aiter__(self) -> AsyncIterator[T]:
        while not self._is_closed:
            call = self._begin()
            try:
                async for message in call:
                    for told in self._take(message):
                        yield told
                wait = self._finish()
            except grpc.RpcError as failure:
                wait = self._recover(failure)
            except asyncio.CancelledError:
                if not self._is_closed:
                    raise
                wait = 0
            finally:
                call.cancel()
            await asyncio.sleep(wait)

    def _begin(self) -> Any:
        self._call = _stub(self._channel.unary_stream, self._request)(self._request)
        if self._is_closed:
            self._call.cancel()
        return self._call

    def _take(self, message: Any) -> Iterator[T]:
        """What a message tells. Once all of it has been handed out, the stream is resumed behind it."""
        raise NotImplementedError

    def _finish(self) -> float:
        """The daemon ended the stream without an error. Returns the seconds until it is called again."""
        raise NotImplementedError

    def _recover(self, failure: Any) -> float:
        """The stream broke. Returns the seconds until it is called again; raises if it won't be."""
        if self._is_closed:
            return 0
        # The time counts from the break, not from when the consumer took the last message.
        if self._got_on:
            self._attempts.restart()
            self._got_on = False
        return self._attempts.wait_after(failure)


class Load(_Stream[Row]):
    """The rows of a collection: first those with something pending, then all by key. A row may come twice, and again after a
    break: the later one counts. If its `values` are None, the object is gone."""

    rows_loaded = 0
    """Rows by key so far, of about `rows_estimated` in the table (0: Postgres never estimated)."""
    rows_estimated = 0
    _loaded_before = 0

    def _take(self, message: Any) -> Iterator[Row]:
        self._got_on = True
        self.rows_loaded, self.rows_estimated = self._loaded_before + message.rows_loaded, message.rows_estimated
        for row in message.rows:
            yield _row(row.key, row, row.HasField("json"))
        self._request.resume_token = message.resume_token

    def _finish(self) -> float:
        self._is_closed = True
        return 0

    def _recover(self, failure: Any) -> float:
        self._loaded_before = self.rows_loaded
        return super()._recover(failure)


class Watch(_Stream[Outcome]):
    """Outcomes: watermarks, and before the watermark that covers it each save that failed or was superseded."""

    _rewound = False

    def _take(self, message: Any) -> Iterator[Outcome]:
        self._got_on = True
        event = message.WhichOneof("event")
        if event == "failed":
            failed = message.failed
            yield Failed(failed.ticket, failed.collection, tuple(failed.key), _failure(failed) or Failure("", "", ""))
        elif event == "superseded":
            yield Superseded(message.superseded.ticket, message.superseded.collection)
        elif event == "watermark":
            rewound, self._rewound = self._rewound, False
            yield Watermark(message.watermark.resume_token, rewound)
            self._request.resume_token = message.watermark.resume_token

    def _finish(self) -> float:
        return BACKOFF_MAX_S

    def _recover(self, failure: Any) -> float:
        error = _error(failure, saves=False)
        self._request.resume_token = error.metadata.get("resume_token", self._request.resume_token)
        if error.reason == "POSTGRES_REWOUND":
            self._rewound = True
            return BACKOFF_MIN_S
        return super()._recover(failure)


class _Client:
    """What both clients do alike."""

    timeout: float
    _channel: Any

    def load(self, collection: str, from_key: Any = (), to_key: Any = (), *, timeout: float | None = None) -> Load:
        """Reads all objects of a collection, or of a range of keys, both ends included."""
        request = _messages.LoadRequest(collection=collection, from_key=_key(from_key), to_key=_key(to_key))
        return Load(self._channel, request, self._seconds(timeout))

    def watch(self, *collections: str, resume_token: str = "", timeout: float | None = None) -> Watch:
        """Follows the outcomes of saves, of all collections if none is named, from now or from an earlier watermark on."""
        request = _messages.WatchOutcomesRequest(collections=collections, resume_token=resume_token)
        return Watch(self._channel, request, self._seconds(timeout))

    def saves(
        self,
        collection: str,
        *,
        key: Callable[[Any], Any] | None = None,
        body: Callable[[Any], Values] | None = None,
        **how: Unpack[How],
    ) -> Callable[[Method], Method]:
        """Decorates a method (of an AsyncClient, an `async def`): when it has returned, its object is saved, before its caller
        goes on.

            @client.saves("players", key=lambda player: player.id)
            def level_up(self) -> None: ...

        What is saved is `body(self)`, else `self.to_save()`, else the fields of the dataclass. A method that raises saves
        nothing. If the save fails, the caller gets that exception: the object has changed, and what is stored may not have.

        Decorated calls within each other on one object, with the same arguments here but for the key, save once: when the
        outermost has returned, and not if it raises. Calls at once, in threads or tasks, save one after another, each what the
        object is by then: an older state never overtakes a newer one.
        """
        saver = _Saver(self, collection, key, body, how)

        def decorate(method: Method) -> Method:
            return cast(Method, functools.wraps(method)(self._saving(method, saver)))

        return decorate

    def _seconds(self, timeout: float | None) -> float:
        return self.timeout if timeout is None else timeout

    def _saving(self, method: Any, saver: _Saver) -> Any:
        raise NotImplementedError


def _blocking(method: Callable[Concatenate[_Calls, P], _Call[T]]) -> Callable[Concatenate[Client, P], T]:
    @functools.wraps(method)
    def called(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._make(method(_CALLS, *args, **kwargs))

    return called


def _awaited(method: Callable[Concatenate[_Calls, P], _Call[T]]) -> Callable[Concatenate[AsyncClient, P], Awaitable[T]]:
    @functools.wraps(method)
    async def called(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._make(method(_CALLS, *args, **kwargs))

    return called


_CALLS = _Calls()


class Client(_Client):
    """A connection to a daemon. `timeout` (seconds) bounds a call with all its attempts, unless the call names its own."""

    def __init__(self, target: str, timeout: float = 10.0) -> None:
        self.timeout = timeout
        self._channel = grpc.insecure_channel(target, options=_OPTIONS)
        self._turns = _Turns(threading.RLock)

    save = _blocking(_Calls.save)
    delete = _blocking(_Calls.delete)
    append = _blocking(_Calls.append)
    save_batch = _blocking(_Calls.save_batch)
    ticket = _blocking(_Calls.ticket)
    await_ticket = _blocking(_Calls.await_ticket)
    get = _blocking(_Calls.get)
    flush = _blocking(_Calls.flush)
    status = _blocking(_Calls.status)

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make(self, call: _Call[T]) -> T:
        attempts, stub = _Attempts(call.policy, self._seconds(call.timeout)), _stub(self._channel.unary_unary, call.request)
        while True:
            try:
                answer = call.read(stub(call.request, timeout=attempts.timeout()))
                if attempts.is_enough(answer):
                    return answer
                wait = BACKOFF_MIN_S
            except grpc.RpcError as failure:
                wait = attempts.wait_after(failure)
            time.sleep(wait)

    def _saving(self, method: Any, saver: _Saver) -> Any:
        if inspect.iscoroutinefunction(method) or inspect.isgeneratorfunction(method):
            raise TypeError("Client.saves decorates plain methods: what they do is done when they return")

        def saving(obj: Any, /, *args: Any, **kwargs: Any) -> Any:
            with saver.around(obj) as is_covered:
                result = method(obj, *args, **kwargs)
            if not is_covered():
                with self._turns.of(obj):
                    self._make(saver.call(obj))
            return result

        return saving


class AsyncClient(_Client):
    """`Client` for asyncio: the same methods, to be awaited."""

    def __init__(self, target: str, timeout: float = 10.0) -> None:
        self.timeout = timeout
        self._target = target
        self._turns = _Turns(asyncio.Lock)

    save = _awaited(_Calls.save)
    delete = _awaited(_Calls.delete)
    append = _awaited(_Calls.append)
    save_batch = _awaited(_Calls.save_batch)
    ticket = _awaited(_Calls.ticket)
    await_ticket = _awaited(_Calls.await_ticket)
    get = _awaited(_Calls.get)
    flush = _awaited(_Calls.flush)
    status = _awaited(_Calls.status)

    async def close(self) -> None:
        """Closes the connection."""
        await self._channel.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @functools.cached_property
    def _channel(self) -> Any:
        # Opened by the first call: the library ties a channel to a loop, and where a class is decorated there may be none yet.
        return grpc.aio.insecure_channel(self._target, options=_OPTIONS)

    async def _make(self, call: _Call[T]) -> T:
        attempts, stub = _Attempts(call.policy, self._seconds(call.timeout)), _stub(self._channel.unary_unary, call.request)
        while True:
            try:
                answer = call.read(await stub(call.request, timeout=attempts.timeout()))
                if attempts.is_enough(answer):
                    return answer
                wait = BACKOFF_MIN_S
            except grpc.RpcError as failure:
                wait = attempts.wait_after(failure)
            await asyncio.sleep(wait)

    def _saving(self, method: Any, saver: _Saver) -> Any:
        if not inspect.iscoroutinefunction(method):
            raise TypeError("AsyncClient.saves decorates methods with async def")

        async def saving(obj: Any, /, *args: Any, **kwargs: Any) -> Any:
            with saver.around(obj) as is_covered:
                result = await method(obj, *args, **kwargs)
            if not is_covered():
                async with self._turns.of(obj):
                    await self._make(saver.call(obj))
            return result

        return saving


class _Saver:
    """What a `saves` decorator knows: what to save, and whether a call around this one will."""

    _under_way: contextvars.ContextVar[tuple[_Saving, ...]] = contextvars.ContextVar("forebay_saves", default=())

    def __init__(self, client: object, collection: str, key: Any, body: Any, how: How) -> None:
        if "request_id" in how:
            raise TypeError("a request id is for one call: it would have every later save taken for the first")
        self._collection, self._key, self._body, self._how = collection, key, body, how
        self._arguments = (client, collection, body, how)

    @contextlib.contextmanager
    def around(self, obj: Any) -> Iterator[Callable[[], bool]]:
        """Around the method. Yields what tells, once it has returned, whether a call around it saves the object."""
        if not (self._body or hasattr(obj, "to_save") or dataclasses.is_dataclass(obj)):
            raise TypeError(f"{type(obj).__name__} is no dataclass: to be saved it takes a method to_save, or body=")
        outer, this = self._under_way.get(), _Saving((id(obj), self._arguments))
        before = self._under_way.set((*outer, this))
        try:
            # Asked only then, as a task may outlive the call that it was begun in.
            yield lambda: any(call.is_open and call.what == this.what for call in outer)
        finally:
            this.is_open = False
            self._under_way.reset(before)

    def call(self, obj: Any) -> _Call[Saved]:
        """Saves the object as it is now."""
        key = self._key(obj) if self._key else ()
        if self._body:
            values = self._body(obj)
        elif hasattr(obj, "to_save"):
            values = obj.to_save()
        else:
            values = {field.name: getattr(obj, field.name) for field in dataclasses.fields(obj)}
        return _save(Save(self._collection, key, values), self._how)


@dataclass
class _Saving:
    """A decorated call; open until its method has returned. The state of the object is taken after that."""

    what: Any
    is_open: bool = True


class _Turns:
    """A lock for each object that is being saved, for as long as someone holds it or waits for it."""

    def __init__(self, lock: Callable[[], Any]) -> None:
        self._new, self._guard = lock, threading.Lock()
        self._locks: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()

    def of(self, obj: Any) -> Any:
        with self._guard:
            return self._locks.setdefault(id(obj), self._new())


def _status(answer: Any) -> TicketStatus:
    status = answer.status
    return TicketStatus(
        state=TicketState(status.state),
        failure=_failure(status),
        accept_time=_time(status.accept_time) if status.HasField("accept_time") else None,
        outcome_time=_time(status.outcome_time) if status.HasField("outcome_time") else None,
        retry_ticket=status.retry_ticket,
        superseded=status.superseded,
        saves_ahead=status.saves_ahead,
        estimated_wait=_duration(status.estimated_wait) if status.HasField("estimated_wait") else None,
    )


def _row(key: Iterable[str], row: Any, found: bool) -> Row:
    return Row(tuple(key), row.json if found else None, row.pending, tuple(row.unknown_columns))


def _failure(told: Any) -> Failure | None:
    why = told.failure
    return Failure(why.sqlstate, why.constraint, why.message) if told.HasField("failure") else None


def _time(timestamp: Any) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(0, datetime.timezone.utc) + _duration(timestamp)


def _duration(duration: Any) -> datetime.timedelta:
    return datetime.timedelta(seconds=duration.seconds, microseconds=duration.nanos // 1_000)


def _error(failure: Any, saves: bool) -> Error:
    """What a failed call asks of the caller."""
    code, message = failure.code(), failure.details() or ""
    info, violations = _messages.ErrorInfo(), []
    status = _messages.RpcStatus.FromString(_trailer(failure, "grpc-status-details-bin") or b"")
    for detail in status.details:
        if detail.Is(_messages.BadRequest.DESCRIPTOR):
            bad = _messages.BadRequest.FromString(detail.value)
            violations = [(violation.field, violation.description) for violation in bad.field_violations]
        elif detail.Is(_messages.ErrorInfo.DESCRIPTOR):
            info = _messages.ErrorInfo.FromString(detail.value)
    if info.domain != "forebay.dev":
        info = _messages.ErrorInfo()
    kind = _kind(code, info.reason, message)
    if kind is OutcomeUnknown and not saves:
        kind = Unavailable
    return kind(code, info.reason, message, violations, info.metadata)


def _kind(code: grpc.StatusCode, reason: str, message: str) -> type[Error]:
    if reason == "SAVE_FAILED":
        return SaveFailed
    if reason in ("LANE_PAUSED", "LANE_HALTED", "LANE_FENCED"):
        return Blocked
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
        # Without the daemon's reason it is of the library's or a proxy's making: of those, only these came before the request
        # was sent.
        if not reason and not message.startswith(_UNSENT):
            return OutcomeUnknown
        return Unavailable if code is grpc.StatusCode.UNAVAILABLE else Busy
    # A code that is not known to refuse may hide an accepted save.
    return Refused if code in _REFUSALS else OutcomeUnknown


# What the library says when there was no connection. A text that is not known is taken for a lost answer.
_UNSENT = ("failed to connect to all addresses", "errors resolving", "DNS resolution failed")

_REFUSALS = [
    *(grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.ABORTED),
    *(grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.FAILED_PRECONDITION),
    *(grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.UNIMPLEMENTED),
]


def _pushback(failure: Any, otherwise: float) -> float | None:
    """Seconds until the daemon wants to be called again; None: never (gRFC A6: a negative or unreadable value)."""
    value = _trailer(failure, "grpc-retry-pushback-ms")
    if value is None:
        return otherwise
    return int(value) / 1000 if value.isdecimal() else None


def _trailer(failure: Any, name: str) -> Any:
    return next((value for key, value in failure.trailing_metadata() or () if key == name), None)


def _text(value: Any) -> str:
    """A value as Postgres reads it."""
    if isinstance(value, enum.Enum):
        return _text(value.value)
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        # Python refuses to write longer ones, unless it is told otherwise.
        return int.__repr__(value) if value.bit_length() < 2_000 else format(Decimal(value), "f")
    if isinstance(value, float):
        if math.isfinite(value):
            return float.__repr__(value)
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Decimal):
        # Plain digits: 1E+2 is no integer to Postgres.
        return "NaN" if value.is_nan() else format(value, "f")
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, (datetime.date, datetime.time)):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "\\x" + bytes(value).hex()
    raise TypeError(f"{type(value).__name__} has no text for Postgres: {value!r}")


def _key(key: Any) -> list[str]:
    return [_text(part) for part in (key if isinstance(key, (list, tuple)) else [key])]


def _whole(digits: str) -> int | Decimal:
    # As in _text.
    return int(digits) if len(digits) <= 640 else Decimal(digits)


def _json(value: Any) -> str:
    """JSON with every digit of a Decimal, which json.dumps can't write; NaN and infinities are strings."""
    if value is None:
        return "null"
    if isinstance(value, enum.Enum):
        return _json(value.value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{encode_basestring(_text(name))}:{_json(member)}" for name, member in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_json, value)) + "]"
    text = _text(value)
    is_number = isinstance(value, (int, float, Decimal)) and text not in ("NaN", "Infinity", "-Infinity")
    return text if is_number else encode_basestring(text)


class _Messages:
    """The message classes of the contract, in a pool of their own: generated code may stand beside it."""

    def __init__(self, descriptors: str) -> None:
        pool = descriptor_pool.DescriptorPool()
        for known in (any_pb2, duration_pb2, timestamp_pb2):
            pool.AddSerializedFile(known.DESCRIPTOR.serialized_pb)
        packed = base64.b85decode("".join(descriptors.split()))
        for file in descriptor_pb2.FileDescriptorSet.FromString(zlib.decompress(packed)).file:
            pool.AddSerializedFile(file.SerializeToString())
            for message in file.message_type:
                # Both packages have a Status.
                name = "RpcStatus" if (file.package, message.name) == ("google.rpc", "Status") else message.name
                setattr(self, name, message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.{message.name}")))


# Written by embed.py from proto/forebay/v1 and google_rpc.proto: a FileDescriptorSet, compressed.
_DESCRIPTORS = """
c-pl)%Z?*iRug_?+Q-gJSJW%Z_2}y8shaMj$?D3c=hZNcGwsYW<+PKqvr63vg`(`pEO*%vZbvw4a$qqU2{d9cVu5&U1_=Q|tYC#$v0;`hkXW%|fy6(sK%8?Q
5jP(BsHWKYo^$TK=braHaSi`og6l`#+<9T2K00~)$hS|N&Dq=wJRJmh^W<^;-m&K$Pn<^#^I~!IXtbEy!Ps*-ZT+1jJ{V6OKd`4WPGJ1028BMZt=|I}dXtGW
q}l7*eeM0SsX+7^<X<_b>$&@RM9@$D8Wg_tkv5OC)hFLD*+~BomPXFR37qu;!Yf<)X2kAhlVOln(9o*(XtZABtK!e?5-bg0+U~Jq;4e;ZSg^cnk0*<{qt~J2
e>K4q;0Bz@aLkY3`oY{Dy8&`4jvyiWIxOSief!v9JeN&5G=7$c>R>#4<ph0PY2oX?48>@V)vcTAAtFM@<Wxw$e8d@K+g7%&suKk7rliq7g^E2KI<vqcbueZs
TlGz@t4*mZ+(_uk1Wrx>{nw!CErOvpb@=SUg|jPyo=txjs&glppW<XX28x~}QDHECGLoaem^pLb89Af%B_t@B3PgVgDrAnnWxsUn(fTqH6p(;G4T9*u4y(BJ
c#5JKS+DJJuwG(J-byjq6y|EKgcF`4{l@12gnBWajDu5D`i<tH+1PG(+Jn!n!*2hewbR~hx0<zY=-1(jg6n_Y-9fO1y1u4>4_aow-5($(xAAuxR1_8JcVK<c
-g(*@Sp7j`&`K<i>%_1Jt!}g3-NPM_sRSn6L%#`EW4PT$yMu^)YErY^-)Wdl#1&Fo9d@5~d(XSI;`Sb_j+_(4qz<$%9?B77xO+c}!o{cJ=gH&0&B3l9eD?Uo
5+nQ=e*P`En+PtJ@61oe!>k~a9f#_-lCi~hPeoMuYm_lX71Q}@fr{0?2?d(Sys5HPQ=Nm6F|7V=fKjM)=18ksH)7!<#F`4FeivZQH?qbf;o4;ZX^$vm4DHF}
g*|-5oCQOM92<Y8L6tM=&oEFp`VCkTj=`gg7)1dgcd3A2Kovb@F`JBsWYdhPk{N>~+^mpvGvgN;)QGojI~cx{l6;7KkfR}c`AkuAG@Zi^yy<wz7%rJ&l#p@$
Ys$EAo{WnL8IR$LattBok6?N3_=`y(PjVx55{5P<SxTh2v`CG=&;X*jZ%dg<bkAQRx?iN%|I)ZX`oY|>r&6)Eq3kmN$ya7J20-!RLA;|Q-{D!UV2V*>4f*q}
0fYW)+YLm__XSfGg7NeE3BxE}+AvhjFC{eplN{*kNrmpW@H8{Wbw(l{tjE}9v^|EWLV;82O{n6EuJ?N4jE;r&D_i%{GaCvO&X3K~KOw6-TKK{vDI=v8FgXFv
m9)e#DOYGSli^*4Cx$uY_A(Tm6UPmVKcEn!9182EBC*7atdhwG`eV4JvT6k{=icJ@rBL`)6*u50oU%L}`~KKH7W$7Fa*vsaNu`u2>5T6{MS&A5N8`EA{i9&=
fv!VgV*Aq8*l*({YBD8Xs;DHNd<8jV7-4L@WR$~%dl2J=n0rj6xVT6a+t*^YA31j};oNWHt;X+Zuo6@JnH!>5hTez=jiSkZpIuVwo3K1`0^EeWjg)gORs1yE
Q&SQd8&KPGgg45Va7O$xT5v_74I}E3&x+S9uTqO!Q_vY7g5IF&>~fp#!POY`*WUKG;M#M_1wCGs`f}s@P>JpvJS|{hs(^Uy>MyAB^<FuyP<(~M1_UzxMT6^!
)di!UK>0OB^ZC@CzY@G&S9yIdk?6z`rT%f~`?++);3g`zikx5nEMem`@op?=gxF}ZG9`*0n@|oJOPya!pZ}+5&M~geOoH(XU+%06Up~6<DV|lhgl9d)G?zT)
*X73e0l;2lqi=j!HGTw@J;iD%@OcY&Bx5iekcYDyEp1;F_gVCC4BI0fWQkS|^>4x2!eznR!mSrmmwS5ITovFQ4mJK9tKp7kk1osoEhrt$y{Q!)VVTBHQ3cmg
e4Z8Qr5Jbw#^PayLC5mPKjOM6nk54Cah$T6V%lo{5_1&iP{`*4D9pXrvNntP3DG$t(|c_)l1n%xT^Nbfny{%%ju`U^#23>az$zmMFM;e31#^X<EeSM!qCq*_
UMg9O4D_a|KiQG^siwUJC6Y&4w4Ct~RCgx}|K+8_mhl0)B%dLqduG}+*5O8H><2s1Y_W~;M;hErp~QOMO|y_FsH0i&i24}{o~J!4uwP6Zo~;v6TqMQ;5ui$x
k#GDDR@~9z<Uy`Im8}`}n|zI}Ei8i%GQ!J;u&k;e(K_OKFeM4**TR&tF|SnX*@xXn3X{?CqQ-SZjmmzL*_~i~LPDW@*2^fHD+0>*B=15Bkp)V;#`RntWsL<a
39_uSBP=+b$)mI1<le3qSngsnk=BUgE)Mngp@x;n$nxCDsfEADnE736mEb)Dn+$4vAF8TaGB?LqE7lMd5+7}hVKpuybkN&7y-ugKGidj^)_$*<Y=hL{MvCB|
-!cch5t76;4yaF3%WeH<kv9VRyt$x%Pjnk^rf+-9%<JnJ*FbLMPoNxLBlSB;GWC*Nzk3E&tkmO|L|*mjDdO0@tbXq-G+*p}?IVp?3+u5sYsr!>&RV*N>q12-
vh>*I=~}J+&Y5_z-ZNN<RYUsyM9GsX!|LyzL%~<Y6Mq}>dsKrbP9xX2nSu*`K7|4W@VNe!+!)utnv!tSUxgxzqk4=;4aW6b85ptk7qFIypSls-EHm!b-#eFv
ul@ELbpQ4d+*7)4_GmhG-@HTjfBrh4vrCDn-$f$&j9oq?ObB-)aSPDnH{@9T|K9~z5^Z)&gd)_6z$J$mC;-XlqC=j$u*Y3y)U3mO7vM{8F?a2W(hd}m_J|VC
eBp`$gMMPMQ{(-0<=S0j=rswKS8l9iW}Y7$V|8OKX0kUfL5DL;Vns?VK4y|s67C>E$bu8;KZqyp5}R`;JC})>vGn~hEQ^D!m(#bC-{2@QQBvxUU}-X*j`3y=
>8?SCFj8Thj4C{y{4CyVsxaA9IIPbaOuKN^bzW0<Fh*HT3t=~$WnSS^c9nG=r0S6sQ3$G42NpbKtlwtd*u_(<vQ1(YKuaLSK_X(~uX3;&$7ZI^I+R9ZpEi??
#&Dc0CJRw9c?ZfPXEH_`4lCFQK&7S-jvWNfbcU>RD_iB@hJaFmaEx<YX<@hn8>4xlZBskOa^`byE~=F>L0SaBM5KF@5vf7_zErx<dun`EBmBx_{C)u-ve!%*
{ZhP(dOge3!yal>i{#Z>gu|!K=v34>Vnhl+uNt!(5|>gqCP7krapE0Y-it5M7knY6RRQjCsQw<TNWvGV0dq<ss|w&Y!Biq{w51pkx65q7mfu{k^lfZrqbXZx
Gkg`eaFr^Xfo2<i!K2I4>-iWh#+B|!u;&~^z4BmgyS^;~OO+o<g^{Z<)l3~Xu-Ii!xLOFsOO|g0P)o+3Ol!zcO73z>$)}ZK{D}rDvG7H=2u?0qm25!%a5Q%u
u@c{~Oc1VH`daK9(^=#;;aL9!N^|PHxnW!PoX?XXsWHd9d=w)yMS&S+YX4AhLqCZsY&sWA_M5KQuf{IlJLx^N!Ba$<jKuf{bjB!3p4mfTr^O`g4jr+1I8O8&
@@I8S3Yp!W;+ucdUV5W%+TVdPt;44-UpTcy#BAdGLWm_M#B0e~J(8jRSVpTdBfXuSlVULoYmni@^PS7OX_-+=AC*&?qAI*8A_$na(El){4DI<y-t?;c@+qMF
q8Ik0R+OI94SHiiZDY)R%mDaEzNT0UUsD)A%RwzV-R^i2ICHf(ucdnP=k^5E*BAM7UtbhbuP-q0g*vvVpC!!d+`uOly^HkvHcy~@g@qg7`7buJ6}iMAO)##3
&h9kvnzjK~W6-Zr)qVxl1B%kJEhPI5n$mAL<3diMNLJ?Icd4^Okt8*CVMS~iwzx}SR?#k$%(BB1ih-9zlXdIP;~ilnNl^{4-xPg?&mY?}(aR`v$eukj9>S_z
H)^}`>X_Rd9~dpD^__qPz3^keV_4?TfMh!>U8U~4<lnXgo$;}V%p88X$ZRy>in6z0GpdlaOI66me`vgKr<AhtAin}jN6hVnM($(>9`2f^prx-4%&T}m?t*Y7
NaJ1Le4-1Cx?)J)q!l0V2@<wwUyp;A)(dYmc6ecm7aIa?Gl=oKy!{wEp%B;i688h`+^RozZ+Hl6uJgmdQdr}zu|nVj$)52~8r(GLiPBq>FvZG=G-vwBzX{BT
jxc0Cpt^>n;4Ok=gIIt?gE%4JVnV>i0@l+95CVLhd<=0j-hRbt$=48<72F?dP*D~*vvx>63(KXSg>8wC=k`Rr8(GiblHpBBsD2+U#Gl;#4%}+;MEC!w(lc%y
#v#<RHjkpz(8K&9OHDQ)35hgmO`M}Ze3_{TSO-DIDpZ@4>||Q`09M5KqQ?Kmk8@BCFHO`^?KHZr%ol05;JSj_>2<r*d1X)1uELsvYBxKrT8^HTDZstP;7Q9Q
@;tp#Q!tH#gU;uKC?pVOYhW@&ksjMAh=ayqA6Z&TfS)uv^a^e{0p4w~r+Fn*imrhBgWkab!pj>!rms7)@?|1u@3#lm({{I+e)Ff`8vDJ&?m!$r0{7cr(D7-v
2xzwYE%R9m4<9Esk(F9uV+18xHj<qCjc2W_{jb1EgzC3w?`xRDLQu2SX$@%e7*sUH^BaG!!CE4QqjlZoj|43?AxrTnku*sU*Tn7b!mTup6xU|&5#NE^X>|1V
FrQ7(d)6`sji<OlVdLi-eQ=0eoOWb}fxGM;_8Xl9v$ru`$I#v0z}iJciN~37<W8s8XN;y+C3Z-cXgkOz>LiYCcb_#n?Pjg8^{+*!HmFT1KQ-{Cytt+%oAR;p
FV&P!lz|6OQL4juQ$Afx#+&jPWhL)qv&t>r$yV#fcqcnv=6wcByspx3#Urp%!`16qDCJX%EP4{3QWAAo;!{ehQW8ydwS|{zs;A?7x~ZNOhJPDs$&9JLmr6Mq
tAF!+BC-4s^mGo;AH<%#ot2>K4=*AUo1mgu28b(KO%icM$I`{y|E%!OOR;yqtcxgapXsj(8^0(*h4mH1RrC(5w@kBVqW3lWy>7ze(RE{3;hM~Y(dX~OolLaZ
`pv^ue}KN9q@ak=-aqKH_FLTni&FQX9;4s^90xm3*b8cmkTE<)xTn_cVW)$s3qwZ?hat{nX>%z9g(-<p%PF3Ehl8Eoe)KlGloAR{Z6Y(4v#}yULN-?9$%<~k
y#!nMW8Y#CnZ@Q>HN|?f)o6Cw-BxWSr4PX}+oZOdl2sJ!*HSwR9a&6W>|{0l0lXWdIq3BVdzfBvpT;vxC5>&YKCYyW$kK~=4zE+zi(#KP2B=EY8uWTrztekO
yP6^i_c2?~Svt9vG7F)kzO~oGqh5deZuEx*sPTKXHJ=To=ZKp&Le6^{e-wWFlJ5z%?DvGZGv5>DFY})8AF-NZ&f9j6Jf#rUlI{1AH^rDEI}&_^DW){Vg+_K@
i|yXqjLx?iF1)!fs9G-72H~Xor?3)3MXz<V=>J2-6MM1<--WQj_jBLXjK9$Uwxjn_2T(g2JCl)hGWI66`o`sf%2YICbC<}UNosTLC^q)%Phd4p!e7E7L@>w)
^tNZ@_`~^lrZmJ<kTi+^1=@)_7y
"""

_messages: Any = _Messages(_DESCRIPTORS)
