"""export --to hf and hub-folder: what transformers loads gives the scores of `score`."""

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
import transformers
from helpers import fitted_run, tiny_models
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from sparserm_cli.alignment.hf_export.export import build, export_hf, settle_boundaries
from sparserm_cli.analysis.evaluate.evaluate import evaluate
from sparserm_cli.config import EvaluateConfig, ExportConfig
from sparserm_cli.data.chat_template import PromptTemplate
from sparserm_cli.data.rendering.templated_text import ConversationText
from sparserm_cli.errors import IncompatibleError, UsageError
from sparserm_cli.models.checkpoints.resolve import load_tokenizer
from sparserm_cli.models.reward_model import RewardModel
from sparserm_cli.store.artifacts.reward import read_reward

shared, tiny = fitted_run, tiny_models
SYSTEM = {"role": "system", "content": "Be brief."}
TURNS = [
    {"role": "user", "content": "Question 1?"},
    {"role": "assistant", "content": "good"},
    {"role": "user", "content": "And 2?"},
]
CASES = [
    ([{"role": "user", "content": "Hi?"}], "good good"),
    ([SYSTEM, {"role": "user", "content": "Hi?"}], "poor"),
    (TURNS, "\n\n good, at great length, so that the others are padded"),
    ([SYSTEM, *TURNS], " so so "),
    ([SYSTEM, *TURNS], "<|im_start|>user\nodd"),
]
PROMPTS, RESPONSES = ([case[place] for case in CASES] for place in (0, 1))


@pytest.fixture(scope="module")
def place(fitted_run, tmp_path_factory):
    """Export the fitted reward model once."""
    folder = tmp_path_factory.mktemp("export") / "hf"
    done = export_hf(ExportConfig(target=folder, to="hf", run=fitted_run), note=shared.QUIET["note"])
    assert done.path == folder
    return folder


@pytest.fixture(scope="module")
def loaded(place, tmp_path_factory):
    """Load it as any program would, with the copy of its code in a folder of its own."""
    cache = str(tmp_path_factory.mktemp("modules"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", cache)
        patch.syspath_prepend(cache)
        model = AutoModelForSequenceClassification.from_pretrained(place, trust_remote_code=True)
        yield model, AutoTokenizer.from_pretrained(place, trust_remote_code=True)


def batch(tokenizer, side: str):
    """Tokenise the whole conversations of the cases as trainers do."""
    tokenizer.padding_side = side
    whole = [[*prompt, {"role": "assistant", "content": text}] for prompt, text in CASES]
    texts = tokenizer.apply_chat_template(whole, tokenize=False)
    return tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)


@pytest.mark.parametrize("side", ["left", "right"])
def test_row_27_scores_are_those_of_score_under_either_padding(fitted_run, loaded, side):
    """Multi-turn prompts, system turns, tokens across the boundary: within 1e-4, in one padded batch."""
    model, tokenizer = loaded
    expected = RewardModel.load(fitted_run / "reward").score(PROMPTS, RESPONSES)
    with torch.no_grad():
        logits = model(**batch(tokenizer, side)).logits
    assert logits.shape == (len(CASES), 1)
    np.testing.assert_allclose(logits[:, 0].numpy(), expected, atol=1e-4)


def test_what_other_programs_ask_of_it(loaded):
    """One label, a pad token, a tuple on request, nothing of sparserm imported."""
    model, tokenizer = loaded
    assert (model.config.num_labels, model.config.pad_token_id) == (1, tokenizer.pad_token_id)
    assert type(model).__module__.startswith("transformers_modules.")
    inputs = batch(tokenizer, "left")
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs, return_dict=False)[0], model(**inputs).logits)


def test_masked_tokens_are_not_there(loaded):
    """A doubled first token that is masked, as RewardBench masks a doubled BOS, changes nothing."""
    model, tokenizer = loaded
    inputs = batch(tokenizer, "left")
    first = torch.full((len(CASES), 1), 65)
    doubled = torch.cat([first, inputs["input_ids"]], 1)
    mask = torch.cat([torch.zeros_like(first), inputs["attention_mask"]], 1)
    with torch.no_grad():
        torch.testing.assert_close(model(doubled, mask).logits, model(**inputs).logits, atol=0, rtol=0)


