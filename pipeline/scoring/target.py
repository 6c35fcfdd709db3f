"""Where the output goes: a folder of parts, or one file that the parts are put together to. Used by table."""

import csv
import glob
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.datasets import PARQUET_SUFFIXES, check_output
from pipeline.files import is_address, local_path
from pipeline.scoring.run_folder import RunFolder, put_in_place

# integers and truth values with missing ones stay what they are, whichever part the missing ones are in
_NULLABLE = {
    pa.bool_(): pd.BooleanDtype(),
    **{getattr(pa, f"{kind}{bits}")(): getattr(pd, f"{kind.upper().replace('INT', 'Int')}{bits}Dtype")()
       for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
}  # fmt: skip


class Target:
    """A folder of parts, or a single file.

    Parameters
    ----------
    out : str or Path
        With the ending ``.csv``, ``.parquet`` or ``.pq`` a file; without an ending, or where there is such a folder, a folder.
    sources : sequence of str
        The files that are read.
    folders : sequence of str or Path
        Folders that were named as sources: output in them would be input of the next run.

    Attributes
    ----------
    folder : RunFolder
        Of the parts; for a single file ``<out>.parts`` beside it, which is gone when the file is there.
    file : Path or None

    Raises
    ------
    OSError, ValueError
        For what cannot be written, before any work is done.
    """

    def __init__(
        self,
        out: str | os.PathLike,
        sources: Sequence[str],
        folders: Sequence[str | os.PathLike] = (),
    ) -> None:
        why = "parts are renamed when they are whole, which object stores cannot. Write to a folder, and copy it."
        path = local_path(out, "folder", why)
        for folder in folders:
            if path.resolve().is_relative_to(Path(folder).resolve()):
                raise ValueError(
                    f"{path} is in {folder}, which is read: the next run would read it too. Name another place."
                )
        is_file = path.suffix in (".csv", *PARQUET_SUFFIXES)
        is_folder = not is_file and (path.is_dir() or not path.suffix)
        if is_folder:
            self.file = None
            self.folder = RunFolder(path)
            self._check_folder(path, sources)
        else:
            if not is_file:
                raise ValueError(
                    f"{path} has the ending {path.suffix!r}; allowed are .csv, .parquet and .pq, or none for a folder."
                )
            check_output(path)
            for source in sources:
                check_output(path, source)
            self.file = path
            self.folder = RunFolder(path.with_name(f"{path.name}.parts"))
        self.folder.check_ours()

    def _check_folder(self, path: Path, sources: Sequence[str]) -> None:
        if path.exists() and not path.is_dir():
            raise FileExistsError(
                f"{path} is a file; name a folder, or a file with the ending .csv, .parquet or .pq."
            )
        if not path.parent.is_dir():
            raise FileNotFoundError(f"{path} cannot be written: {path.parent} does not exist.")
        around = path if path.is_dir() else path.parent
        if not os.access(around, os.W_OK):
            raise PermissionError(
                f"{path} cannot be written: {around} may only be read. Name another folder, or change its mode."
            )
        for source in sources:
            if not is_address(source) and Path(source).resolve().is_relative_to(path.resolve()):
                raise ValueError(f"{path} holds the input {source}; name another folder.")

    def put_together(self, n_parts: int, schema: pa.Schema) -> None:
        """Make the single file of the parts, in their order: whole or not at all. A part at a time is in memory.

        Parameters
        ----------
        n_parts : int
        schema : pyarrow.Schema
            Of the file: columns of the parts, maybe not all of them.
        """
        assert self.file is not None
        for left in self.file.parent.glob(
            f".{glob.escape(self.file.name)}.*.tmp"
        ):  # by a run that was killed here
            left.unlink(missing_ok=True)
        handle, name = tempfile.mkstemp(
            dir=self.file.parent, prefix=f".{self.file.name}.", suffix=".tmp"
        )
        os.close(handle)
        try:
            if self.file.suffix in PARQUET_SUFFIXES:
                self._write_parquet(name, n_parts, schema)
            else:
                with open(name, "w", encoding="utf-8", newline="") as file:
                    self._write_csv(file, n_parts, schema)
            _flush(name)
            put_in_place(Path(name), self.file)
        finally:
            Path(name).unlink(missing_ok=True)
        self.folder.remove()

    def remove_if_empty(self) -> None:
        """Remove the folder beside a single file where nothing in it is finished: there is nothing to go on with."""
        if self.file is not None and self.folder.path.is_dir() and not self.folder.has_parts():
            self.folder.remove()

    def _part(self, index: int, schema: pa.Schema) -> Any:
        # ParquetFile, not read_table: that takes a folder name like "a=1" for a column
        with pq.ParquetFile(self.folder.part(index), page_checksum_verification=True) as file:
            return file.read(columns=schema.names).cast(schema)

    def _write_parquet(self, name: str, n_parts: int, schema: pa.Schema) -> None:
        with pq.ParquetWriter(name, schema) as writer:
            for index in range(n_parts):
                writer.write_table(self._part(index, schema))

    def _write_csv(self, file: TextIO, n_parts: int, schema: pa.Schema) -> None:
        for index in range(n_parts):
            table = self._part(index, schema).to_pandas(
                types_mapper=_NULLABLE.get, ignore_metadata=True
            )
            # all strings in quotes: the writer would leave a lone \r and a line of blanks bare
            table.to_csv(
                file,
                index=False,
                header=index == 0,
                lineterminator="\n",
                quoting=csv.QUOTE_NONNUMERIC,
            )


def _flush(name: str) -> None:
    handle = os.open(name, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
