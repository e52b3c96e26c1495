"""Random choices of the same size, which depend on the seed and the request alone."""

from __future__ import annotations

import pytest
import torch

from mmhall.adapters._base import Request
from mmhall.strategies import (
    other_pictures,
    random_choice,
    random_columns,
    random_like,
    random_subspace,
    shuffled_columns,
    twin_generator,
)
from mmhall.strategies._twins import drawn_picture
from tests.generation.reference import REQUESTS, ours


def test_seeds_and_names_draw_apart_and_again_the_same():
    draws = [torch.rand(4, generator=twin_generator(*key)) for key in ((1, "a"), (2, "a"), (1, "b"), (1, "a"))]
    assert torch.equal(draws[0], draws[3])
    assert not any(torch.equal(draws[0], other) for other in draws[1:3])


def test_a_random_direction_has_the_norm_of_the_informed_one():
    vectors = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 0.0], [1.0, 2.0, 2.0]])
    drawn = random_like(vectors, 1, "direction")
    torch.testing.assert_close(drawn.norm(dim=-1), torch.tensor([5.0, 0.0, 3.0]), atol=1e-6, rtol=0)
    assert torch.nn.functional.cosine_similarity(drawn[0], vectors[0], dim=0) < 0.999
    assert torch.nn.functional.cosine_similarity(drawn[0], drawn[2], dim=0) < 0.999


def test_a_random_subspace_is_orthonormal():
    basis = random_subspace(8, 3, 1, "subspace")
    torch.testing.assert_close(basis.T @ basis, torch.eye(3))


def test_as_many_entries_are_chosen_preferably_others():
    chosen = torch.tensor([[True, True, False, False, False], [True, True, True, True, False], [False] * 5])
    for twin in range(1, 20):
        drawn = random_choice(chosen, twin, "heads")
        assert drawn.sum(dim=-1).tolist() == [2, 4, 0]
        assert not (drawn & chosen)[0].any()
        assert drawn[1, 4]
    seen = {tuple(random_choice(chosen, twin, "heads")[0].nonzero()[:, 0].tolist()) for twin in range(1, 40)}
    assert seen == {(2, 3), (2, 4), (3, 4)}


def test_entries_outside_are_never_chosen():
    chosen, among = torch.tensor([True, False, False, False]), torch.tensor([True, False, True, False])
    for twin in range(1, 20):
        assert random_choice(chosen, twin, "layers", among).tolist() == [False, False, True, False]


def test_of_half_of_the_entries_others_or_any_are_chosen():
    """Of two in four, the others are the same two for every seed."""
    chosen = torch.tensor([True, True, False, False])
    opposite = {tuple(random_choice(chosen, twin, "heads").tolist()) for twin in range(1, 40)}
    assert opposite == {(False, False, True, True)}
    free = {tuple(random_choice(chosen, twin, "heads", others=False).tolist()) for twin in range(1, 60)}
    assert len(free) == 6
    assert all(sum(one) == 2 for one in free)


def test_values_of_columns_are_shuffled_among_them():
    values = torch.arange(12.0).view(2, 6)
    columns = torch.tensor([[False, True, True, True, True, False], [False, False, True, True, True, True]])
    shuffled = shuffled_columns(values, columns, 1, "map")
    assert torch.equal(shuffled[~columns], values[~columns])
    assert torch.equal(shuffled[columns].view(2, 4).sort(dim=1).values, values[columns].view(2, 4))
    assert torch.equal(shuffled[0, columns[0]] - 1, shuffled[1, columns[1]] - 8)  # padding does not matter
    assert any(not torch.equal(shuffled_columns(values, columns, twin, "map"), shuffled) for twin in (2, 3))


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_columns_are_drawn_from_the_text_and_do_not_depend_on_padding(family):
    adapter = ours(family)
    together = adapter.inputs(REQUESTS[:2])
    image = adapter.image_mask(together["input_ids"])
    few = image & (image.cumsum(dim=1) <= 2)
    drawn = random_columns(adapter, together, few, 3)
    assert drawn.sum(dim=1).tolist() == [2, 2]
    assert not (drawn & image).any()
    assert not (drawn & ~together["attention_mask"].bool()).any()
    for row, request in enumerate(REQUESTS[:2]):
        alone = adapter.inputs([request])
        image = adapter.image_mask(alone["input_ids"])
        own = random_columns(adapter, alone, image & (image.cumsum(dim=1) <= 2), 3)
        assert torch.equal(own[0], drawn[row, -own.shape[1] :])


def test_more_columns_than_text_are_drawn_from_all_but_the_first_token():
    adapter = ours("llava")
    inputs = adapter.inputs([Request("?", REQUESTS[0].images)])
    image = adapter.image_mask(inputs["input_ids"])
    drawn = random_columns(adapter, inputs, image, 1)
    assert drawn.sum() == image.sum()
    assert not drawn[0, 0]


def test_other_pictures_have_the_same_size_and_other_content():
    one, same, other = (drawn_picture((40, 30), twin) for twin in (1, 1, 2))
    assert one.size == (40, 30)
    assert one.tobytes() == same.tobytes() != other.tobytes()
    assert drawn_picture((40, 30), 1, variant=1).tobytes() != one.tobytes()
    adapter = ours("llava")
    inputs = adapter.inputs(REQUESTS[:2])
    others = other_pictures(adapter, inputs, 1)
    assert torch.equal(others["input_ids"], inputs["input_ids"])
    assert not torch.equal(others["pixel_values"], inputs["pixel_values"])
