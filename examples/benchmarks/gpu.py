"""Measure a model on a CUDA machine: exactness, speed and memory, as one JSON file.

Each part is measured alone; if one fails, the file says so and the others continue:
- vectors: relative difference of the GPU's vectors from those of plain rows in float32 on the CPU;
- capture: sparserm against transformers on the same rows and in the same type, in turn;
- encode: sparse latents against the bare product of the SAE, in turn;
- halving: a batch that does not fit into free memory is halved and gives the vectors of small batches;
- balanced: the blocks on two GPUs against one, where there are two.

    python examples/benchmarks/gpu.py [--model smollm2-135m] [--layer 14] [--output gpu.json]

With `--device cpu` the parts that need no GPU run on the CPU, which tests the script, not the machine.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from capture import padded_batches, read_trees

from sparserm_cli.models.checkpoints.resolve import resolve_model
from sparserm_cli.models.lm.language_model import LanguageModel
from sparserm_cli.models.lm.residuals import iter_residuals, pool
from sparserm_cli.models.sae.load import load_sae
from sparserm_cli.models.sae.sparse_encoder import SparseEncoder

ROOT = Path(__file__).parents[1]
Vectors = dict[tuple[int, int], torch.Tensor]


def main() -> None:
    """Measure all parts, print the JSON, and write it if a path is given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--layer", type=int, default=14)
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "geography-train.jsonl")
    parser.add_argument("--pairs", type=int, default=64, help="rows of the file, spread evenly over it")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each way, taken in turn")
    parser.add_argument("--sae", type=Path, default=ROOT / "sae" / "smollm2-135m")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--output", type=Path, help="write the figures there")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("this machine has no CUDA device; --device cpu tests the script alone")
    on_gpu = options.device == "cuda"
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "torch": torch.__version__,
        "model": options.model,
        "layer": options.layer,
    }
    trees = read_trees(options.data, options.pairs, options.model)
    parts = {"vectors": vectors_part, "capture": capture_part, "encode": encode_part}
    if on_gpu:
        parts |= {"halving": halving_part}
    if on_gpu and torch.cuda.device_count() > 1:
        parts |= {"balanced": balanced_part}
    for name, part in parts.items():
        begun = time.perf_counter()
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        try:
            report[name] = part(options, trees)
        except Exception as error:  # noqa: BLE001  what fails is a figure like others
            report[name] = {"failed": f"{type(error).__name__}: {error}"}
        report[name]["seconds_in_all"] = round(time.perf_counter() - begun, 2)
        if on_gpu:
            report[name]["peak_bytes"] = torch.cuda.max_memory_allocated()
            torch.cuda.empty_cache()
    text = json.dumps(report, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n", encoding="utf-8")


def loaded(options: argparse.Namespace, dtype: Any, device: str) -> LanguageModel:
    """Load the model up to the layer."""
    identity = resolve_model(options.model, offline=True)
    return LanguageModel.load(identity, layers=[options.layer], dtype=dtype, device=device)


def vectors(lm: LanguageModel, trees: Sequence[Any], **how: Any) -> Vectors:
    """Return the mean vector of each response."""
    return {(t, r): pool(x[lm.layers[0]])[1] for t, r, x in iter_residuals(lm, trees, **how)}


def errors(actual: Vectors, exact: Vectors) -> dict[str, float]:
    """Return the relative error of vectors: the median, the 95 % point and the largest."""
    each = [float((actual[key] - vector).norm() / vector.norm()) for key, vector in exact.items()]
    return dict(zip(("median", "95 %", "worst"), np.quantile(each, [0.5, 0.95, 1]).tolist(), strict=True))


def vectors_part(options: argparse.Namespace, trees: Sequence[Any]) -> dict[str, Any]:
    """Compare vectors of 8 rows in both types, by a trie and by plain rows, with float32 rows on the CPU."""
    few = trees[:8]
    plain = loaded(options, "float32", "cpu")
    plain.supports_tree = False
    exact = vectors(plain, few, deterministic=True)
    result: dict[str, Any] = {}
    for dtype in ("float32", "bfloat16"):
        lm = loaded(options, dtype, options.device)
        result[f"{dtype} trie, as decided"] = lm.tree_reason
        result[f"{dtype} trie"] = errors(vectors(lm, few), exact)
        lm.supports_tree = False
        result[f"{dtype} rows"] = errors(vectors(lm, few, deterministic=True), exact)
    return result


def capture_part(options: argparse.Namespace, trees: Sequence[Any]) -> dict[str, Any]:
    """Time sparserm and transformers in turn on all rows."""
    from transformers import AutoModelForCausalLM

    lm = loaded(options, "auto", options.device)
    dtype = getattr(torch, lm.dtype)
    whole = AutoModelForCausalLM.from_pretrained(lm.identity.folder, dtype=dtype).eval().to(options.device)
    batches = [tuple(part.to(options.device) for part in batch) for batch in padded_batches(trees)]
    facts: dict[str, Any] = {}

    def ours() -> None:
        vectors(lm, trees, facts=facts)

    def theirs() -> None:
        with torch.inference_mode():
            for ids, mask in batches:
                states = whole(ids, attention_mask=mask, output_hidden_states=True).hidden_states
                states[options.layer + 1].cpu()

    ways = {"sparserm": ours, "transformers": theirs}
    figures = timed(ways, "sparserm", options)
    return {"dtype": lm.dtype, "path": facts["path"], "batch_sizes": facts["batch_sizes"], **figures}


def encode_part(options: argparse.Namespace, _trees: Sequence[Any]) -> dict[str, Any]:
    """Time the sparse encoder and the product alone in turn, on rows that are as sparse as real ones."""
    from encode import made_up_rows

    rows = made_up_rows(load_sae(str(options.sae)), 8192).to(options.device)
    sae = load_sae(str(options.sae), device=options.device)
    encoder, wide = SparseEncoder(sae), rows.float()
    ways = {"product float32": lambda: wide @ sae.W_enc, "sparserm": lambda: encoder.encode(rows)}
    return timed(ways, "product float32", options)


def halving_part(options: argparse.Namespace, trees: Sequence[Any]) -> dict[str, Any]:
    """Leave too little memory for a large batch, and compare its vectors with those of small batches."""
    lm = loaded(options, "auto", options.device)
    expected = vectors(lm, trees, batch_tokens=256)
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    need = 64 * (lm.d_in + 4 * lm.d_in) * 1024  # about the memory of a batch of a thousand tokens
    filler = torch.empty(max(0, free - need), dtype=torch.uint8, device=options.device)
    facts: dict[str, Any] = {}
    halved = vectors(lm, trees, batch_tokens=1 << 20, facts=facts)
    facts_kept = {name: facts[name] for name in ("halvings", "batch_tokens", "rejected")}
    return facts_kept | {"bytes_filled": filler.numel(), "against small batches": errors(halved, expected)}


def balanced_part(options: argparse.Namespace, trees: Sequence[Any]) -> dict[str, Any]:
    """Compare vectors of a model whose blocks lie on several GPUs with those of one."""
    alone, shared = (loaded(options, "auto", device) for device in (options.device, "balanced"))
    alone.supports_tree = False
    return {"tree": shared.tree_reason, **errors(vectors(shared, trees[:8]), vectors(alone, trees[:8]))}


def timed(ways: dict[str, Callable[[], Any]], base: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run all ways in turn after a warm-up round; return seconds, and the ratios to `base` per round."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(options.rounds + 1):
        for name, way in ways.items():
            if options.device == "cuda":
                torch.cuda.synchronize()
            begun = time.perf_counter()
            way()
            if options.device == "cuda":
                torch.cuda.synchronize()
            if turn:
                seconds[name].append(time.perf_counter() - begun)
    ratios = {
        name: [taken / other for taken, other in zip(each, seconds[base], strict=True)]
        for name, each in seconds.items()
    }
    return {
        name: {
            "seconds": statistics.median(seconds[name]),
            f"times {base}": statistics.median(each),
            "range": [min(each), max(each)],
        }
        for name, each in ratios.items()
    }


if __name__ == "__main__":
    main()
