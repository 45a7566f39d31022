"""Real senders, in environments of their own: LiteLLM's proxy, and the OpenTelemetry SDK with two instrumentations.

`python -m tests.senders fetch` (`make services`) makes the environments (700 MB) in the cache folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from examples.kafka.broker import cache, free_ports
from tests.foreign import SECRET_TEXT
from tests.workers import eventually

ENVIRONMENTS = {
    "litellm": ("litellm[proxy]==1.106.2",),
    "otel": (
        "opentelemetry-sdk==1.45.2",
        "opentelemetry-exporter-otlp-proto-http==1.45.2",
        "opentelemetry-instrumentation-openai==0.62.4",
        "opentelemetry-instrumentation-openai-v2==2.4b0",
        "opentelemetry-util-genai==0.4b0",
        "openai==2.54.0",
        "wrapt==1.17.3",
        "httpx==0.28.1",
    ),
}
MASTER_KEY = "sk-" + "m" * 40
MODEL = "gpt-4o-mini"
OTEL = """
import importlib, os, sys
from openai import OpenAI, RateLimitError
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
for name in sys.argv[1:]:
    importlib.import_module(name).OpenAIInstrumentor().instrument(tracer_provider=provider)
client = OpenAI(max_retries=0)
for said in [os.environ["SAID"]] * 5 + ["refuse"]:
    try:
        client.chat.completions.create(model=os.environ["MODEL"], messages=[{"role": "user", "content": said}])
    except RateLimitError:
        pass
provider.shutdown()
"""
"""A program whose OpenAI client is watched by the instrumentations that are named: five calls, and one that fails."""


class NoSender(RuntimeError):
    """An environment is not there, and why."""


def python_of(name: str) -> Path:
    """The interpreter of an environment. Raises NoSender."""
    if not (_folder(name) / "ready").exists():
        raise NoSender(f"no environment with {name}: `make services` makes it")
    return _folder(name) / "bin" / "python"


def fetch() -> None:
    """Make the environments that are not there; they cannot be moved, so a file says that one is whole."""
    for name, packages in ENVIRONMENTS.items():
        folder = _folder(name)
        if not (folder / "ready").exists():
            venv.create(folder, clear=True)
            install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", str(folder / "bin" / "python")]
            subprocess.run([*install, *packages], check=True)
            (folder / "ready").touch()


def _folder(name: str) -> Path:
    """One for each list of packages."""
    of = hashlib.blake2b(" ".join(ENVIRONMENTS[name]).encode(), digest_size=4).hexdigest()
    return cache() / "senders" / f"{name}-{of}"


class Provider:
    """An OpenAI that draws what it counts at random, and remembers it by the id of its answer."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.told: dict[str, dict[str, Any]] = {}
        self.refused = 0

    def answer(self) -> dict[str, Any]:
        cached, fresh, output = (
            self._random.randrange(5_000),
            self._random.randrange(1, 5_000),
            self._random.randrange(1, 900),
        )
        usage = {
            **{"prompt_tokens": cached + fresh, "completion_tokens": output, "total_tokens": cached + fresh + output},
            "prompt_tokens_details": {"cached_tokens": cached},
            "completion_tokens_details": {"reasoning_tokens": self._random.randrange(output)},
        }
        name = f"chatcmpl-{len(self.told)}"
        self.told[name] = usage
        message = {"role": "assistant", "content": SECRET_TEXT}
        return {
            **{"id": name, "object": "chat.completion", "created": 1_790_000_000, "model": MODEL, "usage": usage},
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        }

    @contextmanager
    def listening(self) -> Iterator[str]:
        """Its base URL. A prompt that says "refuse" gets 429."""
        provider = self

        class Asked(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = self.rfile.read(int(self.headers["content-length"]))
                refuses = b'"refuse"' in asked
                provider.refused += refuses
                error = {"error": {"message": SECRET_TEXT, "type": "rate_limit", "code": "rate_limit"}}
                said = json.dumps(error if refuses else provider.answer()).encode()
                self.send_response(429 if refuses else 200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Asked)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def run_otel(provider: str, endpoint: str, token: str, *instrumentations: str) -> str:
    """Run OTEL to its end; what it said."""
    environment = {
        **{"PATH": os.environ["PATH"], "OPENAI_BASE_URL": provider, "OPENAI_API_KEY": "sk-fake"},
        **{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"},
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS": f"authorization=Bearer%20{token}",
        "OTEL_RESOURCE_ATTRIBUTES": "service.namespace=acme,service.name=shop",
        **{"SAID": SECRET_TEXT, "MODEL": MODEL},
    }
    ran = subprocess.run(
        [python_of("otel"), "-c", OTEL, *instrumentations], env=environment, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout + ran.stderr


@contextmanager
def litellm(folder: Path, provider: str, endpoint: str, token: str) -> Iterator[str]:
    """LiteLLM's proxy, set up as docs/sources/litellm.md says; where it listens."""
    (port,) = free_ports(1)
    config = folder / "config.yaml"
    model = {"model": f"openai/{MODEL}", "api_key": "sk-fake", "api_base": provider}
    config.write_text(
        json.dumps(
            {
                "model_list": [{"model_name": "small", "litellm_params": model}],
                "litellm_settings": {"callbacks": ["generic_api"], "num_retries": 0},
                "general_settings": {"master_key": MASTER_KEY},
            }
        )
    )
    environment = {
        **{"PATH": os.environ["PATH"], "HOME": str(folder), "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        **{"GENERIC_LOGGER_ENDPOINT": endpoint, "GENERIC_LOGGER_HEADERS": f"Authorization=Bearer {token}"},
        "DEFAULT_FLUSH_INTERVAL_SECONDS": "1",
    }
    program = [
        str(python_of("litellm").with_name("litellm")),
        "--config",
        str(config),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    with (folder / "log").open("wb") as out:
        proxy = subprocess.Popen(program, env=environment, stdout=out, stderr=out, cwd=folder)
    try:
        eventually(lambda: _answers(proxy, f"http://127.0.0.1:{port}/health/liveliness"), 180, "LiteLLM answers")
        yield f"http://127.0.0.1:{port}"
    finally:
        proxy.terminate()
        proxy.wait(60)


def ask(proxy: str, said: str) -> int:
    """One chat through LiteLLM; the HTTP status."""
    body = json.dumps({"model": "small", "messages": [{"role": "user", "content": said}]}).encode()
    headers = {"authorization": f"Bearer {MASTER_KEY}", "content-type": "application/json"}
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{proxy}/v1/chat/completions", body, headers), timeout=60) as a:
            return int(a.status)
    except urllib.error.HTTPError as error:
        return error.code


def _answers(proxy: subprocess.Popen[bytes], url: str) -> bool:
    assert proxy.poll() is None, "LiteLLM has ended"
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False


if __name__ == "__main__":
    fetch()
