"""Why: what `cfsam segment` prints must name its own options, and be one line whatever names contain."""

from cfsam_hf.commands.segment_report import as_options


def test_messages_speak_of_the_options_of_the_command():
    assert as_options("the limit max_pixels=9; raise it") == "the limit --max-pixels 9; raise it"
    assert as_options("there is no page=3") == "there is no --page 3"
    assert as_options("homepage=3, mpp of 3") == "homepage=3, mpp of 3"
