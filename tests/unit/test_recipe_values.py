"""Whatever somebody may write into a recipe is taken by every runner, or is one error with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from regraft import cron, recipe
from regraft.errors import BadInput
from tests.unit.test_recipe import MINIMAL, errors_of

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def data(labels: str = "[a, b]", columns: str = "{text: text, label: label, time: t}", more: str = "") -> str:
    text = f"name: x\ntask: text-classification\nbase_model: {{source: x}}\ndata:\n  source: x\n  columns: {columns}\n"
    return text + f"  labels: {labels}\n{more}"


INFINITE = [
    f"{key}: {{{inner}: {value}}}"
    for value in (".inf", "-.inf", ".nan", "'inf'", "'nan'", "1e999", "'1e999'")
    for key, inner in [
        ("training", "epochs"),
        ("training", "learning_rate"),
        ("training", "weight_decay"),
        ("training", "seed"),
        ("serving", "queue_delay_ms"),
        ("serving", "latency_budget_ms"),
        ("gates", "max_latency_ms"),
        ("gates", "margin"),
    ]
] + ["resources: {deploy: {cpu: .inf}}", "resources: {deploy: {cpu: .nan}}"]

NUMBERS = [
    ("training: {seed: -1}", "training.seed"),
    ("training: {seed: 4294967296}", "training.seed"),
    ("training: {seed: 1.5}", "training.seed"),
    ("training: {seed: yes}", "YAML reads yes as true or false"),
    ("training: {epochs: on}", "YAML reads on as true or false"),
    ("training: {epochs: 1e-9}", "next to nothing"),
    ("training: {epochs: 1e+9}", "training.epochs"),
    ("training: {batch_size: 1000000000000000000000000}", "training.batch_size"),
    ("training: {max_length: 9999999999}", "training.max_length"),
    ("training: {evaluations: " + "9" * 5000 + "}", "is no int"),
    ("adapter: {target_modules: []}", "adapter.target_modules"),
    ("serving: {instances: 100000}", "serving.instances"),
    ("resources: {deploy: {cpu: 0.0001}}", "resources.deploy.cpu"),
    ("resources: {deploy: {cpu: 1e9}}", "resources.deploy.cpu"),
    ("resources: {deploy: {memory: 1.5Gi}}", "resources.deploy.memory"),
    ("resources: {deploy: {memory: 99999999999999999999Gi}}", "resources.deploy.memory"),
    ("resources: {deploy: {memory: ٣Gi}}", "resources.deploy.memory"),
    ("resources: {deploy: {memory: 1Mi}}", "at least 64Mi"),
    ("resources: {deploy: {memory: 4 Gi}}", "resources.deploy.memory"),
    ("resources: {deploy: {gpu: 1000}}", "resources.deploy.gpu"),
]

SCHEDULES = [
    ("cron: '0 0 30 2 *'", "names no date that exists"),
    ("cron: '0 0 31 4,6,9,11 *'", "names no date that exists"),
    ("cron: 'R 3 * * *'", "'R' is no minute"),
    ("cron: 'H 3 * * *'", "'H' is no minute"),
    ("cron: '0 0 L * *'", "'L' is no day of the month"),
    ("cron: '0 0 15W * *'", "'15W' is no day of the month"),
    ("cron: '0 0 ? * *'", "'?' is no day of the month"),
    ("cron: '0 0 * * 1#2'", "'1#2' is no day of the week"),
    ("cron: '@daily'", "not a five-field cron expression"),
    ("cron: '0 0 3 * * 1'", "not a five-field cron expression"),
    ("cron: ''", "not a five-field cron expression"),
    ("cron: '60 * * * *'", "'60' is no minute; it is from 0 to 59"),
    ("cron: '* * 0 * *'", "'0' is no day of the month"),
    ("cron: '*/0 * * * *'", "the step"),
    ("cron: '5/10 * * * *'", "5-59/10"),
    ("cron: '0 22-2 * * *'", "does not rise"),
    ("cron: '0 0 * * sat-mon'", "does not rise"),
    ("cron: '\u0660 * * * *'", "is no minute"),
    ("cron: '0 3 */2 * 1'", "other dates to Airflow than to Kubeflow"),
    ("cron: '0 3 1 * 0-6'", "other dates to Airflow than to Kubeflow"),
    ("cron: '" + ",".join(map(str, range(60))) + " * * * *'", "at most 100"),
    ("cron: 0 3", "not a five-field"),
    ("cron: '0 * * * 1-5', timezone: Europe/Berlin", "line 9: schedule: '0 * * * 1-5': when clocks are set in Europe"),
    ("cron: '30 * * * mon-fri', timezone: America/New_York", "name fewer hours, such as 0-22, or write timezone: UTC"),
    ("cron: '15,45 0-23 * * mon-fri', timezone: America/Chicago", "as on 2026-03-08"),
    ("cron: '0 */1 1 * *', timezone: America/Santiago", "Airflow would lose runs of it"),
    ("cron: '0 * * * *', timezone: Australia/Lord_Howe", "Airflow would lose runs of it"),
    ("cron: '15,45 0,2,3 * * 0', timezone: Pacific/Chatham", "or make one twice; write timezone: UTC"),
    ("cron: '*/20 */2 * * *', timezone: Australia/Lord_Howe", "or make one twice; write timezone: UTC"),
    ("cron: '0 3 * * 1', timezone: right/Europe/Berlin", "unknown time zone"),
    ("cron: '0 3 * * 1', timezone: localtime", "unknown time zone"),
    ("cron: '0 3 * * 1', timezone: Europe", "unknown time zone"),
    ("cron: '0 3 * * 1', timezone: ../../etc/passwd", "unknown time zone"),
    ("cron: '0 3 * * 1', timezone: '+02:00'", "unknown time zone"),
    ("cron: '0 3 * * 1', deadline: 999999999w", "is not a duration from"),
    ("asset: 'airflow://x'", "Airflow keeps the scheme"),
    ("asset: 'AIRFLOW://x'", "Airflow keeps the scheme"),
    ("asset: self", "a word of Airflow's"),
    ("asset: ' '", "white space"),
    ("asset: ''", "at least 1 character"),
    ("asset: 's3:///x'", "names no bucket"),
    ("asset: 'http://[x/y'", "is no URL"),
    ("asset: 'x" + "y" * 1500 + "'", "at most 1500"),
    ("asset: '${BUCKET/x'", "is no variable"),
]

TEXTS = [
    (data() + "owner: '" + "x" * 101 + "'\n", "at most 100"),
    (data() + "owner: ' x'\n", "white space"),
    (data() + "owner: ''\n", "at least 1 character"),
    (data() + "description: '" + "x" * 5001 + "'\n", "at most 5000"),
    (data() + 'owner: "\\ud83d\\ude00"\n', "line 8: '\\ud83d' is half of a character"),
    (data() + 'description: "a\\0b"\n', "line 8: '\\x00' is a control character"),
    (data() + 'description: "\\e[31m"\n', "control character"),
    (data() + '"\\0": 1\n', "control character"),
    (data('["a\\u0085", b]'), "line 7: '\\x85' is a control character"),
    (data("['a ', b]"), "white space"),
    (data("['', b]"), "data.labels.0"),
    (data('["e\\u0301", "\\u00e9"]'), "name one label twice but for white space or the form of its letters"),
    (data('["a b", "a\\u00a0b"]'), "name one label twice but for white space"),
    (data('["ab", "a\\u200bb"]'), "name one label twice but for white space"),
    (data("[a, a]"), "name one label twice: 'a'"),
    (data("[yes, no]"), "YAML reads yes as true or false; write a text in quotes: 'yes'"),
    (data("[on, off]"), "YAML reads on as true or false"),
    (data("[2026-01-01, b]"), "YAML reads 2026-01-01 as a date"),
    (data("[2026-13-45, b]"), "line 7: 2026-13-45 is no timestamp"),
    (data("[012, b]"), "YAML reads 012 as a number"),
    (data("[12:30, b]"), "YAML reads 12:30 as a number"),
    (data("[null, b]"), "data.labels.0"),
    (data(columns="{text: a, label: a}"), "name one column twice"),
    (data(columns="{text: a, label: b, slices: [c, c]}"), "name one column twice"),
    (data(more="  window: 999999999w\n"), "is not a duration from 1h to 5200w"),
    (data(more="  window: 0d\n"), "is not a duration from"),
    (data(more="  window: ٣d\n"), "is not a duration"),
    (data(more="  contract: {characters: {min: 10, max: 5}}\n"), "no text has such a length"),
    (data().replace("base_model: {source: x}", "base_model: {source: hf://}"), "names no place"),
    (
        data().replace("base_model: {source: x}", f"base_model: {{source: hf://a/b/c, revision: {COMMIT}}}"),
        "no model of the Hub",
    ),
    (data().replace("source: x}", "source: 'package://a.b/c'}"), "names no package"),
    (data().replace("source: x}", "source: 'package:///c'}"), "names no package"),
]

YAMLS = [
    ("a: &a [x]\nb: *a\n", "line 2: YAML aliases"),
    ("<<: {name: x}\n", "line 1: YAML merge keys"),
    ("name: !!python/object/apply:os.system [ls]\n", "line 1: YAML tags"),
    ("name: !!binary eHg=\n", "line 1: YAML tags"),
    ("name: !x y\n", "line 1: YAML tags"),
    ("name: x\nname: y\n", "line 2: name: the key stands twice"),
    ("name: x\n---\nname: y\n", "line 2: not valid YAML: but found another document"),
    ("name: x\n\ttask: y\n", "line 2: not valid YAML"),
    ("yes: x\n", 'line 1: the key yes is read as bool by YAML; write it in quotes: "yes"'),
    ("1: x\n", "the key 1 is read as int"),
    ("? [a]\n: x\n", "a key must be a text"),
    ("=: x\n", "the key = is read as value"),
    ("name: =\n", "line 1: = is no text to YAML"),
    ("name: <<\n", "line 1: << is no text to YAML"),
    ("name: x\ndata: " + "[" * 10_000 + "]" * 10_000, "line 2: not valid YAML here: more than 50 levels"),
    ("name: x\ndata: " + "{a: " * 10_000, "line 2: not valid YAML here: more than 50 levels"),
    ("name: x\ntask: \x00\n", "line 2: not valid YAML: the character '\\x00'"),
    ("name: x\ntask: " + "9" * 5000 + "\n", "line 2: 999"),
    ("name: [x\n", "line 2: not valid YAML"),
]


def sound(message: str) -> None:
    assert "  line " in message
    assert "regraft check reviews.yaml" in message
    message.encode()
    assert message.replace("\n", "").isprintable()


@pytest.mark.parametrize("change", INFINITE)
def test_no_number_is_infinite(change: str) -> None:
    message = errors_of(MINIMAL + change + "\n")
    assert "line 9: " in message
    sound(message)


@pytest.mark.parametrize(("change", "complaint"), NUMBERS, ids=[change[:40] for change, _ in NUMBERS])
def test_a_number_that_a_step_or_kubernetes_does_not_take_is_an_error(change: str, complaint: str) -> None:
    message = errors_of(MINIMAL + change + "\n")
    assert complaint in message
    sound(message)


@pytest.mark.parametrize(("schedule", "complaint"), SCHEDULES, ids=[schedule[:40] for schedule, _ in SCHEDULES])
def test_a_schedule_that_not_every_runner_takes_is_an_error(schedule: str, complaint: str) -> None:
    message = errors_of(MINIMAL + f"schedule: {{{schedule}}}\n")
    assert complaint in message
    sound(message)


@pytest.mark.parametrize(("text", "complaint"), [*TEXTS, *YAMLS], ids=range(len(TEXTS) + len(YAMLS)))
def test_a_text_that_is_not_what_it_looks_like_is_an_error(text: str, complaint: str) -> None:
    message = errors_of(text)
    assert complaint in message
    sound(message)


@pytest.mark.parametrize(
    ("labels", "wrong"), [("[yes, no]", ["yes", "no"]), ("[1, 2]", ["1", "2"]), ("[a, 1]", ["1"]), ("[on]", ["on"])]
)
def test_a_list_whose_items_are_wrong_is_not_called_too_short_as_well(labels: str, wrong: list[str]) -> None:
    message = errors_of(data(labels))
    assert message.count("  line ") == len(wrong)
    assert all(f"write a text in quotes: '{item}'" in message for item in wrong)
    assert "at least 2 items after validation, not 1" in errors_of(data("[a]"))


def test_what_looks_alike_but_is_meant_stays() -> None:
    declared = recipe.parse(
        data('["yes", "no", "1", "2026-01-01", Über, ΑΒΓ, 否]') + "training: {learning_rate: 1e-3}\n"
    )
    assert declared.data.labels == ("yes", "no", "1", "2026-01-01", "Über", "ΑΒΓ", "否")
    assert declared.training.learning_rate == 0.001, "YAML 1.1 reads 1e-3 as a text"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("0 3 * * 7", "0 3 * * 0"),
        ("0 3 * * 5-7", "0 3 * * 0,5,6"),
        ("0  3 * *\t1", "0 3 * * 1"),
        ("0 0 29 2 *", "0 0 29 2 *"),
        ("*/15 8-18/2 1,15 JAN-jun *", "*/15 8-18/2 1,15 JAN-jun *"),
    ],
)
def test_a_cron_expression_is_written_as_every_runner_reads_it(written: str, meant: str) -> None:
    assert cron.expression(written) == meant


def test_a_file_that_is_not_utf_8_is_an_error_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "my recipe.yaml"
    file.write_bytes(b"name: x\nowner: J\xf6rg\n")
    with pytest.raises(BadInput, match=r"line 2: not UTF-8 text: .* 0xf6; save the file as UTF-8") as caught:
        recipe.load(file)
    assert f"regraft check '{file}'" in str(caught.value), "the next command can be typed as it is"
    file.write_bytes(MINIMAL.encode("utf-16"))
    with pytest.raises(BadInput, match="not UTF-8"):
        recipe.load(file)
    file.write_text("\ufeff" + MINIMAL, encoding="utf-8")
    assert recipe.load(file).name == "reviews"


def test_thousands_of_errors_are_not_all_shown() -> None:
    message = errors_of(MINIMAL + "".join(f"k{number}: 1\n" for number in range(3000)))
    assert "3000 errors" in message
    assert "and 2950 more" in message


def test_a_recipe_that_does_not_fit_into_a_pod_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(MINIMAL + "#" * recipe.LARGEST)
    with pytest.raises(BadInput, match="fit into the pods"):
        recipe.load(file)
