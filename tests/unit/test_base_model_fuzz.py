"""Whatever the files of a base model say, and whoever wrote them."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from regraft import base_model
from regraft.errors import BadInput
from tests.unit.test_base_model import declared, headed

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 99)
    | st.sampled_from([10**99, 10**200, 1e300, 0.5, "", "5", "\ud800", "\0"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["vocab", "id", "data_offsets", "a.0.b", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = {
    "config.json": [
        "model_type",
        "vocab_size",
        "max_position_embeddings",
        "pad_token_id",
        "num_hidden_layers",
        "n_layer",
    ],
    "tokenizer.json": ["model", "added_tokens"],
    "tokenizer_config.json": ["model_max_length"],
    "model.safetensors.index.json": ["weight_map"],
    "model.safetensors": ["bert.encoder.layer.0.x", "a.7", "__metadata__"],
}


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_whatever_the_files_say_they_hold_or_are_refused_with_a_sentence(tiny_base: Path, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        base = Path(shutil.copytree(tiny_base, Path(folder) / "base"))
        name = data.draw(st.sampled_from(list(KEYS)))
        if name.endswith(".index.json"):
            (base / "model.safetensors").unlink()
        known = json.loads((base / name).read_text()) if name in ("config.json", "tokenizer.json") else {}
        odd = data.draw(st.dictionaries(st.sampled_from(KEYS[name]), values, min_size=1))
        text = json.dumps(data.draw(st.sampled_from([odd, {**known, **odd}, [odd]])))
        text = data.draw(st.sampled_from([text] * 8 + ["[" * 100_000, '{"vocab_size": ' + "9" * 5000 + "}"]))
        if name == "model.safetensors":
            headed(base, text.encode())
        else:
            (base / name).write_text(text)
        said = None
        try:
            base_model.check(declared(base), base)
        except BadInput as error:
            said = error
        if said is not None:
            assert said.where
            assert said.next
            str(said).encode()
