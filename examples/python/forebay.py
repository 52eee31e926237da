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
c-pl)O>-kzQd|14rIc)|tKHph^~dzoZ1>KX!9DF^_G@4V*^=F&WyzG}?wBEnin3I;H7%($s*=54I1n2_#0H0rJrFEhmIwj}f)ktwPF&a{2d-S;Km`AR13~8d
sCxC`j~<$vUS_`c^5yr-dV+r|z^x;9<{aARPfwpc_3Tq;V>)wvR|f&!IDJ-qc<j2zBj+i@9L|rP4(2o4AG#AxTYV>v_lIN0^X>7J6BvK0L9UBy>kk3??r7xn
Y4)1-NPE9%DiFN_+1JkbTINv}5%g1Eh1{1O(q@si{QMgx8|fdy!oV3hzO$A?cxhAL2-)4JGYrxS8d}vJ4A$~|Rs6YCfQ9~vJvnv^{Ke@F3l?|m;b=Z{^ePm*
uSR$R+<-F~jQJ5Jo<FmP6CXJhN01PG4Hoh6o_*{vo{Od&8b8fKxi{>;cKj}`H23shg?zZj^5z}&5Fw#saw;TWJmL(pZA+Us)d_-kQ_|?4Ldov;ovCk;Iv6vh
&FTi%)rQm+ZX|SN0w*Vc{u@ws=YHQEJA8KT%Go7B&!)c%<(cEp&T%pw14U1gC@~m68OhO`Po0_P44lE*0umHV1){$LB{E0PvQHd)u(pT<IV2!ZjUf7O!ZL0>
9HVFk)|ox@*9wfuy9p-i!d%UzV8Sb;U;i9{P=~|O&_73|->x5+wXJ5W+56l&Xm|G;+s&P3qh9%jehY3WxbEleZ3Jtm>s1B3-!Qw)ZVxe;^}o}gq^MB84{N>V
_KQZ(>h@~AMr?UpCxYE?wCm0GF7AL##W2Ah`W?6#!R^$VEktA!lj_axcFn9KE|=Kqp#7rVdDX7uw{~H9;G8NZwXc2gM2--{-TP@6E<P1MPoMp526hDD%V&oR
jPPUl#kb%=EVx*nGdmsj(}GNT9ID=p#}<2XE~3g`ql_u4n9f&oRIL6@$k9aRO{L9>>Ku%WVfAkV3<9MyM_S&z9SI)+)>J6<2LLm^ku@9$*DeZ3b3h@ZZ;wWY
cK<bV77Q73Z2Xx9WzMKK#X#Zcw_!mz29GXc6b6LMwE}_xW%QK!bTsUfO*5tnW&{><vs~QGj9+R{A>OuZzkebn`2_hOM??0qsiNd)I*0AM<6)mMTrkBbCgbea
lyUAd8Rug%9>NXf7(&h;!Q#yE<|AL8<aXjD3~frXgh(?<ks5!Y0fckkmNJ#-p1nqNze=zFrE!6D{h4ErrDE?v(PIFTugq)=fa1l2xJO5x!?Rk>6r<1@vX@%}
2K_U8;)|H?38qQ}<LC8ahLOLvVW^s4h-v=E8PL^}3f*twX{OG^8HjkW7Gaywb{L)t1x~5gp^Pg|+_RB0I2PJ3Z9YuStSMADKQc@Igskpp?g@{ijFecw<ODcZ
(h|d@T%pZWhIbgA80M5)i;#Ctor!P!5rr7#P*^wRi6vfS6-++RpTVlis^y=|-1+f|Q20$1*W)OhvN#@k-f(g(^dB+g4l@yxN-0y)8Q+1D0w-3EhBJ@*N6zE}
U5DJr_N1+`-^K}QG9h28s3f0!1vz9GVQjo)l*5>N5aYRsdyJ*HxJVV-*CMtbI(H`K+;8Ho#vf|16jA(z8=_eH?tll4yvcrFTvF;AusCph+=RT1l(U*Berl6*
QxX~LP}y~aH_DiBLHsfra6_RDBI<(2iq|x+Qj1$t&>0_sUZd*ldYkUT%?S0^-u8E3^%doU4zEf*x$z??h4&4f7O*f?K)iPK=2ZE*ubqide2K$)1Ty|bgIlrH
1*4xp@eHH+Y;4b73tn%jyuOl1bmEXw|2XjdOfq6{6BS#9&aZzKvvHdEAQChJY&cn&5=M^=C<crr&aWlU{}VLl2v-*-!RUoAbJ2w_8(#Pn&&plHvtD4Diy!mr
a%21eU^leUH@>VIKZ4S(Vzm_b-1%f6V=x<#hqD_kZC@7mS@duW+XEhCiB=BvZ^6oZ!h*MjThGT6?&(EyS%9}W)cA9(hFh*ZxGwj1p>Q;F$5wcRMH;_A72HDc
xmKu`yzdeii-#!&9m^a3i0dYA76{PAal&fyNvruw%u$>}A)gN*H*?QqZ5HtpqH_kOduB3{Yd9rc7>U#xv8has81o6l7t<fZG9w5sf$R`DbBUl02{eAJK{41~
Dp?B+^p2`O*^&5(ro9Cvl1Ey!obeHqcSdvX<l14&_yAp!&k)kRFl`!ZaJx11{OxeI*v9x{4elgRV!iJsS%?+X;jCyx{R{=q)1Kwqha-n)>sS;QiLplns1jx5
8UKS7ceprt(8M0g)(rbizQ)!Tmca)p;pIbER8<gb9dSLFk_7W>ZcN#jSE|+Y!|ox4$>?}dGjT+X%6^mConm}KLZN)t%P5*l0?PL!??MWZ1q!^zbtgQ^8gp0>
WNBwdn14Q%M`ypuy(g}3P3EJKv_>4aaj3r!6|6)CmOB}pTlkBNncuaR3En}l$)Lvfp{%MUb#sihVhvFt@zMGamZKs<2fer5X|)>Ly=JFv?RDz$Hb@n2CkXbt
4YS7^A#q%7pZX+~%;taQc_X09n+y8)M7Qxy^0vp!yt<Zh4dh1t9E!m;QokQ3Q!mNY2Nz()N*#Vl<W--ZAdcM2st+$h^TpoRKGKM_pdO2|7BA_dtR;)MHk6bi
OOI@xtktUTT!<Izy@aJmHKad^l{|?utorUH6ns@Y@wXwnOEq}xG;)nQ3Ao_rQ^-*OkLq8^jZyupDG4|Ib;z?gsz->_U|hYMf)QJP0V}cisT+~aQsZv*y-R8M
+Hb!>_w$e7q0)7;2jk)7%{z4e=dS}gyOfCfT_mE<*yTgQgmBkmw*WnQLypw{|DA&c(Pqa)C_=3WTyltk0+4(rI^>xvd)!4v%{tr<0KRnRvxz-Y+JOSn98lt!
%_pM3pr2UmRCs?~xpwCndPTzJl^ZLWsq6X2Slw9jsqBqQ(7_awSe{aghnXaigj<LZvfxDe52A^?z~<af&t+m}Bz=Dji{fBw#pLbew>U~nl$82YSQrh*L%f+o
vTM*Hj8qsWqY95FKZ`e;N=!B-4(qZ8(+=F6IA_!yj8K-7Lf8prnK$^99c7)ziF#y76oP8ifdx+y>$j;poZu;z*(Q++pdparAR)2wR~cB2VpCIR6$*o)N1Mq;
V=#^vlew^%ybr~JGa8}|2Ni4xpi)x^$M$_^JVn;Il`V5{O+cwYIL0{>X<@hn8>4xlZBskOa%MAkCaRSpK^g?WM5Mc;0jWX#zErr<dn$ZZE%?f0{CgH4wAWM_
{YtcpdMnM;gC1&Fi)7VWgu}<q;9S%>Vnhl+uNtx&5|>giCP7krapWFb?%|i{3!V_uvH*8DRDTbaB;nz?&zzFT$^y7WFqMcKZ6QL$?J`}k#Wxo$eH)wFXv!Aa
3||GVT&2urpxFjr@aVF1HXEYFOr$#!>=g%5uiT&66VDcbrOc0{!VDiO@!*oG<`ijXt|#qmQrgDPHCT$oCAuDPa?yii12XiZnd69+_=ZJ-aHY{_VCQ)3kpJ^-
g0cPy6lT;^n*{yZOTIe>q{a*{>0$6o6$Pe_vHe5A4gDmlpqrdC*>Ac#zaCEb-f_2}4PGG9WF*Ev<N(6(cVTmcoffn2r0<B$gK?~xkiDoCl1pvl<lp>b^}-u{
to{xZX&pXw@ye+MB4!ic7eXvBA+E-Y@KA>OGZ}`8jPzc5vWWyEEH3&Z*K@Axe?>+uolj0>iYoDLhah0u!W@RVqHoUz@(Nexw@Lx!H@KkLw4^kfZqwrl>IY*|
V+O!S@|na+@Jzz^X$C6c>2`)A-<hdRcP-I$zqHw>KC8%H`m7?CcvgWCEzq$=jVfVQmqs+H=pCfjw|HjcE6gW8p8skyTars0&;(-@baq*Z7OOS58G(L{a`h`H
?^F1d{T|s!(3D2P1vhO9MY7}$J~&+*iX^GA150Adpm$ve(uH=VWELHsDGa>*nXC<W8Se-qNs2Ou{if(EeE!&;iY7&oLw4<{@dTFTx?w++m%ZHX_`qmDrR(@C
=mlN=XRyfM_sBj~vi#gW;UBF8o$;}V%p88b$ZXW%hO)O{Gc0|zYn8sne`vfRr_`wOAio9+N6hVnM((Ev9`2f^pry|V%&T~#?TT<ENTcoDY^=SDx?)J)eHCBk
2@>>P&xZbqb?6R;4zD=z#zLSi1~Go0_Z1^26yo|`tnk+^E$1T_f+w&taenAq3TxaomI%Br*)#r0gF7a@J$h>rrdT<W=1f0%vwzligdy_*)iopqckahKzXB{e
zcB&lV*)nju$DZ45a6@;D~CJLzA8?OKXbUQ;QmB|lCr>swL|>9S0?%1Yg2p`w@2bZ$XW`Q3~x$8^}}Z_`j+nZ;BK8Ky8lO&UT~c-4xpO0c^IYoF6I|mYO(=I
NTf+?<Q)0plS@g!S_m?hp<JhAC)3IYuq4J;b@bQ&AOpqVHblMBR;}GgeQI_WZYj9!PP<JlRrc2GCafr^X1&#@Wazz^0^F_jo;OS)&(iZV1ykGKZ+%XPTnu40
dL~2U=@p%V*smRQk)?$g_<5~G&)XJb;GG70b5}s6=nA;o>+J6%ytw`vB_Io5CV}Q&vuC|%w(H5ad<w3%*EwkS#OXtDxA_H~o;C}CW~19MUp6Y)^#K%Qfk+bV
)?PN!wz>gJA*$P;ZB{W`1)zGP)#%Ya5vb^EXV?E;gOymcMmu`I-}zZ=LYj*4@JW&mu8G?}fV)W?si?`G6utxZlIZaHU^bng^Ri*~YA<ku-1;vx`eqP1GwsMs
0C(9r=+;^>X76ESj-cC}p0$HI5$`Lb$n93A%NR|pO6-u@&`OX^)JYWGY`?6vn)OO<^I!8&u2H8`el6gAb#Wn!_thhXUZSraEBN-Iq||}YzIw83jP})23P|3J
W;I&08Ld`|(PnhCp!*CKcm<{3jmBD~TB}ymP|DX3S>D9HhQuna*w>ImO(go_Y8Nii7f(j=WM4cj;QlUD;<-_OFOghQR{!SZL}K|q=*eiWKaRXwyC@Y^pIk*I
HbF(RSRYlinhv6hjwFV+|7GBx7a~u0StC%~Gm{?%)_<9Y5^D{LOXq!9YnW!oMDMG0JMEaqqw7Yn!Zn!(qt8Er`>ANN@!JQDZV!DwPC*f)xwqeH>^0gw7Ns6S
HA2B-I1aX-vq#VvAtQK<a4)Q#gH{WZ6o!rn4nv&D668V(3X>0^785*m4tm?2z3_Q;At4l&#6%7(rej4agmkRPh$Y>ChcUMB$DYL^GK<ZXa)R}GqgHP<+l|Un
LLY)<wn=3<A*(RhuOxOBI<lC$*vTsTV|X`0v)}3Vb}^IUKDC#aN@`nJXWU2}k);>$qFtw~7s0-&^-z_j)$4SuZmaXEax*~^>|-`wv2?PUFbkoiuC?32quzS^
ZuGMpRQL_rnoaxCbHtq*A(y>wKMKBI$tQtY`jf!Sg--&r*Lf27j~W!2^EM|(u2S-9@ecaH9b?Rqy$3$R6jK=ELIc~k#dhy)gy-7`7T(wsRE-JM2EnB2r?3=3
g%57D@Gn65Q+qTIo_4Uo_cPzsjK9$Uw!$Y*`%pO=I-`MgI&??2`b_1q%2YUGV~5CJN@{cEC^Gh{&tW-A!XL9DL@>w)^gL(ac>URMs<ggTkTi+^1!^KGod
"""

_messages: Any = _Messages(_DESCRIPTORS)
