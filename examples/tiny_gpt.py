"""A character GPT on the documentation that ships with Python, by PyTorch with fastdl.

python examples/tiny_gpt.py              # two minutes, then a sample
"""

import argparse
from contextlib import nullcontext
from pydoc_data.topics import topics

import torch
import torch.nn.functional as F
from tqdm import tqdm

import fastdl.torch
from bench.models import Language

LENGTH, BATCH = 128, 16


def text_as_tokens():
    text = "\n\n".join(topics.values())
    alphabet = sorted(set(text))
    codes = {letter: i for i, letter in enumerate(alphabet)}
    return torch.tensor([codes[letter] for letter in text]), alphabet


def batches(tokens, steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        starts = torch.randint(len(tokens) - LENGTH, (BATCH, 1), generator=generator)
        window = tokens[starts + torch.arange(LENGTH + 1)]
        yield window[:, :-1], window[:, 1:]


@torch.inference_mode()
def sample(model, alphabet, start, length=400, temperature=0.8):
    tokens = torch.tensor([[alphabet.index(letter) for letter in start]])
    generator = torch.Generator().manual_seed(0)
    for _ in range(length):
        scores = model(tokens[:, -LENGTH:])[:, -1] / temperature
        tokens = torch.cat(
            (tokens, torch.multinomial(scores.softmax(-1), 1, generator=generator)), 1
        )
    return "".join(alphabet[token] for token in tokens[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--plain", action="store_true", help="PyTorch alone, to compare")
    options = parser.parse_args()
    tokens, alphabet = text_as_tokens()
    torch.manual_seed(0)
    shape = {"layers": 4, "width": 192, "heads": 6, "causal": True, "norm_first": True}
    model = Language(len(alphabet), LENGTH, **shape)
    if not options.plain:
        print(fastdl.torch.patch(model))  # its forward calls attention itself: override() below
    optim = torch.optim if options.plain else fastdl.torch.optim
    optimizer = optim.AdamW(model.parameters(), lr=1e-3)
    with nullcontext() if options.plain else fastdl.torch.override():
        progress = tqdm(batches(tokens, options.steps), total=options.steps, unit="step")
        for x, y in progress:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
            loss.backward()
            optimizer.step()
            progress.set_postfix(loss=f"{loss.item():.3f}")
        print(sample(model.eval(), alphabet, "The function "))


if __name__ == "__main__":
    main()
