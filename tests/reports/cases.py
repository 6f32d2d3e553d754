"""Troubles with data that people reported of other libraries, each as a small table with the answer that is right.

Written from the public interface and the documentation alone. A case names its source in its docstring: a public report
(repository and number), or "common knowledge" where none was at hand; "kin" means that the report is of the same kind.
"""

from __future__ import annotations

import csv
import io
import logging
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pandas as pd

import luthier

HEARD = io.StringIO()
_handler = logging.StreamHandler(HEARD)
logging.getLogger("luthier").addHandler(_handler)
N = 300


def rng(seed=0):
    return np.random.default_rng(seed)


def heard():
    return HEARD.getvalue()


def clear():
    HEARD.truncate(0)
    HEARD.seek(0)


def write(path: Path, header, rows, sep=",", end="\n", encoding="utf-8", quoting=csv.QUOTE_MINIMAL):
    with open(path, "w", newline="", encoding=encoding) as f:
        w = csv.writer(f, delimiter=sep, lineterminator=end, quoting=quoting)
        w.writerow(header)
        w.writerows(rows)
    return path


def table(tmp: Path, cells, sep=",", name="t.csv", **kw):
    r = rng(99)
    z = r.integers(0, 50, len(cells))
    y = ["p", "q"] * (len(cells) // 2 + 1)
    return write(tmp / name, ["v", "z", "y"], [(c, int(b), t) for c, b, t in zip(cells, z, y)], sep=sep, **kw)


def plan_of(source, target="y", **kw):
    return luthier.design(source, target=target, valid_fraction=0, test_fraction=0, **kw)


def column(plan, name):
    for c in plan.schema.columns:
        if c.name == name:
            return c
    raise KeyError(f"no column {name!r} among {[c.name for c in plan.schema.columns]}")


def words(plan, name):
    """What was said about the column: its doubt, and notes and log lines that name it."""
    try:
        doubt = column(plan, name).doubt
    except KeyError:
        doubt = ""
    said = [n for n in plan.prepared.notes if name in n] + [n for n in heard().splitlines() if name in n]
    return " | ".join([doubt, *said])


def told(plan, name, *wanted):
    """Whether something said how to take the column as one of `wanted` (number, date, ...), or in which format."""
    said = words(plan, name)
    return (
        "--format" in said
        or "format=" in said
        or "--missing" in said
        or "missing=" in said
        or any(f"'{name}': '{k}'" in said or f"{name}={k}" in said for k in wanted or ("number", "date"))
    )


def brief(c):
    return f"{c.kind} ({c.why[:110]}), mean {c.means[:1]}, missing {c.missing}" + (
        f", doubt: {c.doubt[:160]}" if c.doubt else ""
    )


def number(tmp, cells, values, missing=0, sep=",", scales=(1.0,), **kw):
    """The column is a number with the mean of `values` (or a scale of it), or a warning says how to take it."""
    clear()
    p = plan_of(table(tmp, cells, sep=sep), **kw)
    c = column(p, "v")
    want = np.mean(values)
    ok = (
        c.kind in ("number",)
        and c.missing == missing
        and any(np.isclose(c.means[0], want * s, rtol=1e-5) for s in scales)
    )
    warned = not ok and c.kind != "number" and told(p, "v", "number")
    return (
        ok or warned,
        f"{'warned; ' if warned else ''}{str(cells[0])!r}: {brief(c)}; right: number, mean {want:.6g}, missing {missing}; notes {words(p, 'v')[:200]}",
    )


def date(tmp, cells, stamps, missing=0, sep=",", **kw):
    """`stamps`: aware or naive (UTC) datetimes of the present values."""
    clear()
    p = plan_of(table(tmp, cells, sep=sep), **kw)
    c = column(p, "v")
    want = np.mean([(s if s.tzinfo else s.replace(tzinfo=timezone.utc)).timestamp() for s in stamps])
    ok = c.kind == "date" and c.missing == missing and abs(c.means[0] - want) < 300
    warned = not ok and c.kind != "date" and told(p, "v", "date")
    return (
        ok or warned,
        f"{'warned; ' if warned else ''}{str(cells[0])!r}: {brief(c)}; right: date, mean {want:.0f}, missing {missing}; {words(p, 'v')[:200]}",
    )


def stamps(n=N, seed=1, seconds=True, start=datetime(2019, 1, 3), days=1600):
    r = rng(seed)
    out = [start + timedelta(days=int(d)) for d in r.integers(0, days, n)]
    return [s + timedelta(seconds=int(k)) for s, k in zip(out, r.integers(0, 86400, n))] if seconds else out


def money(n=N, seed=2, low=-9000, high=90000):
    return rng(seed).uniform(low, high, n).round(2)


def train(source, target="y", epochs=3, **kw):
    return luthier.train(source, target=target, epochs=epochs, seed=0, threads=1, check=False, **kw).model


def both(first, second):
    return first[0] and second[0], f"[{first[1]}] [{second[1]}]"


def every(results):
    wrong = [s for ok, s in results if not ok]
    return not wrong, "; ".join(wrong) if wrong else f"{len(results)} spellings; {results[0][1]}"


# ---------------------------------------------------------------------------------------------------------------------
# ---- numbers as people write them


def case_number_parentheses_negative(tmp):
    """Accounting negatives in parentheses. Source: moneymanagerex/moneymanagerex#2898, JoshClose/CsvHelper#951"""
    v = money()
    return number(tmp, [f"({-x:,.2f})" if x < 0 else f"{x:,.2f}" for x in v], v)


def case_number_dollar_before(tmp):
    """Dollar amounts $15,336 taken for strings. Source: TresAmigosSD/SMV#266, Chicago/RSocrata#55"""
    v = money(low=5)
    return number(tmp, [f"${x:,.2f}" for x in v], v)


def case_number_dollar_negative_both(tmp):
    """-$1.80 and ($3.00) and $-3. Source: tidyverse/readr#444"""
    v = money(low=-500, high=500)
    a = number(tmp, [f"-${-x:.2f}" if x < 0 else f"${x:.2f}" for x in v], v)
    b = number(tmp, [f"(${-x:,.2f})" if x < 0 else f"${x:,.2f}" for x in v], v)
    c = number(tmp, [f"$-{-x:.2f}" if x < 0 else f"${x:.2f}" for x in v], v)
    return every([a, b, c])


def case_number_euro_after_german(tmp):
    """1.234,56 EUR sign after. Source: tidyverse/readr#444 (collector), common knowledge"""
    v = money(low=5)
    f = lambda x: f"{x:,.2f}".replace(",", "#").replace(".", ",").replace("#", ".")
    a = number(tmp, [f(x) + " \u20ac" for x in v], v, sep=";")
    b = number(tmp, [f(x) + " EUR" for x in v], v, sep=";")
    c = number(tmp, [f(x) + "\u00a0\u20ac" for x in v], v, sep=";")
    return every([a, b, c])


def case_number_currencies_before(tmp):
    """Money of other places: R$ 1.234,56, CHF 1'234.50, \u20b912,34,567.00, \u00a5 1,200. Source: SheetJS/ssf#22 (Brazil), common knowledge"""
    v = money(low=5)
    f = lambda x: f"{x:,.2f}".replace(",", "#").replace(".", ",").replace("#", ".")
    a = number(tmp, ["R$ " + f(x) for x in v], v, sep=";")
    b = number(tmp, ["CHF " + f"{x:,.2f}".replace(",", "'") for x in v], v)
    c = number(tmp, ["\u00a3" + f"{x:,.2f}" for x in v], v)
    return every([a, b, c])


def case_number_indian_lakh(tmp):
    """Indian grouping 12,34,567. Source: common knowledge (en-IN)"""
    v = rng(3).integers(1000, 99_999_999, N)

    def lakh(x):
        s = str(x)
        head, tail = s[:-3], s[-3:]
        parts = []
        while len(head) > 2:
            parts.insert(0, head[-2:])
            head = head[:-2]
        if head:
            parts.insert(0, head)
        return ",".join([*parts, tail])

    return number(tmp, [lakh(int(x)) for x in v], v)


def case_number_percent(tmp):
    """80% must not be text; 20 % with a space too. Source: bastienboutonnet/sheetwork#188, tidyverse/readr#449"""
    v = rng(4).uniform(0, 100, N).round(1)
    a = number(tmp, [f"{x}%" for x in v], v, scales=(1, 0.01))
    b = number(tmp, [f"{x} %" for x in v], v, scales=(1, 0.01))
    c = number(tmp, [f"{x}".replace(".", ",") + "\u00a0%" for x in v], v, sep=";", scales=(1, 0.01))
    return every([a, b, c])


def case_number_unicode_minus(tmp):
    """U+2212 as minus (Numbers on macOS, banks). Source: actualbudget/actual#6206, letehaha/budget-tracker#572"""
    v = money(low=-500, high=500)
    a = number(tmp, [str(x).replace("-", "\u2212") for x in v], v)
    b = number(tmp, [f"{x:.2f}".replace("-", "\u2013") for x in v], v)
    return every([a, b])


def case_number_minus_after(tmp):
    """SAP writes 123.45- . Source: common knowledge (SAP exports)"""
    v = money(low=-500, high=500)
    return number(tmp, [f"{abs(x):.2f}-" if x < 0 else f"{x:.2f}" for x in v], v)


def case_number_plus_and_exponents(tmp):
    """+1.5, 1.5E+03, 1,5E-3, 1e5. Source: common knowledge (instruments, Excel)"""
    v = rng(5).normal(0, 100, N).round(3)
    a = number(tmp, [f"{x:+}" for x in v], v)
    w = np.array([float(f"{x:.4E}") for x in v])
    b = number(tmp, [f"{x:.4E}" for x in v], w)
    c = number(tmp, [f"{x:.4E}".replace(".", ",") for x in v], w, sep=";")
    d = number(tmp, [f"{x:.4e}".replace("e", "D") for x in v], w)
    return every([a, b, c, d])


def case_number_leading_apostrophe(tmp):
    """'123 of spreadsheets. Source: common knowledge (Excel text prefix)"""
    v = rng(6).normal(0, 100, N).round(2)
    return number(tmp, [f"'{x}" for x in v], v)


def case_number_excel_formula_text(tmp):
    """="123" that exports write to keep text. Source: common knowledge (=\"0123\" of CSV exports for Excel)"""
    v = rng(6).uniform(0, 100, N).round(2)
    return number(tmp, [f'="{x}"' for x in v], v)


def case_number_nbsp_thousands(tmp):
    """French and Swedish thousands: U+202F and U+00A0. Source: globalizejs/globalize#288, apache/ofbiz-framework#845"""
    v = money(low=5, high=3e6)
    f = lambda x, s: f"{x:,.2f}".replace(",", s).replace(".", ",")
    a = number(tmp, [f(x, "\u202f") for x in v], v, sep=";")
    b = number(tmp, [f(x, "\u00a0") for x in v], v, sep=";")
    c = number(tmp, [f"{x:,.2f}".replace(",", "\u2009") for x in v], v)
    return every([a, b, c])


def case_number_swiss_apostrophes(tmp):
    """1'234.50 and 1\u2019234.50. Source: adamwdraper/Numeral-js#695 (de-ch), common knowledge"""
    v = money(low=5, high=3e6)
    a = number(tmp, [f"{x:,.2f}".replace(",", "'") for x in v], v)
    b = number(tmp, [f"{x:,.2f}".replace(",", "\u2019") for x in v], v)
    return every([a, b])


def case_number_units(tmp):
    """12.5 kg, 180cm, 70 mph in every cell. Source: common knowledge (scraped tables, Kaggle car data '1197 CC')"""
    v = rng(7).uniform(10, 300, N).round(1)
    a = number(tmp, [f"{x} kg" for x in v], v)
    b = number(tmp, [f"{int(x)} CC" for x in v], v.astype(int))
    c = number(tmp, [f"{x}cm" for x in v], v)
    return every([a, b, c])


def case_number_suffix_k_m(tmp):
    """1.2K, 3.4M, 12B (counts of apps, market values). Source: common knowledge (Kaggle Google Play '19M', FIFA '\u20ac110.5M')"""
    r = rng(8)
    v = r.uniform(1, 900, N).round(1)
    s = r.choice(["K", "M"], N)
    real = v * np.where(s == "K", 1e3, 1e6)
    p = plan_of(table(tmp, [f"{a}{b}" for a, b in zip(v, s)]))
    c = column(p, "v")
    ok = c.kind == "number" and np.isclose(c.means[0], real.mean(), rtol=1e-4)
    return ok or (
        c.kind != "number" and told(p, "v")
    ), f"{brief(c)}; right: number mean {real.mean():.4g}, or a warning that says how; {words(p, 'v')[:160]}"


def case_number_inequality(tmp):
    """<0.05 and >100 of laboratories among numbers (8 %). Source: common knowledge (detection limits)"""
    r = rng(9)
    v = r.uniform(0.05, 9, N).round(2)
    low = r.random(N) < 0.08
    p = plan_of(table(tmp, ["<0.05" if g else str(x) for x, g in zip(v, low)]))
    c = column(p, "v")
    ok = c.kind == "number" or told(p, "v", "number")
    return ok, f"{brief(c)}; right: number (limits or holes), or a warning with a way; {words(p, 'v')[:200]}"


def case_number_fullwidth_and_arabic_digits(tmp):
    """Full-width digits of Japanese forms. Source: common knowledge (IME input)"""
    v = rng(10).integers(0, 90000, N)
    tr = str.maketrans("0123456789", "\uff10\uff11\uff12\uff13\uff14\uff15\uff16\uff17\uff18\uff19")
    return number(tmp, [str(x).translate(tr) for x in v], v)


def case_number_padded_and_tabs(tmp):
    """Cells padded with spaces, tabs or NBSP around. Source: pandas-dev/pandas#8984 (trailing spaces), common knowledge"""
    v = rng(11).normal(0, 10, N).round(3)
    a = number(tmp, [f"   {x}  " for x in v], v)
    b = number(tmp, [f"{x}\t" for x in v], v)
    c = number(tmp, [f"\u00a0{x}\u00a0" for x in v], v)
    d = number(tmp, [f"{x}\u200b" for x in v], v)
    return every([a, b, c, d])


def case_number_words_among(tmp):
    """Words among numbers at 1 %, 4 %, 6 %, 30 %: kept or said. Source: common knowledge ('unknown', 'varies'), gfyoung in pandas-dev/pandas"""
    out = []
    for share in (0.01, 0.04, 0.06, 0.3):
        r = rng(12)
        v = r.normal(0, 10, 400).round(2)
        bad = np.arange(400) < 400 * share
        r.shuffle(bad)
        clear()
        p = plan_of(table(tmp, ["varies" if b else str(x) for x, b in zip(v, bad)]))
        c = column(p, "v")
        good = (c.kind == "number" and c.missing == bad.sum() and np.isclose(c.means[0], v[~bad].mean())) or (
            c.kind != "number" and told(p, "v")
        )
        out.append((good, f"{share:.0%}: {brief(c)} | {words(p, 'v')[:140]}"))
    return every(out)


def case_number_refuses_version_numbers(tmp):
    """1.10 and 1.9.2 are versions: text. Source: common knowledge (versions, IP addresses read as numbers with points)"""
    r = rng(13)
    kinds = [f"{a}.{b}.{c}" for a in (1, 2) for b in (0, 10) for c in (0, 1, 2)]
    a = column(plan_of(table(tmp, list(r.choice(kinds, N)))), "v")
    ips = [f"192.168.{i}.{j}" for i in range(3) for j in (1, 10, 100, 200)]
    b = column(plan_of(table(tmp, list(r.choice(ips, N)))), "v")
    semi = column(plan_of(table(tmp, list(r.choice(ips, N)), sep=";")), "v")
    return (
        a.kind == "category" and b.kind == "category" and semi.kind == "category",
        f"versions {brief(a)}; IPs {brief(b)}; with ; {brief(semi)}",
    )


# ---- missing words


def missing_words(tmp, names, share=0.15):
    out = []
    for word in names:
        r = rng(20)
        v = r.normal(5, 2, N).round(3)
        gone = r.random(N) < share
        clear()
        p = plan_of(table(tmp, [word if g else str(x) for x, g in zip(v, gone)]))
        c = column(p, "v")
        ok = c.kind == "number" and c.missing == gone.sum() and np.isclose(c.means[0], v[~gone].mean())
        out.append(
            (
                ok or (c.kind != "number" and told(p, "v")),
                f"{word!r} in {gone.mean():.0%}: {brief(c)} {words(p, 'v')[:80]}",
            )
        )
    return every(out)


def case_missing_sas_stata(tmp):
    """A dot (SAS, Stata), .a .b (Stata extended). Source: tidyverse/readr#111, dbosak01/libr#55, tidyverse/haven#289"""
    return missing_words(tmp, [".", ".a"])


def case_missing_r_words(tmp):
    """R: NA, <NA>, NaN, NA_character_, Inf. Source: common knowledge (R's write.csv, print of factors)"""
    return missing_words(tmp, ["NA", "<NA>", "NaN", "NA_real_", "nan"])


def case_missing_javascript_python(tmp):
    """undefined, null, NaN, None, NaT, pd.NA as text. Source: common knowledge (template strings, str(None))"""
    return missing_words(tmp, ["undefined", "null", "None", "NaT", "nil", "[null]"])


def case_missing_spreadsheet_errors(tmp):
    """#N/A, #VALUE!, #REF!, #NUM!, #NAME?, #NV, Loading... Source: common knowledge (Excel, German Excel #NV)"""
    return missing_words(tmp, ["#N/A", "#VALUE!", "#REF!", "#NUM!", "#NAME?", "#NULL!", "#NV", "#N/V"])


def case_missing_words_of_people(tmp):
    """n/a, N.A., n.d., missing, unknown, --, ---, *, tbd, not available. Source: JGCRI/gcamdata#300 (n/a), common knowledge"""
    return missing_words(
        tmp,
        [
            "n/a",
            "N.A.",
            "n.a.",
            "missing",
            "Missing",
            "--",
            "---",
            "*",
            "not available",
            "unknown",
            "\u2014",
            "\u2013",
            "\u2026",
        ],
    )


def case_missing_words_other_languages(tmp):
    """k.A. (German), s/d (Spanish), n.d. , \u65e0, \u043d/\u0434. Source: common knowledge"""
    return missing_words(tmp, ["k.A.", "s/d", "n.d.", "\u65e0", "\u043d/\u0434"])


def case_missing_sentinel_999(tmp):
    """-999 / 9999 (SPSS, hydrology, \u221299.9) for missing: said or taken robustly. Source: turi-code/SFrame#44 (-8), rsokl/Learning_Python#94 (-99.9)"""
    r = rng(21)
    v = r.normal(5, 2, N).round(3)
    gone = r.random(N) < 0.15
    p = plan_of(table(tmp, ["-999" if g else str(x) for x, g in zip(v, gone)]))
    c = column(p, "v")
    said = words(p, "v")
    q = column(plan_of(table(tmp, ["-999" if g else str(x) for x, g in zip(v, gone)]), missing=["-999"]), "v")
    given = q.kind == "number" and q.missing == gone.sum() and np.isclose(q.means[0], v[~gone].mean())
    y = np.where(v > 5, "hi", "lo")
    got = {}
    for name, word in (("with", "-999"), ("without", "")):
        path = write(tmp / f"{name}.csv", ["v", "y"], [(word if g else x, t) for x, g, t in zip(v, gone, y)])
        m = train(path, epochs=25)
        got[name] = float(np.mean(np.asarray(m.predict(path))[~gone] == y[~gone]))
    robust = got["with"] > got["without"] - 0.05
    return given and (
        "-999" in said or robust
    ), f"{brief(c)}; said {said[:100]!r}; accuracy on the other rows {got}; with missing=['-999']: {brief(q)}"


def case_missing_zero_width_blank(tmp):
    """Cells of blanks, NBSP, zero-width space or quotes only are empty. Source: common knowledge (copied web tables)"""
    return missing_words(tmp, [" ", "   ", "\u00a0", "\u200b", '""', "''"])


# ---- dates


def case_date_us_am_pm(tmp):
    """9/03/2043 12:35 AM, 04/12/2015 02:41:17AM. Source: pola-rs/polars#5365, tidyverse/readr#126, JuliaData/CSV.jl#600"""
    s = [x.replace(second=0) for x in stamps()]
    a = date(tmp, [x.strftime("%m/%d/%Y %I:%M %p") for x in s], s)
    s2 = stamps()
    b = date(tmp, [x.strftime("%m/%d/%Y %I:%M:%S%p") for x in s2], s2)
    c = date(
        tmp,
        [f"{x.month}/{x.day}/{x.year} {x.hour % 12 or 12}:{x:%M} {'a.m.' if x.hour < 12 else 'p.m.'}" for x in s],
        s,
    )
    d = date(
        tmp, [f"{x.month}/{x.day}/{x.year} {x.hour % 12 or 12}:{x:%M:%S} {x.strftime('%p').lower()}" for x in s2], s2
    )
    return every([a, b, c, d])


def case_date_iso_week(tmp):
    """2024-W40 and 2013-W06-5. Source: frictionlessdata/frictionless-py#1696, pandas-dev/pandas#10315, tidyverse/readr#105"""
    s = stamps(seconds=False)
    mondays = [x - timedelta(days=x.weekday()) for x in s]
    p = plan_of(table(tmp, [f"{x.isocalendar()[0]}-W{x.isocalendar()[1]:02d}" for x in mondays]))
    c = column(p, "v")
    want = np.mean([m.replace(tzinfo=timezone.utc).timestamp() for m in mondays])
    ok = (c.kind == "date" and abs(c.means[0] - want) < 7 * 86400) or told(p, "v")
    b = date(tmp, [f"{x.isocalendar()[0]}-W{x.isocalendar()[1]:02d}-{x.isocalendar()[2]}" for x in s], s)
    return ok and b[0], f"weeks: {brief(c)} {words(p, 'v')[:100]}; days: {b[1]}"


MONTHS = {
    "de": "Januar Februar M\u00e4rz April Mai Juni Juli August September Oktober November Dezember".split(),
    "fr": "janvier f\u00e9vrier mars avril mai juin juillet ao\u00fbt septembre octobre novembre d\u00e9cembre".split(),
    "es": "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre".split(),
    "ru": "\u044f\u043d\u0432\u0430\u0440\u044f \u0444\u0435\u0432\u0440\u0430\u043b\u044f \u043c\u0430\u0440\u0442\u0430 \u0430\u043f\u0440\u0435\u043b\u044f \u043c\u0430\u044f \u0438\u044e\u043d\u044f \u0438\u044e\u043b\u044f \u0430\u0432\u0433\u0443\u0441\u0442\u0430 \u0441\u0435\u043d\u0442\u044f\u0431\u0440\u044f \u043e\u043a\u0442\u044f\u0431\u0440\u044f \u043d\u043e\u044f\u0431\u0440\u044f \u0434\u0435\u043a\u0430\u0431\u0440\u044f".split(),
}


def case_date_month_names_languages(tmp):
    """15. M\u00e4rz 2023, 15 mars 2023, 15 de marzo de 2023. Source: tidyverse/lubridate#496, tidyverse/readr#711, APSIMInitiative/ApsimX#10934"""
    s = stamps(seconds=False)
    a = date(tmp, [f"{x.day}. {MONTHS['de'][x.month - 1]} {x.year}" for x in s], s)
    b = date(tmp, [f"{x.day} {MONTHS['fr'][x.month - 1]} {x.year}" for x in s], s)
    c = date(tmp, [f"{x.day} de {MONTHS['es'][x.month - 1]} de {x.year}" for x in s], s)
    d = date(tmp, [f"{x.day} {MONTHS['ru'][x.month - 1]} {x.year}" for x in s], s)
    return every([a, b, c, d])


def case_date_english_month_names(tmp):
    """March 5, 2023; Mar 5 2023; 5 Mar 2023; 05-MAR-2023; Sept. Source: datatart/import_dry_run#2, google/mug#100"""
    s = stamps(seconds=False)
    forms = [
        [f"{x:%B} {x.day}, {x.year}" for x in s],
        [f"{x:%b} {x.day} {x.year}" for x in s],
        [f"{x.day} {x:%b} {x.year}" for x in s],
        [x.strftime("%d-%b-%Y").upper() for x in s],
        [f"{x:%A}, {x:%B} {x.day}, {x.year}" for x in s],
        [f"{x:%d%b%Y}".upper() for x in s],
        [
            f"{x.day}{'th' if 10 < x.day < 14 else {1: 'st', 2: 'nd', 3: 'rd'}.get(x.day % 10, 'th')} {x:%B} {x.year}"
            for x in s
        ],
    ]
    return every([date(tmp, f, s) for f in forms])


def case_date_compact(tmp):
    """20230131 and 20230131T235959, 20230131235959. Source: common knowledge (compact ISO, mainframes)"""
    s = stamps()
    d = stamps(seconds=False)
    return every(
        [
            date(tmp, [f"{x:%Y%m%d}" for x in d], d),
            date(tmp, [f"{x:%Y%m%dT%H%M%S}" for x in s], s),
            date(tmp, [f"{x:%Y%m%d%H%M%S}" for x in s], s),
        ]
    )


def case_date_rfc_and_logs(tmp):
    """RFC 2822, Apache log, ctime. Source: common knowledge (mail headers, access logs)"""
    s = stamps()
    return every(
        [
            date(tmp, [x.strftime("%a, %d %b %Y %H:%M:%S +0000") for x in s], s),
            date(tmp, [x.strftime("%a, %d %b %Y %H:%M:%S GMT") for x in s], s),
            date(tmp, [x.strftime("[%d/%b/%Y:%H:%M:%S +0000]") for x in s], s),
            date(tmp, [x.strftime("%d/%b/%Y:%H:%M:%S +0000") for x in s], s),
            date(tmp, [x.strftime("%a %b %d %H:%M:%S %Y") for x in s], s),
        ]
    )


def case_date_time_zones(tmp):
    """+02:00, +0530, Z, EST/EDT, mixed offsets. Source: common knowledge (pandas mixed offsets)"""
    s = stamps()
    r = rng(30)
    off = r.choice([-5, 2], N)
    out = [
        date(tmp, [x.strftime("%Y-%m-%dT%H:%M:%S+05:30") for x in s], [x - timedelta(hours=5.5) for x in s]),
        date(
            tmp,
            [x.strftime("%Y-%m-%d %H:%M:%S") + f"{o:+03d}:00" for x, o in zip(s, off)],
            [x - timedelta(hours=int(o)) for x, o in zip(s, off)],
        ),
        date(tmp, [x.strftime("%Y-%m-%dT%H:%M:%S.123Z") for x in s], s),
        date(tmp, [x.strftime("%Y-%m-%d %H:%M:%S") + "+00" for x in s], s),
    ]
    return every(out)


def case_date_two_digit_years(tmp):
    """31/12/68, 01/02/99: years 19xx. Source: common knowledge (births of 1945 read as 2045)"""
    s = [datetime(1930, 1, 1) + timedelta(days=int(d)) for d in rng(31).integers(0, 25000, N)]
    p = plan_of(table(tmp, [x.strftime("%d/%m/%y") for x in s]))
    c = column(p, "v")
    want = np.mean([x.replace(tzinfo=timezone.utc).timestamp() for x in s])
    ok = c.kind == "date" and (
        abs(c.means[0] - want) < 86400 or told(p, "v") or "centur" in words(p, "v") or "19" in words(p, "v")
    )
    return ok or (
        c.kind != "date" and told(p, "v")
    ), f"{brief(c)}; right: date, mean {want:.0f} (years 1930-1998), or the century said; {words(p, 'v')[:200]}"


def case_date_ambiguous_order(tmp):
    """05/04/2023 with no day above 12: two readings; said. Source: common knowledge (dayfirst), pandas-dev/pandas#53147 kin"""
    s = [datetime(2023, int(m), int(d)) for m, d in zip(rng(32).integers(1, 13, N), rng(33).integers(1, 13, N))]
    p = plan_of(table(tmp, [x.strftime("%d/%m/%Y") for x in s]))
    c = column(p, "v")
    said = words(p, "v")
    q = column(plan_of(table(tmp, [x.strftime("%d/%m/%Y") for x in s]), format={"v": "DD/MM/YYYY"}), "v")
    want = np.mean([x.replace(tzinfo=timezone.utc).timestamp() for x in s])
    return told(p, "v") and q.kind == "date" and abs(
        q.means[0] - want
    ) < 1, f"{brief(c)}; said {said[:240]!r}; with format: {brief(q)}"


def case_date_locales(tmp):
    """2023. 12. 31. (Hungarian, Korean), 2023\u5e7412\u670831\u65e5, 2023/12/31, 31.12.2023 23:59, 31.12.23. Source: common knowledge"""
    d = stamps(seconds=False)
    s = [x.replace(second=0) for x in stamps()]
    return every(
        [
            date(tmp, [f"{x.year}\u5e74{x.month}\u6708{x.day}\u65e5" for x in d], d),
            date(tmp, [f"{x.year}. {x.month}. {x.day}." for x in d], d),
            date(tmp, [f"{x:%Y/%m/%d}" for x in d], d),
            date(tmp, [f"{x:%d.%m.%Y %H:%M}" for x in s], s, sep=";"),
            date(tmp, [f"{x:%d.%m.%y}" for x in d], d, sep=";"),
            date(tmp, [f"{x.day}.{x.month}.{x.year}" for x in d], d),
            date(tmp, [f"{x.year}-{x.month}-{x.day}" for x in d], d),
            date(tmp, [f"{x:%Y.%m.%d}" for x in d], d),
        ]
    )


# ---- what stands before or among the rows; rows swallowed


def body(n=200, seed=40):
    r = rng(seed)
    a = r.normal(0, 1, n).round(2)
    return [(f"{x:.2f}", int(k), "p" if x > 0 else "q") for x, k in zip(a, r.integers(0, 40, n))]


def lines(rows, sep=","):
    return "".join(sep.join(map(str, r)) + "\n" for r in rows)


def shape(p, rows, names=("x", "z"), classes=("p", "q")):
    got = [c.name for c in p.schema.columns]
    ok = got == list(names) and p.schema.num_rows == rows and set(p.schema.targets[0].classes) == set(classes)
    kinds = {c.name: c.kind for c in p.schema.columns}
    return (
        ok and set(kinds.values()) <= {"number", "date"},
        f"columns {kinds}, rows {p.schema.num_rows} (right {rows}), classes {p.schema.targets[0].classes}; notes {[n[:120] for n in p.prepared.notes][:5]}",
    )


def read_text(tmp, text, rows=200, data=None, **kw):
    path = tmp / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    try:
        p = plan_of(path, **kw)
    except luthier.LuthierError as e:
        said = f"{e} | {getattr(e, 'hint', '')}"
        return ("row" in said or "line" in said) and len(said) > 30, f"refused: {said[:300]}"
    return shape(p, rows)


def case_lines_title_and_blank(tmp):
    """A report's title, a period and a blank line before the names. Source: adaltas/node-csv-parse#81, danielgindi/node-csv-reader#34"""
    b = body()
    return read_text(tmp, "Per Transaction Report\nReporting Period: 2014-01-01 to 2014-01-31\n\nx,z,y\n" + lines(b))


def case_lines_title_padded_with_delimiters(tmp):
    """Excel saves a title row as 'Sales 2023,,'. Source: tidyverse/readr#88 (Report_B,3/13/2015,,)"""
    b = body()
    return read_text(tmp, "Sales report,,\nprinted 3/13/2015,,\n,,\nx,z,y\n" + lines(b))


def case_lines_key_value_metadata(tmp):
    """Instrument files: 'Station,Oslo' 'Units,mm' pairs before the names. Source: mholt/PapaParse#794, BdR76/CSVLint#46"""
    b = body()
    return read_text(tmp, "Station,Oslo\nUnits,mm\nx,z,y\n" + lines(b))


def case_lines_comments_other_marks(tmp):
    """Comment lines with ~, % or // before the names. Source: BdR76/CSVLint#46 (~), common knowledge"""
    b = body()
    out = []
    for m in ("~", "%", "//", "# ", ";"):
        ok, s = read_text(tmp, f"{m}made by Basytec\n{m}on 10.11.2022\nx,z,y\n" + lines(b))
        out.append((ok, f"{m!r}: {s}"))
    return every(out)


def case_lines_comments_in_the_middle(tmp):
    """# lines among the rows (logger restarted). Source: common knowledge (loggers)"""
    b = body()
    return read_text(tmp, "x,z,y\n" + lines(b[:100]) + "# restarted\n" + lines(b[100:]))


def case_lines_units_row(tmp):
    """A row of units under the names. Source: meta-pytorch/KernelAgent#134, tidyverse/readxl#486"""
    b = body()
    p = None
    ok, s = read_text(tmp, "x,z,y\nm/s,count,-\n" + lines(b))
    ok2, s2 = read_text(tmp, "x,z,y\n(m/s),(1),\n" + lines(b))
    said = "units" in s or "left out" in s
    return (ok or "classes ('p', 'q')" in s and "rows 201" in s and said) and (
        ok2 or "classes ('p', 'q')" in s2
    ), f"[{s}] [{s2}]"


def case_lines_total_footer(tmp):
    """'Total' and 'Page 1 of 1' at the end. Source: tidyverse/readr#88, pandas-dev/pandas#4512"""
    b = body()
    out = []
    for foot in (
        "Total,4321,\n",
        "\nGrand Total: 200,,\nPage -1 of 1,,\n",
        "\nSource: World Bank\n",
        "(200 rows affected)\n",
    ):
        path = tmp / "t.csv"
        path.write_text("x,z,y\n" + lines(b) + foot)
        clear()
        try:
            p = plan_of(path)
            ok, s = shape(p, 200)
            z = column(p, "z")
            want = np.mean([r[1] for r in b])
            ok = (
                set(p.schema.targets[0].classes) == {"p", "q"}
                and column(p, "x").kind == "number"
                and np.isclose(z.means[0], want)
            )
            s += f", z mean {z.means} right {want:.4g}"
        except luthier.LuthierError as e:
            s = f"refused: {e} | {getattr(e, 'hint', '')}"
            ok = "row" in s
        out.append((ok, f"{foot!r}: {s}"))
    return every(out)


def case_lines_blank_rows_of_delimiters(tmp):
    """Rows of only delimiters (,,) at the end and between (Excel). Source: juspay/neurolink#1284"""
    b = body()
    return read_text(tmp, "x,z,y\n" + lines(b[:90]) + ",,\n" + lines(b[90:]) + ",,\n,,\n", rows=200)


def case_lines_trailing_delimiter(tmp):
    """A delimiter at the end of data rows only, and of all rows. Source: pandas-dev/pandas#14124, apache/arrow#26743"""
    b = body()
    one = read_text(tmp, "x,z,y\n" + lines([(*r, "") for r in b]))
    two = read_text(tmp, "x|z|y|\n" + lines([(*r, "") for r in b], "|"))
    path = tmp / "t.csv"
    path.write_text("x|z|y|\n" + lines([(*r, "") for r in b], "|"))
    p = plan_of(path)
    inputs = [c.name for c in p.schema.columns if c.is_input]
    ok = one[0] and (
        "refused" not in one[1] or "empty" in one[1] or "end of" in one[1]
    )  # a hint about quotes leads nowhere here
    return ok and inputs == ["x", "z"] and p.schema.num_rows == 200, f"[{one[1]}] [{inputs}, {p.schema.num_rows} rows]"


def case_lines_only_one_row_trailing_delimiter(tmp):
    """One row of many has a delimiter too much at its end. Source: pandas-dev/pandas#9295, natcap/invest#146"""
    b = body()
    return read_text(tmp, "x,z,y\n" + lines(b[:1])[:-1] + ",\n" + lines(b[1:]))


def case_lines_index_without_name_r(tmp):
    """R's write.table: names are one fewer than cells. Source: common knowledge (R write.table with row names), pandas-dev/pandas#41304"""
    b = body()
    path = tmp / "t.csv"
    path.write_text('"x" "z" "y"\n' + "".join(f'"{i + 1}" {r[0]} {r[1]} "{r[2]}"\n' for i, r in enumerate(b)))
    try:
        p = plan_of(path)
    except luthier.LuthierError as e:
        s = f"{e} | {getattr(e, 'hint', '')}"
        return (
            "row" in s or "names" in s
        ) and "\\x1f" not in s, f"refused, with a mark that the file does not hold: {s}"
    inputs = {c.name: c.means[:1] for c in p.schema.columns if c.is_input}
    want = np.mean([float(r[0]) for r in b])
    return list(inputs) == ["x", "z"] and np.isclose(
        inputs["x"][0], want
    ), f"{inputs}; right: x {want:.4g}; notes {p.prepared.notes}"


def case_lines_no_names(tmp):
    """No line of names at all: the first row is data (UCI adult, iris). Source: Daniel1of1/CSwiftV#22, maaslalani/sheets#72"""
    b = body()
    path = tmp / "t.csv"
    path.write_text(lines(b))
    try:
        p = plan_of(path, target=b[0][2])  # the only name there is
        said = " ".join(p.prepared.notes) + heard()
        one = (
            (p.schema.num_rows == 200 or "first row" in said or "names" in said),
            f"rows {p.schema.num_rows} of 200, columns {[c.name for c in p.schema.columns]}; said {said[:300]}",
        )
    except luthier.LuthierError as e:
        one = "first" in str(e) + str(e.hint), f"refused: {e} | {e.hint}"
    try:
        plan_of(path, target="income")
        two = False, "took a column that is not there"
    except luthier.LuthierError as e:
        s = f"{e} | {getattr(e, 'hint', '')}"
        two = ("first" in s or "header" in s or "known" in s), f"refused: {s}"
    return every([one, two])


def case_lines_spaces_between(tmp):
    """Columns separated by blanks (R write.table, UCI .data). Source: pandas-dev/pandas#4880 kin (delim_whitespace), h2oai/datatable#1330 kin"""
    b = body()
    one = read_text(tmp, "x z y\n" + lines(b, " "))
    two = read_text(tmp, '"x" "z" "y"\n' + "".join(f'{r[0]} {r[1]} "{r[2]}"\n' for r in b))
    three = read_text(tmp, "    x   z  y\n" + "".join(f"{r[0]:>5} {r[1]:>3}  {r[2]}\n" for r in b))
    for k in (one, two, three):
        if "\\x1f" in k[1]:
            return False, k[1]
    return every([one, two, three])


def case_lines_bom_before_a_row(tmp):
    """cat of files without names, each with a BOM: the mark stands before a number. Source: plaintextaccounting/hledger#2189"""
    b = body()
    path = tmp / "t.csv"
    path.write_text("\ufeffx,z,y\n" + lines(b[:100]) + "\ufeff" + lines(b[100:]))
    p = plan_of(path)
    c = column(p, "x")
    return (
        c.kind == "number" and c.missing == 0 and p.schema.num_rows == 200,
        f"{brief(c)}, rows {p.schema.num_rows}; {words(p, 'x')[:100]}",
    )


def case_lines_names_in_two_rows(tmp):
    """pandas to_csv of MultiIndex columns: two rows of names. Source: tidyverse/readxl#379, common knowledge (pivot_table().to_csv())"""
    b = body()
    path = tmp / "t.csv"
    path.write_text("x,x,y\nmean,std,first\n" + lines(b))
    try:
        p = plan_of(path)
    except luthier.LuthierError as e:
        return "row" in str(e), f"refused: {e}"
    kinds = {c.name: c.kind for c in p.schema.columns}
    said = " ".join(p.prepared.notes) + heard()
    return (
        set(p.schema.targets[0].classes) == {"p", "q"} or "first" in said,
        f"{kinds}, classes {p.schema.targets[0].classes}, rows {p.schema.num_rows}; {p.prepared.notes}",
    )


def case_lines_names_again_other_case(tmp):
    """Names again with blanks or a BOM before them (cat of Excel files). Source: whitfin/s3-concat#3 kin, plaintextaccounting/hledger#2189 (BOM inside)"""
    b = body()
    one = read_text(tmp, "\ufeffx,z,y\n" + lines(b[:100]) + "\ufeffx,z,y\n" + lines(b[100:]))
    two = read_text(tmp, "x,z,y\n" + lines(b[:100]) + " x , z , y \n" + lines(b[100:]))
    three = read_text(tmp, "x,z,y\n" + lines(b[:100]) + '"x","z","y"\r\n' + lines(b[100:]))
    return every([one, two, three])


def case_lines_sep_variants(tmp):
    """sep=, with quotes, with BOM, in UTF-16, with tab. Source: juspay/neurolink#1192, PowerShell/PowerShell#7776 kin"""
    b = body()
    return every(
        [
            read_text(tmp, "\ufeffsep=;\r\nx;z;y\r\n" + lines(b, ";")),
            read_text(tmp, "SEP=|\nx|z|y\n" + lines(b, "|")),
            read_text(tmp, ("sep=\t\nx\tz\ty\n" + lines(b, "\t")).encode("utf-16")),
        ]
    )


def case_lines_sep_line_in_quotes(tmp):
    """ "sep=;" in quotes (writers that quote every cell). Source: kin of PowerShell/PowerShell#7776; common knowledge (QUOTE_ALL)"""
    return read_text(tmp, '"sep=;"\n"x";"z";"y"\n' + lines(body(), ";"))


def case_lines_utf16_without_bom(tmp):
    """UTF-16-LE without a BOM: read right or refused. Source: kohii/smoothcsv#2, fxcm/FXCMTickData#7"""
    b = body()
    path = tmp / "t.csv"
    path.write_bytes(("x,z,y\n" + lines(b)).encode("utf-16-le"))
    try:
        return shape(plan_of(path), 200)
    except luthier.LuthierError as e:
        s = f"{e} | {getattr(e, 'hint', '')}"
        return "encoding" in s or "NUL" in s.upper(), f"refused: {s}"


def case_lines_nul_bytes(tmp):
    """A NUL in a cell, and 1\\0xyz among numbers: never 1 in silence. Source: pandas-dev/pandas#19886, #66524, wireservice/csvkit#927"""
    b = body()
    text = "x,z,y\n" + lines(b[:50]) + "1\x00xyz,3,p\n" + lines(b[50:])
    path = tmp / "t.csv"
    path.write_text(text)
    try:
        p = plan_of(path)
    except luthier.LuthierError as e:
        s = f"{e} | {getattr(e, 'hint', '')}"
        return "row" in s or "line" in s, f"refused, no row named: {s}"
    c = column(p, "x")
    want = np.mean([float(r[0]) for r in b])
    return p.schema.num_rows == 201 and c.kind == "number" and c.missing == 1 and np.isclose(
        c.means[0], want
    ), f"rows {p.schema.num_rows}, {brief(c)}; right 201 rows, mean {want:.4g}, missing 1; {words(p, 'x')[:200]}"


def case_lines_carriage_returns(tmp):
    """Lone CR as line ends (Excel for Mac), and CRCRLF. Source: mholt/PapaParse#43, fivethirtyeight/data#287"""
    b = body()
    t = "x,z,y\n" + lines(b)
    return every(
        [
            read_text(tmp, t.replace("\n", "\r")),
            read_text(tmp, t.replace("\n", "\r\r\n")),
            read_text(tmp, t.replace("\n", "\r\n")[:-2]),
            read_text(tmp, t[: t.index("\n", 900) + 1].replace("\n", "\r\n") + t[t.index("\n", 900) + 1 :]),
        ]
    )


def case_lines_mixed_encoding(tmp):
    """Mostly UTF-8 with two stray Latin-1 bytes; and a Latin-1 file. Source: Knowledge-Graph-Hub/kg-microbe#649, gem/oq-engine#6826"""
    r = rng(41)
    w = r.choice(["Gr\u00f6\u00dfe", "caf\u00e9", "na\u00efve", "plain"], 300)
    rows = [f"{a},{i % 7},{'pq'[i % 2]}\n" for i, a in enumerate(w)]
    half = (
        "v,z,y\n".encode()
        + "".join(rows[:298]).encode()
        + "".join(rows[298:]).encode("latin-1")
        + "caf\u00e9,3,p\n".encode("latin-1")
    )
    (tmp / "t.csv").write_bytes(half)
    try:
        p = plan_of(tmp / "t.csv")
        got = set(column(p, "v").categories)
        one = (
            {"Gr\u00f6\u00dfe", "caf\u00e9", "na\u00efve", "plain"} <= got and p.schema.num_rows == 301,
            f"{got}, {p.schema.num_rows} rows",
        )
    except luthier.LuthierError as e:
        one = ("row" in str(e) or "byte" in str(e)), f"refused: {e}"
    (tmp / "u.csv").write_bytes(("v,z,y\n" + "".join(rows)).encode("latin-1"))
    p = plan_of(tmp / "u.csv")
    got = set(column(p, "v").categories)
    two = {"Gr\u00f6\u00dfe", "caf\u00e9", "na\u00efve", "plain"} == got, f"{got}"
    (tmp / "w.csv").write_bytes(("v,z,y\n" + "".join(rows)).replace("plain", "5 \u20ac").encode("cp1252"))
    p = plan_of(tmp / "w.csv")
    got = set(column(p, "v").categories)
    three = "5 \u20ac" in got and "caf\u00e9" in got, f"cp1252: {got}"
    return every([one, two, three])


def case_lines_codepages(tmp):
    """cp1251 Russian, Shift-JIS, GB18030, cp1250 Polish. Source: plaintextaccounting/hledger#2189 (CP-1250), common knowledge"""
    out = []
    for enc, ws in (
        (
            "cp1251",
            [
                "\u041c\u043e\u0441\u043a\u0432\u0430",
                "\u041a\u0430\u0437\u0430\u043d\u044c",
                "\u041e\u043c\u0441\u043a",
            ],
        ),
        ("shift_jis", ["\u6771\u4eac\u90fd", "\u5927\u962a\u5e9c", "\u30c6\u30b9\u30c8"]),
        ("gb18030", ["\u5317\u4eac\u5e02", "\u4e0a\u6d77\u5e02", "\u5e7f\u5dde\u5e02"]),
        ("cp1250", ["\u0141\u00f3d\u017a", "Krak\u00f3w", "Gda\u0144sk \u017b\u00f3\u0142\u0107"]),
    ):
        r = rng(42)
        path = table(tmp, list(r.choice(ws, 300)), encoding=enc)
        p = plan_of(path)
        got = set(column(p, "v").categories)
        said = any(
            "encoding" in n.lower() or enc.replace("_", "") in n.lower().replace("_", "").replace("-", "")
            for n in p.prepared.notes
        )
        out.append((got == set(ws) or said, f"{enc}: {got}, {p.prepared.notes[:2]}"))
    return every(out)


def rows_case(tmp, text, want, name="v"):
    """Rows are never fewer: right, or refused with the row."""
    path = tmp / "t.csv"
    path.write_bytes(text.encode())
    clear()
    try:
        p = plan_of(path, kind={name: "category"})
    except luthier.LuthierError as e:
        s = f"{e} | {getattr(e, 'hint', '')}"
        return "row" in s or "line" in s, f"refused: {s[:250]}"
    cells = column(p, name).categories
    return p.schema.num_rows == want and all(
        "\n" not in c for c in cells
    ), f"{p.schema.num_rows} rows of {want}; longest cell {max(cells, key=len)[:90]!r}; {p.prepared.notes[:3]}"


def case_swallow_quote_opened_once(tmp):
    """An opening quote that never closes. Source: uniVocity/univocity-parsers#259, semantic-reasoning/wirelog#1005"""
    base = [f"{i},some words {i % 5},{'pq'[i % 2]}\n" for i in range(200)]
    broken = list(base)
    broken[60] = '60,"bad line,p\n'
    one = rows_case(tmp, "z,v,y\n" + "".join(broken), 200)
    broken[130] = '130,"good line",q\n'
    two = rows_case(tmp, "z,v,y\n" + "".join(broken), 200)
    broken[100] = '100,"bad line again,p\n'
    three = rows_case(tmp, "z,v,y\n" + "".join(broken), 200)
    return every([one, two, three])


def case_swallow_inches(tmp):
    """16" in the middle of a cell without quotes. Source: max-mapper/binary-csv#7, alexpcosta/opengym#7"""
    base = [
        f'{i},"Box {i % 5}",{"pq"[i % 2]}\n' if i % 3 else f'{i},Box Jump {i % 4}4",{"pq"[i % 2]}\n' for i in range(200)
    ]
    one = rows_case(tmp, "z,v,y\n" + "".join(base), 200)
    two = rows_case(tmp, "z,v,y\n" + "".join([f'{i},"Box {i % 4}" x 7",{"pq"[i % 2]}\n' for i in range(200)]), 200)
    three = rows_case(tmp, "z,v,y\n" + "".join([f'{i},"JOHN "WAYNE{i % 4}"",{"pq"[i % 2]}\n' for i in range(200)]), 200)
    return every([one, two, three])


def case_swallow_tab_file_with_quotes(tmp):
    """TSV whose cells begin with a quote that means inches or speech (IMDb, GeoNames). Source: uniVocity/univocity-parsers#473, common knowledge"""
    base = [f"{i}\tplain {i % 4}\t{'pq'[i % 2]}\n" for i in range(200)]
    for k in (20, 75, 140):
        base[k] = f'{k}\t"Weird Al" Yankovic\t{"pq"[k % 2]}\n'
    base[50] = '50\t"\tp\n'
    base[120] = '120\t"The\tq\n'
    return rows_case(tmp, "z\tv\ty\n" + "".join(base), 200)


def case_swallow_real_newlines(tmp):
    """Real newlines in quoted cells (addresses, comments) stay one row. Source: gridx#406 kin (oria/gridx#413), common knowledge"""
    r = [(i, f"street {i % 6}\ntown {i % 3}", "pq"[i % 2]) for i in range(200)]
    path = write(tmp / "t.csv", ["z", "v", "y"], r, end="\r\n")
    p = plan_of(path)
    c = column(p, "v")
    return p.schema.num_rows == 200 and len(c.categories) == 6, f"{p.schema.num_rows} rows, {brief(c)}"


def case_swallow_ragged_rows(tmp):
    """Unquoted commas in an address make a row longer; a short row. Source: pandas-dev/pandas#15203, semantic-reasoning/wirelog#1005"""
    b = [f"{i},plain {i % 4},{'pq'[i % 2]}\n" for i in range(200)]
    b[77] = "77,Oslo, Norway,p\n"
    c = list(b)
    c[77] = "77,plain 1\n"
    return every([rows_case(tmp, "z,v,y\n" + "".join(b), 200), rows_case(tmp, "z,v,y\n" + "".join(c), 200)])


def case_swallow_single_quotes(tmp):
    """Single quotes as quote characters (Weka, MySQL): 'a, b' and O'Brien. Source: common knowledge (ARFF to CSV)"""
    r = rng(43)
    w = r.choice(["O'Brien", "D'Arcy", "Smith", "rock 'n' roll"], 200)
    p = plan_of(write(tmp / "t.csv", ["z", "v", "y"], [(i % 9, a, "pq"[i % 2]) for i, a in enumerate(w)]))
    got = set(column(p, "v").categories)
    return got == set(w) and p.schema.num_rows == 200, f"{got}, rows {p.schema.num_rows}"


# ---- identifiers and what looks like them


def kind_of(tmp, cells, want, name="v", n_ok=None, **kw):
    clear()
    r = rng(50)
    path = write(
        tmp / "t.csv",
        [name, "z", "y"],
        [(c, int(b), t) for c, b, t in zip(cells, r.integers(0, 50, len(cells)), ["p", "q"] * len(cells))],
    )
    p = plan_of(path, **kw)
    c = column(p, name)
    ok = c.kind in want or (bool(set(want) & {"number", "text", "date"}) and told(p, name, *want))
    return ok, f"{name}={cells[0]!r}: {brief(c)}; right: {'/'.join(want)}"


def case_id_forms(tmp):
    """UUIDs, hashes, e-mails, ObjectIds, A-00017, URLs: nothing to learn. Source: societe-generale/aikit#27, alteryx/evalml#4206"""
    import hashlib
    import uuid

    r = rng(51)
    md = [hashlib.md5(str(i).encode()).hexdigest() for i in range(N)]
    return every(
        [
            kind_of(tmp, [str(uuid.UUID(h)) for h in md], ["identifier"]),
            kind_of(tmp, md, ["identifier"]),
            kind_of(tmp, [f"user{int(i)}@example.com" for i in r.permutation(90000)[:N]], ["identifier"]),
            kind_of(tmp, [h[:24] for h in md], ["identifier"]),
            kind_of(tmp, [f"A-{int(i):05d}" for i in r.permutation(90000)[:N]], ["identifier"]),
            kind_of(tmp, [f"https://example.com/item/{int(i)}" for i in r.permutation(90000)[:N]], ["identifier"]),
            kind_of(tmp, [f"TX{i:06d}" for i in range(N)], ["identifier"]),
            kind_of(tmp, [f"+49 170 {int(a):07d}" for a in r.permutation(9_000_000)[:N]], ["identifier", "text"]),
        ]
    )


def case_id_counters_any_order(tmp):
    """A column named id that counts rows: in order, shuffled, from 1001, in steps of 10, with gaps, reversed. Source: microsoft/FLAML#549, mindsdb/mindshub#1071"""
    r = rng(52)
    base = np.arange(N)
    return every(
        [
            kind_of(tmp, list(base + 1), ["identifier"], name="id"),
            kind_of(tmp, list(r.permutation(base)), ["identifier"], name="id"),
            kind_of(tmp, list(base + 1001), ["identifier"], name="id"),
            kind_of(tmp, list(base * 10), ["identifier"], name="PassengerId"),
            kind_of(tmp, list(base[::-1]), ["identifier"], name="row_id"),
            kind_of(tmp, list(r.permutation(10**6)[:N]), ["identifier"], name="customer_id"),
            kind_of(tmp, [f"{x:05d}" for x in r.permutation(base)], ["identifier"], name="id"),
            kind_of(tmp, [f"{x}.0" for x in base], ["identifier"], name="id"),
        ]
    )


def case_id_unnamed_index_csv(tmp):
    """to_csv with the index: a column without a name that counts. Source: blue-yonder/tsfresh#162, microsoft/FLAML#549"""
    r = rng(53)
    f = pd.DataFrame({"x": r.normal(0, 1, N), "y": np.repeat(["a", "b"], N // 2)})
    f.to_csv(tmp / "t.csv")
    f.sample(frac=0.8, random_state=0).to_csv(tmp / "u.csv")
    f.reset_index().to_csv(tmp / "w.csv", index=False)
    got = {n: [c.name for c in plan_of(tmp / n).schema.columns if c.is_input] for n in ("t.csv", "u.csv", "w.csv")}
    return all(v == ["x"] for v in got.values()), f"inputs {got}"


def case_id_not_years_ranks_amounts(tmp):
    """Numbers that all differ but mean something: salary, year 1724-2023, rank, time in ms, temperature. Source: dotnet/machinelearning#3977 (dataValue ignored), alteryx/evalml#4193 kin"""
    r = rng(54)
    return every(
        [
            kind_of(tmp, list(r.permutation(90000)[:N] + 20000), ["number"], name="salary"),
            kind_of(tmp, list(r.permutation(np.arange(1724, 2024))), ["number", "date"], name="year"),
            kind_of(tmp, list(r.permutation(10**7)[:N]), ["number"], name="population"),
            kind_of(tmp, [f"{x:.5f}" for x in r.normal(0, 1, N)], ["number"], name="reading"),
            kind_of(tmp, list(r.permutation(np.arange(100, 100 + 2 * N, 2))), ["number"], name="weight_g"),
        ]
    )


def case_id_not_names_titles_texts(tmp):
    """Names, titles, Chinese sentences, emoji, short reviews: all different, but text. Source: dotnet/machinelearning-modelbuilder#409, alteryx/evalml#4206 kin"""
    r = rng(55)
    first = "Anna Ben Carla Dmitri Elif Farid Greta Hiro Ines Jan".split()
    last = "Smith Mueller Rossi Novak Tanaka Silva Kowalski Dubois Larsen Okafor".split()
    names = [f"{first[i % 10]} {last[(i // 10) % 10]} {'ABC'[i // 100]}." for i in r.permutation(N)]
    verbs = "love hate like need want return".split()
    reviews = [
        f"I {verbs[i % 6]} this {['phone', 'case', 'cable', 'lamp', 'book'][i % 5]} no {i}" for i in r.permutation(N)
    ]
    han = "\u6211\u4f60\u4ed6\u5f88\u559c\u6b22\u8fd9\u4e2a\u7535\u5f71\u4e0d\u597d\u770b\u4e66\u97f3\u4e50\u98df\u7269"
    chinese = ["".join(r.choice(list(han), 12)) for _ in range(N)]
    emoji = ["".join(r.choice(list("\U0001f600\U0001f622\U0001f621\u2764\U0001f44d\U0001f680"), 6)) for _ in range(N)]
    titles = [
        f"The {['Night', 'Day', 'House', 'Man'][i % 4]} of {['Rome', 'Tea', 'Stone', 'Glass', 'Ice'][i % 5]} {'I' * (i % 3 + 1)} ({1950 + i % 70})"
        for i in r.permutation(N)
    ]
    short = [
        f"{['bad', 'good', 'ok', 'great', 'awful'][i % 5]} {['item', 'seller', 'price', 'box'][i % 4]}{'!' * (i % 9)}"
        for i in range(N)
    ]
    return every(
        [
            kind_of(tmp, names, ["text"], name="Name"),
            kind_of(tmp, reviews, ["text"], name="review"),
            kind_of(tmp, chinese, ["text"], name="comment"),
            kind_of(tmp, emoji, ["text", "category"], name="reaction"),
            kind_of(tmp, titles, ["text"], name="title"),
            kind_of(tmp, short, ["text", "category"], name="short"),
        ]
    )


def case_id_never_leaves_no_input(tmp):
    """Only one input, and it is all different: trained, or told how. Source: dotnet/machinelearning#3977, alteryx/evalml#4193"""
    r = rng(56)
    out = []
    for name, cells in (
        ("code words", [f"K{int(i):06d}" for i in r.permutation(10**6)[:200]]),
        ("whole numbers in order", list(range(200))),
        ("shuffled", list(r.permutation(200))),
        ("mails", [f"u{i}@x.org" for i in range(200)]),
    ):
        write(tmp / "t.csv", ["x", "y"], [(c, "ab"[i % 2]) for i, c in enumerate(cells)])
        try:
            p = plan_of(tmp / "t.csv")
            out.append(
                (any(c.is_input for c in p.schema.columns), f"{name}: {[(c.name, c.kind) for c in p.schema.columns]}")
            )
        except luthier.LuthierError as e:
            s = f"{e} | {getattr(e, 'hint', '')}"
            out.append(("kind" in s and "x" in s, f"{name}: refused {s[:200]}"))
    return every(out)


def case_id_row_order_moves_nothing(tmp):
    """Kinds, means and categories do not depend on the order of rows. Source: twosigma/beakerx#1772 (index not in order), docs/data.md"""
    r = rng(57)
    f = pd.DataFrame(
        {
            "id": np.arange(N),
            "day": np.arange(N) // 3,
            "price": r.normal(5, 1, N).round(2),
            "zip": [f"{x:05d}" for x in r.integers(0, 30, N) * 71],
            "seen": pd.date_range("2021-01-01", periods=N).strftime("%d/%m/%Y"),
            "y": r.choice(["a", "b"], N),
        }
    )
    got = []
    for seed in (None, 1, 2):
        g = f if seed is None else f.sample(frac=1, random_state=seed)
        g.to_csv(tmp / "t.csv", index=False)
        got.append(
            [(c.name, c.kind, tuple(np.round(c.means, 6)), c.categories) for c in plan_of(tmp / "t.csv").schema.columns]
        )
    return got[0] == got[1] == got[2], f"{[(a[0], a[1]) for a in got[0]]} / {[(a[0], a[1]) for a in got[1]]}"


def case_zero_leading_codes(tmp):
    """Codes with leading zeros: FIPS 06037, ICD, bank codes, months '01'; also with .0 beside; never added up as a quantity. Source: alexcaza/export-to-csv#32, django-import-export#759"""
    r = rng(58)
    fips = r.choice([f"{x:05d}" for x in (6037, 1001, 48201, 36061, 17031, 4013)], N)
    hosp = r.choice(["007", "012", "101", "555", "040"], N)
    return every(
        [
            kind_of(tmp, list(fips), ["category"], name="fips"),
            kind_of(tmp, list(hosp), ["category"], name="ward"),
            kind_of(tmp, [f"0{x}" for x in r.choice([15117, 15222, 30301], N)], ["category"], name="area"),
            kind_of(tmp, [f"{x:08.3f}" for x in r.uniform(0, 900, N)], ["number"], name="padded"),
            kind_of(tmp, [f"0{x:.2f}" if x < 10 else f"{x:.2f}" for x in r.uniform(0, 90, N)], ["number"], name="temp"),
        ]
    )


def case_zero_codes_same_in_frame(tmp):
    """Trained on text '01234', predicted where pandas reads 1234 (and 1234.0 with a hole). Source: apache/arrow#46853 kin, ray-project/ray#28619"""
    r = rng(59)
    zips = ["01234", "02345", "10001", "90210"]
    v = r.choice(zips, N)
    z = r.normal(0, 1, N).round(3)
    write(tmp / "t.csv", ["zip", "z", "y"], [(a, b, "p" if a < "1" else "q") for a, b in zip(v, z)])
    m = train(tmp / "t.csv", epochs=12)
    want = m.predict_proba({"zip": list(zips), "z": [0.0] * 4})
    got = {
        "int": m.predict_proba(pd.DataFrame({"zip": [int(x) for x in zips], "z": [0.0] * 4})),
        "float": m.predict_proba(pd.DataFrame({"zip": [float(x) for x in zips], "z": [0.0] * 4})),
        "dict int": np.concatenate([m.predict_proba({"zip": int(x), "z": 0.0}) for x in zips]),
    }
    pd.DataFrame({"zip": [int(x) for x in zips], "z": [0.0] * 4}).to_parquet(tmp / "q.parquet")
    got["parquet int"] = m.predict_proba(tmp / "q.parquet")
    bad = [k for k, p in got.items() if not np.allclose(p, want, atol=1e-6)]
    return not bad, f"differ: {bad}; {want[:, 0].round(3)} {[got[k][:, 0].round(3) for k in bad]} heard {heard()[:200]}"


# ---- flags


def case_flag_blank(tmp):
    """Y/blank, x/blank, 1/blank, X/NaN, TRUE/blank: a flag, not a constant. Source: common knowledge (spreadsheet ticks), pandas object columns with None"""
    out = []
    for word in ("Y", "x", "1", "\u2713", "TRUE", "X", "J", "yes"):
        r = rng(60)
        on = r.random(N) < 0.3
        write(tmp / "t.csv", ["v", "z", "y"], [(word if g else "", i % 7, "a" if g else "b") for i, g in enumerate(on)])
        clear()
        p = plan_of(tmp / "t.csv")
        c = column(p, "v")
        out.append(
            (
                c.is_input and c.kind in ("boolean", "category", "number"),
                f"{word!r}/blank: {brief(c)} {words(p, 'v')[:120]}",
            )
        )
    return every(out)


def case_flag_words(tmp):
    """Ja/Nein, oui/non, TRUE/FALSE, .T./.F., on/off, M/F, 0/1 as 0.0/1.0: two words are an input. Source: common knowledge (dBASE, SAP), mljar/mljar-supervised#442"""
    r = rng(61)
    out = []
    for a, b in (
        ("Ja", "Nein"),
        ("oui", "non"),
        ("TRUE", "FALSE"),
        (".T.", ".F."),
        ("on", "off"),
        ("M", "F"),
        ("0.0", "1.0"),
        ("+", "-"),
        ("pos", "neg"),
        ("\u662f", "\u5426"),
    ):
        ok, s = kind_of(tmp, list(r.choice([a, b], N)), ["boolean", "category", "number"])
        out.append((ok, s))
    return every(out)


def case_genres_with_bars(tmp):
    """Action|Comedy|Drama: not thousands of categories lost in silence. Source: common knowledge (MovieLens genres), pytorch-tabular multi-label columns"""
    r = rng(62)
    g = np.array("Action Comedy Drama Horror Romance Sci-Fi Thriller War Western Crime".split())
    cells = ["|".join(sorted(r.choice(g, int(r.integers(1, 5)), replace=False))) for _ in range(N)]
    path = table(tmp, cells)
    p = plan_of(path)
    c = column(p, "v")
    fine = c.kind == "text" or bool(c.doubt) or "v" in heard()
    r2 = [";".join(x.split("|")) for x in cells]
    c2 = column(plan_of(table(tmp, r2)), "v")
    return fine and c.is_input and c2.is_input, f"{brief(c)}; {brief(c2)}; said {words(p, 'v')[:200]}"


# ---- the same value spelled differently at prediction


def same(m, cases, want, atol=1e-6):
    bad = []
    for name, src in cases.items():
        clear()
        try:
            p = (
                np.concatenate([m.predict_proba(s) for s in src])
                if isinstance(src, list)
                and isinstance(src[0], dict)
                and not isinstance(next(iter(src[0].values())), list)
                else m.predict_proba(src)
            )
            if not np.allclose(p, want, atol=atol):
                bad.append(f"{name}: {p[:, 0].round(3)} for {want[:, 0].round(3)}, heard {heard()[:120]!r}")
        except luthier.LuthierError as e:
            bad.append(f"{name}: refused {str(e)[:150]}")
        except Exception as e:  # noqa: BLE001
            bad.append(f"{name}: {type(e).__name__} {str(e)[:150]}")
    return not bad, "; ".join(bad) or f"{len(cases)} ways agree: {want[:, 0].round(3)}"


def case_same_bool_spellings(tmp):
    """Trained on TRUE/FALSE of R or Excel; predicted with bool, 0/1, true, Boolean, t. Source: alteryx/evalml#3925, lightgbm-org/LightGBM#2821 kin"""
    r = rng(70)
    s = r.choice(["TRUE", "FALSE"], N)
    z = r.normal(0, 1, N).round(3)
    write(tmp / "t.csv", ["s", "z", "y"], [(a, b, "p" if a == "TRUE" else "q") for a, b in zip(s, z)])
    m = train(tmp / "t.csv", epochs=10)
    zz = [0.0, 0.5]
    want = m.predict_proba({"s": ["TRUE", "FALSE"], "z": zz})
    write(tmp / "q.csv", ["s", "z"], [("True", 0.0), ("False", 0.5)])
    write(tmp / "u.csv", ["s", "z"], [("1", 0.0), ("0", 0.5)])
    pd.DataFrame({"s": [True, False], "z": zz}).to_json(tmp / "q.json", orient="records")
    pd.DataFrame({"s": [True, False], "z": zz}).to_excel(tmp / "q.xlsx", index=False)
    import polars as pl

    return same(
        m,
        {
            "bool frame": pd.DataFrame({"s": [True, False], "z": zz}),
            "Boolean frame": pd.DataFrame({"s": pd.array([True, False], dtype="boolean"), "z": zz}),
            "arrow bool": pd.DataFrame({"s": pd.array([True, False], dtype="bool[pyarrow]"), "z": zz}),
            "object bool": pd.DataFrame({"s": np.array([True, False], dtype=object), "z": zz}),
            "int": pd.DataFrame({"s": [1, 0], "z": zz}),
            "float": pd.DataFrame({"s": [1.0, 0.0], "z": zz}),
            "csv True": tmp / "q.csv",
            "csv 1": tmp / "u.csv",
            "json": tmp / "q.json",
            "excel": tmp / "q.xlsx",
            "polars": pl.DataFrame({"s": [True, False], "z": zz}),
            "lower": {"s": ["true", "false"], "z": zz},
            "rows": [{"s": True, "z": 0.0}, {"s": False, "z": 0.5}],
            "numpy bool rows": [{"s": np.bool_(True), "z": 0.0}, {"s": np.bool_(False), "z": 0.5}],
        },
        want,
    )


def case_same_whole_number_categories(tmp):
    """Trained on int classes as category; predicted with 3.0 (a hole made pandas float), '3', Int64, categorical, ' 3'. Source: ClimbsRocks/auto_ml#315, UCL/TLOmodel#715, ray-project/ray#28619"""
    r = rng(71)
    k = r.choice([1, 2, 3, 10], N)
    z = r.normal(0, 1, N).round(3)
    f = pd.DataFrame({"k": k, "z": z, "y": np.where(k == 3, "p", "q")})
    m = train(f, epochs=10, kind={"k": "category"})
    q, zz = [1, 2, 3, 10], [0.0] * 4
    want = m.predict_proba(pd.DataFrame({"k": q, "z": zz}))
    write(tmp / "q.csv", ["k", "z"], [(f"{a}.0", 0.0) for a in q])
    pd.DataFrame({"k": [float(a) for a in q], "z": zz}).to_parquet(tmp / "q.parquet")
    pd.DataFrame({"k": q, "z": zz}).to_excel(tmp / "q.xlsx", index=False)
    return same(
        m,
        {
            "float": pd.DataFrame({"k": [1.0, 2.0, 3.0, 10.0], "z": zz}),
            "text": {"k": ["1", "2", "3", "10"], "z": zz},
            "Int64": pd.DataFrame({"k": pd.array(q, dtype="Int64"), "z": zz}),
            "categorical": pd.DataFrame({"k": pd.Categorical(q), "z": zz}),
            "int8": pd.DataFrame({"k": np.array(q, dtype="int8"), "z": zz}),
            "csv 3.0": tmp / "q.csv",
            "parquet float": tmp / "q.parquet",
            "excel": tmp / "q.xlsx",
            "arrow": pd.DataFrame({"k": pd.array(q, dtype="int64[pyarrow]"), "z": zz}),
            "padded": {"k": ["1 ", " 2", "3", "10"], "z": zz},
            "rows": [{"k": np.int64(a), "z": 0.0} for a in q],
            "object mixed": pd.DataFrame({"k": np.array([1, "2", 3.0, "10"], dtype=object), "z": zz}),
        },
        want,
    )


def case_same_dates_types(tmp):
    """Dates as text, datetime64, date, Timestamp with UTC, Parquet, Excel, polars. Source: KhiopsML/khiops-python#45, fastai/fastai#573"""
    import datetime as dt

    import polars as pl

    r = rng(72)
    s = stamps(seconds=False)
    y = ["p" if x.year < 2021 else "q" for x in s]
    write(tmp / "t.csv", ["d", "z", "y"], [(x.strftime("%d.%m.%Y"), i % 7, t) for i, (x, t) in enumerate(zip(s, y))])
    m = train(tmp / "t.csv", epochs=10)
    q = [dt.datetime(2019, 5, 6), dt.datetime(2022, 11, 30)]
    zz = [1, 2]
    want = m.predict_proba({"d": [x.strftime("%d.%m.%Y") for x in q], "z": zz})
    pd.DataFrame({"d": q, "z": zz}).to_parquet(tmp / "q.parquet")
    pd.DataFrame({"d": q, "z": zz}).to_excel(tmp / "q.xlsx", index=False)
    write(tmp / "q.csv", ["d", "z"], [("2019-05-06", 1), ("2022-11-30", 2)])
    return same(
        m,
        {
            "datetime64": pd.DataFrame({"d": pd.to_datetime(q), "z": zz}),
            "UTC": pd.DataFrame({"d": pd.to_datetime(q).tz_localize("UTC"), "z": zz}),
            "date objects": pd.DataFrame({"d": [x.date() for x in q], "z": zz}),
            "polars Date": pl.DataFrame({"d": [x.date() for x in q], "z": zz}),
            "parquet": tmp / "q.parquet",
            "rows": [{"d": x, "z": k} for x, k in zip(q, zz)],
            "Timestamp rows": [{"d": pd.Timestamp(x), "z": k} for x, k in zip(q, zz)],
        },
        want,
    )


def case_same_dates_excel_and_iso(tmp):
    """Trained on DD.MM.YYYY of a CSV; an Excel file with real dates agrees; ISO text agrees or a warning counts. Source: antonscheffer/excel2collections#3 kin, tidyverse/readxl#383"""
    import datetime as dt

    s = stamps(seconds=False)
    write(
        tmp / "t.csv",
        ["d", "z", "y"],
        [(x.strftime("%d.%m.%Y"), i % 7, "p" if x.year < 2021 else "q") for i, x in enumerate(s)],
    )
    m = train(tmp / "t.csv", epochs=10)
    q = [dt.datetime(2019, 5, 6), dt.datetime(2022, 11, 30)]
    want = m.predict_proba({"d": [x.strftime("%d.%m.%Y") for x in q], "z": [1, 2]})
    pd.DataFrame({"d": q, "z": [1, 2]}).to_excel(tmp / "q.xlsx", index=False)
    one = same(m, {"excel": tmp / "q.xlsx"}, want)
    pd.DataFrame({"d": q, "z": [1, 2]}).to_json(tmp / "q.json", orient="records", date_format="iso")
    clear()
    p = m.predict_proba(tmp / "q.json")
    two = np.allclose(p, want, atol=1e-6) or "'d'" in heard(), f"iso: {p[:, 0]}, heard {heard()[:150]!r}"
    return every([one, two])


def case_same_numbers_types(tmp):
    """Numbers as Decimal, text, float32, nullable, Arrow; missing as None, NaN, pd.NA, '', NaT. Source: catboost/catboost#3142, lightgbm-org/LightGBM#2821"""
    from decimal import Decimal

    r = rng(73)
    v = r.normal(0, 1, N).round(2).astype(object)
    v[r.random(N) < 0.2] = ""
    write(tmp / "t.csv", ["v", "z", "y"], [(a, i % 7, "p" if a != "" and a > 0 else "q") for i, a in enumerate(v)])
    m = train(tmp / "t.csv", epochs=10)
    zz = [1, 2, 3]
    want = m.predict_proba({"v": ["1.25", "-0.5", ""], "z": zz})
    return same(
        m,
        {
            "float nan": pd.DataFrame({"v": [1.25, -0.5, np.nan], "z": zz}),
            "None": pd.DataFrame({"v": np.array([1.25, -0.5, None], dtype=object), "z": zz}),
            "NA object": pd.DataFrame({"v": np.array([1.25, -0.5, pd.NA], dtype=object), "z": zz}),
            "Float64": pd.DataFrame({"v": pd.array([1.25, -0.5, None], dtype="Float64"), "z": zz}),
            "arrow": pd.DataFrame({"v": pd.array([1.25, -0.5, None], dtype="float64[pyarrow]"), "z": zz}),
            "Decimal": pd.DataFrame({"v": [Decimal("1.25"), Decimal("-0.5"), None], "z": zz}),
            "string": pd.DataFrame({"v": pd.array(["1.25", "-0.5", None], dtype="string"), "z": zz}),
            "float32": pd.DataFrame({"v": np.array([1.25, -0.5, np.nan], dtype="float32"), "z": zz}),
            "rows": [{"v": 1.25, "z": 1}, {"v": -0.5, "z": 2}, {"v": None, "z": 3}],
            "rows NA": [{"v": 1.25, "z": 1}, {"v": -0.5, "z": 2}, {"v": pd.NA, "z": 3}],
            "rows nan": [{"v": Decimal("1.25"), "z": 1}, {"v": "-0.5", "z": 2}, {"v": float("nan"), "z": 3}],
            "categorical": pd.DataFrame({"v": pd.Categorical([1.25, -0.5, None]), "z": zz}),
        },
        want,
    )


def case_same_money_and_percent_at_prediction(tmp):
    """Trained on $1,234.50 and 12 %; predicted with plain numbers of a frame and with the same texts. Source: TresAmigosSD/SMV#266, bastienboutonnet/sheetwork#188"""
    r = rng(74)
    v = r.uniform(5, 9000, N).round(2)
    c = r.uniform(0, 100, N).round(1)
    write(tmp / "t.csv", ["v", "c", "y"], [(f"${a:,.2f}", f"{b}%", "p" if a > 4000 else "q") for a, b in zip(v, c)])
    m = train(tmp / "t.csv", epochs=10)
    want = m.predict_proba({"v": ["$1,234.50", "$8,000.00"], "c": ["12.5%", "80.0%"]})
    write(tmp / "q.csv", ["v", "c"], [("1234.5", "12.5"), ("8000", "80")])
    return same(
        m,
        {
            "frame": pd.DataFrame({"v": [1234.5, 8000.0], "c": [12.5, 80.0]}),
            "plain text": {"v": ["1234.5", "8000"], "c": ["12.5 %", "80 %"]},
            "csv": tmp / "q.csv",
            "rows": [{"v": "$1,234.50", "c": "12.5%"}, {"v": 8000, "c": 80}],
        },
        want,
    )


def case_same_category_case_and_blanks_warned(tmp):
    """Trained on 'New York'; all cells 'new york ' or 'NEW YORK': the answers agree or a warning names the column and counts. Source: pytorch-tabular kin; common knowledge"""
    r = rng(75)
    k = r.choice(["New York", "Oslo", "Rome"], N)
    f = pd.DataFrame({"city": k, "z": r.normal(0, 1, N).round(3)})
    m = train(f.assign(y=np.where(k == "Oslo", "a", "b")), epochs=5)
    out = []
    for name, g in {
        "upper": f.city.str.upper(),
        "blank": f.city + " ",
        "nbsp": f.city.str.replace(" ", "\u00a0"),
        "decomposed": f.city.str.replace("Rome", "Ro\u0301me"),
    }.items():
        clear()
        p = m.predict_proba(f.assign(city=g))
        agree = np.allclose(p, m.predict_proba(f), atol=1e-6)
        out.append((agree or "city" in heard(), f"{name}: agree {agree}, heard {heard()[:150]!r}"))
    for name, rows in {"one dict": {"city": "ROMA", "z": 0.1}, "some of many": None}.items():
        clear()
        if rows is None:
            g = f.city.copy()
            g.iloc[:5] = "Paris"
            m.predict(f.assign(city=g))
        else:
            m.predict(rows)
        out.append(("city" in heard(), f"{name}: heard {heard()[:150]!r}"))
    return every(out)


def case_same_unseen_in_evaluate_and_csv(tmp):
    """Unseen categories in a CSV given to evaluate and predict: said with a count. Source: deepchecks/deepchecks#2141, Quantco/glum#748"""
    r = rng(76)
    write(
        tmp / "t.csv",
        ["k", "z", "y"],
        [(a, b, "p" if a == "red" else "q") for a, b in zip(r.choice(["red", "green"], N), r.integers(0, 9, N))],
    )
    m = train(tmp / "t.csv")
    write(tmp / "u.csv", ["k", "z", "y"], [(a, i % 9, "pq"[i % 2]) for i, a in enumerate(["rot", "gruen"] * 60)])
    clear()
    m.evaluate(tmp / "u.csv")
    one = "k" in heard() and "120" in heard(), f"evaluate heard {heard()[:250]!r}"
    clear()
    m.predict(tmp / "u.csv")
    two = "'k'" in heard() and "120" in heard(), f"predict heard {heard()[:250]!r}"
    return every([one, two])


def case_same_decimal_comma_at_prediction(tmp):
    """Trained with points, predicted on a ; file with commas (Excel of another country), and the reverse. Source: Kotlin/dataframe#1015, hhurz/tableExport.jquery.plugin#137"""
    r = rng(77)
    v = r.uniform(0, 20, N).round(2)
    write(tmp / "t.csv", ["v", "z", "y"], [(a, i % 7, "p" if a > 10 else "q") for i, a in enumerate(v)])
    m = train(tmp / "t.csv", epochs=8)
    q = [3.75, 15.25, 9.5]
    want = m.predict_proba({"v": q, "z": [1, 2, 3]})
    write(tmp / "q.csv", ["v", "z"], [(str(a).replace(".", ","), k) for a, k in zip(q, (1, 2, 3))], sep=";")
    one = same(m, {"; and commas": tmp / "q.csv"}, want)
    write(
        tmp / "t2.csv",
        ["v", "z", "y"],
        [(str(a).replace(".", ","), i % 7, "p" if a > 10 else "q") for i, a in enumerate(v)],
        sep=";",
    )
    m2 = train(tmp / "t2.csv", epochs=8)
    want2 = m2.predict_proba(pd.DataFrame({"v": q, "z": [1, 2, 3]}))
    write(tmp / "q2.csv", ["v", "z"], [(a, k) for a, k in zip(q, (1, 2, 3))])
    two = same(
        m2,
        {", and points": tmp / "q2.csv", "texts with commas": {"v": ["3,75", "15,25", "9,5"], "z": [1, 2, 3]}},
        want2,
    )
    return both(one, two)


def case_same_column_names_with_blanks(tmp):
    """Names at prediction differ by blanks, BOM or case: found, or the message names the near one. Source: belarusian/runloop-pipeline#7 (BOM), BoostV/process-optimizer-frontend#295"""
    r = rng(78)
    f = pd.DataFrame({"Age ": r.integers(18, 80, N), "z": r.normal(0, 1, N).round(3), "y": r.choice(["a", "b"], N)})
    f.to_csv(tmp / "t.csv", index=False)
    m = train(tmp / "t.csv")
    want = m.predict_proba(f)
    out = []
    for name, new in (("no blank", "Age"), ("case", "age"), ("bom", "\ufeffAge ")):
        try:
            p = m.predict_proba(f.rename(columns={"Age ": new}))
            out.append((np.allclose(p, want, atol=1e-6), f"{name}: differs"))
        except luthier.LuthierError as e:
            s = f"{e} {getattr(e, 'hint', '')}"
            out.append(("Age" in s, f"{name}: {s[:200]}"))
    return every(out)


# ---- frames' own types


def column_of(m, name):
    return [brief(c) for c in m.schema.columns if c.name == name]


def frame_kind(f, name, want, target="y", **kw):
    p = plan_of(f, target=target, **kw)
    c = column(p, name)
    return c.kind in want, f"{name}: {brief(c)}; right {want}"


def base(n=N, seed=80):
    r = rng(seed)
    return pd.DataFrame({"z": r.normal(0, 1, n).round(3), "y": r.choice(["a", "b"], n)})


def case_frame_nullable_and_arrow(tmp):
    """Int64, Float64, boolean, string, Arrow, category dtypes give the kinds of their CSV. Source: alteryx/evalml#3925, NVIDIA-Merlin/NVTabular#1098, PriorLabs/TabPFN#1015"""
    r = rng(81)
    k = r.integers(0, 500, N)
    gone = r.random(N) < 0.1
    out = []
    f = base()
    out.append(frame_kind(f.assign(v=pd.array(np.where(gone, None, k), dtype="Int64")), "v", ["number"]))
    out.append(frame_kind(f.assign(v=pd.array(np.where(gone, None, k), dtype="int64[pyarrow]")), "v", ["number"]))
    out.append(frame_kind(f.assign(v=pd.array(np.where(gone, None, k % 2 == 0), dtype="boolean")), "v", ["boolean"]))
    out.append(
        frame_kind(
            f.assign(v=pd.array(np.where(gone, None, np.array(["u", "w"])[k % 2]), dtype="string")),
            "v",
            ["category", "boolean"],
        )
    )
    out.append(
        frame_kind(
            f.assign(
                v=pd.Categorical(np.where(k % 3 == 0, "low", "high"), categories=["low", "mid", "high"], ordered=True)
            ),
            "v",
            ["category", "boolean"],
        )
    )
    out.append(
        frame_kind(
            f.assign(v=pd.Series(pd.arrays.SparseArray(np.where(k % 3 == 0, 1.5, 0.0)))),
            "v",
            ["number", "category", "boolean"],
        )
    )
    p = plan_of(f.assign(v=pd.array(np.where(gone, None, k), dtype="Int64")))
    out.append(
        (
            column(p, "v").missing == gone.sum() and np.isclose(column(p, "v").means[0], k[~gone].mean()),
            f"Int64: {brief(column(p, 'v'))}, right missing {gone.sum()}",
        )
    )
    return every(out)


def case_frame_timedelta(tmp):
    """timedelta64 columns and durations 1 days 02:00:00 as text; polars Duration: numbers. Source: alteryx/featuretools#618, howsoai/howso-engine-py#452, posit-dev/positron#6758"""
    import polars as pl

    r = rng(82)
    secs = r.integers(60, 9000000, N)
    td = pd.to_timedelta(secs, unit="s")
    f = base()
    out = [frame_kind(f.assign(v=td), "v", ["number"])]
    out.append(
        frame_kind(
            pl.DataFrame({"v": list(td.to_pytimedelta()), "z": f.z.to_list(), "y": f.y.to_list()}), "v", ["number"]
        )
    )
    f.assign(v=td).to_csv(tmp / "t.csv", index=False)
    p = plan_of(tmp / "t.csv")
    c = column(p, "v")
    out.append((c.kind == "number" or told(p, "v", "number"), f"csv {td[0]}: {brief(c)}; {words(p, 'v')[:150]}"))
    p = plan_of(table(tmp, [f"{s // 3600 % 24:02d}:{s // 60 % 60:02d}:{s % 60:02d}" for s in secs]))
    c = column(p, "v")
    out.append(
        (c.kind in ("number", "date") or told(p, "v", "number"), f"clock times: {brief(c)}; {words(p, 'v')[:150]}")
    )
    return every(out)


def case_frame_period_interval_in_files(tmp):
    """Period and Interval: frame, CSV ('(0, 30]', '2023Q1', '2023-01') and predictions agree. Source: lightgbm-org/LightGBM#2134 kin, ghost in pandas-dev/pandas#2991"""
    r = rng(83)
    d = pd.Timestamp("2019-01-01") + pd.to_timedelta(r.integers(0, 1500, N), unit="D")
    f = base().assign(band=pd.cut(r.uniform(0, 100, N), [0, 30, 45, 60, 100]), m=d.to_period("M"), q=d.to_period("Q"))
    f.to_csv(tmp / "t.csv", index=False)
    out = []
    for n, src in (("frame", f), ("csv", tmp / "t.csv")):
        p = plan_of(src)
        ks = {c.name: c.kind for c in p.schema.columns}
        out.append(
            (
                ks["band"] == "category"
                and ks["m"] == "date"
                and (ks["q"] == "date" or told(p, "q", "date") or ks["q"] == "category"),
                f"{n}: {ks}; {words(p, 'q')[:100]}",
            )
        )
    f.assign(z=f.z).to_csv(tmp / "t.csv", index=False)
    m = train(f, epochs=3)
    clear()
    for k in ("band", "m", "q"):
        g = pd.read_csv(tmp / "t.csv", dtype={"m": str, "q": str})
        h = f.copy()
        h[k] = g[k]
        out.append(
            (
                np.allclose(m.predict_proba(f), m.predict_proba(h), atol=1e-5),
                f"{k} as text {g[k][0]!r} differs by {np.abs(m.predict_proba(f) - m.predict_proba(h)).max():.3g}, heard {heard()[:120]!r}, schema {column_of(m, k)}",
            )
        )
    out.append(
        (
            np.allclose(m.predict_proba(f), m.predict_proba(tmp / "t.csv"), atol=1e-5),
            f"frame and CSV differ by {np.abs(m.predict_proba(f) - m.predict_proba(tmp / 't.csv')).max():.3g}",
        )
    )
    return every(out)


def case_frame_tz_aware(tmp):
    """tz-aware datetimes (Europe/Berlin) are the same instants as UTC. Source: fastai/fastai#573, KhiopsML/khiops-python#45"""
    s = pd.to_datetime(stamps())
    f = base()
    a = column(plan_of(f.assign(v=s.tz_localize("UTC"))), "v")
    b = column(plan_of(f.assign(v=s.tz_localize("UTC").tz_convert("Europe/Berlin"))), "v")
    return a.kind == b.kind == "date" and abs(a.means[0] - b.means[0]) < 2 and abs(
        a.means[0] - s.as_unit("ns").astype("int64").to_numpy().mean() / 1e9
    ) < 300, f"{brief(a)} / {brief(b)}"


def case_frame_column_names(tmp):
    """MultiIndex columns, whole numbers as names, duplicate names, names with dots: taken or refused by name. Source: dmlc/xgboost#2670, OpenTabular/PreTab#37, google-research/tabfm#45"""
    r = rng(84)
    out = []
    f = pd.DataFrame(r.normal(0, 1, (N, 3)))
    f[3] = r.choice(["a", "b"], N)
    p = plan_of(f, target=3)
    out.append((len([c for c in p.schema.columns if c.is_input]) == 3, f"ints: {[c.name for c in p.schema.columns]}"))
    m = train(f, target=3)
    out.append((len(m.predict(f)) == N, "predict with ints"))
    g = base()
    g.columns = pd.MultiIndex.from_tuples([("a", "z"), ("t", "y")])
    try:
        p = plan_of(g, target=[c for c in g.columns][1])
        out.append((True, f"MultiIndex: {[c.name for c in p.schema.columns]}"))
    except luthier.LuthierError as e:
        out.append((len(str(e)) > 20, f"MultiIndex refused: {e} {e.hint}"))
    d = pd.DataFrame(np.column_stack([r.normal(0, 1, N), r.normal(5, 1, N)]), columns=["a", "a"]).assign(
        y=r.choice(["p", "q"], N)
    )
    try:
        p = plan_of(d)
        ms = [c.means[0] for c in p.schema.columns]
        out.append((len(ms) == 2 and abs(ms[0] - ms[1]) > 3, f"duplicate: {[c.name for c in p.schema.columns]} {ms}"))
    except luthier.LuthierError as e:
        out.append(("'a'" in str(e) or " a" in str(e), f"duplicates refused: {e}"))
    return every(out)


def case_frame_index_kept_out(tmp):
    """The index is no input: named index in Parquet, MultiIndex, RangeIndex step 2, feather, polars with_row_index. Source: autogluon/autogluon#1175, pola-rs/polars#7291 kin"""
    r = rng(85)
    f = pd.DataFrame({"x": r.normal(0, 1, N).round(3), "y": np.repeat(["a", "b"], N // 2)})
    out = []
    g = f.copy()
    g.index = pd.Index(np.arange(N), name="id")
    g.sample(frac=0.8, random_state=0).to_parquet(tmp / "a.parquet")
    h = f.set_index(pd.MultiIndex.from_product([range(N // 2), [0, 1]], names=["k", "j"]))
    h.to_parquet(tmp / "b.parquet")
    f.set_index(pd.date_range("2020-01-01", periods=N)).to_parquet(tmp / "c.parquet")
    for n in ("a.parquet", "b.parquet", "c.parquet"):
        i = [c.name for c in plan_of(tmp / n).schema.columns if c.is_input]
        out.append((i == ["x"], f"{n}: {i}"))
    for n, src in (("frame", g.sample(frac=0.8, random_state=0)), ("MultiIndex frame", h)):
        i = [c.name for c in plan_of(src).schema.columns if c.is_input]
        out.append((i == ["x"], f"{n}: {i}"))
    return every(out)


def case_frame_object_mixed(tmp):
    """Object columns with ints, floats, text and None mixed; lists of dicts with keys that lack. Source: NVIDIA-Merlin/NVTabular#1102, pandas object columns"""
    r = rng(86)
    k = r.normal(5, 1, N).round(2)
    v = np.array([x if i % 3 else str(x) for i, x in enumerate(k)], dtype=object)
    v[::17] = None
    f = base().assign(v=v)
    p = plan_of(f)
    c = column(p, "v")
    keep = np.array([i % 17 != 0 for i in range(N)])
    one = (
        c.kind == "number" and np.isclose(c.means[0], k[keep].mean()) and c.missing == (~keep).sum(),
        f"mixed: {brief(c)}",
    )
    rows = [{"v": float(x), "z": i % 7, "y": "pq"[i % 2]} for i, x in enumerate(k)]
    for i in range(0, N, 10):
        del rows[i]["v"]
    c = column(plan_of(rows), "v")
    two = c.kind == "number" and c.missing == 30, f"dicts: {brief(c)}"
    return every([one, two])


def case_frame_excel_types(tmp):
    """Excel: real dates, times, booleans, percents, text numbers, error cells. Source: antonscheffer/excel2collections#3, tidyverse/readxl#486, MarkPflug/Sylvan.Data.Excel#158"""
    from openpyxl import Workbook

    r = rng(87)
    wb = Workbook()
    ws = wb.active
    ws.append(["when", "share", "flag", "code", "amount", "y"])
    s = stamps(seconds=False)
    amounts = r.normal(100, 9, N).round(2)
    for i in range(N):
        ws.append(
            [
                s[i],
                float(r.uniform(0, 1)),
                bool(i % 2),
                f"{int(r.integers(0, 9)):03d}",
                "#DIV/0!" if i == 5 else float(amounts[i]),
                "pq"[int(r.integers(0, 2))],
            ]
        )
    wb.save(tmp / "t.xlsx")
    try:
        p = plan_of(tmp / "t.xlsx")
    except luthier.LuthierError as e:
        s_ = f"{e} | {e.hint}"
        return "row" in s_ or "first" in s_ or "title" in s_, f"refused: {s_}"
    ks = {c.name: c.kind for c in p.schema.columns}
    ok = ks == {"when": "date", "share": "number", "flag": "boolean", "code": "category", "amount": "number"}
    return ok and column(p, "amount").missing == 1, f"{ks}; {p.prepared.notes}"


def case_frame_excel_title(tmp):
    """A title row (merged) and a blank one above the names: passed over as in a CSV, or the message says what to do. Source: MarkPflug/Sylvan.Data.Excel#158, h2oai/datatable#1330, tidyverse/readxl#486"""
    from openpyxl import Workbook

    r = rng(88)
    wb = Workbook()
    ws = wb.active
    ws.append(["Quarterly report"])
    ws.merge_cells("A1:C1")
    ws.append([])
    ws.append(["x", "z", "y"])
    for a in r.normal(0, 1, 200).round(2):
        ws.append([float(a), int(r.integers(0, 40)), "p" if a > 0 else "q"])
    wb.save(tmp / "t.xlsx")
    try:
        return shape(plan_of(tmp / "t.xlsx"), 200)
    except luthier.LuthierError as e:
        s = f"{e} | {e.hint}"
        return "title" in s or "row" in s or "delete" in s, f"refused: {s}"


# ---- targets


def case_target_missing_like_classes(tmp):
    """Classes NA (Namibia), NaN, null, None, -, +, unknown, n/a as the target in CSV, frame, Parquet. Source: RMI-PACTA/r2dii.analysis#127, jtablesaw/tablesaw#1244, JGCRI/gcamdata#300"""
    out = []
    for words_ in (
        ("NA", "ZA", "BW"),
        ("null", "minor", "major"),
        ("None", "Low", "High"),
        ("+", "-"),
        ("N/A", "yes"),
        ("unknown", "known"),
        ("missing", "present"),
        ("?", "!"),
    ):
        y = np.array(words_)[np.arange(N) % len(words_)]
        f = pd.DataFrame({"x": rng(90).normal(0, 1, N).round(3), "y": y})
        f.to_parquet(tmp / "t.parquet")
        for n, src in (("frame", f), ("parquet", tmp / "t.parquet")):
            try:
                p = plan_of(src)
                out.append(
                    (
                        set(p.schema.targets[0].classes) == set(words_) and p.schema.num_rows == N,
                        f"{words_} in {n}: {p.schema.targets[0].classes}, {[x for x in p.prepared.notes if 'left out' in x]}",
                    )
                )
            except luthier.LuthierError as e:
                out.append((False, f"{words_} in {n}: refused {e} | {e.hint}"))
    return every(out)


def case_target_missing_like_classes_csv(tmp):
    """The same in a CSV: kept, or left out with a warning that counts the word and says how to keep it; missing= keeps it. Source: RMI-PACTA/r2dii.analysis#127, JGCRI/gcamdata#300"""
    out = []
    for words_ in (
        ("NA", "ZA", "BW"),
        ("null", "minor", "major"),
        ("N/A", "yes", "no"),
        ("nan", "bread", "roti"),
        ("None", "Low", "High"),
        ("-", "+"),
    ):
        y = np.array(words_)[np.arange(N) % len(words_)]
        write(tmp / "t.csv", ["x", "y"], list(zip(rng(90).normal(0, 1, N).round(3), y)))
        clear()
        p = plan_of(tmp / "t.csv")
        said = " ".join(p.prepared.notes) + heard()
        kept = set(p.schema.targets[0].classes) == set(words_)
        q = plan_of(tmp / "t.csv", missing=["none at all"])
        out.append(
            (
                kept or ("left out" in said and words_[0] in said and "missing" in said),
                f"{words_}: {p.schema.targets[0].classes}; {said[-350:]}",
            )
        )
        out.append(
            (
                set(q.schema.targets[0].classes) == set(words_),
                f"{words_} with missing=[...]: {q.schema.targets[0].classes}",
            )
        )
    return every(out)


def case_target_missing_rows_said(tmp):
    """Empty targets are left out with a count; in a frame None, NaN, pd.NA. Source: yakew7/Fair-Code#488, bleutner/RStoolbox#103"""
    out = []
    r = rng(91)
    x = r.normal(0, 1, N).round(3)
    y = np.where(x > 0, "a", "b").astype(object)
    for name, gap in (("None", None), ("nan", np.nan), ("NA", pd.NA), ("empty", "")):
        g = y.copy()
        g[:40] = gap
        p = plan_of(pd.DataFrame({"x": x, "y": g}))
        out.append(
            (
                set(p.schema.targets[0].classes) == {"a", "b"}
                and p.schema.num_rows == 260
                and "40" in " ".join(p.prepared.notes),
                f"{name}: {p.schema.targets[0].classes}, {p.schema.num_rows}; {p.prepared.notes}",
            )
        )
    return every(out)


def answers_as(f, y, epochs=4, **kw):
    m = train(f, epochs=epochs, **kw)
    a = m.predict(f)
    acc = m.evaluate(f)["accuracy"]
    fit_ = np.mean(np.asarray(a == np.asarray(y), dtype=float))
    return np.isclose(fit_, acc), f"answers {a[:3]!r} of {np.asarray(y)[:3]!r}: equal {fit_:.3f}, evaluate {acc:.3f}"


def case_target_types_come_back(tmp):
    """0/1 as floats, whole numbers with a hole (float), bool, Int64, categorical ints, -1/1, bytes-like, np.str_. Source: mljar/mljar-supervised#442, catboost/catboost#2243, dotnet/machinelearning-modelbuilder#779"""
    r = rng(92)
    x = r.normal(0, 1, N).round(3)
    k = (x > 0).astype(int)
    f = pd.DataFrame({"x": x, "z": r.normal(0, 1, N)})
    out = []
    for n, y in (
        ("float 0/1", k.astype(float)),
        ("bool", k > 0),
        ("Int64", pd.array(k, dtype="Int64")),
        ("categorical", pd.Categorical(k)),
        ("-1/1", 2 * k - 1),
        ("int8", k.astype("int8")),
        ("text 0/1", k.astype(str)),
        ("boolean", pd.array(k > 0, dtype="boolean")),
        ("1..3", k + 1 + (x > 1)),
        ("0.0/1.0/2.0", (k + (x > 1)).astype(float)),
        ("arrow string", pd.array(np.where(k, "u", "w"), dtype="string[pyarrow]")),
        ("object bool", (k > 0).astype(object)),
        ("text True", np.where(k, "True", "False")),
    ):
        ok, s = answers_as(f.assign(y=y), y, **({"task": "multiclass"} if n == "0.0/1.0/2.0" else {}))
        out.append((ok, f"{n}: {s}"))
    return every(out)


def case_target_types_from_files(tmp):
    """CSV 0/1, true/false, 1.0/0.0 (a hole elsewhere), Excel bool, Parquet bool, JSON true: (predict == read values) is the accuracy. Source: augerai/a2ml#213, dotnet/machinelearning-modelbuilder#1325"""
    r = rng(93)
    x = r.normal(0, 1, N).round(3)
    k = x > 0
    f = pd.DataFrame({"x": x, "z": r.normal(0, 1, N).round(3)})
    out = []
    for n, y in (("0/1", k.astype(int)), ("True/False", k), ("yes/no", np.where(k, "yes", "no")), ("1/2", k + 1)):
        g = f.assign(y=y)
        g.to_csv(tmp / "t.csv", index=False)
        m = train(tmp / "t.csv")
        back = pd.read_csv(tmp / "t.csv").y
        out.append(
            (
                np.isclose(np.mean(m.predict(tmp / "t.csv") == back.to_numpy()), m.evaluate(tmp / "t.csv")["accuracy"]),
                f"csv {n}: {m.predict(tmp / 't.csv')[:2]!r} for {back[:2].tolist()}",
            )
        )
    g = f.assign(y=k)
    g.to_excel(tmp / "t.xlsx", index=False)
    g.to_json(tmp / "t.json", orient="records")
    for p in ("t.xlsx", "t.json"):
        m = train(tmp / p)
        out.append(
            (
                np.isclose(np.mean(m.predict(tmp / p) == k), m.evaluate(tmp / p)["accuracy"]),
                f"{p}: {m.predict(tmp / p)[:2]!r}",
            )
        )
    return every(out)


def case_target_whole_numbers_with_hole(tmp):
    """Classes 0,1,2 with one missing: pandas makes 0.0,1.0,2.0; still three classes, answers equal 0.0 and 0. Source: UCL/TLOmodel#715, uxlfoundation/scikit-learn-intelex#1229"""
    r = rng(94)
    x = r.normal(0, 1, N).round(3)
    y = ((x > 0).astype(int) + (x > 1)).astype(float)
    y[7] = np.nan
    f = pd.DataFrame({"x": x, "z": r.normal(0, 1, N), "y": y})
    p = plan_of(f)
    f.to_csv(tmp / "t.csv", index=False)
    q = plan_of(tmp / "t.csv")
    m = train(f, epochs=5)
    g = f[f.y.notna()]
    eq = np.mean(m.predict(g) == g.y.to_numpy())
    return p.schema.task == q.schema.task == "multiclass" and len(p.schema.targets[0].classes) == 3 and np.isclose(
        eq, m.evaluate(g)["accuracy"]
    ), f"{p.schema.task}/{q.schema.task}, {p.schema.targets[0].classes}, {q.schema.targets[0].classes}, equal {eq}"


def case_target_money_percent(tmp):
    """The target is $1,234.50, 12.5%, 1.234,50 EUR or (500): regression with the right mean. Source: TresAmigosSD/SMV#266, bastienboutonnet/sheetwork#188"""
    r = rng(95)
    v = r.uniform(5, 9000, N).round(2)
    w = r.uniform(-900, 900, N).round(2)
    pc = r.uniform(0, 100, N).round(1)
    de = lambda x: f"{x:,.2f}".replace(",", "#").replace(".", ",").replace("#", ".")
    out = []
    for n, cells, vals, sep in (
        ("$", [f"${x:,.2f}" for x in v], v, ","),
        ("%", [f"{x}%" for x in pc], pc, ","),
        ("EUR", [de(x) + " \u20ac" for x in v], v, ";"),
        ("(x)", [f"({-x:.2f})" if x < 0 else f"{x:.2f}" for x in w], w, ","),
    ):
        write(tmp / "t.csv", ["x", "z", "y"], [(i % 13, i % 7, c) for i, c in enumerate(cells)], sep=sep)
        try:
            p = plan_of(tmp / "t.csv")
            t = p.schema.targets[0]
            out.append(
                (
                    p.schema.task == "regression" and any(np.isclose(t.mean, np.mean(vals) * s) for s in (1, 0.01)),
                    f"{n}: {p.schema.task}, mean {t.mean}, right {np.mean(vals):.5g}",
                )
            )
        except luthier.LuthierError as e:
            out.append((False, f"{n}: refused {e} | {e.hint}"))
    return every(out)


def case_target_rare_classes(tmp):
    """A class with one row, and classes only in test data: no end, said by name. Source: dotnet/machinelearning#4713 kin, scikit-learn stratify 'least populated class has only 1 member'"""
    r = rng(96)
    x = r.normal(0, 1, N).round(3)
    y = np.where(x > 0, "a", "b").astype(object)
    y[3] = "rare"
    f = pd.DataFrame({"x": x, "z": r.normal(0, 1, N), "y": y})
    clear()
    res = luthier.train(f, target="y", epochs=2, seed=0, threads=1, check=False)
    m = res.model
    one = len(m.predict(f)) == N, "one-row class trains"
    new = pd.DataFrame({"x": [0.1, 0.2, -0.3], "z": [0, 0, 0], "y": ["a", "zebra", "b"]})
    clear()
    e = m.evaluate(new)
    two = "zebra" in str(e.get("unseen")) and "zebra" in heard(), f"unseen {e.get('unseen')}, heard {heard()[:150]!r}"
    three = e["rows"] == 3 and e["accuracy"] <= 2 / 3 + 1e-9, f"rows {e['rows']}, accuracy {e['accuracy']}"
    return every([one, two, three])


def case_target_stray_words_in_numbers(tmp):
    """A numeric target with 3 'ERR' and 2 'n/a' cells: regression, rows left out and said; not hundreds of classes. Source: readr col_number kin (tidyverse/readr#88 footer), common knowledge"""
    r = rng(97)
    v = r.normal(50, 5, N).round(2)
    cells = [str(x) for x in v]
    cells[3] = cells[33] = cells[200] = "ERR"
    cells[50] = cells[90] = "n/a"
    write(tmp / "t.csv", ["x", "z", "y"], [(i % 13, i % 7, c) for i, c in enumerate(cells)])
    try:
        p = plan_of(tmp / "t.csv")
    except luthier.LuthierError as e:
        s = f"{e} | {e.hint}"
        return "ERR" in s, f"refused: {s}"
    return p.schema.task == "regression" and p.schema.num_rows == 295 and "ERR" in " ".join(
        p.prepared.notes
    ), f"{p.schema.task}, rows {p.schema.num_rows}, {p.prepared.notes}"


def case_target_figures(tmp):
    """Figures where one class is there: AUC NaN, macro F1 as scikit-learn, R2 of a constant NaN, MAPE-less. Source: drscotthawley/panotti#35, dotnet/machinelearning#4713, dream-faster/krisi#227"""
    from sklearn.metrics import f1_score, recall_score

    r = rng(98)
    y = np.array(list("abcd"))[np.arange(N) % 4]
    f = pd.DataFrame({"x": r.normal(0, 0.8, N) + np.arange(N) % 4, "z": r.normal(0, 1, N), "y": y})
    m = train(f, epochs=15)
    some = f[f.y.isin(["a", "c"])]
    e = m.evaluate(some)
    p = m.predict(some)
    labels = sorted(set(p) | set(some.y))
    out = [
        (
            np.isclose(e["f1"], f1_score(some.y, p, average="macro", labels=labels, zero_division=0)),
            f"f1 {e['f1']:.4f}, scikit-learn {f1_score(some.y, p, average='macro', labels=labels, zero_division=0):.4f}",
        )
    ]
    for d in e["classes"]:
        if d["class"] in labels:
            c = d["class"]
            out.append(
                (
                    np.isclose(
                        d["recall"] if d["recall"] is not None else np.nan,
                        recall_score(some.y == c, p == c, zero_division=np.nan),
                        equal_nan=True,
                    )
                    or d["rows"] == 0,
                    f"recall of {c}: {d}",
                )
            )
    g = pd.DataFrame({"x": f.x, "z": f.z, "y": np.where(f.x > 1.5, "p", "q")})
    b = train(g, epochs=6)
    one = g[g.y == "q"]
    clear()
    e1 = b.evaluate(one)
    out.append((np.isnan(e1["auc"]), f"auc of one class {e1['auc']}"))
    hh = pd.DataFrame({"x": f.x, "z": f.z, "y": f.x * 2 + 0.5})
    rm = train(hh, epochs=6)
    e2 = rm.evaluate(hh.assign(y=3.25))
    r2 = [v for k, v in e2.items() if k.lower() in ("r2", "r²")]
    out.append((bool(r2) and np.isnan(r2[0]), f"R2 of a constant: {e2}"))
    e3 = rm.evaluate(hh.iloc[:1])
    out.append((np.isnan([v for k, v in e3.items() if k.lower() == "r2"][0]), f"R2 of one row: {e3}"))
    return every(out)


# ---- series cells


def series_case(tmp, cells, values, **kw):
    write(tmp / "t.csv", ["s", "z", "y"], [(c, i % 7, "pq"[i % 2]) for i, c in enumerate(cells)])
    p = plan_of(tmp / "t.csv", **kw)
    c = column(p, "s")
    flat = np.concatenate([np.asarray(v, dtype=float) for v in values])
    ok = c.kind == "series" and np.isclose(np.ravel(c.means)[0], np.nanmean(flat), rtol=1e-3, atol=1e-4)
    return ok, f"{str(cells[0])[:50]!r}: {brief(c)}; right series, mean {np.nanmean(flat):.5g}"


def case_series_spellings(tmp):
    """Lists as text with exponents, nan, None, numpy repr over lines, tuples, np.float64(...), array([...]), spaces, semicolons, braces. Source: pandas-dev/pandas#61474 kin, Edward-style '[1. 2. 3.]'; common knowledge (Postgres {1,2,3})"""
    r = rng(100)
    vals = [r.normal(0, 1, 12).round(4) for _ in range(80)]
    small = [r.normal(0, 1, 12) * 10.0 ** r.integers(-7, 3, 12) for _ in range(80)]
    holes = [np.where(r.random(12) < 0.1, np.nan, v) for v in vals]
    return every(
        [
            series_case(tmp, [str(list(map(float, v))) for v in vals], vals),
            series_case(tmp, [np.array2string(v) for v in vals], vals),
            series_case(tmp, [str([f"{x:.3e}" for x in v]).replace("'", "") for v in vals], vals),
            series_case(tmp, [np.array2string(v) for v in holes], holes),
            series_case(tmp, [str([None if np.isnan(x) else float(x) for x in v]) for v in holes], holes),
        ]
    )


def series_vals(seed=100):
    r = rng(seed)
    return [r.normal(0, 1, 12).round(4) for _ in range(80)]


def case_series_numpy2_repr(tmp):
    """to_csv of lists of NumPy 2 scalars writes np.float64(...), repr of arrays writes array([...]). Source: common knowledge (NumPy 2 repr), kin of pandas-dev/pandas#61474"""
    vals = series_vals()
    return every(
        [series_case(tmp, [repr(list(v)) for v in vals], vals), series_case(tmp, [repr(v) for v in vals], vals)]
    )


def case_series_tuples(tmp):
    """Tuples in cells (to_csv of tuples), one-number tuples. Source: common knowledge (ast.literal_eval answers)"""
    vals = series_vals()
    return every([series_case(tmp, ["(" + ", ".join(map(str, map(float, v))) + ")" for v in vals], vals)])


def case_series_postgres_braces(tmp):
    """Postgres arrays {1,2,3} in a CSV dump. Source: common knowledge (COPY of arrays)"""
    vals = series_vals()
    return series_case(tmp, ["{" + ",".join(map(str, map(float, v))) + "}" for v in vals], vals)


def case_series_blanks_between(tmp):
    """Numbers with blanks between, without brackets (FER2013 pixels, UCR), or with kind=series. Source: common knowledge (fer2013.csv)"""
    vals = series_vals()
    a = series_case(tmp, [" ".join(map(str, map(float, v))) for v in vals], vals)
    p = plan_of(tmp / "t.csv")
    try:
        b = series_case(tmp, [" ".join(map(str, map(float, v))) for v in vals], vals, kind={"s": "series"})
    except luthier.LuthierError as e:
        b = False, f"kind=series: refused {e} | {e.hint}"
    return (a[0] or told(p, "s", "series")), f"{a[1]}; with kind=series: {b}"


def case_series_uneven_and_empty(tmp):
    """Uneven lengths, empty lists, one-number lists, Infinity. Source: common knowledge (sktime ragged), huggingface/datasets#8583 kin"""
    r = rng(101)
    vals = [r.normal(0, 1, int(r.integers(1, 20))).round(4) for _ in range(80)]
    cells = [str(list(map(float, v))) for v in vals]
    ok, s = series_case(tmp, cells, vals)
    cells[7], cells[9] = "[]", ""
    write(tmp / "t.csv", ["s", "z", "y"], [(c, i % 7, "pq"[i % 2]) for i, c in enumerate(cells)])
    p = plan_of(tmp / "t.csv")
    m = train(tmp / "t.csv", epochs=2)
    a = m.predict_proba(tmp / "t.csv")
    return ok and column(p, "s").kind == "series" and np.isfinite(a).all() and len(
        a
    ) == 80, f"{s}; with empty: {brief(column(p, 's'))}, finite {np.isfinite(a).all()}"


def case_series_cut(tmp):
    """Arrays cut by NumPy, by pandas display (...), by torch repr, by max cell length (Excel 32767): refused or said. Source: rsokl/Learning_Python#94, pandas-dev/pandas#61474 kin"""
    import torch

    r = rng(102)
    out = []
    long = [r.normal(0, 1, 1500).round(3) for _ in range(60)]
    for name, cells in (
        ("one row cut", [str(list(map(float, v[:8]))) for v in long[:-1]] + ["[0.1, 0.2, ..., 0.5, 0.6]"]),
        (
            "unicode dots",
            ["[" + " ".join(map(str, v[:3])) + " \u2026 " + " ".join(map(str, v[-3:])) + "]" for v in long],
        ),
        ("torch", [str(torch.tensor(v)) for v in long]),
        ("no end", [str(list(map(float, v)))[:300] for v in long]),
    ):
        write(tmp / "t.csv", ["s", "z", "y"], [(c, i % 7, "pq"[i % 2]) for i, c in enumerate(cells)])
        clear()
        try:
            p = plan_of(tmp / "t.csv")
            c = column(p, "s")
            said = " ".join([*p.prepared.notes, c.why, c.doubt, heard()])
            out.append(
                (
                    c.kind != "series" and bool(c.doubt or "s'" in heard()) or "cut" in said or "..." in c.why,
                    f"{name}: {brief(c)}; heard {heard()[:120]!r}",
                )
            )
        except luthier.LuthierError as e:
            out.append(("row" in str(e) or "cut" in str(e) or "..." in str(e), f"{name}: refused {str(e)[:160]}"))
    return every(out)


def case_series_flags_within(tmp):
    """Within series a row a step: yes/no, Y/blank, 0/1 with a hole, bool in Parquet, categories of two words: the same channels. Source: awslabs/gluonts#2971 kin"""
    r = rng(103)
    rows = [
        (i, t, round(r.normal(), 3), bool(r.random() < (0.2 if i % 2 else 0.8)), "ab"[i % 2])
        for i in range(60)
        for t in range(10)
    ]
    f = pd.DataFrame(rows, columns=["id", "t", "v", "h", "y"])
    out = []
    for name, g in (
        ("yes/no", f.h.map({True: "yes", False: "no"})),
        ("Y/N", f.h.map({True: "Y", False: "N"})),
        ("t/f", f.h.map({True: "t", False: "f"})),
        ("TRUE/FALSE", f.h.map({True: "TRUE", False: "FALSE"})),
        ("0.0/1.0", f.h.astype(float)),
        ("Y/blank", f.h.map({True: "Y", False: ""})),
    ):
        f.assign(h=g).to_csv(tmp / "s.csv", index=False)
        clear()
        p = plan_of(tmp / "s.csv", series="id", order="t")
        ks = {c.name: c.kind for c in p.schema.columns}
        said = " ".join(p.prepared.notes) + heard()
        out.append(
            (
                ks.get("h") == "series" or ("h'" in said and told(p, "h", "boolean", "series", "number")),
                f"{name}: {ks}; {[n for n in p.prepared.notes if 'h' in n][:2]}",
            )
        )
    f.assign(h=pd.array(f.h, dtype="boolean")).to_parquet(tmp / "s.parquet")
    ks = {c.name: c.kind for c in plan_of(tmp / "s.parquet", series="id", order="t").schema.columns}
    out.append((ks.get("h") == "series", f"parquet boolean: {ks}"))
    return every(out)


def case_series_cell_types_agree(tmp):
    """CSV text lists, Parquet lists, frame of arrays, frame of lists, JSON, with bools in them: equal answers. Source: pandas-dev/pandas#61474 kin, huggingface/datasets#8583 kin"""
    r = rng(104)
    vals = [(r.normal(i % 2, 1, 10)).round(3) for i in range(80)]
    f = pd.DataFrame({"s": list(vals), "z": r.integers(0, 9, 80), "y": ["p", "q"] * 40})
    m = train(f, epochs=4)
    want = m.predict_proba(f)
    f.assign(s=[list(map(float, v)) for v in vals]).to_csv(tmp / "q.csv", index=False)
    f.to_parquet(tmp / "q.parquet")
    f.to_json(tmp / "q.json", orient="records")
    import polars as pl

    one = same(
        m,
        {
            "csv": tmp / "q.csv",
            "parquet": tmp / "q.parquet",
            "json": tmp / "q.json",
            "lists": f.assign(s=[list(map(float, v)) for v in vals]),
            "tuples": f.assign(s=[tuple(map(float, v)) for v in vals]),
            "float32": f.assign(s=[v.astype("float32") for v in vals]),
            "polars": pl.DataFrame({"s": [v.tolist() for v in vals], "z": f.z.to_list()}),
            "text": f.assign(s=[np.array2string(v) for v in vals]),
        },
        want,
        atol=1e-4,
    )
    return one


# ---- images in tables and folders


def picture(path, red, size=12):
    from PIL import Image

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(
        (rng(hash(str(path)) % 1000).integers(0, 60, (size, size, 3)) + [150 * red, 0, 0]).astype("uint8")
    ).save(path)


def images_case(tmp, files, names, **kw):
    for i, fl in enumerate(files):
        picture(tmp / fl, i % 2)
    write(tmp / "t.csv", ["img", "y"], [(n, "ab"[i % 2]) for i, n in enumerate(names)])
    try:
        p = plan_of(tmp / "t.csv", **kw)
        return (
            p.schema.image is not None,
            f"{names[0]!r} for {files[0]!r}: image {p.schema.image is not None}, {p.prepared.notes[:3]}",
        )
    except luthier.LuthierError as e:
        return False, f"{names[0]!r} for {files[0]!r}: refused {str(e)[:200]} | {str(e.hint)[:200]}"


def case_image_paths_other_systems(tmp):
    """Backslashes, ./ before, upper-case suffix, other case of names, sub-folders, blanks, ids as numbers. Source: keras-team/keras-preprocessing#88, #92, PeterL1n/BackgroundMattingV2#51, imcohen/segment-brain-mri#1"""
    n = range(40)
    return (
        every(
            [
                images_case(tmp / "a", [f"pics/new/i{i}.png" for i in n], [f"pics\\new\\i{i}.png" for i in n]),
                images_case(tmp / "b", [f"i{i}.png" for i in n], [f"./i{i}.png" for i in n]),
                images_case(tmp / "c", [f"i{i}.PNG" for i in n], [f"i{i}.png" for i in n]),
                images_case(tmp / "d", [f"IMG_{i}.jpg" for i in n], [f"img_{i}.JPG" for i in n]),
                images_case(tmp / "e", [f"my pics/i {i}.jpeg" for i in n], [f"my pics/i {i}.jpeg" for i in n]),
                images_case(tmp / "f", [f"{i:03d}.png" for i in n], [f"{i:03d}" for i in n], kind={"img": "image"}),
                images_case(tmp / "g", [f"{i}.jpg" for i in n], [f"{i}" for i in n], kind={"img": "image"}),
                images_case(tmp / "h", [f"i{i}.bmp" for i in n], [f"i{i}.bmp" for i in n]),
            ]
        )
        if [(tmp / k).mkdir() for k in "abcdefgh"]
        else (False, "")
    )


def case_image_ids_in_sub_folder(tmp):
    """A table beside a folder train/ that holds the files: found, or told where. Source: keras-team/keras-preprocessing#92, #84"""
    for i in range(40):
        picture(tmp / "train" / f"i{i}.png", i % 2)
    write(tmp / "t.csv", ["img", "y"], [(f"i{i}.png", "ab"[i % 2]) for i in range(40)])
    try:
        p = plan_of(tmp / "t.csv")
        return p.schema.image is not None, f"image {p.schema.image is not None}; {p.prepared.notes}"
    except luthier.LuthierError as e:
        s = f"{e} | {e.hint}"
        return "i0.png" in s and ("train" in s or "folder" in s or "relative" in s), f"refused: {s}"


def case_image_one_missing_file(tmp):
    """One of 40 files is not there: named, with the row. Source: keras-team/keras-preprocessing#92, apple/turicreate#644 kin"""
    for i in range(39):
        picture(tmp / f"i{i}.png", i % 2)
    write(tmp / "t.csv", ["img", "y"], [(f"i{i}.png", "ab"[i % 2]) for i in range(40)])
    try:
        p = plan_of(tmp / "t.csv")
        train(tmp / "t.csv", epochs=1)
        said = " ".join(p.prepared.notes) + heard()
        return "i39.png" in said, f"silent: {p.prepared.notes}"
    except luthier.LuthierError as e:
        return "i39.png" in str(e), f"refused: {e} | {e.hint}"


def case_folder_hidden_files(tmp):
    """Thumbs.db, .DS_Store, desktop.ini, ._x.png (macOS), .ipynb_checkpoints, __MACOSX among classes. Source: fastai/fastai#488, pytorch/vision#109, d8ahazard/sd_dreambooth_extension#64"""
    for i in range(24):
        picture(tmp / "data" / "ab"[i % 2] / f"{i}.png", i % 2)
    (tmp / "data" / ".DS_Store").write_bytes(b"\0\1")
    (tmp / "data" / "a" / "Thumbs.db").write_bytes(b"\xd0\xcf")
    (tmp / "data" / "b" / "desktop.ini").write_text("[x]")
    (tmp / "data" / "b" / "._1.png").write_bytes(b"\0\5\x16\7")
    picture(tmp / "data" / ".ipynb_checkpoints" / "1-checkpoint.png", 0)
    picture(tmp / "data" / "a" / ".ipynb_checkpoints" / "2-checkpoint.png", 0)
    (tmp / "data" / "notes.txt").write_text("hi")
    p = plan_of(tmp / "data", target=())
    c = p.schema.targets[0].classes
    train(tmp / "data", target=(), epochs=1, valid_fraction=0, test_fraction=0)
    return set(c) == {
        "a",
        "b",
    } and p.schema.num_rows == 24, f"classes {c}, rows {p.schema.num_rows}; {p.prepared.notes[:4]}"


def case_folder_macosx_zip(tmp):
    """__MACOSX of a zip made on a Mac, lost+found, @eaDir (Synology): no class. Source: dmlc/gluon-cv#1300 kin, common knowledge"""
    for i in range(24):
        picture(tmp / "data" / "ab"[i % 2] / f"{i}.png", i % 2)
    (tmp / "data" / "__MACOSX" / "a").mkdir(parents=True)
    (tmp / "data" / "__MACOSX" / "a" / "._2.png").write_bytes(b"\0\5\x16\7")
    try:
        p = plan_of(tmp / "data", target=())
    except luthier.LuthierError as e:
        return "__MACOSX" in str(e) and "remove" in str(e.hint), f"refused: {e} | {e.hint}"
    return set(p.schema.targets[0].classes) == {"a", "b"}, f"classes {p.schema.targets[0].classes}"


def case_folder_parts(tmp):
    """Train/Validation/Test in capitals, training/testing, an unlabelled test in a sub-folder test/images, an empty class. Source: fastai/fastai#1552 kin, torchgeo/terratorch#756 kin"""
    out = []
    for k, (tr, va, te, flat) in enumerate(
        (
            ("Train", "Val", "Test", False),
            ("train", "validation", "test", "unknown"),
            ("training", "valid", "testing", False),
            ("TRAIN", "VAL", "TEST", "flat"),
        )
    ):
        d = tmp / f"d{k}"
        for part in (tr, va):
            for i in range(12):
                picture(d / part / "ab"[i % 2] / f"{i}.png", i % 2)
        for i in range(6):
            picture(
                (d / te / f"{i}.png")
                if flat == "flat"
                else (d / te / flat / f"{i}.png")
                if flat
                else (d / te / "ab"[i % 2] / f"{i}.png"),
                i % 2,
            )
        try:
            p = plan_of(d, target=())
            c = set(p.schema.targets[0].classes)
            out.append(
                (
                    c == {"a", "b"},
                    f"{tr}/{va}/{te} {flat or ''}: classes {sorted(c)}, parts {sorted(p.prepared.parts)}; {p.prepared.notes[:3]}",
                )
            )
        except luthier.LuthierError as e:
            s = f"{e} | {e.hint}"
            out.append(
                (tr.lower() in s.lower() or te.lower() in s.lower(), f"{tr}/{va}/{te} {flat or ''}: refused {s[:200]}")
            )
    return every(out)


def case_folder_nested_classes(tmp):
    """Classes nested (animals/cat, animals/dog), and images in sub-folders of a class: counted, or said. Source: fastai/fastai#204 kin, open-edge-platform/datumaro#151"""
    for i in range(24):
        picture(tmp / "data" / "ab"[i % 2] / f"s{i % 3}" / f"{i}.png", i % 2)
    try:
        p = plan_of(tmp / "data", target=())
        c = set(p.schema.targets[0].classes)
        return c == {
            "a",
            "b",
        } and p.schema.num_rows == 24, f"classes {c}, rows {p.schema.num_rows}; {p.prepared.notes[:3]}"
    except luthier.LuthierError as e:
        s = f"{e} | {e.hint}"
        return "folder" in s, f"refused: {s}"


def case_folder_predict_flat_and_csv(tmp):
    """Predict on a flat folder without labels; answers name each file. Source: keras flow_from_directory 'found 0 images belonging to 0 classes', fastai/fastai#1552 kin"""
    for i in range(24):
        picture(tmp / "data" / "ab"[i % 2] / f"{i}.png", i % 2)
    m = train(tmp / "data", target=(), epochs=1)
    for i in range(5):
        picture(tmp / "new" / f"n{i}.png", i % 2)
    (tmp / "new" / "Thumbs.db").write_bytes(b"\0")
    a = m.predict(tmp / "new")
    return len(a) == 5, f"{a!r}"


# ---- sentinels of dates, odd cells among dates


def case_date_odd_cells(tmp):
    """1900-01-01, '00/00/0000', '31/02/2023', 'n/a', '1/0/1900' (Excel) among 300 dates. Source: aio-libs/aiomysql#607 kin, alvarodiez20/pysuricata#28"""
    d = stamps(seconds=False)
    out = []
    for form, odd in (
        ("%d/%m/%Y", "00/00/0000"),
        ("%d/%m/%Y", "31/02/2023"),
        ("%Y-%m-%d", "pending"),
        ("%m/%d/%Y", "1/0/1900"),
        ("%d.%m.%Y", "k.A."),
        ("%Y-%m-%d %H:%M:%S", "0000-00-00 00:00:00"),
        ("%Y-%m-%d", "#VALUE!"),
        ("%d-%b-%Y", "-"),
    ):
        cells = [x.strftime(form) for x in d]
        cells[17] = odd
        out.append(date(tmp, cells, [x for i, x in enumerate(d) if i != 17], missing=1))
    return every(out)


def case_date_sentinels_apart(tmp):
    """1900-01-01 / 1753-01-01 / 2999-12-31 / 9999-12-31 23:59:59 in 15 %: the others can be told apart. Source: lakehq/sail#1651, limbenjamin/nTimetools#5 kin, pandas-dev/pandas#11929 kin"""
    r = rng(110)
    n = 400
    days = pd.Timestamp("2023-01-01") + pd.to_timedelta(r.integers(0, 730, n), unit="D")
    y = np.where(days < pd.Timestamp("2024-01-01"), "early", "late")
    far = r.random(n) < 0.15
    got = {}
    for odd in ("", "1900-01-01", "1753-01-01", "2999-12-31", "9999-12-31"):
        cells = np.where(far, odd, days.strftime("%Y-%m-%d").to_numpy().astype(object))
        path = write(tmp / "t.csv", ["d", "y"], list(zip(cells, y)))
        m = train(path, epochs=20)
        got[odd] = round(float(np.mean(np.asarray(m.predict(path))[~far] == y[~far])), 3)
    return all(v > got[""] - 0.06 for v in got.values()), f"accuracy on the ordinary rows {got}"


def case_date_epochs(tmp):
    """Unix seconds, milliseconds and Excel serials: numbers that keep their order (dates with kind or format is a plus). Source: SheetJS/sheetjs#719 kin, oscmcompany/fund#1114"""
    s = stamps()
    sec = np.array([x.replace(tzinfo=timezone.utc).timestamp() for x in s])
    out = []
    for n, cells in (
        ("s", sec.astype(int)),
        ("ms", (sec * 1000).astype(int)),
        ("serial", (sec / 86400 + 25569).round(5)),
    ):
        p = plan_of(table(tmp, list(cells)))
        c = column(p, "v")
        ok = (c.kind == "number" and np.isclose(c.means[0], np.mean(cells))) or (
            c.kind == "date" and abs(c.means[0] - sec.mean()) < 300
        )
        out.append((ok, f"{n}: {brief(c)}"))
    return every(out)


def case_date_times_of_day_and_partial(tmp):
    """2023-01, Jan 2023, Q1 2023, 2023Q1, 1/2023, years: dates, or warned. Source: tidyverse/lubridate#496 (Feb 1999), common knowledge"""
    d = [x.replace(day=1) for x in stamps(seconds=False)]
    out = []
    for n, cells in (
        ("YYYY-MM", [f"{x:%Y-%m}" for x in d]),
        ("Mon YYYY", [f"{x:%b %Y}" for x in d]),
        ("MM/YYYY", [f"{x:%m/%Y}" for x in d]),
        ("Mon-YY", [f"{x:%b-%y}" for x in d]),
    ):
        ok, s = date(tmp, cells, d)
        out.append((ok, f"{n}: {s}"))
    p = plan_of(table(tmp, [f"{x.year}Q{(x.month - 1) // 3 + 1}" for x in d]))
    c = column(p, "v")
    out.append((c.kind in ("date", "category"), f"quarter: {brief(c)}"))
    return every(out)


def case_date_mixed_formats(tmp):
    """Two formats in one column (half 2023-01-31, half 31/01/2023): not half lost in silence. Source: Excel-mangled CSV; tidyverse/readxl#383 ('30-JUN-0013')"""
    d = stamps(seconds=False)
    cells = [f"{x:%Y-%m-%d}" if i % 2 else f"{x:%d/%m/%Y}" for i, x in enumerate(d)]
    p = plan_of(table(tmp, cells))
    c = column(p, "v")
    want = np.mean([x.replace(tzinfo=timezone.utc).timestamp() for x in d])
    right = c.kind == "date" and c.missing == 0 and abs(c.means[0] - want) < 300
    return right or told(p, "v", "date") or "format" in words(p, "v"), f"{brief(c)}; {words(p, 'v')[:250]}"


def case_date_with_and_without_time(tmp):
    """Midnight is written without a time (Excel, JS): 2023-01-31 beside 2023-01-31 12:30. Source: pandas-dev/pandas#53147 kin (one format for all)"""
    s = [x.replace(second=0) for x in stamps()]
    for i in range(0, N, 9):
        s[i] = s[i].replace(hour=0, minute=0)
    cells = [f"{x:%Y-%m-%d}" if (x.hour, x.minute) == (0, 0) else f"{x:%Y-%m-%d %H:%M}" for x in s]
    one = date(tmp, cells, s)
    frac = [f"{x:%Y-%m-%dT%H:%M:%S}" + ("" if i % 5 == 0 else f".{i % 997:03d}") + "Z" for i, x in enumerate(s)]
    two = date(tmp, frac, s)
    return every([one, two])


# ---- more of numbers, and of what is none


def case_number_footnotes_and_about(tmp):
    """12.3*, 45[a], ~12, ca. 5, c. 5, 12.3 (est.) in 10 % of cells (Wikipedia, Eurostat flags '12.3 e'): number with a count, or a warning that says =number. Source: rOpenGov/eurostat flags kin, common knowledge"""
    out = []
    for f in ("{}*", "{}[a]", "~{}", "{} e", "{} (est.)"):
        r = rng(120)
        v = r.normal(50, 9, N).round(1)
        odd = r.random(N) < 0.1
        clear()
        p = plan_of(table(tmp, [f.format(x) if o else str(x) for x, o in zip(v, odd)]))
        c = column(p, "v")
        ok = c.kind == "number" and (
            np.isclose(c.means[0], v.mean())
            or (c.missing == odd.sum() and np.isclose(c.means[0], v[~odd].mean()) and len(words(p, "v")) > 40)
        )
        out.append((ok or told(p, "v", "number"), f"{f}: {brief(c)} {words(p, 'v')[:120]}"))
    return every(out)


def case_number_all_approximate(tmp):
    """Every cell '~12.5', '>= 3', '12.3*': a person sees numbers. Source: common knowledge (laboratory lists)"""
    v = rng(121).uniform(1, 99, N).round(1)
    return every(
        [
            number(tmp, [f"~{x}" for x in v], v),
            number(tmp, [f"{x}*" for x in v], v),
            number(tmp, [f"\u2265{x}" for x in v], v),
        ]
    )


def case_number_units_of_two_kinds(tmp):
    """'10 years' beside '3 months' (Kaggle, LendingClub, '5 kg'/'800 g'): never one unit kept and the other dropped without a hint that names it. Source: nielstron/quantulum3#20 kin, common knowledge"""
    out = []
    for a, b, fa, fb in (
        ("years", "months", 12, 1),
        ("kg", "g", 1000, 1),
        ("GB", "MB", 1000, 1),
        ("\u20ac", "$", 1, 1),
    ):
        r = rng(122)
        v = r.integers(1, 90, N)
        w = r.random(N) < 0.5
        clear()
        p = plan_of(table(tmp, [f"{x} {a if k else b}" for x, k in zip(v, w)]))
        c = column(p, "v")
        right = np.mean(v * np.where(w, fa, fb))
        ok = (
            (c.kind == "number" and c.missing == 0 and np.isclose(c.means[0], right))
            or c.kind in ("category", "text")
            or told(p, "v", "number")
        )
        out.append((ok, f"{a}/{b}: {brief(c)} {words(p, 'v')[:140]}"))
    return every(out)


def case_number_currencies_mixed(tmp):
    """$5 beside 5 EUR in one column: not simply added up in silence. Source: RubyMoney/monetize#48 kin, common knowledge"""
    r = rng(123)
    v = r.uniform(1, 90, N).round(2)
    k = r.random(N) < 0.5
    p = plan_of(table(tmp, [f"${x}" if q else f"\u20ac{x}" for x, q in zip(v, k)]))
    c = column(p, "v")
    return c.kind != "number" or bool(
        words(p, "v").replace("t.csv: 300 rows, 3 columns", "").strip(" |")
    ), f"{brief(c)}; said {words(p, 'v')[:200]}"


def case_number_not_ranges_scores_ratios(tmp):
    """'10-20', '3-1', '16/9', '5\\'11\"', '1:30': not read as another number in silence. Source: andmarti1424/sc-im#113 (1-3 became -2), SheetJS/sheetjs#719"""
    r = rng(124)
    out = []
    for cells in (
        ["10-20", "20-30", "30-40"],
        ["3-1", "0-0", "2-2", "1-3"],
        ["16/9", "4/3", "21/9"],
        ["5'11\"", "6'0\"", "5'8\""],
        ["1:30", "2:05", "0:45"],
        ["80/120", "90/140", "70/110"],
        ["1e", "2d", "3f"],
        ["10%-20%", "20%-30%"],
    ):
        clear()
        p = plan_of(table(tmp, list(r.choice(cells, N))))
        c = column(p, "v")
        out.append(
            (
                c.kind == "category"
                and set(c.categories) == set(cells)
                or c.kind in ("boolean", "date")
                and len(cells) < 4
                and c.kind == "boolean"
                or "1:30" in cells
                and c.kind in ("number", "date"),
                f"{cells[:2]}: {brief(c)} {words(p, 'v')[:60]}",
            )
        )
    return every(out)


def case_number_hex_and_binary_text(tmp):
    """0x1F, 1E5-like codes ('1E5', '2E7' wards), '1d2': codes are no powers. Source: common knowledge (Excel turns 1E5 into 100000; postcodes '2E7')"""
    r = rng(125)
    a = column(plan_of(table(tmp, list(r.choice(["0x1F", "0xA0", "0x10", "0xFF"], N)))), "v")
    p = plan_of(table(tmp, list(r.choice(["1E5", "2E7", "3A1", "4B2", "5C9", "1F4"], N))))
    b = column(p, "v")
    return a.kind in ("category", "number") and b.kind == "category" and len(
        b.categories
    ) == 6, f"hex {brief(a)}; codes {brief(b)}"


def case_number_ambiguous_points(tmp):
    """'7.934' beside '948' with ; (German thousands), and all '1.234': said or right. Source: hhurz/tableExport.jquery.plugin#137, Kotlin/dataframe#1015"""
    v = rng(126).integers(100, 99999, N)
    a = number(tmp, [f"{x:,}".replace(",", ".") for x in v], v, sep=";")
    w = rng(127).integers(1000, 9999, N)
    p = plan_of(table(tmp, [f"{x:,}".replace(",", ".") for x in w], sep=";"))
    c = column(p, "v")
    said = " ".join(p.prepared.notes) + heard()
    return (a[0] or "decimal=" in a[1]) and (
        np.isclose(c.means[0], w.mean()) or "decimal" in said
    ), f"{a[1]}; all with points: {brief(c)}; {said[:250]}"


def case_number_commas_at_prediction(tmp):
    """Trained on numbers below 1,000, new rows have 1,234 and "12,345": a value or a warning. Source: pola-rs/polars#18465 kin"""
    r = rng(128)
    v = r.integers(10, 999, N)
    write(tmp / "t.csv", ["v", "z", "y"], [(a, i % 7, "p" if a > 500 else "q") for i, a in enumerate(v)])
    m = train(tmp / "t.csv", epochs=6)
    want = m.predict_proba({"v": [700, 1234, 12345], "z": [1, 2, 3]})
    write(tmp / "q.csv", ["v", "z"], [("700", 1), ("1,234", 2), ("12,345", 3)])
    p = m.predict_proba(tmp / "q.csv")
    one = np.allclose(p, want, atol=1e-6) or "'v'" in heard(), f"{p[:, 0]} for {want[:, 0]}, heard {heard()[:200]!r}"
    clear()
    q = np.concatenate([m.predict_proba({"v": t, "z": 2}) for t in ("1,234",)])
    two = (
        np.allclose(q, want[1:2], atol=1e-6) or "'v'" in heard(),
        f"dict '1,234': {q[:, 0]} for {want[1:2, 0]}, heard {heard()[:200]!r}",
    )
    return every([one, two])


def case_number_words_later(tmp):
    """Numbers in training; 'N/A', 'unknown', '12 kg', '' at prediction in one dict and in many: missing with a warning for words. Source: catboost/catboost#3142 kin, wesnoth; common knowledge (web forms)"""
    r = rng(129)
    f = pd.DataFrame({"v": r.normal(0, 1, N).round(2), "z": r.normal(0, 1, N).round(2), "y": r.choice(["a", "b"], N)})
    m = train(f)
    out = []
    for name, src in (
        ("one dict", {"v": "abc", "z": 0.5}),
        ("many", pd.DataFrame({"v": ["abc"] * 9 + ["1.5"], "z": [0.5] * 10})),
    ):
        clear()
        m.predict(src)
        out.append(("'v'" in heard(), f"{name}: heard {heard()[:160]!r}"))
    return every(out)


def case_number_degrees_coordinates(tmp):
    """52\u00b031'12\"N and 13.4\u00b0 and -0.5\u00b0C: a number, or warned. Source: common knowledge (GPS lists), Knowledge-Graph-Hub/kg-microbe#649 (degree signs)"""
    v = rng(130).uniform(-20, 40, N).round(1)
    return every(
        [
            number(tmp, [f"{x}\u00b0C" for x in v], v),
            number(tmp, [f"{x}\u00b0" for x in v], v),
            number(tmp, [f"{x} \u00b0F" for x in v], v),
        ]
    )


def case_number_quoted_everything(tmp):
    """All cells in quotes (QUOTE_ALL), in single quotes, and numbers in double double quotes. Source: tidyverse/readr#111 (quoted numbers)"""
    v = rng(131).normal(0, 9, N).round(2)
    p = plan_of(table(tmp, list(v), quoting=csv.QUOTE_ALL))
    a = column(p, "v")
    b = number(tmp, [f'"{x}"' for x in v], v)
    return a.kind == "number" and b[0], f"{brief(a)}; {b[1]}"


def case_missing_words_in_categories(tmp):
    """NA, n/a, null, '' among words: missing, one way, in CSV and Parquet; but 'None' as a real level (masonry, alley) is said. Source: Kaggle house prices (NA = no alley), tobgu/qcache#13"""
    r = rng(132)
    v = r.choice(["Grvl", "Pave", "NA"], N, p=[0.2, 0.2, 0.6])
    p = plan_of(table(tmp, list(v)))
    c = column(p, "v")
    return c.is_input and c.missing == (v == "NA").sum() and (
        c.kind in ("category", "boolean")
    ), f"{brief(c)}; {c.categories}"


def case_missing_mixed_words_one_column(tmp):
    """NA, -, ?, \\N, NULL, (blank), #N/A, None in one column of numbers (18 % together): numbers, all counted. Source: turi-code/SFrame#44 kin, SAS/JGCRI/gcamdata#300"""
    r = rng(133)
    v = r.normal(5, 2, N).round(3)
    ws = ["NA", "-", "?", "\\N", "NULL", "(blank)", "#N/A", "None", "(null)", "<NA>", ".", "nan"]
    cells = [ws[i // 5 % 12] if i % 5 == 0 else str(x) for i, x in enumerate(v)]
    keep = np.arange(N) % 5 != 0
    return number(tmp, cells, v[keep], missing=int((~keep).sum()))


def case_missing_target_regression_words(tmp):
    """Numbers with NULL or -- as target: regression with those rows left out. Source: Seddryck/NBi#708 kin; common knowledge"""
    r = rng(134)
    out = []
    for w in ("NULL", "--", "\\N", "."):
        v = r.normal(50, 5, N).round(2)
        cells = [w if i % 6 == 0 else x for i, x in enumerate(v)]
        write(tmp / "t.csv", ["x", "z", "y"], [(i % 13, i % 7, c) for i, c in enumerate(cells)])
        try:
            p = plan_of(tmp / "t.csv")
            out.append(
                (
                    p.schema.task == "regression" and p.schema.num_rows == 250,
                    f"{w}: {p.schema.task}, {p.schema.num_rows}, {p.prepared.notes}",
                )
            )
        except luthier.LuthierError as e:
            out.append((False, f"{w}: refused {e} | {e.hint}"))
    return every(out)


def case_same_list_of_one_row_types(tmp):
    """One row as a dict, a pandas Series, a list of one dict, a frame of one row, df.iloc[0], NumPy scalars: one answer. Source: AnotherSamWilson/miceforest#60"""
    r = rng(135)
    f = pd.DataFrame(
        {
            "k": r.integers(1, 5, N),
            "s": r.choice(["u", "w"], N),
            "b": r.random(N) < 0.5,
            "v": r.normal(0, 1, N).round(3),
        }
    )
    m = train(f.assign(y=np.where(f.v > 0, "p", "q")), epochs=4)
    want = m.predict_proba(f.iloc[:1])
    row = f.iloc[0]
    return same(
        m,
        {
            "dict": dict(row),
            "series": row,
            "list of dict": [row.to_dict()],
            "dict of lists": {c: [row[c]] for c in f},
            "text": {c: str(row[c]) for c in f},
        },
        want,
    )


def case_same_missing_column_and_extra(tmp):
    """A column lacks at prediction: named; extra columns and another order are passed over. Source: lightgbm-org/LightGBM#2396"""
    r = rng(136)
    f = pd.DataFrame({"a": r.normal(0, 1, N), "b": r.normal(0, 1, N)})
    m = train(f.assign(y=np.where(f.a > 0, "p", "q")))
    out = []
    for n, src in (("frame", f[["a"]]), ("dict", {"a": 0.5}), ("rows", [{"a": 0.5}, {"a": 1.0}])):
        try:
            m.predict(src)
            out.append((False, f"{n}: silent"))
        except luthier.LuthierError as e:
            out.append(("'b'" in str(e), f"{n}: {e}"))
    out.append((np.allclose(m.predict_proba(f), m.predict_proba(f.assign(extra=1)[["extra", "b", "a"]])), "order"))
    return every(out)


def case_zero_leading_at_prediction_only(tmp):
    """Trained where pandas made 1234 of 01234 (frame of int as category), predicted from text '01234'. Source: instedd/surveda#1099 kin, apache/arrow#46853 kin"""
    r = rng(137)
    k = r.choice([1234, 2345, 10001], N)
    f = pd.DataFrame({"zip": k, "z": r.normal(0, 1, N).round(3)})
    m = train(f.assign(y=np.where(k == 1234, "p", "q")), epochs=8, kind={"zip": "category"})
    want = m.predict_proba(pd.DataFrame({"zip": [1234, 2345], "z": [0.0, 0.0]}))
    clear()
    p = m.predict_proba({"zip": ["01234", "02345"], "z": [0.0, 0.0]})
    return np.allclose(p, want, atol=1e-6) or "zip" in heard(), f"{p[:, 0]} for {want[:, 0]}, heard {heard()[:150]!r}"


def case_id_targets_copy_or_constant(tmp):
    """Constant columns, all-missing columns and a copy of another column do not stop training and are named. Source: autogluon/autogluon#584 kin"""
    r = rng(138)
    f = pd.DataFrame({"c": "x", "e": None, "v": r.normal(0, 1, N).round(3), "y": r.choice(["a", "b"], N)})
    p = plan_of(f)
    ks = {c.name: c.kind for c in p.schema.columns}
    return ks == {"c": "constant", "e": "constant", "v": "number"}, f"{ks}"


def case_text_other_scripts(tmp):
    """Arabic, Thai, Hindi, Korean short comments all different: text, not keys. Source: dotnet/machinelearning-modelbuilder#409 kin"""
    r = rng(139)
    out = []
    for words_, sep in (
        (
            "\u0645\u0645\u062a\u0627\u0632 \u0633\u064a\u0621 \u062c\u064a\u062f \u0627\u0644\u0645\u0646\u062a\u062c \u062c\u062f\u0627 \u063a\u0627\u0644\u064a \u0631\u062e\u064a\u0635".split(),
            " ",
        ),
        (
            "\u0e14\u0e35 \u0e21\u0e32\u0e01 \u0e44\u0e21\u0e48 \u0e0a\u0e2d\u0e1a \u0e23\u0e49\u0e32\u0e19 \u0e2d\u0e32\u0e2b\u0e32\u0e23 \u0e2d\u0e23\u0e48\u0e2d\u0e22".split(),
            "",
        ),
        ("\uc88b\uc544\uc694 \ubcc4\ub85c \uc815\ub9d0 \uc774 \uc601\ud654 \ub108\ubb34 \uc7ac\ubbf8".split(), " "),
    ):
        cells = [sep.join(r.choice(words_, 6)) for _ in range(N)]
        out.append(kind_of(tmp, cells, ["text"], name="comment"))
    return every(out)


# ---- the same troubles in files at prediction; several files; the rest


def case_lines_prediction_files(tmp):
    """New rows come with sep=, a title, a BOM, UTF-16, CR, a footer, names again: as many answers as rows, and the same. Source: juspay/neurolink#1192, adaltas/node-csv-parse#81, mbloch/mapshaper#408"""
    b = body(60)
    write(tmp / "t.csv", ["x", "z", "y"], body())
    m = train(tmp / "t.csv", epochs=4)
    t = "x,z\n" + "".join(f"{r[0]},{r[1]}\n" for r in b)
    want = m.predict_proba({"x": [float(r[0]) for r in b], "z": [r[1] for r in b]})
    half = t.index("\n", len(t) // 2) + 1
    out = []
    for n, raw in (
        ("sep", ("sep=;\n" + t.replace(",", ";")).encode()),
        ("title", ("Report\nof today\n\n" + t).encode()),
        ("bom", t.encode("utf-8-sig")),
        ("utf-16", t.encode("utf-16")),
        ("cr", t.replace("\n", "\r").encode()),
        ("names again", (t[:half] + "x,z\n" + t[half:]).encode()),
        ("blank lines", t.replace("\n", "\n\n").encode()),
        ("comments", ("# made today\n" + t).encode()),
        ("no last newline", t[:-1].encode()),
        ("spaces", t.replace(",", ", ").encode()),
    ):
        (tmp / "q.csv").write_bytes(raw)
        try:
            p = m.predict_proba(tmp / "q.csv")
            out.append(
                (p.shape == want.shape and np.allclose(p, want, atol=1e-6), f"{n}: {p.shape} answers for {want.shape}")
            )
        except luthier.LuthierError as e:
            out.append(("row" in str(e), f"{n}: refused {e} | {e.hint}"))
    return every(out)


def case_lines_prediction_bad_encoding_said(tmp):
    """A Latin-1 file at prediction to a UTF-8 model: the words are matched or said. Source: nyaruka/rapidpro#3080, cfpb/college-costs#239"""
    r = rng(140)
    ws = ["caf\u00e9", "na\u00efve", "plain"]
    write(
        tmp / "t.csv", ["w", "z", "y"], [(a, i % 7, "p" if a == ws[0] else "q") for i, a in enumerate(r.choice(ws, N))]
    )
    m = train(tmp / "t.csv", epochs=6)
    want = m.predict_proba({"w": ws * 10, "z": [1, 2, 3] * 10})
    (tmp / "q.csv").write_bytes(
        ("w,z\n" + "".join(f"{a},{k}\n" for a, k in zip(ws * 10, [1, 2, 3] * 10))).encode("latin-1")
    )
    clear()
    p = m.predict_proba(tmp / "q.csv")
    return np.allclose(
        p, want, atol=1e-6
    ) or "encoding" in heard(), f"agree {np.allclose(p, want, atol=1e-6)}, heard {heard()[:200]!r}"


def case_lines_several_files(tmp):
    """A folder of monthly CSVs: one with a BOM, one with ; and commas, one empty, one with only names, one in another order of columns. Source: manybabies/mb2-analysis#89 kin, gem/oq-engine#6826"""
    b = body(200)
    d = tmp / "parts"
    d.mkdir()
    (d / "a.csv").write_text("x,z,y\n" + lines(b[:80]))
    (d / "b.csv").write_text("\ufeffx,z,y\n" + lines(b[80:120]))
    (d / "c.csv").write_text("y,z,x\n" + lines([(r[2], r[1], r[0]) for r in b[120:]]))
    one = shape(plan_of(d), 200)
    (d / "d.csv").write_text("x,z,y\n")
    try:
        two = shape(plan_of(d), 200)
    except luthier.LuthierError as e:
        two = "d.csv" in str(e) and "rows" in str(e), f"refused: {e}"
    (d / "d.csv").unlink()
    (d / "e.csv").write_text("")
    try:
        three = shape(plan_of(d), 200)
    except luthier.LuthierError as e:
        three = "e.csv" in str(e), f"refused: {e}"
    return every([one, two, three])


def case_lines_several_files_other_marks(tmp):
    """Files of two countries in one folder: 1.5 with , and 1,5 with ; give one mean. Source: CatalinaYepes in gem/oq-engine#6826, Kotlin/dataframe#1015"""
    b = body(200)
    d = tmp / "parts"
    d.mkdir()
    (d / "a.csv").write_text("x,z,y\n" + lines(b[:100]))
    (d / "b.csv").write_text("x;z;y\n" + lines([(r[0].replace(".", ","), r[1], r[2]) for r in b[100:]], ";"))
    try:
        p = plan_of(d)
    except luthier.LuthierError as e:
        return "b.csv" in str(e), f"refused: {e}"
    c = column(p, "x")
    want = np.mean([float(r[0]) for r in b])
    return c.kind == "number" and c.missing == 0 and np.isclose(c.means[0], want), f"{brief(c)}; right mean {want:.4g}"


def case_lines_quotes_around_whole_rows(tmp):
    """Each whole row in quotes: "1,2,p" (Excel pasted): read right or refused with what it is. Source: common knowledge ('all in one column')"""
    b = body()
    return read_text(tmp, '"x,z,y"\n' + "".join(f'"{",".join(map(str, r))}"\n' for r in b))


def case_lines_blanks_after_delimiters(tmp):
    """'a, "b, c", d': a blank before a quoted cell (R, hand-made): never split in silence. Source: apache kin; vigneshuvi/SwiftCSVExport#10 kin, common knowledge (skipinitialspace)"""
    rows = "".join(f'{i % 9}, "north, part {i % 3}", {"pq"[i % 2]}\n' for i in range(200))
    (tmp / "t.csv").write_text("z, v, y\n" + rows)
    try:
        p = plan_of(tmp / "t.csv")
    except luthier.LuthierError as e:
        return "row" in str(e), f"refused: {e} | {e.hint}"
    c = column(p, "v")
    return set(c.categories) == {"north, part 0", "north, part 1", "north, part 2"} and set(
        p.schema.targets[0].classes
    ) == {"p", "q"}, f"{brief(c)} {c.categories}, {p.schema.targets[0].classes}"


def case_lines_semicolons_with_commas_inside(tmp):
    """; file whose texts hold more commas than semicolons; | and tab likewise: the delimiter is found. Source: uniVocity/univocity-parsers#473, csv.Sniffer kin"""
    out = []
    for sep in (";", "|", "\t"):
        rows = [(f"a, b, c, {i % 4}, d", i % 9, "pq"[i % 2]) for i in range(200)]
        p = plan_of(write(tmp / "t.csv", ["v", "z", "y"], rows, sep=sep))
        out.append(
            (
                [c.name for c in p.schema.columns] == ["v", "z"] and p.schema.num_rows == 200,
                f"{sep!r}: {[c.name for c in p.schema.columns]}",
            )
        )
    rows = [
        (f"{x:.2f}".replace(".", ","), f"{k}".replace(".", ","), y)
        for x, k, y in zip(rng(141).normal(0, 1, 200), rng(142).normal(0, 1, 200).round(1), ["p", "q"] * 100)
    ]
    p = plan_of(write(tmp / "t.csv", ["x", "w", "y"], rows, sep=";"))
    out.append(
        (
            [c.kind for c in p.schema.columns] == ["number", "number"],
            f"commas everywhere: {[(c.name, c.kind) for c in p.schema.columns]}",
        )
    )
    return every(out)


def case_swallow_quote_at_file_end(tmp):
    """A stray quote begins a cell near the end, or the file is cut in a quoted cell: not fewer rows in silence. Source: pandas-dev/pandas#13879, jschicht/Mft2Csv#9 (26k rows became 23k)"""
    base_ = [f'{i},"cell {i % 4}",{"pq"[i % 2]}\n' for i in range(200)]
    cut = "z,v,y\n" + "".join(base_)
    one = rows_case(tmp, cut[:-9], 200)
    one = (one[0] or "199" in one[1], one[1])
    b = list(base_)
    b[198] = '198,"cell 2,p\n'
    two = rows_case(tmp, "z,v,y\n" + "".join(b), 200)
    return every([one, two])


def case_swallow_two_quotes_far_apart(tmp):
    """A cell begins with a stray quote, a cell 140 rows on ends with one: valid by RFC 4180, but 140 rows are one cell. Source: alexpcosta/opengym#7, jschicht/Mft2Csv#9, uniVocity/univocity-parsers#259"""
    b2 = [f"{i},it is {i % 4},{'pq'[i % 2]}\n" for i in range(200)]
    b2[10], b2[150] = '10,"quoted start of 1,p\n', '150,and end of 2",q\n'
    ok, s = rows_case(tmp, "z,v,y\n" + "".join(b2), 200)
    return ok or "quote" in heard() or "line break" in heard(), f"{s}; heard {heard()[:150]!r}"


def case_swallow_at_prediction(tmp):
    """The same in a file of new rows: as many answers as rows, or refused. Source: alexpcosta/opengym#7, Data-Liberation-Front/csvlint.rb#187"""
    write(tmp / "t.csv", ["z", "v", "y"], [(i % 9, f"it is {i % 4}", "pq"[i % 2]) for i in range(200)])
    m = train(tmp / "t.csv", epochs=1)
    b2 = [f"{i % 9},it is {i % 4}\n" for i in range(200)]
    out = []
    for n, x, y in (
        ("far apart", '1,"it is 1\n', '2,and end of 2"\n'),
        ("backslash", '1,"it is \\"1"\n', "2,it\n"),
        ("inches", '1,7" nail\n', '2,3" nail\n'),
    ):
        c = list(b2)
        c[10], c[150] = x, y
        (tmp / "q.csv").write_text("z,v\n" + "".join(c))
        clear()
        try:
            a = m.predict(tmp / "q.csv")
            out.append(
                (len(a) == 200 or "quote" in heard(), f"{n}: {len(a)} answers for 200 rows, heard {heard()[:120]!r}")
            )
        except luthier.LuthierError as e:
            out.append(("row" in str(e), f"{n}: refused {e}"))
    return every(out)


def case_swallow_escaped_quotes_pairs(tmp):
    """\\" in two cells ten rows apart in a file with "" elsewhere; backslash at the end of a cell (C:\\). Source: Data-Liberation-Front/csvlint.rb#187, pola-rs/polars#15022 kin"""
    b = [f'{i},"cell {i % 4}",{"pq"[i % 2]}\n' for i in range(200)]
    b[40], b[50] = '40,"not \\"fine",p\n', '50,"ends here \\"",p\n'
    one = rows_case(tmp, "z,v,y\n" + "".join(b), 200)
    c = [f'{i},"C:\\dir{i % 4}\\",{"pq"[i % 2]}\n' for i in range(200)]
    two = rows_case(tmp, "z,v,y\n" + "".join(c), 200)
    d = [f'{i},"say ""hi {i % 4}""",{"pq"[i % 2]}\n' for i in range(200)]
    three = rows_case(tmp, "z,v,y\n" + "".join(d), 200)
    return every([one, two, three])


def case_target_as_frame_types(tmp):
    """as_frame: dtype and index of the pandas frame; polars for polars; int stays int. Source: keras-team/autokeras#1406 kin, PGijsbers in mljar/mljar-supervised#442"""
    import polars as pl

    r = rng(143)
    f = pd.DataFrame(
        {"x": r.normal(0, 1, N), "z": r.normal(0, 1, N)}, index=pd.Index([f"r{i}" for i in range(N)], name="key")
    )
    y = (f.x > 0).astype(int)
    m = train(f.assign(y=y))
    a = m.predict(f, as_frame=True)
    b = m.predict(pl.DataFrame({"x": f.x.to_numpy(), "z": f.z.to_numpy()}), as_frame=True)
    return a.index.equals(f.index) and a.dtype.kind == "i" and isinstance(
        b, pl.Series
    ) and b.dtype.is_integer(), f"{a.dtype}, {a.index[:2].tolist()}; {b.dtype}"


def case_target_bool_in_xy_and_text_numbers(tmp):
    """Text classes '01','02','10' keep their zeros in the answers; '1.0' and '1' in one target are said or one class. Source: alexcaza/export-to-csv#32 kin, mljar/mljar-supervised#442"""
    r = rng(144)
    x = r.normal(0, 1, N).round(3)
    c = np.where(x > 0.5, "01", np.where(x > -0.5, "02", "10"))
    f = pd.DataFrame({"x": x, "z": r.normal(0, 1, N).round(3), "y": c})
    f.to_csv(tmp / "t.csv", index=False)
    m = train(tmp / "t.csv", epochs=6)
    a = set(map(str, m.predict(tmp / "t.csv")))
    one = (
        a <= {"01", "02", "10"} and set(m.schema.targets[0].classes) == {"01", "02", "10"},
        f"answers {a}, classes {m.schema.targets[0].classes}",
    )
    y = np.where(x > 0, "1", "0").astype(object)
    y[::3] = [f"{v}.0" for v in y[::3]]
    write(tmp / "u.csv", ["x", "z", "y"], list(zip(x, f.z, y)))
    p = plan_of(tmp / "u.csv")
    two = len(p.schema.targets[0].classes) == 2, f"'1' and '1.0': {p.schema.targets[0].classes}, {p.schema.task}"
    return every([one, two])


def case_target_classes_with_blanks_or_case(tmp):
    """'Yes', 'yes ', 'YES': blanks are one class; other case is said or kept. Source: common knowledge (survey data)"""
    r = rng(145)
    y = np.where(np.arange(N) % 2, "Yes", "No").astype(object)
    y[::10] = [f"{v} " for v in y[::10]]
    write(tmp / "t.csv", ["x", "y"], list(zip(r.normal(0, 1, N).round(3), y)))
    p = plan_of(tmp / "t.csv")
    return set(p.schema.targets[0].classes) == {"Yes", "No"}, f"{p.schema.targets[0].classes}"


def case_target_positive_words(tmp):
    """Booleans in CSV: 'Y'/'N', 'true'/'false', 't'/'f' answers are comparable with what stands in the file. Source: augerai/a2ml#213, dotnet/machinelearning-modelbuilder#779"""
    r = rng(146)
    x = r.normal(0, 1, N).round(3)
    out = []
    for a, b in (("Y", "N"), ("t", "f"), ("true", "false"), ("T", "F"), ("TRUE", "FALSE")):
        write(tmp / "t.csv", ["x", "z", "y"], [(v, i % 7, a if v > 0 else b) for i, v in enumerate(x)])
        m = train(tmp / "t.csv", epochs=4)
        p = m.predict(tmp / "t.csv")
        words_ = {str(k) for k in p}
        ok = words_ <= {a, b} or words_ <= {"True", "False"} and a.lower() == "true"
        out.append((ok, f"{a}/{b}: answers {words_}"))
    return every(out)


def case_frame_json_and_dict_spellings(tmp):
    """JSON lines with nulls, NaN, nested values, numbers as text, true/false; keys that lack. Source: hapi-server/data-specification#262 (NaN in JSON), common knowledge (JSON exports)"""
    import json

    r = rng(147)
    with open(tmp / "t.jsonl", "w") as f:
        for i in range(N):
            d = {
                "a": str(round(r.normal(), 2)) if i % 2 else round(r.normal(), 2),
                "b": bool(i % 3),
                "c": None if i % 10 == 0 else "u",
                "y": "pq"[i % 2],
                "n": float("nan") if i % 20 == 0 else 1.5 * (i % 7),
            }
            if i % 25 == 0:
                del d["b"]
            f.write(json.dumps(d) + "\n")
    p = plan_of(tmp / "t.jsonl")
    ks = {c.name: (c.kind, c.missing) for c in p.schema.columns}
    return ks["a"] == ("number", 0) and ks["b"] == ("boolean", 12) and ks["n"][0] == "number" and ks["n"][
        1
    ] == 15, f"{ks}; {p.prepared.notes}"


def case_frame_sqlite(tmp):
    """SQLite: text dates, NULLs, 0/1 flags, decimals as text; as its CSV. Source: Alexnortung in mindsdb/type_infer#64 (money of a database)"""
    import sqlite3

    r = rng(148)
    con = sqlite3.connect(tmp / "d.db")
    s = stamps(seconds=False)
    f = pd.DataFrame(
        {
            "day": [x.strftime("%Y-%m-%d") for x in s],
            "price": [f"${v:,.2f}" for v in r.uniform(5, 9000, N)],
            "n": np.where(r.random(N) < 0.1, None, r.integers(0, 99, N)),
            "y": r.choice(["a", "b"], N),
        }
    )
    f.to_sql("t", con, index=False)
    con.close()
    p = luthier.design(
        f"sqlite:///{tmp / 'd.db'}", target="y", query="SELECT * FROM t", valid_fraction=0, test_fraction=0
    )
    ks = {c.name: c.kind for c in p.schema.columns}
    return ks == {"day": "date", "price": "number", "n": "number"}, f"{ks}"


def case_id_text_key_beside_text(tmp):
    """A name that is different in every row beside an informative text column: nothing informative is dropped; 'Ticket'/'Cabin' like Titanic. Source: mindsdb/mindshub#1071 kin, AutoViML/AutoViz#91"""
    r = rng(149)
    f = pd.DataFrame(
        {
            "PassengerId": np.arange(1, N + 1),
            "Name": [f"{'Mr' if i % 2 else 'Mrs'}. {'Smith Jones Brown Lee'.split()[i % 4]}, no {i}" for i in range(N)],
            "Ticket": [f"{'A/5 PC STON CA'.split()[i % 4]} {int(k)}" for i, k in enumerate(r.integers(1000, 9000, N))],
            "Cabin": [f"{'ABCDE'[i % 5]}{i % 60}" if i % 4 == 0 else "" for i in range(N)],
            "Fare": r.uniform(5, 90, N).round(2),
            "Survived": r.integers(0, 2, N),
        }
    )
    f.to_csv(tmp / "t.csv", index=False)
    p = plan_of(tmp / "t.csv", target="Survived")
    ks = {c.name: c.kind for c in p.schema.columns}
    return ks["PassengerId"] == "identifier" and ks["Name"] == "text" and ks["Fare"] == "number" and (
        ks["Cabin"] in ("category", "text")
    ), f"{ks}"


def case_id_daily_counter_is_time(tmp):
    """A 'day' or 'step' 0..n that carries the trend, beside another input: left out only with the hint =number. Source: alteryx/evalml#4193 kin, twosigma/beakerx#1772"""
    out = []
    for name in ("day", "step", "t", "year", "age_days"):
        write(tmp / "t.csv", [name, "z", "y"], [(i, i % 7, i * 2.5 + 1) for i in range(120)])
        p = plan_of(tmp / "t.csv", task="regression")
        c = column(p, name)
        out.append((c.kind == "number" or told(p, name, "number"), f"{name}: {brief(c)}"))
    return every(out)


# ---- values that could go wrong in silence


def case_number_decimal_commas_quoted(tmp):
    """ "1,5" and "12,75" in a comma file with quotes (a German export): right mean, or a warning that names decimal. Source: hhurz/tableExport.jquery.plugin#137, SheetJS/ssf#22"""
    v = rng(150).uniform(0, 99, N).round(2)
    p = plan_of(table(tmp, [f"{x:.2f}".replace(".", ",") for x in v]))
    c = column(p, "v")
    said = " ".join(p.prepared.notes) + heard() + c.doubt
    q = column(plan_of(table(tmp, [f"{x:.2f}".replace(".", ",") for x in v]), decimal=","), "v")
    return (c.kind == "number" and np.isclose(c.means[0], v.mean()) or "decimal" in said) and np.isclose(
        q.means[0], v.mean()
    ), f"{brief(c)}; said {said[:200]}; with decimal=',': {brief(q)}"


def case_number_more_currencies(tmp):
    """USD 1,234.50; Rs. 500; 1 234 kr; 1.234,50 z\u0142; 500\u20bd; 1,234.50 USD; NT$ 5; 1.5 Mio. EUR is out. Source: Chicago/RSocrata#55, common knowledge"""
    v = money(low=5)
    w = np.round(v).astype(int)
    de = lambda x: f"{x:,.2f}".replace(",", "#").replace(".", ",").replace("#", ".")
    return every(
        [
            number(tmp, [f"USD {x:,.2f}" for x in v], v),
            number(tmp, [f"{x:,.2f} USD" for x in v], v),
            number(tmp, [f"Rs. {x}" for x in w], w),
            number(tmp, [f"{x:,} kr".replace(",", " ") for x in w], w),
            number(tmp, [de(x) + " z\u0142" for x in v], v, sep=";"),
            number(tmp, [f"{x}\u20bd" for x in w], w),
            number(tmp, [f"NT$ {x:,}" for x in w], w),
            number(tmp, [f"{x:,.2f} kr." for x in v], v),
            number(tmp, [f"{x:,}\u5186" for x in w], w),
        ]
    )


def case_number_prices_with_dash(tmp):
    """German and Dutch prices '23549,-' and '12,–' and '5.-' (Swiss): a dash in place of cents is no minus. Source: common knowledge (price lists, shops)"""
    w = rng(170).integers(5, 900, N)
    return every(
        [
            number(tmp, [f"{x},-" for x in w], w, sep=";"),
            number(tmp, [f"{x},– €" for x in w], w, sep=";"),
            number(tmp, [f"{x}.-" for x in w], w),
            number(tmp, [f"CHF {x}.—" for x in w], w),
        ]
    )


def case_number_percent_before(tmp):
    """Turkish %12,5. Source: common knowledge (tr-TR)"""
    v = rng(151).uniform(0, 90, N).round(1)
    return number(tmp, [f"%{x}".replace(".", ",") for x in v], v, sep=";", scales=(1, 0.01))


def case_number_signed_percent(tmp):
    """-5.2%, +3.1%, (4.0%), 5,2 % with a Unicode minus, \u2030. Source: tidyverse/readr#449, dilshod/xlsx2csv#309"""
    v = rng(151).uniform(-20, 20, N).round(1)
    return every(
        [
            number(tmp, [f"{x:+}%" for x in v], v, scales=(1, 0.01)),
            number(tmp, [f"({-x}%)" if x < 0 else f"{x}%" for x in v], v, scales=(1, 0.01)),
            number(tmp, [f"{x}%".replace("-", "\u2212") for x in v], v, scales=(1, 0.01)),
            number(tmp, [f"{x}\u2030" for x in v], v, scales=(1, 0.001)),
        ]
    )


def case_number_underscores_and_spaces(tmp):
    """1 000 000, 1.000,00-, .5, 5., 00.5, 1,234. Source: common knowledge (Python, Rust, COBOL exports)"""
    w = rng(152).integers(0, 3_000_000, N)
    v = rng(153).uniform(0, 0.99, N).round(3)
    return every(
        [
            number(tmp, [f"{x:,}".replace(",", " ") for x in w], w),
            number(tmp, [f"{x:.3f}"[1:] for x in v], [float(f"{x:.3f}") for x in v]),
            number(tmp, [f"{x}." for x in w], w),
        ]
    )


def case_number_big_integers_stay_apart(tmp):
    """18-digit ids (Twitter, Discord) of 4 groups that differ in the last digit, as category: four categories, CSV = frame = dict. Source: JavaScript 2^53 troubles; eleybourn/Book-Catalogue#761 (ISBN 978e10)"""
    ids = [900719925474099300, 900719925474099301, 900719925474099302, 900719925474099303]
    r = rng(154)
    k = r.integers(0, 4, N)
    f = pd.DataFrame({"k": np.array(ids)[k], "z": r.normal(0, 1, N).round(3), "y": np.where(k == 2, "p", "q")})
    f.to_csv(tmp / "t.csv", index=False)
    out = []
    for n, src in (("csv", tmp / "t.csv"), ("frame", f)):
        p = plan_of(src, kind={"k": "category"})
        out.append((len(column(p, "k").categories) == 4, f"{n}: {column(p, 'k').categories}"))
    m = train(tmp / "t.csv", epochs=10, kind={"k": "category"})
    want = m.predict_proba({"k": [str(i) for i in ids], "z": [0.0] * 4})
    out.append(
        same(m, {"frame": pd.DataFrame({"k": ids, "z": [0.0] * 4}), "rows": [{"k": i, "z": 0.0} for i in ids]}, want)
    )
    out.append((abs(want[2, 0] - want[1, 0]) > 0.1, f"answers {want[:, 0].round(3)}"))
    auto = column(plan_of(tmp / "t.csv"), "k")
    out.append(
        (
            auto.kind in ("category", "identifier") or bool(auto.doubt) or len(words(plan_of(tmp / "t.csv"), "k")) > 60,
            f"without kind: {brief(auto)}",
        )
    )
    return every(out)


def case_number_durations_text(tmp):
    """'1h 30m', '90 min', 'PT1H30M', '2:05:33': a number, or a hint. Source: posit-dev/positron#6758 kin, common knowledge (Kaggle flights 'Duration' 2h 50m)"""
    m = rng(155).integers(1, 900, N)
    out = []
    for n, cells in (
        ("1h 30m", [f"{x // 60}h {x % 60}m" for x in m]),
        ("PT1H30M", [f"PT{x // 60}H{x % 60}M" for x in m]),
    ):
        clear()
        p = plan_of(table(tmp, cells))
        c = column(p, "v")
        ok = c.kind == "number" and np.isclose(c.means[0] / m.mean(), [1, 60, 1 / 60]).any()
        out.append((ok or told(p, "v", "number"), f"{n}: {brief(c)}; {words(p, 'v')[:100]}"))
    out.append(number(tmp, [f"{x} min" for x in m], m))
    return every(out)


def case_number_ratings_and_ordinals(tmp):
    """'4.5/5', '4.5 out of 5', '3rd', '12 (34%)': numbers or a warning; not a made-up number in silence. Source: common knowledge (scraped reviews, clinical tables)"""
    r = rng(156)
    v = r.uniform(1, 5, N).round(2)
    out = []
    for n, cells in (
        ("/5", [f"{x}/5" for x in v]),
        ("n (%)", [f"{int(a)} ({b}%)" for a, b in zip(r.integers(1, 99, N), r.integers(1, 99, N))]),
    ):
        clear()
        p = plan_of(table(tmp, cells))
        c = column(p, "v")
        out.append(
            (
                c.kind == "number" and np.isclose(c.means[0], v.mean())
                if n == "/5" and c.kind == "number"
                else c.kind != "number" and bool(c.doubt or heard()) or c.kind == "text",
                f"{n}: {brief(c)}",
            )
        )
    return every(out)


def case_number_coordinates_pair(tmp):
    """'52.52,13.40' (lat,lon) in one quoted cell: not one number in silence. Source: common knowledge (geo columns), vizabi kin"""
    r = rng(157)
    p = plan_of(table(tmp, [f"{a:.4f},{b:.4f}" for a, b in zip(r.uniform(-60, 60, N), r.uniform(-170, 170, N))]))
    c = column(p, "v")
    q = plan_of(table(tmp, [f"{a},{b}" for a, b in zip(r.integers(1, 99, N), r.integers(100, 999, N))]))
    d = column(q, "v")
    return c.kind in ("series", "text") or (
        c.kind != "number" and bool(c.doubt)
    ), f"{brief(c)}; whole numbers '12,345' (may be thousands): {brief(d)}"


def case_date_order_at_prediction(tmp):
    """Trained DD/MM/YYYY (day 31 shows it); new rows MM/DD/YYYY: warned with a count, not read wrongly where 3/25 shows it. Source: pandas-dev/pandas#53147 kin, Accept m/d/yy codeforboston/home-energy-analysis-tool#397"""
    s = stamps(seconds=False)
    write(
        tmp / "t.csv", ["d", "z", "y"], [(x.strftime("%d/%m/%Y"), i % 7, "pq"[x.year > 2020]) for i, x in enumerate(s)]
    )
    m = train(tmp / "t.csv")
    clear()
    m.predict({"d": [x.strftime("%m/%d/%Y") for x in s[:100]], "z": [1] * 100})
    one = "'d'" in heard(), f"many: heard {heard()[:200]!r}"
    clear()
    m.predict({"d": "03/25/2023", "z": 1})
    two = "'d'" in heard(), f"one dict: heard {heard()[:150]!r}"
    return every([one, two])


def case_date_order_mixed_in_training(tmp):
    """70 % of the cells only fit DD/MM, 10 % only MM/DD (Excel swapped what it could): said. Source: common knowledge (Excel of two locales), tidyverse/readxl#383"""
    r = rng(158)
    s = stamps(seconds=False)
    cells = [x.strftime("%m/%d/%Y") if i % 10 == 0 else x.strftime("%d/%m/%Y") for i, x in enumerate(s)]
    p = plan_of(table(tmp, cells))
    c = column(p, "v")
    return len(words(p, "v")) > 60 and (
        "format" in words(p, "v") or "missing" in words(p, "v")
    ), f"{brief(c)}; {words(p, 'v')[:250]}"


def case_date_year_day_month_and_others(tmp):
    """20-03-2023 14:05, 2023-03-20 2:05:00 PM, 20/Mar/2023, 2023/3/5 4:07, 5.3.2023 4:07:09, Mon Mar 20 2023, 20 March 2023 at 14:05, 2023-079, 3/20/23 14:05. Source: Kotlin/dataframe#1015 (dd/MMM/yy h:mm a), metabase/metabase#38276"""
    s = [x.replace(second=0) for x in stamps()]
    d = stamps(seconds=False)
    h = lambda x: x.hour % 12 or 12
    return every(
        [
            date(tmp, [f"{x:%d-%m-%Y %H:%M}" for x in s], s),
            date(tmp, [f"{x:%Y-%m-%d} {h(x)}:{x:%M:%S %p}" for x in s], s),
            date(tmp, [f"{x:%d/%b/%Y}" for x in d], d),
            date(tmp, [f"{x.year}/{x.month}/{x.day} {x.hour}:{x:%M}" for x in s], s),
            date(tmp, [f"{x.day}.{x.month}.{x.year} {x.hour}:{x:%M:%S}" for x in s], s),
            date(tmp, [f"{x:%a %b %d %Y}" for x in d], d),
            date(tmp, [f"{x.month}/{x.day}/{x:%y} {x:%H:%M}" for x in s], s),
            date(tmp, [f"{x:%d/%b/%y} {h(x)}:{x:%M} {x:%p}".lower() for x in s], s),
            date(tmp, [f"{x:%Y-%m-%d %H:%M:%S}.000" for x in s], s),
            date(tmp, [f"{x:%Y-%m-%dT%H:%MZ}" for x in s], s),
        ]
    )


def case_date_javascript_string(tmp):
    """String(new Date()): Fri Jan 29 2021 02:06:00 GMT+0000 (Coordinated Universal Time). Source: common knowledge (web forms, Google Sheets scripts)"""
    s = stamps()
    return date(tmp, [f"{x:%a %b %d %Y %H:%M:%S} GMT+0000 (Coordinated Universal Time)" for x in s], s)


def case_date_unix_command(tmp):
    """`date` writes Fri Jan 29 02:06:00 UTC 2021 (logs, Java Date.toString, Twitter 'Mon Apr 06 22:19:45 PDT 2009' of Sentiment140). Source: common knowledge"""
    s = stamps()
    return every(
        [
            date(tmp, [f"{x:%a %b %d %H:%M:%S} UTC {x.year}" for x in s], s),
            date(tmp, [f"{x:%a %b %d %H:%M:%S} +0000 {x.year}" for x in s], s),
            date(tmp, [f"{x:%a %b %d %H:%M:%S} PDT {x.year}" for x in s], [x + timedelta(hours=7) for x in s]),
        ]
    )


def case_date_dotnet_json(tmp):
    """/Date(1611885960000)/ of .NET JSON. Source: common knowledge (ASP.NET)"""
    s = stamps()
    return date(tmp, [f"/Date({int(x.replace(tzinfo=timezone.utc).timestamp() * 1000)})/" for x in s], s)


def case_date_ordinal_and_compact_minutes(tmp):
    """2021-029 (day of the year), 20210129 02:06, 29.01.2021, 02:06 Uhr, 202101290206. Source: tidyverse/readr#105 (ISO 8601 ordinal dates), common knowledge"""
    s = [x.replace(second=0) for x in stamps()]
    d = stamps(seconds=False)
    return every(
        [
            date(tmp, [f"{x:%Y-%j}" for x in d], d),
            date(tmp, [f"{x:%Y%m%d %H:%M}" for x in s], s),
            date(tmp, [f"{x:%d.%m.%Y}, {x:%H:%M} Uhr" for x in s], s, sep=";"),
            date(tmp, [f"{x:%Y%m%d %H%M}" for x in s], s),
        ]
    )


def case_date_month_names_more_languages(tmp):
    """Italian, Dutch, Portuguese, Polish, Swedish, Turkish month names; 12-gen-2023, 12 mrt. 2023. Source: tidyverse/lubridate#496 kin, scrapinghub/dateparser#395"""
    s = stamps(seconds=False)
    out = []
    for n, names in (
        ("it", "gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre dicembre"),
        ("nl", "januari februari maart april mei juni juli augustus september oktober november december"),
        ("pt", "janeiro fevereiro mar\u00e7o abril maio junho julho agosto setembro outubro novembro dezembro"),
        (
            "pl",
            "stycznia lutego marca kwietnia maja czerwca lipca sierpnia wrze\u015bnia pa\u017adziernika listopada grudnia",
        ),
        ("sv", "januari februari mars april maj juni juli augusti september oktober november december"),
        ("de short", "Jan Feb Mrz Apr Mai Jun Jul Aug Sep Okt Nov Dez"),
        ("fr short", "janv. f\u00e9vr. mars avr. mai juin juil. ao\u00fbt sept. oct. nov. d\u00e9c."),
    ):
        clear()
        names = names.split()
        ok, t = date(tmp, [f"{x.day} {names[x.month - 1]} {x.year}" for x in s], s)
        out.append((ok, f"{n}: {t}"))
    return every(out)


def case_same_boolean_words_of_another_language(tmp):
    """Trained on yes/no; predicted with Y/N, true/false, 1/0: the same, or said. Source: evidentlyai/evidently#1603 kin, common knowledge"""
    r = rng(159)
    s = r.choice(["yes", "no"], N)
    z = r.normal(0, 1, N).round(3)
    m = train(pd.DataFrame({"s": s, "z": z, "y": np.where(s == "yes", "p", "q")}), epochs=8)
    want = m.predict_proba({"s": ["yes", "no"], "z": [0.0, 0.0]})
    out = []
    for a, b in (("Y", "N"), ("true", "false"), ("1", "0"), ("YES", "NO"), (" yes ", "no "), ("ja", "nein")):
        clear()
        p = m.predict_proba({"s": [a, b], "z": [0.0, 0.0]})
        out.append(
            (
                np.allclose(p, want, atol=1e-6) or "'s'" in heard(),
                f"{a}/{b}: {p[:, 0]} for {want[:, 0]}, heard {heard()[:100]!r}",
            )
        )
    return every(out)


def case_target_regression_few_values(tmp):
    """Regression targets of 12 whole ratings, as task=regression; 21 whole-number classes are told of. Source: dotnet/machinelearning kin; docs say 20 values decide"""
    r = rng(160)
    p = plan_of(pd.DataFrame({"x": r.normal(0, 1, N), "y": r.integers(0, 30, N)}))
    q = plan_of(pd.DataFrame({"x": r.normal(0, 1, N), "y": r.integers(0, 12, N)}), task="regression")
    return (
        p.schema.task == "regression" and q.schema.task == "regression",
        f"{p.schema.task}, {q.schema.task}, notes {p.prepared.notes} {p.reasons if hasattr(p, 'reasons') else ''}"[
            :300
        ],
    )


def case_target_dates_or_ids_refused(tmp):
    """A date or an identifier named as target: refused by name, or said; not a thousand classes. Source: lightgbm kin; common knowledge"""
    r = rng(161)
    out = []
    for n, y in (
        ("dates", [x.strftime("%Y-%m-%d") for x in stamps(seconds=False)]),
        ("ids", [f"K{i:05d}" for i in range(N)]),
    ):
        write(tmp / "t.csv", ["x", "y"], list(zip(r.normal(0, 1, N).round(2), y)))
        clear()
        try:
            p = plan_of(tmp / "t.csv")
            out.append(
                (
                    "y" in heard() and len(heard()) > 20,
                    f"{n}: {p.schema.task} with {len(p.schema.targets[0].classes)} classes; heard {heard()[:150]!r}",
                )
            )
        except luthier.LuthierError as e:
            out.append(("'y'" in str(e), f"{n}: refused {e}"))
    return every(out)


def case_same_target_in_evaluate(tmp):
    """Trained on bool or whole classes; evaluate on TRUE/FALSE, 0/1, 1.0, Parquet, JSON: the same accuracy, no 'unseen'. Source: felixbur/nkululeko#243, mljar/mljar-supervised#442, ray-project/ray#28619 kin"""
    r = rng(162)
    x = r.normal(0, 1, N).round(3)
    k = x > 0
    f = pd.DataFrame({"x": x, "z": r.normal(0, 1, N).round(3)})
    out = []
    m = train(f.assign(y=k), epochs=5)
    want = m.evaluate(f.assign(y=k))["accuracy"]
    for n, y in (
        ("TRUE", np.where(k, "TRUE", "FALSE")),
        ("true", np.where(k, "true", "false")),
        ("0/1", k.astype(int)),
        ("0.0/1.0", k.astype(float)),
        ("boolean", pd.array(k, dtype="boolean")),
        ("t/f text", np.where(k, "True", "False")),
    ):
        e = m.evaluate(f.assign(y=y))
        out.append(
            (
                np.isclose(e["accuracy"], want) and not e.get("unseen"),
                f"bool -> {n}: {e['accuracy']} for {want}, unseen {e.get('unseen')}",
            )
        )
    y = k.astype(int) + (x > 1)
    m = train(f.assign(y=y), epochs=5)
    want = m.evaluate(f.assign(y=y))["accuracy"]
    f.assign(y=y.astype(float)).to_csv(tmp / "q.csv", index=False)
    f.assign(y=y.astype(str)).to_parquet(tmp / "q.parquet")
    f.assign(y=y).to_json(tmp / "q.json", orient="records")
    for n, src in (
        ("csv 1.0", tmp / "q.csv"),
        ("parquet text", tmp / "q.parquet"),
        ("json", tmp / "q.json"),
        ("categorical", f.assign(y=pd.Categorical(y))),
        ("float hole", f.assign(y=y.astype(float))),
    ):
        e = m.evaluate(src)
        out.append(
            (
                np.isclose(e["accuracy"], want) and not e.get("unseen"),
                f"ints -> {n}: {e['accuracy']} for {want}, unseen {e.get('unseen')}",
            )
        )
    return every(out)


def case_same_valid_and_test_files(tmp):
    """train.csv has TRUE/FALSE and 1,2; test.parquet has bool and float: the same inputs and classes. Source: deepchecks/deepchecks#2141 kin, fastai/fastai#1403 kin"""
    r = rng(163)
    n = 300
    s = r.random(n) < 0.5
    k = r.integers(1, 4, n)
    f = pd.DataFrame({"s": s, "k": k, "y": s ^ (k == 2)})
    a, b = f[:200], f[200:]
    a.assign(s=a.s.map({True: "TRUE", False: "FALSE"}), y=a.y.map({True: "TRUE", False: "FALSE"})).to_csv(
        tmp / "train.csv", index=False
    )
    b.assign(k=b.k.astype(float)).to_parquet(tmp / "test.parquet", index=False)
    b.assign(s=b.s.map({True: "TRUE", False: "FALSE"}), y=b.y.map({True: "TRUE", False: "FALSE"})).to_csv(
        tmp / "test.csv", index=False
    )
    got = {}
    for t in ("test.csv", "test.parquet"):
        clear()
        res = luthier.train(
            tmp / "train.csv",
            target="y",
            test=str(tmp / t),
            epochs=8,
            seed=0,
            threads=1,
            check=False,
            kind={"k": "category"},
        )
        got[t] = (round(res.test["accuracy"], 6), heard()[:150])
    return got["test.csv"][0] == got["test.parquet"][0], f"{got}"


def case_swallow_newline_cells_said_or_kept(tmp):
    """Comments with three lines in quotes in some rows: rows counted right, others intact (here 200 rows of 260 lines). Source: oria/gridx#413 kin"""
    rows = [
        (i % 9, f"a comment\nof three\nlines {i % 3}" if i % 7 == 0 else f"plain {i % 3}", "pq"[i % 2])
        for i in range(200)
    ]
    p = plan_of(write(tmp / "t.csv", ["z", "v", "y"], rows), kind={"v": "category"})
    return p.schema.num_rows == 200 and len(
        column(p, "v").categories
    ) == 6, f"{p.schema.num_rows}, {column(p, 'v').categories}"


def case_swallow_excel_blank_rows(tmp):
    """Excel: blank rows in between, formatted empty rows below, a total row with a formula, hidden columns: rows counted. Source: MarkPflug/Sylvan.Data.Excel#71 kin, tidyverse/readxl#166"""
    from openpyxl import Workbook

    r = rng(164)
    wb = Workbook()
    ws = wb.active
    ws.append(["x", "z", "y"])
    for i in range(200):
        if i == 100:
            ws.append([])
        ws.append([float(r.normal()), i % 7, "pq"[i % 2]])
    for k in range(205, 215):
        ws.cell(row=k, column=1).value = None
        ws.cell(row=k, column=1).number_format = "0.00"
    wb.save(tmp / "t.xlsx")
    p = plan_of(tmp / "t.xlsx")
    c = column(p, "x")
    return (
        p.schema.num_rows == 200 and c.missing == 0 and c.kind == "number",
        f"{p.schema.num_rows} rows, {brief(c)}; {p.prepared.notes}",
    )


def case_image_empty_and_url(tmp):
    """A column of URLs of images, or with some empty cells: URLs refused or told by name; empty cells are counted. Source: keras-team/keras-preprocessing#92 kin"""
    for i in range(40):
        picture(tmp / f"i{i}.png", i % 2)
    write(
        tmp / "t.csv", ["img", "z", "y"], [("" if i % 10 == 0 else f"i{i}.png", i % 7, "ab"[i % 2]) for i in range(40)]
    )
    p = plan_of(tmp / "t.csv")
    one = (
        p.schema.image is not None and column(p, "img").missing == 4,
        f"image {p.schema.image is not None}, {brief(column(p, 'img'))}",
    )
    write(tmp / "u.csv", ["img", "z", "y"], [(f"https://example.com/i{i}.png", i % 7, "ab"[i % 2]) for i in range(40)])
    try:
        q = plan_of(tmp / "u.csv")
        two = "img" in " ".join(q.prepared.notes) + heard(), f"{[(c.name, c.kind) for c in q.schema.columns]}"
    except luthier.LuthierError as e:
        two = "example.com" in str(e), f"refused {e}"
    return every([one, two])
