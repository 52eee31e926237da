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
c-q|>OKc-abvw3W``O8OdVYy_e%rG<?1tUUPKNys?BIzz6ElwOZ96lX1!Q&XPNsM4?re8E*&q%G32B8ma6npa+z{f#6;50@At7<*z=aD3#0k#4`njt=PBN=G
aqD{TRn@Ck?_UjH<lw@t>sdSI(XE5qw|w)!THW{Dz*T{RR}XG$zf>UGMU;9KVBn5M)*!H5XGyuPyk0aUh+2WnGwWz+?s^6h<WoHl*-w3>%^+=g^Cg3h)Hh*%
XpOAETFN54w5G0xyRFtK25C7BS=Ag4mvU@X{JdX)`N31u*|RkKV)R-c@*Ac-ns}C4g@XUt$PY~1fH658vm-cu;F-1)AgBBY0-`QKer)-^xo1(Hi-s7kJOQXr
Jafk$*})O+ak0K_)b2N$joy>~cB|Xb*BcuRy<T}qy#Qw=T=z+99l;7NeO>~0bfeqo_7F3-@;e1eJ$vxX3c8fZ%dpgItUuIy{cf+;(__oyIuUF~Z`B*E2e<<=
6~j#TP%pu`2yUa+Xd)t$m{f0c*K0-{aoNOH+pUMK_TyG1cmDw_4y^;}-a5)BH^m4sx2PK33YF_F|2(+;+d0_agpY3T%u~WU@XuG_N=y~|zU3X*gA|plrfY3=
dCztCMi$$AXR>?CbdEUcS{xPFc(Z{y-e&~bukjLymK)Y*6GW)5LYAydHK?>!kyVtEQLOqdz;LP+RG${tE=JUOiZvuk^$LK;HtO3$u4+XNX$*-956sbM#~eJP
Hi9ZF#@Z2-8K3?>>aC?-g!zCf4_9_RQs06cvjN7{C7CNp+YCmfYET|p!^!^09^jDiR4^hi?N16+$lmwOVDMB3>L%`kFdw(iq)LjR37=-*j_m<us9^9>OoW-Q
D8lS<BFx1^Xv10Q7+j8TL*BFe$tVyfxtKT!MH_-FA+os?k^NW!2<N`2%X$m)yUg2BftA+I$rHFEGz5+IXN4WO8+evE78mz26nzRH@)M4d0#JO&sJpxCTg*vj
4L%BQJ9GSPzXIh$(+T?Qd_KLOf>9zcb{;==@wwApy!ICbRQWXg{??G=eao?i++>#`tWnxF#go{=DAhWYQ6C)laAXbl_zjlUt|n*JBr2RAnWer%G-r3>bE_$>
EhiT+7y-@|wD<FnvkojL(0;0*NlOf3*vygTS&S_hY@ptT^YXU+;Hl?M_MY+!Iw#|L424tjW83#_XOG`kM6ufRN(~Z84MC^92PFwkSlP8bpXqDXU;|Z!?8x+m
ZqRRS6K^FUD-uuzpKJv&q!_LoEMpKu?I#K>M5HEZqY}|Z<YV9tnbqVB`aL^@tE-S7S^?SwQAZ+;^Q$Z>tcs|xT62yJL8Prf<$=Z3RT#|-1J?e9CMFScot&Dr
^1Nm}cd}WlccEks2G%~Yva#?4)x?>4BGMVa$O%CG7L?sdFmT5fo1Hyzc8Svyi1sF^wL{ZBrF8zSz_|$d|Gj*^3+Eq`@X}^5Ur6XWl){XeMVg`^gNWxO0fy}B
KC>L2q?Q=0M?l)o6u1yuoeT6GC?2Auys_y$<9_ghEThK)iH<0wRPVq%5!%!PF306+4f$5Yc{0+_f2~4sx^9AfCCUC5Xy1`VXNJXS#W6Rl;>d&*homCeQ$)s(
03L+u``iVN_A!(mNcv2?r8{wk!g139@lv!3BK((m4TN3_ef^MmW<o25+OIGXZMx?0v`j5SVb^oV{gAUf89zi}TtKn9{ZK-=z$IV|{QKw+`@a1HCZ(KFAb>88
6Ze-(-rx72%oyaSegm?ednnSTh`tdzYiPKK1|>O-a^HjEbe52~5?=5nS(u`v{6bNPI`+x8_BNC^Mic+(sZCCM1ND*3;3t|HwX`L;*tGp%J)F(A(SD)8r38wv
_kNOvSbiDKih6^4u*ma;eqip5EEX(d*$oeqJwjkCc+$w%{(uQ+xH!>8#~h2on0^zjrEBxsV1pFfdK2=<+GOmA_^HNDfG9(dV6@GSNo;0`T{Zo%TS#G0I+jy7
*3vxVjC^Yom}kqT@{O?IXkV~Rzlk+CZqRooqmeKy9Jg?&z77@4DTaO586EZUi)axm8x{$?jbMX9wGW{zi!^m}bXj~2wml!M*svHqo_Y;lUT-&>`g*U?ZuPg?
^>{^(C3u3M)76b0tLfvoT8EVUmASQl<XFktWp%Rp0q@gXN)|3uMXO6G6%A9+O(;$)BK2~dOs@B;S7u=ON^Mr}u>4I;5JyUo>eX3jw%F^++X`WAnpj0yizjDM
){@y+3rbQFqDD4PCNtG*Gx2=AN3aly!s_){s7-|b>MO@kuvPKI??MKdS1-m+Bi6W-fOCHCLY8>W=>1EfBzpg{3&%~r2|4Nm)d-R7NUO^!7{2u<a3<#aR4uYu
s?V(6IF^R3{o;E~e|rV4N)04)IJTYVZ#G?xca%tpN;p4l$4RB-1xaux(;#w>RuKZmg}VatK85g%PK}nAl$KLyf6T%>1CbzhV0nI+HHaZP3P5s?=f!g;X0}C2
P1E8l0H3-O&oM_*<BCHXLlQK+33IDigM4CgP+?iMRI%nL`iy{!YV{hF_FX^N!)%~G*{6Y^V1NK^?_&VUk+9$|<&y!li3lzWMx=fe4Y~z7=W==+;xi+m_YUOw
!Ip~2toS<&#U~0%^%l&J?6HkSEhG!>Cc%gcV`L;FV)=BR^;Jq#HYEn@(q762oO7&0(&&m%mXku*n9efJvMC$VI<F;ii3Pe@EMxe41|XDXYViAdv|V)}?INaC
TNo)ba-?MNu{Av6QJ9ZN=ML}Ors*!zl<8Rg8k`{=ypg-tcXvL;oARleWQ|1*ZZoKQ0~Q3~&QU;BhLDvx@IHabL`<ZG2oaOoCaCUcNTe?plf@H_rov{`!jkga
u()rcp!=BVvsK{4RmyaR?hNS)Bz?v-x_{`|L4fHqR~7<$%s`|m8F;4Sn_TV7>_{?93!oBL{nTqtk@no_q@77hTl*5rzKGS3#FLTp<`Nwc7qjbG7GH^NSR@d3
Y2<mw+8blxDYlu8vHUG~q<KTSfLU&{aoN_nn>MDTnuirvXqu^_K*u&VKj++#PeL_q`DG3IO)8;hw!`+0n+4h6AtDV*qJ23B5E|#q3YeZ2V}moW_~z4btTN2Z
Dp#|q)p73m8z}S7)j)X<iew!&HGksN0wJcYlk=d`%qSWeYj7?C{R*-1Gbne6HHpGdR2)iJam-5ViDrrTK5g>O)+|A)ZNLKGa@wFNOs!uzQ7Czf8NT)&EEu##
K8|;U5h3z-2>Pwvgheqi>`|~F$_imN&~&JDt$-@&v{!W->pl9;Dk|1wFk64hy2qSOyTdJs!B1yNS{=?xdvi9!K&qT7kfKwgmAMq~q=$~M-=W0%9q4T+Qtn4k
a@vhJ$;PxFvZ6n-D?h;pvB<6*8?Pe~|0bMqtj~jfg0lqz?g;KQ8!j1E;2otLT57K=k@otDO*PuY@&*>KpV>hB1}r7FlG-Jydud}>uG{{=^oB2##ThAuwg%O-
?Ly5TxD#jkmO%&FB9!ao@n1NaH(-H}Pih9O{Adn}({zWF>djh9Pkppsh6@sIz1?b&ik`mOpTp8AL^bM7y)s8$-X-9JT5nS~2ziD)<V%=Zr_+2w5ZM^Q(0c|&
<jDUB5~5Sv?jlR`G4N)sNq!W_$G{sp{d=K+5?3W~x7Y4;5MEq)h7u5wjY^=g)#&vfHd^)MUl9_nw$<Kl_4w&SaJTUZIX&4d1R8o*Hy-Jg%-UabP_B_`O>{h1
Z-9sGcyAyQKN7uxSRCm<NeVB~-as-MMSBA&afubw)b&RTYB>N!3+iZ`xCishZ>!7EPM;J6s?{`<)X@=6HP+FI`T1B!C*g^CZ7)|6iP}DC-O1WM%_P4MmAF??
Z$wX(>fWla9#6!VAAp+l2kL8)N9I}Xse1DyGQJ63G<6u!i<W&#^r9o)<;8b5{*#UTNn?4Q>+yDHvbnMH-wc#=Lc&^~<liIRFxm!MU9H=0#f<n0EJv`7)}vap
fp%L%`&88Ha5)ui=pS$E-5y$YoTAn4^&4BAroN@Odh~y!t5A(lFh_uc^-cOu68e}3zTW6Q>~Cy0o9OA#%SLeMtPJX9=TlJV!3Zj!;HkacTW@cLe>)WtLZP0J
JJMo0mitpk$8xt?!fNemj4k}w>i237b!6m`ZdA$%*6Vt$-fXn=%0l8kILmaC%3?xRWI?)g<;;uMyPs#F!ZO*uw?7c7#&cVQ9P@XUwmWTFi5Gn({Y8In=8Jyj
G%xzUSD;9>z2WS-QWl}a8xuo!j7BPI05(FOTo~g*Lo+b>b~jeT^Q}%7UftqUx`Tenm`<wRg@p(zeBM&RKPGbr=4di~i=l%L=iXPe-zWh0!)L(`RCaA^H0&SP
?#Ptim0pvX3TLct5b{TY+BmZt8T-{uSd5aepFa@78Ds<Uo;I}nfoJba*_jLyD)B$qP3Pk
"""

_messages: Any = _Messages(_DESCRIPTORS)
