"""The local server: TF Serving's REST interface, versions that switch, a page in a browser."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser
import keras
import numpy as np
import pytest
import tiny
from pictures import digit_pngs, encoded, pixels
from PIL import Image
from same_process import in_this_process

import tltf
from experiments.benchmarks.serving_load import load
from tltf import storage
from tltf.errors import InputMissingError, OutputError
from tltf.serving import candidate, publish

pytest.importorskip("starlette", reason="needs the extra [serve]")
pytest.importorskip("uvicorn", reason="needs the extra [serve]")

import uvicorn

from tltf.serving import server
from tltf.serving.versions import Versions

NAME = "pets"
LABELS = ("cat", "<b>dog</b>")
PNG = encoded(Image.fromarray(pixels(1)), "PNG")


def b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}


@contextlib.contextmanager
def running(folder: Path, *, name: str = NAME, **options: Any) -> Iterator[int]:
    """A server in this process; yields its port."""
    listening = server.bound("127.0.0.1", 0)
    app = server.application(Versions(folder, seconds=0.05), name=name, **options)
    config = uvicorn.Config(app, log_level="error", access_log=False)
    own = uvicorn.Server(config)
    thread = threading.Thread(target=own.run, kwargs={"sockets": [listening]})
    thread.start()
    while not own.started:
        time.sleep(0.01)
    try:
        yield listening.getsockname()[1]
    finally:
        own.should_exit = True
        thread.join()


def ask(port: int, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    connection.request(method, path, data)
    response = connection.getresponse()
    text = response.read()
    kind = response.headers["content-type"]
    connection.close()
    return response.status, json.loads(text) if kind.startswith("application/json") else text


def newer(folder: Path) -> Path:
    """The newest version once more, as the next one."""
    newest = publish.newest(folder)
    assert newest is not None
    temporary = storage.sibling(folder / "version")
    shutil.copytree(newest, temporary)
    return publish.commit(temporary, folder)


@pytest.fixture(scope="module")
def servable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("server") / NAME
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidate, "loaders", in_this_process)
        tltf.export(tiny.classifier(), labels=LABELS, to=folder, threshold=0.6)
    return folder


@pytest.fixture(scope="module")
def port(servable: Path) -> Iterator[int]:
    with running(servable, max_request_bytes=100_000) as number:
        yield number


def test_predict_in_rows_and_columns(port: int, servable: Path) -> None:
    url = f"/v1/models/{NAME}:predict"
    instances = [{"image_bytes": b64(data)} for data in (PNG, b"bad")]
    status, rows = ask(port, "POST", url, {"instances": instances})
    assert status == 200
    first, second = rows["predictions"]
    assert first["label"] in LABELS
    assert sum(first["probabilities"]) == pytest.approx(1, abs=1e-5)
    assert (second["label"], second["accepted"], second["label_id"]) == ("", False, -1)
    status, columns = ask(port, "POST", url, {"inputs": {"image_bytes": [b64(PNG)]}})
    assert columns["outputs"]["label"] == [first["label"]]
    assert columns["outputs"]["probabilities"] == [first["probabilities"]]
    sample = (publish.newest(servable) / "sample_request.json").read_bytes()
    assert ask(port, "POST", f"/v1/models/{NAME}/versions/1:predict", sample)[0] == 200
    image = np.zeros((1, 3, 4, 3)).tolist()
    status, floats = ask(port, "POST", url, {"signature_name": "predict", "instances": image})
    assert (status, len(floats["predictions"])) == (200, 1)
    status, features = ask(port, "POST", url, {"signature_name": "features", "inputs": [b64(PNG)]})
    assert np.shape(features["outputs"]) == (1, 4)


def test_classify(port: int) -> None:
    url = f"/v1/models/{NAME}:classify"
    request = {"signature_name": "classify", "examples": [{"image_bytes": b64(PNG)}]}
    status, found = ask(port, "POST", url, request)
    assert status == 200
    assert [name for name, _ in found["results"][0]] == list(LABELS)
    assert sum(score for _, score in found["results"][0]) == pytest.approx(1, abs=1e-5)
    status, error = ask(port, "POST", url, {"examples": [{"image_bytes": b64(PNG)}]})
    assert status == 400
    assert '"signature_name": "classify"' in error["error"]


def test_metadata_and_status(port: int) -> None:
    status, found = ask(port, "GET", f"/v1/models/{NAME}/metadata")
    assert status == 200
    assert found["model_spec"] == {"name": NAME, "signature_name": "", "version": "1"}
    signatures = found["metadata"]["signature_def"]["signature_def"]
    described = signatures["serving_default"]["inputs"]["image_bytes"]
    assert described["dtype"] == "DT_STRING"
    assert described["tensor_shape"]["dim"] == [{"size": "-1", "name": ""}]
    assert signatures["serving_default"]["method_name"] == "tensorflow/serving/predict"
    expected = {
        "model_version_status": [
            {
                "version": "1",
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": ""},
            }
        ]
    }
    assert ask(port, "GET", f"/v1/models/{NAME}") == (200, expected)
    assert ask(port, "GET", f"/v1/models/{NAME}/versions/1") == (200, expected)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "text"),
    [
        ("POST", "/v1/models/other:predict", b"{}", 404, "Servable not found for request: Latest"),
        ("POST", f"/v1/models/{NAME}/versions/9:predict", b"{}", 404, "Specific(9)"),
        ("POST", f"/v1/models/{NAME}/versions/x:predict", b"{}", 404, "Malformed request"),
        ("POST", f"/v1/models/{NAME}:guess", b"{}", 404, "Malformed request: POST"),
        ("GET", "/v1/models/other", None, 404, "Servable not found"),
        ("GET", f"/v1/models/{NAME}/versions/9", None, 404, "Could not find version 9"),
        ("GET", "/v1/elsewhere", None, 404, "Malformed request"),
        ("POST", f"/v1/models/{NAME}:predict", b"{", 400, "JSON Parse error"),
        ("POST", f"/v1/models/{NAME}:predict", b"{}", 400, "Missing 'inputs' or 'instances'"),
        ("POST", f"/v1/models/{NAME}:predict", b'{"signature_name": "no", "instances": [1]}', 400,
         "not found in signature def; it has classify, features, predict, serving_default"),
        ("POST", f"/v1/models/{NAME}:predict", b" " * 200_000, 413, "larger than 100000 bytes"),
    ],
)  # fmt: skip
def test_errors_are_json(
    method: str, path: str, body: bytes | None, status: int, text: str, port: int
) -> None:
    found, answer = ask(port, method, path, body)
    assert found == status
    assert list(answer) == ["error"]
    assert text in answer["error"]


def test_nothing_to_serve_and_a_taken_port(tmp_path: Path) -> None:
    with pytest.raises(InputMissingError, match="no version to serve"):
        Versions(tmp_path)
    taken = server.bound("127.0.0.1", 0)
    taken.listen()
    with pytest.raises(OutputError, match="cannot listen there"):
        server.bound("127.0.0.1", taken.getsockname()[1])
    taken.close()


def test_a_bad_version_does_not_take_over(servable: Path, tmp_path: Path) -> None:
    folder = tmp_path / NAME
    shutil.copytree(servable, folder)
    versions = Versions(folder)
    (folder / "2").mkdir()
    versions.look()
    assert (versions.get().number, versions.states) == (1, {1: "AVAILABLE", 2: "failed"})
    newer_one = folder / "3"
    shutil.copytree(folder / "1", newer_one)
    versions.look()
    assert versions.get().number == 3
    assert versions.get(1).number == 1
    shutil.rmtree(newer_one)
    shutil.rmtree(folder / "2")
    versions.look()
    assert (versions.get().number, versions.states[3]) == (1, "END")


@pytest.mark.parametrize(
    ("requests", "switches"), [(200, 2), pytest.param(10_000, 12, marks=pytest.mark.slow)]
)
def test_no_request_fails_while_versions_switch(
    requests: int, switches: int, servable: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / NAME
    shutil.copytree(servable, folder)
    body = (folder / "1" / "sample_request.json").read_bytes()
    with running(folder) as number:
        ended = threading.Event()

        def publish_again() -> None:
            for i in range(switches):
                newer(folder)
                while not ended.is_set():
                    status = ask(number, "GET", f"/v1/models/{NAME}")[1]["model_version_status"]
                    if status[0]["version"] == str(i + 2):
                        break
                    time.sleep(0.05)
                publish.prune(folder, keep=2)

        thread = threading.Thread(target=publish_again)
        thread.start()
        found = load("127.0.0.1", number, f"/v1/models/{NAME}:predict", body, requests=requests)
        while thread.is_alive() and requests < 1000:
            # Few requests are over before the last version is there: go on until it is.
            more = load("127.0.0.1", number, f"/v1/models/{NAME}:predict", body, requests=50)
            found = found.plus(more)
        ended.set()
        thread.join()
        status = ask(number, "GET", f"/v1/models/{NAME}")[1]["model_version_status"]
    assert found.failures == 0
    assert found.requests >= requests
    assert int(status[0]["version"]) > 1
    with capsys.disabled():
        if requests >= 1000:
            print(f"\n{found.sentence()}; versions up to {status[0]['version']}")


@pytest.mark.skipif(browser.found() is None, reason="needs a Chromium")
def test_the_page_in_a_real_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dropped digit gets a label, bars and an explanation; names are text, never markup."""
    monkeypatch.setattr(candidate, "loaders", in_this_process)
    folder = tmp_path / "digits"
    zero, one = (digit_pngs((0, 1), 40)[digit] for digit in (0, 1))
    tltf.export(_digits_model(zero, one), labels=("zero <img src=x>", "one"), to=folder)
    program = browser.found()
    assert program is not None
    with running(folder) as number, browser.page(program) as page:
        page.open(f"http://127.0.0.1:{number}/")
        page.wait("document.getElementById('about').textContent.includes('version 1')")
        page.evaluate(_drop(zero[0]))
        page.wait("!document.getElementById('answer').hidden")
        assert page.evaluate("document.getElementById('label').textContent") == "zero <img src=x>"
        assert page.evaluate("document.querySelectorAll('img').length") == 0
        assert page.evaluate("document.querySelectorAll('.bar').length") == 2
        assert page.evaluate("document.getElementById('verdict').textContent") == "accepted"
        painted = "document.getElementById('picture').getContext('2d').getImageData(0,0,320,320)"
        assert page.evaluate(f"new Set({painted}.data).size") > 8
        assert page.screenshot().startswith(b"\x89PNG")
        page.evaluate(_drop(b"no image"))
        page.wait("document.getElementById('label').textContent === 'cannot be read'")


