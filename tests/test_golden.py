"""Every recorded command line prints what the real crash prints, byte for byte."""

from compare import differences

from crashpy.output import ended


def test_prints_what_crash_prints(opened, examples, monkeypatch, dump, line, printed):
    monkeypatch.chdir(examples)  # the recording session lay in such a folder
    session = opened(dump)
    ours = "".join(ended(text) for step in line.split(" ;; ") for text in session.run(step))
    assert not differences(dump, line, printed, ours)