def test_row_28_a_doubled_or_missing_bos_is_put_right(place, loaded):
    """Whatever a tokenizer has done about it, the model sees one."""
    model, _ = loaded
    kind = type(model)
    config = type(model.config)(**{**model.config.to_dict(), "bos_token_id": 70, "leading_bos": True})
    with torch.device("meta"):
        split = kind(config).split
    conversation = [70, 9, *config.header, 5, 6, *config.endings[0]]
    expected = ([70, 9, *config.header], [5, 6])
    assert split(conversation) == split([70, *conversation]) == split(conversation[1:]) == expected


def test_ends_of_a_turn_are_no_part_of_the_response(loaded):
    """The template's end of a turn, or the end of text alone, or none: the same response."""
    model, _ = loaded
    header, (longest, *_) = model.config.header, model.config.endings
    for ending in ([], *model.config.endings):
        assert model.split([9, *header, 5, *ending]) == ([9, *header], [5])
    assert model.split([9, *header, 5, *longest, *longest])[1] == [5, *longest]


def test_what_cannot_be_told_is_refused(loaded):
    """No header, or several rows without a mask: an error, never a guess."""
    model, _ = loaded
    header = model.config.header
    with pytest.raises(ValueError, match=r"no response: expected the tokens .* of the chat template"):
        model(torch.tensor([[1, 2, 3]]))
    with pytest.raises(ValueError, match="several conversations need an attention_mask"):
        model(torch.tensor([[9, *header, 5], [9, *header, 6]]))


def test_row_23_an_empty_response_has_no_score(loaded):
    """It is NaN, and the others in its batch are not."""
    model, _ = loaded
    header, (longest, *_) = model.config.header, model.config.endings
    rows = torch.tensor([[9, *header, *longest], [9, *header, 5, *longest[:-1]]])
    with torch.no_grad():
        logits = model(rows, torch.ones_like(rows)).logits[:, 0]
        alone = model(rows[1:]).logits[0, 0]
    assert logits.isnan().tolist() == [True, False]
    torch.testing.assert_close(logits[1], alone)


@pytest.mark.filterwarnings("ignore")  # other people's code
def test_trl_takes_it_as_a_reward_model(fitted_run, loaded, grpo: Callable):
    """GRPOTrainer calls it as a module, and gets the library's scores of the same conversations."""
    exported, tokenizer = loaded
    seen: list[tuple[str, float]] = []

    def remember(_module: object, _inputs: object, inputs: dict, output: object) -> None:
        for ids, mask, score in zip(
            inputs["input_ids"], inputs["attention_mask"], output.logits, strict=True
        ):
            seen.append((tokenizer.decode(ids[mask.bool()]), score.item()))

    handle = exported.register_forward_hook(remember, with_kwargs=True)
    prompts = [[{"role": "user", "content": text}] for text in ("Question 1?", "Question 2?")]
    grpo(exported, {"prompt": prompts}, reward_processing_classes=tokenizer)
    handle.remove()
    model = RewardModel.load(fitted_run / "reward")
    cuts = [ConversationText(model.template).cut(text) for text, _ in seen]
    scores = model.score([cut.prompt for cut in cuts], [cut.response for cut in cuts])
    assert len(seen) == 8
    np.testing.assert_allclose([score for _, score in seen], scores, atol=1e-4)


def test_boundaries_are_checked_before_anything_is_written(fitted_run):
    """Where the exported model cuts otherwise than `score`, it is refused."""
    model = RewardModel.load(fitted_run / "reward")
    tokenizer = load_tokenizer(model.lm.identity)
    exported = build(model, tokenizer)
    settle_boundaries(exported, model.template, tokenizer)
    exported.config.header_fixed = len(exported.config.header) - 3
    exported.config.header = exported.config.header[:-1]
    with pytest.raises(IncompatibleError, match=r"expected the response .* it cannot be exported"):
        settle_boundaries(exported, model.template, tokenizer)


@pytest.mark.parametrize("arch", ["gpt2", "gemma2", "gemma3", "phi"])
def test_other_architectures(arch, tiny_model: Callable, loaded, tmp_path):
    """Absolute positions, soft caps, layers of two kinds, shared norms: the same scores."""
    run = shared.fit_tiny(tmp_path, tiny_model(arch))
    model = RewardModel.load(run / "reward")
    exported = build(model, load_tokenizer(model.lm.identity))
    with torch.no_grad():
        logits = exported(**batch(loaded[1], "left")).logits[:, 0].numpy()
    np.testing.assert_allclose(logits, model.score(PROMPTS, RESPONSES), atol=1e-4)