def _drop(data: bytes) -> str:
    """A file that is dropped on the page."""
    coded = base64.b64encode(data).decode()
    return f"""(() => {{
      const bytes = Uint8Array.from(atob("{coded}"), c => c.charCodeAt(0));
      const transfer = new DataTransfer();
      transfer.items.add(new File([bytes], "digit.png", {{type: "image/png"}}));
      document.getElementById("drop").dispatchEvent(
        new DragEvent("drop", {{dataTransfer: transfer, bubbles: true, cancelable: true}}));
    }})()"""


def _digits_model(zero: list[bytes], one: list[bytes]) -> keras.Model:
    """Logistic regression on the pixels of real digits."""
    from sklearn.linear_model import LogisticRegression

    from tltf.data import decoding

    x = np.stack([decoding.resize(decoding.decode(item), tiny.SIDE) for item in [*zero, *one]])
    fitted = LogisticRegression(C=1e-4).fit(x.reshape(len(x), -1), [0] * len(zero) + [1] * len(one))
    image = keras.Input((tiny.SIDE, tiny.SIDE, 3))
    dense = keras.layers.Dense(2)
    model = keras.Model(image, dense(keras.layers.Flatten()(image)))
    half = np.concatenate([-fitted.coef_.T, fitted.coef_.T], axis=1) / 2
    dense.set_weights([half, np.array([-1, 1]) * fitted.intercept_[0] / 2])
    return model
