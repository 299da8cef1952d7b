"""The process that renders chat templates with transformers: it reads and writes JSON lines.

A chat template is a program of whoever made the model. The kernel ends this process where a template computes
for too long (a timer of processor time, which no template can catch) and refuses it memory beyond a limit; it
ends by itself when its input does. It is run as a file and imports nothing of this package, so that it is
there soon.
"""

import json
import resource
import signal
import sys
from typing import Any

MOST_CHARACTERS = 1 << 24
"""Most characters that a rendered conversation may have."""
_MEMORY_BYTES = 4 << 30


def render(request: dict[str, Any]) -> str:
    """Return a conversation as its template renders it."""
    from transformers.utils.chat_template_utils import render_jinja_template

    texts, _ = render_jinja_template(
        conversations=[request["messages"]],
        tools=request["tools"],
        chat_template=request["template"],
        add_generation_prompt=request["add_generation_prompt"],
        continue_final_message=request["continue_final_message"],
        **request["tokens"],
    )
    return str(texts[0])


def answer(line: str) -> dict[str, str]:
    """Return `text`, or `error` with what the template or Python said."""
    request = json.loads(line)
    signal.setitimer(signal.ITIMER_PROF, request["seconds"])
    try:
        text = render(request)
    except MemoryError:
        return {"error": f"a template that takes more than {_MEMORY_BYTES >> 30} GiB of memory"}
    except Exception as error:  # noqa: BLE001  # any exception of an untrusted template means that it refuses
        return {"error": str(error) or type(error).__name__}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    if len(text) > MOST_CHARACTERS:
        return {"error": f"a template that writes {len(text):,} characters, more than {MOST_CHARACTERS:,}"}
    return {"text": text}


def main() -> None:
    """Answer line by line until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import transformers.utils.chat_template_utils  # noqa: F401  # before the first request and its timer

    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = _MEMORY_BYTES if most == resource.RLIM_INFINITY else min(_MEMORY_BYTES, most)
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answer(line)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
