"""Written dates in five languages and their ISO form: a translation with one right answer.

Every text has one date. In figures the day stands before the month, 03/05/2024 is the 3rd of May, or
the year comes first. English has no style in figures here: it has two that contradict each other.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date

from transformer_lab import checks

CHINESE_DIGITS = "〇一二三四五六七八九"


def english_ordinal(day: int) -> str:
    """Write a day as 1st, 2nd, 3rd, 4th.

    Args:
        day: Day of the month.

    >>> english_ordinal(11), english_ordinal(22)
    ('11th', '22nd')
    """
    ending = {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}th" if 10 < day < 14 else f"{day}{ending}"


def french_day(day: int) -> str:
    """Write a day as French does: the first is an ordinal, the others are plain.

    Args:
        day: Day of the month.

    >>> french_day(1), french_day(2)
    ('1er', '2')
    """
    return "1er" if day == 1 else str(day)


def chinese_year(year: int) -> str:
    """Write a year in Chinese characters, digit by digit.

    Args:
        year: The year.

    >>> chinese_year(2024)
    '二〇二四'
    """
    return "".join(CHINESE_DIGITS[int(digit)] for digit in str(year))


def chinese_number(number: int) -> str:
    """Write a day or a month in Chinese characters.

    Args:
        number: From 1 to 99.

    >>> chinese_number(5), chinese_number(10), chinese_number(31)
    ('五', '十', '三十一')
    """
    tens, ones = divmod(number, 10)
    if tens == 0:
        return CHINESE_DIGITS[ones]
    return (
        (CHINESE_DIGITS[tens] if tens > 1 else "") + "十" + (CHINESE_DIGITS[ones] if ones else "")
    )


@dataclass(frozen=True, kw_only=True)
class DateStyle:
    """One way to write a date.

    Attributes:
        template: The text; `{weekday}`, `{day}`, `{month}`, `{year}` stand for words, `{d}` and `{m}` for the
            day and the month as figures.
        months: Names from January on.
        weekdays: Names from Monday on.
        day: How a day is written.
        year: How a year is written.

    >>> DateStyle(template="{d}/{m}/{year}").write(date(2024, 3, 5))
    '5/3/2024'
    """

    template: str
    months: tuple[str, ...] = ("",) * 12
    weekdays: tuple[str, ...] = ("",) * 7
    day: Callable[[int], str] = str
    year: Callable[[int], str] = str

    def __post_init__(self) -> None:
        if (len(self.months), len(self.weekdays)) != (12, 7):
            raise ValueError(
                f"a style needs 12 months and 7 weekdays; {self.template!r} has {len(self.months)} and "
                f"{len(self.weekdays)}."
            )

    def write(self, when: date) -> str:
        """Write a date in this style.

        Args:
            when: The date.
        """
        return self.template.format(
            weekday=self.weekdays[when.weekday()],
            day=self.day(when.day),
            month=self.months[when.month - 1],
            year=self.year(when.year),
            d=when.day,
            m=when.month,
        )


def _styles(
    months: str,
    weekdays: str,
    *templates: str,
    day: Callable[[int], str] = str,
    year: Callable[[int], str] = str,
) -> tuple[DateStyle, ...]:
    return tuple(
        DateStyle(
            template=template,
            months=tuple(months.split()),
            weekdays=tuple(weekdays.split()),
            day=day,
            year=year,
        )
        for template in templates
    )


_ENGLISH_MONTHS = (
    "January February March April May June July August September October November December"
)
_ENGLISH_WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
ENGLISH = (
    *_styles(
        _ENGLISH_MONTHS,
        _ENGLISH_WEEKDAYS,
        "{month} {day}, {year}",
        "{day} {month} {year}",
        "{weekday}, {month} {day}, {year}",
        "{weekday}, {day} {month} {year}",
    ),
    *_styles(
        _ENGLISH_MONTHS,
        _ENGLISH_WEEKDAYS,
        "the {day} of {month} {year}",
        "{month} {day}, {year}",
        day=english_ordinal,
    ),
    *_styles(
        "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec",
        "Mon Tue Wed Thu Fri Sat Sun",
        "{weekday} {day} {month} {year}",
        "{month} {day} {year}",
    ),
)
GERMAN = _styles(
    "Januar Februar März April Mai Juni Juli August September Oktober November Dezember",
    "Montag Dienstag Mittwoch Donnerstag Freitag Samstag Sonntag",
    "{day}. {month} {year}",
    "{weekday}, {day}. {month} {year}",
    "{weekday}, den {day}. {month} {year}",
    "{d:02}.{m:02}.{year}",
)
FRENCH = _styles(
    "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
    "lundi mardi mercredi jeudi vendredi samedi dimanche",
    "{day} {month} {year}",
    "le {day} {month} {year}",
    "{weekday} {day} {month} {year}",
    "{d:02}/{m:02}/{year}",
    day=french_day,
)
SPANISH = _styles(
    "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre",
    "lunes martes miércoles jueves viernes sábado domingo",
    "{day} de {month} de {year}",
    "{weekday}, {day} de {month} de {year}",
    "el {weekday} {day} de {month} de {year}",
    "{d:02}-{m:02}-{year}",
)
_CHINESE_WEEKDAYS = "星期一 星期二 星期三 星期四 星期五 星期六 星期日"
CHINESE = (
    *_styles(
        " ".join(str(month) for month in range(1, 13)),
        _CHINESE_WEEKDAYS,
        "{year}年{month}月{day}日",
        "{year}年{month}月{day}日{weekday}",
        "{year}年{m:02}月{d:02}日",
    ),
    *_styles(
        " ".join(chinese_number(month) for month in range(1, 13)),
        _CHINESE_WEEKDAYS,
        "{year}年{month}月{day}日",
        "{year}年{month}月{day}日{weekday}",
        day=chinese_number,
        year=chinese_year,
    ),
)
DATE_STYLES = ENGLISH + GERMAN + FRENCH + SPANISH + CHINESE


def date_pairs(
    train: int = 10_000,
    validation: int = 1_000,
    *,
    styles: Sequence[DateStyle] = DATE_STYLES,
    first: date = date(1900, 1, 1),
    last: date = date(2099, 12, 31),
    held_out: float = 0.1,
    seed: int = 0,
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Draw pairs of a written date and its ISO form, to train on and to validate on.

    A date of the validation pairs is in no training pair, in whatever style: who knows it has
    understood, not remembered. No part has a date in the same style twice.

    Args:
        train: Number of training pairs.
        validation: Number of validation pairs.
        styles: Ways to write a date.
        first: The first date that may be drawn.
        last: The last one.
        held_out: Share of all dates that is kept for validation, between 0 and 1.
        seed: Another seed, another division and other pairs.

    Returns: Training and validation pairs, in random order.
    Raises: ValueError if a number is below 1, there are no styles, too few dates for so many pairs, held_out
        isn't between 0 and 1, or the years aren't from 1000 to 9999.

    >>> train, validation = date_pairs(3, 1, styles=GERMAN)
    >>> validation
    [('Mittwoch, den 19. November 2014', '2014-11-19')]
    """
    checks.whole("train", train, 1)
    checks.whole("validation", validation, 1)
    checks.whole("seed", seed, 0)
    if not styles:
        raise ValueError("styles must hold at least one DateStyle; there is none.")
    if isinstance(held_out, bool) or not isinstance(held_out, (int, float)):
        raise TypeError(f"held_out must be a number between 0 and 1; it is {held_out!r}.")
    if not 0 < held_out < 1:
        raise ValueError(f"held_out must lie between 0 and 1, both left out; it is {held_out}.")
    for name, day in (("first", first), ("last", last)):
        if not isinstance(day, date):
            raise TypeError(f"{name} must be a date, such as date(2024, 3, 5); it is {day!r}.")
    if first > last:
        raise ValueError(f"first must not come after last; they are {first} and {last}. Swap them.")
    if first.year < 1000:
        raise ValueError(f"first must be in the year 1000 or later; it is {first}.")
    draw = random.Random(seed)
    days = list(range(first.toordinal(), last.toordinal() + 1))
    draw.shuffle(days)
    cut = round(held_out * len(days))
    return (
        _pairs("train", train, days[cut:], styles, draw),
        _pairs("validation", validation, days[:cut], styles, draw),
    )


def _pairs(
    name: str, count: int, days: list[int], styles: Sequence[DateStyle], draw: random.Random
) -> list[tuple[str, str]]:
    possible = len(days) * len(styles)
    if count > possible:
        raise ValueError(
            f"{name} must be at most {possible}, {len(days)} dates in {len(styles)} styles; it is {count}. "
            "Take fewer pairs, more dates or another held_out."
        )
    pairs = []
    for number in draw.sample(range(possible), count):
        day = date.fromordinal(days[number // len(styles)])
        pairs.append((styles[number % len(styles)].write(day), day.isoformat()))
    return pairs
