"""The Parquet files of a run's rows: written at once or in parts, and read by column."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from imsim.core.exceptions import UsageError
from imsim.results.schema import OPTIONAL, TABLES, VERSION, WORDS
from imsim.results.tables import Assembly, Tables


def _path(folder: Path, table: str) -> Path:
    return folder / f"{table}.parquet"


class RowFiles:
    """The rows of a run in the files of a folder. A column is read when it is needed, so little memory is used.

    `check` finds missing and broken files. Each method raises UsageError for a broken file.
    """

    def __init__(self, folder: Path, stray: int) -> None:
        self.folder = folder
        self.stray = stray
        self.utilisation = None

    def check(self) -> None:
        """Check that the files exist and have the columns and the texts of the schema."""
        for table, schema in TABLES.items():
            if table in OPTIONAL and not self.has(table):
                continue
            path = _path(self.folder, table)
            with _open(path) as file:
                if not file.schema_arrow.equals(schema):
                    raise UsageError(f"{path} is broken: its columns are not those of schema version {VERSION}")
            for column, known in WORDS.get(table, {}).items():
                for word in self.column(table, column).unique().to_pylist():
                    if word is not None and word not in known:
                        expected = ", ".join(known)
                        raise UsageError(f"{path} is broken: {column}: expected one of {expected}, got {word!r}")

    def has(self, table: str) -> bool:
        """Return whether the run has this table."""
        return _path(self.folder, table).exists()

    def count(self, table: str) -> int:
        """Return the number of rows of a table."""
        with _open(_path(self.folder, table)) as file:
            count: int = file.metadata.num_rows
            return count

    def column(self, table: str, name: str) -> pa.ChunkedArray:
        """Read a column of a table."""
        with _open(_path(self.folder, table)) as file:
            return file.read([name]).column(name)

    def table(self, table: str) -> pa.Table:
        """Read a table."""
        with _open(_path(self.folder, table)) as file:
            return file.read()

    def tables(self) -> Tables:
        """Read all tables."""
        optional = {table: self.table(table) for table in OPTIONAL if self.has(table)}
        return Tables(self.table("messages"), self.table("deliveries"), self.stray, **optional)

    def write(self, folder: Path) -> None:
        """Copy the files to another folder."""
        for table in TABLES:
            if self.has(table):
                shutil.copyfile(_path(self.folder, table), _path(folder, table))


class RowWriter:
    """A writer of the files of a run's rows, part by part. Its folder must exist."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[str, pq.ParquetWriter] = {}

    def write(self, table: str, rows: pa.Table) -> None:
        """Append rows to a table."""
        if table not in self._writers:
            path = _path(self._folder, table)
            self._writers[table] = pq.ParquetWriter(path, TABLES[table], compression="zstd")
        self._writers[table].write_table(rows)

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for writer in self._writers.values():
            writer.close()


def write_tables(tables: Tables, folder: Path) -> None:
    """Write the files of rows that are in memory."""
    with RowWriter(folder) as writer:
        for table in TABLES:
            if tables.has(table):
                writer.write(table, tables.table(table))


def write_parts(assembly: Assembly, folder: Path) -> RowFiles:
    """Write the files of rows that are assembled part by part. One part is in memory at a time."""
    with RowWriter(folder) as writer:
        for messages, deliveries in assembly.parts():
            writer.write("messages", messages)
            writer.write("deliveries", deliveries)
        if assembly.withdrawals is not None:
            writer.write("withdrawals", assembly.withdrawals)
    return RowFiles(folder, assembly.stray)


@contextmanager
def _open(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        # pq.read_table would search the folder's name for partitions.
        with pq.ParquetFile(path) as file:
            yield file
    except FileNotFoundError as error:
        raise UsageError(f"{path.parent} is incomplete: there is no {path.name}") from error
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{path} is broken: {' '.join(str(error).split())}") from error