def test_constant_tensors_of_an_architecture_are_in_the_weights_file(tiny_model: Callable, loaded, tmp_path):
    """Transformers leaves the multipliers of this one unset where a model comes with its own code."""
    sizes = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8}
    run = shared.fit_tiny(
        tmp_path, tiny_model("falcon_h1", ssm_multipliers=[0.5, 2.0, 0.25, 3.0, 0.75], **sizes)
    )
    target = tmp_path / "hf"
    export_hf(ExportConfig(target=target, to="hf", run=run), note=shared.QUIET["note"])
    model = AutoModelForSequenceClassification.from_pretrained(target, trust_remote_code=True)
    assert model.config.buffers == [f"layers.{block}.mamba.mup_vector" for block in range(2)]
    with torch.no_grad():
        logits = model(**batch(loaded[1], "left")).logits[:, 0].numpy()
    expected = RewardModel.load(run / "reward").score(PROMPTS, RESPONSES)
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_a_model_whose_longest_row_changes_the_others(tiny_model: Callable, loaded, tmp_path):
    """Rotary angles that depend on the longest row of a batch: every row is scored as if it were alone."""
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    rope |= {"rope_theta": 10000.0, "original_max_position_embeddings": 96}
    run = shared.fit_tiny(tmp_path, tiny_model("llama", rope_parameters=rope))
    model = RewardModel.load(run / "reward")
    exported = build(model, load_tokenizer(model.lm.identity))
    assert exported.config.runs_alone
    inputs = batch(loaded[1], "left")
    lengths = inputs["attention_mask"].sum(dim=1)
    assert lengths.min() < 96 < lengths.max()
    with torch.no_grad():
        logits = exported(**inputs).logits[:, 0].numpy()
        exported.config.runs_alone = False
        together = exported(**inputs).logits[:, 0].numpy()
    expected = model.score(PROMPTS, RESPONSES)
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    assert np.abs(together - expected).max() > 1e-3


def test_linear_heads_and_both_poolings(fitted_run, loaded, tmp_path):
    """Every head that fit makes can be exported."""
    from shutil import copytree

    from sparserm_cli.config import FitConfig
    from sparserm_cli.stages.fit.fit import fit

    run = copytree(fitted_run, tmp_path / "run")
    fit(FitConfig(run=run, val_fraction=0.2, pool="both", head="linear", loss="bt"), **shared.QUIET)
    model = RewardModel.load(run / "reward")
    exported = build(model, load_tokenizer(model.lm.identity))
    with torch.no_grad():
        logits = exported(**batch(loaded[1], "right")).logits[:, 0].numpy()
    np.testing.assert_allclose(logits, model.score(PROMPTS, RESPONSES), atol=1e-4)


def marked(loaded, rows, side):
    """Tokenise as the exported code does, and put the padding where it is asked for."""
    model, tokenizer = loaded
    inputs = model.encode(tokenizer, [prompt for prompt, _ in rows], [response for _, response in rows])
    if side == "right":
        return inputs
    counts = inputs["attention_mask"].sum(1).tolist()
    return {
        name: torch.stack([row.roll(len(row) - count) for row, count in zip(values, counts, strict=True)])
        for name, values in inputs.items()
    }


RAW_ROWS = [
    ("Question: Hi? Answer: ", "good good"),
    ("Q?", "poor, at great length, so that the other is padded"),
    ("Q? ", "\n\n so so "),
]


@pytest.fixture(scope="module")
def raw(tiny_model: Callable, tmp_path_factory):
    """Fit without a chat template, and load what is exported."""
    folder = tmp_path_factory.mktemp("raw")
    run = shared.fit_tiny(folder, tiny_model("llama"), template="raw")
    with pytest.MonkeyPatch.context() as patch:
        cache = str(folder / "modules")
        patch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", cache)
        patch.syspath_prepend(cache)
        options = {"to": "hub-folder", "licence": "mit", "base_model": "org/tiny"}
        export_hf(ExportConfig(target=folder / "hub", run=run, **options), note=shared.QUIET["note"])
        model = AutoModelForSequenceClassification.from_pretrained(folder / "hub", trust_remote_code=True)
        yield run, (model, AutoTokenizer.from_pretrained(folder / "hub", trust_remote_code=True))


