"""Chat templates are rendered as transformers does it, within limits that no template can lift."""

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from helpers.tiny_models import tiny_tokenizer

from sparserm_cli.data.chat_template import PromptTemplate
from sparserm_cli.data.example import Message
from sparserm_cli.data.rendering.renderer import Renderer, RenderError, RenderRequest
from sparserm_cli.errors import IncompatibleError

TURNS = [{"role": "user", "content": "Is 3 good? 🙂"}, {"role": "assistant", "content": "Yes"}]
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
PLAIN = "{% for message in messages %}{{ message.content }}{% endfor %}"


@pytest.fixture(scope="module")
def quick() -> Iterator[Renderer]:
    """Give a renderer of little patience."""
    quick = Renderer(seconds=0.3)
    yield quick
    quick.close()


def render(renderer: Renderer, template: str) -> str:
    """Render the turns."""
    return renderer.render(RenderRequest(template, TURNS, {"bos_token": "<s>"}))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (ENDLESS, "computes for more than"),
        ("{{ (9 ** (9 ** 9)) % 2 }}", "computes for more than 0.3 s"),
        ("{{ 'x' * 9999999999 }}", "takes more than 4 GiB of memory"),
        ("{{ 'x' * 20000000 }}", "writes 20,000,000 characters, more than 16,777,216"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "maximum recursion depth exceeded"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ raise_exception('not these') }}", "not these"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{% if %}", "Expected an expression"),
    ],
    ids=["loops", "power", "memory", "length", "recursion", "fault", "refusal", "way out", "no template"],
)  # fmt: skip
def test_row_90_a_template_without_end_is_ended(quick: Renderer, template: str, message: str) -> None:
    """In one sentence, and the next template is rendered."""
    with pytest.raises(RenderError) as caught:
        render(quick, template)
    assert message in str(caught.value)
    assert render(quick, PLAIN) == "Is 3 good? 🙂Yes"


def test_row_90_the_error_names_model_and_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for every template that does not do."""
    slow = Renderer(seconds=0.2)
    monkeypatch.setattr("sparserm_cli.data.chat_template.RENDERER", slow)
    template = PromptTemplate(tiny_tokenizer(), model="stranger", text=ENDLESS)
    with pytest.raises(IncompatibleError) as caught:
        template.render("Q")
    slow.close()
    assert str(caught.value) == (
        "model stranger: expected a chat template for these turns, "
        "found a template that computes for more than 0.2 s (turns: user); "
        "use --template raw or --template FILE"
    )


TEMPLATES = {
    "chatml": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "loop controls": "{{ bos_token }}{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}"
    "{{ m['content'] | tojson }}{% break %}{% endfor %}",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
    "{% endfor %}{{ ns.n }}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize("continued", [True, False])
def test_row_90_the_text_is_that_of_transformers(template: str, continued: bool) -> None:
    """Special tokens, white space, extensions and all."""
    tokenizer: Any = tiny_tokenizer()
    made = PromptTemplate(tokenizer, text=template)
    rows = TURNS[:1] if continued else TURNS
    turns = tuple(Message(**turn) for turn in rows)
    expected = tokenizer.apply_chat_template(
        rows, chat_template=template, tokenize=False, add_generation_prompt=continued
    )
    assert (made.render(turns) if continued else made.render_whole(turns)) == expected


def test_row_90_threads_get_their_own_texts(quick: Renderer) -> None:
    """However many ask at the same time."""
    rendered: dict[int, str] = {}

    def ask(number: int) -> None:
        turns = [{"role": "user", "content": str(number)}]
        rendered[number] = quick.render(RenderRequest(PLAIN, turns, {}))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert rendered == {number: str(number) for number in range(50)}


def test_row_90_an_interrupted_answer_is_not_the_next_one() -> None:
    """Ctrl-C between question and answer ends the worker, however long it would have computed."""
    patient = Renderer(seconds=60)
    render(patient, PLAIN)

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt):
            render(patient, ENDLESS)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert render(patient, PLAIN) == "Is 3 good? 🙂Yes"
    patient.close()


def test_row_90_the_worker_outlives_nobody() -> None:
    """Killed, its parent leaves no worker behind, not even one that computes."""
    code = (
        "import sys\n"
        "from sparserm_cli.data.rendering.renderer import Renderer\n"
        "r = Renderer(); r.start(); print(r._process.pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        handle = os.pidfd_open(worker)
        parent.kill()
    assert select.select([handle], [], [], 30)[0] == [handle]
    os.close(handle)
