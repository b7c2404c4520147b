"""A process that has confined itself sees what it named, with all that it starts, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from aegis_fl_coordinator.serverapp import landlock

PROBE = """
import json, subprocess, sys, threading
from pathlib import Path
from aegis_fl_coordinator.serverapp.landlock import confine

own, other = Path(sys.argv[1]), Path(sys.argv[2])
confine(
    read=[Path(p) for p in ("/usr", "/lib", "/lib64", "/bin", "/etc", *filter(None, sys.path), sys.prefix)],
    write=[own],
)

def tried(attempt):
    try:
        attempt()
        return True
    except OSError:
        return False

def cat(path):
    return subprocess.run(["/bin/cat", str(path)], capture_output=True).stdout

found = {
    "write own": tried(lambda: (own / "new").write_text("x")),
    "read own": tried(lambda: (own / "new").read_text()),
    "read other": tried(lambda: (other / "secret").read_text()),
    "write other": tried(lambda: (other / "new").write_text("x")),
    "list other": tried(lambda: list(other.iterdir())),
    "parent's environment": tried(lambda: Path(f"/proc/{sys.argv[3]}/environ").read_bytes()),
    "child reads other": cat(other / "secret") != b"",
    "thread reads other": [],
}
thread = threading.Thread(
    target=lambda: found["thread reads other"].append(tried(lambda: (other / "secret").read_text()))
)
thread.start()
thread.join()
print(json.dumps(found))
"""


def test_a_confined_process_sees_what_it_named(tmp_path: Path) -> None:
    try:
        landlock.version()
    except landlock.NoLandlock as error:
        pytest.skip(str(error))
    own, other = tmp_path / "own", tmp_path / "other"
    for folder in (own, other):
        folder.mkdir()
    (other / "secret").write_text("token")
    watched = subprocess.Popen(["/bin/sleep", "60"])

    try:
        probe = subprocess.run(
            [sys.executable, "-c", PROBE, str(own), str(other), str(watched.pid)],
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        watched.kill()
        watched.wait()

    assert json.loads(probe.stdout) == {
        "write own": True,
        "read own": True,
        "read other": False,
        "write other": False,
        "list other": False,
        "parent's environment": False,
        "child reads other": False,
        "thread reads other": [False],
    }


def test_a_kernel_without_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(landlock, "_CREATE", 9999)

    with pytest.raises(landlock.NoLandlock, match="this kernel has no Landlock"):
        landlock.confine(read=[], write=[tmp_path])
