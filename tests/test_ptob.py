"""ptob: its session lines."""


def test_what_comes_before_a_bad_word_is_shown(opened):
    assert list(opened("vmcore-null").run("ptob 10 xyz 20")) == [
        "a: a000",
        "ptob: not a valid number: xyz",
    ]