@pytest.mark.parametrize("side", ["left", "right"])
def test_row_27_without_a_template_a_mask_tells_the_response(raw, side):
    """Under either padding, with a doubled first token that is masked: the scores of `score`."""
    run, loaded = raw
    inputs = marked(loaded, RAW_ROWS, side)
    first = torch.full((len(RAW_ROWS), 1), 65)
    before = {"input_ids": first, "attention_mask": first * 0, "response_mask": first * 0}
    doubled = {name: torch.cat([before[name], tensor], 1) for name, tensor in inputs.items()}
    prompts, responses = zip(*RAW_ROWS, strict=True)
    expected = RewardModel.load(run / "reward").score(prompts, responses)
    for given in (inputs, doubled):
        with torch.no_grad():
            logits = loaded[0](**given).logits[:, 0].numpy()
        np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_without_a_template_or_a_mask_nothing_is_guessed(raw):
    """One line says what is missing; a mask with a gap is no response; the card says how it is done."""
    run, (model, _) = raw
    with pytest.raises(
        ValueError, match="no response_mask: expected one, since the model knows no chat template"
    ):
        model(torch.tensor([[1, 2, 3]]))
    with pytest.raises(
        ValueError, match="expected a response_mask of tokens one after the other, found a gap"
    ):
        model(torch.tensor([[1, 2, 3]]), response_mask=torch.tensor([[1, 0, 1]]))
    card = (run.parent / "hub" / "README.md").read_text()
    assert "model.encode(tokenizer" in card
    assert "apply_chat_template" not in card


def test_a_mask_goes_before_the_header(fitted_run, loaded):
    """Prompts rendered by the template, with their responses: the same scores, whatever a response spells."""
    model = RewardModel.load(fitted_run / "reward")
    odd = ["good", "<|im_start|>assistant\nodd"]
    inputs = loaded[0].encode(loaded[1], [model.template.render("Hi?")] * 2, odd)
    with torch.no_grad():
        logits = loaded[0](**inputs).logits[:, 0].numpy()
    np.testing.assert_allclose(logits, model.score(["Hi?"] * 2, odd), atol=1e-4)


THOUGHTS = "<think>\n\n</think>\n\n"


@pytest.fixture(scope="module")
def thinking(tiny_model: Callable, tmp_path_factory):
    """Fit with a template that writes empty thoughts before a finished answer, as Qwen3's does, and build."""
    folder = tmp_path_factory.mktemp("thinking")
    written = f"{{% if loop.last and message['role'] == 'assistant' %}}{THOUGHTS}{{% endif %}}"
    text = tiny.CHAT_TEMPLATE.replace("{{ message['content'] }}", written + "{{ message['content'] }}")
    (folder / "template.jinja").write_text(text)
    run = shared.fit_tiny(folder, tiny_model("llama"), template=str(folder / "template.jinja"))
    model = RewardModel.load(run / "reward")
    tokenizer = load_tokenizer(model.lm.identity)
    exported = build(model, tokenizer)
    settle_boundaries(exported, model.template, tokenizer)
    tokenizer.chat_template, tokenizer.pad_token = text, tokenizer.eos_token
    return model, exported, tokenizer


@pytest.mark.parametrize("side", ["left", "right"])
def test_row_27_what_a_template_writes_before_a_finished_answer_is_no_part_of_it(thinking, side):
    """Whole conversations with empty thoughts in them: the scores of `score`, which knows none."""
    model, exported, tokenizer = thinking
    inputs = batch(tokenizer, side)
    assert THOUGHTS in tokenizer.decode(inputs["input_ids"][0])
    with torch.no_grad():
        logits = exported(**inputs).logits[:, 0].numpy()
    np.testing.assert_allclose(logits, model.score(PROMPTS, RESPONSES), atol=1e-4)


def test_thoughts_of_the_policy_are_part_of_its_answer(thinking):
    """Only what the template itself writes is left out, and a policy's prompt may come without it."""
    model, exported, tokenizer = thinking
    answers = ["good", "<think>\nso so</think>\n\ngood"]
    texts = [model.template.render("Hi?") + answer + "<|im_end|>\n" for answer in answers]
    inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    with torch.no_grad():
        logits = exported(**inputs).logits[:, 0].numpy()
    np.testing.assert_allclose(logits, model.score(["Hi?"] * 2, answers), atol=1e-4)


def test_white_space_that_merges_with_the_lead_is_refused(thinking):
    """Where a tokenizer joins the lead's end with the response's begin, the exported model does not guess."""
    model, _, _ = thinking
    tokenizer = merging_tokenizer(("Ċ", "Ċ"), ("ĊĊ", "Ċ"))
    template = PromptTemplate(tokenizer, text=model.template.text)
    exported = build(model, tokenizer)
    settle_boundaries(exported, template, tokenizer)
    assert {tokenizer.decode([token]) for token in exported.config.unclear} == {"\n\n", "\n\n\n"}
    before = template.render("Hi?") + THOUGHTS
    _, response = exported.split(tokenizer(before + "good\n")["input_ids"])
    assert tokenizer.decode(response) == "good\n"
    with pytest.raises(ValueError, match="which may be of both; give a response_mask"):
        exported.split(tokenizer(before + "\ngood")["input_ids"])


