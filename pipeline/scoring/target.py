"""Where the output goes: a folder of parts, or one file joined from them."""

import csv
import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.csv_table import JSON_LINES
from pipeline.datasets import PARQUET_SUFFIXES, check_output, write_json_lines
from pipeline.files import flush_to_disk, is_address, local_path, put, temporary_for
from pipeline.scoring.run_folder import RunFolder

# integers and booleans with missing values keep their type in every part
_NULLABLE = {
    pa.type_for_alias(kind.lower()): pd.api.types.pandas_dtype(kind)
    for kind in ("Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64")
} | {pa.bool_(): pd.BooleanDtype()}


class Target:
    """A folder of parts, or a single file with its parts in ``<out>.parts`` beside it."""

    def __init__(
        self,
        out: str | os.PathLike,
        sources: Sequence[str],  # the files that are read
        folders: Sequence[str | os.PathLike] = (),  # named as sources: output must not be in them
    ) -> None:
        why = (
            "parts are renamed when they are whole, which object stores cannot. "
            "Write to a folder, and copy it."
        )
        path = local_path(out, "folder", why)
        for folder in folders:
            if path.resolve().is_relative_to(Path(folder).resolve()):
                raise ValueError(
                    f"{path} is in {folder}, which is read: the next run would read it too. "
                    "Name another place."
                )
        self.file: Path | None = None
        if path.suffix in (".csv", *PARQUET_SUFFIXES, *JSON_LINES):
            check_output(path)
            for source in sources:
                check_output(path, source)
            self.file = path
            path = path.with_name(f"{path.name}.parts")
        elif path.suffix and not path.is_dir():
            raise ValueError(
                f"{path} has the ending {path.suffix!r}; allowed are .csv, .parquet, .pq and "
                ".jsonl, or none for a folder."
            )
        else:
            _check_folder(path, sources)
        self.folder = RunFolder(path)
        self.folder.check_ours()

    def join_parts(self, n_parts: int, schema: pa.Schema) -> None:
        """Join the parts to the single file atomically, one part in memory."""
        assert self.file is not None
        for left in self.file.parent.glob(f".{glob.escape(self.file.name)}.*.tmp"):
            left.unlink(missing_ok=True)  # of a run that was killed here
        with temporary_for(self.file) as temporary:
            if self.file.suffix in PARQUET_SUFFIXES:
                with pq.ParquetWriter(temporary, schema) as writer:
                    for index in range(n_parts):
                        writer.write_table(self._part(index, schema))
            else:
                with temporary.open("w", encoding="utf-8", newline="") as file:
                    if self.file.suffix == ".csv":
                        self._write_csv(file, n_parts, schema)
                    else:
                        for index in range(n_parts):
                            write_json_lines(file, self._part(index, schema))
            put(temporary, self.file)
        flush_to_disk(self.file.parent)
        self.folder.remove()

    def remove_if_empty(self) -> None:
        """Remove the folder beside a single file if it holds no part."""
        if self.file is not None and self.folder.path.is_dir() and not self.folder.has_parts():
            self.folder.remove()

    def _part(self, index: int, schema: pa.Schema) -> Any:
        # ParquetFile, not read_table: that takes a folder name like "a=1" for a column
        with pq.ParquetFile(self.folder.part(index), page_checksum_verification=True) as file:
            return file.read(columns=schema.names).cast(schema)

    def _write_csv(self, file: TextIO, n_parts: int, schema: pa.Schema) -> None:
        for index in range(n_parts):
            part = self._part(index, schema)
            # quote all strings: the writer would leave a lone \r and a line of blanks bare
            part.to_pandas(types_mapper=_NULLABLE.get, ignore_metadata=True).to_csv(
                file,
                index=False,
                header=index == 0,
                lineterminator="\n",
                quoting=csv.QUOTE_NONNUMERIC,
            )


def _check_folder(path: Path, sources: Sequence[str]) -> None:
    """Refuse a folder that cannot be written or that holds the input."""
    if path.exists() and not path.is_dir():
        raise FileExistsError(
            f"{path} is a file; name a folder, or a file with the ending .csv, .parquet, .pq or "
            ".jsonl."
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path} cannot be written: {path.parent} does not exist.")
    around = path if path.is_dir() else path.parent
    if not os.access(around, os.W_OK):
        raise PermissionError(
            f"{path} cannot be written: {around} may only be read. Name another folder, or "
            "change its mode."
        )
    for source in sources:
        if not is_address(source) and Path(source).resolve().is_relative_to(path.resolve()):
            raise ValueError(f"{path} holds the input {source}; name another folder.")
