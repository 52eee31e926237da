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
c-q|>O>ZMvk&f-eE<1^*Co^$8pWCxL%w~5pI~n$KU<W6*6ElwOZ96lX1=Q-;os4&EcecBoY=8qoLRuk&I3VD_#|eZu!4WQS;e>?5FMtCVBoKdrdSC8--JOqF
4Hs_xs_MO0uc}^s^@C4RaADVWtR3^{_Q9Rou6bas>^rt+tH8l42Y0j|E0Am>O1%ouwFd*M>-FtXLAkEn%IE=znuo+w>!>hwJ%I@FsV+eBLl<ciNSoXIj7~@D
t1#WO29{?Pk_gYPsw@6(D`kp7T24b&HG926imi&DYiXG7J~2momWE%9UNc~(YW4?X$5M-sc0U@po{1YUCMRQdgpunxW`E=%r~C*4q84CgXt}PrXHlLrx)?4$
1}KjmbEiM(dq=p(#qzdZTC3G-oyW#@qur{k*Q&KjIsX~;0-Our+K(IS2v%_Eg#fr!(c86l2QgF2zfmCD>35%6UYjy`848`+`h!ZxXm?7TN@#gpN5Zx$jdHEA
fjb~mA<SeCbrH@>xN50ZM?@krsa$KXm-I5?l98>p8xI=IM~!@HZ3E_d)<HmTE#-roVuYC6)QoQX#&wT>9^Co$6jV9k!#g|El<+S6^F_E4GDX9+oP&Nh#w3gJ
R$E-!v+ccs#Wvp=@7^{?M;vu6jPm-ZS<f8qGXm|Gs03o=y7kc*5$cPOBr8)3%C6>vCQ8XDR(%toH?az8PjjmmC3Bu&^#G-M1;Ak&8T}qNwG4;Udc=gg=3ua6
cAwHaf+j4++7aX!pYA@|t)*UsX^$EYH+DW!UxO681B|Q1AXfov(;1bjL9S=@#`}YQ7l(|ev@XH4KPiwWd#{;Z_lXeHP22}zE^eQQl@vo0K26Ua_Pdm!w9ZE%
5hgyR2$Ls?FclJEAI=4i!R7cm%s7@i9(dv;7b7R3XkCy+L^c&8vTrE>{@mxKtk+;>mw7uXu<Yvj-~{dnbwQ*3Sz!lmdyZueh2kzj#-#uvKjA1T0L6!l+Pk~1
#hheP=ObU+iIcVc0^|<Ok!P^;xl})CJxgHhJZ?zwsk16x`-=i<@HAY1tH|-bHL`mA$`&NnC~cGCNo--1Y8i594<q|<VD<L62D7VIqcckZDx5FPQr{q!vpaVA
t;wz~MHkQ+0nQb)Ycr6t4y=)<eMiA79bgc{W{ND&Vr*Jx1N9Cp1h+N3CyqVdd%_iTK8Wiu6i%5L_FcC>+T;3?468|1s*^~n3p(vB$OhnqmEFGMGJ8$xY@n);
9GI@K4f?HZqE;fZA^}zK$yN|Uis8n=G6pf!zOBHlB(;DwDv~uKA6>i0ZcR$3-^Yh=bp>X6mWOwOm?M$K!U~HDD<UealtxFoAkvm0zhQB66_@6i3#|PcuULSX
+vMb0E6;kZr%u1t>OIJs-LADyZrM<Hf@0)M9TDktVB`d#egSg!*z4Lui_K1+Iy=kh2}FAp)Y75ZKcjU1qriEI{Qq7)UxtN8B)l{k%oP&44p~2AW|1bN2SLPh
k^n>YwVzreo}^|OtV2NBcNMr0TAd5@4agj#q@1DYJmr4yLQqDJ1QH#QPpRI8X(F_V2V4rv)#~xBi1TEmzW-W*%w*jN`%0AkPw;+Aiyj*m<%(nKxQZj;R~!Ko
NuD7xz6Y@3o9{ChINJM=-3Zt-@s{>@)Dw=I4v3ecRS@An$7>+;Qt0b@%rg^OG1PvJiD=z6duL^83DUccJv4mIX2|#f3gZHb)i!(yr97K}G4SuBKQ!F_*O-)2
dYS;*IF9Hq71iHYAjcTwr+yidj(sT7Cdu9ioz>IrL!FYG#klW7W-?1iT=5mW7!;-`DL+vZVvYv+)?SBPbuf0HocYRWFQYxO8T>@YMlG!X7wdi3TlZ)4ZL}XK
uoyw{_1=!M5Xvw8S+X~{4|6<UFg$Z-V6k8s%5Hd=><|Kd)(MPU?e~~~`im1=9GOE=7}IZJwRCN+4K|3mTd%?lvNj%$MEq1kCqR@gNHE$aha@($#I6{B*e#^c
DILoxMpj{(aYnwiF-)^%WBEpyceF3qrr+c?jBL*sjRym9v2fhLp?VAQm{ar&do(yQ@QYXxD;wqryoq3)LbZ1x7Zhpi=IFBc8f<$$TJFP~d_46UTv~6|>y`CR
t=TZPn&ogsk0p47pw+JE9ahtaaitb1`SVk&|46Ztwaw~e^&Q@)S&SAg)I^Jgn2LrO=q6+)6_I*5Oct#7idT-o@|Bvb-eLKh8X=ZSkmA+j&}^|=%IgYYZIW2Y
tc8;^nYCy()_`mv2~nlZqsdJ1+Oc@P-b0v`qOf{B6lx>kzxcul6l_&I@tcr9=GBX#(}*<|BXG{oJxCJIDeFHFN@V>9T{v#~c}P(os7gdZM_OEp!SJm=fccQ`
Q#EO`Sf5$EaUu;{`}y~p{`Cr64K$F<-mpJ<_GZ)7a7T%hsD$&gcAQjNUXTQLJP9KAX%!)0T)4|H?NSKO=v2A9q_mtu`(qNO8Hfb21Iuy!tU(OXQ2>%VJTIO)
HM7l7YMK^b0r=1!J0o)tXk2kftw(}}GiGizsgqAk4)QFk4pgiuik=s6QLSEs?7r=KdzcLv<9!+k(mDvx_C5xn6bTD%VI~?t>xkg8U_|PBa?nlFIhW((5T7Z9
-n%fv4_3%Tv*Ir?6rU(4)!Q&V=nwl?)Izl2t`m$<7$YMY5zD6y)>p|=*<=~4O?xR-I6txuNux`m%teJzoy^kDu_@KSIxj_XiCMZ?C}a3r0>GDMZ18(UZdYB1
Q^cfd^CM*<7%3TiX!VYG6y_t+xkH`zX}ZfSWinPj3-hFdH?a2%d*?&cluOMdsn2n6lR?!RFe?amjy!5Ige=E_YXlY~Vj@jTL`-U%pxT2Tk$$k4%$#~@@@!Vg
FDbtWbNeO=+Q3Yotpca6lA|*!qaIy>q|cZ}8;4Hc^Duqp#zJ6^7>G0_J;xlmCO7*WJ5ms)d5{mAeyo~fq&;;uX(yu6)_#O#pLA<T;>pN)bBPX!i`jK7i?75s
%n%4u8u`6r?G3T;6x&S3SpKFR(!3#Ez$Cx3VcC|so7N|!+6Go!{?&{X1v<8&`7!5)d=jcj%P*<ZZ|xUJ0RP4vTh`Jepu-<^ExzJp94hw`$JL<8*pfH(>|K%R
XX=W)1sSpqn>usq)HETc6K_HCX&(#YG<6sY;k@qw;&e)(-VwefLrE{i`!~tMU_9#%Y}Y#LrOHrhaihdks;De0NI3!37P`$|-|d=CPgD&#N;J!%tZ0~2`Lls4
|04O*Nt%g;Ic5NCq<wD+^8Q(>{efpW!G@?JHAGKsg9QJ0CQkh0nT-7LM5i>-s6iSB+=xzeN<ytwq*vEq-d|xn^6<2$8`Z2>Vw+6R7C@!hu$&E*;JgI=6#39c
kZTbSDw+YJ%2fO+^SDxucoUJ+O&a^hdlNybRbiHIIcdtJCmvrpRWdUcbN1R>FsswP$Vt2-j7XCId!pakO_&oC{k{}SoS0#;fmVTh+w!RAoAf8|V2w}zt&1*2
G=W)v!u}X=I_)m^o(z6A@2QpHTwrg`rk^}1XG)&5zbmXA6UcJJK|Tl5yYyahkzbDYBkb<!oR%~~>9t{PmQ%bBCzbnYiBLZcqZviAei#2uNg%Y_MRMN5zW2n~
v3q^oHN|pX0$QUG?HjDCB%P3p>zz>QsGOJ(N-5<{m>*dmdq#jYX8W@Q+!E|*e^6jiw>;<Qxk;Ej=NJfkC7-Nm>U1sMuVDj{dk`tuW6uaSoih3y2e0!!lPus=
NWj_{3ef{_0p1D!@?Dg>YB(+Y&-bi?`=J8azyimn0<<BDWFr1d8lni}@n@C)UNi^%?|31GON!S8VeltdQu+y|eI1s{EN=Y|ReDUyuWdsyZgbyDb!`kFA|0dy
A|W0Jje)i6@g8@U!|Djq<{(!l(M-gRmtmHVPwVF{e{%{llZu6O+v=r8CHCFT5?l!2)|-t6Y0A-uH|JqKfU1@2mHZTWJQDzJlscOgoscKUTbux<)N0iq6GSqE
&?_CCB2wf@Q2@~@ZMTu7=@59cR3~qJW<ua<g+4$^qf*oWxZP>CS_sc9_aH4&FmlLt>0!lqP-~P!=RXItKB`?I&B+A}AQMozQm=H#!6hhfRwkBztH6B7fud@!
uy;rXoe(E=)JT-1iEHBaS70fMBT}o;Cr{VlQWWh!Z%V`yG#^&<PU!(|kX-(mLK?yT{USS3t>7-z?RKdiV)ha`O9|a*c8qFsyTRXo$;kD3vrQR|tV-BHrfR4-
WD|8Fqic<arFyNLPp<wo1-TMwUx^klYnJjlCfqEQlB-CwG?ZkuAREZN<Ys9!Rg;^gF-aTiFw(q8?l1<kGr7YkCsFrdnk6;rlI;Eh8B(zrhYGZ~MaB_oafgzi
P>VZ~rtoHGu(c9tc1E3RwAmTw1HTISaJW)$MErfs>Mx#5#Fy`a8g;<xOVX>G<Dx_H=4oVn6I3*Hzp|o(9$Hqk<g1^5yZ0w4>1m<mIJUzpxoEd{`KL+9RtO0%
>n=l~qU%i^Z(ph1Y=mw+UR?>xuO_|0c;~Of<yf>{d4Ido?%>@IQxK0)+iKM-Ta`wKda0{Wlql-8ty+f+);H-RP4tiw9zEOxqq<$MW86U3A>q))=`?0d$DlAC
5Y$YBr{;ENy}9K-|4c`OLgNY#OPP2qk4_Me<v}W|YH&5g7Jh6Q)FV^hoX<sAFIP(CdaY5(&qnmYS*Dxh=OVK5o&7wP`7cPgR<qsN&?{|Rqx2BNL}?Afdj9#F
=l7G4XVswL?01Dl^7;@VC%kIab|=k#@e)dje+e~p>`SP`Szbc@PJs-)6t&T=9mwvKa6`9e5AiOGI+~5pb*G28P|x&CzTJ%#|9mTxg;%yXRb@nC?qpK&9?VK8
|5<?Izcf!Bn1k`;A2uDlJN34r{Yn8?^Pf|+AivwU20i1TZx77i|M-`JO!+fbs)YQZpw{PirLkMwggKdnJ(@!ZXOIoZJA|I)cAfrypp6p*36uCQ7Tt09
"""

_messages: Any = _Messages(_DESCRIPTORS)
