"""Writes the contract's descriptors into the clients, each of which is copied alone: `python3 embed.py` after a change in proto/.

`python3 embed.py --check` changes nothing and fails if a client holds another contract. Needs grpcio-tools.
"""

from __future__ import annotations

import argparse
import base64
import re
import sys
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc_tools
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc

HERE = Path(__file__).resolve().parent
INCLUDES = [HERE.parents[1] / "proto", HERE, Path(grpc_tools.__file__).parent / "_proto"]
FILES = ["forebay/v1/save_service.proto", "forebay/v1/admin_service.proto", "forebay/v1/error_reason.proto", "google_rpc.proto"]
WIDTH = 120


@dataclass(frozen=True)
class Client:
    """A file that holds the contract, and how it does."""

    path: Path
    embedded: re.Pattern[str]
    """What to replace."""
    encode: Callable[[bytes], bytes]
    decode: Callable[[str], bytes]
    has_google: bool
    """Its protobuf library brings google/protobuf/* along."""

    def holds(self, everything: FileDescriptorSet) -> FileDescriptorSet:
        files = [file for file in everything.file if not (self.has_google and file.name.startswith("google/protobuf/"))]
        return FileDescriptorSet(file=files)

    def encoded(self, everything: FileDescriptorSet) -> str:
        text = self.encode(zlib.compress(self.holds(everything).SerializeToString(deterministic=True), 9)).decode()
        return "".join(text[at : at + WIDTH] + "\n" for at in range(0, len(text), WIDTH))

    def decoded(self, text: str) -> FileDescriptorSet:
        return FileDescriptorSet.FromString(zlib.decompress(self.decode("".join(text.split()))))


def between(first: str, last: str) -> re.Pattern[str]:
    """What stands between two lines."""
    return re.compile(f"(?<=^{re.escape(first)}\n).*?(?=^{re.escape(last)}$)", re.DOTALL | re.MULTILINE)


CLIENTS = [
    Client(HERE / "forebay.py", between('_DESCRIPTORS = """', '"""'), base64.b85encode, base64.b85decode, has_google=True),
    Client(HERE.parent / "node" / "forebay.js", between("const DESCRIPTORS = `", "`;"), base64.b64encode, base64.b64decode, has_google=False),
]


def compiled() -> FileDescriptorSet:
    """The contract and what it imports."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory, "set")
        includes = [f"--proto_path={path}" for path in INCLUDES]
        code = protoc.main(["protoc", *includes, "--include_imports", f"--descriptor_set_out={out}", *FILES])
        if code:
            sys.exit(code)
        return FileDescriptorSet.FromString(out.read_bytes())


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--check", action="store_true", help="change nothing; fail if a client holds another contract")
    check = arguments.parse_args().check
    contract = compiled()
    for client in CLIENTS:
        text = client.path.read_text(encoding="utf-8")
        embedded = client.embedded.search(text)
        if embedded is None:
            sys.exit(f"{client.path.name} has no descriptors to replace")
        if not check:
            client.path.write_text(text[: embedded.start()] + client.encoded(contract) + text[embedded.end() :], encoding="utf-8")
        elif client.decoded(embedded.group()) != client.holds(contract):
            sys.exit(f"{client.path.name} holds another contract than proto/: run examples/python/embed.py")


if __name__ == "__main__":
    main()
