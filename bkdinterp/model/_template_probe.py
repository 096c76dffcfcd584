"""Test of a suspect chat template: it is rendered once in a separate process with limits on time and memory.

`bkdinterp.prompts` watches every line of a template that it renders, but cannot interrupt a single operation, such as the
multiplication of a text. The operating system limits the process's memory and time and ends it if it exceeds them.
"""

import subprocess
import sys
from functools import lru_cache
from typing import Any

from bkdinterp.errors import UnsafeWeightsError

_SECONDS = 20
_CHARACTERS = 1_000_000
# Only Jinja's sandbox, with the functions that transformers gives a template; transformers takes seconds to import.
_CODE = """
import json, sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
except ImportError:
    pass
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

class Generation(Extension):
    tags = {"generation"}
    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.Scope(body).set_lineno(line)

def stop(message):
    raise ValueError(message)

given = json.load(sys.stdin)
turns = [{"role": "user", "content": "a question"}, {"role": "assistant", "content": "an answer"}]
written = 0
for messages in (turns[:1], turns, [{"role": "system", "content": "be brief"}, *turns[:1]]):
    try:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
        )
        environment.filters["tojson"] = lambda x, **kwargs: json.dumps(x, ensure_ascii=False)
        environment.globals |= {"raise_exception": stop, "strftime_now": lambda form: form}
        template = environment.from_string(given["template"])
        for piece in template.generate(messages=messages, add_generation_prompt=True, tools=None, **given["tokens"]):
            written += len(piece)
            if written > given["most"]:
                sys.exit(9)
    except MemoryError:
        sys.exit(9)
    except Exception:
        pass  # what a template refuses is its own matter
"""


def probe_templates(tokenizer: Any, source: object) -> None:
    """Test every chat template of a tokenizer, once per process for each distinct text (takes 0.1 s).

    Raises:
        UnsafeWeightsError: a template runs forever, or needs more than 1 GiB of memory or a million characters.
    """
    templates = getattr(tokenizer, "chat_template", None)
    names = ("bos_token", "eos_token", "unk_token", "pad_token")
    tokens = tuple((n, str(v)) for n in names if (v := getattr(tokenizer, n, None)) is not None)
    for template in templates.values() if isinstance(templates, dict) else [templates]:
        if isinstance(template, str) and template and not _ends_well(template, tokens):
            raise UnsafeWeightsError(
                f"The chat template of {str(source)!r} does not end, or writes endless text, on a plain question. Refused."
            )


@lru_cache(maxsize=64)
def _ends_well(template: str, tokens: tuple[tuple[str, str], ...]) -> bool:
    import json

    if not sys.executable:
        return True  # an embedded Python; each line is still watched
    given = json.dumps({"template": template, "tokens": dict(tokens), "most": _CHARACTERS})
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _CODE],
            input=given,
            text=True,
            encoding="utf-8",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    except OSError:  # cannot start a second process
        return True
    return done.returncode == 0 or done.returncode == 1
