"""What notebook 08 writes inline computes what the helpers compute."""

import pytest
import torch

from helpers import fast
from helpers.generation import draw
from tests.notebooks.cells import source


@pytest.fixture
def inline():
    """The notebook's functions of these names, from the cells that define them."""
    there: dict = {"torch": torch}
    for start in ("class HandLogps", "def pack", "def draw"):
        code = source("08", rf"{start}\(")
        exec(code[code.index(start) :].split("\n\n\n")[0], there)
        if start == "def pack":
            exec(code[code.index("def may_see") :].split("\n\n\n")[0], there)
    return there


def test_log_probs_and_their_gradient_are_those_of_token_logps(inline):
    torch.manual_seed(0)
    weight, targets = torch.randn(50, 8), torch.randint(50, (130,))
    push, results = torch.randn(130), []
    for score in (
        lambda h: inline["HandLogps"].apply(h, weight, targets),
        lambda h: fast.TokenLogps.apply(h, weight, targets, 1.0)[0],
    ):
        hidden = torch.linspace(-1, 1, 130 * 8).reshape(130, 8).requires_grad_()
        logps = score(hidden)
        (logps * push).sum().backward()
        results.append((logps.detach(), hidden.grad))
    for mine, course in zip(*results, strict=True):
        assert course.abs().max() > 0.1
        assert torch.allclose(mine, course, atol=1e-5)


def test_one_number_a_row_draws_the_same_tokens(inline):
    logits = torch.randn(200, 300)
    drawn = []
    for way in (
        lambda: inline["draw"](logits.softmax(-1)),
        lambda: draw(logits, 1.0),
    ):
        torch.manual_seed(3)
        drawn.append(way())
    assert torch.equal(*drawn) and len(set(drawn[0].tolist())) > 50


def test_a_packed_group_is_masked_as_the_helpers_mask_it(inline):
    prompt, completions = [5, 9, 2], [[4, 8], [7], [6, 3, 1]]
    seen = {}

    class Recorder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(4, 12, bias=False)
            self.base_model = self

        def get_output_embeddings(self):
            return self.head

        def forward(self, ids, attention_mask, position_ids, cache, use_cache):
            seen.update(ids=ids, mask=attention_mask, positions=position_ids)
            hidden = torch.zeros(*ids.shape, 4)
            return type("Output", (), {"last_hidden_state": hidden})

    rows = torch.tensor([prompt + c + [0] * (3 - len(c)) for c in completions])
    real = (torch.arange(6) < torch.tensor([[3 + len(c)] for c in completions])).long()
    fast.packed_logps(Recorder(), rows, real, 3, 1.0)
    ids, owner = inline["pack"](prompt, completions)
    assert seen["ids"].tolist() == [ids]
    assert torch.equal(seen["mask"][0, 0] == 0, inline["may_see"](owner))
    assert seen["positions"].tolist() == [[0, 1, 2, 3, 4, 3, 3, 4, 5]]
