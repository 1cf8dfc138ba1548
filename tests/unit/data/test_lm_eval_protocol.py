"""The prompt text of lm-evaluation-harness 0.4.13's MMLU tasks, written out by hand from its task files.

Its pieces: the subject's description; per example its text, a space, the letter and a blank line; the question's text.
The continuations are one space and the letter.
"""

from moe_tune.data.protocol import load_protocol
from moe_tune.data.question import number_questions

EXAMPLE, ASKED = number_questions(
    [
        ("high_school_us_history", "Who wrote the pamphlet?\n", ("Paine", "Jay ", "Adams", "Burke"), 0),
        ("high_school_us_history", "  Which came first:\nI or II?", ("I", "II", " both", "{letter}. neither"), 2),
    ]
)

ZERO_SHOT = """\
The following are multiple choice questions (with answers) about high school us history.

Which came first:
I or II?
A. I
B. II
C.  both
D. {letter}. neither
Answer:"""

# Only the question's text is stripped, never a choice: "Jay " keeps its space.
ONE_SHOT = """\
The following are multiple choice questions (with answers) about high school us history.

Who wrote the pamphlet?
A. Paine
B. Jay\x20
C. Adams
D. Burke
Answer: A

Which came first:
I or II?
A. I
B. II
C.  both
D. {letter}. neither
Answer:"""


def test_zero_shot_text():
    assert load_protocol("lm_eval").prompt(ASKED) == ZERO_SHOT


def test_one_shot_text():
    assert load_protocol("lm_eval").prompt(ASKED, [EXAMPLE]) == ONE_SHOT


def test_the_original_has_two_spaces_before_the_subject_and_keeps_white_space():
    text = load_protocol("hendrycks").prompt(ASKED, [EXAMPLE])
    said = ONE_SHOT.replace("about high", "about  high").replace("\nWhich came", "\n  Which came")
    assert text == said.replace("pamphlet?\n", "pamphlet?\n\n")
    assert load_protocol("hendrycks").letters(4) == [" A", " B", " C", " D"]


def test_continuations():
    assert load_protocol("lm_eval").letters(4) == [" A", " B", " C", " D"]
