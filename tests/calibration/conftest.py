import pytest
import torch


@pytest.fixture
def sampled():
    """Logits and labels that were drawn from softmax(logits / temperature)."""

    def draw(rows=500, classes=7, temperature=1.0, seed=0, dtype=torch.float64):
        generator = torch.Generator().manual_seed(seed)
        logits = 2 * torch.randn(rows, classes, generator=generator, dtype=torch.float64)
        targets = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
        return (temperature * logits).to(dtype), targets

    return draw
