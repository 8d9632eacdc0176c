"""Training steps on packed rows against rows padded to the greatest length, as the original trains, in one run.

uv run python tests/bench/plm_packing.py [--batch-size 16] [--threads 2] [--rounds 7]

The data are the embedded mix: questions about pictures and clips of the shapes world. Both sides have the model and the
processor of plm_micro_shapes with the same weights, the same samples, and a step of AdamW. A third contender pads to
the longest sample of each batch only.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from side_by_side import compare, machine
from torch import Tensor

from plm_core.lm.builders import perception_lm
from plm_core.lm.configs import MICRO, MICRO_LENGTH
from plm_core.lm.data import ConversationSamples, Sample, load_mixture, pack, pad
from plm_core.lm.documents import Learner, packed_logits
from plm_core.lm.micro.shapes import processor
from plm_core.lm.model import PerceptionLM, next_token_loss
from plm_core.lm.official import training_loss
from plm_core.lm.shapes_data import write_questions

MIX = "image:4,multi_image:1,image_region:1,caption:1,video:2,video_region:1,text:1"
BATCHES = 4


def samples(count: int) -> tuple[list[Sample], int]:
    """Return samples of the mix, and the token that fills rows up."""
    shown = processor()
    with tempfile.TemporaryDirectory() as folder:
        write_questions(folder, pictures=40, clips=16)
        rows = load_mixture(Path(folder) / "datasets.yaml", MIX, length=count)
        data = ConversationSamples(rows, shown.tokenizer, shown.settings, max_length=MICRO_LENGTH)
        return [data[index] for index in range(count)], data.encoder.pad_id


def model() -> PerceptionLM:
    """Return the micro model with random weights, the same ones each time."""
    torch.manual_seed(0)
    return perception_lm(**MICRO).train()


def stepper(parts: PerceptionLM, loss: Callable[[Sequence[Sample]], Tensor], batches: Sequence[Sequence[Sample]]):
    """Return a function that takes a step of AdamW for each batch."""
    optimizer = torch.optim.AdamW(parts.parameters(), lr=1e-5)

    def run() -> None:
        for batch in batches:
            optimizer.zero_grad()
            loss(batch).backward()
            torch.nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
            optimizer.step()

    return run


@torch.no_grad()
def apart(batch: Sequence[Sample], pad_id: int) -> float:
    """Return the largest difference of the losses of single samples, packed and padded."""
    whole = model()
    row = pack(batch)
    Learner(whole)
    places = torch.nonzero(row["labels"][0] != -100)[:, 0]
    logits = packed_logits(whole, row, places)
    document = torch.repeat_interleave(torch.arange(len(batch)), row["lengths"])[places]
    differences = []
    for number, sample in enumerate(batch):
        own = document == number
        packed = next_token_loss(logits[own], row["labels"][0, places[own]])
        differences.append(abs(float(packed - training_loss(whole, **pad([sample], MICRO_LENGTH, pad_id)))))
    return max(differences)


def main() -> None:
    """Print the differences of the losses and the times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine("plm-core", "torch", "transformers"))
    data, pad_id = samples(BATCHES * options.batch_size)
    batches = [data[i : i + options.batch_size] for i in range(0, len(data), options.batch_size)]
    lengths = [len(sample.input_ids) for sample in data]
    print(
        f"{len(data)} samples of {min(lengths)} to {max(lengths)} tokens, {sum(lengths) / len(lengths):.0f} on average"
    )
    print(f"largest difference of a sample's loss, packed and padded to {MICRO_LENGTH}: {apart(data[:16], pad_id):.1e}")
    ours, longest, original = model(), model(), model()
    learner = Learner(ours)

    def to_longest(batch: Sequence[Sample]) -> Tensor:
        return training_loss(longest, **pad(batch, max(len(sample.input_ids) for sample in batch), pad_id))

    contenders = {
        "packed": stepper(ours, lambda batch: learner(pack(batch)), batches),
        "padded to the longest": stepper(longest, to_longest, batches),
        "padded": stepper(original, lambda batch: training_loss(original, **pad(batch, MICRO_LENGTH, pad_id)), batches),
    }
    times = compare(f"steps of {options.batch_size} samples", contenders, rounds=options.rounds, warmup=1)
    for name, seconds in times.items():
        print(f"{name:<24} {len(data) / seconds:8.1f} samples/s, {times['padded'] / seconds:.2f} times padded")


if __name__ == "__main__":
    main()
