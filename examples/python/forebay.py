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
c-q|>O>ZMvaXYpXyX+*Mp0C97xjj3>Y}n20WZ2Jv9h}&iG2__Ywlk|)K&_75$#}<hXS>_U1~?!jq!mJl16nx24Ixf&LY!C*oRE<C1%SjA@fWD~<$kZb^D(R0
3%7n%^<LGhSFgVM!6z9wyX|_;mVIz*@AfU<-gB0BJvVT5;Na!G+r}?6NVgHCUk2#9gMrfx`tE2!yQ<yHnG!@VLh7k=urPHsg$VMgpMms;KGLR;w(#HulaBOP
V7liFoWNN~BRs#NFNfTgD-?sYoQAAw_j(H%wkm$EW?{Pf#2)Q927WPm!-AQ0yFVCvj$VSS|Ixq?Y-GTMoQ&BPMt<Pg{ZW9D@+}C6z5p{r$M@|WhsvBY#c=5{
KxORNTm3;lI6xlfDw}3`wN|fn9$TA@cB{HpTd!3s#TWFma7x0pA2-$ztl`pUByg*0wrlMUVy2dUr$N5c?>=>cHWl(BEOcsX533!k-6?mfk>zn61>34NDz(Oa
<bXm&FcTj7c{r`$*2}dzB2uwQm0EkPY*rALj<MQoJZv=IZxl1D_hGK*>`CX=(muE$Mu@pZ&FEHWTzC2B-tFH`!8#{=bbD)>65fHIUWZE&Q?z`?+v|4|OtO@0
wWY-!*WDR7jQQ4h`<6XA;HWE6RM5wh4ea4ABQSoAhd`{{bUqp*LVpR;WMyhW`IVw<qLhqc^)~=|6RV*1G`Dh2G3N=^lqmH}03Ksx^?TgZavW0Y5fkp(gTa>F
eM;{Lny?rf2T)*g`nzbij(!fN18O|n*!f6*6*BA&FsaVVQc2ckGAiAGLeJ@qcL)704w+0@Q-K+O(V$3pui8QPiBQxH<byCD*{2dU#n41fJ8*~nE)^(i@=-*E
sn4mx^ie9zL{!*^Q_?oL9$$kQ&+*5DK<wmPY$p_L3bL5WrV>>40}UXY`@9b8RhZdk-i|6Pzj9ihz#X9}XpFyVY{TuqbL^owxC@Z;DS+rtI7$jY^`W5d_O|aZ
Cz&?+C_L@d(Wm_)6!z^=V6pxA^n9{rp1|0C{K&y)PI~ah-!#zW-SG2UL5X*rk<;T>c0m!1(l#lc#1=-WSD=9QFmm??PH%^wV1DItd}djq!uiT9{dHnF+hd>K
n*7RQd;yaY;9NnwIs+MJ&lv^Ak2Ji}l7JXCGh}%dW3wh3=(pjF%+?B?c<y-T2|u9IGOoi=IAvzo_x=88ho6^XSWSAQCW)k`pflctyaXqrZ1+8%*=yQl16_yo
!1jf0&~M`bo=QwtB%lg8*$QGvG2A#<#vq2q4>g!ov?f`jrdT7&(RF+5)?`fjeRv4hmtm&o1b8QiITCH0S!PjTSww~9^60=6M8*;n?>pRF#icpq0vrFqD<%<h
o19#0?OCt&)bZC^zYBT0+jVxyEgK3?P>SuTBO;v%jGO@UuR*~b2VHmQu-WNjXXiORff%oVUf#F+C)Cb=H8`!1|KIE9n{eiR5?-1N<_is7g?yMXvq+OOWf1Y4
B)|~9?o(&PlhizebqL7#u?A-&t8<0E4!M2QlsB}!r`!*om38#KK%yfGDfK%rO_VnAfQwPRIz7&cI8R0z`mbfkP1cQxuf@gx1n;-9=%HaztvIF*t2k0&#UYtU
`UH{jU4Z+c`95=jW4s6X`;t8qZ|ROlJ>j_NfOsid1rhlRyaqxqg}%PWJTsvcL*rMNh}K=ZcT%AiA-nClLo1YQhKwJgGR~q}T`Sa3CU6ND1OG1iL(A`fhiNHe
W(lB;<JkFS;^+4*C@=x}u3v_<=kANNNwGIV=k!c>-=ribG46Yio6Hg#*TMrnFDp}&l%HrCF-MDh8?QlOeK7W)ocPKaFQYxO8GJ{FMlE9j&ei*VuolkdY>c02
a6X3O>%A2hA(CH)vs7<z59WBjU<LNpz+u5MlHKqy*&zhxtS60p<6oG7hKmzh9N9xr7}IZJwRCNM8f=how_br66m2{liTJ5Uc7P~TkYKb;4@qohiCrmqvl~cZ
QaYAXjGTpOCK>tGufyD)<M~Kvv1J!#D0Y@Z8Bb#j)9fp8dk6~-cE#@KH@P$;H?T(I!9d(U95-;N--IHj9zDw)4Gt{)BF4t5i#Y;sBG{x*;~gl-noneoo{g`;
*z?g+ALdjo=vUyvTC-lSu61h7hPBbGL<@hc)MEs#cGc{#(m#qTw@7E8IJNTc46AJ0ten>0=IxyG@%n~Za%mx<@L_iR0CJPUNxv8+lgq-=r9-fMr6wzjSemED
h?PpEbonqeTkNLxnnpyM<X@_2(Hu?{EuOSBATQ-Ay23o3^OUX}is$P+f>|Y4>sKQYIhG}qUOa+=t%^H-15zlwelD^bvBvoroXc|;(!{~4=PyMZ_55W|k4(P`
8R{x^g-G_drNsmcXZ-=pM_i<CD9jRFYw6mNG;HnX-;(<DRk$qmne5)MKYI3_)a7X7iBz&g@{=~EbXtXwJa{~bHTP(-Az)m&OEB$I2v7WUwF;%QoWl4l4bu!n
VjcIU+;NE^ItoB?kEhR5$0oozN=>upO8_6bV{c>+r2ZC%)OsYgcw^>P(<b@E9HPjQZ>g}&Q1rZji=y@l<ab>^*ukX18t>A0ku^bpHg_>jWk~e!F<8XnY#k9?
7mP@MSB=eCI_F|?xZ*RF2z>`;_{J7;@#Og%48<o3O8pj05BkGC*1iz0%j*Oq4vdkJ#EGTd7Hhxcsc!NN)}}3&bvQk8_DMfXp)ACeus)e(o?=thrFE{yQjS^5
ERtCKBLxs@GcovmS?y|_O*)84aTi9)lpHA;eCYHJcogO%(%{20@6)W9S;}Ore+lMEqi^8uSnk$`cv3z!le9U<!A%C$ufeP!+&T!T$q=#v2d)yBOvF^0Rfw3@
9)Ru+dPMtj&6zv)(iGXOa#(qO9p-jzRJ4T!0b2!*U8O*0R7X9!0?D#5+qU+-eh^@m&5eb?-e(}vy9_*g<lEfr3v5d=%m|<uHT}e6PSEz$$+Vq{YuoraR)@;1
A^9mI=RGJoATDOxa~!@BW0)flc4*`;kh3$y`c$x)jIm12dZfognuTe8XQR5Ua5rsENDU7Qv+!yrssbI`(EgZ9Lp}-Bq%)W{={G5up7uwKcl25i1`iQwQWE12
X@Kx@9$F~V-C}GQbsf%pGL96Gsl%$;bYc;mdG<cb^fUEY-h>=khfSS1c50Ro(}_2^60=l^XQC-$s6+j>a6>stdLh{rD$WQ)Uw7d8&PnfIj#7)uC#KSa%Ci!e
6VTH_58LbeUEAx40;9mn8V+Uk#iVaAEA<V|k$<P8J-IN)41kTqU()%>UsB^IQ&0?dx85HFjwd%=HKpl#Y^z27tC~9UuWCB>R~0?l<cuxSoZx14q(>76y^i$y
D$Iu~j7I_P|9CT-6-#WA3C0=FX)3LzQe`-;KtD$^^$`?W#QlnfgQ#RRsggaU4kWHfB!rWn2Zy^NL29hSEN3}s{ADNMLOWJ7GY*Rs#+xu}(%#EavLlRWlK<bL
-^LA?6BEPU7t6YsVX=Wxg<{(Ys8^fxKySkg`+qMwA@S^I?FsuU!Rd@U-1Rc}$y~2dfm0H1E@qf{X(!6OjDKpZ<s+p?Vk2LH>1}$ixXLdkdlq*0OioLht@PTk
R?ad0h?A;4yHuoShoO)nSx=4s3MCNQQ6mZSem{6(ZMnTZa?P-WnSfR)#P}ZTTq!%`>UukpcWOswlS)2%1LjB0$AKk@#%zC<fLlU5<4+o#H=V#ccy1ad&Tt^?
m3*?stk-pTvxf~x;zG3Gjsr_>Y~{>34qoHEELFjoh=PqVEW|g!6?i-PTlu`&xx;DE|H>y-+@~7kr3DU64rtRA$wWk&G+hzKBhm{0g=r7?ANYj?DJk9*gz}HJ
wDP0P_%19~SS0%bkMxjw!PtaS67$eYbzKY~BA28Cq9Gm!t%0*0@IHE;!|Dh!=Acj^(M-gRmtmHVkLwvPeSZpalX8c&>gwf2HSulFBAk_QYt2T3boA)sp3^Wd
p=y<SwKzo{=t#i(<<5huNyt;=y^n+`w_5eb1d)y)%xcG^hzxnQBq3Vm%{GcO9RWWm*U5XLnFx5jN*_68@lbRL-0n16ErjQmo}vasW=l0t+o*M{hqXo}{&-5l
l{cE3jSk;^2yWLtAiF2bLZDe~SItM&Vrr=eS&;z}jke2=s!6O)!EA_XR|%Ul7_BCtO0{0?5Izc&w^dV1zt><s;;qq+F0qGI7M+lE#JKr5NfXyZ_LpEWjw44@
qi?vbz=b$Ee6N*CCTKpYnw|1PWRPC^rAAuT;bkTqsR<yL_04v<9uf8edS(UPXm+f1JQMz)O+~KNn{6s+Y*iu-IX1Ks6cf)xMb{dS%Jo{Mm|ppN1`1`;XcNt9
*4E_}SG29GWOA{#ZX}~?L0(Gq)V6LsFI3yQ2^k{mh0-KU?S;yzpxO&nGq!s$%`zx`QT4S_I#wzrp`>QKNN*y|_(;YTX~xHLBHosjn?SL)Y}}K_+p<Xx_uEj6
#zy^GEVv}B{?gGzeEBZuac{3*SDq0a7K%zYjw9nt@Sv%$R}Wea2kJp9f#LZ#ra#LlZzUbib3I;2#{1Gse@;WbN=SHBc@Y+>rr9*{_LbYsM&!oh)m5<kYSJ5w
cm66|OhlX2_cp8T4&MDJ1@RcQjaI$7QEhanm%0okg@XBT9IQQ{uTIfJDtPp853TjhdL4rlx()@0F3zL@aykKp!H1w`Vlp*1J8R92@I7lbrW6{)cnr)XV|gfq
WGs(}dEJ1^5wY-N!=fIU`sQLGCVHh>uGDLdYH>Dp9$aL~q&OGTRp{*JW1RUJS@gK*&WieVcu}EgHQSy07)g;&`4NVa@+#&Tr@nyazG*13^3?KnyTWRD!HSS0
p7I*olV2C&`Inab{A=pa=U=IlJpcNm2040hYNKseN;kD=d%EWi@xF_~o{iAGXNR~@&kk(P?%Hy=zvaoo%Nv}kIwEm-GO2VIW))QU7D5Z3*Jt+Z!FclHo(|rb
dP_5YqXDdjZ%A5D-0nMrp0(F^2e$kO;kqnTIAeL8kUtXC=KQuY_Dc_7P9<S41rfppWCQZ}qUZQsufHqxm1K}GiT?pQ^|M3
"""

_messages: Any = _Messages(_DESCRIPTORS)
