"""The audit: every file that was found has its outcome, whatever it is and is called."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from commands import tltf
from pictures import encoded, pixels
from PIL import Image
from sklearn.datasets import load_digits

from tltf.backbones.hub.archives import extract
from tltf.cli.audit import table
from tltf.data import perceptual, prepare
from tltf.data.audit import audit, is_clean
from tltf.evaluation import auditpage
from tltf.spec import DataSpec
from tltf.stages.auditing import run_audit

ACCEPTED = ("decode to", "decode pixels, ignore", "convert", "drop", "as above", "scale,")


def smooth(seed: int, side: int = 64) -> Image.Image:
    """A picture that is no noise: saved again it looks the same."""
    return Image.fromarray(pixels(seed, height=6, width=6)).resize((side, side), 3)


def outcomes(found: dict) -> dict[str, str]:
    return {
        row["path"]: f"{row['outcome']}: {row['reason']}".rstrip(": ") for row in found["files"]
    }


def test_a_clean_folder(photos: Path) -> None:
    found = audit(DataSpec(source=str(photos))).found
    assert is_clean(found)
    assert found["counts"] == {"found": 50, "ok": 50, "warning": 0, "bad": 0, "ignored": 0}
    assert found["classes"]["test"] == {"cat": 5, "dog": 3}
    assert found["imbalance"] == 1.5
    assert found["images"]["channels"] == {"rgb": 50}
    assert found["images"]["width"]["median"] == 16


def test_every_file_is_in_the_list(tmp_path: Path, photos: Path) -> None:
    cat = photos / "cat"
    (cat / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    (cat / "._x.png").write_bytes(b"x")
    (cat / "gone.png").symlink_to(tmp_path / "nowhere")
    (photos / "empty").mkdir()
    (photos / "note.txt").write_text("hello")
    shutil.copy(cat / "00.png", photos / "dog" / "twin.png")
    shutil.copy(cat / "01.png", cat / "png.jpg")
    found = audit(DataSpec(source=str(photos))).found
    assert not is_clean(found)
    rows = outcomes(found)
    assert rows["cat/broken.jpg"] == "bad: truncated or corrupt JPEG"
    assert rows["cat/gone.png"] == "bad: dangling link"
    assert rows["empty"] == "bad: empty class folder"
    assert rows["cat/._x.png"] == "ignored: hidden or system file"
    assert rows["note.txt"] == "ignored: in no class folder"
    assert rows["dog/twin.png"] == "warning: the same content as cat/00.png, with another label"
    assert rows["cat/png.jpg"] == (
        "warning: the same content as cat/01.png; a PNG by its content, which counts"
    )
    counts = found["counts"]
    assert counts["found"] == sum(counts[k] for k in ("ok", "warning", "bad", "ignored")) == 57
    assert found["duplicates"]["n_conflicts"] == 1
    assert found["duplicates"]["exact"][0]["conflict"]


def test_pictures_saved_again_are_near_duplicates(tmp_path: Path) -> None:
    for i in range(24):
        path = tmp_path / "d" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        smooth(i).save(path)
    smooth(0).resize((50, 40)).save(tmp_path / "d" / "b" / "again.jpg", quality=60)
    found = audit(DataSpec(source=str(tmp_path / "d"))).found
    (pair,) = found["duplicates"]["near"]
    assert [member["path"] for member in pair["files"]] == ["a/0.png", "b/again.jpg"]
    assert pair["conflict"]
    assert is_clean(found)


def test_leaks_across_named_splits(tmp_path: Path) -> None:
    for split, start in (("train", 0), ("test", 100)):
        for i in range(start, start + 8):
            path = tmp_path / "d" / split / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            smooth(i).save(path)
    smooth(0).save(tmp_path / "d" / "test" / "a" / "leak.jpg", quality=70)
    data = DataSpec(source=str(tmp_path / "d"), val_fraction=0.0)
    found = audit(data).found
    assert found["duplicates"]["n_near_across_splits"] == 1
    assert is_clean(found)
    strict = audit(DataSpec(source=data.source, val_fraction=0.0, fail_on_leak=True)).found
    assert strict["problems"] == ["1 near-duplicate pairs across splits"]


def test_one_class_is_a_problem(tmp_path: Path, make_picture: Callable[..., Path]) -> None:
    for i in range(4):
        make_picture(tmp_path / "d" / "only" / f"{i}.png", i)
    found = audit(DataSpec(source=str(tmp_path / "d"))).found
    assert found["problems"] == ["1 classes (only), expected at least 2"]


def test_texts(tmp_path: Path) -> None:
    rows = [f"text {i},{'ab'[i % 2]}" for i in range(20)] + ["TEXT  3,a", "lost \ufffd,b"]
    (tmp_path / "t.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    found = audit(DataSpec(source=str(tmp_path / "t.csv"))).found
    assert found["images"] is None
    assert found["texts"]["n"] == 22
    assert found["texts"]["repeated"] == 1
    assert found["duplicates"]["n_near_pairs"] == 1
    assert outcomes(found)["t.csv:23"] == "warning: holds U+FFFD: characters were lost"


def test_bad_rows_of_a_table(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text,label\nfine,a\n,b\n")
    found = audit(DataSpec(source=str(tmp_path / "t.csv"))).found
    assert outcomes(found) == {"t.csv:3": "bad: empty text"}
    assert "the other rows were not looked at" in found["problems"][0]


def test_names_are_data_on_the_page(tmp_path: Path) -> None:
    for i in range(12):
        path = tmp_path / "d" / ("<script>alert(1)<!--", "{{ 7*7 }}")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        smooth(i % 8).save(path)
    (tmp_path / "d" / "{{ 7*7 }}" / "\x1b[31m\n\u202ered.jpg").write_bytes(b"no")
    found = run_audit(DataSpec(source=str(tmp_path / "d")), out=tmp_path / "o")
    page = (tmp_path / "o" / "audit.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "{{ 7*7 }}/\\x1b[31m\\n\\u202ered.jpg" in page
    assert not {"\x1b", "\u202e"} & set(page)
    assert "data:image/jpeg;base64" in page
    assert json.loads((tmp_path / "o" / "audit.json").read_text()) == found
    assert set(auditpage.shown(found)) <= {row["path"] for row in found["files"]}


def test_the_command(tmp_path: Path, photos: Path) -> None:
    done = tltf("audit", data=photos, out=tmp_path / "o")
    assert done.code == 0, done.err
    assert "50 found: 50 ok, 0 warning, 0 bad, 0 ignored" in done.out
    assert (tmp_path / "o" / "audit.html").is_file()
    (photos / "cat" / "bad.jpg").write_bytes(b"")
    done = tltf("audit", data=photos)
    assert done.code == 65
    assert done.last_line.startswith("tltf: 1 of 51 files are bad: cat/bad.jpg (empty file)")
    assert tltf("audit", data=tmp_path / "nowhere").code == 66


def test_fifty_awkward_files(shared_data: Path, tmp_path: Path) -> None:
    """The outcome of each file is what its manifest asks for."""
    with tarfile.open(shared_data / "nasty" / "public.tar.gz") as tar:
        extract(tar, tmp_path)
    root = tmp_path / "nasty"
    found = audit(DataSpec(source=str(root))).found
    rows = {row["path"]: row["outcome"] for row in found["files"]}
    table = json.loads((root / "MANIFEST.json").read_text())["files"]
    assert rows.keys() == {entry["file"] for entry in table} | {"MANIFEST.json"}
    assert found["counts"] == {"found": 51, "ok": 21, "warning": 6, "bad": 21, "ignored": 3}
    for entry in table:
        outcome, expected = rows[entry["file"]], entry["expected"]
        if expected.startswith(("refuse", "clear unsupported", "bounded memory")):
            assert outcome == "bad", entry
        if expected.startswith("skip"):
            assert outcome == "ignored", entry
        if expected.startswith(ACCEPTED):
            assert outcome in ("ok", "warning"), entry


@pytest.mark.slow
def test_flowers_hold_one_real_duplicate(shared_data: Path, tmp_path: Path) -> None:
    with tarfile.open(shared_data / "images" / "flowers128" / "public.tar.gz") as tar:
        extract(tar, tmp_path)
    root = tmp_path / "flowers128"
    # Planted: a copy with another label, and one that was saved again.
    shutil.copy(root / "rose" / sorted(p.name for p in (root / "rose").iterdir())[0],
                root / "tulip" / "copy.jpg")  # fmt: skip
    Image.open(sorted((root / "daisy").iterdir())[0]).resize((100, 90)).save(
        root / "daisy" / "again.jpg", quality=55
    )
    twins = audit(DataSpec(source=str(root))).found["duplicates"]
    groups = [{m["path"] for m in group["files"]} for group in twins["exact"]]
    real = {f"sunflower/{n}_m.jpg" for n in ("14889392928_9742aed45b", "15066430311_fb57fa92b0")}
    assert real in groups
    assert len(groups) == 2
    assert twins["n_conflicts"] == 1
    (pair,) = twins["near"]
    assert "daisy/again.jpg" in {m["path"] for m in pair["files"]}


def test_encoded_is_used_for_gif(tmp_path: Path) -> None:
    """An animated GIF, a grey and a 16-bit picture are used, and counted as what they are."""
    grey = Image.fromarray(pixels(1, channels=1)[:, :, 0])
    files = {"a/g.gif": encoded(smooth(1), "GIF"), "b/g.png": encoded(grey, "PNG")}
    for name, data in files.items():
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / name).write_bytes(data)
    found = audit(DataSpec(source=str(tmp_path / "d"))).found
    assert found["images"]["channels"] == {"palette": 1, "grey": 1}


def test_pictures_that_are_not_compared_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(perceptual, "MOST_COMPARED", 20)
    for i in range(24):
        path = tmp_path / "d" / "ab"[i % 2] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        smooth(i).save(path)
    smooth(30).resize((20, 20)).save(tmp_path / "d" / "a" / "small.png")
    data = DataSpec(source=str(tmp_path / "d"))
    found = audit(data).found
    twins = found["duplicates"]
    assert (twins["n_beyond_comparison"], twins["n_too_plain_to_compare"]) == (4, 1)
    sentence = "4 pictures beyond the first 20 were not compared"
    assert sentence in twins["not_compared"]
    assert sentence in auditpage.write_html(found, {})
    assert any(sentence in line for line in table(found))
    notes = prepare.prepared(data, seed=0).notes
    assert any(sentence in note for note in notes)


@pytest.mark.parametrize("side", [28, 32])
def test_digits_are_not_copies_of_each_other(side: int) -> None:
    """White strokes on black: most of what a fingerprint of so few pixels holds is the ground."""
    digits = load_digits().images[:300]
    prints = [
        perceptual.fingerprint(
            np.asarray(
                Image.fromarray((x * 255 / 16).astype("uint8")).resize((side, side)).convert("RGB")
            )
        )
        for x in digits
    ]
    assert perceptual.near_pairs(prints) == []


def test_mnist_has_no_false_pairs(shared_data: Path) -> None:
    with np.load(shared_data / "images" / "digits_mnist_usps" / "public.npz") as arrays:
        found = arrays["mnist_x"][:600]
    pictures = [np.repeat(x.reshape(28, 28, 1), 3, axis=2).astype(np.uint8) for x in found]
    assert perceptual.near_pairs([perceptual.fingerprint(x) for x in pictures]) == []
