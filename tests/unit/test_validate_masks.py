"""Personal data in what people are shown: its kind stands in its place, whole, and nothing else is lost."""

from __future__ import annotations

import random
import time

import pytest

from components.validate.mask import filled
from components.validate.text import REACH, masked


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("write to jo.b+x@mail.example.co.uk.", "write to [e-mail]."),
        ("a@example.org, b@example.org", "[e-mail], [e-mail]"),
        ("card 4111-1111-1111-1111 or 4111 1111 1111 1112", "card [card] or 4111 1111 1111 1112"),
        ("DE89 3704 0044 0532 0130 00 pays", "[iban] pays"),
        ("from 10.0.0.17 to 10.0.0.256", "from [ip] to 10.0.0.256"),
        ("call +49 30 1234567 or (555) 123-4567", "call [phone] or [phone]"),
        ("ssn 123-45-6789", "ssn [ssn]"),
        ("5 of 10 rows (50.0%) at 2026-11-24 03:00, 1,234,567", "5 of 10 rows (50.0%) at 2026-11-24 03:00, 1,234,567"),
        ("two\n lines", "two lines"),
        ("", ""),
    ],
)
def test_personal_data_is_shown_as_its_kind(text: str, shown: str) -> None:
    assert masked(text, 200) == shown


def test_a_text_is_cut_and_what_the_cut_goes_through_is_masked_whole() -> None:
    assert masked("x" * 30, 20) == "x" * 20 + "…"
    assert masked("x" * 20, 20) == "x" * 20
    for at in range(10, 19):
        assert masked(f"{'-' * at} grace.brewster@example.org and more", 20) == f"{'-' * at} [e-mail]…"
    longest = f"{'a' * 64}@{'b' * 60}.{'c' * 60}.{'d' * 60}.{'e' * 60}.org"
    assert masked(f"from {longest}", 6) == "from [e-mail]"
    assert len(longest) <= REACH


def test_a_text_without_end_takes_no_time() -> None:
    started = time.process_time()
    for text in ("a" * 10**7, "1 " * 10**6, "@" * 10**6, "a@" * 10**6, "+1" * 10**6, "AA11" * 10**6):
        assert len(masked(text, 200)) < 2_000
    assert time.process_time() - started < 1


def test_how_far_rows_fill_their_batches_is_what_finetune_s_order_makes_of_them() -> None:
    from components.finetune.train import order
    from regraft.parts import Training

    chance = random.Random(1)
    lengths = [int(chance.lognormvariate(4, 0.5)) + 1 for _ in range(2000)]
    for size in (8, 32):
        made = [lengths[row] for row in order(lengths, training=Training(epochs=1, batch_size=size))]
        batches = [made[at : at + size] for at in range(0, len(made), size)]
        actual = sum(lengths) / sum(len(batch) * max(batch) for batch in batches)
        assert filled(lengths, size, train=2000) == pytest.approx(actual, abs=0.03)
    assert filled(lengths, 8, train=2000) > filled(lengths, 8, train=16)
    assert filled([7] * 100, 8, train=100) == 1
    assert filled([], 8, train=0) == 1
