"""Time the capture of residual vectors of preference pairs, against the usual ways of scripts.

Each way has a process of its own that loads its model once. Rounds go through the ways in turn, all on the
same rows, so that other load of the machine falls on all of them alike. `transformers` and
`TransformerLens` run one response per row and 16 rows per batch, in file order, padded. `matrix products`
runs only the products of the blocks' weights with as many tokens as `sparserm` computes: no way can be
faster.

    python examples/benchmarks/capture.py --data pairs.jsonl --pairs 64 --rounds 3 --output capture.json
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

BATCH_ROWS = 16
WAYS = (
    "sparserm",
    "transformers float32",
    "transformers",
    "TransformerLens",
    "matrix products",
)
"""`transformers`, `TransformerLens` and `matrix products` compute in the type that sparserm chooses."""


def read_trees(path: Path, pairs: int, model: str) -> list[Any]:
    """Read `pairs` rows, spread evenly over the file, as prompts with their responses in file order."""
    from sparserm_cli.data.chat_template import PromptTemplate
    from sparserm_cli.data.reader import Reader
    from sparserm_cli.models.checkpoints.resolve import load_tokenizer, resolve_model
    from sparserm_cli.models.lm.trie import Tree

    examples = list(Reader(path, purpose="pairs", on_bad_row="reject"))
    chosen = np.unique(np.linspace(0, len(examples) - 1, min(pairs, len(examples))).round().astype(int))
    template = PromptTemplate(load_tokenizer(resolve_model(model)))
    trees = []
    for tokenized in template.tokenize([examples[number] for number in chosen]):
        responses = tuple(
            response.response_ids for response in tokenized.responses if len(response.response_ids)
        )
        if responses:
            trees.append(Tree(tokenized.responses[0].prompt_ids, responses))
    return trees


def padded_batches(trees: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Lay out one response per row and 16 rows per batch, in file order, as (ids, mask)."""
    import torch

    rows = [
        torch.from_numpy(np.concatenate([tree.prompt_ids, response]).astype(np.int64))
        for tree in trees
        for response in tree.responses
    ]
    batches = []
    for start in range(0, len(rows), BATCH_ROWS):
        part = rows[start : start + BATCH_ROWS]
        ids = torch.nn.utils.rnn.pad_sequence(part, batch_first=True)
        lengths = torch.tensor([len(row) for row in part])
        batches.append((ids, (torch.arange(ids.shape[1]) < lengths[:, None]).long()))
    return batches


def prepare_sparserm(
    folder: Any, layer: int, dtype: str, trees: Sequence[Any]
) -> Callable[[], dict[str, Any]]:
    """Return a function that captures all response tokens and returns the number of computed tokens."""
    from sparserm_cli.models.lm.language_model import LanguageModel
    from sparserm_cli.models.lm.residuals import iter_residuals

    lm = LanguageModel.load(folder, layers=[layer], dtype=dtype)

    def run() -> dict[str, Any]:
        facts: dict[str, Any] = {}
        for _ in iter_residuals(lm, trees, facts=facts):
            pass
        return {"dtype": lm.dtype, "computed": sum(facts["batch_sizes"]), "batch_sizes": facts["batch_sizes"]}

    return run


