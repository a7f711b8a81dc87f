"""A bar that shows how far something is."""

from __future__ import annotations

import warnings
from typing import Any


class Progress:
    """A progress bar, of which nothing is left; silent unless `shown`, and where there is no terminal."""

    def __init__(self, shown: bool) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tqdm, about notebook widgets that are not installed
            from tqdm.auto import tqdm

        form = "{desc}{percentage:3.0f}% |{bar}| {elapsed}"
        self._bar: Any = tqdm(total=1.0, leave=False, disable=None if shown else True, bar_format=form)

    def __enter__(self) -> Progress:
        return self

    def show(self, what: str, share: float) -> None:
        self._bar.set_description(what, refresh=False)
        self._bar.update(share - self._bar.n)

    def __exit__(self, *_: object) -> None:
        self._bar.close()
