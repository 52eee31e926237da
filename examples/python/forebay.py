"""Saves to Forebay, the write-behind persistence daemon for Postgres. One file to copy: `pip install grpcio protobuf`
(protobuf 4.22 or later).

    import forebay

    with forebay.Client("127.0.0.1:7420") as client:
        client.save("players", 42, {"name": "Ann", "gold": Decimal("7.50")})  # durable when this returns
        client.save("players", 41, delete=True)
        client.save_batch([forebay.Save("items", [42, 1], {"kind": "sword"}), forebay.Save("items", [42, 2], delete=True)])
        client.flush()                                                        # now it is in Postgres

A key is a scalar, or a list of the primary key's parts in their order; () if the values hold it or the collection only
takes new rows. Values name the columns to set; the others keep what they hold. Decimals keep every digit.

`Refused` is yours to fix; `Unavailable` was certainly not accepted (the client has tried again); `OutcomeUnknown` may
have been: save again, unless saving twice is worse. A client may be shared by threads; keep it, it is the connection.
"""

from __future__ import annotations

import base64
import datetime
import math
import random
import time
import uuid
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from json.encoder import encode_basestring
from typing import Any

import grpc
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, duration_pb2, message_factory, timestamp_pb2

__all__ = ["Client", "Error", "OutcomeUnknown", "Refused", "Save", "Unavailable"]

ATTEMPTS_MAX = 5
BACKOFF_MIN_S = 0.1
BACKOFF_MAX_S = 1.0

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


class Error(Exception):
    """A call failed. Which subclass it is tells what to do; `reason` is one of error_reason.proto, or empty."""

    def __init__(self, code: grpc.StatusCode, reason: str, message: str, violations: Iterable[tuple[str, str]] = ()) -> None:
        super().__init__(code, reason, message)
        self.code, self.reason, self.message = code, reason, message
        self.violations = list(violations)
        """(field, description) of what is wrong with the request; at most the first 16."""

    def __str__(self) -> str:
        # The message tells the first violation itself.
        more = [f"{field} {description}" for field, description in self.violations if len(self.violations) > 1]
        return "\n  ".join([f"{self.reason or self.code.name}: {self.message}", *more])


class Refused(Error):
    """Not accepted, and never will be as it is (or, of a flush: not before an operator acts)."""


class Unavailable(Error):
    """Certainly not accepted: a limit is met, the daemon starts or stops, or nobody listens. Try again later."""


class OutcomeUnknown(Error):
    """May have been accepted: the connection or the time ran out before the answer, or the journal failed."""


@dataclass(frozen=True)
class Save:
    """One save: sets the columns that `values` names, or deletes the object."""

    collection: str
    key: Any
    values: Mapping[str, Any] | None = None
    delete: bool = False

    def _message(self) -> Any:
        if self.delete == (self.values is not None):
            raise ValueError("a save takes either values or delete=True")
        parts = self.key if isinstance(self.key, (list, tuple)) else [self.key]
        message = _messages.Save(collection=self.collection, key=[_text(part) for part in parts])
        if self.delete:
            message.delete.SetInParent()
        else:
            message.json = _json(self.values).encode()
        return message


