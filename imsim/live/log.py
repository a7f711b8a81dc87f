"""The formats of log lines, and the log of connections.

Peers cause the lines about connections, so this log limits how often each line repeats.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

REPEAT_AFTER = 10.0  # seconds


class RateLimit(logging.Filter):
    """A filter that passes each kind of line once in REPEAT_AFTER seconds. The next line counts the lines between.

    Lines are of one kind if they have the same format string (`record.msg`). A traceback is replaced by its last line,
    except at level DEBUG. `clock` returns monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._seen: dict[str, tuple[float, int]] = {}  # format string -> (time of the last line, lines dropped since)

    def filter(self, record: logging.LogRecord) -> bool:
        kind, now = str(record.msg), self._clock()
        last, dropped = self._seen.get(kind, (float("-inf"), 0))
        if now - last < REPEAT_AFTER:
            self._seen[kind] = (last, dropped + 1)
            return False
        self._seen[kind] = (now, 0)
        text = record.getMessage()
        if record.exc_info and LOGGER.getEffectiveLevel() > logging.DEBUG:
            text += f": {_described(record.exc_info[1])}"
            record.exc_info = record.exc_text = None
        if dropped:
            text += f" ({dropped} more in the last {now - last:.0f} s)"
        record.msg, record.args = text.replace("\n", " "), None
        return True


def _described(error: BaseException | None) -> str:
    """Return the type and the text of an error, and the line of code that raised it."""
    trace = error.__traceback__ if error is not None else None
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else ""
    return f"{type(error).__name__}: {error}{where}"


# The level hides the two INFO lines that the library logs for each connection.
LOGGER = logging.getLogger("imsim.live.websocket")
LOGGER.setLevel(logging.WARNING)
LOGGER.addFilter(RateLimit())


class TextFormatter(logging.Formatter):
    """Lines for people: `2026-11-30T20:15:00.123Z WARNING storage fails: ...`."""

    def format(self, record: logging.LogRecord) -> str:
        line = f"{_utc(record)} {record.levelname} {record.getMessage()}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """Lines for programs: a JSON object with `time` (ISO 8601, UTC), `level`, `event`, `message` and further fields.

    `event` names the kind of line. For a line that does not come from the server itself, it is the name of the logger.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _utc(record),
            "level": record.levelname.lower(),
            "event": getattr(record, "event", record.name),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


FORMATTERS = {"text": TextFormatter, "json": JsonFormatter}


def _utc(record: logging.LogRecord) -> str:
    time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    return time.removesuffix("+00:00") + "Z"
