"""Words <-> files: a write/read pair and a registry line for each format.

A writer gives the same bytes for the same words. A reader gives the words back, or a FileFault that names the place.
Readers of Verilog's texts (hex, bin, dec, mem) also take what people and other tools put there: comments, address
lines, `_` between digits; a plain file never leaves numpy. Upper-case digits stay refused: they are one flipped bit
away from lower-case ones, and a flipped bit is to be found in its place. Of a text in another style just what the
writer writes is taken.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from qexport.core.budget import SIZE
from qexport.layout.formats.base import PLAIN, Format, Style
from qexport.layout.formats.binary import RAW_BE, RAW_LE, read_npz, take_raw, write_npz
from qexport.layout.formats.decimals import dec_lane_at, dec_word_lines, read_dec, write_dec
from qexport.layout.formats.digits import BIN, HEX, MEM
from qexport.layout.formats.listings import C_BITS, C_TYPES, COE, MIF, C, write_c, write_coe, write_mif
from qexport.layout.formats.records import IHEX, SREC
from qexport.layout.formats.styled import Styled
from qexport.layout.formats.words import take_lines

_SET = ("between", "per_line", "word_between", "word_end", "newline", "group")  # of every text

FORMATS: dict[str, Format] = {
    "hex": Format(
        HEX.write, HEX.read, "$readmemh", comment="", digit_bits=4, lane_at=HEX.lane_at,
        word_lines=HEX.word_lines, take=take_lines, styles=(*_SET, "case"),
    ),
    "bin": Format(
        BIN.write, BIN.read, "$readmemb", comment="", digit_bits=1, lane_at=BIN.lane_at,
        word_lines=BIN.word_lines, take=take_lines, styles=_SET,
    ),
    "dec": Format(
        write_dec, read_dec, "$fscanf", comment="", digit_bits=0, lane_at=dec_lane_at,
        word_lines=dec_word_lines, take=take_lines, styles=(*_SET, "pad"),
    ),
    "mem": Format(
        MEM.write, MEM.read, "Vivado and $readmemh", comment="//", digit_bits=4, preamble=1, lane_at=MEM.lane_at,
        word_lines=MEM.word_lines,
    ),
    "raw_be": Format(RAW_BE.write, RAW_BE.read, "$fread and numpy.fromfile", take=take_raw),
    "raw_le": Format(RAW_LE.write, RAW_LE.read, "C's fread and numpy.fromfile", take=take_raw),
    "coe": Format(write_coe, COE.read, "Vivado's memory generators", comment=";", word_lines=COE.word_lines),
    "mif": Format(write_mif, MIF.read, "Quartus", comment="--", word_lines=MIF.word_lines),
    "ihex": Format(
        IHEX.write, IHEX.read, "programmers and objcopy", max_word_bits=8 * 255, word_lines=IHEX.word_lines,
    ),
    "srec": Format(
        SREC.write, SREC.read, "programmers and boot loaders", max_word_bits=8 * 250, word_lines=SREC.word_lines,
    ),
    "c": Format(
        write_c, C.read, "a C compiler", comment="//", max_word_bits=max(C_BITS), word_lines=C.word_lines,
        styles=("type", "style", "array"),
    ),
    "npz": Format(write_npz, read_npz, "numpy.load"),
}  # fmt: skip

_STYLED = {
    name: Format(
        styled.write, styled.read, "programs that read words set like this", comment="", word_lines=styled.word_lines,
        take=styled.take, styles=FORMATS[name].styles,
    )
    for name, styled in (("hex", Styled(HEX)), ("bin", Styled(BIN)), ("dec", Styled(None)))
}  # fmt: skip
STYLE_KEYS = tuple(field.name for field in fields(Style))
_CHOICES = {"case": ("lower", "upper"), "newline": ("lf", "crlf"), "style": ("hex", "dec"), "type": tuple(C_TYPES)}
_RANGES = {"per_line": (1, SIZE), "pad": (0, 64), "group": (0, SIZE)}
_APART = re.compile(r"[ \t!-,./:-@\[-`{-~]{0,16}")  # no letter, digit or minus
_C_WORDS = (
    " auto break case char const continue default do double else enum extern float for goto if inline int long "
    "register restrict return short signed sizeof static struct switch typedef union unsigned void volatile while "
)


def format_of(radix: str, style: Style) -> Format:
    """The format of a memory's files."""
    return _STYLED[radix] if radix in _STYLED and style != PLAIN else FORMATS[radix]


def style_of(radix: str, given: Mapping[str, Any]) -> Style:
    """The style of these keys, each of which may be left out where it is what the format does anyway."""
    plain_between = " " if radix == "dec" else ""
    kept = {key: value for key, value in given.items() if key != "between" or value not in (None, plain_between)}
    return Style(**kept)


def style_faults(radix: str, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The keys of a style that cannot be, each with what is wrong."""
    for key, value in given.items():
        if key not in FORMATS[radix].styles:
            takers = ", ".join(name for name, other in FORMATS.items() if key in other.styles)
            yield key, f"{key}: a file of radix '{radix}' has none; take it out, or choose {takers}"
        elif key in _CHOICES and value not in _CHOICES[key]:
            yield key, f"unknown {key} '{value}'; choose one of {', '.join(_CHOICES[key])}"
        elif key in _RANGES and not _RANGES[key][0] <= value <= _RANGES[key][1]:
            yield key, f"{key}: {value} is outside {_RANGES[key][0]}..{_RANGES[key][1]}"
        elif key in ("between", "word_between", "word_end") and not _APART.fullmatch(value):
            yield key, f"{key}: {value!r} must be up to 16 blanks and signs, but no letter, digit or minus"
        elif value == "" and (
            (key == "word_between" and not given.get("word_end")) or (key, radix) == ("between", "dec")
        ):
            yield key, f"{key}: is empty, so that nobody could tell the numbers apart; write a blank, for instance"
        elif key == "array" and (not re.fullmatch(r"[A-Za-z_]\w*", value, re.ASCII) or f" {value} " in _C_WORDS):
            yield key, f"array: '{value}' is not a name that C takes; use letters, digits and _"