class Client:
    """A connection to a daemon. `timeout` (seconds) bounds a call with all its attempts, unless the call names its own."""

    def __init__(self, target: str, timeout: float = 10.0) -> None:
        self.timeout = timeout
        self._channel = grpc.insecure_channel(target, options=_OPTIONS)

    def save(
        self, collection: str, key: Any, values: Mapping[str, Any] | None = None, delete: bool = False, *, timeout: float | None = None
    ) -> str:
        """Saves one object; durable when this returns. Returns the save's ticket."""
        save = Save(collection, key, values, delete)._message()
        return self._call(_SAVE, "Save", _messages.SaveRequest(save=save), timeout).ticket

    def save_batch(self, saves: Iterable[Save], atomic: bool = False, *, timeout: float | None = None) -> list[str]:
        """Saves many objects in order, accepted all or none; `atomic`: committed all or none too. Returns their tickets."""
        batch = _messages.SaveBatchRequest(saves=[save._message() for save in saves], atomic=atomic)
        return [result.ticket for result in self._call(_SAVE, "SaveBatch", batch, timeout).results]

    def flush(self, collections: Iterable[str] = (), *, timeout: float | None = None) -> int:
        """Waits until everything accepted before is in Postgres or has failed; of all collections if none is named."""
        return self._call(_SAVE, "Flush", _messages.FlushRequest(collections=collections), timeout).through

    def status(self, *, timeout: float | None = None) -> Any:
        """How the daemon stands: the message Status of admin_service.proto."""
        return self._call(_ADMIN, "GetStatus", _messages.GetStatusRequest(), timeout).status

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, service: str, method: str, request: Any, timeout: float | None) -> Any:
        """Calls, and calls again what was certainly not accepted.

        Not left to the retry policy of gRPC: that goes by the status code alone, and UNAVAILABLE is also the code of a
        connection that broke after the daemon took the save.
        """
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        answer = getattr(_messages, method + "Response")
        call = self._channel.unary_unary(
            f"/{service}/{method}", request_serializer=type(request).SerializeToString, response_deserializer=answer.FromString
        )
        backoff = BACKOFF_MIN_S
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                return call(request, timeout=max(deadline - time.monotonic(), 0))
            except grpc.RpcError as failure:
                error = _error(failure)
                wait = _pushback(failure, backoff * random.uniform(0.5, 1))
                again = isinstance(error, Unavailable) and attempt < ATTEMPTS_MAX and wait is not None
                if not again or time.monotonic() + wait >= deadline:
                    raise error from failure
            time.sleep(wait)
            backoff = min(backoff * 2, BACKOFF_MAX_S)


_SAVE, _ADMIN = "forebay.v1.SaveService", "forebay.v1.AdminService"


def _error(failure: Any) -> Error:
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
    reason = info.reason if info.domain == "forebay.dev" else ""
    return _kind(code, reason, message)(code, reason, message, violations)


def _kind(code: grpc.StatusCode, reason: str, message: str) -> type[Error]:
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
        # Without the daemon's reason it is of the library's or a proxy's making: of those, only these came before the request was sent.
        unsent = message.startswith(_UNSENT)
        return Unavailable if reason or unsent else OutcomeUnknown
    # A code that is not known to refuse may hide an accepted save.
    return Refused if code in _REFUSALS else OutcomeUnknown


# What the library says when there was no connection. A text that is not known is taken for a lost answer.
_UNSENT = ("failed to connect to all addresses", "errors resolving", "DNS resolution failed")

_REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNIMPLEMENTED,
}


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
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return int.__repr__(value)
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


