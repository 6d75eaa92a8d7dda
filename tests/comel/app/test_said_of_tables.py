"""What commands say on standard error of a manifest and of a folder: once, and not if they are to be quiet."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path

from tests.comel.toys import Stream

Cli = Callable[..., tuple[int, str, str]]


def test_unused_columns_and_look_alikes_are_said_once(
    toy_run: Path, toy_stream: Stream, tmp_path: Path, comel_cli: Cli
) -> None:
    slide = str(toy_stream.rows[0]["slide_id"])
    path = tmp_path / "m.csv"
    path.write_text(
        f"sep=;\nslide_id;path;label;task;stain;patient_id\n{slide};a.svs;normal;colon;HE;P1\nx;b.svs;y;colon;;p1\n"
    )
    words = ("predict", toy_run, path, "--bags", toy_stream.bags, "--out", tmp_path / "out")
    _, _, said = comel_cli(*words)
    assert said.count("note: m.csv: column stain is not used") == 1
    assert said.count("note: m.csv column patient_id: 'P1' and 'p1' are two patients") == 1
    assert all("note:" not in comel_cli(*words, option)[2] for option in ("--quiet", "--json"))


def test_files_that_are_left_out_of_a_folder_are_counted(
    toy_stream: Stream, toy_run: Path, tmp_path: Path, comel_cli: Cli
) -> None:
    bag = Path(toy_stream.bag(toy_stream.rows[0]["slide_id"]))
    (tmp_path / "bags").mkdir()
    name = unicodedata.normalize("NFD", "Präparat")
    (tmp_path / "bags" / f"{name}.h5").write_bytes(bag.read_bytes())
    for other in ("a.npy", "b.npy", "c.svs"):
        (tmp_path / "bags" / other).touch()
    for words in (
        ("bags", "check", tmp_path / "bags"),
        ("bags", "stats", tmp_path / "bags"),
        ("predict", toy_run, tmp_path / "bags", "--out", tmp_path / "out"),
    ):
        code, _, said = comel_cli(*words)
        assert code == 0
        assert said.count("2 .npy, 1 .svs") == 1
    path = tmp_path / "m.csv"
    path.write_text(unicodedata.normalize("NFC", "slide_id,path,label,task\nPräparat,a.svs,normal,colon\n"), encoding="utf-8")
    code, out, _ = comel_cli("predict", toy_run, path, "--bags", tmp_path / "bags", "--out", tmp_path / "again", "--quiet")
    assert (code, out.count("tiles positive")) == (0, 1)
