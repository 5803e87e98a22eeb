"""Days on which KRX and NXT do not trade, or trade at other hours, week-ends aside.

KRX rests on public holidays, and on the last working day of a year; its first day begins an hour later, that of the
university entrance examination is moved by one. Listed on 2026-11-22 by the public holidays that were law then, with
Labour Day and Constitution Day, which are among them and have substitutes since 2026; the examination's day is the
Ministry of Education's. A day that a government gives on short notice is in no such list: the setting `holidays` adds
days, and takes one back by its usual hours, as in ``2027-05-03 09:00-15:30``.
"""

from __future__ import annotations

import datetime
from typing import Final

LISTED_UNTIL: Final = datetime.date(2027, 12, 31)

KOREAN_DAYS: Final = (
    "2026-11-19 10:00-16:30",  # entrance examination
    "2026-12-25",
    "2026-12-31",  # end of the year
    "2027-01-01",
    "2027-01-04 10:00",  # begin of the year
    "2027-02-08",  # Seollal
    "2027-02-09",  # its substitute
    "2027-03-01",
    "2027-05-03",  # of Labour Day
    "2027-05-05",
    "2027-05-13",  # Buddha's Birthday
    "2027-07-19",  # of Constitution Day
    "2027-08-16",  # of Liberation Day
    "2027-09-14",  # Chuseok
    "2027-09-15",
    "2027-09-16",
    "2027-10-04",  # of National Foundation Day
    "2027-10-11",  # of Hangul Day
    "2027-11-18 10:00-16:30",  # entrance examination
    "2027-12-27",  # of Christmas
    "2027-12-31",  # end of the year
)
