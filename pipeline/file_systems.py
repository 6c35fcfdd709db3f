"""Which file system a folder is on, where the system tells. Used by vector_store."""

import re
from pathlib import Path

MOUNTS = Path("/proc/self/mounts")
# Shared between machines: SQLite's write-ahead log needs memory shared by all writers, which these cannot give.
_NETWORK = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|afs|ceph|glusterfs|lustre|beegfs|gpfs|9p|fuse\.(sshfs|s3fs|gcsfuse|glusterfs|ceph|rclone)"
)


def network_file_system(folder: Path) -> str | None:
    """Return the kind of the network file system that a folder is on.

    Parameters
    ----------
    folder : Path
        Need not be there.

    Returns
    -------
    str or None
        Such as ``"nfs4"``; None on a local disk, and where the system does not tell (it does on Linux).
    """
    try:
        mounts = [line.split()[1:3] for line in MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return None
    path = folder.expanduser().resolve()
    around = [(_unescaped(point), kind) for point, kind in mounts if path.is_relative_to(_unescaped(point))]
    # of two mounts on one point the later covers the earlier
    kind = max(enumerate(around), key=lambda one: (len(Path(one[1][0]).parts), one[0]), default=(0, ("/", "")))[1][1]
    return kind if _NETWORK.fullmatch(kind) else None


def _unescaped(point: str) -> str:
    """Undo the octal escapes of blanks and backslashes in a mount point."""
    return re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), point)
