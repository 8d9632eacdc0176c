"""The time to the first token, and tokens per second in a batch, against transformers' PerceptionLM, one run.

uv run python tests/bench/plm_generation.py [--parts first batch] [--shrink 4] [--rounds 5] [--threads 2] [--device cpu]

Both sides have the same random weights, of the proportions of the 1B model with a quarter of its widths. The first
token of an answer about a photo of 640 x 480 pixels takes reading the tiles, the tower, and the whole prompt.
"""

import argparse

import torch
from side_by_side import compare, machine
from transformers import PerceptionLMConfig, PerceptionLMForConditionalGeneration
from transformers.models.perception_lm.image_processing_perception_lm import PerceptionLMImageProcessor

import plm_core
from plm_core import lm, weights
from plm_core.lm.configs import SIZES
from plm_core.lm.media import MediaSettings, image_chunks
from plm_core.samples import photo

PARTS = ("first", "batch")
VOCABULARY = 128_256
NEW = 32


def config(shrink: int) -> dict:
    """Return the configuration of the 1B model with smaller widths."""
    whole = SIZES["1b"].config
    vision, text = whole["vision_config"], whole["text_config"]
    arguments = {**vision["model_args"], "embed_dim": 1024 // shrink, "num_heads": 16 // shrink}
    widths = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "vocab_size")
    small = {name: text[name] // shrink for name in widths}
    ids = {"image_token_id": 2, "video_token_id": 3}
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    return {
        **whole,
        **ids,
        "vision_config": {**vision, "model_args": arguments},
        "text_config": {**text, **small, **special},
    }


def models(
    shrink: int, device: str, dtype: torch.dtype
) -> tuple[lm.PerceptionLM, PerceptionLMForConditionalGeneration]:
    """Return our model and transformers', with the same weights."""
    torch.manual_seed(0)
    theirs = PerceptionLMForConditionalGeneration(PerceptionLMConfig(**config(shrink))).eval()
    ours = lm.build(config(shrink)).eval()
    weights.load(ours, {name: x for name, x in theirs.state_dict().items() if name != "lm_head.weight"})
    return ours.to(device, dtype), theirs.to(device, dtype)


def prompt(chunks: int, words: int) -> torch.Tensor:
    """Return ids of a question: the places of the visual tokens, and words."""
    return torch.tensor([[0] + [2] * (256 * chunks) + [10 + i for i in range(words)]])


@torch.no_grad()
def first(args: argparse.Namespace) -> None:
    """Time from the photo to the first token."""
    ours, theirs = models(args.shrink, args.device, args.dtype)
    picture = photo().resize((640, 480))
    processor = PerceptionLMImageProcessor(tile_size=448, max_num_tiles=36, vision_input_type="thumb+tile")
    greedy = {"max_new_tokens": 1, "do_sample": False}

    def with_ours(max_tokens: int | None) -> torch.Tensor:
        chunks = image_chunks(picture, MediaSettings(max_tokens=max_tokens, path="tensor"))
        ids = prompt(len(chunks), 20).to(args.device)
        return ours.generate(ids, pixel_values=chunks.to(args.device), **greedy)

    def with_theirs() -> torch.Tensor:
        chunks = processor(picture, return_tensors="pt")["pixel_values"].to(args.device)
        ids = prompt(chunks.shape[1], 20).to(args.device)
        return theirs.generate(ids, attention_mask=torch.ones_like(ids), pixel_values=chunks, **greedy)

    assert torch.equal(with_ours(None), with_theirs()), "the first tokens differ"
    contenders = {
        "max_tokens=2560": lambda: with_ours(2560),
        "ours": lambda: with_ours(None),
        "transformers": with_theirs,
    }
    compare("time to the first token", contenders, rounds=args.rounds, warmup=1)
    if args.device == "cpu":
        plm_core.apply(ours, "packed")
        compare(
            "the same, packed",
            {"ours": lambda: with_ours(None), "transformers": with_theirs},
            rounds=args.rounds,
            warmup=1,
        )


@torch.no_grad()
def batch(args: argparse.Namespace) -> None:
    """Time of eight answers in a batch, and one by one."""
    ours, theirs = models(args.shrink, args.device, args.dtype)
    g = torch.Generator().manual_seed(0)
    lengths = [12, 25, 40, 18, 60, 33, 9, 50]
    texts = [torch.randint(10, VOCABULARY // args.shrink, (1, length), generator=g) for length in lengths]
    greedy = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None, "pad_token_id": 1}
    longest = max(lengths)
    ids = torch.cat([torch.nn.functional.pad(text, (longest - text.shape[1], 0), value=1) for text in texts])
    mask = torch.cat([torch.arange(longest)[None] >= longest - length for length in lengths]).long()
    texts, ids, mask = [text.to(args.device) for text in texts], ids.to(args.device), mask.to(args.device)

    def together() -> torch.Tensor:
        return ours.generate(ids, mask, **greedy)[:, longest:]

    def apart(model: torch.nn.Module) -> torch.Tensor:
        rows = [
            model.generate(text, attention_mask=torch.ones_like(text), **greedy)[:, text.shape[1] :] for text in texts
        ]
        return torch.cat(rows)

    assert torch.equal(together(), apart(ours)), "a batch gives other tokens"
    contenders = {
        "a batch of 8": together,
        "one by one": lambda: apart(ours),
        "transformers, one by one": lambda: apart(theirs),
    }
    medians = compare("eight answers", contenders, rounds=args.rounds, warmup=1)
    for name, seconds in medians.items():
        print(f"{name:<28} {8 * NEW / seconds:9.1f} tokens/s")


def main() -> None:
    """Read the options and run the parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--shrink", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", type=lambda name: getattr(torch, name), default=torch.float32)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(machine())
    for part in args.parts:
        {"first": first, "batch": batch}[part](args)


if __name__ == "__main__":
    main()
