"""Write a descriptor set without comments: what `buf breaking` compares against, small enough to commit."""

from __future__ import annotations

import sys
from pathlib import Path

from google.protobuf import descriptor_pb2


def main() -> None:
    source, target = map(Path, sys.argv[1:])
    found = descriptor_pb2.FileDescriptorSet.FromString(source.read_bytes())
    for file in found.file:
        file.ClearField("source_code_info")
    target.write_bytes(found.SerializeToString(deterministic=True))


if __name__ == "__main__":
    main()
