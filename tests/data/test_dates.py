"""Written dates against Babel, which has the names from Unicode's locale data, and against datetime."""

import random
import re
from datetime import date, datetime, timedelta

import pytest
import torch
from babel.dates import format_date
from hypothesis import given, settings
from hypothesis import strategies as st

from transformer_lab.data import (
    CHINESE,
    DATE_STYLES,
    ENGLISH,
    FRENCH,
    GERMAN,
    SPANISH,
    DateStyle,
    date_pairs,
)
from transformer_lab.data.dates import chinese_number, chinese_year, english_ordinal, french_day

# Language and pattern of each style, as Babel writes them; None: not a pattern of Babel.
PATTERNS = [
    *[("en", each) for each in ("MMMM d, y", "d MMMM y", "EEEE, MMMM d, y", "EEEE, d MMMM y")],
    *[("en", None), ("en", None), ("en", "EEE d MMM y"), ("en", "MMM d y")],
    *[("de", each) for each in ("d. MMMM y", "EEEE, d. MMMM y", "EEEE, 'den' d. MMMM y")],
    ("de", "dd.MM.y"),
    *[("fr", each) for each in ("d MMMM y", "'le' d MMMM y", "EEEE d MMMM y", "dd/MM/y")],
    *[("es", each) for each in ("d 'de' MMMM 'de' y", "EEEE, d 'de' MMMM 'de' y")],
    *[("es", each) for each in ("'el' EEEE d 'de' MMMM 'de' y", "dd-MM-y")],
    *[("zh", each) for each in ("y年M月d日", "y年M月d日EEEE", "y年MM月dd日")],
    *[("zh", None), ("zh", None)],
]
STYLES = list(zip(DATE_STYLES, PATTERNS, strict=True))
TO_TEN = "一二三四五六七八九十"
CHINESE_DAYS = [*TO_TEN, *("十" + one for one in TO_TEN[:9]), "二十"]
CHINESE_DAYS += [*("二十" + one for one in TO_TEN[:9]), "三十", "三十一"]
TEENS = [f"{day}th" for day in range(4, 21)]
ORDINALS = ["1st", "2nd", "3rd", *TEENS, "21st", "22nd", "23rd"]
ORDINALS += ["24th", "25th", "26th", "27th", "28th", "29th", "30th", "31st"]
YEAR = [date(2024, 1, 1) + timedelta(days=day) for day in range(366)]


def by_babel(style, locale, pattern, day):
    written = style.write(day)
    if locale == "fr" and day.day == 1:
        written = written.replace("1er ", "1 ")  # Babel's French knows no 1er
    return written, format_date(day, pattern, locale=locale)


@pytest.mark.parametrize(
    ("style", "how"), STYLES, ids=lambda each: str(getattr(each, "template", ""))
)
def test_every_day_of_a_leap_year(style, how):
    if how[1] is None:
        return
    for day in YEAR:
        written, expected = by_babel(style, *how, day)
        assert written == expected


@settings(max_examples=100, deadline=None)
@given(
    st.dates(date(1000, 1, 1), date(9999, 12, 31)), st.sampled_from([s for s in STYLES if s[1][1]])
)
def test_any_date(day, style):
    written, expected = by_babel(style[0], *style[1], day)
    assert written == expected


@settings(max_examples=50, deadline=None)
@given(st.dates(date(1000, 1, 1), date(9999, 12, 31)))
def test_styles_that_babel_has_not(day):
    ordinal = ORDINALS[day.day - 1]
    month = format_date(day, "MMMM", locale="en")
    assert ENGLISH[4].write(day) == f"the {ordinal} of {month} {day.year}"
    assert ENGLISH[5].write(day) == f"{month} {ordinal}, {day.year}"
    year = "".join("〇一二三四五六七八九"[int(digit)] for digit in f"{day:%Y}")
    spelled = f"{year}年{CHINESE_DAYS[day.month - 1]}月{CHINESE_DAYS[day.day - 1]}日"
    assert CHINESE[3].write(day) == spelled
    assert CHINESE[4].write(day) == spelled + format_date(day, "EEEE", locale="zh")


def test_days_and_numbers_spelled_out():
    assert [english_ordinal(day) for day in range(1, 32)] == ORDINALS
    assert [chinese_number(day) for day in range(1, 32)] == CHINESE_DAYS
    assert [french_day(day) for day in (1, 2, 11, 21, 31)] == ["1er", "2", "11", "21", "31"]
    assert chinese_year(1905) == "一九〇五"


def test_each_text_has_one_date():
    dates_of = {}
    for number in range(366 * 30):
        day = date(1995, 1, 1) + timedelta(days=number)
        if day.day > 12 and number % 7:
            continue  # all that could be mixed up, and some of the others
        for style in DATE_STYLES:
            assert dates_of.setdefault(style.write(day), day) == day