def prepare_transformers(
    folder: Any, layer: int, dtype: str, trees: Sequence[Any]
) -> Callable[[], dict[str, Any]]:
    """Return a function that runs the whole model with `output_hidden_states`."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder.folder, dtype=getattr(torch, dtype)).eval()
    batches = padded_batches(trees)

    def run() -> dict[str, Any]:
        for ids, mask in batches:
            with torch.inference_mode():
                _ = model(ids, attention_mask=mask, output_hidden_states=True).hidden_states[layer + 1]
        return {"dtype": dtype, "computed": sum(ids.numel() for ids, _ in batches)}

    return run


def prepare_lens(folder: Any, layer: int, dtype: str, trees: Sequence[Any]) -> Callable[[], dict[str, Any]]:
    """Return a function that runs TransformerLens up to the layer."""
    import torch
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(
        str(folder.folder), dtype=getattr(torch, dtype), device="cpu"
    )
    batches = padded_batches(trees)
    hook = f"blocks.{layer}.hook_resid_post"

    def run() -> dict[str, Any]:
        for ids, mask in batches:
            with torch.inference_mode():
                _ = bridge.run_with_cache(
                    ids, attention_mask=mask, stop_at_layer=layer + 1, names_filter=hook
                )[1][hook]
        return {"dtype": dtype, "computed": sum(ids.numel() for ids, _ in batches)}

    return run


def prepare_products(
    folder: Any, layer: int, dtype: str, trees: Sequence[Any]
) -> Callable[[], dict[str, Any]]:
    """Return a function that multiplies each weight of blocks 0 to `layer` by sparserm's number of tokens."""
    import torch

    from sparserm_cli.models.lm.language_model import LanguageModel
    from sparserm_cli.models.lm.residuals import iter_residuals

    lm = LanguageModel.load(folder, layers=[layer], dtype=dtype)
    facts: dict[str, Any] = {}
    for _ in iter_residuals(lm, trees, facts=facts):
        pass
    weights = [part.weight for part in lm.blocks.modules() if isinstance(part, torch.nn.Linear)]
    widths = {weight.shape[1] for weight in weights}
    tokens = {
        width: torch.randn(max(facts["batch_sizes"]), width, dtype=weights[0].dtype) for width in widths
    }

    def run() -> dict[str, Any]:
        with torch.inference_mode():
            for size in facts["batch_sizes"]:
                for weight in weights:
                    torch.nn.functional.linear(tokens[weight.shape[1]][:size], weight)
        return {"dtype": lm.dtype, "computed": sum(facts["batch_sizes"])}

    return run


def work(way: str, options: argparse.Namespace) -> None:
    """Serve as the process of one way: run once for each line on stdin, and answer with one JSON line."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries may print, so answers have a stream of their own
    from transformers.utils import logging

    from sparserm_cli.models.checkpoints.resolve import resolve_model

    logging.disable_progress_bar()
    identity = resolve_model(options.model, offline=True)
    trees = read_trees(options.data[0], options.pairs, options.model)
    prepare = {
        "sparserm": prepare_sparserm,
        "TransformerLens": prepare_lens,
        "matrix products": prepare_products,
    }.get(way, prepare_transformers)
    dtype = "float32" if way.endswith("float32") else options.dtype
    run = prepare(identity, options.layer, dtype, trees)
    prepare(identity, options.layer, dtype, trees[:8])()  # this call warms up
    answers.write('"ready"\n')
    answers.flush()
    for line in sys.stdin:
        begun, cpu = time.perf_counter(), time.process_time()
        extra = profiled(run) if line.strip() == "profile" else run()
        answer = extra | {"seconds": time.perf_counter() - begun, "cpu_seconds": time.process_time() - cpu}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


GROUPS = {
    "matrix products of the weights": {"aten::mm", "aten::addmm", "mkldnn::_linear_pointwise"},
    "attention": {"aten::bmm", "aten::baddbmm", "aten::_softmax", "aten::index", "aten::masked_fill_"},
}


def profiled(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run once under torch's profiler; return the share of each group of operations."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run()
    spent = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    total = sum(spent.values())
    shares = {group: sum(spent.get(key, 0) for key in keys) / total for group, keys in GROUPS.items()}
    shares["element-wise, copies, norms"] = 1 - sum(shares.values())
    return {"profile": shares}


class Worker:
    """The process of one way on one file."""

    def __init__(self, way: str, data: Path, options: argparse.Namespace, dtype: str) -> None:
        arguments = ["--data", str(data), "--model", options.model, "--layer", str(options.layer)]
        settings = ["--pairs", str(options.pairs), "--dtype", dtype, "--work", way]
        self.process = subprocess.Popen(
            [sys.executable, __file__, *arguments, *settings],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()  # wait for the warm-up, so that no process computes while another is timed

    def ask(self, what: str) -> dict[str, Any]:
        """Let the process run once and return its answer."""
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"the process failed: {' '.join(self.process.args)}")
        return json.loads(answer)

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def measure(data: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Time all ways on one file, in turn, and return figures and ratios."""
    first = Worker("sparserm", data, options, options.dtype)
    first_run = first.ask("run")
    others = (way for way in options.ways if way != "sparserm")
    workers = {"sparserm": first} | {way: Worker(way, data, options, first_run["dtype"]) for way in others}
    answers: dict[str, list[dict[str, Any]]] = {way: [] for way in workers}
    for number in range(options.rounds):
        for way, worker in workers.items():
            answers[way].append(worker.ask("run"))
            print(
                f"round {number + 1}, {way}: {answers[way][-1]['seconds']:.2f} s", file=sys.stderr, flush=True
            )
    shares = first.ask("profile")["profile"]
    for worker in workers.values():
        worker.close()
    trees = read_trees(data, options.pairs, options.model)
    each = sum(len(tree.prompt_ids) + len(response) for tree in trees for response in tree.responses)
    figures = {way: summary(given) for way, given in answers.items()}
    for way, figure in figures.items():
        ratios = [
            other["seconds"] / ours["seconds"]
            for other, ours in zip(answers[way], answers["sparserm"], strict=True)
        ]
        figure["times_sparserm"] = {
            "median": statistics.median(ratios),
            "min": min(ratios),
            "max": max(ratios),
        }
        figure["tokens_per_second"] = each / figure["seconds"]["median"]
    return {
        "data": data.name,
        "rows": len(trees),
        "responses": sum(len(tree.responses) for tree in trees),
        "tokens_one_response_a_row": each,
        "ways": figures,
        "profile": shares,
    }


