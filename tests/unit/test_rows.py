"""What identifies a row."""

from __future__ import annotations

import hashlib

import pyarrow as pa

from regraft import rows, tasks


def holdout(*pairs: tuple[str, int]) -> pa.Table:
    texts, labels = zip(*pairs, strict=True)
    return pa.table({"text": pa.array(texts, pa.string()), "label": pa.array(labels, pa.int32())})


def test_a_relabelled_row_is_one_that_the_model_was_trained_on() -> None:
    trained = pa.table({"input": rows.inputs(pa.array(["a good film", "a bad film"]))})
    found = rows.seen(holdout(("a good film", 0), ("a good film", 1), ("a dull film", 0)), trained)
    assert found.tolist() == [True, True, False]


def test_space_and_spelling_of_accents_do_not_make_another_input() -> None:
    one, other = rows.inputs(pa.array(["  a  fine\u0301 film ", "a fin\u00e9 film"]))
    assert one == other
    assert one == hashlib.sha256("a fin\u00e9 film".encode()).hexdigest()


def test_of_a_model_that_an_earlier_regraft_trained_label_and_input_are_known() -> None:
    digest = hashlib.sha256(b"positive\na good film").hexdigest()
    trained, document = pa.table({"digest": pa.array([digest])}), {"recipe": {"data.labels": ["negative", "positive"]}}
    asked = holdout((" a good film", 1), ("a good film", 0), ("a bad film", 1))
    found = tasks.seen("text-classification", asked, trained, document)
    assert found.tolist() == [True, False, False]


def test_no_row_is_seen_by_a_model_without_training_rows() -> None:
    trained = pa.table({"input": pa.array([], pa.string())})
    assert rows.seen(holdout(("a", 0)), trained).tolist() == [False]
    assert rows.seen(holdout(("a", 0)).slice(0, 0), trained).tolist() == []
