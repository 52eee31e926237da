"""Saves to Forebay, the write-behind persistence daemon for Postgres. One file to copy: `pip install grpcio protobuf`
(protobuf 4.22 or later).

    import forebay

    with forebay.Client("127.0.0.1:7420") as client:
        client.save("players", 42, {"name": "Ann", "gold": Decimal("7.50")})  # durable when this returns
        client.save("players", 41, delete=True)
        client.save("players", 42, {"gold": 5}, add=["gold"], request_id=str(uuid.uuid4()))  # exactly once
        client.save_batch([forebay.Save("items", [42, 1], {"kind": "sword"}), forebay.Save("items", [42, 2], delete=True)])
        client.flush()                                                        # now it is in Postgres

A key is a scalar, or a list of the primary key's parts in their order; () if the values hold it or the collection only
takes new rows. Values name the columns to set; the others keep what they hold. Decimals keep every digit.

`Refused` is yours to fix; `Unavailable` was certainly not accepted (the client has tried again); `OutcomeUnknown` may
have been: save again, unless saving twice is worse. With a request id (new for every call) it never is: the daemon
recognises the call, and the client repeats it by itself. A client may be shared by threads; keep it, it is the connection.
"""

from __future__ import annotations

import base64
import datetime
import math
import random
import time
import uuid
import zlib
from collections.abc import Iterable, Mapping, Sequence
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
    """One save: sets the columns that `values` names, adding those in `add` to what is there, or deletes the object."""

    collection: str
    key: Any
    values: Mapping[str, Any] | None = None
    delete: bool = False
    add: Sequence[str] = ()

    def _message(self) -> Any:
        if self.delete == (self.values is not None):
            raise ValueError("a save takes either values or delete=True")
        parts = self.key if isinstance(self.key, (list, tuple)) else [self.key]
        message = _messages.Save(collection=self.collection, key=[_text(part) for part in parts], add=self.add)
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
        self,
        collection: str,
        key: Any,
        values: Mapping[str, Any] | None = None,
        delete: bool = False,
        *,
        add: Sequence[str] = (),
        request_id: str = "",
        timeout: float | None = None,
    ) -> str:
        """Saves one object; durable when this returns. Returns the save's ticket."""
        save = Save(collection, key, values, delete, add)._message()
        return self._call(_SAVE, "Save", _messages.SaveRequest(save=save, request_id=request_id), timeout).ticket

    def save_batch(
        self, saves: Iterable[Save], atomic: bool = False, *, request_id: str = "", timeout: float | None = None
    ) -> list[str]:
        """Saves many objects in order, accepted all or none; `atomic`: committed all or none too. Returns their tickets."""
        batch = _messages.SaveBatchRequest(saves=[save._message() for save in saves], atomic=atomic, request_id=request_id)
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
        """Calls, and calls again what was certainly not accepted; with a request id, also what may have been.

        Not left to the retry policy of gRPC: that goes by the status code alone, and UNAVAILABLE is also the code of a
        connection that broke after the daemon took the save.
        """
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        answer = getattr(_messages, method + "Response")
        call = self._channel.unary_unary(
            f"/{service}/{method}", request_serializer=type(request).SerializeToString, response_deserializer=answer.FromString
        )
        again_after = (Unavailable, OutcomeUnknown) if getattr(request, "request_id", "") else Unavailable
        backoff = BACKOFF_MIN_S
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                return call(request, timeout=max(deadline - time.monotonic(), 0))
            except grpc.RpcError as failure:
                error = _error(failure)
                wait = _pushback(failure, backoff * random.uniform(0.5, 1))
                again = isinstance(error, again_after) and attempt < ATTEMPTS_MAX and wait is not None
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
c-q|>O>ZMvaXYpXyX+*Mp0C97xjj3>Y}n20WZ2Jv9h}&iG2__Ywlk|)K&_75$#}<hXS>_U1~?!jq!mJl0|HKPLx>X`5aPsg;Dm(4F90O2h`&I+FZX-hosU_~
UbywEs`p;Ks(SU+4?fAj*=^Tzw(Nsjd$(`-_MWr6>$!oe0|zhf-8O!%LAs47{W3t;9Sodq(04}*+Ewjl&Xgc}5mHZ`gN3Q9DMXM@{S2f(^pQ4&w1o#Rm~^DS
0@FQb-~`S>8sYgBeL381xk52W%W24}cCWXPVXNZjY8IxuPwdf-W8fE~H!PT0xBG*!=jbKK`X3Gaz{U+2lanz!!pILiyFUt$Q+@;i(HCH5==i?9<4~S+rWh_g
2B?fZd#gX_2M4&vxyq(lUai$@oyXQ@qur{m)z)j(O7R8#ES!>X?Z=HZ1Z%kT8428~n(bP<gP5tM-)fNW^t(@;piP;)2n(Is+QVwcYIn+=YGip_N5QtLjY_R?
A9p~eBACe@`gu65;MU8vIwDfBNtIfAt!!2hmyT_<*?8D!zTYTjR`0`H&)Jjo*3v$>Ax4O~Ma}3|Xk2&s=icq#Ou;%Qd~|zjniAfDA76({5mU5$$J^_76HKy{
Y_+Au9oO9%IBfH+@%Alybih$pqNt#cnhosXE+a60g-Re+ZaN>05uv{XX|gi4p!`ZvHc?7OvHBYTy@^#&dzxE0r<n5uYf6;*B><0YWc7R8)N&kB>k$*~+JnKC
-F-^$2%4}M8wXHeeEPd+w~l@erUPm`+}Qa@e-$$94lu6H%Uns;W-=<>fI`pdjdutAE)E$_SyO=-f6<^w_FlDv?h_%X8@La`eB3^jC@F>}eA<CK>~|?cS(A?<
B20Zo5vGq4VJ0HNKAe({!R7cG%y^DJ9t7ef=VB+JXj72IL^hQmvhQgC;oRq?tXE-Xn|V7bu>8ttc>;HYrl2wYs<8vN1JALCLU9)$=TiWYpKz2EfZ{_&-R*7P
VNNn_@=>Vm)Y0005eobED6rW1e5#+UnI|xI9zUY^%t;k*{7nO0J`LC33Ua*bjGP|7vI`1pl(tFnB(^Y0y#fWahmpHKaC$pjgZY)q@tI|b3g;`c^w){yY>$0@
Yw|0L@dZpqfO7@y>I`I@J!cdcKhW?>OAKPz%#h_-jLn*Cpx=fw^0rp+#B;|xPq>0k%eW3h;gp$S-}n2Y9j-6Mu$ok*CW)k`pflctyaXq#Z1+8%*=yQl16_yo
!1jf0&~M`bY9%Hs5>N%7Yy~l-7;YRaV-Q2*`x?wDQj@GvQ>+pB=(;_2YceMNK0Ji$%P`Y(0=yH%9Emi}EVHPvETY14d30b3B4Y`P_Z@Do;?f*)fsOy*6_bd$
O-`=0_N>=>>iBD|--W#0?K->UmJNj`D8<gy5s}UWMos|wSD@gIgRVPt*zEMNv-6yuK#W&FFYnv^6H4d58k|<h|L^7VbvW}r2`^0s^M!=2LO#rxS)|FCGKhFi
5@5)_?o(&PlhizebqL7#p$2Cot8;<A4!M1llsB}!r`!*om1Xq4K%yfGDfK%rO@ub_fQwPNIz7G>ah{Ac^k2)6o2(mSUyHN<3EppI(L=+cT5(JrR&k`libFDy
^a&#4y8!n?^L^$5$9NC&_a%EK-qIb9dctwj0r66_3L^X$cnySJ3VnT#d1gW@hQ=>35v{v+@1#sELU!A8hgQhh3>iN}VVp&=x>hKmOyCkQ2L4_2hnC;}7L!uO
%o0Ew$1(k7;`;jr6c~g2)GtHYbN5Bsq}Uswb9$z`Z&H$z823HMO=by+YoUVA%fb{T<tLg(%+Vs>#%oYmAB_DcC%$sV%V>{m20ziEQOj6>bM?L-tcA1rHpWjh
I3Gjt_1=oJ5XmpYS*ka<2Xj1MumXE);ILpB$!>U<><|KT){{oQ@h?n3!^Md$j_jc*jOjPATDmsZ1{);Ytyf?MSsM>WB7W+T6ClbIBp7YeLlT==VpmE&>;_Vp
l#b;TBWGcnaYnxN>oB+Hcs>$ZY}thwik;<9wx=<MY4(+PJcI=YyW({8n_QZa8(5?9U?A=vjvF}CZ$c4MkDld@1_u^?5o2T3#T<b*5o}VZ@eUMZ$tP}(o{g`;
w&$azKFq07(67LSwPw9uUF+1E4Qr!Wi5C7?smBOf?W);frGFGxZjsJFacbq?8CKc0Svjr0&D%NW<Mj=-<kCVy;lu3s0puoylYTKuCYOb!ONU_jN=;T4u{2MQ
5i6BS>GEM{w%ASWHI1+~$-h+AqB)$(T0CiMKwipKbY=5+&QrQ_D4wtP2xgUFtzV5q<XDzadhrMfwkn?Z4M-vL`nkwy#2V*gaL&(NND~LE>R*aDs{Un9kDGoO
GSpS-3X$w@ON$8@zV!z%A90bop=_4uT1(fCq+x46|CZG6Uxmw3pULhG`=e*?NnMUMo=7E2I6rA)N~cu_$%Ds}SaXjS8v@3Ky9Codh492rSF2D;%PEXc(=g3I
B-U|n${m*&qN4yL_jvj|b!-BhqtrBez69{0JN8EQK<aOCNUcX=i#KL&HEohl%pr;_`IZXX3`NfixF~9`Kz`TtgB?s7tnn_57g-YoXmc0iRE9(kAA?0K&ejpZ
Wx<H_ch%UOrE@MOhbul)iO_doh97Jp7f+tQ#!!5spww@{^q@cNW9<v^y1Y&>LSc-IBu*^twpjZmPi2#5ur_VEti$P%vrqbA3S}WKg!RcR^Awx1F0FGtmU7I}
%_51#KT-gpG!uj07uBxT*(60win}mUrsPP;;6tZ(z@so9kp>^?yic=YW+{`g{sovPjlO}qW4T)&qNaRmCTVkygPRPhUxQgexOEUvlObdU4qPQLnTUxrs}M1%
JpkPu^oaE3nlpFor75ym<*@SnD$MQLC};}{0=5bqyGnu1sE&Gc1(IcBwr%Zu{UE?Bn;Q#(z0W|TcNuv0$hW!K7ub<xm=QoRYWj(4PLTH0$)uf%OWXJvR)@;1
A^9mI=RGJoATDOxa~!@B+b~BUOljmVkh3$y`c!N)8Do{4^+=D0Gz-)G&PHWh;cnWTkQyEqX5rOL6a_lAq5U!EhI|sLNoO!^(r;2QJ?)R!-qCA8Hh73glad&J
NCSkI^Uy+>o)%-nsO#{}C*w!~nL4bhO(z!7nP=~_Og~ef<xR+ub=cIIW2a^bF`amm3o%QDcqW=6hBDM|3pbRbq!*H1q2i1%^mPZW@0|4h<tVkdd}1n9RGyW%
oPcTzJ#4S<cWtjH3XB3PYdDnE7n8ohtkgF+NB*6X_T<7GGXORce@W*je@TrWO+hg{-FklzIG)^e)s&{|v8@*QuWIVZzpCljUsd#I6CGQmIl;~9NRK8Iy^i$y
D$Iu~j7I^U|9CT-6-#WA3C0=FX)3LzQe`-;KtDq=^$`?W#QlnfgQ#RRsggaU4kWHfB!rWn2Zy^NL29hSEZ=g{_{&bhg?6lDW*inN46IE|+Iu;QcZ3m1^8Z`(
n|NP-=XdN~UP9*><i5RY+<-Z;ZrB=QNg1;{HZZDCY&!vUdXpCEZJ1%d_eG;5o*b<`VLvT6opFbIW(Gf*XErKuO4^&V875}hi4rs8pBn23Ng0$l$d_Pxn_fGv
k&DTWhh0sR(~@2+y;ZE!bBw#<q-skq6=~_At|*eV-1whT0-+5zl27mVgD2LO+w0@58J15I&?<!(-(ig{<%C>ZZ%5Kn?Z{+PNmp;c{K)w@uq4*l)tDvVmSE5L
lLqHaC-4rQn}mt490+qJpR8}|bscWVY(VlFA_aFGSaRPhXU=i(8gF%}0?tGPY>Z(cegH1O+tI(y=hem@PK*9_KB?e-szF{_;LzNG_GFPv1guF<7GXSKt?)mb
_JIGOUr6AR;!Qy)|A$K}|KW^p!(xR6y3bLihm;e>CX|vk54}{^#rPspO*$YF;$hMnINJelv*$Uijv!+W3KbIUL|AzlX8HKImh#efryw_}hDax`UT#zqpZ+Yu
SqZn+Y&1y2kG}mm4f7JJR;gEuQ{?@Q1iWAFJgAz4JVl-ZNtkl0Rewwn=?KECc1()MkXKC-qE+5(BTLf}@Pl%lJU5z&fY+<^4OAADqD$a*r`c*DJh$`|B_I-C
DuLQYtz$i`H7fD9RT8ee(cElw_~}D%yY>M&J=rV-n$>pId{ix_mU@sC2_lhbyZoq{wACq?4N>hX+2#yJs|l!5tyeo_9|g+0uBoNpX)qu0)@VnU*t;u>PDoNQ
9zIUe#5HmIORyNn5f#<w6R#_9A&w58bET3Anvbexr~D8%NH6_DBOUGVGLs#t3E(d4o9%Kv!t4d~%nG{E>{#ol6aL;!MXuGGZOUkDRl*KY8(Imni8@iywZ@}z
y;dovSN@)XLYeg8L@%3leR)9^?fNQ-UaadIN%&fjm-0Zh>l;rS)vj+s0?AsXG)GfgrE;dIwo286?jB6D3`$>AeXW$Ol}bq{saG%3n@F!dl5s_P^|73YcWvb!
QLJkl_vG=eZIZ+NCKRKwQNI=oE(xo@bTkoPz6*NX+w0erS4M}0qSB4y$oM9xXzJ@#Ma$tpRkRWqo`2u^(~R<z((ydk<8@}dZN2p8G~}y<gcqF`VWDc8O%rcl
x!r6;ZaiLH1<S7{y}@|rufoMdv{`*`v)b<9-H%cbk5Sub)vFuTMu&Q-%TQ7%m=DLn+5`G16+NVaM-TVVTHmbKF-W27P;lttOd24k6Hpj@2x=zAQ**Pk*4zl6
yJllTp+Sttz+5txheAlk@`#w%4Y(X(3qLk2>XE5$E*4^}SE}Voz1FA}XJh){EYnSjb1_+k&VD|&GuM$t)kRNM)UU&f3Qeoo?%c;niu;rwVJIoDVxDp8b9fD$
h9aw8EpN9gtd`fa2sz@VudzM(vmsuGY00m{rVf1_mO9Dnus>>$qZg+(+IFRMQ;T-5d+reLyQurw2;F;jhzs@Xz~<XsTMo~+JXv^ogHu&UBrZ=TmF~i<f(oBX
XyNPo%$_|MPyXxE!8=oLX~wTLfYtDcNehbGeP__K_WJI?mft8`mzfG@EUy#tM}pd%-&V$c=>g2CB<vv}LO6qLK;CBb9KY-Jccr$I3=$^sKf>L-8v
"""

_messages: Any = _Messages(_DESCRIPTORS)
