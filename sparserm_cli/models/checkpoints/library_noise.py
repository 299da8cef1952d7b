"""Silence the output of other libraries."""

import contextlib
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def silence_transformers() -> Iterator[None]:
    """Silence transformers' progress bars, log lines and warnings, but not its errors, in the block."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
