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
c-q|>U2hv%btkrC``Ag{Y11a&e(iKyx@9-rrtD{7iyJ$MsbgoyPOC1U(Zn-Jy|rhuGvj1~ctA)<E5rj2NDI91h7eD@@`i+XLPFvfAS7N9e}QwqJa;~vq^t76
+uU=`z4zR6&-WepA_oh*u4nI<M|TeH-to-?dwJh;16KtOUOu?1{ZfH!7g6dJfWA8%+WlbQI*ZCR<yKLbAZi6N&+VhdnQIwDkWckIWIy$hHiNX~jaPI!Qs0DG
%O2W+y_iLKX+>QQcU!Jg4AOEMvZ`rWi#fI`em*R~Z2y_*?AaQAF?!8_{F*r!jy+qgLc#xR=m#clz?htj*%2H+@XUb|AgBBY0-`QLeq{T;xo1<Ji@F%zehN?@
d*;qyI0%k#j|=r}z4ox#YWAKQ+wJaFW3{=~Y}6~Ss0(mb!gZgvR}rk>(&r`cRzvSLyFJ9r-2Q_CrQV?b+zz^w$xE=<Ypy<O^o(w=)@#I;$8{putwy`vY_H=E
$W#n7*+abu=OVbZTC;_SOkz^K*<G#ab;M;8TWz-=wL4GRmE6O1n78Z$>E5=KPi~44V(w5ix)Unbeg1iH_xCff#t9$a-I=9?_u%I@;BrhA4d3<-2K^M3tfp&i
b!pFa_l7pxd}q9S$8?T3>S`Pn4De<HbF|M0wBO<-5G~j3&&G&QUxzGNnQBmJr6Q{+C8JpNT>xvM6;z+*S1v@<d4km?O7${;$2Kws7FV?*hcqps!hLf%+%fyl
sg0lti?MbDWyYt!k9upX7hpD^%EOhNkJPsy$83Ocby4O@(l(t@sT!0m+Zyi=2Ynneo(g&dru{{M3fcRi8T6kCLEXfC5a#3dnN&$JG~v?>+|i&<87k;}6cb_Q
D~d3CoCtF<5f0$2bPO)Xw;}J@{&*OOlUzuggrappmJr!YipYMf0EBa2)@8i~`CaDisK81q=i~|85$b|Q`>VnZ+zmY29Epp26^cFu5cvs5NdYK6WYpc=^=;-P
vpOGzx1BluwqJwtq3Hw$JD*SQr=XVzjGf1iU3~7e7q9(I0aZQ?zrPjac;9wxi<|6Xgf&Xrp?DHo7^PZ=GU|il9u945kKbTv<w|m9O`^j2ky+|HM00k>KDV0E
%2ILxoe|(%LHjTdIs3qN0_~>?nzY0qhRqyVp2gUL&IamTI4^H&1kXHoy!VV>&^Z~`V<?=G9}Rqe;Oz1HiYQixUa3wZsV?ZW_n;)f2`jq;&u99Y)!9H*Av-jE
p&RsD+rV2%$chA1!6#cm3@L^y2g?}5Q2U7ja}lXY+Nead5&7u57PFe1PQRyzaCI5-mK~r?5OpNdIKRxI!m@}8%Qfdn7ev}^sI1#uU4_w1F<|ZAXkrpE*U5=l
D=%u+Gbfw1dLK$=zi;moD;o(<P)(evCnB8=jGO?}Z$a4|2Yq*Bv)S1bXO}oVfoN}nT01lcr<Bfr6gU?l|G$^dcj5dK5?(qC<_ig3gHo6=vq)3aWf1Y4B*2h;
-RHK$lhhJ}^$1A&nF0&3)ww|5f#M-b${U&9bM6NhWEnjXNOVLYrFsu$iO?n<a49ZV+u~ah=gCMz|FsOo$+`*ll_dLLpnXRcof;OS701l9iX#(N9FmG;PZ1eE
0$2~#_k{}_?PDmdOZrT_r8{;k;kfC5cqv*15&p}(20|}|zTRS<nb3-%_8Uw@TdrxHmZ>Eu?0W9V2sz7>@go$*0*ci&LJ8#pmw++w@1s97{J{^HlyZ830J=C%
++Qwvf8T>LW00Tv4aj=#p-7t|`bOw%OLq@-N^%<IegMVEEFp0vyx@znFhxoEg`yC3G|0F1Hk8+fWB=KyO-_3Q^^wisCz=|yv_-hk8u-C#IGb;y{X&6@2^3%N
{Ui&q{4$&s^#%`Mp63fjVD1cU7A#}g4G)t&LZHui(#Y5Ti3w=9IMGGN9Erl1eiN;wYxCP+gB06(6Y|K~c;txqsm4x#C|!_Xw9Sr4Y-WjFHT|%gNTE|YmQy(P
;w<Bge5*HL{=oKpBsAEvi+PHj<50GzHilXDm3lmc1xNehbo84TjpGJ}Gae3w{o%NcL-iI^F!itu*BKre_(hbBRTuLF-a)WVq1uN~mL;FMIeIp}2HT#GZVzBS
Dh2f_yt>+HwHm9vW~XgzcIxrMA1n0)!B)4S_gLv4$JMq-XP`2(@~<4LY`d(SRzKkFoQui&hH7$kF{SWfdb|O}N#Uekij&D@VfFG9EMKX^$|9ELsR`mprBb~z
4b2w2rM#^W)+YH^l(l#c7iBG(w6&om<tl1q^JLCby*d@o*Lw_ekzlP}i$&x_mQa1|7z(y3p7>qJAoJ>l*lENX7ZY&K&wa=e2OGVADdI%$U-tC4={F%qU8Nc!
lKpLUDFwr~{shj%T%@W+HcNG_)$7O7u(e-)OX|<p;EL2|GOf|TdGVgqm3ZTcRI-Hg(>A75T7{52csz+U4`{I=U|hJjVb-S*p7^QJDwNW43hhr>m}MXm>$o@N
j!O*DQ2>&AJbj)yF##@8YMMP?2Kdw+dyYAj`db{*v`B36#>}l|b@GWhM1>{aQem5;=raN?irTAC+IRh650eICyiemrK?eca-p4qVBhkahV3CNkEktlxFe3G%
XlyRfIhWGI6`vW2(DxwE54KoLCePntC_Yh8s&`;^I2aAE_Jw3!-Xa)rVT_C<PAu&<So@_!Wm96XE^WE2!8yl1B>k`mWjQH?waF~~ESs_>t#c!ha?H`qVu{5+
G6118Q-j~vqg}0qw2PP&cVVQ=$dQu4N49muqc9(l1|Qz}fM&%^Qzm2eYjB1%`iAbF;qH8jH|0|`$?EeQ++k4lI?M^eouh!N3?VCX;6nnFiI_+W5h5nF4N%>o
MWip+oW&E3rov{`!pig8Fu!l2pbabt*eY=1DrGvO;aGG9l4WDIZ5(=oAiyk}D+_@=VIb1G3_R2EO|JH3b|e|51yG5re(E)+NPFgV(#|BMt$m5rVZ>@ke#*#s
4~h<mi`n&To3F$+ED{L2H1Y~$?~SlN728b4SS1%c(&Hh`!YsGhxNPg(P3sd<Z5<1<&@@v;fsSote$KfepM+}C8O-YRTl;bbAhfut)h|5)I((;Z^A#uKSXG#r
R;p%GE92aYH&13?sCn`p6v;YlYW~Ej1wu^QCg(w==}t7<)!<wN`V|7+XHecECL)SLQEezvwJ{}EC+Z@C_N2i(U0npJwgz*2%Sm&lFfnQ6M4{wuX3g4rFsIY{
_&DAXMuf=UAn3Pt6XwOlus^{fBP)X0Kx;syYX?-dCw;2BSnJU@R#B}cBh>0M);Z>M+C6R_41PNE(CTnj+MBZ(Mn~mT(Gfirt;(e+COvY5y$&VT>p&Mmk#aAB
lG9GaNj9eakQMxqUHJ(<h=ptA*dQDU<2T`qV}BkP3C`vScuR1n4d9|~2i{T2p{3Tk5^1fU*ifSlEU$0#qL>Y|Z@^-5E2&kIx|cSBrTW0{o1XPjS)7t5Xe&@n
+b-1nzB_g%?-+ET%|p3P9{z=+c?0J7_@qYA?H|oRagxK3`ny$YH&P$$mtaA{t#;aNQl`@v`*T<ig{Wq|)u_ynS9b}xUh8c%bV8mXkN6S>3;fnog2=`YdZVXP
M2`H6AR)GD+g)U7HU{3Pwa8Bb`51VuLH}GRpu|-P-0gL?wh&%i`Fjq^HBuFc&H}5!d3cQ1;1QResKH~deG5vG$B)+F$p8_p!Bav7D_p5Jjux(ROo$e)QP=$d
W|=Ehm!gd~$uC!{X(*|4BK%yea}smCvCc`tIr17>&e#(*bkg9GHFTPld><-tLszdyPnGI%s;?hU#Fy`bnlw@MM&!+Rn#ZW#Jc*2Nf)`C~IC{~tnMW@=V(>4&
i}0&l<i{4<^IVU&6_ZVb+rQ32sX<6si;?^a)X?>gjy7HEcG@w|av7E)*k=22t<|g>-P+>@dY5Z(DHW|ZKHhG0d+2K76zxvWXl`z`8k>!FkNzHX1*#E>R&%r2
BZJiq`il@cz6ieF>^?Hqwp%T9KIr%&IP@Pnb$qiaD0C_Wl~3^0+3u}&Hp8Ef3JIZ5=fr(mF&)cY9He8prz>GqbS1_Xery`O+M@<C^0=W_$_du%jat3cY&R-%
iTmIz(@iS#30aW^>C%-miJkc!8T7j7$twSYpRTe{VF{?=?e~Q`@{|-I$NW&G?M@m<;t^g+e}tcz`Usyn%_ICD6(~}RXga&D6#SKVlfZIEXviXUXCw66g%K`f
nSsf-yS^NrZ+Wut@+PNhIOx0d$)xIin2Vso7bzwD$uW0e4#$({6FT^C=6yx`odWPMe97B_%I?4(TE@Y^9h&k}&<&ZXaK`c)A%85W^)tJXv0vSQ`6vndUjreW
K{g;yV3zIoy}`beRLLNr68{CT)zw-
"""

_messages: Any = _Messages(_DESCRIPTORS)
