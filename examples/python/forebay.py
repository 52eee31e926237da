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
c-pl)O>-kzQd|14rIc)|tKHph^~dzoZ1>KX!9DF^_G@4V*^=F&WyzG}?wBEnin3I;H7%($s*=54I1n2_#0H0rJrFEhmIz{(AUMH^;KYd|2d-S;Km`AR13~8d
sCxC`j~<$vUS_`c^5yr-dV+r|z^x;9<{aARPfwpc_3Tq;V>)wvR|f&!IDJ-qc<j2zBj+i@9L|rP4(2o4AG#AxTYV>v_lIN0^X>7J6BvK4L9UBy>kk3??r7xn
Y4)1-NPE9%DiFN_+1JkbTINv}5%g1Eh1{1O(q@si{QMgx8|fdy!oV3hzO$A?cxhAL2-)4JGYrxS8d}vJ4A$~|Rs6YCfQ9~vJvnv^{Ke@F3l?|m;b=Z{^ePm*
uSR$R+<-F~jQJ5Jo<FmP6CXJhN01PG4Hoh6o_*{vo{Od&8b8fKxi{>;cKj}`H23shhkUrl^5z}&5Fw#saw;TWJmL(pZA+Us)d_-kQ_|?4Ldov;ovCk;Iv6vh
&FTi%)rQm+ZX|SN0w*Vc{##IX=YHQEJA8KT%Go7B&!)c%<(cEp&T%pw14U1gC@~m68OhO`Po0_P44lE*0umHV1){$LB{E0PvQHd)u(pT<IV2!ZjUf7O!!m9?
9HVFk)|ox@*9wfuy9p-i!d%UzV8Sb;U;i9{P=~|O&_73|->x5+wXJ5W+56l&Xm|G;+s&P3qh9%jehY3WxbEleZ3Jtm>s1B3-!Qw)ZVxe;^}o}gq^MB84{N>V
_KQZ(>h@~AMr?UpCxYE?wCm0GF7AL##W2Ah`W?6#!R^$VEktA!lj_axcFn9KE|=Kqp#7rVdDX7uw{~H9;G8NZwXc2gM2--{-TP@6E<P1MPoMp526hDD%V&oR
jPPUl#kb%=EVx*nGdmsj(}GNT9ID=p#}<2XE~3g`ql_u4n9f&oRIL6@$k9aRO{L9>>Ku%WVfAkV3<9MyM_S&z9SI)+)>J6<2LLm^ku@9$*DeZ3b3h@ZZ;wWY
cK<bV77Q73Z2W}=WzMKK#X#Zcw_!mz29GXc6b6LMwE}_xW%QK!bTsUfO*5tnW&{><vs~QGjDOakLcDF+e*Z*D@(J=mj)v@IQ$@+qbPn5h$HP8jxL}G=Ovc%-
DdXH_GS0_jJcJv{F@&5yg2kER%}2gG$?e2R7}}I%36W-!A~pU>0|@87EoCavJ$sGlewAMTOXC9R`ZLEKOU2%UqQ?LvUzyn$0L6<3agUBXhiA2%DMq0+WG}Y{
4EksG#1}E&6HJu|#?R};3?qMS!%#K95YzmRGoY&{6}sQV(@dR-GZ67$Ey6aV?JztQ3Y=1}Lm5|`xMw40a4fW6+I*OtSyQNReq@&Z30d9I+!G#287Z-V$q8_-
q$P$)xk8(%4DT>JG0Z8q79sDPIuqac6ACfPp|Ebs6HC0vDwuqrKZ8}3Rm(q_x%1-_q41k3uE$Y0WpO<8yy4_n=s#k}9cCgXl~SgpGrj{Q1x~CS4QC$rkDSQ|
x(>OK?MYi>zl{^rWJ11FQAs}e3UbIW!q|ApD2FlkAjWeM_ZUlYagi#vuSIM>bnZ;dx!=TFjX&04DWdobH$<`Y-2o38d6WIVxTMrKU~%C1xCwb1DQ7iN{M07r
rX(`fp|a};Z<I0Ng7{@L;D$mQMAQY36|ZStr53lQpff%My++m9^)}swn-S`-z3uP8>MP0x9bT1sa^pu(3hx^{Ens1)fOzfd&8hNrUpo___!5Wp2xR<=2Df6X
3r0VI;u%Ks+1Q@F7QEh4d3`03=)@tV{&C>@nPkM^CMvcHonQYfX5%#RK_qAd*l@BkC5#>$Pz)GLoL@_x|0ih95w0#wg3$|K=AsK<HoWjDo|U_XXT88Q7eD6L
<;M5{z;0-xZ+uxbegvgm#cC<=x%0_D#$Yxe4`(-8+P*CAv*_U%wg)`O60IES--4C-gavO4x1NtD+|!HZvH)*$sPUIr4Yyo-a9!^2Lg8rUj;-(ri!^?LD!7H>
bFEM>dEX^477tSlI+i#55!X%LED)fJ<Al}ZlUDOf%u$>}A)gN*H*?QqZ5HtpqH_kOduB3{Yd9rc7>U#xv8has81o6l7t<fZG9w5sf$R`DbBUl02{eAJK{41~
Dp?B+^p2`O*^&5(ro9Cvl1Ey!obeHqcSdvX<l14&_yAp!&k)kRFl`!ZaJx11{OxeI*v9x%4elgRV!iJsS%?+X;jCyx{R{=q)1Kwqha-n)>sS;QiLplns1jx5
8UKS7ceprt(8M0g)(rbizQ)!Tmca)p;pIbER8<gb9dSLFk_7W>ZcN#jSE|+Y!|ox4$>?}dGjT+X%6^mConm}KLZN)t%P5*l0?PL!??MWZ1q!^zbtgQ^8gp0>
WNBwdn14Q%M`ypuy(g}3P3EJKv_>4aaj3r!6|6)CmOB}pTlkBNncuaR3En}l$)Lvfp{%MUb#sihVhvFt@zMGamZKs<2fer5X|)>Ly=JFv?RDz$Hb@n2CkXbt
4YS7^A#q%7pZX+~%;taQc_X09n+y8)M7Qxy^0vp!yt<Zh4dh1t9E!m;QokQ3Q!mNY2Nz()N*#Vl<W--ZAdcM2st+$h^TpoRKGKM_pdO2|7BA_dtR;)MHk6bi
OOI@xtktUTT!<Izy@aJmHKad^l{|?utorUH6ns@Y@wXwnOEq}xG;)nQ3Ao_rQ^-*OkLq8^jZyupDG4|IO~|u2sz->_U|hYMf)QJP0V}cisT+~aQsZv*y-R8M
+Hb!>_w$e7q0)7;2jk)7%{z4e=dS}gyOfCfT_mE<*yTgQgmBkmw*WnQLypw{|DA&c(Pqa)C_=3WTyltk0+4(rI^>xvd)!4v%{tr<0KRnRvxz-Y+JOSn98lt!
%_pM3pr2UmRCs?~xpwCndPTzJl^ZLWsq6X2Slw9jsqBqQ(7_awSe{aghnXaigj<LZvfxDe52A^?z~<af&t+m}Bz=Dji{fBw#pLbecQ{H+l$82YSQrh*L%f+o
vTM*Hj8qsWqY95FKZ`e;N=!B-4(qZ8(+=F6IA_!yj8K-7Lf8prnK$^99c7)ziF#y76oP8ifdx+y>$j;poZu;z*(Q++pdparAR)2ws|+khv8k!E3WdSYqs?Ta
F&M{-$y``W-iPAA84b~fg9<hTP^l?|WBa}{o+9hq%9c5}CZJRx9OImcv@qO(jnTZ&wy7OsIkTBN6V*zQAPoXwBGTQ_fYhLVUn*SbJrzEy7JOwg{yhs2+H0ze
el6NXy_II_K@T;oMY3uw!r^0Qa4zZ`F(L(^R}I+>iAyOMlOU<RIC76I_wY;f1y6`+S%5nns=o(IlJM}{XHH3EWdYnGm`cQrwh$rWc9|~N;+qSWzKu<7G-V5I
hOYuwu2N<*&}@S*cyw7hn+?%oCej@V_KJh3SMJa3iD!$zQszfeVTKQtcyLKobBeSx*OPWODQ)BD8Z1TP5?v2Cx#&T%0U7$y%yGm@e8VC^xYFn|uyZ_i$p85^
!C3zU3Nvb|O@e;yCEpzbQe%df^f36PiUL!|*#4p5hJF%N&`r*n>^I$=Uk@jI@3>pg1}_k4G7{q-asXlYyRbRJPK()h(s#t>!8q1T$X?V6$)&b&@^AjJdf|;e
R(}VIv<{!Tc;(ar5wnT!3n3Pm5Le?xcql{tnG8ckMtUzj*+ha778m`I>p9o;zapcS&L^ibMU{BBLl7`+VGhGw(YI#<d4((UTcv>V8(h$AT2h)#x9RZ&^@A~~
F$3Tu`AlLZcqU=|Gy|3JbUVY5@66PuyOwCWU)t<bpH*ZpeO8f6JgdNn7U<ZbMwKwDOCy?8^bXSNTRb!J73LEk&wsU<Ey*PgXo9f{I=ieyi`5$3j6lCex%w59
_bL3!evfP<Xi6jDf}1vlB3W_=ADk`@MUvFmfhDnJ(7P@K=|a0wGK&t+6b9b@OxA|GjCX{QBt@CSepB=nK7VXaMU$e)A-nd}cmm6E-LRj^%U*7Gd|))7(sg_m
^nxz`Gg##Bdt{#~S$=Mx@Q+r4&iGhFW)8nzWH#z>L)lxf8J51<wMt*(KQ!KuQ)*Oskl%oXBj$EOBlpt-4|h#d(9-7w=2g7Wc15@nq|x?nHrC!nT`?r@zKSpN
1POYtXG8zQI&=p^hgY0<V<FHMgBX9v`-+hh3UPfeR`_d|mh+Jd!4p`SI6w3)g*EOPO9bAR>>2;0!5x#{9=$aQQ>+|GbEcoX*+1($!jSoZ>Kc-QJNM(AUjY`K
-<W{&F##KMSW6y22=H0_mBXEAUlpgtpE+DtaDS#jNm<~++9CelE0cWhwJE-e+avKHWG#hDhBqal`r$JdeM|QTaJSAA-T$LXFSt$^2T)DhJd9F(7xRlOHQ9h9
B+{fca*llQ$)zM<Ed&|MP_9$5lWFAxSQ6u_I{NE>l!0P!8=_umtJZF$J~g`ww-nrVr`@KODtl{o6IK*dv)*b{GW1?d0q)j%&l@I@XX*Kwf~oEAw>~FCE`~50
J(D5w^omYF?AH#u$kIX#{Jhqp=WUBI@J@rhxhtSjbOqe)b@ulWUR-~T5|D*2lR$H?*|T0W+x6sIJ_T3X>m0Ou;`AZ7+x&t~Pn(56v(assFB_HY`Tz>DKqQHF
YcCsVTit-A5Y=taHmjJe0#LotYV>HI2vqd7v+IAa!AdMzqa8iq@BAz_Ax*`2_#{aO*Tn4~z}+N{RMcco3g3ZyNp$#pFq=-$dD$>~wHLTSZv7V;eKQE1nRa9*
fV=D*bZe~`v-dDEN6_s~&)Pwqi1(FI<aVpmWsD|PC3Z+{XeG!d>LiM8wqMp-&3Yxb`LB5>*QnDezZUSmy10<V`|6QGFVR<z6@2?pQtH5HUp-kiM*He11tf1q
vl=bhj8-efXfrxm(0v9Ayn@p2Mq{l~tyQaODCKL2EN^08Lt+(I>}yD(CK7#dwF{T%izg#_vM-(%aDN{v@!Y7tmq;!ttAF!yBC&iQ^klTxA4guTU6hKdPp%>p
o1mgutdA;MO$Sj$M-s!^|1$8)g~-!g)(8~$%;blG^<U+o#9D*m(s>`&8m8GX(fexMPCMrD=(-WCa82gH=<|=@ek$5*{O&=c+e6=vQ&7Zc?(Mf4dyRIFMX85S
jZp9yj)U#z>=86Z$Os-I+zV^xpw+@8g`p#Y!w_e(1i6rc!sJ7!#RN~CgWh&$FMM8INC<@`F_8m{=~$5pAss6+Vo5jPVT>*Ov1hS}%wlt;oM64)sMTA|cB8VC
(1&1|ZBkiI$SMr>D~X+jjx44wcCw287~YN0?034oUCgAoPwge9lG+y588;F~Wa&k`XxAz0MX;}GJyfM>^*SA^+v>ck+)R)J`<RVaES;>reK+}84l4YHY|W;9
=^5hAjF8J-uO9{9r{t4AE&a(~=E5g`+3P&{`$r9m%sHErBUdSDwRneo;Epk-$ld}UVG1dXaiM|j+hV)-Hp2651PgEM3980~a(^(X`Y9|$P~n3bE&Pj5{?s1L
gQpv8@cqnpHREqIfUWRJ(>_#=hR$eUoetfRtv*9}tTGkO*w`WRmy+6CIf{(E>T_6*lJLi>2oVhO0X@GNI9`7?oGPs?6(mjKe*v*PAl(
"""

_messages: Any = _Messages(_DESCRIPTORS)
