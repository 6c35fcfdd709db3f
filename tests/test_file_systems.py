"""network_file_system: the mount that a folder is on is found, and network kinds are known."""

from pathlib import Path

import pytest

from pipeline import vector_store
from pipeline.vector_store import network_file_system

MOUNTS = """\
/dev/sda1 / ext4 rw,relatime 0 0
server:/home /home nfs4 rw 0 0
/dev/sdb1 /home/local xfs rw 0 0
//server/share /mnt/my\\040share cifs rw 0 0
host:/data /data fuse.sshfs rw 0 0
tmpfs /over tmpfs rw 0 0
server:/over /over nfs rw 0 0
"""


@pytest.fixture(autouse=True)
def mounts(tmp_path, monkeypatch):
    (tmp_path / "mounts").write_text(MOUNTS)
    monkeypatch.setattr(vector_store, "MOUNTS", tmp_path / "mounts")


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/", None),
        ("/var/cache", None),
        ("/home", "nfs4"),
        ("/home/me/not/there/yet", "nfs4"),
        ("/homes", None),
        ("/home/local/cache", None),
        ("/mnt/my share/cache", "cifs"),
        ("/data/x", "fuse.sshfs"),
        ("/over", "nfs"),
    ],
)
def test_the_innermost_and_latest_mount_decides(folder, kind):
    assert network_file_system(Path(folder)) == kind


def test_where_the_system_does_not_tell_nothing_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(vector_store, "MOUNTS", tmp_path / "nothing")
    assert network_file_system(Path("/home")) is None


def test_an_empty_list_is_no_fault(tmp_path):
    (tmp_path / "mounts").write_text("")
    assert network_file_system(Path("/home")) is None
