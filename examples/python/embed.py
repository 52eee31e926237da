"""Writes the contract's descriptors into forebay.py, which is copied alone: `python3 embed.py` after a change in proto/.

`python3 embed.py --check` changes nothing and fails if forebay.py holds another contract. Needs grpcio-tools.
"""

from __future__ import annotations

import argparse
import base64
import re
import sys
import tempfile
import zlib
from pathlib import Path

import grpc_tools
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc

HERE = Path(__file__).resolve().parent
CLIENT = HERE / "forebay.py"
INCLUDES = [HERE.parents[1] / "proto", HERE, Path(grpc_tools.__file__).parent / "_proto"]
FILES = ["forebay/v1/save_service.proto", "forebay/v1/admin_service.proto", "forebay/v1/error_reason.proto", "google_rpc.proto"]
WIDTH = 120
EMBEDDED = re.compile(r'(?<=^_DESCRIPTORS = """\n).*?(?=^"""$)', re.DOTALL | re.MULTILINE)


def compiled() -> FileDescriptorSet:
    """The contract and what it imports; google/protobuf/* left out, as the protobuf package has it."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory, "set")
        includes = [f"--proto_path={path}" for path in INCLUDES]
        code = protoc.main(["protoc", *includes, "--include_imports", f"--descriptor_set_out={out}", *FILES])
        if code:
            sys.exit(code)
        everything = FileDescriptorSet.FromString(out.read_bytes())
    ours = [file for file in everything.file if not file.name.startswith("google/protobuf/")]
    return FileDescriptorSet(file=ours)


def encoded(descriptors: FileDescriptorSet) -> str:
    text = base64.b85encode(zlib.compress(descriptors.SerializeToString(deterministic=True), 9)).decode()
    return "".join(text[at : at + WIDTH] + "\n" for at in range(0, len(text), WIDTH))


def decoded(text: str) -> FileDescriptorSet:
    return FileDescriptorSet.FromString(zlib.decompress(base64.b85decode("".join(text.split()))))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--check", action="store_true", help="change nothing; fail if forebay.py holds another contract")
    check = arguments.parse_args().check
    client = CLIENT.read_text(encoding="utf-8")
    embedded = EMBEDDED.search(client)
    if embedded is None:
        sys.exit("forebay.py has no _DESCRIPTORS to replace")
    contract = compiled()
    if not check:
        CLIENT.write_text(client[: embedded.start()] + encoded(contract) + client[embedded.end() :], encoding="utf-8")
    elif decoded(embedded.group()) != contract:
        sys.exit("forebay.py holds another contract than proto/: run examples/python/embed.py")


if __name__ == "__main__":
    main()
