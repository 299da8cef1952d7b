"""The bridge to SAELens: import it without its log lines, and load formats that only it can load.

Importing sae_lens takes 8 seconds, so it is done only to train, and for release names and formats that this
package does not read itself.
"""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def silence_sae_lens() -> Iterator[None]:
    """Import sae_lens inside the block without its warnings and log lines; errors are still raised."""
    os.environ.setdefault("WANDB_MODE", "disabled")
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
