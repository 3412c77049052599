"""Learns handwritten digits with PyTorch; start a server with `losswire serve` first.

One line is not PyTorch's: where the loss is made, `losswire.torch` stands in place of `torch.nn`.
"""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import losswire.torch

torch.manual_seed(0)
pixels, labels = load_digits(return_X_y=True)
parts = train_test_split(pixels / 16, labels, test_size=0.25, random_state=0)
train_x, test_x = (torch.tensor(part, dtype=torch.float32) for part in parts[:2])
train_y, test_y = (torch.tensor(part) for part in parts[2:])

model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
loss_function = losswire.torch.CrossEntropyLoss()  # was: torch.nn.CrossEntropyLoss()

for _ in range(10):
    for batch in torch.randperm(len(train_x)).split(64):
        optimizer.zero_grad()
        loss = loss_function(model(train_x[batch]), train_y[batch])
        loss.backward()
        optimizer.step()

accuracy = (model(test_x).argmax(1) == test_y).float().mean()
print(f"loss {loss.item():.4f}, test accuracy {accuracy:.4f}")