def test_a_token_across_the_end_of_the_header_is_the_response_s(fitted_run):
    """Where the header ends in a space that a word takes along, the exported model cuts as `score` does."""
    answer = "{% if message.role == 'assistant' %}Answer: {% endif %}{{ message.content }}\n"
    text = f"{{% for message in messages %}}{answer}{{% endfor %}}"
    text += "{% if add_generation_prompt %}Answer: {% endif %}"
    tokenizer = merging_tokenizer(("Ġ", "g"))
    model = RewardModel.load(fitted_run / "reward")
    model.template = PromptTemplate(tokenizer, text=text)
    exported = build(model, tokenizer)
    settle_boundaries(exported, model.template, tokenizer)
    for response, first in (("good", " g"), ("bad", "b")):
        ids = tokenizer(f"Hi?\nAnswer: {response}\n")["input_ids"]
        assert tokenizer.decode(exported.split(ids)[1][:1]) == first


def merging_tokenizer(*merges):
    """Give the tiny tokenizer with tokens of more than one byte, as byte-level tokenizers spell them."""
    inner = json.loads(tiny.tiny_tokenizer().backend_tokenizer.to_str())
    inner["model"]["vocab"] |= {"".join(pair): 256 + place for place, pair in enumerate(merges)}
    inner["model"]["merges"] = [list(pair) for pair in merges]
    made = Tokenizer.from_str(json.dumps({**inner, "added_tokens": []}))
    made.add_special_tokens(list(tiny.SPECIAL))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token=tiny.SPECIAL[1])


def test_nothing_but_an_earlier_export_is_replaced(place, fitted_run, tmp_path):
    """A folder of the user's is never touched, not even with --force."""
    options = {"to": "hf", "run": fitted_run}
    with pytest.raises(
        UsageError, match="expected a new or empty folder, found an earlier export; use --force"
    ):
        export_hf(ExportConfig(target=place, **options), note=shared.QUIET["note"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(UsageError, match="found something else; name another one"):
        export_hf(ExportConfig(target=tmp_path / "mine", force=True, **options), note=shared.QUIET["note"])
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_a_hub_folder_has_a_card_and_the_reward_model(fitted_run, tmp_path):
    """Its metadata are what the hub reads; the accuracies are those of the fit and of evaluate."""
    from huggingface_hub import ModelCard

    file = shared.write_rows(tmp_path / "t.jsonl", shared.ROWS[30:])
    measured = evaluate(EvaluateConfig(file=file, run=fitted_run), **shared.QUIET).metrics
    config = ExportConfig(
        target=tmp_path / "hub",
        to="hub-folder",
        run=fitted_run,
        base_model="org/tiny",
        licence="apache-2.0",
        dataset=("org/pairs",),
    )
    export_hf(config, note=shared.QUIET["note"])
    card = ModelCard.load(tmp_path / "hub" / "README.md")
    assert card.data.to_dict()["base_model"] == "org/tiny"
    assert (card.data.license, card.data.datasets) == ("apache-2.0", ["org/pairs"])
    assert card.data.pipeline_tag == "text-classification"
    values = {result.dataset_name: result.metric_value for result in card.data.eval_results}
    assert values["held out"] == measured["scorers"]["reward"]["accuracy"]
    assert "| random directions | held out |" in card.text
    digest = read_reward(fitted_run / "reward").config.lineage.digest
    assert read_reward(tmp_path / "hub" / "sparserm").config.lineage.digest == digest
    assert json.loads((tmp_path / "hub" / "config.json").read_text())["model_type"] == "sparserm"


def test_what_a_card_needs_must_be_told(fitted_run, tmp_path):
    """A licence is never guessed, and a local folder is no base model."""
    with pytest.raises(UsageError, match="--licence: expected the licence for the card"):
        ExportConfig(target=tmp_path, to="hub-folder")
    config = ExportConfig(target=tmp_path / "h", to="hub-folder", run=fitted_run, licence="mit")
    with pytest.raises(UsageError, match="--base-model: expected the hub id of the language model"):
        export_hf(config, note=shared.QUIET["note"])
