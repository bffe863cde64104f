"""From free text to an entry of the knowledge table, with a score: other words, spellings and slips."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import SequenceMatcher, get_close_matches
from functools import lru_cache
from typing import Literal

from anatrust.anatomy.entries import Structure, Tumour
from anatrust.anatomy.knowledge import Knowledge, knowledge

__all__ = ["Match", "named_tumour", "resolve_structure", "resolve_tumour", "side_of"]

# A word of the query and one of a phrase are the same word, misspelled, from here on.
_SAME_WORD = 0.78
_SAME_ADJECTIVE = 0.85
_LONGEST = 200
_MAX_WORDS = 24

_LATIN = {
    "renal": "kidney", "hepatic": "liver", "pulmonary": "lung", "bronchogenic": "lung", "gastric": "stomach",
    "splenic": "spleen", "vesical": "bladder", "colonic": "colon", "cerebral": "brain", "intracranial": "brain",
    "mammary": "breast", "uterine": "uterus", "ovarian": "ovary", "prostatic": "prostate", "pancreatic": "pancreas",
    "esophageal": "esophagus", "rectal": "rectum", "osseous": "bone", "skeletal": "bone", "cardiac": "heart",
    "duodenal": "duodenum", "testicular": "testis", "laryngeal": "larynx", "vertebral": "vertebra",
    "spinal": "spine", "vaginal": "vagina", "penile": "penis", "thymic": "thymus", "suprarenal": "adrenal",
    "tonsillar": "tonsil", "pleural": "pleura", "peritoneal": "peritoneum", "pituitary": "pituitary",
    "hippocampal": "hippocampus", "cerebellar": "cerebellum", "aortic": "aorta", "sacral": "sacrum", "femoral": "femur",
    "gall": "gallbladder", "intestinal": "bowel", "intestine": "bowel", "urinary": "",
}  # fmt: skip
# Words for "tumour" in general: they must not outweigh the organ.
_GENERAL = frozenset({"tumor", "cancer", "carcinoma", "mass", "lesion", "neoplasm", "malignancy", "growth", "focal"})
# Words of other diseases, one slip away from a tumour's: "hematoma" is no misspelled "hepatoma".
_OTHERS = frozenset({"hematoma", "hemangioma", "abscess", "infarct", "stone", "angioma", "calculus"})
_EMPTY = frozenset({"of", "the", "in", "a", "an", "and", "with", "for", "on", "at", "from", "left", "right"})
_SIDES = {"left": "left", "lt": "left", "l": "left", "right": "right", "rt": "right", "r": "right"}


@dataclass(frozen=True)
class Match:
    """One answer: the entry, how well it fits (0 to 1, 1 being its own words), and the phrase that fitted.

    ``side`` is ``"left"`` or ``"right"`` where the text says one of them.
    """

    entry: Tumour | Structure
    score: float
    phrase: str
    side: Literal["left", "right"] | None


def side_of(text: str) -> Literal["left", "right"] | None:
    """The side a text names; None where it names none or both.

    >>> side_of("Lt. kidney"), side_of("kidney")
    ('left', None)
    """
    sides = {_SIDES[word] for word in re.findall(r"[a-z]+", text.lower()) if word in _SIDES}
    if len(sides) != 1:
        return None
    return "left" if "left" in sides else "right"


@lru_cache(maxsize=4096)
def _words(text: str) -> tuple[str, ...]:
    plain = unicodedata.normalize("NFKD", text[:_LONGEST]).encode("ascii", "ignore").decode().lower()
    found: dict[str, None] = {}
    for word in re.findall(r"[a-z]+[0-9]*|[0-9]+", plain):
        # American spelling of British digraphs; "tumour" and "goitre" too.
        word = re.sub(r"^oe|(?<=[^aeiou])oe(?=d)", "e", word).replace("haem", "hem").replace("aeo", "eo")
        word = re.sub(r"^cae", "ce", word).replace("umour", "umor").replace("goitre", "goiter")
        word = re.sub(r"(?<=[a-z])ae(?=[a-z])", "e", word)
        if word in ("metastases", "mets", "met"):
            word = "metastasis"
        elif len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is", "as", "ns")):
            word = word[:-1]
        if word not in _LATIN and len(word) >= 6:
            word = next(iter(get_close_matches(word, _LATIN, 1, _SAME_ADJECTIVE)), word)
        for part in _LATIN.get(word, word).split():
            if part not in _EMPTY and part not in _SIDES:
                found[part] = None
    return tuple(found)[:_MAX_WORDS]


@lru_cache(maxsize=65536)
def _alike(one: str, other: str) -> float:
    if one == other:
        return 1.0
    if one in _GENERAL and other in _GENERAL:
        return 0.9
    if one in _OTHERS or other in _OTHERS or min(len(one), len(other)) < 4 or abs(len(one) - len(other)) > 3:
        return 0.0
    matcher = SequenceMatcher(None, one, other, autojunk=False)
    if matcher.quick_ratio() < _SAME_WORD:
        return 0.0
    ratio = matcher.ratio()
    return ratio if ratio >= _SAME_WORD else 0.0


def _weight(word: str) -> float:
    return 0.35 if word in _GENERAL else 1.0


def _score(query: tuple[str, ...], phrase: tuple[str, ...]) -> float:
    """Harmonic mean of how much of the query the phrase explains and the reverse."""
    if not query or not phrase:
        return 0.0

    def share(of: tuple[str, ...], by: tuple[str, ...]) -> float:
        got = sum(_weight(word) * max(_alike(word, other) for other in by) for word in of)
        return got / sum(_weight(word) for word in of)

    there, back = share(query, phrase), share(phrase, query)
    return 0.0 if there + back == 0 else 2 * there * back / (there + back)


def _ranked(text: str, entries: Iterable[Tumour | Structure], at_least: float, most: int) -> tuple[Match, ...]:
    query, side = _words(text[:_LONGEST]), side_of(text[:_LONGEST])
    matches = []
    for entry in entries:
        phrases = (entry.name, entry.id.replace("_", " "), *entry.synonyms)
        score, phrase = max(((_score(query, _words(phrase)), phrase) for phrase in phrases), key=lambda pair: pair[0])
        if score >= at_least:
            matches.append(Match(entry, round(score, 4), phrase, side))
    return tuple(sorted(matches, key=lambda match: -match.score)[:most])


def resolve_tumour(
    text: str, table: Knowledge | None = None, *, at_least: float = 0.6, most: int = 5
) -> tuple[Match, ...]:
    """Tumour types a text may mean, best first.

    Case, order of words, plurals, accents, British and American spelling, Latin adjectives
    ("renal" for kidney), general words ("mass" for tumour) and misspellings are levelled.
    Only the first 200 characters are read.

    Parameters
    ----------
    text
        As a person writes it.
    table
        The knowledge; the built-in one by default.
    at_least, most
        Smallest score and largest number of answers.

    Returns
    -------
    tuple of Match
        Empty where nothing fits. Cost: milliseconds.

    Examples
    --------
    >>> [m.entry.id for m in resolve_tumour("Renal mass", most=1)]
    ['kidney_tumour']
    >>> resolve_tumour("hepatocelular carcinoma")[0].entry.id
    'hepatocellular_carcinoma'
    >>> resolve_tumour("the weather tomorrow")
    ()
    """
    return _ranked(text, (table or knowledge()).tumours.values(), at_least, most)


def named_tumour(text: str, table: Knowledge | None = None, *, at_least: float = 0.9) -> Match | None:
    """The tumour type a text means as a whole, or else the first one it names among other words.

    Looks at up to four neighbouring words at a time (of the first 24), longer runs first, so that
    "liver tumour please look carefully" still means a liver tumour. None where it names none.

    Examples
    --------
    >>> named_tumour("a liver tumour, or so they said yesterday at noon").phrase
    'liver tumour'
    """
    whole = resolve_tumour(text, table, at_least=at_least, most=1)
    if whole:
        return whole[0]
    words = re.findall(r"\w+", text[:_LONGEST])[:_MAX_WORDS]
    for size in range(min(4, len(words) - 1), 0, -1):
        for first in range(len(words) - size + 1):
            found = resolve_tumour(" ".join(words[first : first + size]), table, at_least=0.95, most=1)
            if found:
                return Match(found[0].entry, found[0].score, found[0].phrase, side_of(text[:_LONGEST]))
    return None


def resolve_structure(
    text: str, table: Knowledge | None = None, *, at_least: float = 0.75, most: int = 5
) -> tuple[Match, ...]:
    """Structures a text may mean, best first; a named side chooses among the two of a pair.

    Parameters, answers and cost as of :func:`resolve_tumour`.

    Examples
    --------
    >>> resolve_structure("left kidney")[0].entry.id, resolve_structure("kidneys")[0].entry.id
    ('kidney_left', 'kidney')
    >>> resolve_structure("esophagus")[0].entry.name
    'oesophagus'
    """
    rows = (table or knowledge()).structures.values()
    side = side_of(text[:_LONGEST])
    fitting = [row for row in rows if row.laterality not in ("left", "right") or row.laterality == side]
    matches = _ranked(text, fitting, at_least, len(fitting))
    # Sides are no words of the score, so a sided row ties with its pair: the named side wins.
    order = {row.id: number for number, row in enumerate(fitting)}
    ranked = sorted(matches, key=lambda m: (-m.score, side is None or _laterality(m.entry) != side, order[m.entry.id]))
    return tuple(ranked[:most])


def _laterality(entry: Tumour | Structure) -> str | None:
    return entry.laterality if isinstance(entry, Structure) else None
