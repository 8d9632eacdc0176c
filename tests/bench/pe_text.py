"""Text towers side by side with open_clip's, same weights, one run: batches of captions, and a zero-shot classifier.

uv run python tests/bench/pe_text.py [--sizes T B] [--classes 1000] [--threads 2]
"""

import argparse

import torch
from side_by_side import compare, machine

import plm_core
from plm_core import weights

THEIRS = {"t16_384": "PE-Core-T-16-384", "b16_224": "PE-Core-B-16"}
CAPTIONS = (
    "a photo of a dog running on the beach",
    "two people sit at a table in a restaurant",
    "a red car parked in front of a house",
    "the kitchen has a large window above the sink and a small table",
    "a close up of a flower",
    "a man rides a wave on top of a surfboard in the ocean",
    "a group of young children playing football in a park on a sunny day",
    "snowy mountains",
)


def pair(size: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Return our CLIP and open_clip's, with the same random weights."""
    import open_clip

    torch.manual_seed(0)
    theirs = open_clip.create_model(THEIRS[size]).eval()
    ours = plm_core.create_model(f"pe_clip_{size}").eval()
    weights.load(ours, theirs.state_dict())
    return ours, theirs


def classifiers(ours: torch.nn.Module, theirs: torch.nn.Module, classes: int, templates: int, rounds: int) -> None:
    """Compare the making of a zero-shot classifier, tokens included."""
    import open_clip

    from pe_encoder import zeroshot

    names = list(open_clip.IMAGENET_CLASSNAMES[:classes])
    texts = [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES[:templates]]
    tokenize = open_clip.tokenizer.SimpleTokenizer(context_length=ours.context_length)

    def made_by_us() -> torch.Tensor:
        return zeroshot.embed_classes(ours, names, texts)

    def made_by_open_clip() -> torch.Tensor:
        templates = [lambda name, text=text: text.format(name) for text in texts]
        return open_clip.build_zero_shot_classifier(theirs, tokenize, names, templates, num_classes_per_batch=10)

    worst = (made_by_us() - made_by_open_clip()).abs().max().item()
    title = f"classifier {classes} x {templates}"
    print(f"{title:<28} largest difference {worst:.1e}")
    compare(title, {"ours": made_by_us, "open_clip": made_by_open_clip}, rounds=rounds, warmup=0)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", nargs="+", default=["t16_384", "b16_224"])
    parser.add_argument("--batch-size", nargs="+", type=int, default=[1, 8, 64])
    parser.add_argument("--classes", type=int, default=0, help="Also a classifier of so many classes.")
    parser.add_argument("--templates", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--classifier-rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(machine("torch", "open_clip_torch", "pe-encoder"), f"{args.threads} threads")
    for size in args.sizes:
        ours, theirs = pair(size)
        for batch_size in args.batch_size:
            captions = [CAPTIONS[i % len(CAPTIONS)] + " today" * (i // len(CAPTIONS)) for i in range(batch_size)]
            ids = ours.tokenizer()(captions)
            worst = (ours.encode_text(ids) - theirs.encode_text(ids)).abs().max().item()
            title = f"{size}, batch {batch_size}"
            print(f"{title:<28} largest difference {worst:.1e}")
            contenders = {
                "ours": lambda ids=ids, m=ours: m.encode_text(ids),
                "open_clip": lambda ids=ids, m=theirs: m.encode_text(ids),
            }
            compare(title, contenders, rounds=args.rounds)
        if args.classes:
            classifiers(ours, theirs, args.classes, args.templates, args.classifier_rounds)


if __name__ == "__main__":
    main()