def summary(given: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return medians and spread of one way's rounds."""
    seconds = [answer["seconds"] for answer in given]
    return {
        "dtype": given[0]["dtype"],
        "computed_tokens": given[0]["computed"],
        "seconds": {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)},
        "cpu_seconds": statistics.median(answer["cpu_seconds"] for answer in given),
    }


def show(result: dict[str, Any]) -> None:
    """Print one file's table."""
    print(f"\n{result['data']}: {result['rows']} rows, {result['responses']} responses, ", end="")
    print(f"{result['tokens_one_response_a_row']:,} tokens if every response carries its own prompt")
    print(
        f"{'way':24}{'dtype':>10}{'computed':>11}{'seconds':>10}{'tokens/s':>11}{'x sparserm':>12}  (range)"
    )
    for way, figure in result["ways"].items():
        ratio = figure["times_sparserm"]
        line = f"{way.removesuffix(' float32'):24}{figure['dtype']:>10}{figure['computed_tokens']:>11,}"
        line += f"{figure['seconds']['median']:>10.2f}{figure['tokens_per_second']:>11,.0f}"
        print(f"{line}{ratio['median']:>12.2f}  ({ratio['min']:.2f} to {ratio['max']:.2f})")
    print(
        "sparserm's time: " + ", ".join(f"{share:.0%} {group}" for group, share in result["profile"].items())
    )


def main() -> None:
    """Measure each file and print its table; write JSON if a path is given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="preference data, any shape")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--layer", type=int, default=14)
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--pairs", type=int, default=64, help="rows of each file, spread evenly over it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument("--output", type=Path, help="JSON file")
    parser.add_argument("--work", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work, options)
        return
    import torch
    import transformers

    from sparserm_cli.models.checkpoints.resolve import resolve_model

    resolve_model(options.model)  # the model is fetched and converted before any timing
    results = [measure(data, options) for data in options.data]
    for result in results:
        show(result)
    if options.output:
        machine = {
            "processor": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
        }
        versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        settings = {"model": options.model, "layer": options.layer, "rounds": options.rounds}
        report = machine | versions | settings | {"results": results}
        options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