def _json(value: Any) -> str:
    """JSON with every digit of a Decimal, which json.dumps can't write; NaN and infinities are strings."""
    if value is None:
        return "null"
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
c-q|>O>ZMfbvw3W``O8OI`ffu=WBa*huvW}vy)*z2X=5`Co$vL*|syISwL3D-O2Qh-JR`jCmX~8At9|02M$QfjT=IoxWWkuaY91k7jWUi0dayeufE*XA5Jo>
IdSWH?^V^SSMR$TzR1DFJ=e2#jpI9qcklSdp|yPAxq+(!2QMGq)qbf!wu>nB8o<CE4y{38yUwC=LwUWZOAxgJnP=AV;>?W<BFLwD0kWU^NSi_0^5#oA9jR}^
tZ5Ccz*@{AytJY&hr2D;DF$gd4O!JN&BYvB6+c%CFgti^IQy1{UyNSsLw?<`hhxuDt5EPi8~TBP8!#p(V|E0`4?M$m0_2n*K|s_+$d4@FH});cb5R$=+fM-M
W6#*Nhjws`dt9pT=(W{mtJ!<f-)VQZ8*9z=W}{wtNxcZ?C0zGOdkw(~E`31)Z#VRAv)e<=%<bPPQ0m!(XI9XqOkRP-UUThXqu1~DYQ08md0Z!g-EOq&&GrWF
fK0_OlRebSun@tm*P1OvWD=9=&F)%FuOlv-*lMT!u-$pwuH;rXVBWM2rF+{}KDi}Eh`B@6=uW6y_xb1H-QUi@IwyQ|cXyT&-h+R>3Rh#Q*!L~(&>p0yWHnuD
t4sT?yFawp=DXv)JBD-2QP<<Bz{Z;mjL`uj(0+}VK(t)9J{u!KeHF4~WvW4?m5QvQl#F84cLB_aR#1JKU%3=f=LuGqDAlU~9^0sIn_Sh39MUw23J;9oaMu_-
qc(ynEXLX~lo_A?0qU)#UV_<xDi2q7K2qO;9J2w&)n%D0N!xTrrD{+%EpvP@v<En3JQef^O#8C}6|(oL5e%LRLEXZA5a#3dnN&$JG~v?-+>t$?3>9=fiit4u
6-AgmNrbtW2yHko9fQm9ZOD6;KOP3+B$pB=p=e!@B}6upBC;PV0O8yhby;sgevf%ODzMVZf;@pcLS4{ke^J<hyMbpJBXMyrL(!)IB0u3MDFDTXjJkV!zQvqm
R_CMewlgQ+_A5|6GMu2#&gawnDd;5vW9RW>7oR)p#cO|6K$TC!?{5V;KCm3i<R-fqVU5yuD4xU?Myb}JjQZfXM?=fp=Qmhdxt5$+lc;chWS064(VV@p&#k7k
vXopvX9PG`(5~hoXB}Ejp#4-qla?67u$d#vvlv^@*+9Ju7vydG!Bfv2??2@iv>@Yp424tjBir|FXP@6!M6o*bN_7%RbwQ`S2PFwkSlP2ZpXqB>X9HD*?9lLq
ZqRRS6K^FUD-uuzpKJv&q!_LoEMpKu?I#M%MWiNaqY}|Z<YVBP%xZEv{hl7e)n&+=R)97^)R9Qz!ZM2r%OWZ)*PLTr5NWrevSD#`6-G0~fVF?2iAls<CnsjD
Jg-^LoNm_YeJB}&fptKvY$QBEHF2h%h;%wIasp7l1!Z>}4BU~$W@k^GUE=fvqP+=f?Z~jtD4l;Run-~tzn9N<;lg7QUOEis3kltTQkXHbNK@2h5b>NOz>t02
XO_d0)DnaB2uS;x0vBVebAi4C#UqrIH!{3u+z(!qW%O7e(Gi7|>OGhxLYsKNrMO%zlW#?wCnF90*D@3*>n7M&lI(wh_8nPtYFLa`95d4@j!al_NGg&&LuC92
U?WuD=Pq!xkD;_7=`-<`?$|Mf<E8`RrDzpI_%HJs2)z{gdXsr(LMw*auP_m9xrTXGrk0?v=eeVP$XT9@AEGcWqFCL2D4|^75-<k-1N4V|-~IuUQcf=rKo`e}
`^zQo?|V>Y4DwUI0a?#I5@}OJ-w2&$>h6(FNzS6&51=@iB_ytd7kpV3rYI@DP!yt$ee$in4dwOW*nfIvlhfWnePlEEiKa#^Z4oZDY(H2FXY*~eUnp=nf#U1E
pJXAHUxu@y-rxbu^L(Kn7`sD@1<P1=!^32c5a@HBH1f4SU;-L0PIS>RMxrpL-$ZNa+Wa=yAjP)cggmk~9yua@s<9IwN*5#;ZL=d1n^|I4O+V}wQs|V9<rI#!
ILkOA-`W^v*|Mp8BP=*R5Ny+LVhxTP^qui=C=3h7Z5*nvLj`jRv+p{?<34^7En;QEJb`x*tW&7=A(Um2rf!Zdi?6}9=cC&;%tw!>UWb?0I;~b?t=H_d`&*rQ
yrRbvJVCJCZRkB#)5meOZBp`AW>)@@V<l^s)ye7yyiapES-4OYtuCfiG)zG^p*X3C)GKi^x!$W@or2{nby&T_@;5a>94SGn*QTM_Vy`Q2D}=R4VijdAo}5Kl
OJ-wjC`n0(8reLV%v7&W#q;$Z!CWK?t2bhyHWB`-ube=^R>c#)3mIfyy%al*SmSa6&iT0yS>idP_b-K#=>5ws95?+Y<fso+BSf+ztuCct_|~7mxtQ-$wa8|v
KC^oBL>jjCi|;l4=>}Yr8c2pYvYqE|HeHK%lt_t6I6rI0Nu}ilNpQ!LAo74#5dy}AdmCnb3gH=@8Z9p=EvL}_n1xveB0=oX^87Gs5JPknfaD&}i)T*FY>Skd
ro~qQK6S^QV+^In6^ArU5;VLqbE{dMd}4A?VOh0QvF0fHoPdjJ^*WReTtC>yY@k0rpn;&Eg8=OuU;xUIu;4G|lL54a2rdgoq<$0)x&=DtN_rgPGb5q*9_0DK
7K_QO_&W^6CkjgS4$Kbik&Q(yBn$2q!H5fEWF#YE`E;N4RZ3JgB?jx#UdlQwIMxwqbVVr3Ng=FHX6fhIlyzyH*AltJ9NjFIG5kFP5K1#O_<cRvuDY0Z5tFJd
jFcHUQZo3+GLLx_<|ER%!#lTWy2~_WGFHC^=ST-{=<fI3-B0nRe5xi{eV&6m465FQIYGF498i@ZWMvLqB`}$YiL?+QVp7`#)g78d`f@Q@Jk@9_Y*sBSDZdT#
2L=kdkC{GO1x{V1OlLG4ldeG0XH28}N1h!7m_Bo5A+W~`M4FO;XE?sW)xOM*B*U}-Dsk0Mz2+2Y&zw!#nWVI}FR|>4SPe-$898q*(E)KWd!A+SmDq+w0%4a%
o_DPM5f+|eo5>i<--1V)H>3-g<u)6aZJoPmeL|{jV8s=hW~wOAv5kz+IXC2!P)%BXS)G1sU(Nu87B{u5rAI)A?+h%y;$$2v_cGIJ&}?eSn|uDQ$n0}<Mc#uV
S%*!{pE|Wbh-p9M0;n|IiH5rxEJUDRA>e%m<!xdjqS_N>gc6n!({gp9E+S}8I=9o+MUZOiFvqu?bX^J)lU7a@O5S4Dti1<wIxT!p;vHc`i2QMZerva2UQ7%d
4=ggW>Xr?(22{FMKvjFvfVzuC9DO_$WoR-&tvzKeVNR#r<L1HOXEP724(Fx4Ih$d0RL&F~(NocKTZ&@R>qXeaP-0CCbRiTeHyJ27Z84l?W7-c{B_G+9pWuU7
xK>UK!jUk33(h&#=RrTg*&G3H3+^-<F6&m{9j6>x>X|E%p82VrGTNE)1{N=h*+BaSEGD;-dLXHLX(L#w+y21t%oobylsrLOfoj@zq2>?Vu`_v~paX3l%60Oh
FC5JqFvrKIb$D+7Xa<Ut9EQ~2ty;U0`Vzkc7bV<Ur`;xHI(>>?z<MY|HS4WLWrjSbOTdj<Z?mBj@(g*MmoQl1x1JD0Hipm}J)I(Q<R=3Ov0dBgB1^L|@Mf(=
UjOqk@Op#(l2Aa2s}i`|>uhf$ytwkW9F%LMDiWOqR)h2K7_Y%2E<I6$$6Wh1lq8QIt-+H4B3gr|gbG%;Qg0kBT;-S$EnK6n`vJ@{SE?>WJ8F_&u2$1fQs+eY
xmf2U=6YkDlZ12RHME?uCu-=V!6j?xG%NW&RN{uN-i)3q)#FrOJ(-9vKL9mpqUvjr$J}Wiqk8K!GQJ63G_~RAMayO$z37O+zxXb~f3lH3RxHnRJ>FJKHW6<B
Hv^>xAz>{>@{dnL*E>4ebgkQI$2`kbSc+hq?MJm%v)=F49yQRr+<+^oXua|APNUmHR}-gbcY6Ki)^@A0)oAzVe?Qlt8lh-4x0*dNSlguk{-EQF;Oouq!~XhC
tA)-79bW{8{zIpZZ#D&mPKBWI37$GTy|vC(_*YROAr$JIxNj?_W4ViibS(FDC9I0B#n{4+t$wfeuz`#`YUq`6g7tc%R&O=ijmli&J~+#ClgfNTR%AiCbmiQO
*Snu*p~8~OzIQMXs>ahzgq-jfl(si%4vCj@CH>`mX6nm%<}5GgzgM70wY}-=xl&+P;tc@P9ifqmw49C5Cl^MzkZA-4-|psec)sPy!pmEns^Oqt(kGLu_hBxA
3ZIdb@Xy5Dp)nj!-aP2w!<qLL?KcX*YWV!N4V69H8k+q>+Z`J6`^{@IQ{jx|bwd6~Q0wRRB4fY03G-1B_LBudID>3J-mOf_A9(hGlrYI4p%VWC{<pvL
"""

_messages: Any = _Messages(_DESCRIPTORS)
