"""Files that are there whole or not at all, and the parts of an output with what they tell of themselves. Used by scoring."""

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

STAMP = b"bert_vectorizer.part"
_TEMPORARY = ".tmp"


@dataclass(frozen=True)
class Stamp:
    """What a part tells of itself, in its footer.

    Attributes
    ----------
    index : int
        Of its shard.
    plan : str
        Hash of the plan that it belongs to.
    artifact : str
        sha256 of the model that scored it.
    n_rows, n_bad : int
        Rows, and those of them without a label.
    """

    index: int
    plan: str
    artifact: str
    n_rows: int
    n_bad: int

    @classmethod
    def of(cls, path: Path) -> Self | None:
        """Read the stamp of a part; None where there is no whole Parquet file, or none of ours."""
        try:
            metadata = pq.read_metadata(path)
            stamp = cls(**json.loads(metadata.metadata[STAMP]))
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
            return None
        return stamp if stamp.n_rows == metadata.num_rows else None


def part_name(index: int) -> str:
    """Name a part so that the order of names is that of rows."""
    return f"part-{index:06d}.parquet"


def write_part(table: pa.Table, path: Path, stamp: Stamp) -> str:
    """Write a part under its name: whole, and on the disk, when this returns.

    The same rows give the same bytes.

    Returns
    -------
    str
        sha256 of the file.
    """
    sink = pa.BufferOutputStream()
    # checksums: a flipped bit is noticed by whoever reads the part, not taken for a probability
    with pq.ParquetWriter(sink, table.schema, write_page_checksum=True) as writer:
        writer.write_table(table, row_group_size=max(1, table.num_rows))
        writer.add_key_value_metadata({STAMP.decode(): json.dumps(asdict(stamp), sort_keys=True)})
    content = sink.getvalue()
    write_whole(path, content)
    return hashlib.sha256(content).hexdigest()


def write_whole(path: Path, content: bytes | memoryview | pa.Buffer) -> None:
    """Write a file under another name, flush it to the disk and rename it: nobody ever sees half of it.

    Raises
    ------
    OSError
        Such as for a full disk; nothing is left behind, and what had the name before still has it.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_TEMPORARY)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        put_in_place(Path(name), path)
    finally:
        Path(name).unlink(missing_ok=True)


def put_in_place(written: Path, path: Path) -> None:
    """Give a file that is on the disk its name, for good."""
    written.chmod(0o644)
    os.replace(written, path)
    if os.name != "nt":  # Windows opens no folders
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def remove_temporary(folder: Path) -> None:
    """Remove what writers that were killed have left in a folder."""
    for path in folder.glob(f".*{_TEMPORARY}"):
        path.unlink(missing_ok=True)
