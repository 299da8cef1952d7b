"""Measure how well an SAE fits text: explained variance, L0 and dead latents, without sink tokens.

    python examples/sae/measure.py examples/sae/smollm2-135m hh-rlhf.jsonl.gz --limit 400

Explained variance is 1 - sum |x - reconstruction|^2 / sum |x - mean|^2 over all tokens of the templated
conversations behind their common start. Model and layer are those that the SAE names.
"""

import argparse
import json
import sys
from pathlib import Path

from sparserm_cli.models.checkpoints.resolve import load_tokenizer, resolve_model
from sparserm_cli.models.lm.language_model import LanguageModel
from sparserm_cli.models.sae.load import load_sae
from sparserm_cli.models.sae.quality import SinkRule, measure
from sparserm_cli.stages.train_sae.text_source import TextReading, text_source

CONTEXT_SIZE = 1024


def main() -> None:
    """Measure every named file, and print one JSON object per line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sae", help="folder of the SAE")
    parser.add_argument("data", nargs="+", help="preferences, responses, rows with a text, or .txt files")
    parser.add_argument("--limit", type=int, help="most rows read of each")
    parser.add_argument("--model", help="the model, if it is not called here what the SAE calls it")
    options = parser.parse_args()
    sae = load_sae(options.sae)
    metadata = sae.metadata
    identity = resolve_model(options.model or metadata.model_name or "")
    lm = LanguageModel.load(identity, layers=[metadata.layer or 0])
    reading = TextReading(lm, load_tokenizer(identity), CONTEXT_SIZE)
    rule = SinkRule(**metadata.settings["metadata"]["sparserm"]["sink_rule"])
    for name in options.data:
        source = text_source(reading, [name], held_out_fraction=1.0, limit=options.limit)
        quality = measure(sae, source.blocks(held_out=True), rule)
        print(json.dumps({"data": Path(name).name, **quality._asdict()}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
