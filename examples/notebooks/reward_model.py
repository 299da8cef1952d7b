# %% [markdown]
# # A reward model, step by step
#
# From preference pairs to a reward model and its explanation. Open this file as a notebook (Jupytext, VS Code
# and PyCharm read `# %%` cells) or run it as a script. The pairs are questions of geography that come with
# sparserm; the model and its SAE are the defaults. Environment variables choose others.

# %%
import os
from pathlib import Path

import pandas as pd

from sparserm_cli import (
    RewardModel,
    encode,
    evaluate,
    extract,
    fit,
    frequency,
    open_capture,
    open_features,
    open_frequency,
    select,
)

DATA = Path(__file__).parents[1] / "data" if "__file__" in globals() else Path("../data")
PAIRS = os.environ.get("PAIRS", str(DATA / "geography-train.jsonl"))
TEST = os.environ.get("TEST", str(DATA / "geography-test.jsonl"))
MODEL = os.environ.get("MODEL", "smollm2-135m")
SAE = os.environ.get("SAE", "smollm2-135m")
LAYER = int(os.environ.get("LAYER", "14"))
TOP_K = int(os.environ.get("TOP_K", "32"))
RUN = os.environ.get("RUN", "notebook-run")
pd.set_option("display.max_columns", None, "display.width", 160)

# %% [markdown]
# ## 1. Residual activations, and the latents of the SAE on them

# %%
extract(PAIRS, model=MODEL, layer=LAYER, run=RUN, note=print)
encode(RUN, sae=SAE, note=print)
capture, features = open_capture(RUN), open_features(RUN)
print(capture)
print(features)

# %% [markdown]
# Row i of every array and table belongs to response i; pairs name responses by their numbers.

# %%
print(capture.pairs.to_pandas().head())
chosen, rejected = capture.pair_vectors(LAYER, "mean")
print("mean difference of the pooled vectors:", float((chosen - rejected).mean()))

# %% [markdown]
# ## 2. Which latents fire more often on chosen responses?

# %%
frequency(RUN, note=print)
table = open_frequency(RUN).table.to_pandas()
columns = ["feature", "rate_chosen", "rate_rejected", "difference", "q"]
print(table.nlargest(10, "difference")[columns])

# %% [markdown]
# ## 3. Directions and head
#
# The accuracy of the head means something only beside its controls, and on prompts that chose nothing.

# %%
select(RUN, top_k=TOP_K, note=print)
summary = fit(RUN, note=print)
print(pd.DataFrame([vars(metric) for metric in summary.config.metrics]))
result = evaluate(TEST, run=RUN, note=print)
print("test rows:", result.metrics["rows_read"])

# %% [markdown]
# ## 4. Score and explain

# %%
model = RewardModel.from_pretrained(RUN)
print(model)
question, answers = "What is the capital of France?", ["It is Paris.", "It is Rome."]
scores = model.score(question, answers)
print(dict(zip(answers, scores.tolist(), strict=True)))
explanation = model.explain(question, answers[0])
print(pd.DataFrame(list(explanation.directions)).head(10))
print(pd.DataFrame(list(explanation.tokens)))

# %%
print(model.directions().sort_values("effect", ascending=False).head(10))
