"""Release names: SAELens' table, a hub on loopback, offline, and everything that can be wrong with a name."""

import hashlib
import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sparserm_cli.errors import IncompatibleError, TemporaryError, UsageError
from sparserm_cli.models.sae.load import find_sae, load_sae
from sparserm_cli.models.sae.releases import Release, find_release, neuronpedia_page

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub(BaseHTTPRequestHandler):
    """The four calls that `snapshot_download` makes, over a folder of repositories."""

    root: Path
    requests: list[str]

    def do_HEAD(self) -> None:
        """Answer for a file's metadata."""
        self.do_GET(body=False)

    def do_GET(self, *, body: bool = True) -> None:
        """Serve a repository's description or one of its files."""
        self.requests.append(self.path)
        api = re.match(r"/api/models/([^/]+/[^/]+?)(?:/(revision|tree)/[^?]+)?(?:\?|$)", self.path)
        if api:
            folder = self.root / api[1]
            files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
            names = [path.relative_to(folder).as_posix() for path in files]
            listed = [
                {"type": "file", "path": n, "size": (folder / n).stat().st_size, "oid": "0" * 40}
                for n in names
            ]
            listing = {"id": api[1], "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
            value: Any = listed if api[2] == "tree" else listing
            self._send(200 if files else 404, json.dumps(value).encode(), body=body)
            return
        file = re.match(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", self.path)
        path = self.root / file[1] / file[2] if file else self.root / "nothing"
        self._send(200 if path.is_file() else 404, path.read_bytes() if path.is_file() else b"", body=body)

    def _send(self, status: int, content: bytes, *, body: bool) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Stay quiet."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[str, Path, list[str]]]:
    """Serve a folder as a hub on loopback."""
    handler = type("Handler", (FakeHub,), {"root": tmp_path / "hub", "requests": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", tmp_path / "hub", handler.requests
    server.shutdown()
    server.server_close()
    thread.join()


def loaded(endpoint: str, cache: Path, calls: list[tuple[str, bool]]) -> list[dict[str, Any]]:
    """Load SAEs by (name, offline) in a process of its own, since HF_ENDPOINT is read at import.

    Before an offline call the path /offline is asked for, which marks the place among the hub's requests.
    """
    mark = f"{endpoint}/api/models/google/gemma-scope-2b-pt-res?offline"
    program = (
        "import json, sys, urllib.request\n"
        "from sparserm_cli.models.sae.load import load_sae\n"
        f"for name, offline in {calls!r}:\n"
        f"    if offline: urllib.request.urlopen({mark!r})\n"
        "    sae = load_sae(name, offline=offline)\n"
        "    told = {'model': sae.metadata.model_name, 'digest': sae.digest}\n"
        "    told |= {'hook': sae.metadata.hook_name, 'lens': 'sae_lens' in sys.modules}\n"
        "    print(json.dumps(told))\n"
    )
    variables = {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={**variables, "PYTHONPATH": str(Path(__file__).parents[2]), "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def gemma_scope_1(folder: Path) -> None:
    """Write a Gemma Scope 1 SAE."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    arrays = {"w_enc": (4, 8), "w_dec": (8, 4), "b_enc": (8,), "b_dec": (4,), "threshold": (8,)}
    np.savez(folder / "params.npz", **{n: generator.random(s, dtype=np.float32) for n, s in arrays.items()})


def gemma_scope_2(folder: Path) -> None:
    """Write a Gemma Scope 2 SAE."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    shapes = {"w_enc": (4, 8), "w_dec": (8, 4), "b_enc": (8,), "b_dec": (4,), "threshold": (8,)}
    tensors = {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}
    save_file(tensors, folder / "params.safetensors")
    points = {"hf_hook_point_in": "model.layers.5.output", "model_name": "gemma-3-270m-it"}
    (folder / "config.json").write_text(json.dumps({"architecture": "jump_relu", **points}))


def test_releases_are_fetched_once_and_then_found_offline(
    hub: tuple[str, Path, list[str]], tmp_path: Path
) -> None:
    """Two formats by release name from a hub on loopback; the second time, offline, nothing is asked for."""
    endpoint, root, requests = hub
    gemma_scope_1(root / "google" / "gemma-scope-2b-pt-res" / "layer_13" / "width_16k" / "average_l0_84")
    folder = root / "google" / "gemma-scope-2-270m-it" / "resid_post_all" / "layer_5_width_16k_l0_small"
    gemma_scope_2(folder)
    name = "gemma-scope-2b-pt-res/layer_13/width_16k/average_l0_84"
    other = "gemma-scope-2-270m-it-res-all/layer_5_width_16k_l0_small"
    first, second, again = loaded(endpoint, tmp_path / "cache", [(name, False), (other, False), (name, True)])
    assert (first["hook"], first["model"], first["lens"]) == (
        "blocks.13.hook_resid_post",
        "gemma-2-2b",
        False,
    )
    assert (second["hook"], second["model"]) == ("blocks.5.hook_resid_post", "gemma-3-270m-it")
    assert second["digest"] == load_sae(folder).digest
    assert again == first
    assert requests[-1].endswith("?offline")
    assert len(requests) > 4


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Give a function that points the hub's client in this process to an address and an empty cache."""
    from huggingface_hub import constants

    def point(endpoint: str) -> None:
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
        monkeypatch.setattr(constants, "DEFAULT_ETAG_TIMEOUT", 2)

    return point


def test_row_38_hub_without_answer_or_repository(
    hub: tuple[str, Path, list[str]], at: Callable[[str], None]
) -> None:
    """No answer and nothing in the cache is temporary; a repository that is not there is not."""
    at("http://127.0.0.1:9")
    with pytest.raises(TemporaryError) as caught:
        find_sae("org/repo/folder")
    assert caught.value.exit_code == 75
    assert str(caught.value).startswith(
        "org/repo/folder: expected the SAE's files, found nothing in the cache, and from the hub: "
    )
    assert str(caught.value).endswith("; try again later, or give a local folder")
    with pytest.raises(TemporaryError, match=r"nothing in the cache, and --offline; run once without it"):
        find_sae("org/repo/folder", offline=True)
    endpoint, root, _ = hub
    root.mkdir()
    at(endpoint)
    expected = r"org/repo/folder: expected an SAE on the hub, found no such repository or revision; "
    with pytest.raises(IncompatibleError, match=expected):
        find_sae("org/repo/folder")


def test_names_are_looked_up_in_saelens_table() -> None:
    """Release and id, the `-canonical` table behind an id, a scale from the table, plain repositories."""
    assert find_release("gemma-scope-2b-pt-res/layer_13/width_16k/canonical") == find_release(
        "gemma-scope-2b-pt-res-canonical/layer_13/width_16k/canonical"
    )
    llama = find_release("llama_scope_lxr_8x/l15r_8x")
    assert llama.repo == "fnlp/Llama3_1-8B-Base-LXR-8x"
    assert llama.folder == "Llama3_1-8B-Base-L15R-8x"
    assert llama.settings["norm_scaling_factor"] > 0
    assert find_release("org/repo@v2/layers.3") == Release("org/repo", "layers.3", "v2")
    assert find_release("org/repo") == Release("org/repo", ".")


def test_wrong_names_are_usage_errors() -> None:
    """An unknown id lists some known ones; a word that is nothing says what would be."""
    with pytest.raises(
        UsageError, match=r"expected an id of gemma-scope-2b-pt-res, such as .*, found layer_99"
    ):
        find_release("gemma-scope-2b-pt-res/layer_99")
    with pytest.raises(UsageError, match=r"expected a folder, a file, RELEASE/SAE_ID of SAELens or ORG"):
        find_release("nothing")


def test_formats_that_are_not_read_name_a_way_out() -> None:
    """A release whose loader is not among ours."""
    with pytest.raises(
        IncompatibleError, match=r"found SAELens' loader temporal; save it with SAELens' save_model"
    ):
        find_release("temporal-sae-gemma-2-2b/blocks.12.hook_resid_post")


def test_neuronpedia_knows_latents_of_the_table():
    """By release and id, without network; a folder and an unknown name have no page."""
    page = neuronpedia_page("gpt2-small-res-jb/blocks.8.hook_resid_pre", 12)
    assert page == "https://www.neuronpedia.org/gpt2-small/8-res-jb/12"
    canonical = neuronpedia_page("gemma-scope-2b-pt-res/layer_20/width_16k/canonical", 7)
    assert canonical == "https://www.neuronpedia.org/gemma-2-2b/20-gemmascope-res-16k/7"
    for name in (
        "examples/sae/smollm2-135m",
        "gpt2-small-res-jb/nothing",
        "smollm2-135m",
        "no/release/at/all",
    ):
        assert neuronpedia_page(name, 1) is None
