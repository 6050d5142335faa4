"""`swarm join --http` under clients that exist: NVIDIA's for the protocol, and Prometheus for the metrics."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.command import PICTURES, Joined, check_sentence, joined, line_of, swarm

httpclient = pytest.importorskip("tritonclient.http", reason="tritonclient is not installed")

READY_S = 60
TOKEN = "0123456789abcdef0123456789abcdef"
PICTURE = Path(next(path for path in PICTURES if "shirt-1" in path and "t-shirt" not in path))


def until(condition: Callable[[], Any], what: str) -> Any:
    """What the condition gives once it is true."""
    end = monotonic() + READY_S
    while not (found := condition()):
        assert monotonic() < end, f"{what} did not happen"
        sleep(0.1)
    return found


def client(peer: Joined) -> Any:
    return httpclient.InferenceServerClient(peer.http.removeprefix("http://"), network_timeout=READY_S)


@pytest.fixture(scope="module")
def peer() -> Iterator[Joined]:
    with joined("--no-mdns", "--http", ":0", "--serve", "fashion-vit", name="served") as peer:
        yield peer


@pytest.fixture(scope="module")
def triton(peer: Joined) -> Iterator[Any]:
    with client(peer) as triton:
        until(triton.is_server_ready, "the model that is served at start")
        yield triton


def pixels() -> Any:
    return np.asarray(Image.open(PICTURE).convert("L"), np.uint8).reshape(1, 1, 28, 28)


def ask(
    triton: Any, name: str, value: Any, datatype: str, outputs: Any = None, binary: bool = True, **more: Any
) -> Any:
    tensor = httpclient.InferInput(name, list(value.shape), datatype)
    tensor.set_data_from_numpy(value, binary_data=binary)
    return triton.infer("fashion-vit", [tensor], outputs=outputs, **more)


def test_health_and_metadata(triton: Any) -> None:
    assert triton.is_server_live()
    assert triton.is_model_ready("fashion-vit")
    assert triton.is_model_ready("fashion-vit", "1")
    assert not triton.is_model_ready("other")
    assert "binary_tensor_data" in triton.get_server_metadata()["extensions"]
    metadata = triton.get_model_metadata("fashion-vit")
    assert metadata["inputs"][0] == {"name": "input", "datatype": "FP32", "shape": [-1, 1, 28, 28]}


def test_raw_bytes_json_pixels_and_pictures_give_the_same_answer(triton: Any) -> None:
    wanted = [httpclient.InferRequestedOutput(name, binary_data=True) for name in ("output", "labels", "scores")]
    raw = ask(triton, "input", pixels(), "UINT8", wanted, request_id="seven")
    assert raw.get_response()["id"] == "seven"
    logits = raw.as_numpy("output")
    assert logits.shape == (1, 10)
    assert raw.as_numpy("labels")[0, 0] == b"Shirt"
    assert raw.as_numpy("scores").sum() == pytest.approx(1, abs=0.05)
    normalised = ((pixels().astype(np.float32) / 255 - 0.2860) / 0.3530).astype(np.float32)
    for binary in (True, False):
        outputs = [httpclient.InferRequestedOutput("output", binary_data=binary)]
        again = ask(triton, "input", normalised, "FP32", outputs, binary)
        np.testing.assert_allclose(again.as_numpy("output"), logits, atol=1e-3)
    half = ask(triton, "input", normalised.astype(np.float16), "FP16")
    np.testing.assert_allclose(half.as_numpy("output"), logits, atol=0.05)
    for compression in ("gzip", "deflate"):
        packed = ask(triton, "input", pixels(), "UINT8", request_compression_algorithm=compression)
        np.testing.assert_array_equal(packed.as_numpy("output"), logits)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_encoded_pictures(triton: Any, kind: str) -> None:
    files = []
    for path in (path for path in PICTURES if "trouser" in path or "bag" in path):
        file = BytesIO()
        Image.open(path).convert("RGB").resize((56, 56)).save(file, kind, quality=95)
        files.append(file.getvalue())
    answer = ask(triton, "image", np.array(files, np.object_), "BYTES")
    assert [row[0].decode() for row in answer.as_numpy("labels")] == ["Bag", "Bag", "Trouser", "Trouser"]


def test_a_bomb_is_refused(triton: Any) -> None:
    bomb = BytesIO()
    Image.new("1", (12_000, 12_000)).save(bomb, "PNG")
    assert len(bomb.getvalue()) < 30_000
    with pytest.raises(httpclient.InferenceServerException, match="more pixels"):
        ask(triton, "image", np.array([bomb.getvalue()], np.object_), "BYTES")


def test_classes_in_tritons_own_way(triton: Any) -> None:
    outputs = [httpclient.InferRequestedOutput("output", class_count=2)]
    score, index, label = ask(triton, "input", pixels(), "UINT8", outputs).as_numpy("output")[0, 0].decode().split(":")
    assert (float(score) > 0, index, label) == (True, "6", "Shirt")


def test_more_rows_than_one_plan_takes(triton: Any) -> None:
    answer = ask(triton, "input", pixels().repeat(150, 0), "UINT8").as_numpy("output")
    assert answer.shape == (150, 10)
    np.testing.assert_allclose(answer, answer[:1].repeat(150, 0), atol=1e-4)


def test_what_is_wrong_is_said_to_the_client(triton: Any) -> None:
    error = httpclient.InferenceServerException
    with pytest.raises(error, match=r"shape \[-1, 1, 28, 28\]"):
        ask(triton, "input", np.zeros((1, 3, 28, 28), np.float32), "FP32")
    with pytest.raises(error, match="Picture 2 cannot be read"):
        ask(triton, "image", np.array([PICTURE.read_bytes(), b"noise"], np.object_), "BYTES")
    with pytest.raises(error, match="no numbers"):
        ask(triton, "input", np.full((1, 1, 28, 28), np.nan, np.float32), "FP32")
    with pytest.raises(error, match="not loaded here"):
        triton.get_model_metadata("other")


def test_loading_and_unloading(triton: Any) -> None:
    name = "mobilenetv3_small_100"
    with pytest.raises(httpclient.InferenceServerException, match="stay on the device"):
        _load(triton, name, {"weights": "/etc/passwd"})
    with pytest.raises(httpclient.InferenceServerException, match="fashion-vitt"):
        triton.load_model("fashion-vitt")
    _load(triton, name, {"weights": "random:0", "strategy": "local"})
    assert {"fashion-vit", name} <= {
        row["name"] for row in triton.get_model_repository_index() if row["state"] == "READY"
    }
    assert triton.get_model_metadata(name)["inputs"][0]["shape"] == [-1, 3, 224, 224]
    assert triton.get_inference_statistics(name)["model_stats"][0]["inference_count"] == 0
    triton.unload_model(name)
    assert not triton.is_model_ready(name)


def _load(triton: Any, name: str, parameters: dict[str, str]) -> None:
    body = json.dumps({"parameters": parameters})
    response = triton._post(f"v2/repository/models/{name}/load", body, None, None)
    httpclient._utils._raise_if_error(response)


def test_metrics_parse_and_count(peer: Joined, triton: Any) -> None:
    ask(triton, "input", pixels(), "UINT8")
    with urllib.request.urlopen(f"{peer.http}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    samples = {sample.name: sample for family in text_string_to_metric_families(text) for sample in family.samples}
    assert samples["swarm_request_seconds_count"].value >= 1
    assert samples["swarm_step_compute_seconds_count"].labels == {"model": "fashion-vit"}
    assert samples["swarm_memory_total_bytes"].value > 1e8


def test_prometheus_itself_scrapes_it(tmp_path: Path, peer: Joined, triton: Any) -> None:
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("no prometheus here")
    ask(triton, "input", pixels(), "UINT8")
    config = tmp_path / "prometheus.yml"
    target = peer.http.removeprefix("http://")
    config.write_text(
        "global: {scrape_interval: 1s}\n"
        f"scrape_configs: [{{job_name: swarm, static_configs: [{{targets: ['{target}']}}]}}]\n"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = (f"--web.listen-address=127.0.0.1:{port}", f"--storage.tsdb.path={tmp_path / 'data'}")
    process = subprocess.Popen(
        [program, f"--config.file={config}", *where], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        query = 'histogram_quantile(0.5, swarm_request_seconds_bucket{model="fashion-vit"})'
        assert until(lambda: _queried(port, query), "a scrape") > 0
        assert _queried(port, "up") == 1
        assert _queried(port, 'swarm_peers{state="alive"}') == 1
    finally:
        process.kill()
        process.wait(10)


def _queried(port: int, query: str) -> float | None:
    url = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            result = json.load(answer)["data"]["result"]
    except urllib.error.URLError:
        return None
    return float(result[0]["value"][1]) if result else None


# The command's own words


def test_a_token_is_wanted_where_others_can_ask(tmp_path: Path) -> None:
    done = swarm("join", "--interface", "127.0.0.1", "--no-mdns", "--http", "0.0.0.0:0")
    check_sentence(done, 2, "openssl rand -hex 16", "--http-token-file")
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    with joined("--no-mdns", "--http", "127.0.0.1:0", "--http-token-file", str(file), name="guarded") as peer:
        request = urllib.request.Request(f"{peer.http}/v2/health/ready")
        with pytest.raises(urllib.error.HTTPError, match="401") as refused:
            urllib.request.urlopen(request, timeout=10)
        with refused.value as answer:
            assert "Bearer" in json.load(answer)["error"]
        request.add_header("Authorization", f"Bearer {TOKEN}")
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert json.load(answer) == {"ready": True}


def test_words_that_make_no_sense_together() -> None:
    quiet = ("join", "--interface", "127.0.0.1", "--no-mdns")
    check_sentence(swarm(*quiet, "--serve", "fashion-vit"), 2, "--http")
    check_sentence(swarm(*quiet, "--http", "a:b:c"), 2, "HOST:PORT")
    check_sentence(swarm(*quiet, "--http", ":0", "--http-token", "short"), 2, "16")
    check_sentence(swarm(*quiet, "--http", ":0", "--http-token-file", "/nowhere"), 2, "/nowhere")


def test_a_port_in_use(peer: Joined) -> None:
    port = peer.http.rpartition(":")[2]
    done = swarm("join", "--interface", "127.0.0.1", "--no-mdns", "--http", port)
    check_sentence(done, 7, f"127.0.0.1:{port}", "--http")


def test_it_leaves_at_once_with_clients_still_connected(triton: Any) -> None:
    with joined("--no-mdns", "--http", ":0", "--serve", "fashion-vit", name="leaving") as peer, client(peer) as own:
        until(own.is_server_ready, "the model that is served")
        began = monotonic()
        assert peer.stop() == 0
        assert monotonic() - began < 4
        assert peer.process.stderr is not None
        assert peer.process.stderr.read() == ""


def test_the_same_port_after_a_new_secret(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with joined("--no-mdns", "--new", "--http", ":0", name="turned", home=home) as peer:
        done = swarm(
            "secret", "rotate", "--yes", "--no-mdns", "--interface", "127.0.0.1", "--peer", peer.address, home=home
        )
        assert done.returncode == 0, done.stderr
        events = [json.loads(line_of(peer.process)) for _ in range(2)]
        assert [event["event"] for event in events] == ["rotated", "ready"]
        assert events[1]["http"] == peer.http
        with urllib.request.urlopen(f"{peer.http}/v2/health/live", timeout=10) as answer:
            assert json.load(answer) == {"live": True}


def test_what_can_never_be_ends_the_command() -> None:
    here = ("--port", "0", "--no-mdns")
    check_sentence(swarm("join", "--http", ":0", "--serve", "no-such-model", *here), 2, "no-such-model")
    check_sentence(swarm("join", "--device", "cuda:7", *here), 2, "cuda:7", "cpu")