def read(text):
    """The date in an English text, by datetime."""
    for pattern in (
        "%B %d, %Y",
        "%d %B %Y",
        "%A, %B %d, %Y",
        "%A, %d %B %Y",
        "%a %d %b %Y",
        "%b %d %Y",
    ):
        try:
            return datetime.strptime(text, pattern).date()
        except ValueError:
            continue
    return None


def test_pairs_are_right_by_datetime():
    plain = [*ENGLISH[:4], *ENGLISH[6:]]
    train, validation = date_pairs(500, 100, styles=plain, seed=3)
    for text, iso in train + validation:
        assert read(text).isoformat() == iso
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", iso)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.floats(0.1, 0.9))
def test_no_date_of_validation_is_in_training(seed, held_out):
    first, last = date(2023, 5, 1), date(2024, 4, 30)
    train, validation = date_pairs(300, 200, first=first, last=last, held_out=held_out, seed=seed)
    assert (len(train), len(validation)) == (300, 200)
    assert len({iso for _, iso in train} | {iso for _, iso in validation}) > 100
    assert not {iso for _, iso in train} & {iso for _, iso in validation}
    assert all("2023-05-01" <= iso <= "2024-04-30" for _, iso in train + validation)


def test_all_pairs_can_be_drawn():
    first, last = date(2024, 2, 27), date(2024, 3, 7)
    train, validation = date_pairs(16, 4, styles=GERMAN[:2], first=first, last=last, held_out=0.2)
    days = [first + timedelta(days=day) for day in range(10)]
    expected = {(style.write(day), day.isoformat()) for day in days for style in GERMAN[:2]}
    assert set(train + validation) == expected
    assert len(train + validation) == 20
    assert len({iso for _, iso in validation}) == 2


def test_every_style_is_drawn():
    train, validation = date_pairs(2000, 500)
    for pairs in (train, validation):
        assert any(re.search("星期", text) for text, _ in pairs)
        assert any(text.startswith("the ") for text, _ in pairs)
        used = {
            style
            for text, iso in pairs
            for style in DATE_STYLES
            if style.write(date.fromisoformat(iso)) == text
        }
        assert used == set(DATE_STYLES)
    years = {int(iso[:4]) for _, iso in train}
    assert min(years) < 1910 and max(years) > 2090


@pytest.mark.usefixtures("as_a_user")  # the check of shapes draws itself
def test_the_seed_decides():
    before = random.getstate(), torch.get_rng_state()
    assert date_pairs(50, 20, seed=1) == date_pairs(50, 20, seed=1)
    assert random.getstate() == before[0] and torch.equal(torch.get_rng_state(), before[1])
    assert date_pairs(50, 20, seed=1) != date_pairs(50, 20, seed=2)
    assert DATE_STYLES == ENGLISH + GERMAN + FRENCH + SPANISH + CHINESE


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    ("use", "error", "says"),
    [
        (lambda: date_pairs(0, 1), ValueError, "train must be at least 1; it is 0"),
        (lambda: date_pairs(1, 0), ValueError, "validation must be at least 1; it is 0"),
        (lambda: date_pairs(1.0, 1), TypeError, "train must be a whole number; it is 1.0"),
        (lambda: date_pairs(1, 1, seed=-1), ValueError, "seed must be at least 0"),
        (lambda: date_pairs(1, 1, styles=()), ValueError, "at least one DateStyle; there is none"),
        (lambda: date_pairs(1, 1, held_out=0), ValueError, "held_out must lie between 0 and 1.* 0"),
        (lambda: date_pairs(1, 1, held_out=1.0), ValueError, "both left out; it is 1.0"),
        (lambda: date_pairs(1, 1, held_out=None), TypeError, "held_out must be a number"),
        (
            lambda: date_pairs(1, 1, first=date(2025, 1, 1), last=date(2024, 1, 1)),
            ValueError,
            "first must not come after last; they are 2025-01-01 and 2024-01-01. Swap",
        ),
        (
            lambda: date_pairs(1, 1, first=date(999, 1, 1)),
            ValueError,
            "year 1000 or later; it is 0999",
        ),
        (
            lambda: date_pairs(1, 1, first="2024-01-01"),
            TypeError,
            "first must be a date.* '2024-01-01'",
        ),
        (lambda: date_pairs(1, 1, last=2024), TypeError, "last must be a date.* 2024"),
        (
            lambda: date_pairs(
                91, 1, styles=GERMAN[:1], first=date(2024, 1, 1), last=date(2024, 4, 9)
            ),
            ValueError,
            "train must be at most 90, 90 dates in 1 styles; it is 91",
        ),
        (
            lambda: date_pairs(
                9, 21, styles=GERMAN[:2], first=date(2024, 1, 1), last=date(2024, 4, 9)
            ),
            ValueError,
            "validation must be at most 20, 10 dates in 2 styles; it is 21",
        ),
        (
            lambda: DateStyle(template="{month}", months=("one",)),
            ValueError,
            "12 months and 7 weekdays; '{month}' has 1 and 7",
        ),
    ],
)
def test_bad_input_is_answered_in_words(use, error, says):
    with pytest.raises(error, match=says):
        use()
